//! Questions. On the pod's network only whether we are ready, and numbers; all else to who may open our Unix socket (directory
//! mode) or forward a port to our loopback (cluster: Kubernetes' RBAC is the guard). Nothing here changes anything.
//!
//! `GET /ready`, `/metrics`; `/v1/status`, `/v1/edges`, `/v1/explain`, `/v1/endpoints`: [`crate::answers`] has their shapes.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use signet_api::v1::ProxyState;
use signet_core::{
    VERSION, clock,
    drain::Drain,
    files::PRIVATE,
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use signet_link::{listen, pages::Pages, svid::Svid};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tracing::error;

use crate::{
    answers::{ClusterStatus, EdgeList, Endpoints, Manifests, ProxyStatus, Status, WorkloadStatus},
    edge::claim_store::ClaimStore,
    edges::{Edge, End},
    explain,
    index::{Index, Pod, Transport},
    report::Reports,
    resources::{Snapshot, Subscriber, Type},
    source::cluster::Health,
    streams::Streams,
};

/// What the pages are made of.
#[derive(Clone)]
pub(crate) struct Admin {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub manifests: watch::Receiver<Arc<Manifests>>,
    /// `None`: from a directory.
    pub health: Option<Health>,
    pub streams: Arc<Streams>,
    pub reports: Arc<Reports>,
    pub metrics: Arc<Metrics>,
}

/// Whether data planes should come to us, and why not.
#[derive(Clone)]
pub(crate) struct Readiness {
    pub svid: Svid,
    pub health: Health,
    /// Edge's: without them nobody is answered.
    pub claims: Option<ClaimStore>,
    /// Data planes are answered: everything is known.
    pub answers: Arc<AtomicBool>,
    pub drain: Drain,
}

/// Serves `routes` on `socket` (0600) until `drain` stops. A socket that a dead process left is replaced.
pub(crate) fn serve_socket(socket: &Path, routes: Router, drain: &Drain) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?; // in a directory that only we can enter, so there is no moment of 0755
    fs::set_permissions(socket, PermissionsExt::from_mode(PRIVATE))?;
    serve(listener, routes, drain);
    Ok(())
}

/// Serves `routes` on `address` until `drain` stops.
pub(crate) async fn serve_loopback(address: SocketAddr, routes: Router, drain: &Drain) -> io::Result<()> {
    serve(TcpListener::bind(address).await?, routes, drain);
    Ok(())
}

/// Serves readiness and metrics on `address`, from before there is anything else, until `drain` stops.
pub(crate) async fn serve_network(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    drain: &Drain,
) -> io::Result<()> {
    let routes = Router::new().route("/ready", get(ready)).with_state(readiness);
    let routes = routes.merge(metrics_page(&metrics));
    serve(Pages::new(listen::bind(address).await?), routes, drain);
    Ok(())
}

/// What the controller shows.
pub(crate) fn pages(admin: Admin) -> Router {
    let metrics = metrics_page(&admin.metrics);
    let pages = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/edges", get(edges))
        .route("/v1/explain", get(explain))
        .route("/v1/endpoints", get(endpoints));
    pages.with_state(admin).merge(metrics)
}

pub(crate) fn metrics_page(metrics: &Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(self::metrics)).with_state(Arc::clone(metrics))
}

fn serve<L>(listener: L, routes: Router, drain: &Drain)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let stop = drain.clone();
    drain.spawn(async move {
        let graceful = async move { stop.stopping().await };
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(graceful).await {
            error!(%error, "pages are closed");
        }
    });
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join("; "))).into_response()
}

impl Readiness {
    /// Once we know everything an API server that is down does not make us unready: stale beats empty.
    fn missing(&self) -> Vec<String> {
        let mut missing = self.health.missing();
        missing.extend(self.claims.as_ref().and_then(ClaimStore::missing));
        if self.svid.current().is_none() {
            missing.push("no certificate yet: see the log, and whether the CA is ready".into());
        }
        if missing.is_empty() && !self.answers.load(Ordering::Acquire) {
            missing.push("the first index is being built".into());
        }
        if self.drain.is_stopping() {
            missing.push("stopping".into());
        }
        missing
    }
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    ([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], metrics.render()).into_response()
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    let index = admin.index();
    let workloads: Vec<WorkloadStatus> =
        index.pods.values().filter(|pod| !pod.ended).map(|pod| admin.workload(&index, pod)).collect();
    let cluster = admin.health.as_ref().map(|health| ClusterStatus {
        faults: health.faults().into_iter().map(|(kind, fault)| (kind.word().to_owned(), fault)).collect(),
    });
    Json(Status {
        version: VERSION.into(),
        manifests: Manifests::clone(&admin.manifests.borrow()),
        cluster,
        namespaces: explain::namespaces(&index, &workloads),
        workloads,
    })
}

async fn edges(State(admin): State<Admin>) -> Json<EdgeList> {
    Json(EdgeList { edges: admin.edges(&admin.index()) })
}

#[derive(Deserialize)]
struct About {
    namespace: String,
    pod: Option<String>,
    service: Option<String>,
}

async fn explain(State(admin): State<Admin>, Query(about): Query<About>) -> Response {
    let (index, namespace) = (admin.index(), about.namespace.as_str());
    match (about.pod.as_deref(), about.service.as_deref()) {
        (Some(name), None) => match index.pod(namespace, name) {
            Some(pod) => Json(explain::pod(&index, pod, admin.workload(&index, pod), admin.edges(&index)))
                .into_response(),
            None => refused(StatusCode::NOT_FOUND, &format!("there is no Pod {namespace}/{name}")),
        },
        (None, Some(name)) => match index.service(namespace, name) {
            Some(service) => Json(explain::service(&index, service, admin.edges(&index))).into_response(),
            None => refused(StatusCode::NOT_FOUND, &format!("there is no Service {namespace}/{name}")),
        },
        _ => refused(StatusCode::BAD_REQUEST, "name either a pod or a service: ?namespace=shop&pod=web-0"),
    }
}

#[derive(Deserialize)]
struct Asked {
    from: String,
    host: Option<String>,
}

async fn endpoints(State(admin): State<Admin>, Query(asked): Query<Asked>) -> Response {
    let snapshot = admin.snapshots.borrow().clone();
    let from = &asked.from;
    let Some(pod) = from.split_once('/').and_then(|(namespace, pod)| snapshot.index.pod(namespace, pod))
    else {
        return refused(
            StatusCode::NOT_FOUND,
            &format!("there is no Pod {from}; write from=<namespace>/<pod>"),
        );
    };
    let all: Vec<Subscriber> = explain::subscribers(pod).collect();
    let connected = all.iter().find(|who| admin.streams.is_connected(who));
    let Some(who) = connected.or(all.first()) else {
        let why = match &pod.transport {
            Transport::Plain(why) => *why,
            Transport::Mesh(_) => "it has no address yet",
        };
        return refused(
            StatusCode::CONFLICT,
            &format!("{from} is told nothing, because it has no proxy of the mesh: {why}"),
        );
    };
    let held = admin.streams.held(who, Type::Address);
    let hosts = match &asked.host {
        Some(host) => vec![explain::host(&snapshot, who, host, held.get(host.as_str()))],
        None => held.iter().map(|(name, held)| explain::host(&snapshot, who, name, Some(held))).collect(),
    };
    Json(Endpoints { from: from.clone(), connected: connected.is_some(), hosts }).into_response()
}

pub(crate) fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(serde_json::json!({ "error": why }))).into_response()
}

impl Admin {
    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.snapshots.borrow().index)
    }

    /// Ends that are known by address only are named where a Pod has that address.
    fn edges(&self, index: &Index) -> Vec<Edge> {
        let mut edges = self.reports.edges();
        for edge in &mut edges {
            name(index, &mut edge.server);
            let client = name(index, &mut edge.client);
            // The proxy took this caller before our answer about its address had come; here it is known.
            if let Some(Transport::Plain(why)) = client.map(|pod| &pod.transport)
                && edge.reason.as_deref() == Some("client_unknown")
            {
                edge.reason = Some(why.to_string());
            }
        }
        edges
    }

    fn workload(&self, index: &Index, pod: &Pod) -> WorkloadStatus {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let identity = pod.identity();
        let strict = index.namespaces.get(&pod.namespace).is_some_and(|namespace| namespace.strict);
        let proxy = identity.and_then(|_| {
            let who: Vec<Subscriber> = explain::subscribers(pod).collect();
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
            mode: identity.map(|_| explain::mode(strict).into()),
            identity: identity.map(ToString::to_string),
            proxy,
        }
    }
}

/// Names an end that is known by its address only, where a Pod has that address.
fn name<'a>(index: &'a Index, end: &mut End) -> Option<&'a Pod> {
    let pod = end.address.as_deref()?.parse().ok().and_then(|address| index.pod_at(address))?;
    (end.namespace, end.pod) = (Some(pod.namespace.clone()), Some(pod.name.clone()));
    Some(pod)
}

fn proxy_status(state: ProxyState, connected: bool, rejected: Vec<String>) -> ProxyStatus {
    ProxyStatus {
        connected,
        version: state.version,
        ready: connected && state.ready,
        not_ready: match (connected, state.not_ready) {
            (false, _) => Some("not connected to the controller".into()),
            (true, why) => Some(why).filter(|why| !why.is_empty()),
        },
        leaf_not_after: clock::rfc3339(state.leaf_not_after).filter(|_| state.leaf_not_after > 0),
        bundle_sequence: state.bundle_sequence,
        rejected,
    }
}

#[cfg(test)]
#[path = "admin/tests.rs"]
mod tests;
