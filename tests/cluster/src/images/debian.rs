//! Debian packages and everything they depend on, as files: no dpkg, no scripts of packages, no services.
//! Which versions that are is apt's answer for this machine's sources; the archives are kept in `<cache>/debs`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use signet_core::files;

use super::layer::Layer;
use crate::{
    paths,
    run::{output, run},
    sha256::Sha256,
};

/// One package in one version, and the name of its archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    version: String,
    /// `<name>_<version>_<architecture>.deb`, with `%3a` for the colon of an epoch.
    pub(crate) archive: String,
}

/// `names` with all that they need, as if nothing were installed, except the packages that `without` begins the name of.
/// apt is asked again when its lists have changed.
pub(crate) fn closure(names: &[&str], without: &[&str]) -> Result<Vec<Package>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut key = Sha256::default();
    key.field(format!("{names:?} {without:?} {NEVER:?} {:?}", lists()?).as_bytes());
    let answer = own_directory()?.join(format!("closure-{}", key.hex()));
    if let Ok(archives) = fs::read_to_string(&answer) {
        return archives.lines().map(|archive| package(archive).context("not ours")).collect();
    }
    let mut install = apt_get()?;
    install.args(["--print-uris", "--yes", "--no-install-recommends", "install"]).args(names);
    let printed = output(&mut install).with_context(|| {
        format!("apt cannot say what {} needs; are its lists there? (apt-get update)", names.join(" "))
    })?;
    let mut packages: Vec<Package> = printed.lines().filter_map(archive).filter_map(package).collect();
    packages.retain(|package| !NEVER.iter().chain(without).any(|prefix| package.name.starts_with(prefix)));
    packages.sort_by(|a, b| a.archive.cmp(&b.archive));
    ensure!(!packages.is_empty(), "apt named no archive for {}:\n{printed}", names.join(" "));
    let archives: Vec<&str> = packages.iter().map(|package| package.archive.as_str()).collect();
    files::write_atomic(&answer, archives.join("\n").as_bytes(), files::PUBLIC)?;
    Ok(packages)
}

/// Adds the packages' files to the layer; downloads the archives that are not there yet.
pub(crate) fn unpack(packages: &[Package], layer: &mut Layer) -> Result<()> {
    let directory = paths::debs()?;
    let missing: Vec<String> = packages
        .iter()
        .filter(|package| !directory.join(&package.archive).is_file())
        .map(|package| format!("{}={}", package.name, package.version))
        .collect();
    if !missing.is_empty() {
        let mut download = apt_get()?;
        download.args(["-o", "Acquire::Retries=3", "download"]).args(&missing).current_dir(&directory);
        run(&mut download).with_context(|| {
            format!(
                "apt cannot download {}; offline, or is its list old? (apt-get update)",
                missing.join(" ")
            )
        })?;
    }
    for package in packages {
        unpack_one(&directory.join(&package.archive), layer)
            .with_context(|| format!("unpack {}", package.archive))?;
    }
    Ok(())
}

fn unpack_one(archive: &Path, layer: &mut Layer) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("dpkg-deb (package dpkg) opens Debian's archives; this machine has none")?;
    let files = dpkg.stdout.take().context("its stdout is a pipe")?;
    let unpacked = layer.unpack(files, is_dropped);
    let status = dpkg.wait()?;
    unpacked?;
    ensure!(
        status.success(),
        "dpkg-deb: {status}; remove the archive, it may be cut off: {}",
        archive.display()
    );
    Ok(())
}

fn is_dropped(path: &str) -> bool {
    DROPPED.iter().any(|prefix| path.starts_with(prefix))
        || DROPPED_BELOW.iter().any(|part| path.contains(part))
}

/// apt that believes nothing to be installed, and leaves the machine's own state and caches alone.
fn apt_get() -> Result<Command> {
    let own = own_directory()?;
    let status = own.join("status");
    if !status.exists() {
        fs::write(&status, "")?;
    }
    let mut apt_get = Command::new("apt-get");
    apt_get.env("LC_ALL", "C").args(["-q", "-o", "Debug::NoLocking=1"]);
    for (option, path) in [("Dir::State::status", &status), ("Dir::Cache", &own)] {
        apt_get.arg("-o").arg(format!("{option}={}", path.display()));
    }
    Ok(apt_get)
}

fn own_directory() -> Result<PathBuf> {
    let own = paths::debs()?.join(".apt");
    fs::create_dir_all(own.join("archives/partial")).with_context(|| own.display().to_string())?;
    Ok(own)
}

/// Name and time of every list of packages that apt has.
fn lists() -> Result<Vec<(OsString, SystemTime)>> {
    let entries = fs::read_dir(LISTS)
        .with_context(|| format!("{LISTS}: the images' packages come from apt; this machine has none"))?;
    let mut lists = Vec::new();
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            lists.push((entry.file_name(), metadata.modified()?));
        }
    }
    lists.sort();
    Ok(lists)
}

/// From a line of `--print-uris`: `'<uri>' <archive> <size> <hash>`.
fn archive(line: &str) -> Option<&str> {
    line.strip_prefix('\'')?.split_once("' ")?.1.split(' ').next()
}

fn package(archive: &str) -> Option<Package> {
    let mut parts = archive.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(Package { name: name.to_owned(), version: version.replace("%3a", ":"), archive: archive.to_owned() })
}

const LISTS: &str = "/var/lib/apt/lists";

/// By the beginning of the name: what Debian needs to manage a machine, which an image is not.
const NEVER: [&str; 24] = [
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "libfile-find-rule-perl",
    "libgdbm",
    "libjson-perl",
    "libnumber-compare-perl",
    "libpam-modules",
    "libperl",
    "libsemanage",
    "libsepol",
    "libtext-glob-perl",
    "lsb-base",
    "netbase",
    "passwd",
    "perl",
    "readline-common",
    "sensible-utils",
    "ssl-cert",
    "sysvinit-utils",
    "tar",
    "ucf",
    "usrmerge",
];

/// By the beginning of the path: what no program of ours reads.
const DROPPED: [&str; 18] = [
    "etc/cron",
    "etc/default/",
    "etc/init.d/",
    "etc/logrotate.d/",
    "etc/ufw/",
    "usr/lib/systemd/",
    "usr/lib/tmpfiles.d/",
    "usr/share/bash-completion/",
    "usr/share/bug/",
    "usr/share/doc",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/perl",
    "usr/share/zoneinfo/posix/",
    "usr/share/zoneinfo/right/",
    "var/",
];

/// Likewise, anywhere in the path: character sets other than UTF-8, PostgreSQL's input for its JIT.
const DROPPED_BELOW: [&str; 2] = ["/gconv/", "/bitcode/"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_print_uris_names_package_version_and_archive() {
        let line = "'http://deb.debian.org/debian/pool/main/z/zlib/zlib1g_1.2.13_amd64.deb' \
                    zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86684 SHA256:00";
        let want = Package {
            name: "zlib1g".to_owned(),
            version: "1:1.2.13.dfsg-1".to_owned(),
            archive: "zlib1g_1%3a1.2.13.dfsg-1_amd64.deb".to_owned(),
        };
        assert_eq!(archive(line).and_then(package), Some(want));
        for other in ["Reading package lists...", "'uri' no-archive 1 SHA256:00", "", "'"] {
            assert_eq!(archive(other).and_then(package), None, "{other}");
        }
    }
}
