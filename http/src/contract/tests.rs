use http::StatusCode;
use proptest::prelude::*;
use signet_api::edge::{self, rule};

use super::{generate, *};
use crate::model::{Action, PathMatch, Respond, Rule};

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(
        listener in generate::listener(),
        route in generate::route(),
        backend in generate::backend(),
        https_host in generate::https_host(),
        certificate in generate::certificate(),
        challenge in generate::challenge(),
    ) {
        prop_assert_eq!(listener::decode(listener::encode(&listener)).unwrap(), listener);
        prop_assert_eq!(route::decode(route::encode(&route)).unwrap(), (route, vec![]));
        prop_assert_eq!(backend::decode(backend::encode(&backend)).unwrap(), backend);
        prop_assert_eq!(https_host::decode(https_host::encode(&https_host)).unwrap(), https_host);
        prop_assert_eq!(certificate::decode(certificate::encode(&certificate)).unwrap(), certificate);
        prop_assert_eq!(challenge::decode(challenge::encode(&challenge)).unwrap(), challenge);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fn decoded<M: prost::Message + Default>(bytes: &[u8]) -> M {
            M::decode(bytes).unwrap_or_default()
        }
        let _ = listener::decode(decoded(&bytes));
        let _ = route::decode(decoded(&bytes));
        let _ = backend::decode(decoded(&bytes));
        let _ = https_host::decode(decoded(&bytes));
        let _ = certificate::decode(decoded(&bytes));
        let _ = challenge::decode(decoded(&bytes));
    }
}

fn prefix(path: &str) -> edge::Match {
    let kind = edge::path_match::Kind::Prefix(path.into());
    edge::Match { path: Some(edge::PathMatch { kind: Some(kind) }), ..Default::default() }
}

/// A rule that answers 204 on a prefix.
fn good(path: &str) -> edge::Rule {
    edge::Rule {
        matches: vec![prefix(path)],
        action: Some(rule::Action::Respond(edge::Respond { status: 204, retry_after: None })),
        plaintext: edge::Plaintext::AsHost.into(),
        retry: Some(edge::Retry::default()),
        ..Default::default()
    }
}

fn closed() -> Action {
    Action::Respond(Respond::status(StatusCode::INTERNAL_SERVER_ERROR))
}

fn route_of(rules: Vec<edge::Rule>) -> edge::Route {
    edge::Route { name: "ingress/shop/web".into(), rules, ..Default::default() }
}

#[test]
fn a_rule_that_is_not_understood_answers_500_where_it_matches_and_nothing_else_is_lost() {
    let path = |rule: &Rule| match &rule.matches[0].path {
        PathMatch::Prefix(path) => path.to_string(),
        other => panic!("{other:?}"),
    };
    let headers = |name: &str| Some(edge::HeaderEdits { remove: vec![name.into()], ..Default::default() });
    let bad_path = Some(edge::PathMatch { kind: Some(edge::path_match::Kind::Exact("no".into())) });
    let too_many = vec![prefix("/b"); 1025];
    for (field, bad, wants) in [
        ("rules[1].action", edge::Rule { action: None, ..good("/b") }, "/b"),
        ("rules[1].plaintext", edge::Rule { plaintext: 99, ..good("/b") }, "/b"),
        ("rules[1].needs", edge::Rule { needs: vec!["client-certificate".into()], ..good("/b") }, "/b"),
        ("rules[1].retry", edge::Rule { retry: None, ..good("/b") }, "/b"),
        ("rules[1].response_headers", edge::Rule { response_headers: headers("host"), ..good("/b") }, "/b"),
        (
            "rules[1].response_headers.remove[0]",
            edge::Rule { response_headers: headers("a b"), ..good("/b") },
            "/b",
        ),
        (
            "rules[1].matches[0].needs",
            edge::Rule { matches: vec![edge::Match { needs: vec!["x".into()], ..prefix("/b") }], ..good("") },
            "/b",
        ),
        (
            "rules[1].matches[0].method",
            edge::Rule { matches: vec![edge::Match { method: "A B".into(), ..prefix("/b") }], ..good("") },
            "/b",
        ),
        (
            "rules[1].matches[0].path.exact",
            edge::Rule { matches: vec![edge::Match { path: bad_path, ..prefix("") }], ..good("") },
            "/",
        ),
    ] {
        let (route, faults) = route::decode(route_of(vec![good("/a"), bad, good("/c")])).unwrap();
        let [fault] = &faults[..] else { panic!("{field}: {faults:?}") };
        assert_eq!((fault.kind, &*fault.resource, &*fault.field), ("route", "ingress/shop/web", field));
        assert_eq!((&route.rules[1].action, &*path(&route.rules[1])), (&closed(), wants), "{field}");
        for (rule, wants) in [(0, "/a"), (2, "/c")] {
            assert_eq!(path(&route.rules[rule]), wants);
            assert_ne!(route.rules[rule].action, closed());
        }
    }
    let (route, faults) =
        route::decode(route_of(vec![edge::Rule { matches: too_many, ..good("") }])).unwrap();
    assert_eq!((&route.rules[0].action, route.rules[0].matches.len(), faults.len()), (&closed(), 0, 1));
}

#[test]
fn a_route_with_an_unknown_need_answers_500_as_a_whole() {
    let message = edge::Route { needs: vec!["x".into()], ..route_of(vec![good("/a"), good("/b")]) };
    let (route, faults) = route::decode(message).unwrap();
    assert!(route.rules.iter().all(|rule| rule.action == closed()));
    assert_eq!(
        faults[0].to_string(),
        r#"route "ingress/shop/web": needs "x", which this version does not know"#
    );
}

#[test]
fn what_is_not_understood_outside_of_a_rule_costs_the_resource_and_is_named() {
    let host = |kind: i32| Some(edge::Host { kind, name: "a.example".into() });
    let https = edge::Scheme::Https.into();
    let listener = |scheme, port, hosts| edge::Listener {
        name: "l".into(),
        port,
        public_port: 443,
        scheme,
        hosts,
        needs: vec![],
    };
    for (field, message) in [
        ("scheme", listener(0, 8443, host(2))),
        ("scheme", listener(3, 8443, host(2))),
        ("port", listener(https, 0, host(2))),
        ("port", listener(https, 65_536, host(2))),
        ("hosts", listener(https, 8443, None)),
        ("hosts.kind", listener(https, 8443, host(0))),
        ("hosts.kind", listener(https, 8443, host(5))),
        ("hosts.name", listener(https, 8443, host(1))),
    ] {
        assert_eq!(listener::decode(message).unwrap_err().field, field);
    }
    let route = edge::Route { hosts: vec![edge::Host::default()], ..route_of(vec![]) };
    assert_eq!(route::decode(route).unwrap_err().field, "hosts[0].kind");
    let endpoint = edge::Endpoint { address: "10.0.0.1".into(), port: 80, security: None };
    let backend = |protocol, endpoints| edge::Backend {
        name: "shop/web:80".into(),
        protocol,
        choice: 1,
        endpoints,
        needs: vec![],
    };
    for (field, message) in [
        ("protocol", backend(0, vec![])),
        ("protocol", backend(9, vec![])),
        ("endpoints[0].security", backend(1, vec![endpoint.clone()])),
        ("endpoints", backend(1, vec![endpoint; 16_385])),
    ] {
        assert_eq!(backend::decode(message).unwrap_err().field, field);
    }
    let certificate = edge::Certificate {
        name: "shop/tls".into(),
        names: vec![edge::Host { kind: edge::HostKind::Wildcard.into(), name: "a.example".into() }],
        chain: vec![vec![1]],
        private_key: vec![1],
        ..Default::default()
    };
    let unnamed = edge::Certificate { names: vec![], ..certificate.clone() };
    for (field, message) in [
        ("names[0].kind", certificate.clone()),
        ("chain", edge::Certificate { chain: vec![], ..unnamed.clone() }),
        ("chain", edge::Certificate { chain: vec![vec![1]; 11], ..unnamed.clone() }),
        ("private_key", edge::Certificate { private_key: vec![], ..unnamed.clone() }),
        ("name", edge::Certificate { name: String::new(), ..unnamed }),
    ] {
        assert_eq!(certificate::decode(message).unwrap_err().field, field);
    }
}

#[test]
fn a_challenge_of_no_kind_of_a_pattern_or_out_of_its_limits_is_refused_and_named() {
    use edge::challenge::Kind;
    let http = |token: &str, authorization: &str| {
        Kind::Http01(edge::Http01 { token: token.into(), key_authorization: authorization.into() })
    };
    let tls = |certificate, key| {
        let (certificate, private_key) = (vec![1; certificate], vec![1; key]);
        Kind::TlsAlpn01(edge::TlsAlpn01 { certificate, private_key })
    };
    let challenge = |host: &str, kind| edge::Challenge { host: host.into(), kind: Some(kind), needs: vec![] };
    assert!(challenge::decode(challenge("a.example", tls(8192, 1))).is_ok());
    for (field, message) in [
        ("kind", edge::Challenge { kind: None, ..challenge("a.example", tls(1, 1)) }),
        ("needs", edge::Challenge { needs: vec!["x".into()], ..challenge("a.example", tls(1, 1)) }),
        ("host", challenge("", http("t", "t.x"))),
        ("host", challenge("*.a.example", http("t", "t.x"))),
        ("host", challenge("10.0.0.1", http("t", "t.x"))),
        ("http01.token", challenge("a.example", http("../t", "../t.x"))),
        ("http01.token", challenge("a.example", http(&"t".repeat(129), "t.x"))),
        ("http01.key_authorization", challenge("a.example", http("t", &format!("t.{}", "x".repeat(255))))),
        ("http01.key_authorization", challenge("a.example", http("t", "other.x"))),
        ("tls_alpn01.certificate", challenge("a.example", tls(0, 1))),
        ("tls_alpn01.certificate", challenge("a.example", tls(8193, 1))),
        ("tls_alpn01.private_key", challenge("a.example", tls(1, 0))),
        ("tls_alpn01.private_key", challenge("a.example", tls(1, 16_385))),
    ] {
        let fault = challenge::decode(message).unwrap_err();
        assert_eq!((fault.kind, &*fault.field), ("challenge", field));
    }
}

#[test]
fn a_private_key_is_in_no_debug_output() {
    let key = b"top secret".to_vec();
    let message = edge::Certificate { private_key: key.clone(), chain: vec![vec![1]], ..Default::default() };
    let tls = edge::TlsAlpn01 { private_key: key.clone(), certificate: vec![1] };
    let kind = Some(edge::challenge::Kind::TlsAlpn01(tls));
    let challenge = edge::Challenge { host: "a.example".into(), kind, needs: vec![] };
    let shown = format!("{:?}", challenge::decode(challenge.clone()).unwrap());
    let shown = format!("{shown} {challenge:?} {message:?} {:?}", certificate::PrivateKey::new(key.clone()));
    assert!(!shown.contains(&format!("{:?}", &key[..3])[1..8]) && !shown.contains("secret"), "{shown}");
}
