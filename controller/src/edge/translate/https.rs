//! HTTPS: who is sent to it, who waits for it, and with which certificate.

use super::*;
use crate::edge::certificate::Unusable;

/// app.example, with a tls section that names Secret web-tls.
fn secured() -> Manifest {
    ingress("web")
        .with("/spec/rules", rules(&[("app.example", &["Prefix / a"])]))
        .with("/spec/tls", tls(&["app.example"], "web-tls"))
}

#[test]
fn a_host_with_a_tls_section_is_sent_to_https_once_there_is_a_certificate_and_waits_until_then() {
    let world = World::new().with(secured());
    let gateway = world.serve();
    assert_eq!((gateway.http("app.example/"), gateway.shown("app.example")), ("503".into(), None));
    let respond = gateway.0.https_hosts[0].unready.clone().unwrap();
    assert!(respond.retry_after.is_some());
    let gateway = world.certificate("shop", "web-tls", &["app.example"]).serve();
    assert_eq!((gateway.http("app.example/"), gateway.https("app.example/")), ("308".into(), "a".into()));
    assert_eq!((gateway.shown("app.example"), gateway.shown("other.example")), (Some("shop/web-tls"), None));
    assert!(gateway.findings("web").is_empty());
}

#[test]
fn each_reason_for_no_certificate_is_told_with_what_to_do() {
    for (trouble, word, words) in [
        (Trouble::Absent, Word::NoCertificate, "there is no Secret shop/web-tls"),
        (Trouble::NoRight, Word::MissingRight, "signet allow shop | kubectl apply -f -"),
        (Trouble::Unusable(Unusable::OtherKey), Word::NoCertificate, "not the key of the first certificate"),
        (Trouble::Unanswered("503".into()), Word::NoCertificate, "cannot be read: 503"),
    ] {
        let gateway = World::new().with(secured()).trouble("shop", "web-tls", trouble).serve();
        let (got, why) = gateway.findings("web").remove(0);
        assert!(got == word && why.contains(words), "{why}");
        assert_eq!((gateway.http("app.example/"), gateway.shown("app.example")), ("503".into(), None));
        assert!(
            gateway.host("app.example").certificate.as_ref().unwrap().why.as_ref().unwrap().contains(words)
        );
    }
    let gateway = World::new().with(secured()).certificate("shop", "web-tls", &["other.example"]).serve();
    assert!(gateway.findings("web")[0].1.contains("is for other.example, not for app.example"));
    assert!(gateway.0.certificates.is_empty(), "never for a name that nobody asked it for");
}

#[test]
fn what_was_good_is_served_on_beside_the_reason_why_it_is_not_the_newest() {
    let gateway = World::new()
        .with(secured())
        .certificate("shop", "web-tls", &["app.example"])
        .trouble("shop", "web-tls", Trouble::Absent)
        .serve();
    assert_eq!(
        (gateway.http("app.example/"), gateway.shown("app.example")),
        ("308".into(), Some("shop/web-tls"))
    );
    assert!(gateway.findings("web")[0].1.contains("the last good one"), "{:?}", gateway.findings("web"));
    // And two are presented where the new one covers less.
    let two = secured().with("/spec/tls", tls(&["app.example", "b.example"], "web-tls"));
    let gateway = World::new()
        .with(two)
        .certificate("shop", "web-tls", &["app.example", "b.example"])
        .certificate("shop", "web-tls", &["app.example"])
        .serve();
    assert_ne!(gateway.shown("app.example"), gateway.shown("b.example"));
    assert_eq!(gateway.0.certificates.len(), 2);
}

#[test]
fn a_certificate_that_expires_takes_the_host_back_to_waiting_and_the_moment_is_known() {
    let mut world = World::new().with(secured()).certificate("shop", "web-tls", &["app.example"]);
    assert_eq!(world.serve().0.due, Some(NOW + 1001));
    world.now = NOW + 1001;
    let gateway = world.serve();
    assert_eq!((gateway.http("app.example/"), gateway.shown("app.example")), ("503".into(), None));
}

#[test]
fn ssl_redirect_and_force_ssl_redirect_say_otherwise_for_their_own_ingress() {
    let annotated = |key: &str, value: &str, ingress: Manifest| {
        ingress.annotation(&format!("nginx.ingress.kubernetes.io/{key}"), value)
    };
    let good = World::new().certificate("shop", "web-tls", &["app.example"]);
    let gateway = good.clone().with(annotated("ssl-redirect", "false", secured())).serve();
    assert_eq!((gateway.http("app.example/"), gateway.https("app.example/")), ("a".into(), "a".into()));
    let plain = ingress("web").with("/spec/rules", rules(&[("app.example", &["Prefix / a"])]));
    let gateway = World::new().with(annotated("force-ssl-redirect", "true", plain.clone())).serve();
    assert_eq!(gateway.http("app.example/"), "308");
    assert_eq!(World::new().with(plain).serve().http("app.example/"), "a");
}

#[test]
fn a_tls_section_without_hosts_is_for_all_hosts_of_the_rules() {
    let web = ingress("web")
        .with("/spec/rules", rules(&[("a.example", &["Prefix / a"]), ("b.test", &["Prefix / b"])]))
        .with("/spec/tls", json!([{"secretName": "web-tls"}]));
    let gateway = World::new().with(web).certificate("shop", "web-tls", &["*.example"]).serve();
    assert_eq!((gateway.shown("a.example"), gateway.shown("b.test")), (Some("shop/web-tls"), None));
    assert_eq!((gateway.http("a.example/"), gateway.http("b.test/")), ("308".into(), "503".into()));
    assert_eq!(gateway.shown("c.example"), None, "though the certificate covers it");
}

#[test]
fn an_annotation_that_asks_for_a_certificate_waits_for_one() {
    let web = ingress("web")
        .with("/spec/rules", rules(&[("app.example", &["Prefix / a"])]))
        .annotation("kubernetes.io/tls-acme", "true");
    let gateway = World::new().with(web).serve();
    assert_eq!(
        (gateway.http("app.example/"), gateway.words("web")),
        ("503".into(), vec![Word::NoCertificate])
    );
}

#[test]
fn a_default_certificate_is_shown_where_no_other_fits_and_makes_its_own_hosts_ready() {
    let mut world = World::new()
        .with(secured().with("/spec/tls", json!([{"hosts": ["app.example"]}])))
        .certificate("ops", "wild", &["*.example"]);
    let gateway = world.serve();
    assert_eq!((gateway.http("app.example/"), gateway.shown("app.example")), ("503".into(), None));
    world.default_certificate = Some(("ops".into(), "wild".into()));
    let gateway = world.serve();
    assert_eq!(
        (gateway.http("app.example/"), gateway.shown("app.example")),
        ("308".into(), Some("ops/wild"))
    );
    assert_eq!(gateway.shown("else.where"), Some("ops/wild"));
    assert_eq!(gateway.0.certificates.len(), 1);
}

#[test]
fn anothers_wildcard_sends_no_host_of_ours_to_https() {
    let wide = ingress("wide")
        .in_namespace("bank")
        .with("/metadata/creationTimestamp", "2026-05-05T00:00:00Z")
        .with("/spec/rules", rules(&[("*.example", &["Prefix / a"])]))
        .with("/spec/tls", tls(&["*.example"], "wide-tls"));
    let plain = ingress("web").with("/spec/rules", rules(&[("app.example", &["Prefix / a"])]));
    let gateway = World::new().with(wide).with(plain).certificate("bank", "wide-tls", &["*.example"]).serve();
    assert_eq!((gateway.http("app.example/"), gateway.http("other.example/")), ("a".into(), "308".into()));
}

#[test]
fn of_two_certificates_for_one_host_the_older_ingresss_is_shown_if_it_can_be() {
    let second = ingress("second")
        .with("/metadata/creationTimestamp", "2026-05-05T00:00:00Z")
        .with("/spec/rules", rules(&[("app.example", &["Prefix /b b"])]))
        .with("/spec/tls", tls(&["app.example"], "second-tls"));
    let both = World::new().with(secured()).with(second).certificate("shop", "second-tls", &["app.example"]);
    assert_eq!(both.serve().shown("app.example"), Some("shop/second-tls"), "there is no other");
    let both = both.certificate("shop", "web-tls", &["app.example"]);
    assert_eq!(both.serve().shown("app.example"), Some("shop/web-tls"));
    assert_eq!(both.serve().0.certificates.len(), 1);
}
