//! The machine's own store: a directory of roots that its administrator adds, and a program that makes the bundle of it that programs read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use signet_core::files::{self, PUBLIC};
use signet_edge_ca::Root;

use super::store::{Failure, Held, State, is_program, run};

/// As a family of distributions has it.
#[derive(Clone, Debug)]
pub(super) struct System {
    pub(super) anchors: PathBuf,
    /// Made of them.
    bundle: PathBuf,
    update: PathBuf,
    /// Its arguments.
    args: &'static [&'static str],
}

/// This machine's. Errors: why there is none, and what to do instead; `root`: for those words.
pub(super) fn find() -> Result<System, String> {
    if cfg!(target_os = "macos") {
        return Err("macOS keeps roots in its keychain, which signet does not change: open the PEM file of `signet trust show --pem` in \
                    Keychain Access, and trust it for SSL"
            .into());
    }
    let families = FAMILIES.iter().map(|(anchors, bundle, update, args)| System {
        anchors: anchors.into(),
        bundle: bundle.into(),
        update: update.into(),
        args,
    });
    let found = families.into_iter().find(|system| system.anchors.is_dir() && is_program(&system.update));
    found.ok_or_else(|| {
        "this machine has no store that signet knows (update-ca-certificates of Debian and Alpine, update-ca-trust of Fedora and Arch); \
         apt-get install ca-certificates makes one"
            .into()
    })
}

impl System {
    pub(super) fn state(&self, root: &Root) -> State {
        match (self.is_anchored(root), self.is_bundled(root)) {
            (Ok(true), Ok(true)) => State::Here,
            (Ok(false), Ok(false)) => State::Absent,
            (Ok(true), Ok(false)) => State::Half(format!(
                "{} is there, and not yet in {}",
                self.file(root).display(),
                self.bundle.display()
            )),
            (Ok(false), Ok(true)) => State::Half(format!(
                "it is in {}, and {} is not there",
                self.bundle.display(),
                self.file(root).display()
            )),
            (Err(why), _) | (_, Err(why)) => State::Unusable(why.to_string()),
        }
    }

    pub(super) fn held(&self) -> Vec<Held> {
        let entries = fs::read_dir(&self.anchors).into_iter().flatten().flatten();
        let files = entries
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FILE)));
        let root = |path: PathBuf| {
            let root = Root::from_pem(&fs::read(&path).ok()?).ok()?;
            Some(Held { root, name: path.display().to_string() })
        };
        files.filter_map(root).collect()
    }

    pub(super) fn would_install(&self, root: &Root) -> String {
        format!("write {}, and run {}", self.file(root).display(), self.command())
    }

    pub(super) fn would_remove(&self, root: &Root) -> String {
        format!("remove {}, and run {}", self.file(root).display(), self.command())
    }

    /// What was there before, it ends with, if the bundle cannot be made.
    pub(super) fn install(&self, root: &Root) -> Result<(), Failure> {
        let file = self.file(root);
        let before = self.is_anchored(root).map_err(|e| Failure::file(&file, e))?;
        files::write_atomic(&file, root.pem().as_bytes(), PUBLIC).map_err(|e| Failure::file(&file, e))?;
        let made = self.make_bundle();
        if made.is_err() && !before {
            let _ = fs::remove_file(&file); // nor is it in the bundle
        }
        made
    }

    pub(super) fn remove(&self, root: &Root) -> Result<(), Failure> {
        let file = self.file(root);
        if self.is_anchored(root).map_err(|e| Failure::file(&file, e))? {
            fs::remove_file(&file).map_err(|e| Failure::file(&file, e))?;
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

    /// This very certificate.
    fn is_anchored(&self, root: &Root) -> io::Result<bool> {
        match fs::read(self.file(root)) {
            Ok(pem) => Ok(Root::from_pem(&pem).is_ok_and(|held| held == *root)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn is_bundled(&self, root: &Root) -> io::Result<bool> {
        match fs::read(&self.bundle) {
            Ok(bundle) => {
                Ok(CertificateDer::pem_slice_iter(&bundle).flatten().any(|held| held == *root.certificate()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
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

const FILE: &str = "signet-edge-ca-";
/// Directory of anchors, bundle, program, its arguments. The first that a machine has.
const FAMILIES: [(&str, &str, &str, &[&str]); 3] = [
    ("/usr/local/share/ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "update-ca-certificates", &[]),
    (
        "/etc/pki/ca-trust/source/anchors",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "update-ca-trust",
        &["extract"],
    ),
    (
        "/etc/ca-certificates/trust-source/anchors",
        "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
        "update-ca-trust",
        &["extract"],
    ),
];

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
                args: &[],
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

    const WORKS: &str = "cat anchors/*.crt > bundle.crt 2>/dev/null; exit 0";

    #[test]
    fn a_root_is_added_found_by_its_certificate_and_exactly_that_one_is_taken_out() {
        let machine = Machine::new("whole", WORKS);
        let (system, ours, theirs) = (&machine.system, root(), root());
        assert_eq!(system.state(&ours), State::Absent);
        system.install(&ours).unwrap();
        system.install(&theirs).unwrap();
        assert_eq!((system.state(&ours), system.held().len()), (State::Here, 2));
        system.remove(&ours).unwrap();
        assert_eq!((system.state(&ours), system.state(&theirs)), (State::Absent, State::Here));
    }

    #[test]
    fn what_fails_leaves_nothing_and_what_was_cut_is_seen_as_half() {
        let machine = Machine::new("half", "echo no space >&2; exit 1");
        let (system, root) = (&machine.system, root());
        let why = system.install(&root).unwrap_err().to_string();
        assert!(why.contains("no space"), "{why}");
        assert_eq!((system.state(&root), system.held().len()), (State::Absent, 0));
        fs::write(system.file(&root), root.pem()).unwrap(); // killed here
        assert!(matches!(system.state(&root), State::Half(_)));
        machine.update_is(WORKS);
        system.install(&root).unwrap();
        assert_eq!(system.state(&root), State::Here);
        fs::remove_file(system.file(&root)).unwrap();
        assert!(matches!(system.state(&root), State::Half(_)));
        system.remove(&root).unwrap();
        assert_eq!(system.state(&root), State::Absent);
    }

    #[test]
    fn a_file_of_our_name_that_holds_another_certificate_is_not_ours() {
        let machine = Machine::new("other", WORKS);
        let (system, ours) = (&machine.system, root());
        fs::write(system.file(&ours), root().pem()).unwrap();
        assert_eq!(system.state(&ours), State::Absent);
        system.remove(&ours).unwrap();
        assert!(system.file(&ours).exists(), "it is left alone");
    }
}
