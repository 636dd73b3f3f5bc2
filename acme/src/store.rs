//! Where records and accounts are stored: a directory here ([`directory`]), Secrets of namespace `signet-edge` in a cluster
//! (`signet-controller`). Either replaces whole documents, and only for who knows the version that it replaces.

use std::{future::Future, io, path::PathBuf};

use crate::{account::AccountRecord, record::Record};

pub mod directory;

/// One process writes at a time (a Lease, a lock); the versions hold where it does not know yet that it is another's turn.
pub trait Store: Send + Sync {
    /// All of it, at start and when it is another one's turn.
    fn load(&self) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Writes a record over the one of this version (`None`: there is none yet), and returns its new version. After an error other
    /// than [`StoreError::Moved`] it may be written or not: load it again.
    fn put(
        &self,
        record: &Record,
        over: Option<&Version>,
    ) -> impl Future<Output = Result<Version, StoreError>> + Send;

    /// Deletes the record of this version.
    fn delete(&self, id: &str, version: &Version) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// An account by its id; `None`: there is none.
    fn account(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<Option<Stored<AccountRecord>>, StoreError>> + Send;

    /// As [`Self::put`].
    fn put_account(
        &self,
        id: &str,
        account: &AccountRecord,
        over: Option<&Version>,
    ) -> impl Future<Output = Result<Version, StoreError>> + Send;
}

/// What a store gives out beside the thing itself, to be shown when it is replaced: a resourceVersion, or a hash.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Version(pub String);

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored<T> {
    pub value: T,
    pub version: Version,
}

#[derive(Debug, Default)]
pub struct Loaded {
    pub records: Vec<Stored<Record>>,
    /// What is there and not understood, by its id, and why: nothing is ordered in its place.
    pub broken: Vec<(String, String)>,
}

/// Why the store cannot be read or written. Nothing is done at the CA that is not stored first.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote it: load it again, and plan anew.
    #[error("{place} was written by somebody else meanwhile")]
    Moved { place: String },
    #[error("another process ({holder}) works on {}; stop it, or name another directory", directory.display())]
    Locked { directory: PathBuf, holder: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{place}: {why}")]
    Broken { place: String, why: String },
    /// Of a store elsewhere.
    #[error("{place}: {why}")]
    Api { place: String, why: String },
}
