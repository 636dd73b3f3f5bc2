//! The cast of the demo and their traffic: who listens where, who calls whom, which wires are tapped.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use signet_core::drain::Drain;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    apps,
    network::Network,
    promises::{Evidence, Outcome},
    public,
    tap::Tap,
};
use crate::local::EdgeAt;

/// The manifests, in the order of their names. Their addresses are the constants below.
pub(super) const MANIFESTS: [(&str, &str); 4] = [
    ("10-shop.yaml", include_str!("../../demo/10-shop.yaml")),
    ("20-office.yaml", include_str!("../../demo/20-office.yaml")),
    ("30-legacy.yaml", include_str!("../../demo/30-legacy.yaml")),
    ("40-public.yaml", include_str!("../../demo/40-public.yaml")),
];
const WEB: u8 = 2;
const API: u8 = 3;
const DB: u8 = 4;
const REPORTS: u8 = 5;
const BILLING: u8 = 6;
const CRON: u8 = 7;
const BLOG: u8 = 8;
/// No pod's.
const GATEWAY: u8 = 9;

/// Everyone on stage: apps that listen, and taps on three wires.
pub(super) struct Stage {
    web: IpAddr,
    api: IpAddr,
    cron: IpAddr,
    db: IpAddr,
    reports: IpAddr,
    /// Where the public host is served, and the file with the root that its visitor believes.
    gateway: SocketAddr,
    edge_ca: PathBuf,
    /// What the apps say to each other, and what must never be read on a wire.
    secret: String,
    api_tap: Tap,
    db_tap: Tap,
    billing_tap: Tap,
    calls: Mutex<Calls>,
    first_answer: watch::Sender<Option<Instant>>,
}

#[derive(Clone, Copy, Default)]
struct Calls {
    answers: u64,
    cron_to_reports: Outcome,
    cron_to_db: Outcome,
    web_to_db: Outcome,
    visits: u64,
}

impl Stage {
    /// Lets the apps listen and the taps stand. Nobody calls yet.
    pub(super) async fn build(
        network: &Network,
        secret: &str,
        edge_ca: &Path,
        drain: &Drain,
    ) -> Result<Arc<Self>> {
        let pod = |host, port| SocketAddr::new(network.pod(host), port);
        let behind = |host, port| SocketAddr::new(network.behind_tap(host), port);
        // The taps stand on the pods' addresses; the proxies of api and db, and the app of billing, behind them.
        let tap =
            async |at: SocketAddr, onward| anyhow::Ok(Tap::start(listen(at).await?, onward, secret, drain));
        let stage = Arc::new(Self {
            web: network.pod(WEB),
            api: network.pod(API),
            cron: network.pod(CRON),
            db: network.pod(DB),
            reports: network.pod(REPORTS),
            gateway: SocketAddr::new(network.pod(GATEWAY), Self::edge_at(network).https),
            edge_ca: edge_ca.to_owned(),
            secret: secret.to_owned(),
            api_tap: tap(pod(API, 8080), behind(API, 8080)).await?,
            db_tap: tap(pod(DB, 5432), behind(DB, 5432)).await?,
            billing_tap: tap(pod(BILLING, 7070), behind(BILLING, 7070)).await?,
            calls: Mutex::default(),
            first_answer: watch::Sender::new(None),
        });
        let api_asks_db = (network.pod(API), pod(API, 9001));
        apps::serve(
            listen(pod(API, 18080)).await?,
            move |line| async move {
                Ok(format!("api, from {}", apps::call(api_asks_db.0, api_asks_db.1, &line).await?))
            },
            drain,
        );
        for (name, at) in
            [("db", pod(DB, 15432)), ("reports", pod(REPORTS, 18080)), ("billing", behind(BILLING, 7070))]
        {
            apps::serve(listen(at).await?, move |line| async move { Ok(format!("{name}: {line}")) }, drain);
        }
        public::serve(listen(pod(BLOG, 18080)).await?, format!("a post: {secret}\n"), drain);
        Ok(stage)
    }

    /// Where the public host is served.
    pub(super) fn edge_at(network: &Network) -> EdgeAt {
        EdgeAt { address: network.pod(GATEWAY), ..EdgeAt::default() }
    }

    /// Where the proxies behind the taps listen, by workload.
    pub(super) fn inbound_at(network: &Network) -> Vec<(String, IpAddr)> {
        vec![("shop/api-0".into(), network.behind_tap(API)), ("shop/db-0".into(), network.behind_tap(DB))]
    }

    /// Everyone calls, again and again, until the drain stops.
    pub(super) fn play(self: &Arc<Self>, drain: &Drain) {
        let (stage, stop) = (Arc::clone(self), drain.clone());
        drain.spawn(async move {
            let mut ticks = interval(PAUSE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while tokio::select! { biased; () = stop.stopping() => false, _ = ticks.tick() => true } {
                stage.round().await;
            }
        });
    }

    /// When web had its first answer over two mTLS hops.
    pub(super) async fn first_answer(&self) -> Instant {
        let mut first = self.first_answer.subscribe();
        loop {
            if let Some(at) = *first.borrow_and_update() {
                return at;
            }
            if first.changed().await.is_err() {
                std::future::pending::<()>().await; // we hold the sender
            }
        }
    }

    /// What the taps and the callers saw so far; the edges come from the controller.
    pub(super) fn evidence(&self) -> Evidence {
        let calls = *self.calls();
        Evidence {
            answers: calls.answers,
            meshed: vec![
                ("web -> api".into(), self.api_tap.seen(self.web)),
                ("api -> db".into(), self.db_tap.seen(self.api)),
            ],
            unmeshed: self.billing_tap.seen(self.web),
            cron_to_reports: calls.cron_to_reports,
            cron_to_db: calls.cron_to_db,
            web_to_db: calls.web_to_db,
            visits: calls.visits,
            edges: Vec::new(),
        }
    }

    /// Writes what the taps recorded, so that everyone can look for the secret themselves.
    pub(super) fn save_recordings(&self, directory: &Path) -> io::Result<()> {
        let evidence = self.evidence();
        let wires = evidence.meshed.iter().map(|(name, seen)| (name.as_str(), seen));
        for (name, seen) in wires.chain([("web -> billing", &evidence.unmeshed)]) {
            let name = name.replace(" -> ", "-to-");
            std::fs::write(directory.join(format!("{name}.sent")), &seen.sent.first)?;
            std::fs::write(directory.join(format!("{name}.received")), &seen.received.first)?;
        }
        Ok(())
    }

    /// One call of each kind, at the same time.
    async fn round(&self) {
        let at = SocketAddr::new;
        let ask = format!("ask {}", self.secret);
        let (visited, answered, _billing, reports, strict, denied) = tokio::join!(
            public::visit(self.gateway, &self.edge_ca, &self.secret),
            self.ask_api(&ask),
            apps::call(self.web, at(self.web, 9002), &ask),
            apps::call(self.cron, at(self.reports, 8080), "ask for a report"),
            apps::call(self.cron, at(self.db, 5432), "ask the database"),
            apps::call(self.web, at(self.web, 9003), "ask the database"),
        );
        let mut calls = self.calls();
        calls.visits += u64::from(visited.unwrap_or(false));
        calls.answers += u64::from(answered);
        calls.cron_to_reports.count(&reports);
        calls.cron_to_db.count(&strict);
        calls.web_to_db.count(&denied);
    }

    /// web -> api -> db and back, all of it through proxies. True: the answer is whole.
    async fn ask_api(&self, ask: &str) -> bool {
        let answer = apps::call(self.web, SocketAddr::new(self.web, 9001), ask).await;
        let whole = answer.is_ok_and(|answer| answer == format!("api, from db: {ask}"));
        if whole {
            self.first_answer.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(Instant::now);
                is_first
            });
        }
        whole
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    fn count(&mut self, answer: &io::Result<String>) {
        match answer {
            Ok(_) => self.answered += 1,
            Err(_) => self.refused += 1,
        }
    }
}

async fn listen(at: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| format!("listening on {at} for the demo"))
}

/// Between rounds: traffic that one can watch, and that burns no laptop.
const PAUSE: Duration = Duration::from_millis(500);
