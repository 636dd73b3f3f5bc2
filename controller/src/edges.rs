//! Who talks to whom, and how: the sums of both ends' reports, merged, in bounded memory. Pure: reports and time in, edges out.
//!
//! An edge is *proven* when both ends report it; what only one says is its claim. On mTLS both identities are part of what makes
//! an edge one: a client names its pod to the server in words of its own choice, but its certificate it cannot choose.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use signet_api::v1::{Direction, EdgeDelta};

/// One line of `signet edges`: connections of one client to one port of one server that went the same way.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub client: End,
    pub server: End,
    pub secured: bool,
    pub tls: Option<Tls>,
    /// Until the first of the two leaves ends, as far as they are known.
    pub cert_left_seconds: Option<i64>,
    /// Why plaintext, or why refused: a word.
    pub reason: Option<String>,
    pub refused: bool,
    pub open: u64,
    pub total: u64,
    /// Bytes of the apps, from client to server and back.
    pub sent: u64,
    pub received: u64,
    /// "both", "client" or "server": who reported it.
    pub proof: String,
}

/// A workload, or an address that belongs to none.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    pub namespace: Option<String>,
    pub pod: Option<String>,
    pub address: Option<String>,
    /// SPIFFE ID that it proved.
    pub id: Option<String>,
    /// Of a server.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    pub version: String,
    pub key_exchange: String,
    pub cipher: String,
}

/// Who reports: a pod, with the identity that its certificate proved.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Reporter {
    /// "<namespace>/<pod>"
    pub pod: String,
    pub id: String,
}

/// All edges, by what makes them one.
#[derive(Default)]
pub struct Edges {
    edges: HashMap<Key, Sums>,
    /// How many edges each reporter began.
    begun: HashMap<String, usize>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    /// "<namespace>/<pod>", a Service or an address.
    client: String,
    server: String,
    /// SPIFFE IDs as far as they are known: the reporter's own, and what its peer proved to it.
    client_id: String,
    server_id: String,
    port: u16,
    tls: bool,
    plain: String,
    refused: String,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    tls: Option<Tls>,
    by_client: Option<Side>,
    by_server: Option<Side>,
    /// Unix seconds.
    seen: i64,
    begun_by: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Ever, and now.
    opened: u64,
    open: u64,
    sent: u64,
    received: u64,
    /// Of the other end's leaf.
    peer_not_after: i64,
}

impl Edges {
    /// Adds one delta; false when it was dropped: there are [`MAX_EDGES`] and none is idle, or this reporter began
    /// [`MAX_EDGES_OF_ONE`].
    pub fn add(&mut self, reporter: &Reporter, delta: EdgeDelta, now: i64) -> bool {
        let outbound = delta.direction() == Direction::Outbound;
        let (client, server) = match outbound {
            true => (reporter.pod.clone(), shown(&delta.peer)),
            false => (shown(&delta.peer), reporter.pod.clone()),
        };
        let (own, peer) = (reporter.id.clone(), shown(&delta.peer_id));
        let (client_id, server_id) = if outbound { (own, peer) } else { (peer, own) };
        let key = Key {
            client,
            server,
            client_id,
            server_id,
            port: u16::try_from(delta.port).unwrap_or(0),
            tls: delta.tls.is_some(),
            plain: shown(&delta.plain_reason),
            refused: shown(&delta.refused_reason),
        };
        if !self.edges.contains_key(&key) {
            let begun = self.begun.get(&reporter.pod).copied().unwrap_or(0);
            if begun >= MAX_EDGES_OF_ONE || (self.edges.len() >= MAX_EDGES && !self.make_room(now)) {
                return false;
            }
            *self.begun.entry(reporter.pod.clone()).or_default() += 1;
        }
        let sums = self
            .edges
            .entry(key)
            .or_insert_with(|| Sums { begun_by: reporter.pod.clone(), ..Sums::default() });
        sums.seen = now;
        if let Some(tls) = &delta.tls {
            let word = |text: &str| shown(text);
            sums.tls = Some(Tls {
                version: word(&tls.version),
                key_exchange: word(&tls.key_exchange),
                cipher: word(&tls.cipher),
            });
        }
        let side = if outbound { &mut sums.by_client } else { &mut sums.by_server };
        side.get_or_insert_default().add(&delta);
        true
    }

    /// A reporter's stream ended: what it had open is closed, as far as we can know.
    pub fn gone(&mut self, reporter: &Reporter) {
        for (key, sums) in &mut self.edges {
            if key.client == reporter.pod
                && let Some(side) = &mut sums.by_client
            {
                side.open = 0;
            }
            if key.server == reporter.pod
                && let Some(side) = &mut sums.by_server
            {
                side.open = 0;
            }
        }
    }

    /// Every edge that is open or was seen within [`IDLE`], by name.
    pub fn list(&mut self, now: i64) -> Vec<Edge> {
        self.forget(now, IDLE);
        let mut edges: Vec<Edge> = self.edges.iter().map(|(key, sums)| sums.edge(key, now)).collect();
        edges.sort_by_cached_key(|edge| {
            (edge.client.name(), edge.server.name(), edge.server.port, edge.reason.clone())
        });
        edges
    }

    pub fn len(&self) -> usize {
        self.edges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    fn forget(&mut self, now: i64, idle: i64) {
        self.retain(|sums| sums.open() > 0 || now - sums.seen < idle);
    }

    fn retain(&mut self, keep: impl Fn(&Sums) -> bool) {
        let begun = &mut self.begun;
        self.edges.retain(|_, sums| {
            let keeps = keep(sums);
            if !keeps && let Some(count) = begun.get_mut(&sums.begun_by) {
                *count = count.saturating_sub(1);
            }
            keeps
        });
        begun.retain(|_, count| *count > 0);
    }

    /// Forgets what is idle; if that is not enough, the longest idle twentieth at once, so that a flood of new edges pays one
    /// search for many of them.
    fn make_room(&mut self, now: i64) -> bool {
        self.forget(now, IDLE);
        if self.edges.len() < MAX_EDGES {
            return true;
        }
        let idle = self.edges.values().filter(|sums| sums.open() == 0);
        let mut seen: Vec<i64> = idle.map(|sums| sums.seen).collect();
        seen.sort_unstable();
        let Some(oldest) = seen.get(MAX_EDGES / 20).or(seen.last()).copied() else { return false };
        self.retain(|sums| sums.open() > 0 || sums.seen > oldest);
        true
    }
}

impl Side {
    fn add(&mut self, delta: &EdgeDelta) {
        self.opened = self.opened.saturating_add(delta.opened);
        self.open = self.open.saturating_add(delta.opened).saturating_sub(delta.closed);
        self.sent = self.sent.saturating_add(delta.sent);
        self.received = self.received.saturating_add(delta.received);
        let not_after = delta.tls.as_ref().map_or(0, |tls| tls.peer_not_after);
        self.peer_not_after = self.peer_not_after.max(not_after);
    }
}

impl Sums {
    fn sides(&self) -> impl Iterator<Item = Side> {
        [self.by_client, self.by_server].into_iter().flatten()
    }

    fn open(&self) -> u64 {
        self.sides().map(|side| side.open).max().unwrap_or(0)
    }

    fn edge(&self, key: &Key, now: i64) -> Edge {
        let ends = self.sides().map(|side| side.peer_not_after).filter(|not_after| *not_after > 0).min();
        let reason = [&key.refused, &key.plain].into_iter().find(|word| !word.is_empty());
        let (sent, received) = match (self.by_client, self.by_server) {
            (Some(client), _) => (client.sent, client.received),
            (None, Some(server)) => (server.received, server.sent),
            (None, None) => (0, 0),
        };
        let refused = !key.refused.is_empty();
        Edge {
            client: End::named(&key.client, &key.client_id),
            server: End { port: Some(key.port), ..End::named(&key.server, &key.server_id) },
            secured: key.tls && !refused,
            tls: self.tls.clone(),
            cert_left_seconds: ends.map(|not_after| not_after - now),
            reason: reason.cloned(),
            refused,
            open: self.open(),
            total: self.sides().map(|side| side.opened).max().unwrap_or(0),
            sent,
            received,
            proof: match (self.by_client, self.by_server) {
                (Some(_), Some(_)) => "both",
                (Some(_), None) => "client",
                _ => "server",
            }
            .into(),
        }
    }
}

impl End {
    fn named(name: &str, id: &str) -> Self {
        let id = Some(id.to_owned()).filter(|id| !id.is_empty());
        match name.split_once('/') {
            Some((namespace, pod)) => {
                Self { namespace: Some(namespace.into()), pod: Some(pod.into()), id, ..Self::default() }
            }
            None => Self { address: Some(name.into()), id, ..Self::default() },
        }
    }

    /// "shop/web-0", or the bare address.
    pub fn name(&self) -> String {
        match (&self.namespace, &self.pod, &self.address) {
            (Some(namespace), Some(pod), _) => format!("{namespace}/{pod}"),
            (.., Some(address)) => address.clone(),
            _ => "unknown".into(),
        }
    }
}

/// A proxy is authenticated, not trusted: its words are kept short.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect()
}

/// Of the whole mesh; about 10 MB.
pub const MAX_EDGES: usize = 20_000;
/// A tenth of all: what one workload may fill with names of its own making.
const MAX_EDGES_OF_ONE: usize = 2_000;
/// Seconds without traffic after which a closed edge is history.
const IDLE: i64 = 15 * 60;
/// The longest is "<namespace>/<pod>" or a SPIFFE ID of usual names.
const MAX_WORD: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use signet_api::v1;

    fn reporter(pod: &str) -> Reporter {
        Reporter { pod: pod.into(), id: format!("spiffe://td/{pod}") }
    }

    fn delta(direction: Direction, peer: &str, opened: u64, closed: u64) -> EdgeDelta {
        let tls = v1::Tls { version: "TLSv1.3".into(), peer_not_after: 1000, ..Default::default() };
        EdgeDelta {
            direction: direction.into(),
            peer: peer.into(),
            peer_id: format!("spiffe://td/{peer}"),
            port: 80,
            tls: Some(tls),
            opened,
            closed,
            sent: 10,
            received: 20,
            ..Default::default()
        }
    }

    #[test]
    fn both_ends_make_one_proven_edge() {
        let mut edges = Edges::default();
        edges.add(&reporter("shop/web"), delta(Direction::Outbound, "shop/api", 2, 1), 100);
        assert_eq!(edges.list(100)[0].proof, "client");
        edges.add(&reporter("shop/api"), delta(Direction::Inbound, "shop/web", 2, 1), 100);
        let [edge] = &edges.list(100)[..] else { panic!("not one edge") };
        assert_eq!(
            (edge.proof.as_str(), edge.open, edge.total, edge.sent, edge.received),
            ("both", 1, 2, 10, 20)
        );
        assert_eq!(edge.client.id.as_deref(), Some("spiffe://td/shop/web"));
        assert_eq!(edge.server.id.as_deref(), Some("spiffe://td/shop/api"));
        assert_eq!((edge.secured, edge.cert_left_seconds), (true, Some(900)));
    }

    #[test]
    fn a_reporter_that_goes_leaves_nothing_open_and_idle_edges_are_forgotten() {
        let mut edges = Edges::default();
        edges.add(&reporter("shop/web"), delta(Direction::Outbound, "shop/api", 1, 0), 0);
        assert_eq!(edges.list(IDLE + 1).len(), 1, "open: not idle");
        edges.gone(&reporter("shop/web"));
        assert!(edges.list(IDLE + 1).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_longest_idle_edges_go_first() {
        let mut edges = Edges::default();
        for n in 0..MAX_EDGES + 10 {
            let (now, of) = (i64::try_from(n).unwrap() / 1000, reporter(&format!("shop/web-{}", n / 1000)));
            assert!(edges.add(&of, delta(Direction::Outbound, &format!("shop/{n}"), 1, 1), now));
        }
        assert!(edges.len() <= MAX_EDGES && edges.len() >= MAX_EDGES * 9 / 10, "{}", edges.len());
        let names: Vec<String> = edges.list(20).iter().map(|edge| edge.server.name()).collect();
        assert!(!names.contains(&"shop/0".into()) && names.contains(&format!("shop/{}", MAX_EDGES + 9)));
    }

    #[test]
    fn one_reporter_cannot_fill_the_memory_and_gets_its_room_back() {
        let mut edges = Edges::default();
        let mut add = |n: usize, now| {
            edges.add(&reporter("shop/web"), delta(Direction::Outbound, &format!("shop/{n}"), 1, 1), now)
        };
        assert!((0..MAX_EDGES_OF_ONE).all(|n| add(n, 0)));
        assert!(!add(MAX_EDGES_OF_ONE, 0) && add(0, 0), "a known one is still counted");
        assert!(edges.add(&reporter("shop/other"), delta(Direction::Outbound, "shop/api", 1, 1), 0));
        edges.list(IDLE + 1);
        assert!(edges.add(&reporter("shop/web"), delta(Direction::Outbound, "shop/new", 1, 1), IDLE + 1));
    }

    #[test]
    fn a_client_that_claims_another_pods_name_does_not_prove_that_ones_edge() {
        let mut edges = Edges::default();
        edges.add(&reporter("shop/web"), delta(Direction::Outbound, "shop/api", 1, 1), 0);
        let liar = EdgeDelta {
            peer_id: "spiffe://td/shop/liar".into(),
            ..delta(Direction::Inbound, "shop/web", 1, 1)
        };
        edges.add(&reporter("shop/api"), liar, 0);
        let proofs: Vec<String> = edges.list(0).into_iter().map(|edge| edge.proof).collect();
        assert_eq!(proofs.len(), 2);
        assert!(!proofs.contains(&"both".into()), "{proofs:?}");
    }
}
