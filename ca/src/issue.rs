//! Certificates, made: a root, an intermediate under it, a leaf under that. Identity and public key in, chain out.
//!
//! Nothing of a caller's request reaches a certificate but its public key; who the caller is was settled before
//! (`callers`). Time and randomness come in as arguments.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::crypto::SecureRandom;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use signet_core::{
    bundle::{certificate_pem, root_id},
    identity::{SpiffeId, TrustDomain},
    svid::{hex, is_p256},
};
use time::OffsetDateTime;
use x509_parser::{
    prelude::{FromDer as _, X509Certificate},
    x509::SubjectPublicKeyInfo,
};
use zeroize::Zeroizing;

use crate::{authority::FOLLOWS, serving::ServingName};

/// A signing certificate and its key: a root, the intermediate that leaves are signed with, or one of the user's.
/// The key is wiped when this is dropped.
pub(crate) struct Issuer {
    /// DER.
    pub certificate: CertificateDer<'static>,
    pub pem: Arc<str>,
    /// Unix seconds; nothing that this signs outlives it.
    pub not_after: i64,
    /// Lower-case hex.
    pub serial: Arc<str>,
    signer: rcgen::Issuer<'static, KeyPair>,
}

/// A leaf with what the audit line says of it.
pub(crate) struct Issued {
    pub serial: String,
    /// Unix seconds; the last one at which it is valid.
    pub not_after: i64,
    /// PEM.
    pub certificate: String,
}

impl Issuer {
    /// A self-signed root with a new key. Its subject is its own, so that a path is never built to another root by name;
    /// its URI SAN is the trust domain. Returns the key as PKCS#8 PEM too, for the store.
    pub(crate) fn new_root(
        domain: &TrustDomain,
        life: i64,
        now: i64,
        random: &dyn SecureRandom,
    ) -> Result<(Self, Zeroizing<String>), CannotIssue> {
        let key = KeyPair::generate()?;
        let pem = Zeroizing::new(key.serialize_pem());
        let params = authority(domain, "root", ROOT_PATH_LENGTH, now, now + life, random)?;
        let certificate = params.self_signed(&key)?;
        Ok((Self::new(certificate.der().clone(), key)?, pem))
    }

    /// A stored root. Refuses a key that does not belong to the certificate.
    pub(crate) fn load(certificate: &str, key: &str) -> Result<Self, CannotIssue> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|e| CannotIssue::Stored(format!("certificate: {e:?}")))?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)?;
        Self::new(certificate, key)
    }

    /// An intermediate that someone else made. `not_after`: the earliest of its own and of those above it.
    pub(crate) fn brought(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        not_after: i64,
    ) -> Result<Self, CannotIssue> {
        let issuer = Self::new(certificate, key)?;
        Ok(Self { not_after: issuer.not_after.min(not_after), ..issuer })
    }

    /// An intermediate with a new key that exists in memory only. May sign leaves and nothing else (pathlen 0).
    pub(crate) fn intermediate(
        &self,
        domain: &TrustDomain,
        life: i64,
        now: i64,
        random: &dyn SecureRandom,
    ) -> Result<Self, CannotIssue> {
        let key = KeyPair::generate()?;
        let not_after = (now + life).min(self.not_after);
        let params = authority(domain, "intermediate", 0, now, not_after, random)?;
        let certificate = params.signed_by(&key, &self.signer)?;
        Self::new(certificate.der().clone(), key)
    }

    /// A leaf for `id`: X509-SVID 2-5 as narrowed by docs/design.md section 3. `life` counts from `now`, in seconds; the
    /// leaf never outlives this issuer.
    pub(crate) fn leaf(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        life: i64,
        now: i64,
        random: &dyn SecureRandom,
    ) -> Result<Issued, CannotIssue> {
        let san = SanType::URI(id.to_string().try_into()?);
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.end_entity(san, usages, key, life, now, random)
    }

    /// A certificate to serve `name` with: one DNS SAN and serverAuth only, so that no mesh peer takes it for a workload's.
    /// `life` as in [`Issuer::leaf`].
    pub(crate) fn serving(
        &self,
        name: ServingName,
        key: &PublicKey,
        life: i64,
        now: i64,
        random: &dyn SecureRandom,
    ) -> Result<Issued, CannotIssue> {
        let san = SanType::DnsName(name.as_str().try_into()?);
        self.end_entity(san, vec![ExtendedKeyUsagePurpose::ServerAuth], key, life, now, random)
    }

    fn end_entity(
        &self,
        san: SanType,
        usages: Vec<ExtendedKeyUsagePurpose>,
        key: &PublicKey,
        life: i64,
        now: i64,
        random: &dyn SecureRandom,
    ) -> Result<Issued, CannotIssue> {
        if now > self.not_after {
            return Err(CannotIssue::IssuerExpired);
        }
        let not_after = (now + life).min(self.not_after);
        let serial = serial(random)?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = at(now - BACKDATED)?;
        params.not_after = at(not_after)?;
        params.distinguished_name = DistinguishedName::new(); // empty: rcgen then marks the SAN critical (RFC 5280 4.1.2.6)
        params.subject_alt_names = vec![san];
        params.is_ca = IsCa::ExplicitNoCa; // NoCa leaves BasicConstraints out, which verifiers refuse
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.signer)?;
        Ok(Issued { serial: hex(&serial), not_after, certificate: certificate_pem(certificate.der()) })
    }

    /// How a root is named in the CLI and in `distrusted`.
    pub(crate) fn id(&self) -> Arc<str> {
        root_id(&self.certificate).into()
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, CannotIssue> {
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|e| CannotIssue::Stored(format!("certificate: {e}")))?;
        if parsed.public_key().subject_public_key.data != key.der_bytes() {
            return Err(CannotIssue::Stored("key and certificate do not belong together".into()));
        }
        Ok(Self {
            pem: certificate_pem(&certificate).into(),
            not_after: parsed.validity().not_after.timestamp(),
            serial: hex(parsed.raw_serial()).into(),
            signer: rcgen::Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
        })
    }
}

/// The profile of both signing tiers (X509-SVID 3 and 5: CA:TRUE, keyCertSign, an ID without a path).
fn authority(
    domain: &TrustDomain,
    tier: &str,
    path_length: u8,
    now: i64,
    not_after: i64,
    random: &dyn SecureRandom,
) -> Result<CertificateParams, CannotIssue> {
    let serial = serial(random)?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = at(now - BACKDATED)?;
    params.not_after = at(not_after)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("signet {tier} {}", hex(&serial[1..=SUBJECT_ID_BYTES])));
    params.subject_alt_names = vec![SanType::URI(domain.id_string().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn serial(random: &dyn SecureRandom) -> Result<[u8; 1 + SERIAL_BYTES], CannotIssue> {
    let mut serial = [1; 1 + SERIAL_BYTES]; // the leading 1 keeps all of them positive and of one length
    random.fill(&mut serial[1..]).map_err(|_| CannotIssue::Random)?;
    Ok(serial)
}

fn at(seconds: i64) -> Result<OffsetDateTime, CannotIssue> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CannotIssue::Time(seconds))
}

/// A P-256 public key: the only kind that we certify.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    point: Vec<u8>,
}

impl PublicKey {
    /// `None`: not an uncompressed P-256 point. That it lies on the curve shows when a signature by it verifies.
    pub fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        is_p256(spki).then(|| Self { point: spki.subject_public_key.data.to_vec() })
    }

    pub fn of(key: &KeyPair) -> Option<Self> {
        let spki = key.subject_public_key_info();
        Self::from_spki(&SubjectPublicKeyInfo::from_der(&spki).ok()?.1)
    }

    /// SHA-256 of the SubjectPublicKeyInfo, hex: how the audit log names a key.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.subject_public_key_info()))
    }

    pub(crate) fn point(&self) -> &[u8] {
        &self.point
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Why no certificate was made. None of them is the caller's fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotIssue {
    #[error("signing: {0}")]
    Sign(#[from] rcgen::Error),
    #[error("the system's random numbers failed")]
    Random,
    #[error("{0} is not a time that a certificate can hold")]
    Time(i64),
    #[error("the intermediate has expired and could not be renewed; see signet ca status")]
    IssuerExpired,
    #[error(
        "the shared state could not be read for {FOLLOWS} s, so another root may sign by now; is the API server up?"
    )]
    Behind,
    #[error("a stored signing certificate is unusable: {0}; restore the state file from a backup")]
    Stored(String),
}

/// Seconds by which notBefore lies in the past: clocks of a cluster differ (linkerd2#2762, #3980, #6427).
pub(crate) const BACKDATED: i64 = 120;
/// CA/Browser Forum asks for 64 random bits; 128 never meet again, on any number of replicas.
const SERIAL_BYTES: usize = 16;
/// Tells roots apart in tools that show subjects only; the serial is what is unique.
const SUBJECT_ID_BYTES: usize = 4;
/// A root may sign intermediates, and those (pathlen 0) leaves only.
const ROOT_PATH_LENGTH: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use signet_core::{bundle::TrustBundle, identity, svid, tls, trust::Trust, verifier::MeshVerifier};
    use std::{collections::HashSet, time::Duration};

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    struct Tiers {
        domain: TrustDomain,
        root: Issuer,
        intermediate: Issuer,
    }

    fn random() -> &'static dyn SecureRandom {
        tls::default_provider().secure_random
    }

    fn tiers() -> Tiers {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let root = Issuer::new_root(&domain, 3650 * DAY, NOW, random()).unwrap().0;
        let intermediate = root.intermediate(&domain, 30 * DAY, NOW, random()).unwrap();
        Tiers { domain, root, intermediate }
    }

    fn leaf(issuer: &Issuer, domain: &TrustDomain, life: i64) -> (Issued, CertificateDer<'static>) {
        let id = identity::of(domain, "shop", "api").unwrap();
        let key = PublicKey::of(&KeyPair::generate().unwrap()).unwrap();
        let issued = issuer.leaf(&id, &key, life, NOW, random()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        (issued, der)
    }

    #[test]
    fn a_leaf_keeps_every_svid_rule_and_is_believed_by_peers() {
        let Tiers { domain, root, intermediate } = tiers();
        let (issued, der) = leaf(&intermediate, &domain, DAY);
        let parsed = svid::Leaf::parse(&der).unwrap();
        assert_eq!(parsed.id.to_string(), "spiffe://cluster.local/ns/shop/sa/api");
        assert_eq!((parsed.not_before, parsed.not_after), (NOW - 120, NOW + DAY));
        assert_eq!((&*parsed.serial, parsed.not_after), (&*issued.serial, issued.not_after));

        let trust = Trust::new(domain);
        trust.offer(TrustBundle::new(1, vec![root.certificate.clone()], vec![]).unwrap());
        let verifier = MeshVerifier::new(trust, tls::default_provider().signature_verification_algorithms);
        let chain = [der, intermediate.certificate.clone()];
        let at = |seconds: i64| {
            rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds.unsigned_abs()))
        };
        verifier.check_chain(&chain, at(NOW)).unwrap();
        verifier.check_chain(&chain, at(NOW + DAY)).unwrap();
        verifier.check_chain(&chain, at(NOW + DAY + 1)).unwrap_err();
        verifier.check_chain(&chain, at(NOW - 121)).unwrap_err();
    }

    #[test]
    fn an_independent_svid_parser_accepts_our_leaf_and_our_root() {
        let Tiers { domain, root, intermediate } = tiers();
        let key = KeyPair::generate().unwrap();
        let id = identity::of(&domain, "shop", "api").unwrap();
        let issued = intermediate.leaf(&id, &PublicKey::of(&key).unwrap(), DAY, NOW, random()).unwrap();
        let mut chain = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap().to_vec();
        chain.extend_from_slice(&intermediate.certificate);
        let svid = spiffe::X509Svid::parse_from_der(&chain, &key.serialize_der()).unwrap();
        assert_eq!(*svid.spiffe_id(), id);
        let bundle = spiffe::X509Bundle::parse_from_der(domain, &root.certificate).unwrap();
        assert_eq!(bundle.authorities().len(), 1);
    }

    #[test]
    fn a_serving_certificate_has_one_dns_name_and_is_nobody_in_the_mesh() {
        let Tiers { domain, intermediate, .. } = tiers();
        let key = PublicKey::of(&KeyPair::generate().unwrap()).unwrap();
        let name = ServingName::granted("injector.signet-system.svc", &identity::injector(&domain)).unwrap();
        let issued = intermediate.serving(name, &key, DAY, NOW, random()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let san = parsed.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical);
        assert_eq!(
            san.value.general_names,
            [x509_parser::extensions::GeneralName::DNSName("injector.signet-system.svc")]
        );
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && usage.other.is_empty());
        assert!(!parsed.is_ca());
        assert_eq!(parsed.validity().not_after.timestamp(), NOW + DAY);
        svid::Leaf::parse(&der).unwrap_err();
    }

    #[test]
    fn nothing_outlives_its_issuer() {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let root = Issuer::new_root(&domain, 100, NOW, random()).unwrap().0;
        let intermediate = root.intermediate(&domain, 30 * DAY, NOW, random()).unwrap();
        assert_eq!(intermediate.not_after, root.not_after);
        let (issued, _) = leaf(&intermediate, &domain, DAY);
        assert_eq!(issued.not_after, root.not_after);
        let key = PublicKey::of(&KeyPair::generate().unwrap()).unwrap();
        let id = identity::of(&domain, "shop", "api").unwrap();
        let late = intermediate.leaf(&id, &key, DAY, NOW + 101, random());
        assert!(matches!(late, Err(CannotIssue::IssuerExpired)));
    }

    #[test]
    fn signing_certificates_are_what_their_tier_says() {
        let Tiers { root, intermediate, .. } = tiers();
        for (issuer, tier, length) in [(&root, "root", 1), (&intermediate, "intermediate", 0)] {
            let (_, cert) = X509Certificate::from_der(&issuer.certificate).unwrap();
            let constraints = cert.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && constraints.value.ca);
            assert_eq!(constraints.value.path_len_constraint, Some(length));
            let usage = cert.key_usage().unwrap().unwrap();
            assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
            assert!(
                cert.subject().to_string().starts_with(&format!("CN=signet {tier} ")),
                "{}",
                cert.subject()
            );
            svid::Leaf::parse(&issuer.certificate).unwrap_err();
        }
    }

    #[test]
    fn roots_have_names_of_their_own_and_serials_never_repeat() {
        let Tiers { domain, intermediate, .. } = tiers();
        let subject =
            |issuer: &Issuer| X509Certificate::from_der(&issuer.certificate).unwrap().1.subject().to_string();
        let roots: HashSet<String> =
            (0..20).map(|_| subject(&Issuer::new_root(&domain, DAY, NOW, random()).unwrap().0)).collect();
        assert_eq!(roots.len(), 20);
        let serials: HashSet<String> = (0..200).map(|_| leaf(&intermediate, &domain, DAY).0.serial).collect();
        assert_eq!(serials.len(), 200);
        assert!(serials.iter().all(|serial| serial.len() == 34 && serial.starts_with("01")));
    }

    #[test]
    fn a_stored_root_signs_again_and_a_foreign_key_is_refused() {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let (root, key) = Issuer::new_root(&domain, DAY, NOW, random()).unwrap();
        let loaded = Issuer::load(&root.pem, &key).unwrap();
        assert_eq!((loaded.id(), loaded.not_after), (root.id(), NOW + DAY));
        loaded.intermediate(&domain, DAY, NOW, random()).unwrap();
        let (_, other) = Issuer::new_root(&domain, DAY, NOW, random()).unwrap();
        assert!(matches!(Issuer::load(&root.pem, &other), Err(CannotIssue::Stored(_))));
    }
}
