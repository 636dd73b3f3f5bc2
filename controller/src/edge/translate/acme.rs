//! Certificates of ACME authorities: which are to be ordered, and which host is served with which.

use signet_acme::{
    issuer::{LETS_ENCRYPT, LETS_ENCRYPT_STAGING},
    names::NameSet,
    order::Kind,
    problem::Problem,
    record::{Failure, Held, Record},
    secret::Secret,
};

use super::*;
use crate::edge::acme::issuers::{BuiltIn, Issuers};

impl World {
    fn with_authority(mut self) -> Self {
        let built_in = BuiltIn::new(Some("ops@shop.example"), None, None, None, None).unwrap();
        self.acme.issuers = Arc::new(Issuers::new(&built_in, None));
        self
    }

    fn holding(mut self, record: Record) -> Self {
        self.acme.records.take(Arc::new(record), &tls::default_provider());
        self
    }
}

fn id(names: &[&str]) -> String {
    NameSet::new(names).unwrap().id()
}

/// With a good certificate, for 2000 s around now.
fn record(names: &[&str], directory: &str) -> Record {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    let (not_before, not_after) = (NOW - 500, NOW + 1500);
    params.not_before = time::OffsetDateTime::from_unix_timestamp(not_before).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(not_after).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut record = Record::new(NameSet::new(names).unwrap());
    record.held = Some(Held {
        directory: directory.into(),
        chain: params.self_signed(&key).unwrap().pem(),
        key: Secret::new(Zeroizing::new(key.serialize_pem())),
        not_before,
        not_after,
        since: not_before,
        ari_id: None,
        replaced: false,
        window: None,
        ask_window: None,
    });
    record
}

/// app.example with a tls section that names a Secret, and these annotations.
fn asking(annotations: &[(&str, &str)]) -> Manifest {
    let web = ingress("web")
        .with("/spec/rules", rules(&[("app.example", &["Prefix / a"])]))
        .with("/spec/tls", tls(&["app.example"], "web-tls"));
    annotations.iter().fold(web, |web, (key, value)| web.annotation(key, value))
}

/// What is to be ordered: names, issuer's directory, challenge.
fn orders(gateway: &Gateway) -> Vec<(String, String, Kind)> {
    let all = gateway.0.acme.certificates.values();
    let mut all: Vec<_> = all.map(|a| (a.names.to_string(), a.issuer.directory.clone(), a.kind)).collect();
    all.sort();
    all
}

const ASK: (&str, &str) = ("kubernetes.io/tls-acme", "true");

#[test]
fn annotations_of_every_year_have_a_certificate_ordered_and_none_without() {
    let staging = LETS_ENCRYPT_STAGING;
    for (annotations, want) in [
        (&[][..], None),
        (&[ASK], Some((LETS_ENCRYPT, Kind::Http01))),
        (&[("cert-manager.io/cluster-issuer", "letsencrypt-prod")], Some((LETS_ENCRYPT, Kind::Http01))),
        (&[("cert-manager.io/issuer", "le-staging")], Some((staging, Kind::Http01))),
        (
            &[("certmanager.k8s.io/issuer", "le"), ("certmanager.k8s.io/acme-challenge-type", "dns01")],
            Some((LETS_ENCRYPT, Kind::Dns01)),
        ),
        (&[ASK, ("signet.dev/acme-challenge", "tls-alpn-01")], Some((LETS_ENCRYPT, Kind::TlsAlpn01))),
        (&[ASK, ("signet.dev/edge-issuer", "local")], None),
        (&[ASK, ("signet.dev/edge-issuer", "none")], None),
        (&[ASK, ("nginx.ingress.kubernetes.io/auth-url", "x")], None),
    ] {
        let world = World::new().with_authority().with(asking(annotations));
        let gateway = world.trouble("shop", "web-tls", Trouble::Absent).serve();
        let want = want.map(|(directory, kind)| ("app.example".to_owned(), directory.to_owned(), kind));
        assert_eq!(orders(&gateway), want.into_iter().collect::<Vec<_>>(), "{annotations:?}");
    }
}

#[test]
fn one_certificate_for_each_tls_entry_and_for_each_other_host() {
    let web = ingress("web")
        .with("/spec/rules", rules(&[("a.example", &["Prefix / a"]), ("lone.example", &["Prefix / a"])]))
        .with(
            "/spec/tls",
            json!([{"hosts": ["a.example", "b.example"]}, {"hosts": ["*.w.example"], "secretName": "w"}]),
        )
        .annotation(ASK.0, ASK.1);
    let gateway = World::new().with_authority().with(web).trouble("shop", "w", Trouble::Absent).serve();
    let le = LETS_ENCRYPT.to_owned();
    assert_eq!(
        orders(&gateway),
        [
            ("*.w.example".to_owned(), le.clone(), Kind::Dns01),
            ("a.example, b.example".to_owned(), le.clone(), Kind::Http01),
            ("lone.example".to_owned(), le, Kind::Http01),
        ]
    );
}

#[test]
fn a_wildcard_by_http_01_is_refused_and_a_secret_beside_an_issuer_that_is_not_asked_is_no_double() {
    let wild = ingress("web")
        .with("/spec/rules", rules(&[("*.w.example", &["Prefix / a"])]))
        .annotation(ASK.0, ASK.1)
        .annotation("signet.dev/acme-challenge", "http-01");
    let gateway = World::new().with_authority().with(wild).serve();
    assert_eq!(orders(&gateway), []);
    let findings = gateway.findings("web");
    assert!(findings[0].0 == Word::NoCertificate && findings[0].1.contains("dns-01 only"), "{findings:?}");
    let built_in = BuiltIn::new(None, None, None, None, None).unwrap();
    let of_a_ca = json!({ "metadata": { "name": "ca", "namespace": "shop" }, "spec": { "ca": {} } });
    let mut world = World::new().with(asking(&[("cert-manager.io/issuer", "ca")]));
    world.acme.issuers = Arc::new(Issuers::new(&built_in, Some(&[of_a_ca])));
    let gateway = world.certificate("shop", "web-tls", &["app.example"]).serve();
    assert_eq!((gateway.shown("app.example"), gateway.findings("web")), (Some("shop/web-tls"), vec![]));
}

#[test]
fn a_host_of_another_namespace_gets_no_certificate_here() {
    let thief = ingress("thief")
        .in_namespace("bank")
        .with("/metadata/creationTimestamp", "2026-06-01T00:00:00Z")
        .with("/spec/rules", rules(&[("app.example", &["Prefix / a"]), ("bank.example", &["Prefix / a"])]))
        .with("/spec/tls", tls(&["app.example", "bank.example"], "x"))
        .annotation(ASK.0, ASK.1);
    let world = World::new().with_authority().with(asking(&[])).with(thief);
    let gateway = world.trouble("bank", "x", Trouble::Absent).serve();
    let names: Vec<String> = orders(&gateway).into_iter().map(|(names, ..)| names).collect();
    assert_eq!(names, ["bank.example"]);
    assert_eq!(gateway.0.acme.certificates[&id(&["bank.example"])].namespace, "bank");
}

#[test]
fn what_is_held_is_presented_and_the_secret_need_not_exist_nor_be_readable() {
    for trouble in [Trouble::Absent, Trouble::NoRight] {
        let world = World::new().with_authority().with(asking(&[ASK])).trouble("shop", "web-tls", trouble);
        let gateway = world.serve();
        let host = gateway.host("app.example").certificate.clone().unwrap();
        assert_eq!((host.served, host.acme.as_deref()), (false, Some(&*id(&["app.example"]))));
        assert_eq!(gateway.findings("web")[0].0, Word::BeingOrdered, "{:?}", gateway.findings("web"));
        let gateway = world.holding(record(&["app.example"], LETS_ENCRYPT)).serve();
        let shown = format!("acme/{}", id(&["app.example"]));
        assert_eq!(gateway.shown("app.example"), Some(shown.as_str()));
        assert_eq!((gateway.http("app.example/"), gateway.findings("web")), ("308".into(), vec![]));
    }
}

#[test]
fn a_secret_of_the_users_comes_first_and_is_told_until_nobody_renews_it() {
    let mut world = World::new()
        .with_authority()
        .with(asking(&[ASK]))
        .certificate("shop", "web-tls", &["app.example"])
        .holding(record(&["app.example"], LETS_ENCRYPT));
    let gateway = world.serve();
    assert_eq!((gateway.shown("app.example"), orders(&gateway).len()), (Some("shop/web-tls"), 0));
    let findings = gateway.findings("web");
    assert!(findings[0].0 == Word::SecretFirst && findings[0].1.contains("shop/web-tls"), "{findings:?}");
    world.now = NOW + 700; // less than a sixth of 2000 s is left
    let gateway = world.serve();
    assert_eq!((gateway.shown("app.example"), orders(&gateway).len()), (Some("shop/web-tls"), 1));
    world.now = NOW + 1001;
    let shown = format!("acme/{}", id(&["app.example"]));
    assert_eq!(world.serve().shown("app.example"), Some(shown.as_str()));
    // Deleted, it holds nothing back, and is served until there is another.
    let deleted =
        World::new().with_authority().with(asking(&[ASK])).certificate("shop", "web-tls", &["app.example"]);
    let deleted = deleted.trouble("shop", "web-tls", Trouble::Absent);
    let gateway = deleted.serve();
    assert_eq!((gateway.shown("app.example"), orders(&gateway).len()), (Some("shop/web-tls"), 1));
    let gateway = deleted.holding(record(&["app.example"], LETS_ENCRYPT)).serve();
    assert_eq!((gateway.shown("app.example"), gateway.findings("web")), (Some(shown.as_str()), vec![]));
    // A Secret that is for another host is none that holds anything back.
    let other =
        World::new().with_authority().with(asking(&[ASK])).certificate("shop", "web-tls", &["b.example"]);
    assert_eq!(orders(&other.serve()).len(), 1);
}

#[test]
fn without_an_authority_it_is_said_what_to_do() {
    let gateway = World::new().with(asking(&[ASK])).trouble("shop", "web-tls", Trouble::Absent).serve();
    let findings = gateway.findings("web");
    assert!(findings[0].1.contains("signet install --acme-email"), "{findings:?}");
    assert!(findings[0].1.contains("there is no Secret shop/web-tls"), "{findings:?}");
}

#[test]
fn why_it_is_missing_fails_or_ends_is_told_to_its_ingress() {
    let failed = |mut record: Record| {
        let problem = Problem { kind: Some("dns".into()), ..Problem::ours("no such host") };
        record.failures.push(Failure { at: NOW, rehearsal: false, directory: LETS_ENCRYPT.into(), problem });
        record
    };
    let world =
        || World::new().with_authority().with(asking(&[ASK])).trouble("shop", "web-tls", Trouble::Absent);
    let empty = Record::new(NameSet::new(["app.example"]).unwrap());
    let findings = world().holding(failed(empty)).serve().findings("web");
    assert!(findings[0].0 == Word::NoCertificate && findings[0].1.contains("no such host"), "{findings:?}");
    let mut world = world().holding(failed(record(&["app.example"], LETS_ENCRYPT)));
    let findings = world.serve().findings("web");
    assert!(findings[0].0 == Word::OrderFailed && findings[0].1.contains("no such host"), "{findings:?}");
    world.now = NOW + 501; // less than half of 2000 s is left
    let findings = world.serve().findings("web");
    assert!(findings[0].0 == Word::NotRenewed && findings[0].1.contains("no such host"), "{findings:?}");
    assert_eq!(World { now: NOW + 500, ..world.clone() }.serve().0.due, Some(NOW + 501));
    world.acme.held_back.insert(id(&["app.example"]), "NXDOMAIN".into());
    assert!(world.serve().findings("web")[0].1.contains("NXDOMAIN"));
}

#[test]
fn what_is_of_a_staging_environment_is_served_and_told() {
    let asking = asking(&[("cert-manager.io/cluster-issuer", "staging")]);
    let world = World::new().with_authority().with(asking).trouble("shop", "web-tls", Trouble::Absent);
    let gateway = world.holding(record(&["app.example"], LETS_ENCRYPT_STAGING)).serve();
    assert!(gateway.host("app.example").certificate.as_ref().unwrap().staging);
    assert_eq!(gateway.findings("web")[0].0, Word::StagingCertificate);
}

#[test]
fn what_was_ordered_with_other_hosts_is_good_until_it_ends_but_never_beside_another_namespaces_host() {
    let world =
        World::new().with_authority().with(asking(&[ASK])).trouble("shop", "web-tls", Trouble::Absent);
    let gateway = world.clone().holding(record(&["app.example", "old.example"], LETS_ENCRYPT)).serve();
    let shown = format!("acme/{}", id(&["app.example", "old.example"]));
    assert_eq!(gateway.shown("app.example"), Some(shown.as_str()));
    let of_bank =
        ingress("bank").in_namespace("bank").with("/spec/rules", rules(&[("old.example", &["Prefix / a"])]));
    let gateway = world.with(of_bank).holding(record(&["app.example", "old.example"], LETS_ENCRYPT)).serve();
    assert_eq!(gateway.shown("app.example"), None);
}

#[test]
fn two_ingresses_of_one_certificate_are_one_order_and_the_younger_is_told_where_they_differ() {
    let second = ingress("second")
        .with("/metadata/creationTimestamp", "2026-02-01T00:00:00Z")
        .with("/spec/rules", rules(&[("app.example", &["Prefix /x b"])]))
        .with("/spec/tls", tls(&["app.example"], "web-tls"))
        .annotation("cert-manager.io/issuer", "staging");
    let world = World::new().with_authority().with(asking(&[ASK])).with(second);
    let gateway = world.trouble("shop", "web-tls", Trouble::Absent).serve();
    assert_eq!(orders(&gateway), [("app.example".to_owned(), LETS_ENCRYPT.to_owned(), Kind::Http01)]);
    let asked = &gateway.0.acme.certificates[&id(&["app.example"])];
    assert_eq!(asked.ingresses.len(), 2);
    let findings = gateway.findings("second");
    assert!(
        findings.iter().any(|(word, why)| *word == Word::NotHonoured && why.contains("web")),
        "{findings:?}"
    );
}
