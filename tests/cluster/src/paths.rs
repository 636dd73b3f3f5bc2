//! Where things are: what is built once and kept, and what one cluster writes.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

/// `$SIGNET_CACHE`, or `~/.cache/signet`: survives checkouts, may be deleted at any time.
pub fn cache() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("SIGNET_CACHE") {
        return Ok(cache.into());
    }
    Ok(PathBuf::from(env::var_os("HOME").context("neither SIGNET_CACHE nor HOME is set")?)
        .join(".cache/signet"))
}

/// Everything that the cluster called `name` writes. Has to be on a filesystem that overlayfs takes as its upper layer.
pub fn state(name: &str) -> Result<PathBuf> {
    Ok(cache()?.join("clusters").join(name))
}

/// What `programs` has built, one directory each.
pub(crate) fn programs() -> Result<PathBuf> {
    Ok(cache()?.join("programs"))
}

/// The OCI image layout with every image, which `registry` serves.
pub fn images() -> Result<PathBuf> {
    Ok(cache()?.join("images"))
}

/// Python's wheels, as downloaded.
pub(crate) fn wheels() -> Result<PathBuf> {
    Ok(cache()?.join("wheels"))
}

/// Debian's archives, as downloaded.
pub(crate) fn debs() -> Result<PathBuf> {
    Ok(cache()?.join("debs"))
}
