//! Against an API server in memory, on a running clock that only moves when told to.

use super::*;
use crate::cluster::PART;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::Value;
use signet_lease::double::{Double, Fault};
use std::sync::atomic::AtomicI64;

const HOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/signet-injector";

fn map_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/signet-trust")
}

fn root() -> rustls_pki_types::CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

struct World {
    api: Double,
    now: Arc<AtomicI64>,
    maps: Arc<TrustMaps>,
    known: Known,
    bundle: TrustBundle,
}

impl World {
    async fn new() -> Self {
        let (api, now) = (Double::default(), Arc::new(AtomicI64::new(1000)));
        let running = Arc::clone(&now);
        let running: Clock = Arc::new(move || running.load(Ordering::SeqCst));
        let lease =
            Lease::new(api.client(), PART, "us".into(), Arc::clone(&running), Arc::new(|| 1_800_000_000));
        lease.turn().await.unwrap();
        let maps = TrustMaps::new(api.client(), Handle::current(), lease, running);
        let bundle = TrustBundle::new(1, vec![root(), root()], vec![]).unwrap();
        Self { api, now, maps, known: Known::new(), bundle }
    }

    async fn pass(&mut self) -> Result<(), NoAnswer> {
        self.maps.pass(&self.bundle, &mut self.known).await
    }

    fn published(&self, namespace: &str) -> Option<Value> {
        self.api.get(&map_path(namespace)).map(|map| map["data"]["bundle.pem"].clone())
    }
}

#[tokio::test]
async fn labelled_namespaces_and_ours_hold_the_bundle_and_no_other() {
    let mut world = World::new().await;
    world.api.namespace("shop", &json!({ "signet.dev/inject": "enabled" }));
    world.api.namespace("opted", &json!({ "signet.dev/trust": "enabled" }));
    world.api.namespace("off", &json!({ "signet.dev/inject": "disabled" }));
    world.api.namespace("other", &json!({}));
    world.pass().await.unwrap();
    let pem = json!(world.bundle.to_pem());
    for (namespace, held) in
        [("signet-system", true), ("shop", true), ("opted", true), ("off", false), ("other", false)]
    {
        assert_eq!(world.published(namespace), held.then(|| pem.clone()), "{namespace}");
    }
    // A newer bundle replaces it everywhere; a namespace without its label keeps what it has.
    world.api.namespace("shop", &json!({}));
    world.bundle.sequence = 2;
    world.pass().await.unwrap();
    assert_eq!(world.published("opted"), Some(json!(world.bundle.to_pem())));
    assert_eq!(world.published("shop"), Some(pem));
}

#[tokio::test]
async fn what_someone_damaged_or_deleted_is_mended() {
    let mut world = World::new().await;
    world.api.namespace("shop", &json!({ "signet.dev/inject": "enabled" }));
    world.api.namespace("blog", &json!({ "signet.dev/inject": "enabled" }));
    world.pass().await.unwrap();
    world.api.put(&map_path("shop"), json!({ "data": { "bundle.pem": "oops" } }));
    world.api.delete(&map_path("blog"));
    world.now.fetch_add(9, Ordering::SeqCst);
    world.pass().await.unwrap();
    assert_eq!(world.published("shop"), Some(json!("oops")), "not looked at each time");
    world.maps.lease.turn().await.unwrap();
    for _ in 0..6 {
        world.now.fetch_add(9, Ordering::SeqCst);
        world.maps.lease.turn().await.unwrap();
        world.pass().await.unwrap();
    }
    for namespace in ["shop", "blog"] {
        assert_eq!(world.published(namespace), Some(json!(world.bundle.to_pem())), "{namespace}");
    }
}

#[tokio::test]
async fn a_namespace_that_forbids_it_is_skipped_and_told_and_ours_never_is() {
    let mut world = World::new().await;
    world.api.namespace("shop", &json!({ "signet.dev/inject": "enabled" }));
    world.api.namespace("full", &json!({ "signet.dev/inject": "enabled" }));
    world.api.put(
        "/api/v1/namespaces/going",
        json!({ "metadata": { "labels": { "signet.dev/inject": "enabled" }, "deletionTimestamp": "2026-11-26T00:00:00Z" } }),
    );
    world.api.fault("POST", "/api/v1/namespaces/full/configmaps", Fault::Status(403));
    world.pass().await.unwrap();
    assert!(world.published("shop").is_some() && world.published("going").is_none());
    assert_eq!(world.maps.skipped().keys().collect::<Vec<_>>(), ["full"]);
    world.api.mend();
    world.known.clear();
    world.pass().await.unwrap();
    assert!(world.maps.skipped().is_empty() && world.published("full").is_some());
    for (method, path, fault) in [
        ("PUT", map_path("signet-system"), Fault::Status(403)),
        ("PUT", map_path("shop"), Fault::Status(500)),
        ("GET", "/api/v1/namespaces".into(), Fault::Status(403)),
        ("GET", HOOK.into(), Fault::Status(403)),
    ] {
        world.bundle.sequence += 1;
        world.api.fault(method, &path, fault);
        world.pass().await.unwrap_err();
        assert!(world.published("full").is_some(), "the others are tried");
        world.api.mend();
        world.pass().await.unwrap();
    }
}

/// Who may write ConfigMaps there may do so a hundred times a second.
#[tokio::test]
async fn a_namespace_that_keeps_writing_over_it_holds_up_nobody_and_is_looked_at_again_each_time() {
    let mut world = World::new().await;
    world.api.namespace("shop", &json!({ "signet.dev/inject": "enabled" }));
    world.pass().await.unwrap();
    world.api.touch_before_next_write(&map_path("shop"));
    world.bundle.sequence = 2;
    world.pass().await.unwrap();
    assert_eq!(world.published("shop"), Some(json!(world.bundle.to_pem())), "once is tried again at once");
    world.api.fault("PUT", &map_path("shop"), Fault::Status(409));
    world.bundle.sequence = 3;
    world.pass().await.unwrap();
    assert_eq!(world.maps.skipped().keys().collect::<Vec<_>>(), ["shop"]);
    world.api.mend();
    world.pass().await.unwrap();
    assert_eq!(world.published("shop"), Some(json!(world.bundle.to_pem())));
    assert!(world.maps.skipped().is_empty());
    world.api.fault("PUT", &map_path("signet-system"), Fault::Status(409));
    world.bundle.sequence = 4;
    world.pass().await.unwrap_err(); // ours never is
}

/// A key may stand in `data` or in `binaryData`, and not in both: a volume shows either.
#[tokio::test]
async fn a_bundle_that_someone_wrote_as_binary_data_is_replaced() {
    let mut world = World::new().await;
    world.api.namespace("shop", &json!({ "signet.dev/inject": "enabled" }));
    world.api.put(&map_path("shop"), json!({ "binaryData": { "bundle.pem": "b29wcw==" } }));
    world.pass().await.unwrap();
    assert_eq!(world.published("shop"), Some(json!(world.bundle.to_pem())));
    assert!(world.api.get(&map_path("shop")).unwrap()["binaryData"].is_null());
}

#[tokio::test]
async fn of_a_webhook_and_a_namespace_that_cannot_be_written_neither_hides_the_other() {
    let mut world = World::new().await;
    world.api.fault("POST", "/api/v1/namespaces/signet-system/configmaps", Fault::Status(500));
    world.api.fault("GET", HOOK, Fault::Status(403));
    let error = world.pass().await.unwrap_err().to_string();
    assert!(error.contains("500") && error.contains("403"), "{error}");
}

#[tokio::test]
async fn every_entry_of_the_webhook_believes_all_roots_and_keeps_the_rest() {
    let mut world = World::new().await;
    world.pass().await.unwrap(); // there is none
    let entry = |name: &str, bundle: Value| {
        json!({
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": { "caBundle": bundle, "service": { "name": "injector", "namespace": "signet-system" } },
        })
    };
    world.api.put(HOOK, json!({ "webhooks": [entry("a", Value::Null), entry("b", json!("b29wcw=="))] }));
    world.pass().await.unwrap();
    let roots: String = world.bundle.roots.iter().map(|root| certificate_pem(root)).collect();
    let want = serde_json::to_value(ByteString(roots.into_bytes())).unwrap();
    let hook = world.api.get(HOOK).unwrap();
    assert_eq!(hook["webhooks"], json!([entry("a", want.clone()), entry("b", want)]));
    world.pass().await.unwrap();
    assert_eq!(world.api.get(HOOK).unwrap(), hook, "what is right is not written again");
    world.api.put(HOOK, json!({ "webhooks": [entry("a", json!("b29wcw=="))] }));
    world.api.touch_before_next_write(HOOK);
    world.pass().await.unwrap_err();
    world.pass().await.unwrap();
}

#[tokio::test]
async fn who_does_not_hold_the_lease_writes_nothing() {
    let mut world = World::new().await;
    world.now.fetch_add(10, Ordering::SeqCst);
    world.pass().await.unwrap_err();
    assert!(world.published("signet-system").is_none());
}

#[tokio::test]
async fn a_leader_of_before_never_writes_over_what_a_later_one_published() {
    let mut world = World::new().await;
    world.bundle.sequence = 2;
    world.pass().await.unwrap();
    let published = world.published("signet-system");
    world.bundle.sequence = 1;
    world.known.clear();
    world.pass().await.unwrap_err();
    assert_eq!(world.published("signet-system"), published);
}

#[tokio::test(start_paused = true)]
async fn published_is_said_only_after_every_namespace_holds_it() {
    let world = World::new().await;
    world.api.namespace("shop", &json!({ "signet.dev/inject": "enabled" }));
    world.api.fault("POST", "/api/v1/namespaces/shop/configmaps", Fault::Status(500));
    let maps = Arc::clone(&world.maps);
    let running = async {
        for _ in 0..5 {
            assert_eq!(maps.publish(&world.bundle).ok(), Some(false));
            tokio::time::sleep(EVERY).await;
        }
        world.api.mend();
        while maps.publish(&world.bundle).ok() != Some(true) {
            tokio::time::sleep(EVERY).await;
        }
        assert!(world.published("shop").is_some());
        let newer = TrustBundle { sequence: 2, ..world.bundle.clone() };
        assert_eq!(maps.publish(&newer).ok(), Some(false));
    };
    tokio::select! {
        () = maps.run() => {}
        () = running => {}
    }
}
