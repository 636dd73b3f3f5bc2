//! The table of hostile certificates (issue 3, line 5): everything here must be refused, as a client's and as a server's
//! certificate, and the two good ones must pass, or the test that uses the table proves nothing.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose as Eku, IsCa,
    Issuer, KeyPair, KeyUsagePurpose as Usage, SignatureAlgorithm,
};
use signet_core::clock;

use crate::pki::{self, Authority, Credential, bare_leaf_params, key, leaf_params, private};

/// One row.
pub struct Case {
    /// What is wrong with it, in words; or "good: ...".
    pub name: &'static str,
    pub hostile: bool,
    /// Whether the rules for the SVID itself are what refuses it. The mutant without those rules lets these through.
    pub only_svid_rules_refuse_it: bool,
    pub credential: Credential,
}

/// The table, for a mesh that believes in `ours`. `workload` is "<namespace>/<service account>" of trust domain
/// `cluster.local`: who the certificates would be, if they were right.
pub fn table(ours: &Authority, workload: &str) -> Vec<Case> {
    let (namespace, account) = workload.split_once('/').expect("<namespace>/<service account>");
    let path = format!("/ns/{namespace}/sa/{account}");
    let id = format!("spiffe://cluster.local{path}");
    let mut cases = names(ours, &id, &path);
    cases.extend(profiles(ours, &id));
    cases.extend(keys_and_times(ours, &id));
    cases.extend(paths(ours, &id));
    cases.push(Case::good("good: as the CA issues it", ours.present(&leaf_params(&id, LIFE), &key())));
    let mut with_root = ours.present(&leaf_params(&id, LIFE), &key());
    with_root.chain.push(ours.root().clone());
    cases.push(Case::good("good: with the root sent along", with_root));
    cases
}

/// What is wrong is the name.
fn names(ours: &Authority, id: &str, path: &str) -> Vec<Case> {
    let long = format!("spiffe://cluster.local/ns/{}/sa/x", "a".repeat(2048));
    let one_uri: [(&'static str, String); 18] = [
        ("NUL at the end of the URI", format!("{id}\0")),
        ("NUL inside the URI, the right name before it", format!("{id}\0.example.com")),
        ("upper-case trust domain", format!("spiffe://CLUSTER.local{path}")),
        ("upper-case scheme", format!("SPIFFE://cluster.local{path}")),
        ("upper-case path", format!("spiffe://cluster.local{}", path.to_uppercase())),
        ("trailing slash", format!("{id}/")),
        ("%2e", id.replace("/sa/", "/sa/%2e/")),
        ("dot segments", id.replace("/sa/", "/sa/../sa/")),
        ("empty segment", id.replace("/sa/", "//sa/")),
        ("userinfo", format!("spiffe://root@cluster.local{path}")),
        ("port", format!("spiffe://cluster.local:443{path}")),
        ("query", format!("{id}?x=1")),
        ("fragment", format!("{id}#x")),
        ("other trust domain", format!("spiffe://other.example{path}")),
        ("trust domain with ours as its prefix", format!("spiffe://cluster.local.example{path}")),
        ("no path", "spiffe://cluster.local".to_owned()),
        ("other scheme", format!("https://cluster.local{path}")),
        ("more than 2048 bytes", long),
    ];
    let mut cases: Vec<Case> =
        one_uri.into_iter().map(|(name, uri)| Case::rule(name, ours, leaf_params(&uri, LIFE))).collect();
    let with_san = |san: Option<CustomExtension>| {
        let mut params = bare_leaf_params(LIFE);
        params.custom_extensions.extend(san);
        params
    };
    let other = "spiffe://cluster.local/ns/other/sa/other";
    cases.extend([
        Case::rule("no SAN at all", ours, with_san(None)),
        Case::rule("0 URI SANs, a DNS name only", ours, with_san(Some(dns_san("api.shop.svc")))),
        Case::rule("DNS SAN that holds a SPIFFE ID", ours, with_san(Some(dns_san(id)))),
        Case::rule("2 URI SANs", ours, with_san(Some(uri_san(&[id.as_bytes(), other.as_bytes()], true)))),
        Case::rule(
            "2 URI SANs, the right one last",
            ours,
            with_san(Some(uri_san(&[other.as_bytes(), id.as_bytes()], true))),
        ),
        Case::rule(
            "the same URI SAN twice",
            ours,
            with_san(Some(uri_san(&[id.as_bytes(), id.as_bytes()], true))),
        ),
        Case::rule(
            "byte order mark before the URI",
            ours,
            with_san(Some(uri_san(&[&[b"\xef\xbb\xbf", id.as_bytes()].concat()], true))),
        ),
        Case::rule(
            "SAN is not critical though the subject is empty",
            ours,
            with_san(Some(uri_san(&[id.as_bytes()], false))),
        ),
    ]);
    cases
}

/// What is wrong is an extension that says what the certificate is for.
fn profiles(ours: &Authority, id: &str) -> Vec<Case> {
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = leaf_params(id, LIFE);
        change(&mut params);
        params
    };
    vec![
        // webpki itself refuses a CA as the end of a path.
        Case::path(
            "CA:TRUE",
            ours.present(&with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), &key()),
        ),
        Case::rule("no BasicConstraints", ours, with(|p| p.is_ca = IsCa::NoCa)),
        Case::rule("keyCertSign", ours, with(|p| p.key_usages.push(Usage::KeyCertSign))),
        Case::rule("cRLSign", ours, with(|p| p.key_usages.push(Usage::CrlSign))),
        Case::rule("keyEncipherment", ours, with(|p| p.key_usages.push(Usage::KeyEncipherment))),
        Case::rule("no KeyUsage", ours, with(|p| p.key_usages.clear())),
        // For one side webpki refuses it, for the other our rules do.
        Case::path(
            "EKU serverAuth only",
            ours.present(&with(|p| p.extended_key_usages = vec![Eku::ServerAuth]), &key()),
        ),
        Case::path(
            "EKU clientAuth only",
            ours.present(&with(|p| p.extended_key_usages = vec![Eku::ClientAuth]), &key()),
        ),
        Case::path(
            "EKU codeSigning only",
            ours.present(&with(|p| p.extended_key_usages = vec![Eku::CodeSigning]), &key()),
        ),
        Case::path("EKU any only", ours.present(&with(|p| p.extended_key_usages = vec![Eku::Any]), &key())),
        Case::rule("no EKU", ours, with(|p| p.extended_key_usages.clear())),
        Case::rule(
            "subject is not empty",
            ours,
            with(|p| p.distinguished_name.push(DnType::CommonName, "api")),
        ),
    ]
}

/// What is wrong is the key or the time.
fn keys_and_times(ours: &Authority, id: &str) -> Vec<Case> {
    let with_key = |algorithm: &'static SignatureAlgorithm| {
        let key = KeyPair::generate_for(algorithm).expect("the provider makes such keys");
        ours.present(&leaf_params(id, LIFE), &key)
    };
    let between = |from: i64, to: i64| {
        let mut params = leaf_params(id, LIFE);
        params.not_before = clock::now() + time::Duration::seconds(from);
        params.not_after = clock::now() + time::Duration::seconds(to);
        ours.present(&params, &key())
    };
    vec![
        Case::rule_with("P-384 key", with_key(&rcgen::PKCS_ECDSA_P384_SHA384)),
        Case::rule_with("P-521 key", with_key(&rcgen::PKCS_ECDSA_P521_SHA512)),
        Case::rule_with("RSA key", with_key(&rcgen::PKCS_RSA_SHA256)),
        Case::rule_with("Ed25519 key", with_key(&rcgen::PKCS_ED25519)),
        Case::path("expired a minute ago", between(-3600, -60)),
        Case::path("valid in an hour", between(3600, 7200)),
    ]
}

/// What is wrong is the way to a root.
fn paths(ours: &Authority, id: &str) -> Vec<Case> {
    let good = || leaf_params(id, LIFE);
    let foreign = Authority::new();
    let mut foreign_with_our_chain = foreign.present(&good(), &key());
    foreign_with_our_chain.chain[1] = ours.intermediate().clone();
    let mut copies = ours.present(&good(), &key());
    copies.chain.resize(LONG_CHAIN, ours.intermediate().clone());
    let mut no_intermediate = ours.present(&good(), &key());
    no_intermediate.chain.truncate(1);
    vec![
        Case::path("chain of 100", ours.long_path(&good(), &key(), LONG_CHAIN)),
        Case::path("chain of 100, the same intermediate again and again", copies),
        Case::path("intermediate missing", no_intermediate),
        Case::path("self-signed, with the right SAN", self_signed(&good())),
        Case::path("foreign CA, with the right SAN", foreign.present(&good(), &key())),
        Case::path("foreign CA, with our intermediate in the chain", foreign_with_our_chain),
        Case::path("our intermediate, presented as a leaf", ours.intermediate_as_leaf()),
        Case::path("signed by a workload's leaf", signed_by_a_leaf(ours, id)),
    ]
}

fn self_signed(params: &CertificateParams) -> Credential {
    let key = key();
    let cert = params.self_signed(&key).expect("test parameters can be signed");
    Credential { chain: vec![cert.der().clone()], key: private(&key) }
}

/// A workload that uses its own leaf as if it were a CA, to become someone else.
fn signed_by_a_leaf(ours: &Authority, id: &str) -> Credential {
    let (params, workload_key) = (leaf_params("spiffe://cluster.local/ns/shop/sa/mallory", LIFE), key());
    let workload = ours.present(&params, &workload_key);
    let leaf_key = key();
    let leaf = pki::sign(&leaf_params(id, LIFE), &leaf_key, &Issuer::new(params, workload_key));
    let chain = [vec![leaf], workload.chain].concat();
    Credential { chain, key: private(&leaf_key) }
}

impl Case {
    fn good(name: &'static str, credential: Credential) -> Self {
        Self { name, hostile: false, only_svid_rules_refuse_it: false, credential }
    }
    /// A path that any TLS library accepts: only our own rules stand against it.
    fn rule(name: &'static str, ours: &Authority, params: CertificateParams) -> Self {
        Self::rule_with(name, ours.present(&params, &key()))
    }
    fn rule_with(name: &'static str, credential: Credential) -> Self {
        Self { name, hostile: true, only_svid_rules_refuse_it: true, credential }
    }
    fn path(name: &'static str, credential: Credential) -> Self {
        Self { name, hostile: true, only_svid_rules_refuse_it: false, credential }
    }
}

/// SubjectAltName by hand: rcgen refuses strings that are no IA5String, and hostile ones are our point.
pub fn uri_san(uris: &[&[u8]], critical: bool) -> CustomExtension {
    san(uris.iter().map(|uri| (CONTEXT | 6, *uri)), critical)
}

fn dns_san(name: &str) -> CustomExtension {
    san([(CONTEXT | 2, name.as_bytes())].into_iter(), true)
}

fn san<'a>(names: impl Iterator<Item = (u8, &'a [u8])>, critical: bool) -> CustomExtension {
    let names: Vec<u8> = names.flat_map(|(tag, name)| der(tag, name)).collect();
    let mut extension = CustomExtension::from_oid_content(SUBJECT_ALT_NAME, der(SEQUENCE, &names));
    extension.set_criticality(critical);
    extension
}

/// One DER value; lengths up to 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("a test's extension is small").to_be_bytes();
    let length: &[u8] = match (high, low) {
        (0, 0..=0x7f) => &[low],
        (0, _) => &[0x81, low],
        _ => &[0x82, high, low],
    };
    [&[tag], length, content].concat()
}

const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const SEQUENCE: u8 = 0x30;
/// Context-specific, primitive: how GeneralName tags its IA5Strings.
const CONTEXT: u8 = 0x80;
/// What the issue names; its handshake message stays below rustls' limit of 64 KiB, so that the rules refuse it.
const LONG_CHAIN: usize = 100;
/// Longer than any test.
const LIFE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rustls_pki_types::UnixTime;
    use signet_core::{identity::TrustDomain, svid::Leaf, tls, trust::Trust, verifier::MeshVerifier};

    use super::*;

    fn verifier(ours: &Authority) -> std::sync::Arc<MeshVerifier> {
        let trust = Trust::new(TrustDomain::new("cluster.local").unwrap());
        trust.offer(ours.bundle(1));
        MeshVerifier::new(trust, tls::default_provider().signature_verification_algorithms)
    }

    #[test]
    fn the_verifier_refuses_every_hostile_row_and_passes_the_good_ones() {
        let ours = Authority::new();
        let verifier = verifier(&ours);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now().unsigned_abs()));
        for case in table(&ours, "shop/api") {
            let checked = verifier.check_chain(&case.credential.chain, now);
            assert_eq!(checked.is_err(), case.hostile, "{}: {checked:?}", case.name);
        }
    }

    #[test]
    fn rows_have_their_own_names_and_say_which_of_them_only_the_svid_rules_refuse() {
        let ours = Authority::new();
        let table = table(&ours, "shop/api");
        assert_eq!(table.iter().map(|case| case.name).collect::<BTreeSet<_>>().len(), table.len());
        for case in table.iter().filter(|case| case.only_svid_rules_refuse_it) {
            let leaf = Leaf::parse(&case.credential.chain[0]);
            let other_domain = leaf.as_ref().is_ok_and(|leaf| leaf.id.trust_domain_name() != "cluster.local");
            assert!(leaf.is_err() || other_domain, "{}: {leaf:?}", case.name);
        }
    }
}
