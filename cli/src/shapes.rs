//! What the running parts answer: the shapes of CA, controller and proxy, which docs/cli.md passes on to users of `-o json`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
pub(crate) use signet_ca::{Phase, RootState, Status as CaStatus};

/// Controller, GET /v1/status.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ControllerStatus {
    pub(crate) version: String,
    pub(crate) manifests: Manifests,
    pub(crate) workloads: Vec<WorkloadStatus>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifests {
    pub(crate) files: u64,
    pub(crate) objects: u64,
    pub(crate) errors: Vec<signet_controller::source::ManifestError>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadStatus {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) service_account: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) meshed: bool,
    /// Why (not) meshed, a word.
    pub(crate) why: Option<String>,
    /// permissive or strict.
    pub(crate) mode: Option<String>,
    pub(crate) identity: Option<String>,
    pub(crate) proxy: Option<ProxyStatus>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyStatus {
    pub(crate) connected: bool,
    pub(crate) version: String,
    pub(crate) ready: bool,
    pub(crate) not_ready: Option<String>,
    /// RFC 3339.
    pub(crate) leaf_not_after: Option<String>,
    pub(crate) bundle_sequence: u64,
}

/// Controller, GET /v1/edges.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Edges {
    pub(crate) edges: Vec<Edge>,
}

/// Connections of one client to one port of one server, that went the same way.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Edge {
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) secured: bool,
    pub(crate) tls: Option<Tls>,
    /// Until the first of the two leaves ends, as far as they are known.
    pub(crate) cert_left_seconds: Option<i64>,
    /// Why plaintext, or why refused: a word.
    pub(crate) reason: Option<String>,
    pub(crate) refused: bool,
    pub(crate) open: u64,
    pub(crate) total: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Who reported it: both, client or server.
    pub(crate) proof: String,
}

/// A workload, or an address that belongs to none.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End {
    pub(crate) namespace: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) address: Option<String>,
    /// SPIFFE ID that it proved.
    pub(crate) id: Option<String>,
    /// Of a server.
    pub(crate) port: Option<u16>,
}

impl End {
    /// "shop/web-0", or the bare address.
    pub(crate) fn name(&self) -> String {
        match (&self.namespace, &self.pod, &self.address) {
            (Some(namespace), Some(pod), _) => format!("{namespace}/{pod}"),
            (.., Some(address)) => address.clone(),
            _ => "unknown".into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tls {
    pub(crate) version: String,
    pub(crate) key_exchange: String,
    pub(crate) cipher: String,
}
