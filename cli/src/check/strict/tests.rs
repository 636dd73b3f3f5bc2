//! Each finding, provoked in a namespace that is ready for strict, and the case beside it that must not be one.

use serde_json::{Value, json};

use super::{facts::ApiCall, *};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// In the mesh, with the label `app: <app>` and a port 8443 called "hook".
fn pod(namespace: &str, app: &str, ip: &str) -> Pod {
    let containers = json!([{ "name": "app", "ports": [{ "name": "hook", "containerPort": 8443 }] }]);
    parse(json!({
        "metadata": { "namespace": namespace, "name": format!("{app}-0"), "labels": { "app": app, "app.kubernetes.io/name": app } },
        "spec": { "initContainers": [{ "name": "signet-proxy" }], "containers": containers },
        "status": { "podIPs": [{ "ip": ip }] },
    }))
}

fn without(mut pod: Pod) -> Pod {
    pod.spec.as_mut().unwrap().init_containers = None;
    pod
}

fn edge(client: Value, reason: &str) -> Edge {
    parse(json!({
        "client": client, "server": { "namespace": "shop", "pod": "web-0", "address": null, "id": null, "port": 8080 },
        "secured": false, "tls": null, "certLeftSeconds": null, "reason": reason, "refused": false,
        "open": 0, "total": 1, "sent": 1, "received": 1, "proof": "server",
    }))
}

fn stranger() -> Value {
    json!({ "namespace": "office", "pod": "desk-0", "address": null, "id": null, "port": null })
}

fn at(address: &str) -> Value {
    json!({ "namespace": null, "pod": null, "address": address, "id": null, "port": null })
}

fn service(name: &str, port: Value) -> Service {
    parse(
        json!({ "metadata": { "namespace": "shop", "name": name }, "spec": { "selector": { "app": name }, "ports": [port] } }),
    )
}

fn policy(namespace: &str, spec: Value) -> k8s_openapi::api::networking::v1::NetworkPolicy {
    parse(json!({ "metadata": { "namespace": namespace, "name": "tight" }, "spec": spec }))
}

fn call(port: i32) -> ApiCall {
    ApiCall { who: "validating webhook web.example.com".into(), service: "web".into(), port }
}

fn annotate(annotations: &mut Option<BTreeMap<String, String>>, key: &str, value: &str) {
    annotations.get_or_insert_default().insert(key.into(), value.into());
}

/// A namespace whose callers are all in the mesh; what is plaintext in it is of others, or allowed.
fn ready() -> Facts {
    let namespace = |name: &str| json!({ "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name, "signet.dev/inject": "enabled" } } });
    let mut shop: k8s_openapi::api::core::v1::Namespace = parse(namespace("shop"));
    annotate(&mut shop.metadata.annotations, PERMISSIVE_PORTS, "9090");
    let node = json!({ "metadata": { "name": "node1" }, "spec": { "podCIDRs": ["10.1.0.0/24"] },
                       "status": { "addresses": [{ "type": "InternalIP", "address": "192.168.0.1" }] } });
    let mut secured = edge(stranger(), "");
    (secured.secured, secured.reason) = (true, None);
    let mut refused = edge(stranger(), "over_limit");
    refused.refused = true;
    let mut elsewhere = edge(stranger(), "namespace_not_labelled");
    elsewhere.server.namespace = Some("office".into());
    let mut allowed = edge(stranger(), "namespace_not_labelled");
    allowed.server.port = Some(9090);
    let mut to_a_bare_pod = edge(stranger(), "not_injected");
    to_a_bare_pod.proof = "client".into();
    Facts {
        namespace: shop.clone(),
        edges: vec![secured, refused, elsewhere, allowed, to_a_bare_pod],
        pods: vec![
            pod("shop", "web", "10.1.0.5"),
            without(pod("office", "desk", "10.1.0.6")),
            without(pod("signet-system", "ca", "10.1.0.7")),
            without(pod("signet-system", "controller", "10.1.0.8")),
        ],
        namespaces: vec![shop, parse(namespace("office")), parse(namespace("signet-system"))],
        nodes: vec![parse(node)],
        services: vec![service("web", json!({ "port": 443, "targetPort": "hook" }))],
        calls: Vec::new(),
        policies: vec![
            policy("shop", json!({ "podSelector": {}, "ingress": [] })),
            policy("office", json!({ "policyTypes": ["Egress"] })),
        ],
        unchecked: Vec::new(),
    }
}

type Break = fn(&mut Facts);

/// What is broken, how the one finding begins, and what its advice holds.
pub(in crate::check) const BROKEN: &[(Id, Break, &str, &str)] = &[
    (
        Id::PlaintextCaller,
        |facts| facts.edges.push(edge(stranger(), "namespace_not_labelled")),
        "office/desk-0 calls shop/web-0 at port 8080 in plaintext (namespace_not_labelled)",
        "kubectl label namespace office signet.dev/inject=enabled, and restart it there; or let the port take plaintext: kubectl annotate \
         --overwrite namespace shop signet.dev/permissive-ports=8080,9090",
    ),
    (
        Id::PlaintextCaller,
        |facts| {
            let mut refused = edge(stranger(), "plaintext_refused");
            refused.refused = true;
            facts.edges.push(refused);
        },
        "office/desk-0 calls shop/web-0 at port 8080 in plaintext (plaintext_refused)",
        "signet explain office/desk-0",
    ),
    (
        Id::PlaintextCaller,
        |facts| facts.edges.push(edge(stranger(), "pod_opted_out")),
        "office/desk-0 calls",
        "Take the label signet.dev/inject=disabled from office/desk-0",
    ),
    (
        Id::PlaintextCaller,
        |facts| facts.edges.push(edge(stranger(), "client_bypassed_proxy")),
        "office/desk-0 calls",
        "Take the exclusion",
    ),
    (
        Id::PlaintextCaller,
        |facts| facts.edges.push(edge(at("172.16.0.9"), "client_unknown")),
        "172.16.0.9 calls shop/web-0 at port 8080",
        "Find out who has the address 172.16.0.9",
    ),
    (
        Id::NodeCaller,
        |facts| facts.edges.push(edge(at("192.168.0.1"), "client_unknown")),
        "node node1 (192.168.0.1) calls shop/web-0 at port 8080",
        "signet.dev/permissive-ports=8080,9090",
    ),
    (
        Id::NodeCaller,
        |facts| facts.edges.push(edge(at("10.1.0.1"), "client_unknown")),
        "node node1 (10.1.0.1) calls",
        "without hostNetwork",
    ),
    (
        Id::NodeCaller,
        |facts| facts.edges.push(edge(stranger(), "host_network")),
        "office/desk-0 calls",
        "without hostNetwork",
    ),
    (
        Id::NodeCaller,
        |facts| {
            facts.pods[1].spec.as_mut().unwrap().host_network = Some(true);
            let mut refused = edge(stranger(), "plaintext_refused");
            refused.refused = true;
            facts.edges.push(refused);
        },
        "office/desk-0 calls",
        "without hostNetwork",
    ),
    (
        Id::OnHostNetwork,
        |facts| {
            let mut agent = without(pod("shop", "agent", "192.168.0.1"));
            agent.spec.as_mut().unwrap().host_network = Some(true);
            facts.pods.push(agent);
        },
        "1 pod of namespace shop on the host's network: agent-0",
        "without hostNetwork",
    ),
    (
        Id::OutsideStrict,
        |facts| facts.pods.push(without(pod("shop", "old", "10.1.0.9"))),
        "1 pod of namespace shop without a proxy: old-0",
        "kubectl -n shop rollout restart deployment,statefulset,daemonset; if it stays so: signet explain shop/old-0",
    ),
    (
        Id::OutsideStrict,
        |facts| {
            facts.namespace.metadata.labels = None;
            facts.pods.push(without(pod("shop", "old", "10.1.0.9")));
        },
        "1 pod of namespace shop without a proxy: old-0",
        "kubectl label namespace shop signet.dev/inject=enabled, then",
    ),
    (
        Id::ApiServerCall,
        |facts| facts.calls.push(call(443)),
        "the API server calls Service shop/web at port 443 (pod port 8443) for the validating webhook web.example.com",
        "kubectl annotate --overwrite namespace shop signet.dev/permissive-ports=8443,9090",
    ),
    (
        Id::HiddenControlPlane,
        |facts| {
            let ports = json!([{ "port": 15010 }, { "port": 53, "protocol": "UDP" }]);
            facts.policies.push(policy(
                "shop",
                json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "ports": ports }] }),
            ));
        },
        "NetworkPolicy shop/tight keeps 1 pod of namespace shop from the ca: web-0",
        "Allow TCP 15012",
    ),
    (
        Id::HiddenControlPlane,
        |facts| {
            let controller = json!({ "matchLabels": { "app": "controller" } });
            facts.policies.push(policy(
                "signet-system",
                json!({ "podSelector": controller, "ingress": [{ "from": [{ "podSelector": {} }] }] }),
            ));
        },
        "NetworkPolicy signet-system/tight keeps 1 pod of namespace shop from the controller: web-0",
        "Allow TCP 15010",
    ),
    (
        Id::NotTcp,
        |facts| facts.services.push(service("dns", json!({ "port": 53, "protocol": "UDP" }))),
        "Services of namespace shop with ports that are not TCP: dns 53/UDP",
        "NetworkPolicy",
    ),
    (
        Id::ExcludedPorts,
        |facts| annotate(&mut facts.pods[0].metadata.annotations, EXCLUDE_INBOUND_PORTS, "9100, 9200"),
        "inbound ports of namespace shop that pass its proxies: web-0 (9100, 9200)",
        "signet.dev/permissive-ports",
    ),
];

#[test]
fn in_a_namespace_that_is_ready_nothing_is_found() {
    assert_eq!(findings(&ready()), []);
}

#[test]
fn what_would_break_is_named_with_who_whom_where_and_what_to_do_and_nothing_else_is() {
    for (id, breaks, begins, advice) in BROKEN {
        let mut facts = ready();
        breaks(&mut facts);
        let found = findings(&facts);
        let [finding] = &found[..] else { panic!("{begins}: {found:#?}") };
        assert_eq!(finding.id, *id, "{begins}");
        assert!(finding.what.starts_with(begins), "{:?} does not begin with {begins:?}", finding.what);
        assert!(finding.next.contains(advice), "{:?} does not hold {advice:?}", finding.next);
    }
}

#[test]
fn a_caller_of_several_pods_is_named_once_for_each_port() {
    let mut facts = ready();
    let mut other = edge(stranger(), "namespace_not_labelled");
    other.server.pod = Some("web-1".into());
    let mut another_port = edge(stranger(), "namespace_not_labelled");
    another_port.server.port = Some(8081);
    facts.edges.extend([edge(stranger(), "namespace_not_labelled"), other, another_port]);
    let found: Vec<String> = findings(&facts).into_iter().map(|finding| finding.what).collect();
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("office/desk-0 calls shop/web-0, shop/web-1 at port 8080"), "{found:#?}");
}

#[test]
fn what_a_permissive_port_lets_in_would_not_break() {
    let mut facts = ready();
    annotate(&mut facts.pods[0].metadata.annotations, PERMISSIVE_PORTS, "8080, 8443");
    facts.edges.push(edge(stranger(), "namespace_not_labelled"));
    facts.calls.push(call(443));
    assert_eq!(findings(&facts), []);
}

#[test]
fn a_service_reaches_the_port_that_it_targets_by_number_by_name_or_its_own() {
    let web = pod("shop", "web", "10.1.0.5");
    for (port, want) in [
        (json!({ "port": 443, "targetPort": 9443 }), Some(9443)),
        (json!({ "port": 443, "targetPort": "hook" }), Some(8443)),
        (json!({ "port": 443, "targetPort": "other" }), None),
        (json!({ "port": 443 }), Some(443)),
    ] {
        assert_eq!(target(&parse(port.clone()), &web), want, "{port}");
    }
    let mut facts = ready();
    facts.calls.push(call(80)); // not a port of that Service
    assert_eq!(findings(&facts), []);
}
