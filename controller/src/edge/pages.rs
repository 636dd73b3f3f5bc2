//! Questions about edge, on its loopback or its Unix socket: [`super::answers`] has their shapes. Nothing here changes anything, but that
//! a certificate may be asked for before its time, within the authority's limits.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use signet_core::{VERSION, telemetry::Metrics};
use signet_lease::Lease;

use super::{
    acme::page::{NoRenewal, Page},
    answers::{
        AcmeAnswer, AcmeRenew, AcmeRenewing, FindingList, HostList, IngressAnswer, IngressFinding, Replica,
        Status,
    },
    claim_store::ClaimStore,
    follow::Followed,
    snapshot::EdgeSnapshot,
};
use crate::{
    admin::{metrics_page, refused},
    source::cluster::Health,
};

/// What the pages are made of.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) followed: Followed,
    pub(crate) acme: Page,
    /// `None`: from a directory.
    pub(crate) cluster: Option<InCluster>,
    pub(crate) metrics: Arc<Metrics>,
}

#[derive(Clone)]
pub(crate) struct InCluster {
    pub(crate) health: Health,
    pub(crate) claims: ClaimStore,
    pub(crate) lease: Arc<Lease>,
}

pub(crate) fn routes(pages: Pages) -> Router {
    let metrics = metrics_page(&pages.metrics);
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/hosts", get(hosts))
        .route("/v1/findings", get(findings))
        .route("/v1/edge-ca", get(edge_ca))
        .route("/v1/acme", get(acme))
        .route("/v1/acme/renew", post(renew))
        .route("/v1/ingress/{namespace}/{name}", get(ingress));
    routes.with_state(pages).merge(metrics)
}

async fn status(State(pages): State<Pages>) -> Json<Status> {
    let snapshot = pages.snapshot();
    let mut faults: BTreeMap<String, String> = BTreeMap::new();
    if let Some(cluster) = &pages.cluster {
        faults
            .extend(cluster.health.faults().into_iter().map(|(kind, fault)| (kind.word().to_owned(), fault)));
        faults.extend(cluster.claims.fault().map(|fault| ("claims".to_owned(), fault)));
    }
    faults.extend(snapshot.translated.edge_ca_fault.clone().map(|fault| ("edge CA".to_owned(), fault)));
    Json(Status {
        version: VERSION.into(),
        ingresses: snapshot.translated.ingresses.len(),
        hosts: snapshot.translated.hosts.len(),
        errors: pages.followed.errors.borrow().clone(),
        faults,
        replica: pages.replica(),
    })
}

async fn acme(State(pages): State<Pages>) -> Json<AcmeAnswer> {
    Json(pages.acme.answer(pages.replica().as_ref()))
}

async fn renew(State(pages): State<Pages>, Json(asked): Json<AcmeRenew>) -> Response {
    match pages.acme.renew(&asked.host, pages.replica().as_ref()) {
        Ok(id) => (StatusCode::ACCEPTED, Json(AcmeRenewing { id })).into_response(),
        Err(NoRenewal::NotFound(why)) => refused(StatusCode::NOT_FOUND, &why),
        Err(NoRenewal::Conflict(why)) => refused(StatusCode::CONFLICT, &why),
    }
}

async fn hosts(State(pages): State<Pages>) -> Json<HostList> {
    Json(HostList { hosts: pages.snapshot().translated.hosts.clone(), leads: pages.leads() })
}

async fn findings(State(pages): State<Pages>) -> Json<FindingList> {
    let snapshot = pages.snapshot();
    let told = snapshot.translated.ingresses.iter().flat_map(|((namespace, name), told)| {
        let ingress = format!("{namespace}/{name}");
        told.answer
            .findings
            .iter()
            .map(move |finding| IngressFinding { ingress: ingress.clone(), finding: finding.clone() })
    });
    let edge_ca = snapshot.translated.edge_ca.clone().filter(|_| snapshot.translated.wants_edge_ca);
    Json(FindingList { findings: told.collect(), edge_ca, leads: pages.leads() })
}

async fn edge_ca(State(pages): State<Pages>) -> Response {
    match pages.snapshot().translated.edge_ca.clone() {
        Some(answer) => Json(answer).into_response(),
        None => refused(
            StatusCode::NOT_FOUND,
            "there is no edge CA: no Ingress wants one (docs/ingress.md, The edge CA), or it cannot be used (signet status)",
        ),
    }
}

async fn ingress(State(pages): State<Pages>, Path((namespace, name)): Path<(String, String)>) -> Response {
    let snapshot = pages.snapshot();
    match snapshot.translated.ingresses.get(&(namespace.clone(), name.clone())) {
        Some(told) => Json(IngressAnswer { leads: pages.leads(), ..told.answer.clone() }).into_response(),
        None => refused(
            StatusCode::NOT_FOUND,
            &format!(
                "there is no Ingress {namespace}/{name} of our class; spec.ingressClassName: signet makes one ours (docs/ingress.md)"
            ),
        ),
    }
}

impl Pages {
    fn replica(&self) -> Option<Replica> {
        self.cluster.as_ref().map(|cluster| Replica {
            name: cluster.lease.us().to_owned(),
            leads: cluster.lease.is_held(),
            leader: cluster.lease.holder(),
        })
    }

    /// Whether it is this replica that orders; in a directory there is no other.
    fn leads(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.lease.is_held())
    }

    fn snapshot(&self) -> Arc<EdgeSnapshot> {
        self.followed.snapshots.borrow().clone()
    }
}
