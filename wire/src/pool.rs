//! Wires that wait for their next app connection. A client keeps them by endpoint and by generation of our own leaf, and
//! uses one again only for the identity that proved itself on it; a server counts them, and tells them to go.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use signet_core::{clock, drain::Drain, identity::SpiffeId, telemetry::Metrics, trust::Trust};
use signet_link::svid::Svid;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::connection::Wire;

/// Who opened a connection: the others, or we.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct DirectionLabel {
    pub direction: &'static str,
}

/// All idle wires of a data plane.
pub struct Pool {
    /// Those that we opened.
    idle: Mutex<HashMap<Key, Vec<Idle>>>,
    /// Those that were opened to us, by who opened them.
    guests: Mutex<HashMap<SpiffeId, usize>>,
    /// How often idle wires, of both sides, were told to go.
    retired: watch::Sender<u64>,
    metrics: PoolMetrics,
}

type Key = (SocketAddr, u64);

struct Idle {
    wire: Box<Wire>,
    since: Instant,
}

struct PoolMetrics {
    handshakes_out: Counter,
    handshakes_in: Counter,
    reused: Counter,
    idle_out: Gauge,
    idle_in: Gauge,
}

impl Pool {
    pub fn new(metrics: &mut Metrics) -> Arc<Self> {
        let handshakes: Family<DirectionLabel, Counter> =
            metrics.add("handshakes", "Mutual TLS handshakes that succeeded", Family::default());
        let idle: Family<DirectionLabel, Gauge> = metrics.add(
            "wires_idle",
            "Mutual TLS connections that wait for their next use",
            Family::default(),
        );
        let of = |direction: Direction| DirectionLabel { direction: direction.word() };
        let metrics = PoolMetrics {
            handshakes_out: handshakes.get_or_create_owned(&of(Direction::Outbound)),
            handshakes_in: handshakes.get_or_create_owned(&of(Direction::Inbound)),
            reused: metrics.add(
                "wires_reused",
                "Connections that needed no handshake of their own",
                Counter::default(),
            ),
            idle_out: idle.get_or_create_owned(&of(Direction::Outbound)),
            idle_in: idle.get_or_create_owned(&of(Direction::Inbound)),
        };
        let retired = watch::Sender::new(0);
        Arc::new(Self { idle: Mutex::default(), guests: Mutex::default(), retired, metrics })
    }

    /// A wire to `id` at `to`, made with leaf `generation`, that may carry one more app connection at `now` (Unix seconds).
    pub fn take(&self, to: SocketAddr, id: &SpiffeId, generation: u64, now: i64) -> Option<Box<Wire>> {
        let mut pool = lock(&self.idle);
        let idle = pool.get_mut(&(to, generation))?;
        while let Some(Idle { wire, .. }) = idle.pop() {
            self.metrics.idle_out.dec();
            // Another identity: the address changed hands. Not quiet: it is closing.
            if wire.peer.id() == id && wire.may_open(now) && wire.socket.is_quiet() {
                self.metrics.reused.inc();
                return Some(wire);
            }
        }
        pool.remove(&(to, generation));
        None
    }

    /// Keeps a wire whose stream ended, if it may be used again.
    pub fn put(&self, wire: Box<Wire>) {
        if !wire.is_between_streams() || !wire.may_open(clock::unix_now()) || wire.epoch != self.epoch() {
            return;
        }
        let mut pool = lock(&self.idle);
        let total = usize::try_from(self.metrics.idle_out.get()).unwrap_or(usize::MAX);
        let idle = pool.entry((wire.address, wire.generation)).or_default();
        if idle.len() < IDLE_PER_ENDPOINT && total < IDLE {
            idle.push(Idle { wire, since: Instant::now() });
            self.metrics.idle_out.inc();
        }
    }

    /// Wires of ours that wait.
    pub fn idle(&self) -> usize {
        lock(&self.idle).values().map(Vec::len).sum()
    }

    /// Lets go of idle wires that `keep` does not want.
    fn retain(&self, keep: impl Fn(&Wire, Instant) -> bool) {
        lock(&self.idle).retain(|_, idle| {
            let before = idle.len();
            idle.retain(|idle| keep(&idle.wire, idle.since));
            for _ in idle.len()..before {
                self.metrics.idle_out.dec();
            }
            !idle.is_empty()
        });
    }

    /// Server side: a wire of `client` begins to wait. `None`: this identity has enough of them.
    pub fn seat(self: &Arc<Self>, client: &SpiffeId) -> Option<Seat> {
        let mut guests = lock(&self.guests);
        let seats = match guests.get_mut(client) {
            Some(seats) => seats,
            None => guests.entry(client.clone()).or_default(),
        };
        if *seats >= IDLE_PER_IDENTITY {
            return None;
        }
        *seats += 1;
        self.metrics.idle_in.inc();
        Some(Seat { pool: Arc::clone(self), client: client.clone() })
    }

    /// Wires of clients that wait here, or have not closed since our GOAWAY.
    pub fn guests(&self) -> usize {
        lock(&self.guests).values().sum()
    }

    /// [`Wire::epoch`] of a handshake that begins now. A wire of an earlier one carries no other stream.
    pub fn epoch(&self) -> u64 {
        *self.retired.borrow()
    }

    /// Changes when idle wires of servers are to go.
    pub fn watch_retired(&self) -> watch::Receiver<u64> {
        self.retired.subscribe()
    }

    /// Ends all idle wires, on both sides.
    pub fn retire(&self) {
        self.retain(|_, _| false);
        self.retired.send_modify(|n| *n += 1);
    }

    pub fn shook_hands(&self, direction: Direction) {
        match direction {
            Direction::Outbound => self.metrics.handshakes_out.inc(),
            Direction::Inbound => self.metrics.handshakes_in.inc(),
        };
    }
}

/// A server's wire that waits, or that was told to go; dropping it gives the place back.
pub struct Seat {
    pool: Arc<Pool>,
    client: SpiffeId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.metrics.idle_in.dec();
        let mut guests = lock(&self.pool.guests);
        match guests.get_mut(&self.client) {
            Some(seats) if *seats > 1 => *seats -= 1,
            _ => drop(guests.remove(&self.client)),
        }
    }
}

/// Lets idle wires go when their time is over, when our leaf is another one, and when the trust bundle changed.
pub fn run(pool: Arc<Pool>, svid: Svid, trust: &Trust, drain: &Drain) {
    let (mut trust, mut leaves) = (trust.watch(), svid.watch());
    let stop = drain.clone();
    drain.spawn(async move {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                changed = trust.changed() => {
                    if changed.is_err() { return }
                    pool.retire();
                }
                changed = leaves.changed() => {
                    if changed.is_err() { return }
                    match svid.current() {
                        Some(current) => pool.retain(|wire, _| wire.generation == current.number),
                        None => pool.retire(),
                    }
                }
                _ = look.tick() => {
                    pool.retain(|wire, since| since.elapsed() < IDLE_TIME && wire.socket.is_quiet());
                }
            }
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // a map of wires is whole at any moment
}

/// For as many app connections at once as a busy client usually has to one endpoint.
const IDLE_PER_ENDPOINT: usize = 32;
const IDLE: usize = 256;
/// On the server, of all pods of one identity.
const IDLE_PER_IDENTITY: usize = 512;
/// Less than the server's 90 s (inbound.rs), so that it is the client who closes.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// A server that drains waits for us to see its GOAWAY, and a descriptor of a dead peer is held no longer.
const LOOK: Duration = Duration::from_secs(1);
