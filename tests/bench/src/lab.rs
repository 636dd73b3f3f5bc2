//! What all systems of a run share: the network, the programs, certificates, Signet's control plane.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
};

use crate::{
    backend,
    net::Net,
    pki::{Files, Pki},
    results,
    side::Both,
    signet::ControlPlane,
};

pub struct Lab {
    pub net: Net,
    /// Configs, logs and state of this run; of the last one, until the next begins.
    pub directory: PathBuf,
    pub programs: Programs,
    /// Of the peers' mesh.
    pub pki: Pki,
    pub peers: Both<Files>,
    control: Option<ControlPlane>,
    _lock: Flock<File>,
}

/// What is measured, and with what.
#[derive(Clone, Debug)]
pub struct Programs {
    pub signet: PathBuf,
    pub proxy: PathBuf,
    /// The build with X25519 alone.
    pub x25519_proxy: Option<PathBuf>,
    /// Another build of signet-proxy, to be measured beside the first.
    pub other_proxy: Option<PathBuf>,
    pub envoy: PathBuf,
}

impl Lab {
    /// `with_signet`: starts CA and controller too.
    pub fn new(directory: &Path, programs: Programs, with_signet: bool) -> Result<Self> {
        let lock = begin(directory)?;
        let programs = programs.pinned(directory)?;
        let net = Net::new()?;
        backend::start(&net)?;
        let pki = Pki::new()?;
        let peers = Both { client: pki.write(directory, "client")?, server: pki.write(directory, "server")? };
        let control = match with_signet {
            true => Some(ControlPlane::start(&net, directory, &programs.signet)?),
            false => None,
        };
        Ok(Self { net, directory: directory.to_owned(), programs, pki, peers, control, _lock: lock })
    }

    pub fn control(&self) -> Result<&ControlPlane> {
        self.control.as_ref().context("this run has no control plane; name signet in --systems")
    }
}

impl Programs {
    /// What they say about themselves.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let others = [("signet-x25519", &self.x25519_proxy), ("signet-other", &self.other_proxy)];
        let others = others.into_iter().filter_map(|(name, path)| Some((name, path.as_deref()?)));
        results::versions(&self.envoy, [("signet-proxy", &*self.proxy)].into_iter().chain(others))
    }

    /// Copies of our own builds: somebody may build while they are measured, for half an hour.
    fn pinned(self, directory: &Path) -> Result<Self> {
        let copy = |name: &str, from: &Path| pinned(from, &directory.join(name));
        let maybe = |name: &str, from: Option<PathBuf>| from.map(|from| copy(name, &from)).transpose();
        Ok(Self {
            signet: copy("signet-bin", &self.signet)?,
            proxy: copy("signet-proxy", &self.proxy)?,
            x25519_proxy: maybe("signet-proxy-x25519", self.x25519_proxy)?,
            other_proxy: maybe("signet-proxy-other", self.other_proxy)?,
            envoy: self.envoy,
        })
    }
}

/// A copy of one of our builds.
pub fn pinned(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::copy(from, to).with_context(|| format!("copy {}; scripts/bench-*.sh build it", from.display()))?;
    Ok(to.to_owned())
}

/// Descriptors, the only place at this machine, and an empty directory.
pub(crate) fn begin(directory: &Path) -> Result<Flock<File>> {
    raise_descriptors()?;
    let lock = lock()?;
    let _ = fs::remove_dir_all(directory); // the last run's; none at the first
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    Ok(lock)
}

/// Two runs at once would measure each other, whatever their directories.
fn lock() -> Result<Flock<File>> {
    let path = std::env::temp_dir().join("signet-bench.lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| anyhow!("{}: {error}; another run is measuring", path.display()))
}

/// 8 000 connections are 16 000 descriptors of a proxy, and of ours.
fn raise_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < DESCRIPTORS {
        bail!("the limit of descriptors is {hard}, and {DESCRIPTORS} are needed (ulimit -Hn)");
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

const DESCRIPTORS: u64 = 18_000;
