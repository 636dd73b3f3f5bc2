//! Reports of data planes: who reports is known from the SVID, what is kept is bounded. Never in the way of discovery.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use signet_api::v1::{ProxyState, ReportRequest, ReportResponse, telemetry_server::Telemetry};
use signet_core::{clock, drain::Drain};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use crate::{
    edges::{Edge, Edges, Reporter},
    metrics::Metrics,
    resources::{Snapshot, Subscriber, Type, may_have},
    stream::caller,
};

/// What was reported, by everyone.
#[derive(Default)]
pub(crate) struct Reports(Mutex<State>);

#[derive(Default)]
struct State {
    edges: Edges,
    /// By "<namespace>/<pod>".
    proxies: HashMap<String, ProxyState>,
}

impl Reports {
    pub(crate) fn edges(&self) -> Vec<Edge> {
        self.lock().edges.list(clock::unix_now())
    }

    /// What a pod's proxy last said of itself.
    pub(crate) fn proxy(&self, pod: &str) -> Option<ProxyState> {
        self.lock().proxies.get(pod).cloned()
    }

    /// Forgets proxies of pods that are no more.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.lock().proxies.retain(|pod, _| exists(pod));
    }

    fn take(&self, reporter: &Reporter, request: ReportRequest, metrics: &Metrics) {
        let now = clock::unix_now();
        let mut state = self.lock();
        if let Some(proxy) = request.proxy {
            state.proxies.insert(reporter.pod.clone(), proxy);
        }
        for delta in request.edges.into_iter().take(MAX_DELTAS) {
            if !state.edges.add(reporter, delta, now) {
                metrics.edge_dropped("too_many");
            }
        }
        metrics.edges.set(i64::try_from(state.edges.len()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct Telemeter {
    pub(crate) reports: Arc<Reports>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
}

#[tonic::async_trait]
impl Telemetry for Telemeter {
    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<ReportResponse>, Status> {
        let (_, who) = caller(&request)?;
        let mut requests = request.into_inner();
        let mut known: Option<Reporter> = None;
        let end = loop {
            let message = tokio::select! {
                biased;
                () = self.drain.stopping() => break Err(Status::unavailable("the controller stops")),
                message = requests.message() => message,
            };
            let request = match message {
                Ok(Some(request)) => request,
                Ok(None) | Err(_) => break Ok(Response::new(ReportResponse {})),
            };
            let reporter = match self.reporter(&who, &request, known.take()) {
                Ok(reporter) => reporter,
                Err(refused) => break Err(refused),
            };
            self.reports.take(&reporter, request, &self.metrics);
            known = Some(reporter);
        };
        if let Some(reporter) = known {
            self.reports.lock().edges.gone(&reporter);
        }
        end
    }
}

impl Telemeter {
    /// Who reports: the pod that the message names, if its settings would be given to this caller.
    fn reporter(
        &self,
        who: &Subscriber,
        request: &ReportRequest,
        known: Option<Reporter>,
    ) -> Result<Reporter, Status> {
        let pod = match (&request.proxy, known) {
            (Some(proxy), _) => format!("{}/{}", proxy.namespace, proxy.pod),
            (None, Some(known)) => return Ok(known),
            (None, None) => return Err(Status::invalid_argument("the first report names its proxy")),
        };
        let snapshot = self.snapshots.borrow().clone();
        may_have(&snapshot.index, who, Type::WorkloadSettings, &pod).map_err(|_| {
            warn!(id = %who.id, address = %who.address, pod, "report refused: it is not this pod's");
            self.metrics.refused("foreign_report");
            Status::permission_denied(format!("{} at {} is not {pod}", who.id, who.address))
        })?;
        Ok(Reporter { pod, id: who.id.to_string() })
    }
}

/// Of one message; a proxy keeps at most as many.
const MAX_DELTAS: usize = 4096;
