use rustls::{CipherSuite, SignatureScheme};
use signet_core::tls::default_provider;

use super::*;
use crate::pki_for_tests::{certificate, rsa_certificate};

const EVERYTHING: Offer<'_> = Offer {
    schemes: &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256],
    suites: &[CipherSuite::TLS13_AES_128_GCM_SHA256],
};

fn listener(name: &str, port: u16, scheme: Scheme) -> Arc<Listener> {
    let (name, hosts) = (name.into(), HostPattern::Any);
    Arc::new(Listener { name, port, public_port: 443, scheme, hosts })
}

fn listeners() -> Vec<Arc<Listener>> {
    vec![
        listener("https", 8443, Scheme::Https),
        listener("http", 8080, Scheme::Http),
        listener("other", 9443, Scheme::Https),
    ]
}

fn certified(certificate: Certificate) -> Arc<Certified> {
    Arc::new(Certified::new(certificate).unwrap())
}

fn build(certificates: &[Arc<Certified>], before: &Certificates) -> Certificates {
    let provider = edge_tls::edge_provider(default_provider());
    Certificates::new(&listeners(), certificates, before, &provider).unwrap()
}

fn name(presented: Option<&Arc<Presented>>) -> Option<&str> {
    presented.map(|presented| &*presented.certified.name)
}

#[test]
fn the_most_specific_name_decides_and_no_name_is_no_certificate() {
    let all = [
        certified(certificate("a/exact", &["https"], &["app.example.com"])),
        certified(certificate("b/wild", &["https"], &["*.example.com", "example.com"])),
        certified(certificate("c/other", &["other"], &["other.example"])),
        certified(certificate("d/http", &["http"], &["plain.example"])),
    ];
    let certificates = build(&all, &Certificates::default());
    for (port, sni, want) in [
        (8443, Some("app.example.com"), Some("a/exact")),
        (8443, Some("x.example.com"), Some("b/wild")),
        (8443, Some("y.x.example.com"), None),
        (8443, Some("example.com"), Some("b/wild")),
        (8443, Some("other.example"), None),
        (9443, Some("other.example"), Some("c/other")),
        (9443, Some("app.example.com"), None),
        (8080, Some("plain.example"), None),
        (8443, None, None),
        (8443, Some("com"), None),
    ] {
        assert_eq!(name(certificates.choose(port, sni, &EVERYTHING)), want, "{port} {sni:?}");
    }
}

#[test]
fn the_default_certificate_is_for_unknown_names_and_for_none() {
    let all = [
        certified(certificate("a/exact", &["https"], &["app.example.com"])),
        certified(Certificate { default: true, ..certificate("b/default", &["https"], &["d.example"]) }),
    ];
    let certificates = build(&all, &Certificates::default());
    for (port, sni, want) in [
        (8443, Some("app.example.com"), Some("a/exact")),
        (8443, Some("stranger.example"), Some("b/default")),
        (8443, None, Some("b/default")),
        (9443, None, None),
    ] {
        assert_eq!(name(certificates.choose(port, sni, &EVERYTHING)), want, "{port} {sni:?}");
    }
}

#[test]
fn of_two_for_a_name_the_client_gets_one_that_it_can_verify() {
    let all = [
        certified(rsa_certificate("a/rsa", &["https"], &["app.example.com"])),
        certified(certificate("b/ecdsa", &["https"], &["app.example.com"])),
        certified(certificate("c/ecdsa", &["https"], &["app.example.com"])),
    ];
    let certificates = build(&all, &Certificates::default());
    let rsa_schemes = [SignatureScheme::RSA_PSS_SHA256];
    let rsa_only = Offer { schemes: &rsa_schemes, suites: EVERYTHING.suites };
    let old =
        Offer { schemes: EVERYTHING.schemes, suites: &[CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256] };
    for (offer, want) in [(&EVERYTHING, "b/ecdsa"), (&rsa_only, "a/rsa"), (&old, "a/rsa")] {
        assert_eq!(name(certificates.choose(8443, Some("app.example.com"), offer)), Some(want));
    }
}

#[test]
fn a_host_that_another_certificate_has_is_misdirected_and_one_that_none_has_is_not() {
    let (a, wild) = (
        certified(certificate("a", &["https"], &["a.example.com"])),
        certified(certificate("wild", &["https"], &["*.example.com"])),
    );
    let certificates = build(&[Arc::clone(&a), Arc::clone(&wild)], &Certificates::default());
    for (presented, host, want) in [
        (&a, "a.example.com", false),
        (&a, "b.example.com", true),
        (&a, "nobody.test", false),
        (&wild, "b.example.com", false),
        // Its names have it: a browser that reuses the connection is right to.
        (&wild, "a.example.com", false),
    ] {
        assert_eq!(certificates.is_misdirected(8443, presented, host), want, "{} {host}", presented.name);
    }
}

#[test]
fn what_has_not_changed_keeps_its_sessions_and_what_has_changed_does_not() {
    let (kept, old) = (
        certified(certificate("kept", &["https", "other"], &["kept.example"])),
        certified(certificate("renewed", &["https"], &["renewed.example"])),
    );
    let before = build(&[Arc::clone(&kept), old], &Certificates::default());
    let after = build(&[kept, certified(certificate("renewed", &["https"], &["renewed.example"]))], &before);
    let config = |certificates: &Certificates, port, name: &str| {
        Arc::clone(&certificates.choose(port, Some(name), &EVERYTHING).unwrap().config)
    };
    assert!(Arc::ptr_eq(&config(&before, 8443, "kept.example"), &config(&after, 8443, "kept.example")));
    assert!(!Arc::ptr_eq(
        &config(&before, 8443, "renewed.example"),
        &config(&after, 8443, "renewed.example")
    ));
    assert!(
        !Arc::ptr_eq(&config(&after, 8443, "kept.example"), &config(&after, 9443, "kept.example")),
        "two listeners share no session"
    );
}

#[test]
fn a_key_of_another_certificate_is_refused_and_nothing_shows_a_key() {
    let (mut a, b) =
        (certificate("a", &["https"], &["a.example"]), certificate("b", &["https"], &["b.example"]));
    let good = Certified::new(a.clone()).unwrap();
    assert_eq!((good.facts.key, &*good.facts.names), ("ECDSA", &["a.example".to_owned()][..]));
    assert!(good.facts.not_after > good.facts.not_before);
    assert!(!format!("{good:?} {a:?}").contains("48, 129"), "no DER of a key");
    a.key = b.key;
    assert!(Certified::new(a.clone()).unwrap_err().contains("do not make a pair"));
    a.chain = vec![b"junk".to_vec().into()];
    assert!(Certified::new(a.clone()).unwrap_err().contains("no certificate"));
}
