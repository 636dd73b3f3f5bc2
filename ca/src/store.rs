//! The directory that holds the state: `state.json` (0600) and `lock`. One process at a time; safe against kill -9 at any
//! point, because the file is only ever replaced whole.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use signet_core::files::{self, PRIVATE};
use zeroize::Zeroizing;

use crate::state::{SCHEMA, State};

/// An open state directory; the lock goes with it.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    _lock: File,
}

impl Store {
    /// Creates the directory (0700) where there is none, and takes its lock.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
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

    /// `None`: this directory never had a CA. A file that cannot be understood is an error, never a fresh start.
    pub fn load(&self) -> Result<Option<State>, StoreError> {
        let text = match std::fs::read(&self.file) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path: self.file.clone(), source }),
        };
        let broken = |why: String| StoreError::Broken { file: self.file.clone(), why };
        let Schema { schema } = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
        if schema > SCHEMA {
            return Err(StoreError::Newer { file: self.file.clone(), schema });
        }
        let state: State = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
        state.check().map_err(broken)?;
        Ok(Some(state))
    }

    /// Compare-and-swap: writes `next` if the file still holds the version that `next` was made from (0: no file), and
    /// returns it with the version it now has.
    pub fn replace(&self, next: &State) -> Result<State, StoreError> {
        let found = self.load()?.map_or(0, |state| state.version);
        if found != next.version {
            return Err(StoreError::Moved { file: self.file.clone(), expected: next.version, found });
        }
        let next = State { version: found + 1, ..next.clone() };
        let json = serde_json::to_vec_pretty(&next)
            .map(Zeroizing::new)
            .map_err(|e| StoreError::Broken { file: self.file.clone(), why: e.to_string() })?;
        files::write_atomic(&self.file, &json, PRIVATE)
            .map_err(|source| StoreError::Io { path: self.file.clone(), source })?;
        Ok(next)
    }
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

/// Why the state cannot be read or written. A CA that cannot write its state keeps issuing with what it has.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another CA (process {holder}) runs on {}; stop it, or name another --state", directory.display())]
    Locked { directory: PathBuf, holder: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not a CA's state: {why}; restore it from a backup (docs/ca.md)", file.display())]
    Broken { file: PathBuf, why: String },
    #[error("{} has schema {schema}, this program knows {SCHEMA}; run the newer signet that wrote it", file.display())]
    Newer { file: PathBuf, schema: u32 },
    #[error("{} is at version {found}, not {expected}: someone else wrote it; restart the CA", file.display())]
    Moved { file: PathBuf, expected: u64, found: u64 },
}
