//! What is measured: an HTTPS proxy in front of the origin.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    edge::{gateway, lab::Lab, origin, peers},
    net::address,
    process::Process,
    side::Side,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum System {
    /// No proxy, no TLS: what load generator and origin can do.
    Direct,
    Haproxy,
    Nginx,
    Envoy,
    Signet,
    /// The build of `--other-gateway`.
    SignetOther,
}

impl System {
    pub const ALL: [Self; 6] =
        [Self::Direct, Self::Haproxy, Self::Nginx, Self::Envoy, Self::Signet, Self::SignetOther];

    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Signet => "signet",
            Self::SignetOther => "signet-other",
        }
    }

    pub fn is_signet(self) -> bool {
        matches!(self, Self::Signet | Self::SignetOther)
    }

    /// Debian's HAProxy and nginx have an OpenSSL without ML-KEM.
    pub fn knows_mlkem(self) -> bool {
        matches!(self, Self::Envoy | Self::Signet | Self::SignetOther)
    }

    /// Starts it; [`Running::wait`] says when it serves.
    pub fn launch(self, lab: &Lab) -> Result<Running> {
        let listen = SocketAddr::new(address(2), FIRST_PORT + 10 * self as u16);
        let peer = |process| Running { system: self, entry: listen, process: Some(process), ready: None };
        Ok(match self {
            Self::Direct => Running { system: self, entry: origin::at(), process: None, ready: None },
            Self::Haproxy => peer(peers::haproxy(lab, listen)?),
            Self::Nginx => peer(peers::nginx(lab, listen)?),
            Self::Envoy => peer(peers::envoy(lab, listen)?),
            Self::Signet => self.gateway(lab, 0)?,
            Self::SignetOther => self.gateway(lab, 1)?,
        })
    }

    fn gateway(self, lab: &Lab, number: u8) -> Result<Running> {
        let program = match self {
            Self::SignetOther => {
                lab.programs.other_gateway.as_ref().context("signet-other needs --other-gateway")?
            }
            _ => &lab.programs.gateway,
        };
        let gateway::Gateway { process, ready, entry } = gateway::start(lab, program, number)?;
        Ok(Running { system: self, entry, process: Some(process), ready: Some(ready) })
    }
}

/// A system that serves. Dropped, its proxy is killed.
pub struct Running {
    pub system: System,
    /// Where clients dial.
    pub entry: SocketAddr,
    pub process: Option<Process>,
    /// Signet's time from start to ready.
    pub ready: Option<Duration>,
}

impl Running {
    /// Until it accepts.
    pub fn wait(&mut self, lab: &Lab) -> Result<()> {
        let entry = self.entry;
        let Some(process) = &mut self.process else { return Ok(()) };
        let accepts = || {
            lab.net
                .within(Side::Client, || TcpStream::connect_timeout(&entry, Duration::from_secs(1)).is_ok())
        };
        process.wait_until(accepts)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.process.iter().map(Process::pid).collect()
    }

    /// An error when the proxy has ended meanwhile.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    pub fn stop(self) {
        // SIGTERM would let Signet go on for 10 s; nobody talks any more.
        let signal = if self.system.is_signet() { Signal::SIGKILL } else { Signal::SIGTERM };
        if let Some(process) = self.process {
            process.end(signal);
        }
    }
}

/// Reads "--systems a,b".
pub fn parse(list: &str) -> Result<Vec<System>> {
    let words = list.split(',').map(str::trim);
    words
        .map(|word| match System::ALL.into_iter().find(|system| system.word() == word) {
            Some(system) => Ok(system),
            None => {
                bail!("no system is called {word:?}; there are {}", System::ALL.map(System::word).join(", "))
            }
        })
        .collect()
}

/// Below the ephemeral ports of [`crate::net`].
const FIRST_PORT: u16 = 9500;
