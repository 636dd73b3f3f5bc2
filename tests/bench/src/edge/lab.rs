//! What all systems of a run share: the network, the programs, the certificate, the origin, Signet's control plane.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::fcntl::Flock;

use crate::{
    edge::{gateway::ControlPlane, offer::HOST, origin::Origin},
    lab::{begin, pinned},
    net::Net,
    pki::{Files, Pki},
    results,
};

pub struct Lab {
    pub net: Net,
    /// Configs and logs of this run; of the last one, until the next begins.
    pub directory: PathBuf,
    pub programs: Programs,
    /// The certificate of [`HOST`], the same for every system.
    pub web: Files,
    pub pki: Pki,
    pub origin: Origin,
    control: Option<ControlPlane>,
    _lock: Flock<File>,
}

/// What is measured, and with what.
#[derive(Clone, Debug)]
pub struct Programs {
    /// For CA and edge.
    pub signet: PathBuf,
    pub gateway: PathBuf,
    /// Another build of signet-gateway, to be measured beside the first.
    pub other_gateway: Option<PathBuf>,
    pub envoy: PathBuf,
}

impl Lab {
    /// `with_signet`: starts CA and edge too.
    pub fn new(directory: &Path, programs: Programs, with_signet: bool) -> Result<Self> {
        let lock = begin(directory)?;
        let programs = programs.pinned(directory, with_signet)?;
        let net = Net::new()?;
        let origin = Origin::start(&net)?;
        let pki = Pki::new()?;
        let web = pki.write_host(directory, HOST)?;
        let control = match with_signet {
            true => Some(ControlPlane::start(&net, directory, &programs.signet, &web)?),
            false => None,
        };
        Ok(Self { net, directory: directory.to_owned(), programs, web, pki, origin, control, _lock: lock })
    }

    pub fn control(&self) -> Result<&ControlPlane> {
        self.control.as_ref().context("this run has no control plane; name signet in --systems")
    }
}

impl Programs {
    /// Copies of our own builds, where they take part: somebody may build while they are measured.
    fn pinned(self, directory: &Path, with_signet: bool) -> Result<Self> {
        if !with_signet {
            return Ok(self);
        }
        let other = self.other_gateway.map(|from| pinned(&from, &directory.join("signet-gateway-other")));
        Ok(Self {
            signet: pinned(&self.signet, &directory.join("signet-bin"))?,
            gateway: pinned(&self.gateway, &directory.join("signet-gateway"))?,
            other_gateway: other.transpose()?,
            envoy: self.envoy,
        })
    }

    /// What they say about themselves.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let other = self.other_gateway.as_deref().map(|other| ("signet-other", other));
        results::versions(&self.envoy, [("signet-gateway", &*self.gateway)].into_iter().chain(other))
    }
}
