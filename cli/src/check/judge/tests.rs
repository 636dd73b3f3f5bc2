//! Each finding, provoked, and the case beside it that must not be one.

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    core::v1::{Namespace, Node},
};
use serde_json::{Value, json};
use signet_core::{bundle::certificate_pem, clock};
use time::OffsetDateTime;

use super::*;
use crate::{
    ca,
    check::strict,
    shapes::{ControllerStatus, EdgeCaAnswer},
};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// 2001-09-09T01:46:40Z
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap()
}

fn pod(name: &str, injected: bool, ip: &str) -> Pod {
    let init = if injected { json!([{ "name": "signet-proxy" }]) } else { json!([]) };
    let (namespace, name) = name.split_once('/').unwrap();
    parse(json!({
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "initContainers": init, "containers": [] },
        "status": { "podIPs": [{ "ip": ip }] },
    }))
}

fn part(name: &str, ready: &str) -> Pod {
    let labels = json!({ "app.kubernetes.io/part-of": "signet", "app.kubernetes.io/name": name });
    parse(json!({
        "metadata": { "namespace": "signet-system", "name": format!("{name}-0"), "labels": labels },
        "spec": { "containers": [] },
        "status": { "conditions": [{ "type": "Ready", "status": ready }] },
    }))
}

/// A root of the bundle; any certificate of a CA does.
fn root(name: &str) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn webhook(bundle: Option<&str>) -> MutatingWebhookConfiguration {
    use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhook};
    let mut entry: MutatingWebhook = parse(json!({
        "name": "namespace.injector.signet.dev", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
    }));
    entry.client_config.ca_bundle = bundle.map(|pem| ByteString(pem.as_bytes().to_vec()));
    MutatingWebhookConfiguration { webhooks: Some(vec![entry]), ..MutatingWebhookConfiguration::default() }
}

fn ca(intermediate_ends: &str, root_ends: &str) -> ca::Answer {
    let intermediate = json!({ "serial": "1", "notAfter": intermediate_ends, "issuedBy": "r" });
    let status = json!({
        "version": "1", "trustDomain": "td", "bootId": "b", "bundleSequence": 1, "leafLifeSeconds": 86_400,
        "roots": [{ "id": "r", "notAfter": root_ends, "state": "active" }], "intermediate": intermediate,
        "rotation": { "state": "steady", "since": root_ends, "nextStepAt": root_ends }, "issued": 1, "refused": 0,
    });
    ca::Answer::of_one("ca-0", parse(status))
}

/// [`ca`], under a root of the user's.
fn brought(begins: &str, ends: &str, fault: Option<&str>) -> ca::Answer {
    let mut answer = ca("2001-10-05T00:00:00Z", "2011-09-09T00:00:00Z");
    let yours = json!({ "serial": "7", "notBefore": begins, "notAfter": ends });
    answer.replicas[0].intermediate.brought = Some(parse(yours));
    answer.status.fault = fault.map(Into::into);
    answer
}

fn controller(version: &str, leaf_ends: &str) -> ControllerStatus {
    let proxy = json!({ "connected": true, "version": version, "ready": true, "notReady": null, "leafNotAfter": leaf_ends,
                        "bundleSequence": 1, "rejected": [] });
    parse(json!({
        "version": "1.0.0", "manifests": { "files": 0, "objects": 0, "errors": [] },
        "workloads": [{ "namespace": "shop", "pod": "web-0", "serviceAccount": "web", "address": null, "meshed": true, "why": null,
                        "mode": "strict", "identity": null, "proxy": proxy }],
    }))
}

/// An installation in which nothing is wrong.
fn well() -> Facts {
    let version = |version: &str| {
        parse::<Node>(json!({
            "metadata": { "name": "node1" },
            "status": { "nodeInfo": { "kubeletVersion": version, "architecture": "", "bootID": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "" } },
        }))
    };
    let server = json!({ "major": "1", "minor": "37", "gitVersion": "v1.37.2", "buildDate": "", "compiler": "", "gitCommit": "",
                         "gitTreeState": "", "goVersion": "", "platform": "" });
    let shop: Namespace =
        parse(json!({ "metadata": { "name": "shop", "labels": { "signet.dev/inject": "enabled" } } }));
    let other: Namespace = parse(
        json!({ "metadata": { "name": "other", "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } }),
    );
    let deployment: Deployment = parse(
        json!({ "spec": { "selector": {}, "template": { "spec": { "containers": [
        { "name": "controller", "args": ["run", "--mesh-range", "10.0.0.0/8", "--mesh-range", "fd00::/48"] }] } } } }),
    );
    let pem = certificate_pem(&root("one"));
    Facts {
        server: Some(parse(server)),
        nodes: vec![version("v1.33.0")],
        namespaces: vec![shop, other],
        installed: true,
        pods: vec![
            part("ca", "True"),
            part("controller", "True"),
            part("injector", "True"),
            pod("shop/web-0", true, "10.1.1.1"),
            pod("other/app-0", false, "10.1.1.2"),
        ],
        webhook: Some(webhook(Some(&pem))),
        controller_deployment: Some(deployment),
        bundle: Some(TrustBundle::from_pem(pem.as_bytes()).unwrap()),
        ca: Some(ca("2001-10-01T00:00:00Z", "2011-09-09T00:00:00Z")),
        controller: Some(controller("1.0.0", "2001-09-10T00:00:00Z")),
        ..Facts::nothing(now())
    }
}

const MONTH: i64 = 30 * DAY;

#[test]
fn where_nothing_is_wrong_nothing_is_found() {
    assert_eq!(findings(&well(), MONTH), []);
}

type Break = fn(&mut Facts);

/// What is broken, and how the one finding begins.
const BROKEN: [(Id, Break, &str); 33] = [
    (
        Id::OldKubernetes,
        |facts| facts.server.as_mut().unwrap().git_version = "v1.32.9+k3s1".into(),
        "the API server is v1.32.9",
    ),
    (
        Id::OldKubernetes,
        |facts| {
            facts.nodes[0].status.as_mut().unwrap().node_info.as_mut().unwrap().kubelet_version =
                "v1.9.0".into()
        },
        "the kubelet of node node1 is v1.9.0",
    ),
    (
        Id::MissingRight,
        |facts| facts.denied.push("create namespaces".into()),
        "your account may not create namespaces",
    ),
    (
        Id::PodSecurity,
        |facts| {
            let labels = facts.namespaces[0].metadata.labels.as_mut().unwrap();
            labels.insert("pod-security.kubernetes.io/enforce".into(), "baseline".into());
        },
        "namespace shop enforces baseline",
    ),
    (Id::PartNotReady, |facts| facts.pods[1] = part("controller", "False"), "pod controller-0 is not ready"),
    (Id::PartNotReady, |facts| drop(facts.pods.remove(2)), "no pod of the injector runs"),
    (
        Id::PartNotReady,
        |facts| {
            facts.edge_deployment = facts.controller_deployment.clone();
            facts.pods.push(part("edge", "True"));
        },
        "no pod of the gateway runs",
    ),
    (
        Id::NoCaBundle,
        |facts| facts.webhook = Some(webhook(None)),
        "namespace.injector.signet.dev has no caBundle",
    ),
    (
        Id::NoCaBundle,
        |facts| facts.webhook = Some(webhook(Some(""))),
        "namespace.injector.signet.dev has no caBundle",
    ),
    (Id::NoCaBundle, |facts| facts.webhook = None, "there is no webhook"),
    (
        Id::WrongCaBundle,
        |facts| facts.webhook = Some(webhook(Some(&certificate_pem(&root("two"))))),
        "the caBundle of",
    ),
    (Id::WrongCaBundle, |facts| facts.webhook = Some(webhook(Some("garbage"))), "the caBundle of"),
    (
        Id::NotInjected,
        |facts| facts.pods.extend(["a", "b"].map(|name| pod(&format!("shop/{name}"), false, "10.1.1.3"))),
        "2 pods of namespace shop without a proxy: a, b",
    ),
    (
        Id::NotInjected,
        |facts| {
            let mut opted_in = pod("other/in", false, "10.1.1.4");
            opted_in.metadata.labels = Some([(INJECT.to_owned(), "enabled".to_owned())].into());
            facts.pods.push(opted_in);
        },
        "1 pod of namespace other",
    ),
    (
        Id::OldProxy,
        |facts| facts.controller = Some(controller("0.9.0", "2001-09-10T00:00:00Z")),
        "1 pod of namespace shop with proxies 0.9.0, the control plane is 1.0.0: web-0",
    ),
    (
        Id::OutsideRanges,
        |facts| facts.pods.push(pod("other/far", false, "172.16.0.1")),
        "1 pod outside of the mesh's ranges: other/far",
    ),
    (
        Id::CertificateEnds,
        |facts| facts.controller = Some(controller("1.0.0", "2001-09-09T01:46:39Z")),
        "the certificate of shop/web-0: expired 1s ago",
    ),
    (
        Id::CertificateEnds,
        |facts| facts.ca = Some(ca("2001-09-09T20:00:00Z", "2011-09-09T00:00:00Z")),
        "the intermediate of ca-0: 18h 13m",
    ),
    (
        Id::RootEnds,
        |facts| facts.ca = Some(ca("2001-10-01T00:00:00Z", "2001-10-05T00:00:00Z")),
        "root r: 25d",
    ),
    (
        Id::RootEnds,
        |facts| facts.ca = Some(brought("2001-07-09T00:00:00Z", "2001-10-07T00:00:00Z", None)),
        "your own intermediate 7: 27d",
    ),
    (
        Id::BroughtRefused,
        |facts| {
            let yours =
                brought("2001-09-08T00:00:00Z", "2001-12-09T00:00:00Z", Some("Secret x, tls.key is none"));
            facts.ca = Some(yours);
        },
        "Secret x, tls.key is none",
    ),
    (Id::NotServed, |facts| facts.ingresses = found("HostTaken"), "Ingress shop/web: it says"),
    (Id::NotServed, |facts| facts.ingresses = found("Refused"), "Ingress shop/web: it says"),
    (Id::RefusedBackend, |facts| facts.ingresses = found("BackendRefused"), "Ingress shop/web: it says"),
    (Id::WithoutCertificate, |facts| facts.ingresses = found("MissingRight"), "Ingress shop/web: it says"),
    (Id::NotHonoured, |facts| facts.ingresses = found("NotHonoured"), "Ingress shop/web: it says"),
    (Id::NotRenewed, |facts| facts.ingresses = found("NotRenewed"), "Ingress shop/web: it says"),
    (Id::OrderFailed, |facts| facts.ingresses = found("OrderFailed"), "Ingress shop/web: it says"),
    (
        Id::StagingCertificate,
        |facts| facts.ingresses = found("StagingCertificate"),
        "Ingress shop/web: it says",
    ),
    (Id::SecretFirst, |facts| facts.ingresses = found("SecretFirst"), "Ingress shop/web: it says"),
    (Id::WithoutBackend, |facts| facts.ingresses = found("NoBackend"), "Ingress shop/web: it says"),
    (Id::EdgeCaEnds, |facts| facts.edge_ca = Some(edge_ca(29)), "edge CA 0123: 29d"),
    (Id::EdgeCaEnds, |facts| facts.edge_ca = Some(edge_ca(-1)), "edge CA 0123: expired 1d ago"),
];

/// With so many days left, and an hour.
fn edge_ca(days: i64) -> EdgeCaAnswer {
    let end = clock::rfc3339(now().unix_timestamp() + days * DAY + if days < 0 { 0 } else { 3600 }).unwrap();
    EdgeCaAnswer { id: "0123".into(), not_after: end, ..EdgeCaAnswer::default() }
}

fn found(word: &str) -> Vec<IngressFinding> {
    parse(json!([{ "ingress": "shop/web", "word": word, "message": "it says" }]))
}

#[test]
fn each_finding_is_provoked_by_what_it_is_about_and_by_nothing_else() {
    let mut provoked = BTreeSet::new();
    for (id, breaks, begins) in BROKEN {
        let mut facts = well();
        breaks(&mut facts);
        let found = findings(&facts, MONTH);
        let [finding] = &found[..] else { panic!("{begins}: {found:#?}") };
        assert_eq!(finding.id, id, "{begins}");
        assert!(finding.what.starts_with(begins), "{:?} does not begin with {begins:?}", finding.what);
        assert!(!finding.next.is_empty());
        provoked.insert(id);
    }
    provoked.extend(strict::tests::BROKEN.iter().map(|(id, ..)| *id)); // they have a test of their own
    assert_eq!(provoked, Id::all().iter().copied().collect(), "an ID without a provoking case");
}

#[test]
fn what_is_found_of_a_certificate_leads_to_the_command_that_explains_it() {
    for (word, message, next) in [
        (
            "NotRenewed",
            "app.example.com, www.example.com: it ends: soon",
            "signet cert why 'app.example.com'",
        ),
        ("OrderFailed", "*.example.com: the last order failed", "signet cert why '*.example.com'"),
        (
            "StagingCertificate",
            "app.example.com: no browser believes it",
            "signet cert why 'app.example.com'",
        ),
        ("NotRenewed", "it says", "signet explain -n shop ingress/web"),
        ("NoCertificate", "app.example.com: it says", "signet explain -n shop ingress/web"),
    ] {
        let mut facts = well();
        facts.ingresses = parse(json!([{ "ingress": "shop/web", "word": word, "message": message }]));
        assert_eq!(findings(&facts, MONTH)[0].next, next, "{word} {message}");
    }
}

#[test]
fn a_certificate_that_is_being_ordered_is_nothing_wrong() {
    let mut facts = well();
    facts.ingresses = found("BeingOrdered");
    assert_eq!(findings(&facts, MONTH), []);
}

#[test]
fn pods_that_no_restart_would_give_a_proxy_and_those_that_leave_are_not_found() {
    let mut facts = well();
    let mut host = pod("shop/host", false, "10.1.1.5");
    host.spec.as_mut().unwrap().host_network = Some(true);
    let mut out = pod("shop/out", false, "10.1.1.6");
    out.metadata.labels = Some([(INJECT.to_owned(), "disabled".to_owned())].into());
    let mut system = pod("kube-system/dns", false, "10.1.1.7");
    system.metadata.labels = Some([(INJECT.to_owned(), "enabled".to_owned())].into());
    let mut leaving: Pod = part("ca", "False");
    leaving.metadata.deletion_timestamp = parse(json!("2001-09-09T01:46:40Z"));
    facts.pods.extend([host, out, system, leaving]);
    assert_eq!(findings(&facts, MONTH), []);
}

#[test]
fn before_an_installation_nothing_of_it_is_missed() {
    let facts =
        Facts { installed: false, webhook: None, pods: Vec::new(), ca: None, controller: None, ..well() };
    assert_eq!(findings(&facts, MONTH), []);
}

#[test]
fn a_version_is_read_however_a_vendor_writes_it() {
    for (version, want) in [
        ("v1.33.0", Some(33)),
        ("v1.37.2-eks-1", Some(37)),
        ("v1.9.0", Some(9)),
        ("1.34", Some(34)),
        ("v2.0", None),
        ("", None),
    ] {
        assert_eq!(minor(version), want, "{version}");
    }
}
