//! Against an API server in memory.

use serde_json::json;
use signet_core::{
    identity::{self, TrustDomain},
    telemetry,
};
use signet_lease::double::{Double, Fault};
use tokio::time::advance;

use super::*;
use crate::edge::{
    answers::IngressAnswer,
    claim_store::Stored,
    claims::{Claim, Claims},
    finding::Finding,
    translate::Translated,
};

const WEB: &str = "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/web";
const CLAIMS: &str = "/api/v1/namespaces/signet-edge/configmaps/signet-claims";

fn told(uid: &str, served: bool, published: &[Address], findings: Vec<Finding>) -> Told {
    Told {
        uid: uid.into(),
        published: published.to_vec(),
        served,
        findings,
        answer: IngressAnswer::default(),
    }
}

fn lb() -> Vec<Address> {
    vec![Address::Ip("203.0.113.7".parse().unwrap()), Address::Hostname("lb.example".into())]
}

fn snapshot(stored: Option<Arc<Stored>>, claims: Claims, ingress: Told) -> EdgeSnapshot {
    let translated = Translated {
        ingresses: [(("shop".to_owned(), "web".to_owned()), ingress)].into(),
        addresses: lb(),
        claims,
        ..Translated::default()
    };
    let domain = TrustDomain::new("cluster.local").unwrap();
    EdgeSnapshot::new(identity::gateway(&domain), stored, translated)
}

/// A replica that leads, and what the API server has.
struct World {
    api: Double,
    writer: Writer,
    memory: Memory,
    snapshots: watch::Sender<Arc<EdgeSnapshot>>,
}

impl World {
    async fn new() -> Self {
        let api = Double::default();
        api.put(WEB, json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": {"ingressClassName": "signet"}}));
        let lease =
            Lease::new(api.client(), "edge", "us".into(), Arc::new(|| 1000), Arc::new(|| 1_800_000_000));
        lease.turn().await.unwrap();
        let mut registry = telemetry::Metrics::new();
        let first = Arc::new(snapshot(None, Claims::new(), told("u1", true, &[], vec![])));
        let (snapshots, receiver) = watch::channel(first);
        let writer = Writer {
            client: api.client(),
            lease,
            claims: ClaimStore::new(api.client()),
            snapshots: receiver,
            metrics: Arc::new(Metrics::new(&mut registry)),
            edge_metrics: EdgeMetrics::new(&mut registry),
        };
        Self { api, writer, memory: Memory::default(), snapshots }
    }

    async fn turn(&mut self, ingress: Told) {
        let snapshot = snapshot(None, Claims::new(), ingress);
        Box::pin(self.writer.turn(&snapshot, &mut self.memory)).await;
    }

    fn patches(&self) -> usize {
        self.api.requests().iter().filter(|request| **request == format!("PATCH {WEB}/status")).count()
    }

    fn events(&self) -> usize {
        self.api
            .requests()
            .iter()
            .filter(|request| request.starts_with("POST") && request.ends_with("/events"))
            .count()
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_says_where_the_host_is_reached_and_is_written_only_where_it_differs() {
    let mut world = World::new().await;
    world.turn(told("u1", true, &[], vec![])).await;
    let object = world.api.get(WEB).unwrap();
    let want = json!([{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]);
    assert_eq!(object["status"]["loadBalancer"]["ingress"], want);
    assert_eq!(object["spec"]["ingressClassName"], "signet", "nothing else is touched");
    world.turn(told("u1", true, &[], vec![])).await;
    assert_eq!(world.patches(), 1, "the watch has not shown it yet");
    world.turn(told("u1", true, &lb(), vec![])).await;
    advance(AGAIN * 2).await;
    world.turn(told("u1", true, &lb(), vec![])).await;
    assert_eq!(world.patches(), 1);
    world.turn(told("u1", false, &lb(), vec![])).await;
    assert_eq!(
        world.api.get(WEB).unwrap()["status"]["loadBalancer"]["ingress"],
        json!([]),
        "it gets no host any more"
    );
    let others = [Address::Ip("198.51.100.1".parse().unwrap())];
    world.turn(told("u1", false, &others, vec![])).await;
    assert_eq!(world.patches(), 2, "another controller's status is its own");
    advance(AGAIN * 2).await;
    world.turn(told("u2", true, &[], vec![])).await;
    assert_eq!(
        world.api.get(WEB).unwrap()["status"]["loadBalancer"]["ingress"],
        json!([]),
        "of another object of its name"
    );
}

#[tokio::test(start_paused = true)]
async fn who_does_not_hold_the_lease_writes_nothing() {
    let mut world = World::new().await;
    world.writer.lease.release().await;
    let findings = || vec![Finding::new(Word::Refused, "no")];
    world.turn(told("u1", true, &[], findings())).await; // lost within a turn
    let claim = Claim { namespace: "shop".into(), since: 1, lost: None };
    let claims: Claims = [("a.example".to_owned(), claim)].into();
    let news = snapshot(Some(Arc::default()), claims, told("u1", true, &[], findings()));
    world.snapshots.send_replace(Arc::new(news));
    let World { api, writer, .. } = world;
    Box::pin(timeout(SETTLE * 3, writer.run())).await.unwrap_err();
    let written: Vec<String> = api.requests().into_iter().filter(|request| !is_the_leases(request)).collect();
    assert!(written.is_empty(), "{written:?}");
}

/// Whoever wants the Lease asks for it.
fn is_the_leases(request: &str) -> bool {
    request.contains("/leases")
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_written_waits_for_the_others() {
    let mut world = World::new().await;
    world.api.fault("POST", "/api/v1/namespaces/shop/events", Fault::Status(500));
    let findings = || vec![Finding::new(Word::Refused, "no")];
    world.turn(told("u1", true, &lb(), findings())).await;
    advance(SETTLE).await;
    world.turn(told("u1", true, &lb(), findings())).await;
    let tries =
        |world: &World| world.api.requests().iter().filter(|request| request.contains("/events")).count();
    let once = tries(&world);
    assert!(once > 0);
    advance(TICK).await;
    world.turn(told("u1", true, &lb(), findings())).await;
    assert_eq!(tries(&world), once, "not with the next turn");
    advance(SETTLE).await;
    world.turn(told("u1", true, &lb(), findings())).await;
    assert!(tries(&world) > once);
}

#[tokio::test(start_paused = true)]
async fn an_event_says_once_what_has_been_wrong_for_a_while() {
    let mut world = World::new().await;
    let findings = || {
        vec![
            Finding::new(Word::HostTaken, "a.example is not this namespace's"),
            Finding::new(Word::HostTaken, "b.example is not this namespace's"),
            Finding::new(Word::NoBackend, "no endpoint"),
        ]
    };
    world.turn(told("u1", true, &lb(), findings())).await;
    assert_eq!(world.events(), 0, "it may be applied only half");
    advance(SETTLE).await;
    for _ in 0..3 {
        world.turn(told("u1", true, &lb(), findings())).await;
    }
    assert_eq!(world.events(), 1, "one of both hosts, none of endpoints");
    world.turn(told("u1", true, &lb(), vec![])).await;
    world.turn(told("u1", true, &lb(), findings())).await;
    advance(SETTLE).await;
    world.turn(told("u1", true, &lb(), findings())).await;
    assert_eq!(world.events(), 2, "tried again, and refused by its name");
    let names: Vec<String> = warnings(&("shop".into(), "web".into()), &told("u1", true, &[], findings()))
        .iter()
        .map(events::name)
        .collect();
    let event = world.api.get(&format!("/api/v1/namespaces/shop/events/{}", names[0])).unwrap();
    assert_eq!((event["reason"].as_str(), event["type"].as_str()), (Some("HostTaken"), Some("Warning")));
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("a.example") && message.contains("b.example"), "{message}");
}

#[tokio::test]
async fn claims_are_stored_and_a_decision_of_before_never_writes_over_anothers() {
    let world = World::new().await;
    let claims = |namespace: &str| -> Claims {
        [("app.example".to_owned(), Claim { namespace: namespace.into(), since: 1, lost: None })].into()
    };
    let stored = |store: &ClaimStore| store.watch().borrow().clone();
    world.writer.claims.read().await.unwrap();
    let read = stored(&world.writer.claims);
    world.writer.store_claims(&snapshot(read.clone(), claims("shop"), told("u1", true, &[], vec![]))).await;
    assert!(world.api.get(CLAIMS).unwrap()["data"]["claims.json"].as_str().unwrap().contains("shop"));
    // Decided from what was before: read again, and decided anew.
    world.writer.store_claims(&snapshot(read, claims("thief"), told("u1", true, &[], vec![]))).await;
    assert!(world.api.get(CLAIMS).unwrap()["data"]["claims.json"].as_str().unwrap().contains("shop"));
    let read = stored(&world.writer.claims);
    assert_eq!(read.as_ref().unwrap().claims, claims("shop"));
    world.api.fault("PUT", CLAIMS, Fault::Status(500));
    world.writer.store_claims(&snapshot(read.clone(), claims("team"), told("u1", true, &[], vec![]))).await;
    world.api.mend();
    world.writer.store_claims(&snapshot(read, claims("team"), told("u1", true, &[], vec![]))).await;
    assert!(world.api.get(CLAIMS).unwrap()["data"]["claims.json"].as_str().unwrap().contains("team"));
}
