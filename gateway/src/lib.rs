//! signet-gateway, the edge.
//!
//! A byte that arrives passes [`listeners`] -> [`connection`] ([`proxy_header`], then [`certificates`] and the handshake, or
//! [`challenges`] and no more) -> the engine of `signet-http` -> [`mesh`] -> a pod. What is served comes by [`feed`] from edge, is kept resource by resource in
//! [`held`], and is served as one [`held::Model`]; [`admin`] shows it.

pub mod admin;
pub mod args;
pub mod certificates;
pub mod challenges;
pub mod config;
pub mod connection;
pub mod feed;
pub mod held;
pub mod limits;
pub mod listeners;
pub mod mesh;
pub mod metrics;
pub mod proxy_header;

#[cfg(test)]
mod pki_for_tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use signet_core::{clock, edge_tls, tls, trust::Trust};
use signet_http::engine::Engine;
use signet_link::svid::Svid;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    certificates::Certificates, challenges::Challenges, config::Config, connection::Budget, held::Model,
    listeners::Ports, metrics::GatewayMetrics,
};

/// What every connection of this gateway shares.
pub struct Gateway {
    pub config: Config,
    pub svid: Svid,
    pub trust: Arc<Trust>,
    pub engine: Arc<Engine>,
    pub certificates: ArcSwap<Certificates>,
    pub challenges: ArcSwap<Challenges>,
    pub budget: Budget,
    pub metrics: GatewayMetrics,
    pub ports: Ports,
    /// What is served; replaced by [`Gateway::adopt`] alone.
    pub model: watch::Sender<Arc<Adopted>>,
    draining: AtomicBool,
    provider: Arc<CryptoProvider>,
}

/// A model that is served.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Counts from 1; 0 is none yet.
    pub generation: u64,
    /// Unix seconds.
    pub at: i64,
    pub model: Arc<Model>,
    /// What the engine could not compile.
    pub problems: Vec<String>,
}

impl Gateway {
    pub fn new(
        config: Config,
        svid: Svid,
        trust: Arc<Trust>,
        engine: Arc<Engine>,
        metrics: GatewayMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(&config.limits),
            config,
            svid,
            trust,
            engine,
            certificates: ArcSwap::default(),
            challenges: ArcSwap::default(),
            metrics,
            ports: Ports::default(),
            model: watch::Sender::default(),
            draining: AtomicBool::new(false),
            provider: edge_tls::edge_provider(tls::default_provider()),
        })
    }

    /// Serves `model` from now on. Connections keep what they began with; requests see all of it or nothing.
    pub fn adopt(&self, model: Arc<Model>) {
        let before = self.certificates.load();
        let certificates =
            Certificates::new(&model.snapshot.listeners, &model.certificates, &before, &self.provider);
        let mut problems = Vec::new();
        // Certificates first: a route whose host has none yet would be an alert.
        match certificates {
            Ok(certificates) => self.certificates.store(Arc::new(certificates)),
            Err(error) => problems.push(format!("the certificates stay as they were: {error}")),
        }
        match Challenges::new(&model.proofs, &self.provider) {
            Ok(challenges) => self.challenges.store(Arc::new(challenges)),
            Err(error) => problems.push(format!("the TLS-ALPN-01 challenges stay as they were: {error}")),
        }
        problems.extend(self.engine.apply(Arc::clone(&model.snapshot)).iter().map(ToString::to_string));
        for problem in problems.iter().filter(|problem| !self.model.borrow().problems.contains(problem)) {
            warn!("{problem}");
        }
        self.metrics.certificates(&model.certificates);
        let (generation, at) = (self.model.borrow().generation + 1, clock::unix_now());
        self.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.metrics.adopted.set(at);
        self.metrics.faults.set(i64::try_from(problems.len() + model.faults.len()).unwrap_or(i64::MAX));
        if generation == 1 {
            let snapshot = &model.snapshot;
            info!(
                routes = snapshot.routes.len(),
                certificates = model.certificates.len(),
                "first model served"
            );
        }
        self.model.send_replace(Arc::new(Adopted { generation, at, model, problems }));
    }

    /// Why clients should not be sent here, one reason each; empty: ready. Edge's absence is none: what is known goes on.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(fault) = self.trust.fault() {
            reasons.push(format!("trust: {fault}"));
        }
        if self.svid.current().is_none() {
            reasons.push("no valid certificate of our own in the mesh; see signet ca status".into());
        }
        let adopted = self.model.borrow().clone();
        match adopted.generation {
            0 => reasons.push("nothing from edge yet; see signet status".into()),
            _ => reasons.extend(self.ports.closed(&adopted.model.snapshot.listeners)),
        }
        if self.is_draining() {
            reasons.push("draining".into());
        }
        reasons
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// From now on we are unready, and go on.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }
}
