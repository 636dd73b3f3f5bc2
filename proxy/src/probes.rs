//! Probes and hooks of the pod's app, asked by us because the kubelet is not in the mesh: it asks `/probe/<container>/<kind>`
//! on the pages' port, we ask the app as it would have done, from the pod itself. A strict app needs no exception.
//!
//! Only what the pod's own spec lists is asked; who asks chooses nothing else, and gets a status and our own words, never the
//! app's. What the app sees and what counts as success is the kubelet's (k8s.io/kubernetes/pkg/probe): [`http`], [`grpc`], or
//! that a connection succeeds.

mod grpc;
mod http;
mod https;
mod location;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::{HeaderValue, StatusCode};
use prometheus_client::metrics::{counter::Counter, family::Family};
use rustls::ClientConfig;
use signet_core::{
    pod::{Ask, Probe, ProbeKind},
    telemetry::Metrics,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tracing::{info, warn};

use signet_wire::socket;

use crate::{
    capture::OWN_PORTS,
    config::{Config, Workload},
};

/// What may be asked, by path.
pub struct Probes {
    listed: HashMap<String, Listed>,
    /// What every ask needs.
    pod: Pod,
    asked: Family<[(&'static str, &'static str); 2], Counter>,
}

struct Listed {
    probe: Probe,
    /// [`UNKNOWN`], [`PASSES`] or [`FAILS`]: a change is logged, not each ask.
    last: AtomicU8,
}

/// The pod as its probes see it.
struct Pod {
    workload: Workload,
    tls: Arc<ClientConfig>,
}

/// How the app took it, with a word for who reads the kubelet's events.
#[derive(Debug, Eq, PartialEq)]
pub enum Outcome {
    Passed(String),
    /// The app answered, with a status that is none of success. It is passed on: the kubelet tells it to its user.
    Refused(StatusCode, String),
    /// The app did not answer, or not in a way that makes sense.
    Failed(String),
}

/// What to tell who asked.
#[derive(Debug, Eq, PartialEq)]
pub enum Reply {
    Say(StatusCode, String),
    /// Nothing: a hook fails only by having no answer, whatever its status.
    Hang,
}

impl Probes {
    /// Errors: the TLS provider cannot do what HTTPS needs.
    pub fn new(config: &Config, metrics: &mut Metrics) -> Result<Arc<Self>, rustls::Error> {
        let listed = |probe: &Probe| (probe.path(), Listed { probe: probe.clone(), last: UNKNOWN.into() });
        let help = "Probes and hooks that were asked from the app, and how it took them";
        Ok(Arc::new(Self {
            listed: config.probes.iter().map(listed).collect(),
            pod: Pod { workload: config.workload.clone(), tls: https::unverified()? },
            asked: metrics.add("probes", help, Family::default()),
        }))
    }

    /// Asks what is listed at `path`; `None`: nothing. `agent`: how who asks calls itself.
    pub async fn ask(&self, path: &str, agent: Option<&HeaderValue>) -> Option<Reply> {
        let Listed { probe, last } = self.listed.get(path)?;
        let patience = Duration::from_secs(probe.timeout_seconds.into());
        let agent = agent.filter(|agent| is_the_kubelets(agent)).cloned();
        let agent = agent.unwrap_or_else(|| HeaderValue::from_static(AGENT));
        let asked = timeout(patience, Box::pin(self.pod.ask(&probe.ask, agent)));
        let outcome = asked.await.unwrap_or_else(|_| {
            Outcome::Failed(format!("{}: no answer within {patience:?}", self.pod.target(&probe.ask)))
        });
        self.note(probe, last, &outcome);
        Some(reply(probe.kind, outcome))
    }

    fn note(&self, probe: &Probe, last: &AtomicU8, outcome: &Outcome) {
        let (now, result) =
            if matches!(outcome, Outcome::Passed(_)) { (PASSES, "passed") } else { (FAILS, "failed") };
        self.asked.get_or_create(&[("kind", probe.kind.word()), ("result", result)]).inc();
        if last.swap(now, Relaxed) == now {
            return;
        }
        let path = probe.path();
        match outcome {
            Outcome::Passed(_) => info!(probe = path, "passes"),
            Outcome::Refused(_, why) | Outcome::Failed(why) => warn!(probe = path, why, "fails"),
        }
    }
}

impl Pod {
    async fn ask(&self, ask: &Ask, agent: HeaderValue) -> Outcome {
        match ask {
            Ask::Http(ask) => http::ask(self, ask, agent).await,
            Ask::Tcp { port, host } => match self.dial(host.as_deref(), *port).await {
                Ok(_connected) => Outcome::Passed("connected".into()),
                Err(why) => Outcome::Failed(format!("{}: {why}", self.target(ask))),
            },
            Ask::Grpc { port, service } => grpc::ask(self, *port, service, agent).await,
        }
    }

    /// The pod's own address unless the spec says another host.
    fn host(&self, host: Option<&str>) -> String {
        host.filter(|host| !host.is_empty()).map_or_else(|| self.workload.address.to_string(), str::to_owned)
    }

    /// What is asked, for people.
    fn target(&self, ask: &Ask) -> String {
        match ask {
            Ask::Http(ask) => format!("GET {}", http::url(self, ask)),
            Ask::Tcp { port, host } => format!("dial tcp {}", authority(&self.host(host.as_deref()), *port)),
            Ask::Grpc { port, .. } => format!("dial tcp {}", authority(&self.host(None), *port)),
        }
    }

    /// The first address of `host` that answers. Never one of our own listeners, which would ask us again.
    async fn dial(&self, host: Option<&str>, port: u16) -> io::Result<TcpStream> {
        let host = self.host(host);
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let addresses: Vec<SocketAddr> = match literal {
            Ok(address) => vec![(address, port).into()],
            Err(_) => lookup_host((host.as_str(), port)).await?.collect(),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            if self.is_our_own(address) {
                return Err(io::Error::other("that port is the proxy's own"));
            }
            match socket::dial(address, None, LONGEST).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn is_our_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let here = ip.is_loopback() || ip.is_unspecified() || self.workload.has(ip);
        here && OWN_PORTS.contains(&address.port())
    }
}

fn reply(kind: ProbeKind, outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Passed(text) => Reply::Say(StatusCode::OK, text),
        Outcome::Refused(status, text) => Reply::Say(status, text),
        Outcome::Failed(_) if matches!(kind, ProbeKind::PostStart | ProbeKind::PreStop) => Reply::Hang,
        Outcome::Failed(text) => Reply::Say(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// Whether it is a name that the kubelet has: "kube-probe/1.37", "kube-lifecycle/1.37". Strangers reach the page, and must not
/// write to an app that may be strict.
fn is_the_kubelets(agent: &HeaderValue) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'+');
    let name = agent.as_bytes();
    (name.starts_with(b"kube-probe/") || name.starts_with(b"kube-lifecycle/"))
        && name.len() <= MAX_AGENT
        && name.iter().all(plain)
}

/// "10.0.0.1:80", "[fd00::1]:80".
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Words of the app or of a library, short and on one line.
fn in_short(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}

const UNKNOWN: u8 = 0;
const PASSES: u8 = 1;
const FAILS: u8 = 2;
/// For who does not say that it is the kubelet.
const AGENT: &str = "kube-probe/signet";
const MAX_AGENT: usize = 64;
/// Of one dial; the probe's own limit is around it, and longer ones are for hooks that work a while.
const LONGEST: Duration = Duration::from_secs(30);
const SHOWN: usize = 256;

#[cfg(test)]
mod tests;
