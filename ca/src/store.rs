//! Where the state lives: a directory ([`directory`]), or a Secret that several replicas share ([`crate::cluster::secret`]).
//! Either holds one JSON document, which is only ever replaced whole, and only by who knows the version that it replaces.

use std::{fmt, io, path::PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::state::{SCHEMA, State};

pub(crate) mod directory;

/// Calls block, on a disk or on the API server: not for async code.
pub(crate) trait Store: Send + Sync {
    /// `None`: there never was a CA here. A state that cannot be understood is an error, never a fresh start.
    fn load(&self) -> Result<Option<State>, StoreError>;

    /// Compare-and-swap: writes `next` if the stored state still has the version that `next` was made from (0: none yet),
    /// and returns it with the version that it now has. [`StoreError::Moved`] says that someone else was faster; after any
    /// other error it may be written or not.
    fn replace(&self, next: &State) -> Result<State, StoreError>;
}

/// Reads a stored state; `place` is for the error.
pub(crate) fn parse(text: &[u8], place: &dyn fmt::Display) -> Result<State, StoreError> {
    let broken = |why: String| StoreError::Broken { place: place.to_string(), why };
    let Schema { schema } = serde_json::from_slice(text).map_err(|e| broken(e.to_string()))?;
    if schema > SCHEMA {
        return Err(StoreError::Newer { place: place.to_string(), schema });
    }
    let mut state: State = serde_json::from_slice(text).map_err(|e| broken(e.to_string()))?;
    match schema {
        SCHEMA => {}
        // The same, but that every root had its key.
        1 if state.roots.iter().all(|root| root.key.is_some()) => state.schema = SCHEMA,
        _ => return Err(broken(format!("it does not keep to its schema, {schema}"))),
    }
    state.check().map_err(broken)?;
    Ok(state)
}

/// `next` as it is to be written over `found`, which must be what it was made from.
pub(crate) fn next_version(
    next: &State,
    found: Option<&State>,
    place: &dyn fmt::Display,
) -> Result<(State, Zeroizing<Vec<u8>>), StoreError> {
    let found = found.map_or(0, |state| state.version);
    if found != next.version {
        return Err(StoreError::Moved { place: place.to_string(), expected: next.version, found });
    }
    let next = State { version: found + 1, ..next.clone() };
    let json = serde_json::to_vec_pretty(&next)
        .map(Zeroizing::new)
        .map_err(|e| StoreError::Broken { place: place.to_string(), why: e.to_string() })?;
    Ok((next, json))
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

/// Why the state cannot be read or written. A CA that cannot write its state keeps issuing with what it has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("another CA (process {holder}) runs on {}; stop it, or name another --state", directory.display())]
    Locked { directory: PathBuf, holder: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{place}: {why}")]
    Api { place: String, why: String },
    #[error("{place} is not a CA's state: {why}; restore it from a backup (docs/ca.md)")]
    Broken { place: String, why: String },
    #[error("{place} has schema {schema}, this program knows {SCHEMA}; run the newer signet that wrote it")]
    Newer { place: String, schema: u32 },
    #[error("{place} is at version {found}, not {expected}: someone else wrote it; restart the CA")]
    Moved { place: String, expected: u64, found: u64 },
}

impl StoreError {
    /// Whether it may pass by itself, so that a CA that starts tries again.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Api { .. })
    }
}
