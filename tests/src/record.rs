//! What a [soak] or [bench] line leaves behind: `docs/<kind>/<line>.json`, which docs/acceptance.md rests on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use signet_core::clock;
use time::format_description::well_known::Rfc3339;

/// A run that has begun. Until [`Record::held`] its file says that the promise did not hold, however the run ends.
pub struct Record {
    path: PathBuf,
    facts: Value,
}

impl Record {
    /// `kind`: "soak" or "bench". `line`: as in docs/acceptance.md, e.g. "3.2f".
    pub fn begin(kind: &str, line: &str) -> io::Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = PathBuf::from(git(here, &["rev-parse", "--show-toplevel"])?);
        let directory = root.join("docs").join(kind);
        fs::create_dir_all(&directory)?;
        let facts = json!({
            "line": line,
            "commit": git(&root, &["rev-parse", "HEAD"])?,
            // The record itself may be there already, of another run.
            "dirty": !git(&root, &["status", "--porcelain", "--untracked-files=no", "--", ":!docs"])?.is_empty(),
            "begun": clock::now().format(&Rfc3339).map_err(io::Error::other)?,
            "cores": std::thread::available_parallelism()?.get(),
            "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
        });
        let record = Self { path: directory.join(format!("{line}.json")), facts };
        record.write(false, &json!({}))?;
        Ok(record)
    }

    /// The promise held, and these are the numbers.
    pub fn held(self, numbers: &Value) -> io::Result<()> {
        self.write(true, numbers)
    }

    fn write(&self, held: bool, numbers: &Value) -> io::Result<()> {
        let mut record = self.facts.clone();
        record["held"] = held.into();
        record["numbers"] = numbers.clone();
        fs::write(&self.path, format!("{record:#}\n"))
    }
}

fn git(root: &Path, args: &[&str]) -> io::Result<String> {
    let output = Command::new("git").args(args).current_dir(root).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
