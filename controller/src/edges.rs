//! Deltas of many proxies -> edges: who spoke with whom, how, and how much. Both ends of an mTLS connection report it; the two
//! reports meet under (client ID, server ID, port), so an edge that both have seen is proven by both.
//!
//! Bounded: [`MAX_EDGES`] in all, [`MAX_EDGES_OF_ONE`] that one reporter may start. A workload can lie about itself and its
//! own counts, never about another's: its end of each edge is its own SVID.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use signet_api::v1::{Direction, EdgeDelta, address::Target};
use signet_core::identity;

use crate::{
    index::{Index, Pod},
    status::{Edge, End, Tls},
    translate,
};

/// What is remembered of all connections.
#[derive(Debug, Default)]
pub struct Edges {
    edges: HashMap<Key, Sums>,
    /// Edges that each reporter began.
    begun: HashMap<Arc<str>, usize>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    /// SPIFFE ID on mTLS, else "<namespace>/<pod>" or an address.
    client: String,
    server: String,
    port: u16,
    secured: bool,
    reason: String,
    refused: bool,
}

#[derive(Debug)]
struct Sums {
    client: End,
    server: End,
    tls: Option<Tls>,
    /// As the client and as the server end reported it.
    by_client: Side,
    by_server: Side,
    /// Unix seconds.
    seen: i64,
    begun_by: Arc<str>,
}

#[derive(Debug, Default)]
struct Side {
    reported: bool,
    /// The other end's leaf: notAfter, Unix seconds; 0: unknown.
    peer_not_after: i64,
    total: u64,
    /// Open connections by reporter, so that those of one that is gone can be taken back.
    open: BTreeMap<Arc<str>, u64>,
    /// As this end sent and received.
    sent: u64,
    received: u64,
}

impl Side {
    fn open(&self) -> u64 {
        self.open.values().sum()
    }
}

impl Edges {
    /// Adds what `reporter` says at `now`, Unix seconds. `Err`: not kept, and the word that says why.
    pub fn add(&mut self, index: &Index, reporter: &Pod, delta: EdgeDelta, now: i64) -> Result<(), &'static str> {
        let by: Arc<str> = format!("{}/{}", reporter.namespace, reporter.name).into();
        let fresh = Fresh::read(index, reporter, delta)?;
        if !self.edges.contains_key(&fresh.key) {
            self.make_room(&by)?;
            *self.begun.entry(Arc::clone(&by)).or_default() += 1;
        }
        let sums = self.edges.entry(fresh.key).or_insert_with(|| Sums {
            client: End::default(),
            server: End::default(),
            tls: None,
            by_client: Side::default(),
            by_server: Side::default(),
            seen: now,
            begun_by: Arc::clone(&by),
        });
        sums.seen = now;
        sums.tls = fresh.tls.or(sums.tls.take());
        // Each end knows itself best: what it says of the other never replaces what that one said.
        let (own_is_client, side) = match fresh.direction {
            Direction::Outbound => (true, &mut sums.by_client),
            _ => (false, &mut sums.by_server),
        };
        side.reported = true;
        side.peer_not_after = side.peer_not_after.max(fresh.peer_not_after);
        side.total = side.total.saturating_add(fresh.opened);
        side.sent = side.sent.saturating_add(fresh.sent);
        side.received = side.received.saturating_add(fresh.received);
        let open = side.open.get(&by).copied().unwrap_or(0).saturating_add(fresh.opened).saturating_sub(fresh.closed);
        match open {
            0 => drop(side.open.remove(&by)),
            open => drop(side.open.insert(by, open)),
        }
        let other_reported = if own_is_client { sums.by_server.reported } else { sums.by_client.reported };
        if own_is_client || !other_reported {
            sums.client = fresh.client;
        }
        if !own_is_client || !other_reported {
            sums.server = fresh.server;
        }
        Ok(())
    }

    /// Drops what was idle for [`IDLE`] at `now`.
    pub fn forget(&mut self, now: i64) {
        self.retain(|sums| sums.is_open() || now - sums.seen <= IDLE);
    }

    /// `reporter` has been gone for so long that its open connections have ended with it.
    pub fn gone(&mut self, reporter: &str) {
        for sums in self.edges.values_mut() {
            sums.by_client.open.remove(reporter);
            sums.by_server.open.remove(reporter);
        }
    }

    pub fn len(&self) -> usize {
        self.edges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// Every edge that is open or was used in the last [`IDLE`] seconds, in no order.
    pub fn list(&self, now: i64) -> Vec<Edge> {
        let live = self.edges.iter().filter(|(_, sums)| sums.is_open() || now - sums.seen <= IDLE);
        live.map(|(key, sums)| sums.edge(key, now)).collect()
    }

    /// Room for one edge more of `reporter`: when all is full, the oldest idle twentieth goes at once, so that the search for
    /// it is paid once per many edges.
    fn make_room(&mut self, reporter: &Arc<str>) -> Result<(), &'static str> {
        if self.begun.get(reporter).is_some_and(|begun| *begun >= MAX_EDGES_OF_ONE) {
            return Err("reporter_full");
        }
        if self.edges.len() < MAX_EDGES {
            return Ok(());
        }
        let mut idle: Vec<i64> = self.edges.values().filter(|sums| !sums.is_open()).map(|sums| sums.seen).collect();
        if idle.is_empty() {
            return Err("full");
        }
        idle.sort_unstable();
        let oldest = idle[(MAX_EDGES / 20).min(idle.len() - 1)];
        let mut quota = MAX_EDGES / 20; // many may have been seen in the same second
        self.retain(|sums| {
            let goes = !sums.is_open() && sums.seen <= oldest && quota > 0;
            quota -= usize::from(goes);
            !goes
        });
        Ok(())
    }

    fn retain(&mut self, mut keep: impl FnMut(&Sums) -> bool) {
        let begun = &mut self.begun;
        self.edges.retain(|_, sums| {
            let keeps = keep(sums);
            if !keeps && let Some(count) = begun.get_mut(&sums.begun_by) {
                *count -= 1;
            }
            keeps
        });
        begun.retain(|_, count| *count > 0);
    }
}

impl Sums {
    fn is_open(&self) -> bool {
        self.by_client.open() > 0 || self.by_server.open() > 0
    }

    /// The larger of what the two ends counted: reports may be lost, never invented twice.
    fn edge(&self, key: &Key, now: i64) -> Edge {
        let (client, server) = (&self.by_client, &self.by_server);
        let first_expiry = [client.peer_not_after, server.peer_not_after].into_iter().filter(|at| *at > 0).min();
        Edge {
            client: self.client.clone(),
            server: End { port: Some(key.port), ..self.server.clone() },
            secured: key.secured,
            tls: self.tls.clone(),
            cert_left_seconds: first_expiry.map(|at| at - now),
            reason: Some(key.reason.clone()).filter(|reason| !reason.is_empty()),
            refused: key.refused,
            open: client.open().max(server.open()),
            total: client.total.max(server.total),
            sent: client.sent.max(server.received),
            received: client.received.max(server.sent),
            proof: match (client.reported, server.reported) {
                (true, true) => "both",
                (true, false) => "client",
                _ => "server",
            }
            .into(),
        }
    }
}

/// One delta, checked and with its peer looked up.
struct Fresh {
    key: Key,
    client: End,
    server: End,
    direction: Direction,
    tls: Option<Tls>,
    peer_not_after: i64,
    opened: u64,
    closed: u64,
    sent: u64,
    received: u64,
}

impl Fresh {
    fn read(index: &Index, reporter: &Pod, delta: EdgeDelta) -> Result<Self, &'static str> {
        let id = reporter.identity().ok_or("not_meshed")?.to_string();
        let direction = delta.direction();
        if direction == Direction::Unspecified {
            return Err("no_direction");
        }
        let asked = u16::try_from(delta.port).map_err(|_| "bad_port")?;
        if delta.peer.len() > MAX_WORD || (!delta.peer_id.is_empty() && identity::parse(&delta.peer_id).is_err()) {
            return Err("bad_peer");
        }
        if !is_word(&delta.plain_reason) || !is_word(&delta.refused_reason) {
            return Err("bad_reason");
        }
        let (peer_not_after, tls) = match delta.tls {
            Some(tls) if [&tls.version, &tls.key_exchange, &tls.cipher].iter().any(|name| name.len() > MAX_WORD) => {
                return Err("bad_tls");
            }
            Some(tls) => {
                let names = Tls { version: tls.version, key_exchange: tls.key_exchange, cipher: tls.cipher };
                (tls.peer_not_after, Some(names))
            }
            None => (0, None),
        };
        let own = End { namespace: reporter.namespace.clone(), pod: reporter.name.clone(), id, ..End::default() };
        let peer = peer_end(index, &delta.peer, delta.peer_id);
        let refused = !delta.refused_reason.is_empty();
        let secured = tls.is_some() && !peer.id.is_empty();
        let (client, server, port) = match direction {
            Direction::Outbound => {
                let port = pod_port(index, &peer, &delta.peer, asked);
                (own, peer, port)
            }
            _ => (peer, own, asked),
        };
        let name = |end: &End| match (secured, end.pod.is_empty()) {
            (true, _) => end.id.clone(),
            (false, false) => format!("{}/{}", end.namespace, end.pod),
            (false, true) => end.address.clone(),
        };
        let reason = if refused { delta.refused_reason } else { delta.plain_reason };
        let key = Key { client: name(&client), server: name(&server), port, secured, reason, refused };
        let EdgeDelta { opened, closed, sent, received, .. } = delta;
        Ok(Self { key, client, server, direction, tls, peer_not_after, opened, closed, sent, received })
    }
}

/// "<namespace>/<pod>", "<namespace>/<service>" or an address; an address of a Pod that we know becomes that Pod.
fn peer_end(index: &Index, peer: &str, id: String) -> End {
    let bare = peer.parse::<IpAddr>();
    let known = bare.as_ref().ok().and_then(|address| index.pod_at(address.to_canonical()));
    match (known, peer.split_once('/')) {
        (Some(pod), _) => End { namespace: pod.namespace.clone(), pod: pod.name.clone(), id, ..End::default() },
        (None, Some((namespace, name))) => End { namespace: namespace.into(), pod: name.into(), id, ..End::default() },
        (None, None) => End { address: peer.into(), id, ..End::default() },
    }
}

/// A client reports the port that it asked for, the server its Pod's: where a Service in between maps the one to exactly one
/// other, that is the edge's port, so that the two reports meet.
fn pod_port(index: &Index, server: &End, peer: &str, asked: u16) -> u16 {
    let named = index.service(&server.namespace, &server.pod).map(|service| format!("{}.{}", service.name, service.namespace));
    let of_namespace = index.services.iter().filter(|((namespace, _), _)| *namespace == server.namespace);
    let hosts = of_namespace.map(|((namespace, name), _)| format!("{name}.{namespace}"));
    let hosts: Vec<String> = if index.pod(&server.namespace, &server.pod).is_some() {
        hosts.take(MAX_SERVICES).collect()
    } else {
        named.into_iter().collect()
    };
    let mut targets = Vec::new();
    for host in hosts {
        let Some(Target::Service(service)) = translate::address(index, &host).and_then(|address| address.target) else {
            continue;
        };
        for endpoint in service.endpoints {
            let is_server = endpoint.workload.as_ref().is_some_and(|w| {
                w.address == peer || service.name == server.pod || (w.namespace == server.namespace && w.name == server.pod)
            });
            if let Some(target) = endpoint.target_ports.get(&u32::from(asked)).filter(|_| is_server) {
                targets.push(*target);
            }
        }
    }
    targets.sort_unstable();
    targets.dedup();
    match targets[..] {
        [target] => u16::try_from(target).unwrap_or(asked),
        _ => asked,
    }
}

/// A reason is one of our words: lower-case, digits and underscores.
fn is_word(word: &str) -> bool {
    word.len() <= 64 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// In all; an edge costs about 1 kB.
const MAX_EDGES: usize = 20_000;
/// A tenth of all may be one workload's.
const MAX_EDGES_OF_ONE: usize = 2_000;
/// Seconds after its last connection: a quarter of an hour is what a person looking for a cause goes back.
const IDLE: i64 = 15 * 60;
/// Bytes of a peer's or an algorithm's name: "<namespace>/<pod>" fits.
const MAX_WORD: usize = 320;
/// Services of one namespace that are searched for a port's mapping.
const MAX_SERVICES: usize = 200;

#[cfg(test)]
#[path = "edges/tests.rs"]
mod tests;
