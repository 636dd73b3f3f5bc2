use super::*;
use crate::{
    build::{self, index, mesh, namespace, objects, pod, policy, service, slice},
    source::parse,
};
use proptest::prelude::*;
use serde_json::json;

/// "10.0.0.1 shop/api mesh:api 80>8080" per endpoint.
fn endpoints_of(index: &Index, name: &str) -> Vec<String> {
    let Some(Target::Service(service)) = address(index, name, None).and_then(|address| address.target) else {
        return vec!["no service".into()];
    };
    let line = |endpoint: v1::Endpoint| {
        let workload = endpoint.workload.unwrap();
        let ports: Vec<String> =
            endpoint.target_ports.iter().map(|(from, to)| format!("{from}>{to}")).collect();
        format!("{} {}", workload_line(&workload), ports.join(","))
    };
    service.endpoints.into_iter().map(line).collect()
}

fn workload_line(workload: &v1::Workload) -> String {
    let how = match workload.transport.as_ref().and_then(|transport| transport.kind.as_ref()) {
        Some(Kind::SpiffeId(id)) => format!("mesh:{}", id.rsplit('/').next().unwrap()),
        Some(Kind::PlainReason(why)) => why.clone(),
        None => "nothing".into(),
    };
    format!("{} {}/{} {how}", workload.address, workload.namespace, workload.name)
}

fn at(index: &Index, name: &str) -> String {
    match address(index, name, None).and_then(|address| address.target) {
        None => "absent".into(),
        Some(Target::Outside(_)) => "outside".into(),
        Some(Target::Workload(workload)) => workload_line(&workload),
        Some(Target::Service(service)) => format!("service {}/{}", service.namespace, service.name),
    }
}

#[test]
fn a_service_is_answered_whole_by_name_and_by_cluster_ip() {
    let index = index([
        namespace("shop"),
        pod("api").at("10.0.0.3"),
        service("api").cluster_ip("10.96.0.1").with("/spec/sessionAffinity", "ClientIP").with(
            "/spec/ports",
            json!([{"name": "http-web", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
        ),
    ]);
    let workload = v1::Workload {
        address: "10.0.0.3".into(),
        namespace: "shop".into(),
        name: "api".into(),
        transport: Some(v1::Transport {
            kind: Some(Kind::SpiffeId("spiffe://cluster.local/ns/shop/sa/api".into())),
        }),
    };
    let want = v1::Address {
        target: Some(Target::Service(v1::Service {
            namespace: "shop".into(),
            name: "api".into(),
            ports: vec![v1::ServicePort {
                port: 80,
                name: "http-web".into(),
                protocol: v1::Protocol::Http1.into(),
            }],
            endpoints: vec![v1::Endpoint { workload: Some(workload), target_ports: [(80, 8080)].into() }],
            client_ip_affinity: true,
        })),
    };
    for name in [
        "api.shop",
        "API.Shop.",
        "api.shop.svc",
        "api.shop.svc.cluster.local",
        "10.96.0.1",
        "::ffff:10.96.0.1",
    ] {
        assert_eq!(address(&index, name, None).as_ref(), Some(&want), "{name}");
    }
    for name in ["api", "shop.api", "api.shop.svc.other", "a.api.shop", "", ".", "api.", ".shop", "10.96.0.2"]
    {
        assert_eq!(address(&index, name, None), None, "{name}");
    }
}

#[test]
fn an_address_is_mesh_only_by_the_pod_that_holds_it() {
    let index = index([
        namespace("shop"),
        pod("api").at("10.0.0.1"),
        pod("out").at("10.0.0.2").label("signet.dev/inject", "disabled"),
        pod("node").at("10.0.0.3").with("/spec/hostNetwork", true),
        pod("lone").in_namespace("other").at("10.0.0.4"),
        pod("opted-in").in_namespace("other").at("10.0.0.5").label("signet.dev/inject", "enabled"),
        pod("done").at("10.0.0.6").with("/status/phase", "Succeeded"),
        pod("forced").at("10.0.0.7").with("/spec/hostNetwork", true).label("signet.dev/inject", "enabled"),
    ]);
    for (address, want) in [
        ("10.0.0.1", "10.0.0.1 shop/api mesh:api"),
        ("10.0.0.2", "10.0.0.2 shop/out pod_opted_out"),
        ("10.0.0.3", "10.0.0.3 shop/node host_network"),
        ("10.0.0.4", "10.0.0.4 other/lone namespace_not_labelled"),
        ("10.0.0.5", "10.0.0.5 other/opted-in mesh:opted-in"),
        ("10.0.0.6", "absent"),
        ("10.0.0.7", "10.0.0.7 shop/forced host_network"),
        ("10.0.0.9", "absent"),
    ] {
        assert_eq!(at(&index, address), want);
    }
}

#[test]
fn only_addresses_outside_of_given_ranges_are_outside() {
    let objects = objects([namespace("shop"), pod("far").at("192.0.2.1")]);
    let index = Index::build(&build_mesh(&["10.0.0.0/8", "fd00::/8"]), &objects);
    for (address, want) in [
        ("10.1.2.3", "absent"),
        ("fd00::1", "absent"),
        ("::ffff:10.1.2.3", "absent"),
        ("198.51.100.1", "outside"),
        ("2001:db8::1", "outside"),
        ("192.0.2.1", "192.0.2.1 shop/far mesh:far"),
        ("example.com", "absent"),
    ] {
        assert_eq!(at(&index, address), want, "{address}");
    }
}

fn build_mesh(ranges: &[&str]) -> crate::index::Mesh {
    crate::index::Mesh { ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(), ..mesh() }
}

#[test]
fn of_two_pods_with_one_address_the_living_then_the_newest_holds_it() {
    let old = pod("old").at("10.0.0.1").with("/metadata/creationTimestamp", "2026-01-01T00:00:00Z");
    let new = pod("new").at("10.0.0.1").with("/metadata/creationTimestamp", "2026-01-02T00:00:00Z");
    let leaving = new.clone().with("/metadata/deletionTimestamp", "2026-01-03T00:00:00Z");
    let failed = new.clone().with("/status/phase", "Failed");
    let host = old.clone().with("/spec/hostNetwork", true);
    for (case, [a, b], want) in [
        ("newest", [old.clone(), new.clone()], "10.0.0.1 shop/new mesh:new"),
        ("not terminating", [old.clone(), leaving], "10.0.0.1 shop/old mesh:old"),
        ("not ended", [old.clone(), failed], "10.0.0.1 shop/old mesh:old"),
        ("a node's address is never the mesh's", [host, new], "10.0.0.1 shop/old host_network"),
        ("same age: by name", [pod("b").at("10.0.0.1"), pod("a").at("10.0.0.1")], "10.0.0.1 shop/a mesh:a"),
    ] {
        assert_eq!(at(&index([namespace("shop"), a.clone(), b.clone()]), "10.0.0.1"), want, "{case}");
        assert_eq!(at(&index([b, a, namespace("shop")]), "10.0.0.1"), want, "{case}, other order");
    }
}

#[test]
fn endpoints_of_slices_follow_their_conditions_and_the_pods_behind_them() {
    let ready = |address: &str| json!({"addresses": [address], "conditions": {"ready": true}});
    let unready = |address: &str| json!({"addresses": [address], "conditions": {"ready": false}});
    let leaving = |address: &str| json!({"addresses": [address], "conditions": {"ready": false, "serving": true, "terminating": true}});
    let claims =
        |address: &str, pod: &str| json!({"addresses": [address], "targetRef": {"kind": "Pod", "name": pod}});
    let slice = || slice("api", 8080);
    let not_ready = service("api").with("/spec/publishNotReadyAddresses", true);
    let renamed = service("api").with("/spec/ports", json!([{"name": "x", "port": 80}]));
    let api = "10.0.0.1 shop/api mesh:api 80>8080".to_owned();
    let other = "10.0.0.2 shop/other mesh:other 80>8080".to_owned();
    for (case, service, slice, want) in [
        (
            "ready ones",
            service("api"),
            slice().endpoint(ready("10.0.0.1")).endpoint(unready("10.0.0.2")),
            vec![api.clone()],
        ),
        (
            "unset is ready",
            service("api"),
            slice().endpoint(json!({"addresses": ["10.0.0.1"]})),
            vec![api.clone()],
        ),
        (
            "ready before leaving",
            service("api"),
            slice().endpoint(ready("10.0.0.1")).endpoint(leaving("10.0.0.2")),
            vec![api.clone()],
        ),
        (
            "leaving ones when none is ready",
            service("api"),
            slice().endpoint(leaving("10.0.0.2")),
            vec![other.clone()],
        ),
        ("none", service("api"), slice().endpoint(unready("10.0.0.1")), vec![]),
        ("publishNotReadyAddresses", not_ready, slice().endpoint(unready("10.0.0.1")), vec![api.clone()]),
        (
            "identity of who holds the address",
            service("api"),
            slice().endpoint(claims("10.0.0.2", "api")),
            vec![other],
        ),
        (
            "a pod that is not known is no endpoint",
            service("api"),
            slice().endpoint(claims("10.0.0.8", "gone")),
            vec![],
        ),
        ("an ended pod is none", service("api"), slice().endpoint(ready("10.0.0.6")), vec![]),
        (
            "an address without a pod",
            service("api"),
            slice().endpoint(ready("192.0.2.9")),
            vec!["192.0.2.9 shop/ no_pod 80>8080".into()],
        ),
        ("an empty slice selects nobody", service("api"), slice(), vec![]),
        ("another port's name", renamed, slice().endpoint(ready("10.0.0.1")), vec![]),
    ] {
        let done = pod("done").at("10.0.0.6").with("/status/phase", "Failed");
        let index = index([
            namespace("shop"),
            pod("api").at("10.0.0.1"),
            pod("other").at("10.0.0.2"),
            done,
            service,
            slice,
        ]);
        assert_eq!(endpoints_of(&index, "api.shop"), want, "{case}");
    }
}

#[test]
fn without_slices_the_selector_finds_the_endpoints() {
    let named = |pod: build::Manifest, port: u16| {
        pod.label("app", "api").with(
            "/spec/containers",
            json!([{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]),
        )
    };
    let not_ready = json!([{"type": "Ready", "status": "False"}]);
    let index = index([
        namespace("shop"),
        named(pod("a").at("10.0.0.1"), 8080),
        named(pod("b").at("10.0.0.2"), 9090),
        named(pod("not-ready").at("10.0.0.3"), 8080).with("/status/conditions", not_ready),
        named(pod("leaving").at("10.0.0.4"), 8080)
            .with("/metadata/deletionTimestamp", "2026-01-03T00:00:00Z"),
        pod("no-such-port").at("10.0.0.5").label("app", "api"),
        named(pod("elsewhere").in_namespace("other").at("10.0.0.6"), 8080),
        named(pod("done").at("10.0.0.7"), 8080).with("/status/phase", "Succeeded"),
        service("api").with("/spec/ports", json!([{"port": 80, "targetPort": "web"}])),
        service("headless").with("/spec/clusterIP", "None").with("/spec/selector/app", "api"),
        service("dns").with("/spec/type", "ExternalName").with("/spec/externalName", "example.com"),
        service("nobody").with("/spec/selector", json!({})),
    ]);
    assert_eq!(
        endpoints_of(&index, "api.shop"),
        ["10.0.0.1 shop/a mesh:a 80>8080", "10.0.0.2 shop/b mesh:b 80>9090"]
    );
    assert_eq!(endpoints_of(&index, "headless.shop").len(), 3, "a, b and no-such-port");
    assert_eq!(endpoints_of(&index, "nobody.shop"), [""; 0]);
    assert_eq!(at(&index, "dns.shop"), "absent");
}

#[test]
fn dual_stack_services_are_reached_by_the_family_that_was_asked_for() {
    let dual =
        pod("api").at("10.0.0.1").with("/status/podIPs", json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]));
    let ips = json!(["10.96.0.1", "fd01::1"]);
    let index = index([
        namespace("shop"),
        dual,
        service("api").cluster_ip("10.96.0.1").with("/spec/clusterIPs", ips),
        service("headless").with("/spec/clusterIP", "None").with("/spec/selector/app", "api"),
    ]);
    assert_eq!(endpoints_of(&index, "fd01::1"), ["fd00::1 shop/api mesh:api 80>80"]);
    for name in ["10.96.0.1", "api.shop", "headless.shop"] {
        assert_eq!(endpoints_of(&index, name), ["10.0.0.1 shop/api mesh:api 80>80"], "{name}");
    }
}

#[test]
fn protocols_come_from_app_protocol_else_from_the_port_name() {
    use v1::Protocol::{Grpc, Http1, Http2, Tcp, Tls, Unknown};
    for (port, want) in [
        (json!({"port": 1}), Unknown),
        (json!({"port": 1, "name": "http"}), Http1),
        (json!({"port": 1, "name": "http2-web"}), Http2),
        (json!({"port": 1, "name": "https"}), Tls),
        (json!({"port": 1, "name": "grpc-api"}), Grpc),
        (json!({"port": 1, "name": "redis"}), Tcp),
        (json!({"port": 1, "name": "httpfoo"}), Unknown),
        (json!({"port": 1, "appProtocol": "kubernetes.io/h2c"}), Http2),
        (json!({"port": 1, "name": "http", "appProtocol": "tcp"}), Tcp),
        (json!({"port": 1, "name": "http", "appProtocol": "example.com/own"}), Unknown),
    ] {
        let index = index([service("api").with("/spec/ports", json!([port]))]);
        let Some(Target::Service(service)) = address(&index, "api.shop", None).and_then(|a| a.target) else {
            panic!("{port}")
        };
        assert_eq!(service.ports[0].protocol(), want, "{port}");
    }
}

#[test]
fn settings_carry_mode_ports_and_every_policy_that_selects_the_pod() {
    let index = index([
        namespace("shop")
            .label("signet.dev/mtls", "strict")
            .annotation("signet.dev/permissive-ports", "9090"),
        pod("api").annotation("signet.dev/permissive-ports", "9091"),
        pod("out").label("signet.dev/inject", "disabled"),
        policy("whole", json!({"rules": [{}]})),
        policy(
            "mine",
            json!({
                "targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": "api"}}}],
                "action": "ALLOW", "audit": true,
                "rules": [{"from": [{"serviceAccount": {"name": "web"}}, {"spiffe": "spiffe://other/ns/a/sa/b"}], "ports": [80]}],
            }),
        ),
        policy(
            "not-mine",
            json!({"targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": "db"}}}]}),
        ),
        policy("elsewhere", json!({})).in_namespace("other"),
    ]);
    let ids =
        ["spiffe://cluster.local/ns/shop/sa/web", "spiffe://other/ns/a/sa/b"].map(str::to_owned).to_vec();
    let rule = |spiffe_ids, ports| v1::Rule { spiffe_ids, ports };
    let named =
        |name: &str, audit, rules| v1::Policy { name: name.into(), audit, rules, error: String::new() };
    let want = v1::WorkloadSettings {
        mode: v1::Mode::Strict.into(),
        permissive_ports: vec![9090, 9091],
        policies: vec![
            named("shop/mine", true, vec![rule(ids, vec![80])]),
            named("shop/whole", false, vec![rule(vec![], vec![])]),
        ],
    };
    assert_eq!(settings(&index, "shop/api"), Some(want));
    assert_eq!(
        (settings(&index, "shop/out"), settings(&index, "shop/none"), settings(&index, "api")),
        (None, None, None)
    );
}

#[test]
fn selectors_match_labels_and_every_kind_of_expression() {
    let selects = |selector: serde_json::Value| {
        let spec = json!({"targetRefs": [{"kind": "Pod", "selector": selector}]});
        let index = index([namespace("shop"), pod("api"), policy("p", spec)]);
        !settings(&index, "shop/api").unwrap().policies.is_empty()
    };
    let expression = |e: serde_json::Value| selects(json!({"matchExpressions": [e]}));
    assert!(selects(json!({})));
    assert!(expression(json!({"key": "app", "operator": "In", "values": ["api", "web"]})));
    assert!(!expression(json!({"key": "app", "operator": "NotIn", "values": ["api"]})));
    assert!(expression(json!({"key": "tier", "operator": "NotIn", "values": ["api"]})));
    assert!(expression(json!({"key": "app", "operator": "Exists"})));
    assert!(!expression(json!({"key": "app", "operator": "DoesNotExist"})));
    assert!(!selects(json!({"matchLabels": {"app": "api", "tier": "x"}})));
}

#[test]
fn a_policy_that_does_not_parse_closes_what_it_selects() {
    let mine = json!([{"kind": "Pod", "selector": {"matchLabels": {"app": "api"}}}]);
    let closed = |spec: serde_json::Value| {
        let index = index([
            namespace("shop"),
            pod("api"),
            pod("db"),
            policy("open", json!({"rules": [{}]})),
            policy("p", spec),
        ]);
        ["shop/api", "shop/db"].map(|pod| {
            let policies = settings(&index, pod).unwrap().policies;
            assert!(policies.iter().all(|p| p.error.is_empty() || p.rules.is_empty()));
            // Nobody may call, however a proxy adds policies up: no other policy stands beside it.
            policies.iter().all(|policy| !policy.error.is_empty())
        })
    };
    for (spec, want) in [
        (json!({"targetRefs": mine, "rules": []}), [false, false]),
        (json!({"targetRefs": mine, "rules": [{"form": []}]}), [true, false]),
        (json!({"targetRefs": mine, "action": "DENY"}), [true, false]),
        (json!({"targetRefs": mine, "rules": [{"from": [{}]}]}), [true, false]),
        (json!({"targetRefs": mine, "rules": [{"from": [{"spiffe": "https://x"}]}]}), [true, false]),
        (json!({"targetRefs": mine, "rules": [{"ports": [0]}]}), [true, false]),
        (json!({"targetRefs": [{"kind": "Pod", "selector": {"matchLabel": {}}}]}), [true, true]),
        (json!({"targetRefs": [{"kind": "Pod"}]}), [true, true]),
        (json!({"targetRefs": [{"kind": "Service", "selector": {}}]}), [true, true]),
        (json!("no spec at all"), [true, true]),
    ] {
        assert_eq!(closed(spec.clone()), want, "{spec}");
    }
}

#[test]
fn a_policy_that_is_no_yaml_closes_the_namespace_that_its_text_names() {
    let text = "apiVersion: signet.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec: [oops\n";
    let (broken, errors) = parse::parse("p.yaml", text);
    assert_eq!(errors.len(), 1);
    let mut objects = objects([namespace("shop"), pod("api")]);
    objects.extend(broken.into_iter().map(Arc::new));
    let settings = settings(&Index::build(&mesh(), &objects), "shop/api").unwrap();
    assert!(settings.policies.iter().any(|policy| !policy.error.is_empty()));
}

proptest! {
    /// The index is built whole from all objects, so what could go wrong is that the order matters.
    #[test]
    fn the_order_of_objects_changes_no_answer(order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle()) {
        let all = objects([
            namespace("shop"), namespace("other").label("signet.dev/mtls", "strict"),
            pod("a").at("10.0.0.1"), pod("b").at("10.0.0.1"), pod("c").at("10.0.0.2"), pod("d").in_namespace("other").at("10.0.0.3"),
            service("a").cluster_ip("10.96.0.1"), service("c").cluster_ip("10.96.0.1"), slice("c", 81).endpoint(json!({"addresses": ["10.0.0.2"]})),
            slice("c", 82).with("/metadata/name", "c-2").endpoint(json!({"addresses": ["10.0.0.2"]})),
            policy("p", json!({})), policy("q", json!({"rules": [{}]})),
        ]);
        let shuffled: Vec<_> = order.iter().map(|n| Arc::clone(&all[*n])).collect();
        let (one, other) = (Index::build(&mesh(), &all), Index::build(&mesh(), &shuffled));
        for name in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.96.0.1", "a.shop", "c.shop"] {
            prop_assert_eq!(address(&one, name, None), address(&other, name, None));
        }
        for pod in ["shop/a", "shop/b", "other/d"] {
            prop_assert_eq!(settings(&one, pod), settings(&other, pod));
        }
        prop_assert_eq!(one.errors, other.errors);
    }
}

#[test]
fn a_node_s_address_is_never_the_mesh_s_behind_a_service_either() {
    let host = pod("host").at("10.0.0.1").with("/spec/hostNetwork", true);
    let index = index([namespace("shop"), host, pod("api").at("10.0.0.1"), service("api"), service("host")]);
    assert_eq!(endpoints_of(&index, "api.shop"), [""; 0]);
    assert_eq!(endpoints_of(&index, "host.shop"), ["10.0.0.1 shop/host host_network 80>80"]);
}

#[test]
fn internal_traffic_policy_local_leads_to_the_callers_node_and_to_no_other() {
    let on = |name: &str, address: &str, node: &str| {
        pod(name).at(address).with("/spec/nodeName", node).with("/metadata/labels/app", "api")
    };
    let local = || service("api").cluster_ip("10.96.0.1").with("/spec/internalTrafficPolicy", "Local");
    let pods = || [namespace("shop"), on("near", "10.0.0.1", "a"), on("far", "10.0.0.2", "b")];
    let [shop, near, far] = pods();
    let selected = index([shop, near, far, local()]);
    let [shop, near, far] = pods();
    let slices = slice("api", 80)
        .endpoint(json!({"addresses": ["10.0.0.1"]}))
        .endpoint(json!({"addresses": ["10.0.0.2"]}));
    let outside = json!({"addresses": ["10.9.9.9"], "nodeName": "a"});
    let sliced = index([shop, near, far, local(), slices.endpoint(outside)]);
    let reached = |index: &Index, node: Option<&str>| -> Vec<String> {
        let Some(Target::Service(service)) = address(index, "10.96.0.1", node).and_then(|a| a.target) else {
            return vec!["no service".into()];
        };
        service.endpoints.into_iter().map(|endpoint| endpoint.workload.unwrap().address).collect()
    };
    assert_eq!(reached(&selected, Some("a")), ["10.0.0.1"]);
    assert_eq!(reached(&sliced, Some("a")), ["10.0.0.1", "10.9.9.9"]);
    assert_eq!(reached(&sliced, Some("b")), ["10.0.0.2"]);
    assert_eq!(reached(&sliced, Some("c")), [""; 0], "none on its node: none");
    assert_eq!(reached(&sliced, None), [""; 0], "a caller of no known node");
    assert!(depends_on_node(&sliced, "api.shop") && !depends_on_node(&sliced, "10.0.0.1"));
}
