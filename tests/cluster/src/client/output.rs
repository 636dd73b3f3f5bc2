//! What a program said, wherever it ran.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{process::Command, time::timeout};

/// The end of a program.
#[derive(Clone, Debug)]
pub struct Output {
    /// The first words of it, for errors.
    pub command: String,
    pub stdout: String,
    pub stderr: String,
    /// Exit status; 128 + N for signal N, like a shell says it.
    pub status: i32,
}

impl Output {
    /// What it wrote, without the last newline; an error that shows everything when it failed.
    pub fn ok(self) -> Result<String> {
        if self.status != 0 {
            bail!("{self}");
        }
        Ok(self.stdout.trim_end_matches('\n').to_owned())
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, stdout, stderr, status } = self;
        write!(f, "`{command}` ended with {status}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// Runs a program of this machine to its end.
pub(super) async fn run(argv: &[&str]) -> Result<Output> {
    use std::os::unix::process::ExitStatusExt as _;
    let command = argv.join(" ");
    let [program, arguments @ ..] = argv else { bail!("no program to run") };
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, child)
        .await
        .with_context(|| format!("`{command}` did not end within {PATIENCE:?}"))?
        .with_context(|| format!("run `{command}`"))?;
    let signal = output.status.signal().map(|signal| 128 + signal);
    Ok(Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status.code().or(signal).unwrap_or(-1),
        command,
    })
}

/// For one program, in a pod too: as long as anything else that a test waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
