use serde_json::json;

use super::*;
use crate::{
    build::{Manifest, index, manifest, mesh, namespace, objects, pod, service, slice},
    edge::objects::Objects,
};

fn resolve<const N: usize>(all: [Manifest; N], protocol: Option<AppProtocol>) -> Resolved {
    let reference = BackendRef::Service { name: "web".into(), port: PortRef::Number(80) };
    resolved(all, &reference, protocol)
}

fn resolved<const N: usize>(
    all: [Manifest; N],
    reference: &BackendRef,
    protocol: Option<AppProtocol>,
) -> Resolved {
    let objects = objects(all);
    let mesh = crate::index::Mesh { ranges: vec!["10.96.0.0/12".parse().unwrap()], ..mesh() };
    let index = Index::build(&mesh, &objects);
    Backends::new(&index, &Objects::build(&objects).nodes).resolve("shop", reference, protocol)
}

/// A slice of Service shop/web that somebody wrote by hand.
fn by_hand(address: &str) -> Manifest {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    slice("web", 8080).with("/addressType", family).endpoint(json!({"addresses": [address]}))
}

fn node(address: &str) -> Manifest {
    manifest("v1", "Node", "one")
        .with("/status/addresses", json!([{"type": "InternalIP", "address": address}]))
}

#[test]
fn a_pod_of_the_mesh_is_reached_as_itself_and_any_other_in_plaintext_with_the_reason() {
    let got = resolve([namespace("shop"), service("web"), pod("web").at("10.0.0.1")], None);
    let backend = got.backend.unwrap();
    assert_eq!((&*backend.name, backend.protocol), ("shop/web:80", Protocol::Http1));
    let id = identity::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    let address = "10.0.0.1:80".parse().unwrap();
    assert_eq!(backend.endpoints, [Endpoint { address, security: Security::Mesh([id].into()) }]);
    let got = resolve([manifest("v1", "Namespace", "shop"), service("web"), pod("web").at("10.0.0.1")], None);
    assert_eq!(got.ways[0].how, How::Plain("namespace_not_labelled".into()));
    assert_eq!(got.backend.unwrap().endpoints[0].security, Security::Plain);
}

#[test]
fn what_the_app_speaks_says_the_annotation_or_else_the_port() {
    let with_port = |port: serde_json::Value| service("web").with("/spec/ports", json!([port]));
    let tls = |security: &Security| matches!(security, Security::Tls(_));
    for (case, port, said, name, protocol, is_tls) in [
        ("nothing said", json!({"port": 80}), None, "shop/web:80", Protocol::Http1, false),
        (
            "by its name",
            json!({"port": 80, "name": "grpc-api"}),
            None,
            "shop/web:80+http2",
            Protocol::Http2,
            false,
        ),
        (
            "appProtocol",
            json!({"port": 80, "appProtocol": "kubernetes.io/h2c"}),
            None,
            "shop/web:80+http2",
            Protocol::Http2,
            false,
        ),
        ("https", json!({"port": 80, "name": "https"}), None, "shop/web:80+https", Protocol::Http1, true),
        (
            "the annotation wins",
            json!({"port": 80, "name": "https"}),
            Some(AppProtocol::Http1),
            "shop/web:80",
            Protocol::Http1,
            false,
        ),
        (
            "gRPC over the app's TLS",
            json!({"port": 80}),
            Some(AppProtocol::Grpcs),
            "shop/web:80+grpcs",
            Protocol::Http2,
            true,
        ),
    ] {
        let backend =
            resolve([namespace("shop"), with_port(port), pod("web").at("10.0.0.1")], said).backend.unwrap();
        let got = (&*backend.name, backend.protocol, tls(&backend.endpoints[0].security));
        assert_eq!(got, (name, protocol, is_tls), "{case}");
    }
}

#[test]
fn a_named_port_leads_to_each_pods_own_port() {
    let named = |name: &str, address: &str, port: u16| {
        let ports = json!([{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]);
        pod(name).at(address).with("/spec/containers", ports).label("app", "web")
    };
    let service =
        service("web").with("/spec/ports", json!([{"name": "main", "port": 80, "targetPort": "http"}]));
    let reference = BackendRef::Service { name: "web".into(), port: PortRef::Name("main".into()) };
    let all = [namespace("shop"), service, named("a", "10.0.0.1", 8080), named("b", "10.0.0.2", 9090)];
    let addresses: Vec<String> =
        resolved(all, &reference, None).ways.iter().map(|way| way.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:8080", "10.0.0.2:9090"]);
}

#[test]
fn what_leads_nowhere_is_answered_and_said() {
    let service_of = |name: &str, port| BackendRef::Service { name: name.into(), port };
    let external =
        || service("web").with("/spec/type", "ExternalName").with("/spec/externalName", "localhost");
    for (case, all, reference, status, word) in [
        ("no Service", [service("other")], service_of("web", PortRef::Number(80)), 503, Word::NoBackend),
        ("no such port", [service("web")], service_of("web", PortRef::Number(81)), 503, Word::NoBackend),
        (
            "no port of that name",
            [service("web")],
            service_of("web", PortRef::Name("http".into())),
            503,
            Word::NoBackend,
        ),
        ("ExternalName", [external()], service_of("web", PortRef::Number(80)), 500, Word::BackendRefused),
        (
            "no Service at all",
            [service("web")],
            BackendRef::Resource("StorageBucket a".into()),
            500,
            Word::BackendRefused,
        ),
    ] {
        let got = resolved(all, &reference, None);
        let Target::Respond(respond) = &got.target else { panic!("{case}: {:?}", got.target) };
        let words: Vec<Word> = got.findings.iter().map(|finding| finding.word).collect();
        assert_eq!((respond.status.as_u16(), words), (status, vec![word]), "{case}");
    }
    let empty = resolve([service("web")], None);
    assert!(empty.backend.unwrap().endpoints.is_empty() && empty.findings[0].word == Word::NoBackend);
}

/// Server-side request forgery by EndpointSlice: nothing that the gateway alone reaches, and nothing of another namespace.
#[test]
fn an_address_that_somebody_wrote_is_dialled_only_outside_of_the_cluster() {
    let foreign = || pod("theirs").in_namespace("bank").at("10.0.0.9");
    let other = || service("api").in_namespace("bank").cluster_ip("10.96.0.1");
    for (address, why) in [
        ("127.0.0.1", "a loopback address"),
        ("127.9.9.9", "a loopback address"),
        ("169.254.169.254", "a link-local address"),
        ("0.0.0.0", "no address of a host"),
        ("0.1.2.3", "no address of a host"),
        ("255.255.255.255", "no address of a host"),
        ("224.0.0.1", "no address of a host"),
        ("::1", "a loopback address"),
        ("::", "no address of a host"),
        ("fe80::1", "a link-local address"),
        ("ff02::1", "no address of a host"),
        ("fd00:ec2::254", "a cloud's metadata"),
        ("::ffff:127.0.0.1", "a loopback address"),
        ("::127.0.0.1", "a loopback address"),
        ("64:ff9b::a9fe:a9fe", "a link-local address"),
        ("2002:7f00:1::", "a loopback address"),
        ("10.9.0.1", "an address of node one"),
        ("10.0.0.9", "of Pod bank/theirs, another namespace's"),
        ("10.96.0.1", "the address of Service bank/api"),
        ("10.97.0.9", "in the cluster's ranges and no Pod has it"),
    ] {
        let all = [namespace("shop"), service("web"), by_hand(address), foreign(), other(), node("10.9.0.1")];
        let got = resolve(all, None);
        let How::Refused(got_why) = &got.ways[0].how else { panic!("{address}: {:?}", got.ways) };
        assert!(got_why.contains(why), "{address}: {got_why}");
        assert!(got.backend.unwrap().endpoints.is_empty(), "{address}");
        assert_eq!(got.findings[0].word, Word::BackendRefused, "{address}");
    }
    for (address, how) in [("203.0.113.5", "no_pod"), ("192.168.7.7", "no_pod"), ("2001:db8::5", "no_pod")] {
        let got = resolve([namespace("shop"), service("web"), by_hand(address), node("10.9.0.1")], None);
        assert_eq!(got.ways[0].how, How::Plain(how.into()), "{address}");
        assert!(got.findings.is_empty(), "{address}");
    }
}

#[test]
fn of_several_endpoints_only_the_bad_one_is_left_out() {
    let slice = slice("web", 8080)
        .endpoint(json!({"addresses": ["203.0.113.5"]}))
        .endpoint(json!({"addresses": ["127.0.0.1"]}));
    let got = resolve([namespace("shop"), service("web"), slice], None);
    let kept: Vec<String> = got.backend.unwrap().endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(kept, ["203.0.113.5:8080"]);
    assert_eq!((got.ways.len(), got.findings.len()), (2, 1));
}

#[test]
fn a_services_own_pod_on_its_nodes_network_is_reached_though_the_address_is_the_nodes() {
    let on_node =
        |name: &str, of: &str| pod(name).in_namespace(of).at("10.9.0.1").with("/spec/hostNetwork", true);
    let slice = slice("web", 8080)
        .endpoint(json!({"addresses": ["10.9.0.1"], "targetRef": {"kind": "Pod", "name": "web"}}));
    let all = [
        namespace("shop"),
        service("web"),
        slice.clone(),
        on_node("web", "shop"),
        on_node("kubelet-thing", "kube-system").with("/metadata/creationTimestamp", "2026-01-01T00:00:00Z"),
        node("10.9.0.1"),
    ];
    let got = resolve(all, None);
    assert_eq!(got.ways[0].how, How::Plain("host_network".into()));
    // Without a Pod of its own there, it is the node's.
    let all =
        [namespace("shop"), service("web"), slice, on_node("kubelet-thing", "kube-system"), node("10.9.0.1")];
    assert!(matches!(resolve(all, None).ways[0].how, How::Refused(_)));
}

#[test]
fn index_and_order_make_no_difference() {
    let one = index([namespace("shop"), service("web"), pod("web").at("10.0.0.1")]);
    let reference = BackendRef::Service { name: "web".into(), port: PortRef::Number(80) };
    let nodes = BTreeMap::new();
    let mut backends = Backends::new(&one, &nodes);
    let first = backends.resolve("shop", &reference, None);
    assert_eq!(backends.resolve("shop", &reference, None), first);
    assert_eq!(backends.resolve("shop", &reference, Some(AppProtocol::Http1)).backend, first.backend);
    assert_eq!(backends.into_all().len(), 1, "each once");
}
