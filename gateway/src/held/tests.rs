use http::StatusCode;
use signet_api::xds::Resource;
use signet_http::{
    contract::{certificate::Certificate, challenge::Challenge},
    model::{Choice, Forward, HostPattern, Protocol, Respond, Rule, Scheme, Weighted},
};

use super::*;
use crate::pki_for_tests::{certificate, proof};

fn resource(kind: &str, name: &str, version: &str, value: Vec<u8>) -> Resource {
    let body = prost_types::Any { type_url: kind.into(), value };
    Resource { name: name.into(), version: version.into(), resource: Some(body) }
}

fn take(held: &mut Held, kind: &str, resources: Vec<Resource>, removed: &[&str]) -> Vec<String> {
    held.take(DeltaDiscoveryResponse {
        type_url: kind.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    })
}

fn listener(name: &str, port: u16, scheme: Scheme) -> Resource {
    let listener = Listener { name: name.into(), port, public_port: 443, scheme, hosts: HostPattern::Any };
    resource(EDGE_LISTENER, name, "1", contract::listener::encode(&listener).encode_to_vec())
}

fn route(name: &str, backend: &str) -> signet_api::edge::Route {
    let target = Target::Backend(backend.into());
    let weighted = Weighted {
        target,
        weight: 1,
        request_headers: Default::default(),
        response_headers: Default::default(),
    };
    let forward = Forward { backends: vec![weighted], ..Forward::default() };
    let rules = vec![Rule::new(Action::Forward(forward))];
    contract::route::encode(&Route { name: name.into(), created: 0, parents: vec![], hosts: vec![], rules })
}

fn backend(name: &str) -> Resource {
    let (protocol, choice) = (Protocol::Http1, Choice::Quicker);
    let backend = Backend { name: name.into(), protocol, choice, endpoints: vec![] };
    resource(EDGE_BACKEND, name, "1", contract::backend::encode(&backend).encode_to_vec())
}

fn of(certificate: &Certificate, version: &str) -> Resource {
    let message = contract::certificate::encode(certificate);
    resource(EDGE_CERTIFICATE, &certificate.name, version, message.encode_to_vec())
}

#[test]
fn the_first_model_is_whole_when_every_type_was_answered_and_every_backend_is_there() {
    let mut held = Held::default();
    for kind in EDGE_TYPES {
        assert!(!held.is_answered());
        let routes = vec![resource(EDGE_ROUTE, "r", "1", route("r", "shop/web:80").encode_to_vec())];
        take(&mut held, kind, if kind == EDGE_ROUTE { routes } else { vec![] }, &[]);
    }
    assert!(held.is_answered() && !held.is_whole());
    assert_eq!(held.missing().into_iter().collect::<Vec<_>>(), ["shop/web:80"]);
    take(&mut held, EDGE_BACKEND, vec![backend("shop/web:80")], &[]);
    assert!(held.is_whole());
    take(&mut held, EDGE_ROUTE, vec![], &["r"]);
    assert!(held.model().snapshot.routes.is_empty());
}

#[test]
fn a_type_of_which_more_comes_is_not_answered_yet() {
    let mut held = Held::default();
    for kind in EDGE_TYPES {
        let part = DeltaDiscoveryResponse {
            type_url: kind.into(),
            system_version_info: MORE.into(),
            ..DeltaDiscoveryResponse::default()
        };
        assert!(held.take(part).is_empty());
    }
    assert!(!held.is_answered());
    for kind in EDGE_TYPES {
        take(&mut held, kind, vec![], &[]);
    }
    assert!(held.is_answered());
}

#[test]
fn a_bad_pair_is_named_and_the_last_good_certificate_stays_with_its_version() {
    let mut held = Held::default();
    let good = certificate("shop/tls", &["https"], &["a.example"]);
    assert!(take(&mut held, EDGE_CERTIFICATE, vec![of(&good, "1")], &[]).is_empty());
    let mut bad = good.clone();
    bad.key = certificate("x", &[], &["x.example"]).key;
    let faults = take(&mut held, EDGE_CERTIFICATE, vec![of(&bad, "2")], &[]);
    assert!(faults[0].contains("shop/tls") && faults[0].contains("do not make a pair"), "{faults:?}");
    let model = held.model();
    assert_eq!((model.certificates.len(), model.faults.len()), (1, 1));
    let first = held.first("gateway-0");
    let certificates = first.iter().find(|request| request.type_url == EDGE_CERTIFICATE).unwrap();
    assert_eq!(certificates.resource_names_subscribe, ["*"]);
    assert_eq!(certificates.initial_resource_versions["shop/tls"], "1", "so that the new one comes again");
    assert!(take(&mut held, EDGE_CERTIFICATE, vec![of(&good, "3")], &[]).is_empty());
    assert!(held.model().faults.is_empty(), "mended");
}

#[test]
fn a_rule_of_a_newer_edge_answers_500_and_is_reported_and_the_version_is_held() {
    let mut held = Held::default();
    let mut message = route("r", "shop/web:80");
    message.rules[0].needs = vec!["oauth".into()];
    let faults =
        take(&mut held, EDGE_ROUTE, vec![resource(EDGE_ROUTE, "r", "7", message.encode_to_vec())], &[]);
    assert_eq!(
        faults,
        [r#"route "r": rules[0].needs "oauth", which this version does not know: answers 500"#]
    );
    let respond = Action::Respond(Respond::status(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(held.model().snapshot.routes[0].rules[0].action, respond);
    assert_eq!(held.first("g")[3].initial_resource_versions["r"], "7");
}

#[test]
fn what_cannot_be_used_is_refused_by_name_and_touches_nothing_else() {
    let mut held = Held::new(&[15020]);
    let all = vec![
        listener("ok", 8443, Scheme::Https),
        listener("own", 15020, Scheme::Http),
        resource(EDGE_LISTENER, "other-name", "1", {
            let any = listener("x", 1, Scheme::Http);
            any.resource.unwrap().value
        }),
        resource(EDGE_ROUTE, "type", "1", vec![]),
        resource(EDGE_LISTENER, "junk", "1", vec![0xFF; 9]),
        Resource { name: "bare".into(), ..Default::default() },
    ];
    let faults = take(&mut held, EDGE_LISTENER, all, &[]);
    assert_eq!(faults.len(), 5, "{faults:?}");
    for (fault, word) in faults.iter().zip(["own", "other-name", "type", "junk", "bare"]) {
        assert!(fault.contains(word), "{fault}");
    }
    assert_eq!(held.model().snapshot.listeners.len(), 1);
    assert_eq!(take(&mut held, "type.googleapis.com/x", vec![], &[]).len(), 1);
}

#[test]
fn a_port_has_one_scheme_and_the_other_listener_is_reported() {
    let mut held = Held::default();
    take(
        &mut held,
        EDGE_LISTENER,
        vec![listener("b", 8443, Scheme::Http), listener("a", 8443, Scheme::Https)],
        &[],
    );
    let model = held.model();
    assert_eq!((model.snapshot.listeners.len(), &*model.snapshot.listeners[0].name), (1, "a"));
    assert_eq!(model.faults, [r#"listener "b": port 8443 is https already"#]);
}

#[test]
fn challenges_come_and_go_and_one_that_answers_nothing_is_refused_by_name() {
    let mut held = Held::default();
    let resource = |challenge: &Challenge, version: &str| {
        let message = contract::challenge::encode(challenge);
        resource(EDGE_CHALLENGE, &challenge.name(), version, message.encode_to_vec())
    };
    let token = Challenge::Http01(Http01::new("a.example".parse().unwrap(), "t", "t.x").unwrap());
    let good = Challenge::TlsAlpn01(proof("a.example"));
    let all = vec![resource(&token, "1"), resource(&good, "1")];
    assert!(take(&mut held, EDGE_CHALLENGE, all, &[]).is_empty());
    let mut bad = proof("a.example");
    bad.key = proof("a.example").key;
    let faults = take(&mut held, EDGE_CHALLENGE, vec![resource(&Challenge::TlsAlpn01(bad), "2")], &[]);
    assert!(faults[0].contains("tls-alpn-01/a.example") && faults[0].contains("do not make a pair"));
    let model = held.model();
    assert_eq!((model.snapshot.challenges.len(), model.proofs.len(), model.faults.len()), (1, 1, 1));
    let gone = ["http-01/a.example/t", "tls-alpn-01/a.example"];
    assert!(take(&mut held, EDGE_CHALLENGE, vec![], &gone).is_empty());
    let model = held.model();
    assert_eq!((model.snapshot.challenges.len(), model.proofs.len(), model.faults.len()), (0, 0, 0));
}
