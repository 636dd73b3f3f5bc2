//! Python's packages as files: wheels from PyPI in the versions and with the hashes that a requirements file pins, unpacked by pip.
//! Wheels run nothing when they are unpacked. They are kept in `<cache>/wheels`, one directory for each content of such a file.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::layer::Layer;
use crate::{paths, run::run, sha256::Sha256};

/// Adds what `requirements` names to the layer, where Debian's python3 looks for it; downloads the wheels that are not there yet.
/// `architecture` as OCI says it.
pub(super) fn unpack(requirements: &str, architecture: &str, layer: &mut Layer) -> Result<()> {
    let platforms = platforms(architecture)?;
    let wheels = wheels(requirements, &platforms)?;
    let unpacked = Scratch::create(paths::wheels()?.join(format!("unpacked-{:016x}", fastrand::u64(..))))?;
    let mut install = pip("install", &wheels.join(REQUIREMENTS), &platforms);
    install.args(["--no-compile", "--no-index", "--root-user-action=ignore", "--target"]).arg(&unpacked.0);
    install.arg("--find-links").arg(&wheels);
    run(&mut install).context("unpack Python's wheels")?;
    add(layer, &unpacked.0, "")
}

/// The directory with the wheels, complete.
fn wheels(requirements: &str, platforms: &[String]) -> Result<PathBuf> {
    let mut key = Sha256::default();
    key.field(requirements.as_bytes());
    key.field(platforms.concat().as_bytes());
    let wheels = paths::wheels()?.join(key.hex());
    if wheels.is_dir() {
        return Ok(wheels);
    }
    // Made beside it and moved: one that was cut off is not taken for a whole one.
    let new = Scratch::create(wheels.with_extension(format!("{:016x}", fastrand::u64(..))))?;
    fs::write(new.0.join(REQUIREMENTS), requirements)?;
    let mut download = pip("download", &new.0.join(REQUIREMENTS), platforms);
    download.arg("--dest").arg(&new.0);
    run(&mut download).context("download Python's wheels")?;
    match fs::rename(&new.0, &wheels) {
        Err(_) if wheels.is_dir() => Ok(wheels), // somebody else was quicker
        Err(error) => Err(error).with_context(|| wheels.display().to_string()),
        Ok(()) => Ok(wheels),
    }
}

/// pip for the image's Python and libc, whatever this machine's are: only wheels, only those that are named, each with its hash.
fn pip(what: &str, requirements: &Path, platforms: &[String]) -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", what, "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    pip.args(["--require-hashes", "--only-binary", ":all:", "--implementation", "cp"]);
    pip.args(["--python-version", PYTHON]);
    for platform in platforms {
        pip.args(["--platform", platform]);
    }
    pip.arg("-r").arg(requirements);
    pip
}

/// What wheels call a machine of this architecture with Debian 12's glibc 2.36, the newest first (PEP 600).
fn platforms(architecture: &str) -> Result<Vec<String>> {
    let machine = match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => bail!("no wheels are pinned for {other}"),
    };
    Ok(["manylinux_2_28", "manylinux_2_17", "manylinux2014"].map(|libc| format!("{libc}_{machine}")).into())
}

/// Copies a directory of what pip has unpacked; `inside` is its path there.
fn add(layer: &mut Layer, directory: &Path, inside: &str) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a name that is no UTF-8")?;
        let path = if inside.is_empty() { name } else { format!("{inside}/{name}") };
        let Some(place) = place(&path) else { continue };
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            add(layer, &entry.path(), &path)?;
        } else {
            let is_program = metadata.permissions().mode() & 0o100 != 0;
            layer.file(&place, if is_program { 0o755 } else { 0o644 }, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Where a file goes that pip has put at this path: modules where Debian's python3 has its own, data below the prefix of that Python,
/// `/usr`. None: it stays out. Programs do (they name this machine's Python, and `python3 -m` runs them all), and what differs
/// with the machine that unpacked.
fn place(path: &str) -> Option<String> {
    let (first, _) = path.split_once('/').unwrap_or((path, ""));
    match first {
        "bin" => None,
        _ if path.ends_with(".dist-info/RECORD") || path.ends_with(".dist-info/direct_url.json") => None,
        "share" | "etc" => Some(format!("usr/{path}")),
        _ => Some(format!("usr/lib/python3/dist-packages/{path}")),
    }
}

/// A directory that is gone afterwards, unless it was moved away.
struct Scratch(PathBuf);

impl Scratch {
    fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // it was moved, or costs room only
    }
}

/// Beside the wheels.
const REQUIREMENTS: &str = "requirements.txt";
/// Debian 12's python3.
const PYTHON: &str = "3.11";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_go_where_debians_python_looks_and_what_names_the_builders_machine_stays_out() {
        for (path, want) in [
            ("six.py", Some("usr/lib/python3/dist-packages/six.py")),
            (
                "wsgidav/server/server_cli.py",
                Some("usr/lib/python3/dist-packages/wsgidav/server/server_cli.py"),
            ),
            (
                "six-1.17.0.dist-info/METADATA",
                Some("usr/lib/python3/dist-packages/six-1.17.0.dist-info/METADATA"),
            ),
            ("six-1.17.0.dist-info/RECORD", None),
            ("bin", None),
            ("bin/jupyter-lab", None),
            ("binary/bin/x.py", Some("usr/lib/python3/dist-packages/binary/bin/x.py")),
            (
                "share/jupyter/kernels/python3/kernel.json",
                Some("usr/share/jupyter/kernels/python3/kernel.json"),
            ),
            (
                "etc/jupyter/jupyter_server_config.d/a.json",
                Some("usr/etc/jupyter/jupyter_server_config.d/a.json"),
            ),
        ] {
            assert_eq!(place(path).as_deref(), want, "{path}");
        }
    }

    #[test]
    fn every_pin_has_a_hash_and_no_source_is_taken() {
        for requirements in [super::super::catalogue::JUPYTERLAB_PINS, super::super::catalogue::WSGIDAV_PINS]
        {
            let pins = requirements.replace("\\\n", "");
            for pin in pins.lines().filter(|line| !line.starts_with('#')) {
                assert!(pin.contains("==") && pin.contains("--hash=sha256:"), "{pin}");
            }
        }
        let pip = format!("{:?}", pip("install", Path::new("r"), &platforms("amd64").unwrap()));
        for flag in ["--require-hashes", "--no-deps", r#""--only-binary" ":all:""#, "manylinux_2_28_x86_64"] {
            assert!(pip.contains(flag), "{flag} is not in {pip}");
        }
        assert!(platforms("riscv64").is_err());
    }
}
