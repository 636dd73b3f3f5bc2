//! What the admin socket answers, as structs that `signet status` and `signet edges` share; and the pure functions that fill
//! them.

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    edges::Edges,
    index::{Index, Pod, Transport},
    report::Proxies,
    resources::Subscriber,
    source::ManifestError,
    streams::Streams,
};

/// GET /v1/status.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub trust_domain: String,
    pub manifests: Manifests,
    /// In order of namespace and name.
    pub workloads: Vec<Workload>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifests {
    pub files: usize,
    /// Of kinds that we read.
    pub objects: usize,
    pub errors: Vec<ManifestError>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub namespace: String,
    pub pod: String,
    pub service_account: String,
    /// Empty until the Pod has one.
    pub address: String,
    pub meshed: bool,
    /// Why it is not meshed: "namespace_not_labelled", "pod_opted_out", "host_network"; empty for one that is.
    pub why: String,
    /// "permissive" or "strict"; `None`: not meshed.
    pub mode: Option<String>,
    /// SPIFFE ID; `None`: not meshed.
    pub identity: Option<String>,
    /// `None`: its proxy never reported.
    pub proxy: Option<Proxy>,
}

/// A proxy, as it last described itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Its discovery stream is open now.
    pub connected: bool,
    pub version: String,
    pub ready: bool,
    /// Why not, in its words.
    pub not_ready: String,
    /// RFC 3339; `None`: it has no leaf.
    pub leaf_not_after: Option<String>,
    pub bundle_sequence: u64,
    /// What it rejected of what we sent, and has not accepted since.
    pub rejected: Vec<String>,
}

/// GET /v1/edges.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct EdgeList {
    pub edges: Vec<Edge>,
}

/// Who spoke with whom, how, and how much.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub client: End,
    pub server: End,
    /// Mutual TLS.
    pub secured: bool,
    /// `None`: plaintext, or refused before TLS was finished.
    pub tls: Option<Tls>,
    /// Seconds until the first of the two leaves expires; negative: it has.
    pub cert_left_seconds: Option<i64>,
    /// Why plaintext, or why refused.
    pub reason: Option<String>,
    pub refused: bool,
    /// Connections open now, and ever.
    pub open: u64,
    pub total: u64,
    /// Bytes of the apps, from client to server and back.
    pub sent: u64,
    pub received: u64,
    /// Who reported it: "both", "client" or "server".
    pub proof: String,
}

/// One end of an edge. Empty strings stand for what is not known.
#[derive(Clone, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct End {
    pub namespace: String,
    /// A Pod's name, or a Service's when the client never learnt the Pod.
    pub pod: String,
    /// Where no Pod is known.
    pub address: String,
    /// The SPIFFE ID that it proved.
    pub id: String,
    /// Of a server: the Pod's port where it is known, else the port asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    pub version: String,
    pub key_exchange: String,
    pub cipher: String,
}

/// The whole status at one moment.
pub fn status(index: &Index, manifests: Manifests, proxies: &Proxies, streams: &Streams) -> Status {
    let workload = |pod: &std::sync::Arc<Pod>| workload(index, pod, proxies, streams);
    Status {
        version: signet_core::VERSION.into(),
        trust_domain: index.mesh.trust_domain.to_string(),
        manifests,
        workloads: index.pods.values().filter(|pod| !pod.ended).map(workload).collect(),
    }
}

fn workload(index: &Index, pod: &Pod, proxies: &Proxies, streams: &Streams) -> Workload {
    let strict = index.namespaces.get(&pod.namespace).is_some_and(|namespace| namespace.strict);
    let who = pod.identity().zip(pod.addresses.first());
    let who = who.map(|(id, address)| Subscriber { id: id.clone(), address: *address });
    let connected = who.as_ref().is_some_and(|who| streams.is_connected(who));
    let rejected = who.map(|who| streams.nacks(&who)).unwrap_or_default();
    let proxy = match proxies.of(&pod.namespace, &pod.name) {
        Some(state) => Some(Proxy {
            connected,
            version: state.version,
            ready: state.ready,
            not_ready: state.not_ready,
            leaf_not_after: Some(state.leaf_not_after).filter(|at| *at > 0).and_then(rfc3339),
            bundle_sequence: state.bundle_sequence,
            rejected,
        }),
        None if connected => Some(Proxy { connected, rejected, not_ready: "has not reported yet".into(), ..Proxy::default() }),
        None => None,
    };
    let (meshed, why) = match &pod.transport {
        Transport::Mesh(_) => (true, ""),
        Transport::Plain(why) => (false, *why),
    };
    Workload {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        service_account: pod.service_account.clone(),
        address: pod.addresses.first().map(ToString::to_string).unwrap_or_default(),
        meshed,
        why: why.into(),
        mode: meshed.then(|| if strict { "strict" } else { "permissive" }.into()),
        identity: pod.identity().map(ToString::to_string),
        proxy,
    }
}

/// Every edge, in order of client and server.
pub fn edges(edges: &Edges, now: i64) -> EdgeList {
    let mut list = edges.list(now);
    list.sort_by(|a, b| (&a.client, &a.server, a.refused, &a.reason).cmp(&(&b.client, &b.server, b.refused, &b.reason)));
    EdgeList { edges: list }
}

fn rfc3339(unix: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(unix).ok()?.format(&Rfc3339).ok()
}
