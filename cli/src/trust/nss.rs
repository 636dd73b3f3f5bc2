//! NSS databases: what Chromium and Chrome (one for each user) and Firefox (one for each profile) believe beside their own lists.
//! Changed by `certutil` of the NSS tools, the only one that knows all formats.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use signet_core::files;
use signet_edge_ca::Root;

use super::store::{Failure, Held, NICKNAME, Place, Standing, State, is_program, nickname, run};

/// A directory with `cert9.db`.
#[derive(Clone, Debug)]
pub(super) struct Nss {
    pub(super) directory: PathBuf,
    /// "Chromium and Chrome", "Firefox profile abcd.default".
    pub(super) owner: String,
    /// "certutil"
    pub(super) certutil: PathBuf,
}

/// A name in it. Certificates of one subject share their names, and `certutil` shows all of them for each.
struct Entry {
    name: String,
    /// "C,,": for servers, e-mail and code.
    trust: String,
    certificates: Vec<CertificateDer<'static>>,
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
    pub(super) fn standing(&self, root: &Root) -> Standing {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(why) => return Standing::unusable(&why),
        };
        let of_root: Vec<&Entry> = entries.iter().filter(|entry| entry.has(root)).collect();
        let is_believed = of_root.iter().any(|entry| entry.is_believed());
        let places: Vec<Place> = of_root.iter().map(|entry| entry.place()).collect();
        let state = match of_root.first() {
            _ if is_believed => State::Here,
            Some(entry) => {
                State::Half(format!("it is there and not believed: its trust is {:?}", entry.trust))
            }
            None => State::Absent,
        };
        Standing { state, places }
    }

    /// The edge CAs' roots in it.
    pub(super) fn held(&self) -> Result<Vec<Held>, Failure> {
        let mut held: Vec<Held> = Vec::new();
        for entry in self.entries()? {
            for root in entry.certificates.into_iter().filter_map(|certificate| Root::new(certificate).ok()) {
                if !held.iter().any(|held| held.root == root) {
                    held.push(Held { root, name: entry.name.clone() });
                }
            }
        }
        Ok(held)
    }

    /// What may be a root of ours: all that is believed, and all that is called like one. A browser's hundreds of intermediates are
    /// neither, and not asked for.
    fn entries(&self) -> Result<Vec<Entry>, Failure> {
        if !self.is_there() {
            return match is_program(&self.certutil) {
                true => Ok(Vec::new()),
                false => {
                    Err(Failure::NoProgram { program: self.certutil.display().to_string(), install: INSTALL })
                }
            };
        }
        let listed = self.run(&["-L"])?;
        // "Signet edge CA 0123456789abcdef                              C,,"
        let lines = listed.lines().filter_map(|line| line.trim_end().rsplit_once(char::is_whitespace));
        let rows = lines.map(|(name, trust)| (name.trim_end(), trust));
        let mut wanted: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, trust) in
            rows.filter(|(name, trust)| is_trust(trust) && (is_ours(name) || believes(trust)))
        {
            if !wanted.get(name).is_some_and(|other| believes(other)) {
                wanted.insert(name, trust);
            }
        }
        let mut entries = Vec::new();
        for (name, trust) in wanted {
            match self.run(&["-L", "-n", name, "-a"]) {
                Ok(pem) => entries.push(Entry {
                    certificates: CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect(),
                    name: name.to_owned(),
                    trust: trust.to_owned(),
                }),
                Err(why) if is_ours(name) => return Err(why),
                Err(_) => {} // a smart card's, or a name that certutil cannot be told: nothing that signet made
            }
        }
        Ok(entries)
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
        let names: Vec<String> = self.standing(root).removable().map(|name| format!("{name:?}")).collect();
        format!(
            "take {} out of the database of {} ({})",
            names.join(", "),
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
        for name in self.standing(root).removable() {
            self.run(&["-D", "-n", name])?;
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

impl Entry {
    fn has(&self, root: &Root) -> bool {
        self.certificates.contains(root.certificate())
    }

    fn is_believed(&self) -> bool {
        believes(&self.trust)
    }

    fn place(&self) -> Place {
        let others = self.certificates.len() - 1;
        let stays = (others > 0).then(|| {
            format!(
                "certificates of one subject share it, this one and {others} more, and certutil may take another than is meant: use the \
                 browser's own list of authorities"
            )
        });
        Place { name: self.name.clone(), stays }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with(NICKNAME)
}

/// Unlike the head of the list, "SSL,S/MIME,JAR/XPI".
fn is_trust(word: &str) -> bool {
    word.matches(',').count() == 2 && word.chars().all(|letter| "pPcCTuwg,".contains(letter))
}

/// "C,,", "CT,C,C": it vouches for servers; "P,,": it is one. The first of the three is what browsers look at.
fn believes(trust: &str) -> bool {
    trust.split(',').next().is_some_and(|servers| servers.contains(['C', 'P']))
}

const DATABASE: &str = "cert9.db";
const INSTALL: &str =
    "it changes browsers' stores: apt-get install libnss3-tools, dnf install nss-tools, or brew install nss";

#[cfg(test)]
#[path = "nss/tests.rs"]
mod tests;
