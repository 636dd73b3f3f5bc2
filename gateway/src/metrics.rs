//! The gateway's own numbers; those of requests are the engine's. Labels are our words and the host patterns of certificates that
//! edge sent, never what a client wrote.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicI64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use signet_core::telemetry::Metrics;

use crate::certificates::Certified;

/// How a connection came to its first request, or why it did not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Came {
    /// Plaintext.
    Plain,
    Handshake,
    /// With a ticket of ours.
    Resumed,
    /// A TLS-ALPN-01 challenge, answered: no request follows.
    AcmeChallenge,
    /// acme-tls/1 for a name that has no challenge: an alert.
    NoAcmeChallenge,
    /// No certificate for the name: an alert.
    UnrecognizedName,
    Failed,
    TimedOut,
    BadProxyHeader,
    TooManyConnections,
    TooManyHandshakes,
}

impl Came {
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Handshake => "handshake",
            Self::Resumed => "resumed",
            Self::AcmeChallenge => "acme_challenge",
            Self::NoAcmeChallenge => "no_acme_challenge",
            Self::UnrecognizedName => "unrecognized_name",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyHandshakes => "too_many_handshakes",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct HostLabel {
    host: String,
}

pub struct GatewayMetrics {
    came: Family<ResultLabel, Counter>,
    expiry: Family<HostLabel, Gauge<i64, AtomicI64>>,
    shown: Mutex<Vec<String>>,
    pub(crate) generation: Gauge,
    pub(crate) adopted: Gauge<i64, AtomicI64>,
    pub(crate) faults: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) clients: Gauge,
    pub(crate) ready: Gauge,
}

impl GatewayMetrics {
    pub fn new(metrics: &mut Metrics) -> Self {
        Self {
            came: metrics.add(
                "gateway_connections",
                "Connections that came, by how far they came",
                Family::default(),
            ),
            expiry: metrics.add(
                "gateway_certificate_not_after_seconds",
                "notAfter of the certificate presented for a host, Unix seconds",
                Family::default(),
            ),
            shown: Mutex::default(),
            generation: metrics.add(
                "gateway_model_generation",
                "Changes of what edge told us that were served",
                Gauge::default(),
            ),
            adopted: metrics.add(
                "gateway_model_adopted_seconds",
                "When the last of them was, Unix seconds",
                Gauge::default(),
            ),
            faults: metrics.add(
                "gateway_model_faults",
                "Parts of it that are not served as edge wants them; GET /v1/hosts names them",
                Gauge::default(),
            ),
            connections: metrics.add("gateway_connections_open", "Open client connections", Gauge::default()),
            clients: metrics.add(
                "gateway_clients",
                "Client addresses with an open connection (an IPv6 /64 is one)",
                Gauge::default(),
            ),
            ready: metrics.add("ready", "1: this gateway is ready", Gauge::default()),
        }
    }

    pub fn came(&self, came: Came) {
        self.came.get_or_create(&ResultLabel { result: came.word() }).inc();
    }

    /// Shows when each host's certificate expires, and no longer those of hosts that have none.
    pub(crate) fn certificates(&self, certificates: &[Arc<Certified>]) {
        let mut hosts = BTreeMap::new();
        for certified in certificates {
            for name in certified.names.iter() {
                hosts.entry(name.to_string()).or_insert(certified.facts.not_after); // by name, as presented
            }
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.iter().filter(|host| !hosts.contains_key(*host)) {
            self.expiry.remove(&HostLabel { host: gone.clone() });
        }
        *shown = hosts.keys().cloned().collect();
        for (host, not_after) in hosts {
            self.expiry.get_or_create(&HostLabel { host }).set(not_after);
        }
    }
}
