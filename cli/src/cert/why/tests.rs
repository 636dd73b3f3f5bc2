use serde_json::{Value, json};

use super::*;
use crate::{
    cert::answer::{certificate, failure},
    output::Format,
};

/// 1970-01-12T13:46:40Z
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_000_000).unwrap()
}

fn host(certificate: Value) -> HostAnswer {
    serde_json::from_value(
        json!({"host": "app.example.com", "owner": "shop", "by": "claim", "why": "namespace shop has it",
        "ingresses": ["shop/web"], "rules": [], "plaintext": "redirect", "certificate": certificate,
        "refused": [{"ingress": "thief/web", "why": "it is not this namespace's"}]}),
    )
    .unwrap()
}

fn why(fields: Value) -> Why {
    let mut whole = json!({"served": true, "notAfter": "1970-04-12T13:46:40Z", "renewAt": "1970-03-13T13:46:40Z",
        "next": {"at": "1970-03-13T13:46:40Z", "step": "order", "because": "by its life"},
        "preflight": {"holds": [], "warnings": [], "at": "1970-01-12T13:46:28Z"},
        "seen": [sight("gateway-1", true, "")]});
    for (key, value) in fields.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let issuer = AcmeIssuer {
        name: "letsencrypt".into(),
        directory: "https://acme.example/d".into(),
        account: Some("https://acme.example/a/1".into()),
        ..AcmeIssuer::default()
    };
    let served = whole["served"] == true;
    let mut why = Why {
        host: "app.example.com".into(),
        served: Some(host(json!({"served": served, "names": ["app.example.com"], "issuer": "R11"}))),
        certificate: Some(certificate(&whole)),
        issuer: Some(issuer),
        addresses: Addresses {
            here: Some(vec!["192.0.2.1".parse().unwrap()]),
            here_fault: None,
            edge: vec!["192.0.2.1".into()],
        },
        leads: true,
        ..Why::default()
    };
    why.problems = problems(&why);
    why
}

fn sight(by: &str, saw: bool, why: &str) -> Value {
    json!({"by": by, "at": "1970-01-12T13:46:28Z", "saw": saw, "why": why})
}

fn said(why: &Why) -> String {
    text(Output::to_stdout(Format::Table), why, now())
}

#[test]
fn a_host_that_is_served_is_explained_from_its_owner_to_its_renewal_and_is_fine() {
    let why = why(json!({}));
    assert_eq!(why.problems, [""; 0]);
    let text = said(&why);
    let mut rest = text.as_str();
    for part in [
        "Owner        namespace shop: namespace shop has it",
        "Ingress      shop/web",
        "Refused      thief/web",
        "Certificate  served, until 1970-04-12T13:46:40Z (90d left)",
        "Issuer       letsencrypt, https://acme.example/d, account https://acme.example/a/1",
        "Challenge    http-01",
        "Addresses    192.0.2.1, seen from this machine; the edge is at 192.0.2.1",
        "DNS          nothing against an order (asked 12s ago)",
        "CAA          nothing against an order",
        "Seen by      ok gateway-1, 12s ago",
        "Failures     none since the last certificate",
        "Limits       the CA said none",
        "Next         in 60d: order, by its life",
    ] {
        let at =
            rest.find(part).unwrap_or_else(|| panic!("{part} is not there, or not in its place:\n{text}"));
        rest = &rest[at..];
    }
    assert!(!text.contains("To fix"), "{text}");
}

#[test]
fn what_the_ca_said_is_shown_in_its_own_words_with_what_to_do_and_when_it_is_tried_again() {
    let names = json!([{"name": "app.example.com", "type": "connection", "detail": "192.0.2.1: refused"}]);
    let why = why(json!({"served": false, "notAfter": null, "retryAfter": "1970-01-12T14:46:40Z",
        "failures": [failure("1970-01-12T13:34:40Z", "the order failed", &names)],
        "seen": [sight("gateway-1", true, ""), sight("gateway-2", false, "silent for 5s")],
        "next": {"at": "1970-01-12T14:46:40Z", "step": "order", "because": "the CA's Retry-After"}}));
    assert_eq!(why.problems, ["app.example.com has no certificate yet: the order failed"]);
    let text = said(&why);
    for part in [
        "failed; until there is one, HTTPS fails and plaintext gets 503",
        "12m ago: the order failed",
        "\"invalid authorizations\" (unauthorized)",
        "app.example.com: \"192.0.2.1: refused\" (connection)",
        "To do        the CA reached nobody: port 80",
        "FAIL gateway-2: silent for 5s",
        "until 1970-01-12T14:46:40Z (in 1h)",
        "in 1h: order, the CA's Retry-After",
        "To fix:",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn what_dns_holds_against_an_order_and_what_it_only_warns_of_stand_apart_from_caa() {
    let why = why(json!({"served": false, "heldBack": "CAA of example.com lets nobody certify it",
        "preflight": {"holds": ["CAA of example.com lets nobody certify it"], "warnings": ["app.example.com is elsewhere"],
            "at": "1970-01-12T13:46:28Z"}}));
    let text = said(&why);
    assert!(text.contains("DNS          app.example.com is elsewhere"), "{text}");
    assert!(text.contains("CAA          CAA of example.com lets nobody"), "{text}");
    assert!(text.contains("Next         nothing is ordered: CAA of example.com"), "{text}");
    assert_eq!(why.problems.len(), 1);
}

#[test]
fn a_host_that_no_ca_is_asked_for_says_what_to_write_unless_it_has_a_certificate_all_the_same() {
    let of = |served: Option<HostAnswer>| {
        let why = Why { host: "app.example.com".into(), served, leads: true, ..Why::default() };
        problems(&why)
    };
    assert!(of(None)[0].contains("no Ingress of class signet asks for app.example.com"));
    assert!(of(Some(host(json!(null))))[0].contains("kubernetes.io/tls-acme"));
    let secret = |served: bool, why: Option<&str>| json!({"served": served, "secret": "shop/web-tls", "names": [], "why": why});
    assert!(
        of(Some(host(secret(false, Some("there is no Secret")))))[0]
            .contains("there is no Secret; a CA is asked where")
    );
    assert_eq!(of(Some(host(secret(true, None)))), [""; 0]);
    assert_eq!(
        of(Some(host(secret(true, Some("its key is another's"))))),
        ["its key is another's; meanwhile that of Secret shop/web-tls is served"]
    );
    assert_eq!(of(Some(host(json!({"served": true, "names": []})))), [""; 0]);
}

#[test]
fn while_something_else_is_served_an_order_that_fails_is_told_and_nobody_hears_of_503() {
    let failing =
        json!({"served": false, "notAfter": null, "heldBack": "CAA of example.com lets nobody certify it"});
    let with = |current: Value| {
        let mut why = why(failing.clone());
        why.served = Some(host(current));
        why.problems = problems(&why);
        (said(&why), why.problems)
    };
    let old = json!({"served": true, "secret": "shop/web-tls", "acme": "0123", "names": [], "notAfter": "1970-02-12T13:46:40Z",
        "why": "Secret shop/web-tls is gone"});
    let (text, problems) = with(old);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(problems[0], "Secret shop/web-tls is gone");
    assert!(
        problems[1].contains("CAA of example.com") && problems[1].ends_with("until 1970-02-12T13:46:40Z")
    );
    assert!(text.contains("held back; meanwhile that of Secret shop/web-tls is served until"), "{text}");
    assert!(!text.contains("503") && !text.contains("comes before it"), "{text}");

    let edge_ca = json!({"served": true, "acme": "0123", "names": []});
    let (text, problems) = with(edge_ca);
    assert!(problems.len() == 1 && problems[0].ends_with("meanwhile another is served"), "{problems:?}");
    assert!(!text.contains("503"), "{text}");

    let own = json!({"served": true, "secret": "shop/web-tls", "names": []});
    let (text, problems) = with(own);
    assert_eq!(problems, [""; 0]);
    assert!(text.contains("Secret shop/web-tls comes before it"), "{text}");
    assert!(with(json!(null)).0.contains("503"));
}

#[test]
fn an_overdue_renewal_a_failing_issuer_and_a_missing_leader_are_each_something_to_fix() {
    let mut late = why(json!({"overdue": true, "trouble": "the CA does not answer"}));
    assert_eq!(late.problems, ["its renewal is overdue: the CA does not answer"]);
    late.leads = false;
    late.issuer.as_mut().unwrap().fault = Some("no such account".into());
    let problems = problems(&late);
    assert!(problems.iter().any(|problem| problem == "issuer letsencrypt: no such account"), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("no replica of edge orders")), "{problems:?}");
}
