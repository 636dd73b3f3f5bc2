use base64::Engine as _;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use signet_core::tls;

use super::*;

fn secret(chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> TlsSecret {
    TlsSecret {
        namespace: "shop".into(),
        name: "web".into(),
        r#type: "kubernetes.io/tls".into(),
        chain: chain.into(),
        key: Zeroizing::new(key.into()),
    }
}

fn checked(secret: &TlsSecret) -> Result<Arc<Checked>, Unusable> {
    check(secret, &tls::default_provider())
}

fn host(text: &str) -> HostPattern {
    HostPattern::ingress(Some(text)).unwrap()
}

/// PEM of a self-signed certificate and of its key.
fn pair(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> (String, KeyPair) {
    let params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    let key = KeyPair::generate_for(algorithm).unwrap();
    (params.self_signed(&key).unwrap().pem(), key)
}

#[test]
fn a_pair_that_belongs_together_is_taken_with_its_names_its_issuer_and_its_days() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "Test CA");
    let issuer = Issuer::new(ca, ca_key);
    let mut params =
        CertificateParams::new(vec!["Shop.Example.com".into(), "*.shop.example.com".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 4, 1);
    let key = KeyPair::generate().unwrap();
    let pem = params.signed_by(&key, &issuer).unwrap().pem();
    let good = checked(&secret(pem, key.serialize_pem())).unwrap();
    assert_eq!(good.names, [host("shop.example.com"), host("*.shop.example.com")]);
    assert_eq!(good.issuer, "Test CA");
    let (begin, end) = (1_767_225_600, 1_775_001_600);
    for (now, valid) in [(begin - 1, false), (begin, true), (end, true), (end + 1, false)] {
        assert_eq!(good.is_valid(now), valid, "{now}");
    }
    for (pattern, covered) in [
        ("shop.example.com", true),
        ("a.shop.example.com", true),
        ("*.shop.example.com", true),
        ("a.b.shop.example.com", false),
        ("*.example.com", false),
        ("example.com", false),
    ] {
        assert_eq!(good.covers(&host(pattern)), covered, "{pattern}");
    }
    assert!(!good.covers(&HostPattern::Any));
}

#[test]
fn keys_in_the_older_forms_are_the_same_keys() {
    for (algorithm, label) in
        [(&PKCS_ECDSA_P256_SHA256, "EC PRIVATE KEY"), (&PKCS_RSA_SHA256, "RSA PRIVATE KEY")]
    {
        let (chain, key) = pair(&["a.example"], algorithm);
        // PKCS#8 is SEQUENCE { version, algorithm, OCTET STRING { the older form } }.
        let whole = key.serialize_der();
        let (_, inside) = element(&whole).unwrap();
        let (version, _) = element(inside).unwrap();
        let (algorithm, _) = element(&inside[version.len()..]).unwrap();
        let (_, older) = element(&inside[version.len() + algorithm.len()..]).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(older);
        let pem = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
        let as_it_is = checked(&secret(chain.clone(), key.serialize_pem())).unwrap();
        let from_older = checked(&secret(chain, pem)).unwrap();
        assert_eq!(from_older.names, as_it_is.names, "{label}");
        assert!(
            matches(&tls::default_provider(), &from_older.chain, from_older.key.der().secret_pkcs8_der())
                .is_ok()
        );
    }
}

#[test]
fn whatever_is_wrong_is_named_and_never_served() {
    let (chain, key) = pair(&["a.example"], &PKCS_ECDSA_P256_SHA256);
    let (other, _) = pair(&["a.example"], &PKCS_ECDSA_P256_SHA256);
    let (nameless, nameless_key) = pair(&[], &PKCS_ECDSA_P256_SHA256);
    let key = key.serialize_pem();
    let long = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".repeat(11);
    let opaque = TlsSecret { r#type: "Opaque".into(), ..secret(chain.clone(), key.clone()) };
    for (case, secret, want) in [
        ("of another type", opaque, Unusable::Type("Opaque".into())),
        ("no chain", secret("", key.clone()), Unusable::Missing("tls.crt")),
        ("no key", secret(chain.clone(), ""), Unusable::Missing("tls.key")),
        ("no PEM", secret("hello", key.clone()), Unusable::NoChain),
        ("too many", secret(long, key.clone()), Unusable::NoChain),
        (
            "no certificate",
            secret("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", key.clone()),
            Unusable::NoLeaf,
        ),
        ("a certificate as key", secret(chain.clone(), chain.clone()), Unusable::NoKey),
        ("another's key", secret(other, key), Unusable::OtherKey),
        ("no names", secret(nameless, nameless_key.serialize_pem()), Unusable::NoNames),
    ] {
        assert_eq!(checked(&secret).unwrap_err(), want, "{case}");
    }
}

#[test]
fn a_megabyte_of_junk_costs_nothing() {
    let junk = "-----BEGIN CERTIFICATE-----\n".repeat(40_000);
    let began = std::time::Instant::now();
    assert!(matches!(checked(&secret(junk, "x")).unwrap_err(), Unusable::Long("tls.crt", _)));
    assert!(began.elapsed() < std::time::Duration::from_millis(50));
}

#[test]
fn nothing_shows_the_key() {
    let (chain, key) = pair(&["a.example"], &PKCS_ECDSA_P256_SHA256);
    let good = checked(&secret(chain, key.serialize_pem())).unwrap();
    let shown = format!("{good:?}");
    assert!(shown.contains("PrivateKey(..)"), "{shown}");
}
