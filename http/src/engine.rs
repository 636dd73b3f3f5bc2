//! The engine: what it serves now, and what it keeps while that changes.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use signet_core::drain::Drain;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    balance::Upstreams,
    challenges::Challenges,
    limits::Limits,
    metrics::{HttpMetrics, OTHER},
    model::Snapshot,
    refusal::{OK, REASONS},
    table::{Problem, Table},
    upstream::Connector,
};

/// Serves connections by the snapshot that was applied last. Requests that are on their way keep the one they began with.
pub struct Engine {
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) drain: Drain,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: HttpMetrics,
    pub(crate) other: Arc<str>,
    state: ArcSwap<State>,
    /// One writer at a time.
    writer: Mutex<()>,
}

/// Table and backends belong together: a request sees both of one snapshot.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) table: Arc<Table>,
    pub(crate) upstreams: Upstreams,
    pub(crate) challenges: Arc<Challenges>,
    snapshot: Arc<Snapshot>,
}

impl Engine {
    /// Serves nothing yet. `drain` owns all its tasks: connections to backends, and what it does on its own.
    pub fn new(
        connector: Arc<dyn Connector>,
        limits: Limits,
        metrics: HttpMetrics,
        drain: Drain,
    ) -> Arc<Self> {
        let engine = Arc::new(Self {
            connector,
            drain,
            limits: Arc::new(limits),
            metrics,
            other: OTHER.into(),
            state: ArcSwap::from_pointee(State::default()),
            writer: Mutex::default(),
        });
        engine.drain.spawn(tidy(Arc::clone(&engine)));
        engine
    }

    /// From now on this is served. What did not change is not compiled again: a change of endpoints costs no table. Returns
    /// what could not be compiled; the rest is served.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Vec<Problem> {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state.load_full();
        let (old, new) = (&before.snapshot, &snapshot);
        let same =
            old.routes == new.routes && old.listeners == new.listeners && old.https_hosts == new.https_hosts;
        let table =
            if same { Arc::clone(&before.table) } else { Arc::new(Table::new(&snapshot, &before.table)) };
        let challenges = match old.challenges == new.challenges {
            true => Arc::clone(&before.challenges),
            false => Arc::new(Challenges::new(&new.challenges)),
        };
        let upstreams = Upstreams::new(&snapshot.backends, &before.upstreams, &self.limits.upstream);
        if !same {
            let kept: HashSet<&Arc<str>> = table.host_labels().collect();
            let gone: HashSet<&Arc<str>> =
                before.table.host_labels().filter(|host| !kept.contains(host)).collect();
            for host in gone {
                self.metrics.forget(host, REASONS.iter().copied().chain([OK]));
            }
        }
        let problems = table.problems().to_vec();
        self.state.store(Arc::new(State { table, upstreams, challenges, snapshot }));
        problems
    }

    /// What is served.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }
}

/// Lets go of pooled connections that are too old, of another certificate, or, once the shutdown began, at all.
async fn tidy(engine: Arc<Engine>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            biased;
            () = engine.drain.stopping() => true,
            _ = look.tick() => false,
        };
        for member in engine.state().upstreams.members() {
            let generation = engine.connector.generation(&member.endpoint.security);
            member.pool.tidy(generation, &engine.limits.upstream, stopping);
        }
        if stopping {
            return;
        }
    }
}

/// A pooled connection lives at most this much longer than it may.
const LOOK: Duration = Duration::from_secs(1);
