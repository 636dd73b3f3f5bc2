//! What is taken, and what is refused by which name.

use super::*;
use crate::state::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SignatureAlgorithm,
};
use signet_core::{identity::TrustDomain, tls};
use time::OffsetDateTime;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// A signing certificate of the user's.
pub(crate) struct Signing {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Signing {
    pub(crate) fn root(name: &str) -> Self {
        Self::self_signed(ca(name))
    }

    fn self_signed(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self::new(der, key)
    }

    /// An intermediate of this one.
    pub(crate) fn below(&self, params: CertificateParams) -> Self {
        self.below_with(params, KeyPair::generate().unwrap())
    }

    fn below_with(&self, params: CertificateParams, key: KeyPair) -> Self {
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self::new(der, key)
    }

    fn new(der: CertificateDer<'static>, key: KeyPair) -> Self {
        let pem = key.serialize_pem();
        Self { issuer: rcgen::Issuer::from_ca_cert_der(&der, key).unwrap(), der, key: pem }
    }

    pub(crate) fn id(&self) -> String {
        root_id(&self.der)
    }

    /// An intermediate with these params, as a user offers it.
    pub(crate) fn offer(&self, params: CertificateParams) -> Offer {
        offer(&[&self.below(params)], self)
    }
}

/// `path`: the intermediate first.
pub(crate) fn offer(path: &[&Signing], root: &Signing) -> Offer {
    Offer {
        chain: path.iter().map(|one| certificate_pem(&one.der)).collect::<String>().into(),
        key: Secret::new(path[0].key.clone().into()),
        root: certificate_pem(&root.der).into(),
    }
}

/// A CA that may do everything, from yesterday for a year.
pub(crate) fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (at(NOW - DAY), at(NOW + 365 * DAY));
    params
}

pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = ca(name);
    change(&mut params);
    params
}

pub(crate) fn path_length(length: u8) -> impl Fn(&mut CertificateParams) {
    move |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length))
}

pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

fn settings(domain: &str) -> Settings {
    let domain = TrustDomain::new(domain).unwrap();
    Settings { domain, root_life: 3650 * DAY, intermediate_life: 30 * DAY, leaf_life: DAY }
}

fn check(offer: &Offer) -> Result<Brought, Refused> {
    Brought::check(offer, &settings("prod.example"), &[], &tls::mesh_provider(tls::default_provider()), NOW)
}

/// How many certificates follow the leaf, and whether the first of them is ours.
fn shape(offer: &Offer) -> (usize, bool) {
    let brought = check(offer).unwrap();
    let random = tls::default_provider().secure_random;
    let signer = brought.signer(&settings("prod.example"), random, NOW).unwrap();
    (signer.above.len(), signer.issuer.serial != brought.issuer.serial)
}

#[test]
fn below_what_leaves_room_an_intermediate_of_ours_signs_and_below_what_leaves_none_the_users_own() {
    let root = Signing::root("root");
    let middle = root.below(ca("middle"));
    let lower = middle.below(ca("lower"));
    for (case, offer, expected) in [
        ("no pathlen", root.offer(ca("mesh")), (2, true)),
        ("pathlen 1", root.offer(with("mesh", path_length(1))), (2, true)),
        ("pathlen 0", root.offer(with("mesh", path_length(0))), (1, false)),
        ("two", offer(&[&middle.below(ca("mesh")), &middle], &root), (3, true)),
        ("three, no room in a chain", offer(&[&lower.below(ca("mesh")), &lower, &middle], &root), (3, false)),
        (
            "the one above has no room",
            {
                let middle = root.below(with("middle", path_length(1)));
                offer(&[&middle.below(ca("mesh")), &middle], &root)
            },
            (2, false),
        ),
        (
            "the root has no room",
            {
                let root = Signing::self_signed(with("root", path_length(1)));
                root.offer(ca("mesh"))
            },
            (1, false),
        ),
        ("the root is in tls.crt too", offer(&[&middle, &root], &root), (2, true)),
    ] {
        assert_eq!(shape(&offer), expected, "{case}"); // and its leaf passed the verifier, or it were refused
    }
}

#[test]
fn keys_of_each_kind_sign_in_whatever_pem_their_makers_write() {
    let root = Signing::root("root");
    let generated: [&SignatureAlgorithm; 5] = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    for algorithm in generated {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mesh = root.below_with(with("mesh", path_length(0)), key);
        assert_eq!(shape(&offer(&[&mesh], &root)), (1, false), "{algorithm:?}");
    }
    for (case, pem) in [("SEC1 behind its parameters", SEC1), ("PKCS#1", PKCS1)] {
        let key = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let mesh = root.below_with(ca("mesh"), key);
        let offer = Offer { key: Secret::new(pem.to_owned().into()), ..offer(&[&mesh], &root) };
        assert_eq!(shape(&offer), (2, true), "{case}");
    }
}

#[test]
fn nothing_outlives_anything_above_it() {
    let root = Signing::root("root");
    let middle = root.below(with("middle", |params| params.not_after = at(NOW + 100)));
    let brought = check(&offer(&[&middle.below(ca("mesh")), &middle], &root)).unwrap();
    assert_eq!((brought.issuer.not_after, brought.not_before), (NOW + 100, NOW - DAY));
    let random = tls::default_provider().secure_random;
    let signer = brought.signer(&settings("prod.example"), random, NOW).unwrap();
    assert_eq!(signer.issuer.not_after, NOW + 100);
    assert!(!brought.outlasts(NOW + 100, &settings("prod.example"), NOW));
    assert!(brought.outlasts(NOW + 99, &settings("prod.example"), NOW));
}

#[test]
fn each_fault_is_refused_by_its_name_with_the_secret_the_field_and_the_next_step() {
    let root = Signing::root("root");
    let other = Signing::root("other");
    let middle = root.below(ca("middle"));
    let mesh = middle.below(ca("mesh"));
    let good = || offer(&[&mesh, &middle], &root);
    check(&good()).unwrap();
    let key = |pem: &str| Secret::new(pem.to_owned().into());
    let text = |der: &CertificateDer<'_>| certificate_pem(der);
    let cases: Vec<(&str, Offer, &str)> = vec![
        ("no certificate", Offer { chain: "".into(), ..good() }, "has no tls.crt"),
        ("no key", Offer { key: key("\n"), ..good() }, "has no tls.key"),
        ("no root", Offer { root: "".into(), ..good() }, "has no ca.crt"),
        ("no PEM", Offer { chain: "x".into(), ..good() }, "tls.crt: no CERTIFICATE"),
        ("cut off", Offer { chain: good().chain[..300].into(), ..good() }, "tls.crt: "),
        (
            "a root that is no X.509",
            Offer { root: text(&vec![1; 9].into()).into(), ..good() },
            "ca.crt: not X.509",
        ),
        ("a certificate for a key", Offer { key: key(&good().root), ..good() }, "tls.key is no private key"),
        (
            "a broken key",
            Offer { key: key(&mesh.key.replace("MI", "MJ")), ..good() },
            "tls.key is no private key",
        ),
        ("another's key", Offer { key: key(&middle.key), ..good() }, "tls.key is not the key"),
        (
            "a leaf",
            root.offer(with("leaf", |params| params.is_ca = IsCa::ExplicitNoCa)),
            "\"CN=leaf\" is not a CA",
        ),
        (
            "no keyCertSign",
            root.offer(with("mesh", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature])),
            "\"CN=mesh\" is not a CA",
        ),
        ("no key usage", root.offer(with("mesh", |params| params.key_usages.clear())), "is not a CA"),
        (
            "one above is no CA",
            {
                let middle = root.below(with("middle", |params| params.key_usages.clear()));
                offer(&[&middle.below(ca("mesh")), &middle], &root)
            },
            "\"CN=middle\" is not a CA",
        ),
        (
            "expired",
            root.offer(with("mesh", |params| params.not_after = at(NOW - 1))),
            "expired at 2027-01-15",
        ),
        (
            "not yet",
            root.offer(with("mesh", |params| params.not_before = at(NOW + 1))),
            "valid from 2027-01-15",
        ),
        (
            "the root expired",
            Signing::self_signed(with("root", |params| params.not_after = at(NOW - 1))).offer(ca("mesh")),
            "ca.crt: \"CN=root\" expired",
        ),
        (
            "two roots",
            Offer { root: format!("{}{}", text(&root.der), text(&other.der)).into(), ..good() },
            "ca.crt holds 2",
        ),
        (
            "an intermediate as root",
            Offer { root: text(&middle.der).into(), ..offer(&[&mesh], &root) },
            "\"CN=middle\" is no root",
        ),
        ("the root alone", offer(&[&root], &root), "tls.crt holds the root alone"),
        ("of another root", offer(&[&mesh, &middle], &other), "what comes next is \"CN=other\""),
        ("a gap", offer(&[&mesh], &root), "what comes next is \"CN=root\""),
        ("out of order", offer(&[&mesh, &mesh, &middle], &root), "what comes next is \"CN=mesh\""),
        (
            "of a root by the same name",
            offer(&[&mesh, &middle], &Signing::root("root")),
            "peers would refuse",
        ),
        (
            "too long",
            {
                let lower = mesh.below(ca("lower"));
                offer(&[&lower.below(ca("lowest")), &lower, &mesh, &middle], &root)
            },
            "tls.crt holds 4 certificates",
        ),
        (
            "a pathlen above",
            {
                let middle = root.below(with("middle", path_length(0)));
                offer(&[&middle.below(ca("mesh")), &middle], &root)
            },
            "pathlen of \"CN=middle\"",
        ),
        (
            "the root's pathlen",
            Signing::self_signed(with("root", path_length(0))).offer(ca("mesh")),
            "ca.crt: the pathlen of \"CN=root\"",
        ),
        (
            "names of its own only",
            root.offer(with("mesh", |params| {
                let permitted_subtrees = vec![GeneralSubtree::DnsName("prod.example".into())];
                params.name_constraints =
                    Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
            })),
            "the certificate of the webhook",
        ),
        (
            "for servers only",
            root.offer(with("mesh", |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
            })),
            "the certificate of a workload",
        ),
    ];
    for (case, offer, words) in cases {
        let Err(refused) = check(&offer) else { panic!("taken: {case}") };
        let said = refused.to_string();
        assert!(said.starts_with(SECRET) && said.contains(words), "{case}: {said}");
        assert!(said.contains(';'), "no next step, {case}: {said}");
        assert!(!said.contains("PRIVATE"), "{case}");
    }
}

#[test]
fn a_subject_that_cannot_be_written_as_an_issuer_is_refused_and_a_root_may_have_one() {
    // rcgen cannot make such a name, so one is made of another of the same length.
    let twice = |der: &CertificateDer<'static>| {
        let (ou, o) = ([0x55, 0x04, 0x0b], [0x55, 0x04, 0x0a]);
        let mut bytes = der.to_vec();
        for at in 0..bytes.len() - 3 {
            if bytes[at..at + 3] == ou {
                bytes[at..at + 3].copy_from_slice(&o);
            }
        }
        CertificateDer::from(bytes)
    };
    let name = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::OrganizationName, "a");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "b");
    };
    let root = Signing::root("root");
    let mesh = root.below(with("mesh", name));
    let offer = Offer { chain: certificate_pem(&twice(&mesh.der)).into(), ..offer(&[&mesh], &root) };
    assert!(matches!(check(&offer), Err(Refused::Subject { .. })));
    let root = Certificate::parse(CA_CRT, &twice(&Signing::self_signed(with("root", name)).der)).unwrap();
    assert!(!root.is_plain && root.check_is_ca().is_ok());
}

#[test]
fn everybodys_trust_domain_and_a_distrusted_root_are_refused() {
    let root = Signing::root("root");
    let provider = tls::mesh_provider(tls::default_provider());
    let offer = root.offer(ca("mesh"));
    let everybodys = Brought::check(&offer, &settings("cluster.local"), &[], &provider, NOW);
    assert_eq!(everybodys.err(), Some(Refused::TrustDomain));
    let distrusted = [root.id().into()];
    let refused = Brought::check(&offer, &settings("prod.example"), &distrusted, &provider, NOW);
    assert_eq!(refused.err(), Some(Refused::Distrusted { id: root.id().into() }));
}

/// `openssl ecparam -genkey -name prime256v1`, for this test alone.
const SEC1: &str = include_str!("tests/sec1.pem");
/// `openssl genrsa -traditional 2048`, for this test alone.
const PKCS1: &str = include_str!("tests/pkcs1.pem");
