//! NSS databases: what Chromium and Chrome (one for each user) and Firefox (one for each profile) believe beside their own lists.
//! Changed by `certutil` of the NSS tools, the only one that knows all formats.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use signet_core::files;
use signet_edge_ca::Root;

use super::store::{Failure, Held, NICKNAME, State, is_program, nickname, run};

/// A directory with `cert9.db`.
#[derive(Clone, Debug)]
pub(super) struct Nss {
    pub(super) directory: PathBuf,
    /// "Chromium and Chrome", "Firefox profile abcd.default".
    pub(super) owner: String,
    /// "certutil"
    pub(super) certutil: PathBuf,
}

/// Those of a user. Chromium's is there even before Chromium made it; Firefox's are those of its profiles.
pub(super) fn find(home: &Path, data: &Path) -> Vec<Nss> {
    let nss = |directory: PathBuf, owner: String| Nss { directory, owner, certutil: "certutil".into() };
    let is_database = |directory: &PathBuf| directory.join(DATABASE).is_file();
    let shared = || "Chromium and Chrome".to_owned();
    // Newer ones look in the second place where the first is not there.
    let (old, new) = (home.join(".pki/nssdb"), data.join("pki/nssdb"));
    let mut found: Vec<Nss> =
        [&old, &new].into_iter().filter(|d| is_database(d)).map(|d| nss(d.clone(), shared())).collect();
    if found.is_empty() {
        found.push(nss(old, shared()));
    }
    let snap = home.join("snap/chromium/current/.pki/nssdb");
    found.extend(Some(snap).filter(is_database).map(|directory| nss(directory, "Chromium (snap)".into())));
    for profiles in [
        ".mozilla/firefox",
        "snap/firefox/common/.mozilla/firefox",
        ".var/app/org.mozilla.firefox/.mozilla/firefox",
    ] {
        let entries = fs::read_dir(home.join(profiles)).into_iter().flatten().flatten();
        let mut directories: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_database).collect();
        directories.sort();
        found.extend(directories.into_iter().map(|directory| {
            let profile = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            nss(directory, format!("Firefox profile {profile}"))
        }));
    }
    found
}

impl Nss {
    pub(super) fn state(&self, root: &Root) -> State {
        match self.held() {
            Ok(held) if held.iter().any(|held| held.root == *root) => State::Here,
            Ok(_) => State::Absent,
            Err(why) => State::Unusable(why.to_string()),
        }
    }

    /// The edge CAs' roots in it.
    pub(super) fn held(&self) -> Result<Vec<Held>, Failure> {
        if !self.is_there() {
            return match is_program(&self.certutil) {
                true => Ok(Vec::new()),
                false => {
                    Err(Failure::NoProgram { program: self.certutil.display().to_string(), install: INSTALL })
                }
            };
        }
        let listed = self.run(&["-L"])?;
        let names = listed.lines().filter(|line| line.starts_with(NICKNAME));
        // "Signet edge CA 0123456789abcdef                              C,,"
        let names = names.filter_map(|line| {
            Some(line.trim_end().rsplit_once(char::is_whitespace)?.0.trim_end().to_owned())
        });
        let mut held = Vec::new();
        for name in names {
            let pem = self.run(&["-L", "-n", &name, "-a"])?;
            held.extend(Root::from_pem(pem.as_bytes()).ok().map(|root| Held { root, name }));
        }
        Ok(held)
    }

    pub(super) fn would_install(&self, root: &Root) -> String {
        let made = if self.is_there() { "" } else { ", which it makes" };
        format!(
            "put {} into the database of {}{made} ({})",
            nickname(root),
            self.owner,
            self.directory.display()
        )
    }

    pub(super) fn would_remove(&self, root: &Root) -> String {
        format!(
            "take {} out of the database of {} ({})",
            nickname(root),
            self.owner,
            self.directory.display()
        )
    }

    pub(super) fn install(&self, root: &Root) -> Result<(), Failure> {
        if !self.is_there() {
            files::create_private_dir(&self.directory).map_err(|e| Failure::file(&self.directory, e))?;
            self.run(&["-N", "--empty-password"])?;
        }
        let file = self.directory.join(format!(".signet-{}.pem", root.id()));
        files::write_atomic(&file, root.pem().as_bytes(), files::PUBLIC)
            .map_err(|e| Failure::file(&file, e))?;
        let path = file.to_string_lossy().into_owned();
        // "C": believed for servers, and for nothing else.
        let added = self.run(&["-A", "-t", "C,,", "-n", &nickname(root), "-a", "-i", &path]);
        let _ = fs::remove_file(&file); // certutil reads no standard input in all versions; what stays harms nobody
        added.map(drop)
    }

    pub(super) fn remove(&self, root: &Root) -> Result<(), Failure> {
        for held in self.held()?.into_iter().filter(|held| held.root == *root) {
            self.run(&["-D", "-n", &held.name])?;
        }
        Ok(())
    }

    fn is_there(&self) -> bool {
        self.directory.join(DATABASE).is_file()
    }

    fn run(&self, args: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(&self.certutil);
        let mut database = OsString::from("sql:");
        database.push(&self.directory);
        command.args(args).arg("-d").arg(database);
        Ok(String::from_utf8_lossy(&run(&mut command, INSTALL)?.stdout).into_owned())
    }
}

const DATABASE: &str = "cert9.db";
const INSTALL: &str =
    "it changes browsers' stores: apt-get install libnss3-tools, dnf install nss-tools, or brew install nss";

#[cfg(test)]
#[path = "nss/tests.rs"]
mod tests;
