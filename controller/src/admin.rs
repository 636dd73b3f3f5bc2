//! Questions, over a Unix socket that only our own user can open: `GET /v1/status`, `/v1/edges`, `/metrics`.

use std::{fs, io, net::IpAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use signet_api::v1::ProxyState;
use signet_core::{
    VERSION,
    drain::Drain,
    files::PRIVATE,
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{net::UnixListener, sync::watch};
use tracing::error;

use crate::{
    edges::{Edge, End},
    index::{Index, Pod, Transport},
    report::Reports,
    resources::{Snapshot, Subscriber},
    source::ManifestError,
    streams::Streams,
};

/// `GET /v1/status`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub manifests: Manifests,
    pub workloads: Vec<WorkloadStatus>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifests {
    pub files: usize,
    /// Of the kinds that we read.
    pub objects: usize,
    pub errors: Vec<ManifestError>,
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
    /// What its proxy last said; `None`: nothing yet.
    pub proxy: Option<ProxyStatus>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    pub connected: bool,
    pub version: String,
    pub ready: bool,
    pub not_ready: Option<String>,
    /// RFC 3339.
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

/// What the socket gives access to.
#[derive(Clone)]
pub(crate) struct Admin {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub manifests: watch::Receiver<Arc<Manifests>>,
    pub streams: Arc<Streams>,
    pub reports: Arc<Reports>,
    pub metrics: Arc<Metrics>,
}

/// Serves on `socket` (0600) until `drain` stops. A socket that a dead controller left is replaced.
pub(crate) fn serve(socket: &Path, admin: Admin, drain: &Drain) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?; // in a directory that only we can enter, so there is no moment of 0755
    fs::set_permissions(socket, PermissionsExt::from_mode(PRIVATE))?;
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/edges", get(edges))
        .route("/metrics", get(metrics))
        .with_state(admin);
    let stop = drain.clone();
    drain.spawn(async move {
        let graceful = async move { stop.stopping().await };
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(graceful).await {
            error!(%error, "the admin socket is closed");
        }
    });
    Ok(())
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    let snapshot = admin.snapshots.borrow().clone();
    let workloads =
        snapshot.index.pods.values().filter(|pod| !pod.ended).map(|pod| admin.workload(&snapshot.index, pod));
    Json(Status {
        version: VERSION.into(),
        workloads: workloads.collect(),
        manifests: Manifests::clone(&admin.manifests.borrow()),
    })
}

/// Ends that are known by address only are named where a Pod has that address.
async fn edges(State(admin): State<Admin>) -> Json<EdgeList> {
    let index = Arc::clone(&admin.snapshots.borrow().index);
    let mut edges = admin.reports.edges();
    for edge in &mut edges {
        name(&index, &mut edge.server);
        let client = name(&index, &mut edge.client);
        // The proxy took this caller before our answer about its address had come; here it is known.
        if let Some(Transport::Plain(why)) = client.map(|pod| &pod.transport)
            && edge.reason.as_deref() == Some("client_unknown")
        {
            edge.reason = Some(why.to_string());
        }
    }
    Json(EdgeList { edges })
}

/// Names an end that is known by its address only, where a Pod has that address.
fn name<'a>(index: &'a Index, end: &mut End) -> Option<&'a Pod> {
    let pod = end.address.as_deref()?.parse().ok().and_then(|address| index.pod_at(address))?;
    (end.namespace, end.pod) = (Some(pod.namespace.clone()), Some(pod.name.clone()));
    Some(pod)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], admin.metrics.render()).into_response()
}

impl Admin {
    fn workload(&self, index: &Index, pod: &Pod) -> WorkloadStatus {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let identity = pod.identity();
        let strict = index.namespaces.get(&pod.namespace).is_some_and(|namespace| namespace.strict);
        let proxy = identity.and_then(|id| {
            let who = pod.addresses.iter().map(|address| Subscriber { id: id.clone(), address: *address });
            let who: Vec<Subscriber> = who.collect();
            let connected = who.iter().any(|who| self.streams.is_connected(who));
            let state = self.reports.proxy(&name)?;
            Some(proxy_status(state, connected, who.iter().flat_map(|who| self.streams.nacks(who)).collect()))
        });
        WorkloadStatus {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            service_account: pod.service_account.clone(),
            address: pod.addresses.first().copied(),
            meshed: identity.is_some(),
            why: match &pod.transport {
                Transport::Mesh(_) => None,
                Transport::Plain(why) => Some((*why).to_string()),
            },
            mode: identity.map(|_| if strict { "strict" } else { "permissive" }.into()),
            identity: identity.map(ToString::to_string),
            proxy,
        }
    }
}

fn proxy_status(state: ProxyState, connected: bool, rejected: Vec<String>) -> ProxyStatus {
    let not_after =
        OffsetDateTime::from_unix_timestamp(state.leaf_not_after).ok().filter(|_| state.leaf_not_after > 0);
    ProxyStatus {
        connected,
        version: state.version,
        ready: connected && state.ready,
        not_ready: match (connected, state.not_ready) {
            (false, _) => Some("not connected to the controller".into()),
            (true, why) => Some(why).filter(|why| !why.is_empty()),
        },
        leaf_not_after: not_after.and_then(|at| at.format(&Rfc3339).ok()),
        bundle_sequence: state.bundle_sequence,
        rejected,
    }
}
