//! The machine's own store: a directory of roots that its administrator adds, and a program that makes the bundle of it that programs read.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use signet_core::files::{self, PUBLIC};
use signet_edge_ca::Root;

use super::store::{Failure, Held, Place, Standing, State, is_program, run};

/// As a family of distributions has it.
#[derive(Clone, Debug)]
pub(super) struct System {
    pub(super) anchors: PathBuf,
    /// Of the files there, those that `update` takes; `None`: all.
    extension: Option<&'static str>,
    /// Made of them.
    bundle: PathBuf,
    update: PathBuf,
    /// Its arguments.
    args: &'static [&'static str],
    /// Directories of others that end in the bundle, too, or that programs read themselves; and who takes a root out of each.
    others: Vec<(PathBuf, &'static str)>,
}

/// This machine's. Errors: why there is none, and what to do instead; `root`: for those words.
pub(super) fn find() -> Result<System, String> {
    if cfg!(target_os = "macos") {
        return Err("macOS keeps roots in its keychain, which signet does not change: open the PEM file of `signet trust show --pem` in \
                    Keychain Access, and trust it for SSL"
            .into());
    }
    let families = FAMILIES.iter().map(|family| System {
        anchors: family.anchors.into(),
        extension: family.extension,
        bundle: family.bundle.into(),
        update: family.update.into(),
        args: family.args,
        others: family.others.iter().map(|(directory, who)| (directory.into(), *who)).collect(),
    });
    let found = families.into_iter().find(|system| system.anchors.is_dir() && is_program(&system.update));
    found.ok_or_else(|| {
        "this machine has no store that signet knows (update-ca-certificates of Debian and Alpine, update-ca-trust of Fedora and Arch); \
         apt-get install ca-certificates makes one"
            .into()
    })
}

impl System {
    /// By the certificate itself, in the bundle that programs read and in every file that it is made of.
    pub(super) fn standing(&self, root: &Root) -> Standing {
        let (places, is_bundled) = match (self.places(root), self.is_bundled(root)) {
            (Ok(places), Ok(is_bundled)) => (places, is_bundled),
            (Err(why), _) | (_, Err(why)) => return Standing::unusable(&why),
        };
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        let bundle = self.bundle.display();
        let state = match (names.is_empty(), is_bundled) {
            (false, true) => State::Here,
            (true, false) => State::Absent,
            (false, false) => State::Half(format!("it stands in {}, and not in {bundle}", names.join(", "))),
            (true, true) => State::Half(format!(
                "it is in {bundle}, and in no file that {} makes that of",
                self.update.display()
            )),
        };
        Standing { state, places }
    }

    /// Everybody's that is bound as ours are.
    pub(super) fn held(&self) -> Vec<Held> {
        let mut held: Vec<Held> = Vec::new();
        for (path, _) in self.files() {
            let certificates = certificates(&path).unwrap_or_default();
            for root in certificates.into_iter().filter_map(|certificate| Root::new(certificate).ok()) {
                if !held.iter().any(|held| held.root == root) {
                    held.push(Held { root, name: path.display().to_string() });
                }
            }
        }
        held
    }

    pub(super) fn would_install(&self, root: &Root) -> String {
        format!("write {}, and run {}", self.file(root).display(), self.command())
    }

    pub(super) fn would_remove(&self, root: &Root) -> String {
        let standing = self.standing(root);
        let files: Vec<&str> = standing.removable().collect();
        match files.is_empty() {
            true => format!("run {}", self.command()),
            false => format!("remove {}, and run {}", files.join(", "), self.command()),
        }
    }

    /// What was there before, it ends with, if the bundle cannot be made.
    pub(super) fn install(&self, root: &Root) -> Result<(), Failure> {
        let file = self.file(root);
        let before = file.exists();
        files::write_atomic(&file, root.pem().as_bytes(), PUBLIC).map_err(|e| Failure::file(&file, e))?;
        let made = self.make_bundle();
        if made.is_err() && !before {
            let _ = fs::remove_file(&file); // nor is it in the bundle
        }
        made
    }

    pub(super) fn remove(&self, root: &Root) -> Result<(), Failure> {
        for name in self.standing(root).removable() {
            let file = Path::new(name);
            fs::remove_file(file).map_err(|e| Failure::file(file, e))?;
        }
        self.make_bundle()
    }

    fn make_bundle(&self) -> Result<(), Failure> {
        run(
            Command::new(&self.update).args(self.args),
            "it makes the bundle of roots: apt-get install ca-certificates",
        )
        .map(drop)
    }

    /// Files that hold it.
    fn places(&self, root: &Root) -> Result<Vec<Place>, Failure> {
        let mut places = Vec::new();
        for (path, owner) in self.files() {
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if path == self.file(root) => return Err(Failure::file(&path, e)),
                Err(_) => continue, // the bundle says whether it is believed
            };
            let held = parse(&bytes);
            if held.contains(root.certificate()) {
                let is_whole = held.len() == 1 && sections(&bytes) <= 1;
                let stays = match owner {
                    Some(who) => Some(who.to_owned()),
                    None if is_whole => None,
                    None => Some("it holds more than this root; take it out by hand".to_owned()),
                };
                places.push(Place { name: path.display().to_string(), stays });
            }
        }
        Ok(places)
    }

    /// Those that the bundle is made of, or that programs read: ours to change, or whose they are. Each once, however many links lead
    /// to it.
    fn files(&self) -> Vec<(PathBuf, Option<&'static str>)> {
        let (mut seen, mut files) = (BTreeSet::new(), Vec::new());
        seen.extend(fs::canonicalize(&self.bundle));
        let directories = self.others.iter().map(|(directory, who)| (directory, Some(*who)));
        for (directory, owner) in [(&self.anchors, None)].into_iter().chain(directories) {
            for path in below(directory, DEPTH) {
                let is_read =
                    self.extension.is_none_or(|wanted| path.extension().is_some_and(|e| e == wanted));
                if (owner.is_some() || is_read) && fs::canonicalize(&path).is_ok_and(|real| seen.insert(real))
                {
                    files.push((path, owner));
                }
            }
        }
        files
    }

    fn is_bundled(&self, root: &Root) -> Result<bool, Failure> {
        match certificates(&self.bundle) {
            Ok(held) => Ok(held.contains(root.certificate())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Failure::file(&self.bundle, e)),
        }
    }

    fn file(&self, root: &Root) -> PathBuf {
        self.anchors.join(format!("{FILE}{}.crt", root.id()))
    }

    fn command(&self) -> String {
        let program = Path::new(&self.update).display().to_string();
        [&[program.as_str()], self.args].concat().join(" ")
    }
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    Ok(parse(&fs::read(file)?))
}

/// All of a PEM file, or the one of a DER file.
fn parse(bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    match bytes.first() {
        Some(&SEQUENCE) => vec![CertificateDer::from(bytes.to_vec())],
        _ => CertificateDer::pem_slice_iter(bytes).flatten().collect(),
    }
}

/// Of a PEM file, whatever they hold.
fn sections(bytes: &[u8]) -> usize {
    bytes.windows(BEGIN.len()).filter(|window| *window == BEGIN).count()
}

/// Files below a directory, links to files among them, in order.
fn below(directory: &Path, depth: usize) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        match fs::metadata(&path) {
            Ok(about) if about.is_file() && about.len() <= LARGEST => files.push(path),
            Ok(about) if about.is_dir() && depth > 0 => files.extend(below(&path, depth - 1)),
            _ => {}
        }
    }
    files
}

const FILE: &str = "signet-edge-ca-";
const BEGIN: &[u8] = b"-----BEGIN ";
/// The first byte of a certificate in DER.
const SEQUENCE: u8 = 0x30;
/// Directories in one another: Debian's packages have one level; links may go in circles.
const DEPTH: usize = 3;
/// Bytes: bundles of a whole list of roots are 250 kB.
const LARGEST: u64 = 4 * 1024 * 1024;

/// How a distribution keeps its roots.
struct Family {
    anchors: &'static str,
    extension: Option<&'static str>,
    bundle: &'static str,
    update: &'static str,
    args: &'static [&'static str],
    others: &'static [(&'static str, &'static str)],
}

/// The first that a machine has.
const FAMILIES: [Family; 3] = [
    Family {
        anchors: "/usr/local/share/ca-certificates",
        extension: Some("crt"),
        bundle: "/etc/ssl/certs/ca-certificates.crt",
        update: "update-ca-certificates",
        args: &[],
        others: &[
            (
                "/usr/share/ca-certificates",
                "a package or an administrator put it there; dpkg-reconfigure ca-certificates, or a ! in front of its line in \
                 /etc/ca-certificates.conf and update-ca-certificates, takes it out",
            ),
            (
                "/etc/ssl/certs",
                "somebody put it where programs look by themselves; remove it, and run: openssl rehash /etc/ssl/certs",
            ),
        ],
    },
    Family {
        anchors: "/etc/pki/ca-trust/source/anchors",
        extension: None,
        bundle: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        update: "update-ca-trust",
        args: &["extract"],
        others: &[("/etc/pki/ca-trust/source", P11), ("/usr/share/pki/ca-trust-source", P11)],
    },
    Family {
        anchors: "/etc/ca-certificates/trust-source/anchors",
        extension: None,
        bundle: "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
        update: "update-ca-trust",
        args: &["extract"],
        others: &[
            ("/etc/ca-certificates/trust-source", P11),
            ("/usr/share/ca-certificates/trust-source", P11),
        ],
    },
];
const P11: &str = "a package or an administrator put it there; remove it, and run: update-ca-trust extract";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use signet_edge_ca::EdgeCa;

    use super::*;

    fn root() -> Root {
        EdgeCa::generate(&[], 1_800_000_000).unwrap().0.root().clone()
    }

    /// A machine with a bundle that a script makes.
    struct Machine {
        home: PathBuf,
        system: System,
    }

    impl Machine {
        fn new(name: &str, script: &str) -> Self {
            let home = std::env::temp_dir().join(format!("signet-system-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&home);
            fs::create_dir_all(home.join("anchors")).unwrap();
            let system = System {
                anchors: home.join("anchors"),
                bundle: home.join("bundle.crt"),
                update: home.join("update"),
                extension: Some("crt"),
                args: &[],
                others: vec![(home.join("packaged"), "its package's")],
            };
            let machine = Self { home, system };
            machine.update_is(script);
            machine
        }

        fn update_is(&self, script: &str) {
            fs::write(&self.system.update, format!("#!/bin/sh\ncd {}\n{script}\n", self.home.display()))
                .unwrap();
            fs::set_permissions(&self.system.update, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.home);
        }
    }

    const WORKS: &str = "cat anchors/*.crt packaged/*.crt > bundle.crt 2>/dev/null; exit 0";

    #[test]
    fn a_root_is_added_found_by_its_certificate_and_exactly_that_one_is_taken_out() {
        let machine = Machine::new("whole", WORKS);
        let (system, ours, theirs) = (&machine.system, root(), root());
        assert_eq!(system.standing(&ours).state, State::Absent);
        system.install(&ours).unwrap();
        system.install(&theirs).unwrap();
        assert_eq!((system.standing(&ours).state, system.held().len()), (State::Here, 2));
        system.remove(&ours).unwrap();
        assert_eq!(
            (system.standing(&ours).state, system.standing(&theirs).state),
            (State::Absent, State::Here)
        );
    }

    #[test]
    fn what_fails_leaves_nothing_and_what_was_cut_is_seen_as_half() {
        let machine = Machine::new("half", "echo no space >&2; exit 1");
        let (system, root) = (&machine.system, root());
        let why = system.install(&root).unwrap_err().to_string();
        assert!(why.contains("no space"), "{why}");
        assert_eq!((system.standing(&root).state, system.held().len()), (State::Absent, 0));
        fs::write(system.file(&root), root.pem()).unwrap(); // killed here
        assert!(matches!(system.standing(&root).state, State::Half(_)));
        machine.update_is(WORKS);
        system.install(&root).unwrap();
        assert_eq!(system.standing(&root).state, State::Here);
        fs::remove_file(system.file(&root)).unwrap();
        assert!(matches!(system.standing(&root).state, State::Half(_)));
        system.remove(&root).unwrap();
        assert_eq!(system.standing(&root).state, State::Absent);
    }

    #[test]
    fn a_file_of_our_name_that_holds_another_certificate_is_not_ours() {
        let machine = Machine::new("other", WORKS);
        let (system, ours) = (&machine.system, root());
        fs::write(system.file(&ours), root().pem()).unwrap();
        assert_eq!(system.standing(&ours).state, State::Absent);
        system.remove(&ours).unwrap();
        assert!(system.file(&ours).exists(), "it is left alone");
    }

    #[test]
    fn a_root_that_is_believed_by_a_file_of_somebody_else_s_is_found_named_and_taken_out_if_it_is_alone_there()
     {
        let machine = Machine::new("named", WORKS);
        let (system, ours) = (&machine.system, root());
        let put = |file: &str, text: &str| {
            let path = machine.home.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            system.make_bundle().unwrap();
            path
        };
        let alone = put("anchors/mine.crt", &ours.pem());
        assert!(
            !put("anchors/mine.txt", &ours.pem()).starts_with(&system.bundle),
            "no update reads this one"
        );
        let standing = system.standing(&ours);
        assert_eq!(standing.state, State::Here);
        assert_eq!(standing.removable().collect::<Vec<_>>(), [alone.to_str().unwrap()]);
        assert!(system.would_remove(&ours).contains("anchors/mine.crt"));
        system.remove(&ours).unwrap();
        assert_eq!(system.standing(&ours).state, State::Absent);
        let both = put("anchors/both.crt", &(root().pem() + &ours.pem()));
        let key = put(
            "anchors/key.crt",
            &format!("{}-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", ours.pem()),
        );
        let packaged = put("packaged/deb.crt", &ours.pem());
        let standing = system.standing(&ours);
        let left: Vec<String> = standing.left().collect();
        assert_eq!(
            (&standing.state, standing.removable().count(), left.len()),
            (&State::Here, 0, 3),
            "{left:?}"
        );
        assert!(left[2].ends_with("deb.crt stays: its package's"), "{left:?}");
        system.remove(&ours).unwrap();
        assert_eq!(system.standing(&ours), standing, "nothing of it went");
        assert!(both.exists() && key.exists() && packaged.exists());
        assert_eq!(system.held().len(), 2);
    }

    #[test]
    fn a_root_in_the_bundle_and_in_no_file_is_told() {
        let machine = Machine::new("bundle", "exit 0");
        let (system, ours) = (&machine.system, root());
        fs::write(&system.bundle, root().pem() + &ours.pem()).unwrap();
        assert!(matches!(system.standing(&ours).state, State::Half(why) if why.contains("in no file")));
    }
}
