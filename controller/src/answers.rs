//! What the controller's pages say, as JSON: shared with who asks (`cli`), and described for users in docs/controller.md. Fields
//! are added, never changed in meaning. Times are RFC 3339; `None` is null.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{edges::Edge, source::ManifestError};

/// `GET /v1/status`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub manifests: Manifests,
    /// `None`: from a directory.
    #[serde(default)]
    pub cluster: Option<ClusterStatus>,
    #[serde(default)]
    pub namespaces: Vec<NamespaceStatus>,
    pub workloads: Vec<WorkloadStatus>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifests {
    /// 0 in a cluster.
    pub files: usize,
    /// Of the kinds that we read.
    pub objects: usize,
    pub errors: Vec<ManifestError>,
}

/// How the API server serves us.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Kinds of which we hear nothing new now ("pods"), each with the error. What is known of them stays in use.
    pub faults: BTreeMap<String, String>,
}

/// A Namespace with Pods, or one that is labelled.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatus {
    pub namespace: String,
    /// Labelled for the mesh.
    pub inject: bool,
    /// "permissive" or "strict".
    pub mode: String,
    /// Those of the Namespace, without the Pods' own.
    pub permissive_ports: BTreeSet<u16>,
    /// Running ones, and how many of them are in the mesh.
    pub pods: usize,
    pub meshed: usize,
    /// Of the meshed: whose proxy is ready.
    pub ready: usize,
    /// Labelled, and without a proxy.
    pub not_injected: usize,
    /// Versions of the proxies that report to this replica, and how many have each.
    pub versions: BTreeMap<String, usize>,
    /// Of the first certificate to expire, of those reported to this replica.
    pub first_leaf_not_after: Option<String>,
}

/// A Pod.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    pub namespace: String,
    pub pod: String,
    pub service_account: String,
    pub address: Option<IpAddr>,
    pub meshed: bool,
    /// Why it is not meshed, a word.
    pub why: Option<String>,
    /// "permissive" or "strict"; of a meshed one.
    pub mode: Option<String>,
    /// What it must prove; of a meshed one.
    pub identity: Option<String>,
    /// What its proxy last said; `None`: nothing yet, or nothing to this replica.
    pub proxy: Option<ProxyStatus>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    pub connected: bool,
    pub version: String,
    pub ready: bool,
    pub not_ready: Option<String>,
    pub leaf_not_after: Option<String>,
    pub bundle_sequence: u64,
    /// What it last rejected of what we sent.
    pub rejected: Vec<String>,
}

/// `GET /v1/edges`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct EdgeList {
    pub edges: Vec<Edge>,
}

/// `GET /v1/explain?namespace=N&pod=P`: why it is or is not in the mesh, and what is plaintext around it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodExplanation {
    pub workload: WorkloadStatus,
    pub addresses: Vec<IpAddr>,
    pub node: Option<String>,
    /// Phase Succeeded or Failed.
    pub ended: bool,
    pub terminating: bool,
    /// Its label, or its Namespace's, wants it in the mesh.
    pub wanted: bool,
    /// It holds our proxy; in directory mode: it is in the mesh.
    pub injected: bool,
    /// Wanted and not injected: why.
    pub obstacle: Option<ObstacleAnswer>,
    /// Of the Pod and its Namespace.
    pub permissive_ports: BTreeSet<u16>,
    /// Services that it is an endpoint of now, "<namespace>/<name>".
    pub services: Vec<String>,
    /// AuthorizationPolicies that select it.
    pub policies: Vec<String>,
    /// Edges of it that are not encrypted, each with its reason, as far as they were reported to this replica.
    pub plaintext: Vec<Edge>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObstacleAnswer {
    /// "host_network", "other_mesh", "proxy_user", "pod_security", "not_asked".
    pub word: String,
    /// A sentence, and one on what to do.
    pub why: String,
    pub next_step: String,
}

/// `GET /v1/explain?namespace=N&service=S`: who is behind it, and how each is reached.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExplanation {
    pub namespace: String,
    pub service: String,
    pub cluster_ips: Vec<IpAddr>,
    /// TCP only.
    pub ports: Vec<PortAnswer>,
    /// It has one that selects something.
    pub selector: bool,
    /// internalTrafficPolicy Local: a caller gets only the endpoints on its own node.
    pub local: bool,
    /// ExternalName: not ours.
    pub external: bool,
    /// On every node; those that new connections may use.
    pub endpoints: Vec<EndpointAnswer>,
    /// Pods that its selector selects and that are no endpoint now, "<namespace>/<name>".
    pub selected_only: Vec<String>,
    /// Edges to its endpoints that are not encrypted.
    pub plaintext: Vec<Edge>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortAnswer {
    pub port: u16,
    pub name: String,
    /// "unknown", "tcp", "http1", "http2", "grpc", "tls".
    pub protocol: String,
}

/// `GET /v1/endpoints?from=N/P[&host=H]`: what that Pod's proxy is told about H (a host or an address); without `host`, about
/// everything that it has asked this replica for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// "<namespace>/<pod>".
    pub from: String,
    /// Its discovery stream ends at this replica.
    pub connected: bool,
    pub hosts: Vec<HostAnswer>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostAnswer {
    pub host: String,
    /// "service", "workload", "outside", or "absent": no such address (yet), which is refused and never plaintext.
    pub answer: String,
    /// "<namespace>/<name>" of a Service.
    pub service: Option<String>,
    pub endpoints: Vec<EndpointAnswer>,
    /// Of the answer's content: what a proxy's own page shows too. `None`: absent.
    pub version: Option<String>,
    /// What the proxy was sent: "this", "older", "nothing"; `None`: it did not ask this replica.
    pub sent: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAnswer {
    pub address: String,
    pub namespace: String,
    /// Empty: no Pod has the address.
    pub pod: String,
    /// The SPIFFE ID that it must prove; `None`: it is reached in plaintext.
    pub identity: Option<String>,
    /// Why plaintext, a word.
    pub plain_reason: Option<String>,
    /// The Service's port -> the Pod's.
    pub ports: BTreeMap<u16, u16>,
}
