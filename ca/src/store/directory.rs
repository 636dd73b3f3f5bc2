//! The directory that holds the state: `state.json` (0600) and `lock`. One process at a time; safe against kill -9 at any
//! point, because the file is only ever replaced whole.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use signet_core::files::{self, PRIVATE};
use zeroize::Zeroizing;

use super::{Store, StoreError, next_version, parse};
use crate::state::State;

/// An open state directory; the lock goes with it.
#[derive(Debug)]
pub(crate) struct Directory {
    file: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory (0700) where there is none, and takes its lock.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let at = |source| StoreError::Io { path: directory.to_owned(), source };
        files::create_private_dir(directory).map_err(at)?;
        let path = directory.join("lock");
        let at = |source| StoreError::Io { path: path.clone(), source };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .open(&path)
            .map_err(at)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&lock).take(20).read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                return Err(StoreError::Locked { directory: directory.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(at(source)),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(at)?;
        writeln!(lock, "{}", std::process::id()).map_err(at)?;
        Ok(Self { file: directory.join("state.json"), _lock: lock })
    }
}

impl Store for Directory {
    fn load(&self) -> Result<Option<State>, StoreError> {
        match std::fs::read(&self.file) {
            Ok(text) => parse(&Zeroizing::new(text), &self.file.display()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { path: self.file.clone(), source }),
        }
    }

    fn replace(&self, next: &State) -> Result<State, StoreError> {
        let (next, json) = next_version(next, self.load()?.as_ref(), &self.file.display())?;
        files::write_atomic(&self.file, &json, PRIVATE)
            .map_err(|source| StoreError::Io { path: self.file.clone(), source })?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Role, Root, Secret};
    use std::{fs, io::BufRead as _, os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

    const CHILD: &str = "SIGNET_TEST_STORE";

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("signet-store-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    fn state() -> State {
        let root = Root {
            id: "aa".into(),
            role: Role::Active,
            made: 0,
            not_after: 1,
            certificate: "c".repeat(1000).into(),
            key: Some(Secret::new("k".repeat(200_000).into())), // several pages, so that a write has a middle
            kept: None,
        };
        State::new("cluster.local".into(), root, 1, 10, 0)
    }

    /// Writes versions one after the other and says each that is stored, until it is killed.
    fn write_for_ever(directory: &Path) -> ! {
        let store = Directory::open(directory).unwrap();
        let mut state = store.load().unwrap().unwrap_or_else(state);
        loop {
            state = store.replace(&state).unwrap();
            writeln!(io::stdout(), "stored {}", state.version).unwrap();
        }
    }

    #[test]
    fn kill_9_at_any_point_leaves_the_old_state_or_the_new_never_none() {
        if let Some(directory) = std::env::var_os(CHILD) {
            write_for_ever(Path::new(&directory));
        }
        let directory = scratch("kill");
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..40 {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "--nocapture",
                    "store::directory::tests::kill_9_at_any_point_leaves_the_old_state_or_the_new_never_none",
                ])
                .env(CHILD, &directory)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let said = |line: String| line.rsplit_once("stored ").and_then(|(_, n)| n.parse::<u64>().ok());
            let first = lines.by_ref().find_map(said).unwrap();
            std::thread::sleep(Duration::from_micros(random.u64(0..5_000))); // where in a write it dies
            child.kill().unwrap(); // SIGKILL
            child.wait().unwrap();
            let last = lines.filter_map(said).last().unwrap_or(first);
            let found = Directory::open(&directory).unwrap().load().unwrap().unwrap();
            assert!((last..=last + 1).contains(&found.version), "said {last}, found {}", found.version);
            assert_eq!(State { version: 0, ..found }, state());
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_second_ca_is_refused_and_told_who_is_first() {
        let directory = scratch("lock");
        let first = Directory::open(&directory).unwrap();
        let error = Directory::open(&directory).unwrap_err().to_string();
        assert!(error.contains(&format!("another CA (process {})", std::process::id())), "{error}");
        drop(first);
        Directory::open(&directory).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_write_from_an_old_version_is_refused() {
        let directory = scratch("swap");
        let store = Directory::open(&directory).unwrap();
        let first = store.replace(&state()).unwrap();
        let second = store.replace(&first).unwrap();
        assert_eq!(second.version, 2);
        assert!(matches!(store.replace(&first), Err(StoreError::Moved { expected: 1, found: 2, .. })));
        assert_eq!(store.load().unwrap(), Some(second));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_keys_are_for_our_eyes_only() {
        let directory = scratch("mode");
        let store = Directory::open(&directory).unwrap();
        store.replace(&state()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        for file in ["state.json", "lock"] {
            assert_eq!(mode(&directory.join(file)), 0o600, "{file}");
        }
        assert!(!format!("{:?}", state()).contains("kkk"), "keys are never printed");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_state_that_is_not_understood_is_never_replaced_by_a_fresh_one() {
        let directory = scratch("broken");
        let store = Directory::open(&directory).unwrap();
        let good = serde_json::to_string(&store.replace(&state()).unwrap()).unwrap();
        for (case, text) in [
            ("empty", String::new()),
            ("cut off", good[..good.len() / 2].to_owned()),
            ("not ours", "{\"schema\":1}".to_owned()),
            ("a field of the future", good.replacen('{', "{\"future\":1,", 1)),
            ("no active root", good.replace("\"active\"", "\"retiring\"")),
            ("a next root in a steady state", good.replace("\"active\"", "\"next\"")),
            ("an older schema, and a root without key", {
                let root = Root { key: None, ..state().roots[0].clone() };
                let keyless = serde_json::to_string(&State { roots: vec![root], ..state() }).unwrap();
                keyless.replace("\"schema\":2", "\"schema\":1")
            }),
            ("a schema that never was", good.replace("\"schema\":2", "\"schema\":0")),
        ] {
            fs::write(directory.join("state.json"), &text).unwrap();
            assert!(matches!(store.load(), Err(StoreError::Broken { .. })), "{case}");
            assert!(store.replace(&state()).is_err(), "{case}");
        }
        fs::write(directory.join("state.json"), good.replace("\"schema\":2", "\"schema\":3")).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(error, StoreError::Newer { schema: 3, .. }), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_state_of_schema_1_is_read_and_written_as_the_same_of_schema_2() {
        let directory = scratch("schema");
        let store = Directory::open(&directory).unwrap();
        let written = store.replace(&state()).unwrap();
        let file = directory.join("state.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"schema\": 2", "\"schema\": 1")).unwrap();
        assert_eq!(store.load().unwrap(), Some(written.clone()));
        store.replace(&written).unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("\"schema\": 2"));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_kept_intermediate_stands_with_a_root_without_key_that_signs_or_will_and_nowhere_else() {
        use crate::{
            rotation::{Phase, Rotation},
            state::Offer,
        };
        let offer = Offer { chain: "c".into(), key: Secret::new("kkk".to_owned().into()), root: "r".into() };
        let own = state().roots[0].clone();
        let users = Root { key: None, kept: Some(offer), ..own.clone() };
        let in_phase = |phase, roots| State { roots, rotation: Rotation { phase, since: 0 }, ..state() };
        let with = |root: &Root, role| Root { role, ..root.clone() };
        in_phase(Phase::Converge, vec![users.clone(), with(&users, Role::Next)]).check().unwrap();
        for (case, broken) in [
            ("steady", in_phase(Phase::Steady, vec![users.clone()])),
            ("it retires", in_phase(Phase::Retire, vec![own.clone(), with(&users, Role::Retiring)])),
            ("a root of ours", {
                let both = Root { key: own.key.clone(), ..users.clone() };
                in_phase(Phase::Converge, vec![both, with(&own, Role::Next)])
            }),
        ] {
            assert!(broken.check().is_err(), "{case}");
        }
        assert!(!format!("{users:?}").contains("kkk"), "keys are never printed");
    }
}
