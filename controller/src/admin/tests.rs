use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tower::ServiceExt as _;

use super::*;
use crate::{
    answers::{PodExplanation, ServiceExplanation},
    build::{Manifest, mesh, namespace, objects, pod, service},
    index::{Membership, Mesh},
    source::cluster::Watched,
};
use signet_api::{ADDRESS, xds::DeltaDiscoveryRequest};

fn meshed(name: &str) -> Manifest {
    pod(name).with("/spec/initContainers", json!([{"name": "signet-proxy", "restartPolicy": "Always"}]))
}

fn admin() -> Admin {
    let objects = objects([
        namespace("shop"),
        meshed("web").at("10.0.0.1"),
        meshed("new"),
        pod("old").at("10.0.0.2"),
        service("web").cluster_ip("10.96.0.1"),
    ]);
    let index = Index::build(&Mesh { membership: Membership::Injected, ..mesh() }, &objects);
    Admin {
        snapshots: watch::channel(Arc::new(Snapshot::new(Arc::new(index), None))).1,
        manifests: watch::channel(Arc::default()).1,
        health: Some(Health::of(Watched::MESH)),
        streams: Arc::new(Streams::new(Type::MESH)),
        reports: Arc::default(),
        metrics: signet_core::telemetry::Metrics::new().share(),
    }
}

async fn get(admin: &Admin, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = pages(admin.clone()).oneshot(request).await.unwrap();
    let status = answer.status();
    (status, String::from_utf8(to_bytes(answer.into_body(), 1 << 20).await.unwrap().into()).unwrap())
}

/// As the CLI reads it.
async fn read<T: DeserializeOwned>(admin: &Admin, path: &str) -> T {
    let (status, body) = get(admin, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn every_page_is_read_by_its_own_shape() {
    let admin = admin();
    let status: Status = read(&admin, "/v1/status").await;
    assert_eq!((status.namespaces.len(), status.namespaces[0].not_injected), (1, 1));
    assert!(status.cluster.unwrap().faults.is_empty());
    let pod: PodExplanation = read(&admin, "/v1/explain?namespace=shop&pod=old").await;
    assert_eq!(pod.obstacle.unwrap().word, "not_asked");
    let service: ServiceExplanation = read(&admin, "/v1/explain?namespace=shop&service=web").await;
    assert_eq!(service.endpoints.len(), 1);
    let edges: EdgeList = read(&admin, "/v1/edges").await;
    assert!(edges.edges.is_empty());
}

#[tokio::test]
async fn endpoints_of_a_pod_are_what_its_stream_asked_for_or_the_one_that_is_asked_for() {
    let admin = admin();
    let asked: Endpoints = read(&admin, "/v1/endpoints?from=shop/web&host=web.shop").await;
    assert_eq!((asked.connected, asked.hosts.len(), asked.hosts[0].sent.as_deref()), (false, 1, None));
    let index = admin.index();
    let who = explain::subscribers(index.pod("shop", "web").unwrap()).next().unwrap();
    let seat = admin.streams.open(&who).unwrap();
    let request = DeltaDiscoveryRequest {
        type_url: ADDRESS.into(),
        resource_names_subscribe: vec!["10.96.0.1".into(), "nobody.shop".into()],
        ..Default::default()
    };
    seat.subscriptions().request(request).unwrap();
    let all: Endpoints = read(&admin, "/v1/endpoints?from=shop/web").await;
    let shown = |hosts: &[crate::answers::HostAnswer]| -> Vec<(String, String, Option<String>)> {
        hosts.iter().map(|host| (host.host.clone(), host.answer.clone(), host.sent.clone())).collect()
    };
    let line = |host: &str, answer: &str, sent: &str| (host.into(), answer.into(), Some(sent.into()));
    assert!(all.connected);
    let want = [line("10.96.0.1", "service", "nothing"), line("nobody.shop", "absent", "nothing")];
    assert_eq!(shown(&all.hosts), want);
    let snapshot = admin.snapshots.borrow().clone();
    seat.subscriptions().next(Type::Address, &*snapshot, &who, |_, _| {}).unwrap();
    let all: Endpoints = read(&admin, "/v1/endpoints?from=shop/web").await;
    assert_eq!(
        shown(&all.hosts),
        [line("10.96.0.1", "service", "this"), line("nobody.shop", "absent", "this")]
    );
}

#[tokio::test]
async fn a_question_that_has_no_answer_says_why() {
    let admin = admin();
    for (path, status, why) in [
        ("/v1/explain?namespace=shop&pod=none", 404, "there is no Pod shop/none"),
        ("/v1/explain?namespace=shop&service=none", 404, "there is no Service shop/none"),
        ("/v1/explain?namespace=shop", 400, "name either a pod or a service"),
        ("/v1/endpoints?from=none", 404, "write from=<namespace>/<pod>"),
        ("/v1/endpoints?from=shop/new", 409, "it has no address yet"),
        ("/v1/endpoints?from=shop/old", 409, "no proxy of the mesh: not_injected"),
    ] {
        let (got, body) = get(&admin, path).await;
        assert!(got.as_u16() == status && body.contains(why), "{path}: {got} {body}");
    }
    for path in ["/v1/status", "/v1/edges"] {
        let request = Request::post(path).body(Body::empty()).unwrap();
        let answer = pages(admin.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}: nothing is changed here");
    }
}
