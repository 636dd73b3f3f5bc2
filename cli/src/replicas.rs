//! What the replicas of the controller say, as one answer. A proxy is connected to one of them and reports to that one, so each
//! knows a part: the two ends of an edge may stand in two answers. Of edge one replica leads, and knows more than the others. Pure.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::shapes::{ControllerStatus, Edge, End};

/// One edge for each client, server, port and way, whoever heard of it. Ends that reported to different replicas prove it together.
pub(crate) fn edges(answers: impl IntoIterator<Item = Vec<Edge>>) -> Vec<Edge> {
    let mut merged = BTreeMap::<Key, Sides>::new();
    for edge in answers.into_iter().flatten() {
        let sides = merged.entry(Key::of(&edge)).or_default();
        let said = Sum { open: edge.open, total: edge.total, sent: edge.sent, received: edge.received };
        if edge.proof != "server" {
            sides.client = Some(sides.client.unwrap_or_default().plus(said));
        }
        if edge.proof != "client" {
            sides.server = Some(sides.server.unwrap_or_default().plus(said));
        }
        sides.edge = Some(match sides.edge.take() {
            None => edge,
            Some(known) => Edge {
                cert_left_seconds: [known.cert_left_seconds, edge.cert_left_seconds]
                    .into_iter()
                    .flatten()
                    .min(),
                tls: known.tls.or(edge.tls),
                ..known
            },
        });
    }
    merged.into_values().filter_map(Sides::edge).collect()
}

/// The answer of the one that leads, else the first.
pub(crate) fn leading<T>(answers: impl IntoIterator<Item = T>, leads: impl Fn(&T) -> bool) -> Option<T> {
    let mut first = None;
    for answer in answers {
        if leads(&answer) {
            return Some(answer);
        }
        first.get_or_insert(answer);
    }
    first
}

/// Every workload once, with the words of the replica that its proxy is connected to.
pub(crate) fn status(answers: impl IntoIterator<Item = ControllerStatus>) -> Option<ControllerStatus> {
    let mut answers = answers.into_iter();
    let mut first = answers.next()?;
    let known = std::mem::take(&mut first.workloads);
    let mut workloads = BTreeMap::new();
    let mut errors = std::mem::take(&mut first.manifests.errors);
    for workload in known {
        workloads.insert((workload.namespace.clone(), workload.pod.clone()), workload);
    }
    for answer in answers {
        errors.extend(answer.manifests.errors);
        for workload in answer.workloads {
            match workloads.entry((workload.namespace.clone(), workload.pod.clone())) {
                Entry::Vacant(vacant) => {
                    vacant.insert(workload);
                }
                Entry::Occupied(mut occupied) => {
                    let rank = |proxy: &Option<crate::shapes::ProxyStatus>| {
                        proxy.as_ref().map(|proxy| proxy.connected) // nothing < away < connected
                    };
                    if rank(&workload.proxy) > rank(&occupied.get().proxy) {
                        occupied.insert(workload);
                    }
                }
            }
        }
    }
    errors.sort();
    errors.dedup();
    first.workloads = workloads.into_values().collect();
    first.manifests.errors = errors;
    Some(first)
}

#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    client: EndKey,
    server: EndKey,
    secured: bool,
    refused: bool,
    reason: Option<String>,
}

/// Namespace, pod, address, ID, port.
type EndKey = (Option<String>, Option<String>, Option<String>, Option<String>, Option<u16>);

/// A client that moved from one replica to the other counts in both; what each heard is added up.
#[derive(Clone, Copy, Default)]
struct Sum {
    open: u64,
    total: u64,
    sent: u64,
    received: u64,
}

#[derive(Default)]
struct Sides {
    client: Option<Sum>,
    server: Option<Sum>,
    edge: Option<Edge>,
}

impl Key {
    fn of(edge: &Edge) -> Self {
        // A proxy tells the address alone until it knows the pod; the controller adds the pod then, and it is one end all the same.
        let address = |end: &End| end.address.clone().filter(|_| end.pod.is_none());
        let end =
            |end: &End| (end.namespace.clone(), end.pod.clone(), address(end), end.id.clone(), end.port);
        Self {
            client: end(&edge.client),
            server: end(&edge.server),
            secured: edge.secured,
            refused: edge.refused,
            reason: edge.reason.clone(),
        }
    }
}

impl Sum {
    fn plus(self, other: Self) -> Self {
        Self {
            open: self.open.saturating_add(other.open),
            total: self.total.saturating_add(other.total),
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
        }
    }
}

impl Sides {
    /// As the controller does it for one replica: the larger count, the client's bytes where it said any.
    fn edge(self) -> Option<Edge> {
        let sides = || [self.client, self.server].into_iter().flatten();
        let bytes = self.client.or(self.server).unwrap_or_default();
        let proof = match (self.client, self.server) {
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "client",
            _ => "server",
        };
        Some(Edge {
            open: sides().map(|side| side.open).max().unwrap_or(0),
            total: sides().map(|side| side.total).max().unwrap_or(0),
            sent: bytes.sent,
            received: bytes.received,
            proof: proof.into(),
            ..self.edge?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edge(client: &str, proof: &str, total: u64) -> Edge {
        let end = |pod: &str| End {
            namespace: Some("shop".into()),
            pod: Some(pod.into()),
            id: Some(format!("spiffe://td/ns/shop/sa/{pod}")),
            ..End::default()
        };
        Edge {
            client: end(client),
            server: End { port: Some(80), ..end("api") },
            secured: true,
            total,
            open: 1,
            sent: 10 * total,
            received: total,
            proof: proof.into(),
            ..Edge::default()
        }
    }

    fn totals(answers: &[Vec<Edge>]) -> Vec<(String, String, u64, u64)> {
        edges(answers.to_vec())
            .into_iter()
            .map(|edge| (edge.client.pod.unwrap(), edge.proof, edge.total, edge.sent))
            .collect()
    }

    #[test]
    fn ends_that_reported_to_different_replicas_prove_their_edge_together() {
        let split = [vec![edge("web", "client", 3)], vec![edge("web", "server", 3)]];
        assert_eq!(totals(&split), [("web".into(), "both".into(), 3, 30)]);
    }

    #[test]
    fn what_one_end_told_two_replicas_is_added_up() {
        let moved = [vec![edge("web", "both", 5)], vec![edge("web", "client", 2), edge("cron", "server", 1)]];
        assert_eq!(
            totals(&moved),
            [("cron".into(), "server".into(), 1, 10), ("web".into(), "both".into(), 7, 70)]
        );
    }

    #[test]
    fn edges_that_differ_in_anything_but_who_said_it_stay_apart() {
        let plain = Edge { secured: false, reason: Some("no_pod".into()), ..edge("web", "client", 1) };
        let liar = Edge {
            client: End { id: Some("x".into()), ..edge("web", "", 0).client },
            ..edge("web", "server", 1)
        };
        assert_eq!(totals(&[vec![edge("web", "client", 1)], vec![plain, liar]]).len(), 3);
    }

    #[test]
    fn a_pod_that_was_first_told_by_its_address_alone_is_one_end() {
        let mut early = edge("web", "server", 4);
        early.client.address = Some("10.0.0.1".into());
        let merged = totals(&[vec![edge("web", "server", 20), early]]);
        assert_eq!(merged, [("web".into(), "server".into(), 24, 240)]);
    }

    fn answer(workloads: &[(&str, Option<bool>)]) -> ControllerStatus {
        let workloads: Vec<_> = workloads
            .iter()
            .map(|(pod, connected)| {
                let proxy = connected.map(|connected| {
                    json!({ "connected": connected, "version": "1", "ready": connected, "notReady": null, "leafNotAfter": null,
                            "bundleSequence": 1, "rejected": [] })
                });
                json!({ "namespace": "shop", "pod": pod, "serviceAccount": "a", "address": null, "meshed": true, "why": null,
                        "mode": null, "identity": null, "proxy": proxy })
            })
            .collect();
        let manifests = json!({ "files": 0, "objects": 0, "errors": [] });
        serde_json::from_value(json!({ "version": "1", "manifests": manifests, "workloads": workloads }))
            .unwrap()
    }

    #[test]
    fn the_one_that_leads_is_believed_before_the_others() {
        let chosen = |answers: &[(&str, bool)]| {
            leading(answers.to_vec(), |(_, leads)| *leads).map(|(name, _)| name.to_owned())
        };
        assert_eq!(chosen(&[("a", false), ("b", true)]).as_deref(), Some("b"));
        assert_eq!(chosen(&[("a", false), ("b", false)]).as_deref(), Some("a"));
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn a_workload_is_described_by_the_replica_that_its_proxy_is_connected_to() {
        let here = answer(&[("api", Some(true)), ("web", None), ("db", Some(false))]);
        let there = answer(&[("api", Some(false)), ("web", Some(true)), ("new", None)]);
        let merged = status([here, there]).unwrap();
        let connected: Vec<_> = merged
            .workloads
            .iter()
            .map(|w| (w.pod.as_str(), w.proxy.as_ref().map(|p| p.connected)))
            .collect();
        assert_eq!(connected, [("api", Some(true)), ("db", Some(false)), ("new", None), ("web", Some(true))]);
        assert!(status([]).is_none());
    }
}
