//! What is measured: a way from the client's app to the backend.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    backend,
    lab::{Lab, Programs},
    net::address,
    peers, proc,
    process::Process,
    side::{Both, Side},
    signet::Pair,
};

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum System {
    /// No proxy.
    Direct,
    /// Plain TCP.
    Haproxy,
    Nginx,
    Envoy,
    /// Envoy with the key exchange that Signet ships.
    EnvoyMlkem,
    Signet,
    /// Built with X25519 alone.
    SignetX25519,
    /// The build of `--other-proxy`.
    SignetOther,
}

impl System {
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Haproxy,
        Self::Nginx,
        Self::Envoy,
        Self::EnvoyMlkem,
        Self::Signet,
        Self::SignetX25519,
        Self::SignetOther,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::EnvoyMlkem => "envoy-mlkem",
            Self::Signet => "signet",
            Self::SignetX25519 => "signet-x25519",
            Self::SignetOther => "signet-other",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.word() == word)
    }

    pub fn is_signet(self) -> bool {
        matches!(self, Self::Signet | Self::SignetX25519 | Self::SignetOther)
    }

    /// Whether what crosses the link is encrypted.
    pub fn is_mtls(self) -> bool {
        !matches!(self, Self::Direct | Self::Haproxy)
    }

    /// What its servers must choose; `None`: nothing, or whatever a build says.
    pub fn key_exchange(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Haproxy | Self::SignetOther => None,
            Self::Nginx | Self::Envoy | Self::SignetX25519 => Some(X25519),
            Self::EnvoyMlkem | Self::Signet => Some(MLKEM),
        }
    }

    /// Starts it, and returns when it carries.
    pub fn start(self, lab: &Lab) -> Result<Running> {
        let mut running = self.launch(lab)?;
        running.wait(lab)?;
        Ok(running)
    }

    /// A pair of its own for first contacts: each of `ports` is a destination that nobody has called yet. `None`: this
    /// system makes a handshake for each connection anyway.
    pub fn start_untouched(self, lab: &Lab, ports: &[u16]) -> Result<Option<Running>> {
        match self.pair() {
            None => Ok(None),
            Some(pair) => self.signet(lab, pair + 1, ports).map(Some),
        }
    }

    /// Starts it; [`Running::wait`] says when it carries.
    pub fn launch(self, lab: &Lab) -> Result<Running> {
        let at = self.places();
        let started = |processes| Running {
            system: self,
            entries: vec![at.client],
            inbound: Some(at.server),
            processes: Some(processes),
            ready: None,
        };
        Ok(match self {
            Self::Direct => Running {
                system: self,
                entries: vec![backend::direct()],
                inbound: None,
                processes: None,
                ready: None,
            },
            Self::Haproxy => started(peers::haproxy(lab, at)?),
            Self::Nginx => started(peers::nginx(lab, at)?),
            Self::Envoy => started(peers::envoy(lab, "envoy", at, X25519)?),
            Self::EnvoyMlkem => started(peers::envoy(lab, "envoy-mlkem", at, MLKEM)?),
            Self::Signet | Self::SignetX25519 | Self::SignetOther => {
                self.signet(lab, self.pair().context("it has a pair")?, &[USUAL_PORT])?
            }
        })
    }

    fn signet(self, lab: &Lab, pair: u8, ports: &[u16]) -> Result<Running> {
        let Programs { proxy, x25519_proxy, other_proxy, .. } = &lab.programs;
        let proxy = match self {
            Self::SignetX25519 => x25519_proxy.as_ref().context("signet-x25519 needs --x25519-proxy")?,
            Self::SignetOther => other_proxy.as_ref().context("signet-other needs --other-proxy")?,
            _ => proxy,
        };
        let Pair { processes, ready, entries, inbound } = Pair::start(lab, proxy, pair, ports)?;
        let (inbound, processes, ready) = (Some(inbound), Some(processes), Some(ready));
        Ok(Running { system: self, entries, inbound, processes, ready })
    }

    /// The first of its two pairs.
    fn pair(self) -> Option<u8> {
        match self {
            Self::Signet => Some(0),
            Self::SignetX25519 => Some(2),
            Self::SignetOther => Some(4),
            _ => None,
        }
    }

    fn places(self) -> peers::Places {
        let port = FIRST_PORT + 10 * self as u16;
        Both { client: SocketAddr::from(([127, 0, 0, 1], port)), server: SocketAddr::new(address(2), port) }
    }
}

/// A system that carries. Dropped, its proxies are killed.
pub struct Running {
    pub system: System,
    /// Where the client's app dials: more than one for first contacts only.
    pub entries: Vec<SocketAddr>,
    /// The server's proxy, on the link.
    pub inbound: Option<SocketAddr>,
    pub processes: Option<Both<Process>>,
    /// Signet's time from start to ready.
    pub ready: Option<Both<Duration>>,
}

impl Running {
    pub fn entry(&self) -> Result<SocketAddr> {
        self.entries.first().copied().context("a system has an entry")
    }

    /// Until both proxies accept.
    pub fn wait(&mut self, lab: &Lab) -> Result<()> {
        let (entry, inbound) = (self.entry()?, self.inbound);
        let Some(processes) = &mut self.processes else { return Ok(()) };
        let accepts =
            |side, at: SocketAddr| lab.net.within(side, || TcpStream::connect_timeout(&at, CONNECT).is_ok());
        processes.client.wait_until(|| accepts(Side::Client, entry))?;
        if let Some(inbound) = inbound {
            processes.server.wait_until(|| accepts(Side::Client, inbound))?;
        }
        Ok(())
    }

    /// CPU nanoseconds of both proxies so far.
    pub fn cpu(&self) -> Option<Both<u64>> {
        Some(self.pids()?.map(|pid| proc::cpu_nanoseconds(*pid)))
    }

    pub fn pids(&self) -> Option<Both<u32>> {
        self.processes.as_ref().map(|processes| processes.map(Process::pid))
    }

    /// An error when a proxy has ended meanwhile.
    pub fn check(&mut self) -> Result<()> {
        match &mut self.processes {
            Some(Both { client, server }) => client.check().and_then(|()| server.check()),
            None => Ok(()),
        }
    }

    pub fn stop(self) {
        // SIGTERM would let Signet drain for 25 s; nobody talks any more.
        let signal = if self.system.is_signet() { Signal::SIGKILL } else { Signal::SIGTERM };
        if let Some(Both { client, server }) = self.processes {
            client.end(signal);
            server.end(signal);
        }
    }
}

/// Reads "--systems a,b".
pub fn parse(list: &str) -> Result<Vec<System>> {
    let words = list.split(',').map(str::trim);
    words
        .map(|word| match System::parse(word) {
            Some(system) => Ok(system),
            None => {
                let known: Vec<&str> = System::ALL.iter().map(|system| system.word()).collect();
                bail!("no system is called {word:?}; there are {}", known.join(", "))
            }
        })
        .collect()
}

const X25519: &str = "X25519";
const MLKEM: &str = "X25519MLKEM768";
/// The port of Signet's usual pair, on both pods.
const USUAL_PORT: u16 = 8080;
/// Below the ephemeral ports of [`crate::net`].
const FIRST_PORT: u16 = 9100;
const CONNECT: Duration = Duration::from_secs(1);
