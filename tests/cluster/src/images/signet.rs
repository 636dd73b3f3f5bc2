//! Our own image, as users get it: two static programs and nothing else.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    build::{Built, Image, build, host_architecture},
    catalogue::{NONROOT, Recipe, words},
    layout::Layout,
    oci::{Config, Platform},
};
use crate::paths;

/// From the binaries that the tests build anyway.
pub const SIGNET_DEV: &str = "signet.test/signet:dev";
/// A proxy that believes everybody to be who is expected (`scripts/build-tests.sh`): a test passes with it that must fail.
pub const SIGNET_MUTANT: &str = "signet.test/signet:mutant";
/// What is in the image that ships; the first is the entrypoint.
const SHIPPED: [&str; 3] = ["signet", "signet-proxy", "signet-gateway"];
/// The counterparts of [`crate::fixtures`], for pods.
pub const CLUSTER_DEV: &str = "signet.test/cluster:dev";

/// The images for the cluster's own tests. `binaries` is the directory that cargo left everything in, `mutant` the one of the proxy
/// without the check of identities, where it was built.
pub fn build_dev(binaries: &Path, mutant: Option<&Path>, progress: &dyn Fn(&str)) -> Result<()> {
    let binaries = [(host_architecture(), binaries)];
    let installed = format!("signet.dev/signet:{}", signet_core::VERSION); // what `signet install` names
    image(&[SIGNET_DEV, &installed], &SHIPPED, &binaries, progress)?;
    if let Some(mutant) = mutant {
        image(&[SIGNET_MUTANT], &["signet-proxy"], &[(host_architecture(), mutant)], progress)?;
    }
    image(&[CLUSTER_DEV], &["signet-cluster"], &binaries, progress).map(drop)
}

/// The image that ships, also as an OCI archive; `binaries` has one directory for each architecture (amd64, arm64).
/// One architecture is an image, several are one index over an image each.
pub fn build_signet_release(binaries: &[(&str, &Path)], progress: &dyn Fn(&str)) -> Result<(Image, PathBuf)> {
    let name = format!("signet.test/signet:{}", signet_core::VERSION);
    let built = image(&[&name], &SHIPPED, binaries, progress)?;
    let architectures: Vec<&str> = binaries.iter().map(|(architecture, _)| *architecture).collect();
    let archive = format!("signet-{}-{}.tar", signet_core::VERSION, architectures.join("-"));
    let archive = paths::images()?.join(archive);
    Layout::at(paths::images()?).export(&name, &built.descriptor, &archive)?;
    Ok((built.image, archive))
}

/// Nothing but `programs`, each at the root under its own name; the first is the entrypoint.
fn image(
    names: &[&str],
    programs: &[&str],
    binaries: &[(&str, &Path)],
    progress: &dyn Fn(&str),
) -> Result<Built> {
    let entrypoint = programs.first().map(|program| format!("/{program}"));
    let mut recipes = Vec::new();
    for (architecture, directory) in binaries {
        let mut recipe = Recipe {
            names: words(names),
            config: Config {
                user: NONROOT.to_owned(),
                entrypoint: entrypoint.iter().cloned().collect(),
                ..Config::default()
            },
            ..Recipe::default()
        };
        for program in programs {
            let path = directory.join(program);
            ensure_static(&path, architecture)?;
            recipe.programs.push((path, format!("/{program}")));
        }
        recipes.push((Platform::linux(architecture), recipe));
    }
    build(&Layout::create(paths::images()?)?, &recipes, progress)
}

/// An ELF file for that architecture that asks for no loader: the image has none.
fn ensure_static(path: &Path, architecture: &str) -> Result<()> {
    let file =
        File::open(path).with_context(|| format!("{} (cargo build leaves it there)", path.display()))?;
    let mut start = Vec::new();
    file.take(ELF_START_BYTES).read_to_end(&mut start)?;
    let elf = Elf::parse(&start).with_context(|| format!("{} is no 64-bit ELF file", path.display()))?;
    ensure!(
        elf.architecture == architecture,
        "{} is for {}, not {architecture}",
        path.display(),
        elf.architecture
    );
    if elf.has_interpreter {
        bail!("{} is linked dynamically; build it as scripts/env.sh says (+crt-static)", path.display());
    }
    Ok(())
}

struct Elf {
    architecture: &'static str,
    has_interpreter: bool,
}

impl Elf {
    /// Offsets: elf(5), Elf64_Ehdr and Elf64_Phdr, little-endian.
    fn parse(start: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u16::from_le_bytes(start.get(at..at + 2)?.try_into().ok()?));
        let headers = usize::try_from(u64::from_le_bytes(start.get(32..40)?.try_into().ok()?)).ok()?;
        let (size, count) = (usize::from(number(54)?), usize::from(number(56)?));
        (start.get(..6)? == b"\x7fELF\x02\x01").then_some(())?;
        let architecture = match number(18)? {
            62 => "amd64",
            183 => "arm64",
            _ => "another architecture",
        };
        let mut has_interpreter = false;
        for header in 0..count {
            let kind = start.get(headers.checked_add(header * size)?..)?.get(..4)?;
            has_interpreter |= kind == PT_INTERP;
        }
        Some(Self { architecture, has_interpreter })
    }
}

const PT_INTERP: &[u8] = &[3, 0, 0, 0];

const ELF_START_BYTES: u64 = 8 * 1024; // the program headers follow the file header: about 15 of 56 bytes

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_that_needs_a_loader_or_another_processor_is_refused() {
        let directory = std::env::temp_dir().join(format!("signet-elf-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("program");
        let elf = |machine: u8, kind: u8| {
            let mut elf = [&b"\x7fELF\x02\x01"[..], &[0; 58], &[kind, 0, 0, 0], &[0; 52]].concat();
            (elf[18], elf[32], elf[54], elf[56]) = (machine, 64, 56, 1);
            elf
        };
        for (content, want) in [
            (elf(62, 1), None),
            (elf(62, 3), Some("is linked dynamically")),
            (elf(183, 1), Some("is for arm64, not amd64")),
            (b"#!/bin/sh\n".to_vec(), Some("is no 64-bit ELF file")),
            (elf(62, 1)[..100].to_vec(), None), // the type of the only header is there
            (elf(62, 1)[..66].to_vec(), Some("is no 64-bit ELF file")),
        ] {
            fs::write(&path, content).unwrap();
            let got = ensure_static(&path, "amd64").err().map(|error| error.to_string());
            match want {
                Some(want) => assert!(got.as_ref().is_some_and(|got| got.contains(want)), "{got:?}, {want}"),
                None => assert_eq!(got, None),
            }
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
