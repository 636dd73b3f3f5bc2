use serde_json::json;

use super::*;
use crate::{
    answers::ProxyStatus,
    build::{Manifest, mesh, namespace, objects, pod as manifest, service as service_manifest, slice},
    index::Mesh,
};

fn index<const N: usize>(manifests: [Manifest; N]) -> Index {
    Index::build(&Mesh { membership: Membership::Injected, ..mesh() }, &objects(manifests))
}

fn meshed(name: &str) -> Manifest {
    manifest(name).with("/spec/initContainers", json!([{"name": "signet-proxy", "restartPolicy": "Always"}]))
}

fn workload(pod: &Pod, leaf: Option<&str>) -> WorkloadStatus {
    let proxy = leaf.map(|leaf| ProxyStatus {
        connected: true,
        version: "0.1.0".into(),
        ready: true,
        not_ready: None,
        leaf_not_after: Some(leaf.into()),
        bundle_sequence: 1,
        rejected: Vec::new(),
    });
    WorkloadStatus {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        service_account: pod.service_account.clone(),
        address: pod.addresses.first().copied(),
        meshed: pod.identity().is_some(),
        why: match &pod.transport {
            crate::index::Transport::Plain(why) => Some((*why).into()),
            crate::index::Transport::Mesh(_) => None,
        },
        mode: None,
        identity: None,
        proxy,
    }
}

fn edge(client: &str, server: &str, secured: bool) -> Edge {
    let end = |name: &str| match name.split_once('/') {
        Some((namespace, pod)) => {
            End { namespace: Some(namespace.into()), pod: Some(pod.into()), ..End::default() }
        }
        None => End { address: Some(name.into()), ..End::default() },
    };
    let reason = Some("client_unknown".to_owned()).filter(|_| !secured);
    Edge { client: end(client), server: end(server), secured, reason, ..Edge::default() }
}

#[test]
fn a_namespace_counts_its_pods_its_proxies_versions_and_the_first_certificate_to_expire() {
    let index = index([
        namespace("shop")
            .label("signet.dev/mtls", "strict")
            .annotation("signet.dev/permissive-ports", "9090"),
        namespace("empty"),
        namespace("bare").label("signet.dev/inject", "disabled"),
        meshed("api"),
        meshed("web"),
        meshed("new"),
        manifest("old"),
        manifest("agent").with("/spec/hostNetwork", true),
    ]);
    let leaf = |pod: &Pod| match pod.name.as_str() {
        "api" => Some("2026-01-03T00:00:00Z"),
        "web" => Some("2026-01-02T00:00:00Z"),
        _ => None,
    };
    let workloads: Vec<WorkloadStatus> = index.pods.values().map(|pod| workload(pod, leaf(pod))).collect();
    let want = NamespaceStatus {
        namespace: "shop".into(),
        inject: true,
        mode: "strict".into(),
        permissive_ports: [9090].into(),
        pods: 5,
        meshed: 3,
        ready: 2,
        not_injected: 1,
        versions: [("0.1.0".to_owned(), 2)].into(),
        first_leaf_not_after: Some("2026-01-02T00:00:00Z".into()),
    };
    let empty = NamespaceStatus {
        namespace: "empty".into(),
        inject: true,
        mode: "permissive".into(),
        ..NamespaceStatus::default()
    };
    assert_eq!(namespaces(&index, &workloads), [empty, want]);
}

#[test]
fn a_pod_is_explained_with_its_obstacle_its_services_and_its_plaintext() {
    let index = index([
        namespace("shop"),
        manifest("web").at("10.0.0.1"),
        meshed("api").at("10.0.0.2"),
        service_manifest("web"),
        service_manifest("api"),
    ]);
    let edges = vec![
        edge("shop/web", "shop/api", false),
        edge("10.0.9.9", "shop/web", false),
        edge("shop/x", "shop/api", false),
        edge("shop/web", "shop/api", true),
    ];
    let web = index.pod("shop", "web").unwrap();
    let answer = pod(&index, web, workload(web, None), edges);
    assert_eq!((answer.wanted, answer.injected), (true, false));
    let obstacle = answer.obstacle.unwrap();
    assert_eq!(obstacle.word, "not_asked");
    assert!(obstacle.next_step.contains("create it again"), "{obstacle:?}");
    assert_eq!(answer.services, ["shop/web"]);
    assert_eq!(answer.plaintext.len(), 2);
    let api = index.pod("shop", "api").unwrap();
    let answer = pod(&index, api, workload(api, None), Vec::new());
    assert_eq!((answer.wanted, answer.injected, answer.obstacle), (true, true, None));
}

#[test]
fn a_service_is_explained_with_all_its_endpoints_and_who_should_be_one() {
    let index = index([
        namespace("shop"),
        meshed("web").at("10.0.0.1").with("/spec/nodeName", "a"),
        manifest("slow").at("10.0.0.2").with("/metadata/labels/app", "web"),
        service_manifest("web").cluster_ip("10.96.0.1").with("/spec/internalTrafficPolicy", "Local"),
        slice("web", 8080)
            .endpoint(json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web"}})),
    ]);
    let edges =
        vec![edge("10.0.9.9", "shop/web", false), edge("10.0.9.9", "10.0.0.1", false), edge("x", "y", false)];
    let answer = service(&index, index.service("shop", "web").unwrap(), edges);
    assert!(answer.local && answer.selector);
    let [endpoint] = &answer.endpoints[..] else { panic!("{answer:?}") };
    assert_eq!((endpoint.pod.as_str(), &endpoint.ports), ("web", &[(80, 8080)].into()));
    assert_eq!(endpoint.identity.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/web"));
    assert_eq!(answer.selected_only, ["shop/slow"]);
    assert_eq!(answer.plaintext.len(), 2);
}

#[test]
fn what_a_pod_is_told_is_shown_through_its_own_eyes_beside_what_it_was_sent() {
    let index = Arc::new(index([
        namespace("shop"),
        meshed("web").at("10.0.0.1").with("/spec/nodeName", "a"),
        meshed("far").at("10.0.0.2").with("/spec/nodeName", "b").with("/metadata/labels/app", "web"),
        service_manifest("web").cluster_ip("10.96.0.1").with("/spec/internalTrafficPolicy", "Local"),
    ]));
    let seen_from = |pod: &str, host: &str, held: Option<&Held>| {
        let snapshot = Snapshot::new(Arc::clone(&index), None);
        let who = subscribers(snapshot.index.pod("shop", pod).unwrap()).next().unwrap();
        super::host(&snapshot, &who, host, held)
    };
    let addresses = |answer: &HostAnswer| -> Vec<String> {
        answer.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect()
    };
    let near = seen_from("web", "10.96.0.1", None);
    assert_eq!((near.answer.as_str(), addresses(&near)), ("service", vec!["10.0.0.1".to_owned()]));
    assert_eq!(addresses(&seen_from("far", "web.shop", None)), ["10.0.0.2"]);
    let version: Arc<str> = near.version.as_deref().unwrap().into();
    for (held, want) in [
        (None, None),
        (Some(Held::Nothing), Some("nothing")),
        (Some(Held::Absence), Some("older")),
        (Some(Held::Version("x".into())), Some("older")),
        (Some(Held::Version(version)), Some("this")),
    ] {
        assert_eq!(seen_from("web", "10.96.0.1", held.as_ref()).sent.as_deref(), want, "{held:?}");
    }
    let absent = seen_from("web", "nobody.shop", Some(&Held::Absence));
    assert_eq!((absent.answer.as_str(), absent.sent.as_deref()), ("absent", Some("this")));
}
