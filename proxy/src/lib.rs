//! signet-proxy, the sidecar.
//!
//! A byte that arrives passes [`inbound`] -> [`admit`] (TLS or plaintext?) -> [`signet_wire`] -> [`model`] (authorize) -> [`relay`]; one that
//! leaves passes [`outbound`] -> [`way`] (where to?) -> [`signet_wire`] -> [`relay`], which moves it with [`pump`]. Both end in [`connections`]. Where [`capture`] redirects the pod's connections, their original
//! destination says what they are for, and [`canary`] watches that it still does. What the proxy knows comes by [`discovery`];
//! what it did goes out by [`report`] and is shown by [`admin`], where the kubelet asks for the app too ([`probes`]).

pub mod admin;
pub mod admit;
pub mod args;
pub mod balance;
pub mod canary;
pub mod capture;
mod captured;
pub mod config;
pub mod connections;
pub mod discovery;
pub mod hello;
pub mod inbound;
pub mod judge;
pub mod limits;
pub mod listen;
pub mod model;
pub mod outbound;
pub mod probes;
pub mod pump;
pub mod relay;
pub mod report;
pub mod settings;
pub mod way;

#[cfg(test)]
#[path = "../../wire/src/pki_for_tests.rs"]
mod pki_for_tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use signet_core::{drain::Drain, trust::Trust};
use signet_link::svid::Svid;
use signet_wire::client::Client;
use tokio::time::{Instant, sleep};

/// What every connection of this proxy shares.
pub struct Proxy {
    pub config: config::Config,
    pub model: Arc<model::Model>,
    pub svid: Svid,
    pub trust: Arc<Trust>,
    pub connections: Arc<connections::Connections>,
    pub balance: balance::Balance,
    /// Wires to endpoints, and those that wait.
    pub client: Client,
    pub provider: Arc<rustls::crypto::CryptoProvider>,
    pub draining: AtomicBool,
    /// Where the pod is captured: whether it still is.
    pub canary: Option<Arc<canary::Canary>>,
}

impl Proxy {
    /// Why callers should not be sent here, one reason each; empty: ready. The controller's absence is none: what is known
    /// goes on without it.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(fault) = self.trust.fault() {
            reasons.push(format!("trust: {fault}"));
        }
        if self.svid.current().is_none() {
            reasons.push("no valid certificate of our own; see signet ca status".into());
        }
        if self.model.snapshot().settings.is_none() {
            reasons.push("no settings from the controller yet; see signet status".into());
        }
        if let Some(fault) = self.canary.as_ref().and_then(|canary| canary.fault()) {
            reasons.push(format!("capture: {fault}"));
        }
        if self.is_draining() {
            reasons.push("draining".into());
        }
        reasons
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// After SIGTERM: unready, GOAWAY on what is idle, but accepting and serving as long as connections live or clients have not
    /// heard of it, at most the drain time. At its end nobody is accepted any more, and what is short may end by itself.
    pub async fn drain(&self, work: &Drain) {
        self.draining.store(true, Relaxed);
        self.client.pool.retire();
        let end = Instant::now() + self.config.limits.drain;
        self.until_nobody_is_left(end - LAST_WORDS).await;
        work.stop();
        self.until_nobody_is_left(end).await;
    }

    async fn until_nobody_is_left(&self, deadline: Instant) {
        while self.connections.live_count() + self.client.pool.guests() > 0 && Instant::now() < deadline {
            sleep(DRAIN_LOOK).await;
        }
    }
}

/// Of the drain time, without new connections.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Between two looks at whether the last connection has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
