//! Against a double of the API server, in virtual time.

use tokio::time::advance;

use super::{double::Double, *};
use crate::{
    build::{Manifest, mesh, namespace, pod, service, slice},
    index::{Index, Membership, Mesh, Transport},
    translate,
};
use serde_json::json;
use signet_core::telemetry;

struct Test {
    api: Double,
    cluster: Cluster,
    drain: Drain,
}

impl Test {
    fn start(api: &Double) -> Self {
        let (drain, mut registry) = (Drain::new(), telemetry::Metrics::new());
        let cluster =
            Cluster::watch(&api.client(), Watched::MESH, &Arc::new(Metrics::new(&mut registry)), &drain);
        Self { api: api.clone(), cluster, drain }
    }

    /// Started with `manifests`, and all of it is known.
    async fn with<const N: usize>(manifests: [Manifest; N]) -> Self {
        let api = Double::default();
        manifests.into_iter().for_each(|manifest| api.set(manifest));
        let mut test = Self::start(&api);
        test.cluster.changed().await;
        test
    }

    /// The index once something has changed; `None`: nothing did within `limit`.
    async fn changed_within(&mut self, limit: Duration) -> Option<Index> {
        timeout(limit, self.cluster.changed()).await.ok()?;
        Some(self.index())
    }

    /// A change is seen at once: no watch has to be renewed for it.
    async fn changed(&mut self) -> Index {
        self.changed_within(Duration::from_secs(1)).await.expect("a change within a second")
    }

    fn index(&self) -> Index {
        let mesh = Mesh { membership: Membership::Injected, ..mesh() };
        Index::build(&mesh, &self.cluster.objects())
    }
}

fn pods(index: &Index) -> Vec<&str> {
    index.pods.keys().map(|(_, name)| name.as_str()).collect()
}

/// A Pod that the injector changed, and that has not started: no container of it runs yet.
fn meshed(name: &str) -> Manifest {
    pod(name).with("/spec/initContainers", json!([{"name": "signet-proxy", "restartPolicy": "Always"}]))
}

const A_MINUTE: Duration = Duration::from_secs(60);
const EVERYTHING: [&str; 5] = ["namespaces", "serviceaccounts", "services", "endpointslices", "pods"];

#[tokio::test(start_paused = true)]
async fn nobody_is_answered_before_all_five_kinds_are_listed_and_what_is_missing_says_why() {
    for missing in EVERYTHING {
        let api = Double::default();
        api.set(namespace("shop"));
        api.set(meshed("web").at("10.0.0.1"));
        api.refuse(&[missing], 403);
        let mut test = Test::start(&api);
        assert!(test.changed_within(A_MINUTE).await.is_none(), "{missing}");
        let words = test.cluster.health().missing().join("; ");
        let want = format!("{missing} not listed yet: ");
        assert!(words.starts_with(&want) && words.contains("refused by the test"), "{words}");
        api.refuse(&[missing], 0);
        let index = test.changed_within(A_MINUTE).await.unwrap();
        assert_eq!(pods(&index), ["web"]);
        assert!(test.cluster.health().missing().is_empty() && test.cluster.health().faults().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_seen_at_once_and_one_of_something_that_we_do_not_read_wakes_nobody() {
    let mut test = Test::with([namespace("shop"), meshed("web")]).await;
    let index = test.index();
    let web = index.pod("shop", "web").unwrap();
    assert!(web.identity().is_some() && web.addresses.is_empty(), "meshed, and not started");
    test.api.set(meshed("web").at("10.0.0.1"));
    assert!(test.changed().await.pod_at("10.0.0.1".parse().unwrap()).is_some());
    test.api.set(meshed("web").at("10.0.0.1").annotation("kubectl.kubernetes.io/restartedAt", "now"));
    assert!(test.changed_within(A_MINUTE).await.is_none());
    test.api.repeat(3);
    assert!(test.changed_within(A_MINUTE).await.is_none());
    test.api.delete(&pod("web"));
    assert!(pods(&test.changed().await).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_is_one() {
    let mut test = Test::with([namespace("shop")]).await;
    for n in 0..200 {
        test.api.set(pod(&format!("web-{n}")));
    }
    let index = test.changed().await;
    assert_eq!(index.pods.len(), 200);
    assert!(test.changed_within(A_MINUTE).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_cut_go_on_where_they_stopped() {
    let mut test = Test::with([namespace("shop"), pod("web"), pod("api")]).await;
    test.api.cut();
    test.api.set(pod("new"));
    test.api.delete(&pod("web"));
    let index = test.changed_within(A_MINUTE).await.unwrap();
    assert_eq!(pods(&index), ["api", "new"]);
    assert_eq!(test.api.lists("pods"), 1, "nothing is listed again");
}

#[tokio::test(start_paused = true)]
async fn after_410_everything_is_listed_again_and_what_was_missed_is_seen() {
    let mut test = Test::with([namespace("shop"), pod("web"), pod("api")]).await;
    test.api.cut();
    test.api.set(pod("new"));
    test.api.delete(&pod("web"));
    test.api.forget_history();
    let index = test.changed_within(A_MINUTE).await.unwrap();
    assert_eq!(pods(&index), ["api", "new"]);
    assert_eq!(test.api.lists("pods"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_stays_in_use_while_the_api_server_is_down_and_while_a_new_list_comes() {
    let mut test = Test::with([namespace("shop"), pod("web")]).await;
    test.api.refuse(&EVERYTHING, 503);
    test.api.cut();
    for n in 0..1300 {
        test.api.set(pod(&format!("new-{n}")));
    }
    test.api.delete(&pod("web"));
    test.api.forget_history();
    assert!(test.changed_within(10 * A_MINUTE).await.is_none());
    assert_eq!(pods(&test.index()), ["web"]);
    let faults = test.cluster.health().faults();
    assert_eq!(faults.len(), 5, "{faults:?}");
    test.api.refuse(&EVERYTHING, 0);
    let index = test.changed_within(A_MINUTE).await.unwrap();
    assert_eq!(index.pods.len(), 1300, "three pages at once, and nothing in between");
    assert!(test.changed_within(A_MINUTE).await.is_none());
    assert!(test.cluster.health().faults().is_empty(), "also of kinds of which nothing was said since");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_is_renewed() {
    let mut test = Test::with([namespace("shop"), pod("web")]).await;
    test.api.lose_watches();
    test.api.set(pod("new"));
    assert!(test.changed_within(A_MINUTE).await.is_none());
    let index = test.changed_within(Duration::from_secs(7)).await.unwrap();
    assert_eq!(pods(&index), ["new", "web"]);
    assert_eq!(test.api.lists("pods"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_never_answered_is_asked_for_again() {
    let api = Double::default();
    api.set(pod("web"));
    api.hang("pods", true);
    let mut test = Test::start(&api);
    advance(Duration::from_secs(10)).await;
    api.hang("pods", false);
    let index = test.changed_within(A_MINUTE).await.unwrap();
    assert_eq!(pods(&index), ["web"]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_was_restored_from_a_backup_is_believed() {
    let mut test = Test::with([namespace("shop"), pod("web"), pod("api"), pod("cron")]).await;
    test.api.restore([namespace("shop"), pod("old")]);
    let index = test.changed_within(A_MINUTE).await.unwrap();
    assert_eq!(pods(&index), ["old"]);
    test.api.set(pod("new"));
    assert_eq!(pods(&test.changed_within(A_MINUTE).await.unwrap()), ["new", "old"]);
}

#[tokio::test(start_paused = true)]
async fn labels_and_annotations_act_live() {
    let settings = |index: &Index| {
        let settings = translate::settings(index, "shop/web").unwrap();
        (settings.mode().as_str_name(), settings.permissive_ports)
    };
    let web = || meshed("web").at("10.0.0.1");
    let mut test = Test::with([namespace("shop"), web()]).await;
    assert_eq!(settings(&test.index()), ("MODE_PERMISSIVE", vec![]));
    test.api.set(namespace("shop").label("signet.dev/mtls", "strict"));
    assert_eq!(settings(&test.changed().await), ("MODE_STRICT", vec![]));
    let ports = "signet.dev/permissive-ports";
    test.api.set(namespace("shop").label("signet.dev/mtls", "strict").annotation(ports, "9090"));
    assert_eq!(settings(&test.changed().await), ("MODE_STRICT", vec![9090]));
    test.api.set(web().annotation(ports, "8443"));
    assert_eq!(settings(&test.changed().await), ("MODE_STRICT", vec![8443, 9090]));
    test.api.set(namespace("shop"));
    assert_eq!(settings(&test.changed().await), ("MODE_PERMISSIVE", vec![8443]));
}

/// Everything that translation reads passes the trimming.
#[tokio::test(start_paused = true)]
async fn a_trimmed_cluster_says_the_same_as_its_manifests() {
    let endpoint = json!({"addresses": ["10.0.0.1"], "nodeName": "a", "zone": "z", "targetRef": {"kind": "Pod", "name": "web"}});
    let manifests = || {
        [
            namespace("shop").label("signet.dev/mtls", "strict").label("team", "shop"),
            meshed("web")
                .at("10.0.0.1")
                .with("/spec/nodeName", "a")
                .with("/spec/containers", json!([{"name": "app", "image": "app:1", "ports": [{"name": "web", "containerPort": 8080}]}]))
                .with("/status/phase", "Running")
                .with("/status/conditions", json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}])),
            pod("plain").at("10.0.0.2").with("/metadata/labels/app", "web"),
            service("web").cluster_ip("10.96.0.1").with("/spec/ports", json!([{"name": "http", "port": 80, "targetPort": "web"}])),
            service("api").cluster_ip("10.96.0.2").with("/spec/internalTrafficPolicy", "Local").with("/spec/sessionAffinity", "ClientIP"),
            slice("api", 8080).endpoint(endpoint.clone()),
        ]
    };
    let test = Test::with(manifests()).await;
    let mesh = Mesh { membership: Membership::Injected, ..mesh() };
    let (trimmed, whole) = (test.index(), Index::build(&mesh, &crate::build::objects(manifests())));
    assert!(matches!(trimmed.pod("shop", "plain").unwrap().transport, Transport::Plain("not_injected")));
    for name in ["10.0.0.1", "10.0.0.2", "10.96.0.1", "10.96.0.2", "web.shop", "api.shop"] {
        let answer = translate::address(&trimmed, name, Some("a"));
        assert!(
            answer.is_some() && answer == translate::address(&whole, name, Some("a")),
            "{name}: {answer:?}"
        );
    }
    assert_eq!(translate::settings(&trimmed, "shop/web"), translate::settings(&whole, "shop/web"));
    let size = |objects: &[Arc<Object>]| format!("{objects:?}").len();
    assert!(!format!("{:?}", test.cluster.objects()).contains("app:1"), "{}", size(&test.cluster.objects()));
}

#[tokio::test(start_paused = true)]
async fn the_watches_end_with_the_controller() {
    let test = Test::with([namespace("shop")]).await;
    assert_eq!(test.drain.run(Duration::from_secs(1)).await, 0);
}

/// `KUBECONFIG=.. cargo test --workspace --lib -- --ignored --nocapture a_real_api_server`, on a cluster with pods, with the rights
/// of docs/controller.md.
#[tokio::test]
#[ignore = "needs a cluster: KUBECONFIG"]
async fn a_real_api_server_is_followed_with_the_rights_that_we_say_we_need() {
    let _ = signet_core::tls::default_provider().install_default();
    let (drain, mut registry) = (Drain::new(), telemetry::Metrics::new());
    let (client, metrics) = (Client::try_default().await.unwrap(), Arc::new(Metrics::new(&mut registry)));
    let began = Instant::now();
    let cluster = Cluster::watch(&client, Watched::MESH, &metrics, &drain);
    let health = cluster.health();
    let builder = crate::follow::Builder {
        mesh: Mesh { membership: Membership::Injected, ..mesh() },
        trust: signet_core::trust::Trust::new(mesh().trust_domain),
        reports: Arc::default(),
        metrics: Arc::clone(&metrics),
    };
    let mut followed = crate::follow::cluster(cluster, builder, &drain).await;
    let snapshot = Arc::clone(&followed.snapshots.borrow_and_update());
    let index = &snapshot.index;
    println!("{} objects after {:?}", index.objects, began.elapsed());
    for pod in index.pods.values() {
        let (obstacle, address) = (index.obstacle(pod), pod.addresses.first());
        println!(
            "{}/{} {address:?} {:?} {:?}",
            pod.namespace,
            pod.name,
            pod.transport,
            obstacle.map(|o| o.word())
        );
    }
    assert!(health.faults().is_empty(), "{:?}", health.faults());
    assert!(index.pods.values().any(|pod| !pod.addresses.is_empty() && pod.node.is_some()));
    assert!(index.service("default", "kubernetes").is_some_and(|service| !service.cluster_ips.is_empty()));
    crate::not_injected::start(client, followed.snapshots.clone(), Arc::clone(&metrics), &drain);
    let seconds = std::env::var("FOLLOW_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let end = Instant::now() + Duration::from_secs(seconds);
    while let Ok(Ok(())) = timeout_at(end, followed.snapshots.changed()).await {
        let index = Arc::clone(&followed.snapshots.borrow_and_update().index);
        println!("{:?}: {} objects, {} pods", began.elapsed(), index.objects, index.pods.len());
    }
    println!("{} events written, faults {:?}", metrics.events.get(), health.faults());
    drain.run(Duration::ZERO).await;
}
