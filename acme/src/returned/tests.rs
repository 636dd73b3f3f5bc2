use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    SanType,
};
use time::OffsetDateTime;

use super::*;

const NOW: i64 = 1_800_000_000;

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { pem, issuer: Issuer::new(params, key) }
}

fn leaf(names: &[&str]) -> CertificateParams {
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.not_before = OffsetDateTime::from_unix_timestamp(NOW - 3600).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(NOW + 86400).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn names() -> NameSet {
    NameSet::new(["a.example.com", "*.b.example.com"]).unwrap()
}

#[test]
fn a_good_chain_is_taken_with_its_dates_and_its_ari_id_and_nothing_around_it() {
    let (ca, key) = (ca("ca"), KeyPair::generate().unwrap());
    let certificate = leaf(&["*.b.example.com", "A.example.com"]).signed_by(&key, &ca.issuer).unwrap();
    let pem = format!("a note\n{}\n{}", certificate.pem(), ca.pem);
    let returned = check(&pem, &key, &names(), NOW).unwrap();
    assert_eq!((returned.not_before, returned.not_after), (NOW - 3600, NOW + 86400));
    assert!(!returned.chain.contains("a note"));
    let again = CertificateDer::pem_slice_iter(returned.chain.as_bytes()).count();
    assert_eq!(again, 2);
    let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
    let (key_id, serial) = returned.ari_id.as_deref().unwrap().split_once('.').unwrap();
    assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(serial).unwrap(), parsed.raw_serial());
    assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(key_id).unwrap().len(), 20);
}

#[test]
fn what_was_not_asked_for_is_refused_and_the_reason_said() {
    let (ca, other, key) = (ca("ca"), ca("other"), KeyPair::generate().unwrap());
    let stranger = KeyPair::generate().unwrap();
    let both = ["a.example.com", "*.b.example.com"];
    let signed = |params: CertificateParams| params.signed_by(&key, &ca.issuer).unwrap().pem();
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = leaf(&both);
        change(&mut params);
        signed(params)
    };
    let good = signed(leaf(&both));
    let date = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    type Is = fn(&NotOurs) -> bool;
    let cases: Vec<(&str, String, Is)> = vec![
        ("nothing", String::new(), |e| matches!(e, NotOurs::Chain)),
        ("no PEM", "certificate".into(), |e| matches!(e, NotOurs::Chain)),
        ("cut off", good[..good.len() / 2].to_owned(), |e| matches!(e, NotOurs::Chain)),
        ("10 MB", "x".repeat(10 << 20), |e| matches!(e, NotOurs::Long(_))),
        ("too many", good.clone() + &ca.pem.repeat(10), |e| matches!(e, NotOurs::Chain)),
        ("another key", leaf(&both).signed_by(&stranger, &ca.issuer).unwrap().pem(), |e| *e == NotOurs::Key),
        ("one name less", signed(leaf(&both[..1])), |e| matches!(e, NotOurs::Names { .. })),
        ("one name more", signed(leaf(&[both[0], both[1], "c.example.com"])), |e| {
            matches!(e, NotOurs::Names { .. })
        }),
        (
            "an address, too",
            with(|p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()))),
            |e| matches!(e, NotOurs::Names { .. }),
        ),
        ("expired", with(|p| p.not_after = OffsetDateTime::from_unix_timestamp(NOW).unwrap()), |e| {
            matches!(e, NotOurs::Validity { .. })
        }),
        (
            "of tomorrow",
            with(|p| p.not_before = OffsetDateTime::from_unix_timestamp(NOW + 301).unwrap()),
            |e| matches!(e, NotOurs::Validity { .. }),
        ),
        ("a CA", with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), |e| *e == NotOurs::LeafIsCa),
        ("for clients", with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]), |e| {
            *e == NotOurs::Usage
        }),
        ("another's chain", good.clone() + &other.pem, |e| *e == NotOurs::Order(1)),
        ("CA first", ca.pem.clone() + &good, |e| *e == NotOurs::LeafIsCa),
    ];
    for (case, pem, is) in cases {
        let error = check(&pem, &key, &names(), NOW).expect_err(case);
        assert!(is(&error), "{case}: {error}");
    }
    let early = {
        let mut p = leaf(&both);
        p.not_before = date(NOW + 299);
        signed(p)
    };
    assert_eq!(check(&early, &key, &names(), NOW).unwrap().not_before, NOW, "valid for us from now on");
}
