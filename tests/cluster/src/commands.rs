//! What `signet-cluster` does about the things that are made; what it does is said line by line on `progress`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{images, programs};

/// Programs and images, whatever is missing of them.
pub fn build(progress: &dyn Fn(&str)) -> Result<()> {
    let programs = programs::build_all(progress)?;
    images::build_all(&programs, progress).map(drop)
}

/// The image that ships. Each of `binaries` is `<architecture>=<directory with signet and signet-proxy>`.
pub fn image(binaries: &[String], progress: &dyn Fn(&str)) -> Result<()> {
    let binaries: Vec<(&str, &Path)> = binaries
        .iter()
        .map(|pair| pair.split_once('=').map(|(architecture, path)| (architecture, Path::new(path))))
        .collect::<Option<_>>()
        .context(
            "expected <architecture>=<directory>, like amd64=/target/x86_64-unknown-linux-gnu/release",
        )?;
    let (image, archive) = images::build_signet_release(&binaries, progress)?;
    let megabytes = image.size / 1_000_000;
    progress(&format!("{}\n{}\n{} ({megabytes} MB)", image.name, image.digest, archive.display()));
    Ok(())
}

/// The images for the cluster's own tests, from the binaries that cargo left in a directory; one of the mutant proxy too, when it is
/// there.
pub fn image_dev(binaries: &Path, mutant: Option<&Path>, progress: &dyn Fn(&str)) -> Result<()> {
    let mutant = mutant.filter(|proxy| proxy.is_file()).and_then(Path::parent);
    images::build_dev(binaries, mutant, progress)
}

/// The Gateway API conformance suite; returns the test binary.
pub fn conformance_build(progress: &dyn Fn(&str)) -> Result<PathBuf> {
    programs::build_conformance(progress)
}
