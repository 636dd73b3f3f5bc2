//! The connection table: what is open, what ended or was refused lately, and the sums that become edges.
//!
//! An [`Entry`] is a connection's own row. Its end is recorded once, in one place: the access log line, the metric and the
//! row carry the same word. Dropped without [`Entry::close`], it records "cut".

mod metrics;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use signet_core::{
    access_log, clock,
    identity::SpiffeId,
    telemetry::Metrics,
    tls::{Peer, TlsFacts},
};
use signet_wire::{
    pool::{Direction, DirectionLabel},
    refusal::{OK, Refusal},
};
use tokio::sync::Notify;
use tracing::Level;

use self::metrics::{BytesLabels, ConnectionMetrics, EndLabels};

/// What is known of a connection, filled in while it is set up.
#[derive(Clone, Debug)]
pub struct Facts {
    pub direction: Direction,
    /// Who opened it: the app's address (outbound) or the peer's (inbound).
    pub source: SocketAddr,
    /// What the app asked for ("api.shop:80"); inbound: the pod's own address and port.
    pub destination: Arc<str>,
    /// The pod port (inbound) or the port asked for (outbound).
    pub port: u16,
    /// The endpoint that carries it (outbound); the client (inbound).
    pub peer_address: Option<SocketAddr>,
    /// "<namespace>/<pod>", as the controller or (for logs only) the client says.
    pub peer: Option<Arc<str>>,
    /// Who the peer proved to be; looked at again when trust changes. `None`: plaintext, or not known yet.
    pub verified: Option<Arc<Peer>>,
    /// Set: plaintext, and why.
    pub plain_reason: Option<Arc<str>>,
    /// The snapshot of the model that it was judged on.
    pub model_generation: u64,
    /// The audit policies that would have denied it.
    pub audited: Option<Arc<str>>,
}

impl Facts {
    pub fn new(direction: Direction, source: SocketAddr, destination: Arc<str>, port: u16) -> Self {
        Self {
            direction,
            source,
            destination,
            port,
            peer_address: None,
            peer: None,
            verified: None,
            plain_reason: None,
            model_generation: 0,
            audited: None,
        }
    }

    pub fn peer_id(&self) -> Option<&SpiffeId> {
        self.verified.as_deref().map(Peer::id)
    }

    /// Unix seconds.
    pub fn peer_not_after(&self) -> Option<i64> {
        self.verified.as_ref().map(|peer| peer.leaf.not_after)
    }

    pub fn tls(&self) -> Option<TlsFacts> {
        self.verified.as_ref().map(|peer| peer.facts)
    }
}

/// A live connection, as others see it. Idle ones have one as well: what is rare in it is boxed, what repeats is shared.
pub struct Live {
    pub id: u64,
    pub started: Instant,
    /// Unix seconds.
    pub started_at: i64,
    row: Mutex<Row>,
    /// Bytes of the app: towards the peer, and from it.
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// Rung when `cut_for` is set.
    cut: Notify,
}

struct Row {
    facts: Facts,
    /// Whether the relay has begun.
    carried: bool,
    cut_for: Option<Box<Refusal>>,
    /// `sent` and `received` at the last report.
    reported: (u64, u64),
}

impl Live {
    pub fn facts(&self) -> Facts {
        lock(&self.row).facts.clone()
    }

    pub fn is_carried(&self) -> bool {
        lock(&self.row).carried
    }

    /// Whether bytes have passed since the last report.
    fn has_moved(&self) -> bool {
        lock(&self.row).reported != (self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    /// Ends the connection at both sides with this reason; the first one counts.
    pub fn cut(&self, why: Refusal) {
        lock(&self.row).cut_for.get_or_insert_with(|| Box::new(why));
        self.cut.notify_waiters();
    }
}

/// A row of the past.
#[derive(Clone, Debug)]
pub struct Ended {
    pub facts: Facts,
    /// Unix seconds.
    pub ended_at: i64,
    pub lasted: Duration,
    pub sent: u64,
    pub received: u64,
    /// "ok" or a refusal's word.
    pub reason: &'static str,
    pub why: Option<String>,
    pub refused: bool,
}

/// Key and sums of one kind of connection; see `EdgeDelta` in api/proto/signet/v1.proto.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct EdgeKey {
    pub direction: Direction,
    pub peer_id: Option<SpiffeId>,
    pub peer: Arc<str>,
    pub port: u16,
    pub tls: Option<TlsFacts>,
    pub plain_reason: Option<Arc<str>>,
    pub refused: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EdgeSums {
    pub opened: u64,
    pub closed: u64,
    pub sent: u64,
    pub received: u64,
    /// Unix seconds, newest seen.
    pub peer_not_after: i64,
}

/// The table of one proxy.
pub struct Connections {
    next: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    ended: Mutex<VecDeque<Ended>>,
    edges: Mutex<HashMap<EdgeKey, EdgeSums>>,
    metrics: ConnectionMetrics,
}

impl Connections {
    pub fn new(metrics: &mut Metrics) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(1),
            live: Mutex::default(),
            ended: Mutex::default(),
            edges: Mutex::default(),
            metrics: ConnectionMetrics::new(metrics),
        })
    }

    /// A new row.
    pub fn open(self: &Arc<Self>, facts: Facts) -> Entry {
        let direction = facts.direction;
        let live = Arc::new(Live {
            id: self.next.fetch_add(1, Relaxed),
            started: Instant::now(),
            started_at: clock::unix_now(),
            row: Mutex::new(Row { facts, carried: false, cut_for: None, reported: (0, 0) }),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            cut: Notify::new(),
        });
        lock(&self.live).insert(live.id, Arc::clone(&live));
        self.metrics.open.get_or_create(&DirectionLabel { direction: direction.word() }).inc();
        Entry { table: Arc::clone(self), live, closed: false }
    }

    pub fn live(&self) -> Vec<Arc<Live>> {
        lock(&self.live).values().cloned().collect()
    }

    pub fn live_count(&self) -> usize {
        lock(&self.live).len()
    }

    /// The last [`REMEMBERED`] ends, newest first.
    pub fn ended(&self) -> Vec<Ended> {
        lock(&self.ended).iter().cloned().collect()
    }

    /// The sums since the last call, live connections' bytes included: what the next report carries. `silent`: also of those on
    /// which nothing has moved, which says that they are still there; thousands of idle ones cost something only then.
    pub fn take_edges(&self, silent: bool) -> Vec<(EdgeKey, EdgeSums)> {
        for live in self.live() {
            if live.is_carried() && (silent || live.has_moved()) {
                let facts = live.facts();
                self.add(&facts, None, |sums| count_bytes(&live, sums));
            }
        }
        std::mem::take(&mut *lock(&self.edges)).into_iter().collect()
    }

    /// Gives sums back that could not be sent.
    pub fn return_edges(&self, unsent: Vec<(EdgeKey, EdgeSums)>) {
        for (key, sums) in unsent {
            self.add_to(key, |held| {
                held.opened += sums.opened;
                held.closed += sums.closed;
                held.sent += sums.sent;
                held.received += sums.received;
                held.peer_not_after = held.peer_not_after.max(sums.peer_not_after);
            });
        }
    }

    fn add(&self, facts: &Facts, refused: Option<&'static str>, change: impl FnOnce(&mut EdgeSums)) {
        let by_address = || facts.peer_address.unwrap_or(facts.source).ip().to_string().into();
        let peer = match facts.direction {
            Direction::Outbound => facts.peer.clone().unwrap_or_else(|| Arc::clone(&facts.destination)),
            Direction::Inbound => facts.peer.clone().unwrap_or_else(by_address),
        };
        let key = EdgeKey {
            direction: facts.direction,
            peer_id: facts.peer_id().cloned(),
            peer,
            port: match facts.direction {
                Direction::Outbound => facts.peer_address.map_or(facts.port, |endpoint| endpoint.port()),
                Direction::Inbound => facts.port,
            },
            tls: facts.tls(),
            plain_reason: facts.plain_reason.clone(),
            refused,
        };
        let not_after = facts.peer_not_after().unwrap_or(0);
        self.add_to(key, |sums| {
            sums.peer_not_after = sums.peer_not_after.max(not_after);
            change(sums);
        });
    }

    fn add_to(&self, key: EdgeKey, change: impl FnOnce(&mut EdgeSums)) {
        let mut edges = lock(&self.edges);
        if edges.len() < MAX_EDGES || edges.contains_key(&key) {
            change(edges.entry(key).or_default());
        } else {
            self.metrics.edges_dropped.inc();
        }
    }

    fn end(&self, live: &Arc<Live>, reason: &'static str, why: Option<String>, refused: bool) {
        lock(&self.live).remove(&live.id);
        let facts = live.facts();
        let direction = facts.direction.word();
        self.metrics.open.get_or_create(&DirectionLabel { direction }).dec();
        self.metrics.ended.get_or_create(&EndLabels { direction, reason }).inc();
        if refused {
            self.metrics.refused.get_or_create(&EndLabels { direction, reason }).inc();
        }
        let (sent, received) = (live.sent.load(Relaxed), live.received.load(Relaxed));
        self.metrics.bytes.get_or_create(&BytesLabels { direction, flow: "sent" }).inc_by(sent);
        self.metrics.bytes.get_or_create(&BytesLabels { direction, flow: "received" }).inc_by(received);
        self.add(&facts, refused.then_some(reason), |sums| {
            if live.is_carried() {
                sums.closed += 1;
            } else {
                sums.opened += 1; // never carried: its only trace
                sums.closed += 1;
            }
            count_bytes(live, sums);
        });
        let ended = Ended {
            facts,
            ended_at: clock::unix_now(),
            lasted: live.started.elapsed(),
            sent,
            received,
            reason,
            why,
            refused,
        };
        log(&ended);
        let mut past = lock(&self.ended);
        past.truncate(REMEMBERED - 1);
        past.push_front(ended);
    }
}

fn count_bytes(live: &Live, sums: &mut EdgeSums) {
    let (sent, received) = (live.sent.load(Relaxed), live.received.load(Relaxed));
    let reported = std::mem::replace(&mut lock(&live.row).reported, (sent, received));
    sums.sent += sent - reported.0;
    sums.received += received - reported.1;
}

/// The access log: one line at the end of each connection.
fn log(ended: &Ended) {
    let facts = &ended.facts;
    let level = if ended.refused { Level::WARN } else { Level::INFO };
    access_log::line(level, |line| {
        line.word("direction", facts.direction.word());
        line.address("source", facts.source);
        line.word("destination", &facts.destination);
        line.address("peer_address", facts.peer_address);
        line.text("peer", facts.peer.as_deref());
        if let Some(id) = facts.peer_id() {
            line.word("peer_id", id);
        }
        if let Some(tls) = facts.tls() {
            line.word("tls", tls.version);
            line.word("key_exchange", tls.key_exchange);
        }
        if let Some(reason) = &facts.plain_reason {
            line.word("plain_reason", reason);
        }
        line.number("sent", ended.sent);
        line.number("received", ended.received);
        line.number("lasted_ms", u64::try_from(ended.lasted.as_millis()).unwrap_or(u64::MAX));
        line.number("model", facts.model_generation);
        line.text("audited", facts.audited.as_deref());
        line.word("reason", ended.reason);
        line.text("why", ended.why.as_deref());
    });
}

/// A connection's own row while it lives.
pub struct Entry {
    table: Arc<Connections>,
    live: Arc<Live>,
    closed: bool,
}

impl Entry {
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub fn note(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut lock(&self.live.row).facts);
    }

    /// Keeps the verified peer, for a second look when trust, policy or the endpoint changes.
    pub fn verified(&self, peer: &Arc<Peer>) {
        self.note(|facts| {
            facts.verified = Some(Arc::clone(peer));
            facts.plain_reason = None;
        });
    }

    /// The relay begins: from now on it counts as carried.
    pub fn carried(&self) {
        let before = std::mem::replace(&mut lock(&self.live.row).carried, true);
        if !before {
            let facts = self.live.facts();
            self.table.add(&facts, None, |sums| sums.opened += 1);
        }
    }

    /// Resolves when the connection must end early, with the reason.
    pub async fn cut(&self) -> Refusal {
        loop {
            let rung = self.live.cut.notified(); // hears what comes from here on, polled or not
            if let Some(why) = lock(&self.live.row).cut_for.take() {
                return *why;
            }
            rung.await;
        }
    }

    /// Records the end. `Ok` is an end that both sides wished.
    pub fn close(mut self, end: &Result<(), Refusal>) {
        self.closed = true;
        match end {
            Ok(()) => self.table.end(&self.live, OK, None, false),
            Err(refusal) => {
                let refused = !(refusal.lived() && self.live.is_carried());
                self.table.end(&self.live, refusal.reason(), Some(refusal.why()), refused);
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.closed {
            self.table.end(&self.live, CUT, None, false);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a connection whose task was dropped: the drain time was over.
const CUT: &str = "cut";
/// Ends kept for the table: a screenful of trouble, some 500 kB if each was of another peer, whose chain it keeps.
const REMEMBERED: usize = 256;
/// Different kinds of connection between two reports; a peer cannot grow it further.
const MAX_EDGES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts::new(Direction::Inbound, "198.18.0.9:4000".parse().unwrap(), "198.18.0.1:80".into(), 80)
    }

    #[test]
    fn a_connections_bytes_are_reported_once_whatever_is_taken_when() {
        let table = Connections::new(&mut Metrics::new());
        let entry = table.open(facts());
        entry.carried();
        entry.live().sent.store(10, Relaxed);
        let first = table.take_edges(true);
        entry.live().sent.store(25, Relaxed);
        let second = table.take_edges(true);
        table.return_edges(second);
        entry.close(&Ok(()));
        let third = table.take_edges(true);
        assert_eq!((first[0].1.opened, first[0].1.closed, first[0].1.sent), (1, 0, 10));
        assert_eq!((third[0].1.opened, third[0].1.closed, third[0].1.sent), (0, 1, 15));
        assert!(table.take_edges(true).is_empty());
    }

    #[tokio::test]
    async fn a_cut_is_heard_once_whether_it_came_before_or_while_somebody_waits() {
        let table = Connections::new(&mut Metrics::new());
        let entry = table.open(facts());
        entry.live().cut(Refusal::NoSettings);
        entry.live().cut(Refusal::Draining);
        assert!(matches!(entry.cut().await, Refusal::NoSettings), "the first one counts");
        let cut = async {
            tokio::task::yield_now().await;
            entry.live().cut(Refusal::Draining);
        };
        assert!(matches!(tokio::join!(entry.cut(), cut).0, Refusal::Draining));
    }

    #[test]
    fn every_end_has_one_word_and_a_dropped_entry_says_cut() {
        let mut metrics = Metrics::new();
        let table = Connections::new(&mut metrics);
        table.open(facts()).close(&Err(Refusal::NoSettings));
        drop(table.open(facts()));
        let words: Vec<_> = table.ended().iter().map(|end| (end.reason, end.refused)).collect();
        assert_eq!(words, [("cut", false), ("no_settings", true)]);
        assert!(
            metrics.render().contains(r#"signet_refused_total{direction="inbound",reason="no_settings"} 1"#)
        );
        assert_eq!(table.live_count(), 0);
    }
}
