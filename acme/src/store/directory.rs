//! A directory: `certificates/<id>.json`, `accounts/<id>.json` (0600 each) and `lock`. One process at a time; safe against kill -9 at any
//! point, because a file is only ever replaced whole.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};
use signet_core::files::{self, PRIVATE};
use zeroize::Zeroizing;

use super::{Loaded, Store, StoreError, Stored, Version};
use crate::{account::AccountRecord, record::Record};

/// An open directory; the lock goes with it.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    certificates: PathBuf,
    accounts: PathBuf,
    /// Reading and replacing is one act.
    lock: Mutex<File>,
}

impl DirectoryStore {
    /// Creates the directory (0700) where there is none, and takes its lock. Blocks, on a disk.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let (certificates, accounts) = (directory.join("certificates"), directory.join("accounts"));
        for directory in [directory, &certificates, &accounts] {
            files::create_private_dir(directory).map_err(at(directory))?;
        }
        let path = directory.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(PRIVATE);
        let mut lock = options.open(&path).map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&lock).take(20).read_to_string(&mut holder);
                let holder = format!("process {}", holder.trim());
                return Err(StoreError::Locked { directory: directory.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::Io { path, source }),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(at(&path))?;
        writeln!(lock, "{}", std::process::id()).map_err(at(&path))?;
        Ok(Self { inner: Arc::new(Inner { certificates, accounts, lock: Mutex::new(lock) }) })
    }

    /// On a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let acted = tokio::task::spawn_blocking(move || {
            let _lock = inner.lock.lock().unwrap_or_else(PoisonError::into_inner);
            act(&inner)
        });
        acted.await.map_err(|error| {
            let place = self.inner.certificates.display().to_string();
            StoreError::Broken { place, why: error.to_string() }
        })?
    }
}

impl Store for DirectoryStore {
    async fn load(&self) -> Result<Loaded, StoreError> {
        self.blocking(|inner| {
            let mut loaded = Loaded::default();
            let entries = fs::read_dir(&inner.certificates).map_err(at(&inner.certificates))?;
            for entry in entries {
                let name = entry.map_err(at(&inner.certificates))?.file_name();
                let Some(id) = name.to_str().and_then(id_of) else { continue };
                let Some((bytes, version)) = read(&inner.certificates.join(&name))? else { continue };
                match Record::parse(&bytes) {
                    Ok(value) if value.id() == id => loaded.records.push(Stored { value, version }),
                    Ok(other) => {
                        let why = format!("it is the record of {}, under another's name", other.names);
                        loaded.broken.push((id.to_owned(), why));
                    }
                    Err(error) => loaded.broken.push((id.to_owned(), error.to_string())),
                }
            }
            Ok(loaded)
        })
        .await
    }

    async fn put(&self, record: &Record, over: Option<&Version>) -> Result<Version, StoreError> {
        let (id, json, over) = (record.id(), record.to_json(), over.cloned());
        self.blocking(move |inner| replace(&file(&inner.certificates, &id), &json, over.as_ref())).await
    }

    async fn delete(&self, id: &str, version: &Version) -> Result<(), StoreError> {
        let (id, version) = (id.to_owned(), version.clone());
        self.blocking(move |inner| {
            let path = file(&inner.certificates, &id);
            expect(&path, Some(&version))?;
            fs::remove_file(&path).map_err(at(&path))
        })
        .await
    }

    async fn account(&self, id: &str) -> Result<Option<Stored<AccountRecord>>, StoreError> {
        let id = id.to_owned();
        self.blocking(move |inner| {
            let path = file(&inner.accounts, &id);
            let Some((bytes, version)) = read(&path)? else { return Ok(None) };
            let value = AccountRecord::parse(&bytes).map_err(|error| StoreError::Broken {
                place: path.display().to_string(),
                why: error.to_string(),
            })?;
            Ok(Some(Stored { value, version }))
        })
        .await
    }

    async fn put_account(
        &self,
        id: &str,
        account: &AccountRecord,
        over: Option<&Version>,
    ) -> Result<Version, StoreError> {
        let (id, json, over) = (id.to_owned(), account.to_json(), over.cloned());
        self.blocking(move |inner| replace(&file(&inner.accounts, &id), &json, over.as_ref())).await
    }
}

/// Ids are ours: letters, digits and hyphens.
fn file(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}.json"))
}

fn id_of(name: &str) -> Option<&str> {
    name.strip_suffix(".json").filter(|id| !id.starts_with('.'))
}

type Content = (Zeroizing<Vec<u8>>, Version);

/// `None`: no such file.
fn read(path: &Path) -> Result<Option<Content>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => {
            let version = version_of(&bytes);
            Ok(Some((Zeroizing::new(bytes), version)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

fn expect(path: &Path, version: Option<&Version>) -> Result<(), StoreError> {
    let found = read(path)?.map(|(_, version)| version);
    if found.as_ref() != version {
        return Err(StoreError::Moved { place: path.display().to_string() });
    }
    Ok(())
}

fn replace(path: &Path, json: &[u8], over: Option<&Version>) -> Result<Version, StoreError> {
    expect(path, over)?;
    files::write_atomic(path, json, PRIVATE).map_err(at(path))?;
    Ok(version_of(json))
}

/// Of its content: whoever wrote the same meanwhile did no harm.
fn version_of(bytes: &[u8]) -> Version {
    Version(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

#[cfg(test)]
mod tests;
