//! The edge CA: certificates for hosts that cannot be public, so that the same manifests work on a laptop.
//!
//! Its root goes into people's browsers (`signet trust install`), so it must be harmless there: its key lies apart from the mesh CA's,
//! and the root itself says that it vouches for nothing but names below its suffixes (RFC 5280 4.2.1.10), no addresses, and servers
//! only. Whoever steals the key can impersonate no host of the Internet. Pure: time comes in as an argument.

mod key;
mod root;
mod suffix;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints, PublicKeyData as _, SanType,
};
use rustls_pki_types::CertificateDer;
use signet_core::bundle::root_id;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use self::key::Key;

pub use self::{
    root::{NoRoot, Root, Untimely},
    suffix::{BadSuffix, Suffix},
};

/// A root and its key. The key is wiped when this is dropped.
pub struct EdgeCa {
    root: Root,
    signer: Issuer<'static, Key>,
}

/// A host's certificate with its key.
pub struct Issued {
    pub certificate: CertificateDer<'static>,
    /// PKCS#8, DER.
    pub key: Zeroizing<Vec<u8>>,
    /// Unix seconds; the first and the last one at which it is valid.
    pub not_before: i64,
    pub not_after: i64,
}

impl EdgeCa {
    /// A new root for [`Suffix::always`] and `more`, and its key as PKCS#8 PEM, for who stores it.
    pub fn generate(more: &[Suffix], now: i64) -> Result<(Self, Zeroizing<String>), EdgeCaError> {
        let mut suffixes: Vec<Suffix> = Suffix::always().into_iter().chain(more.iter().cloned()).collect();
        suffixes.sort();
        suffixes.dedup();
        let key = Key::generate()?;
        let pem = key.pem();
        let mut params = CertificateParams::default();
        params.not_before = at(now - BACKDATED)?;
        params.not_after = at(now + ROOT_LIFE)?;
        params.distinguished_name = DistinguishedName::new();
        let id = root_id(key.der_bytes());
        let name = format!("Signet edge CA {}", id.get(..8).unwrap_or(&id));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.name_constraints = Some(constraints(&suffixes));
        let certificate = params.self_signed(&key)?;
        Ok((Self::new(Root::new(certificate.der().clone())?, key)?, pem))
    }

    /// A stored one. Errors: the key is another one's, or the certificate is not such a root: nothing is signed by a root that
    /// does not bind itself.
    pub fn load(certificate: &str, key: &str) -> Result<Self, EdgeCaError> {
        let root = Root::from_pem(certificate.as_bytes())?;
        Self::new(root, Key::from_pem(key).ok_or(EdgeCaError::Key)?)
    }

    fn new(root: Root, key: Key) -> Result<Self, EdgeCaError> {
        let (_, parsed) = X509Certificate::from_der(root.certificate()).map_err(|_| EdgeCaError::Key)?;
        if parsed.public_key().subject_public_key.data != key.der_bytes() {
            return Err(EdgeCaError::Key);
        }
        Ok(Self { signer: Issuer::from_ca_cert_der(root.certificate(), key)?, root })
    }

    /// A certificate for `names` (DNS names, a `*.` in front of some), all of which must be below the root's suffixes.
    pub fn issue(&self, names: &[&str], now: i64) -> Result<Issued, EdgeCaError> {
        if names.is_empty() {
            return Err(EdgeCaError::NoName);
        }
        if now > self.not_after() {
            return Err(EdgeCaError::Expired);
        }
        if let Some(name) = names.iter().find(|name| !self.covers(name)) {
            let suffixes = self.suffixes().iter().map(Suffix::as_str).collect::<Vec<_>>().join(", ");
            return Err(EdgeCaError::Name { name: (*name).to_owned(), suffixes });
        }
        let not_before = now - BACKDATED;
        let not_after = (now + LEAF_LIFE).min(self.not_after());
        let mut params = CertificateParams::new(Vec::new())?;
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        params.not_before = at(not_before)?;
        params.not_after = at(not_after)?;
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = Key::generate()?;
        let certificate = params.signed_by(&key, &self.signer)?;
        Ok(Issued { certificate: certificate.der().clone(), key: key.der(), not_before, not_after })
    }

    /// Whether it may certify `name`.
    pub fn covers(&self, name: &str) -> bool {
        self.root.covers(name)
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn suffixes(&self) -> &[Suffix] {
        self.root.suffixes()
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.root.certificate()
    }

    pub fn pem(&self) -> String {
        self.root.pem()
    }

    /// As `signet trust` and its messages name it.
    pub fn id(&self) -> String {
        self.root.id()
    }

    /// Unix seconds.
    pub fn not_after(&self) -> i64 {
        self.root.not_after()
    }
}

/// Names below the suffixes are permitted; addresses of either family, and e-mail addresses, never are.
fn constraints(suffixes: &[Suffix]) -> NameConstraints {
    let permitted = suffixes.iter().map(|suffix| GeneralSubtree::DnsName(suffix.as_str().to_owned()));
    NameConstraints {
        permitted_subtrees: permitted.collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    }
}

fn at(seconds: i64) -> Result<OffsetDateTime, EdgeCaError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| EdgeCaError::Time(seconds))
}

/// Why there is no certificate, or no CA.
#[derive(Debug, thiserror::Error)]
pub enum EdgeCaError {
    #[error(
        "{name} is below none of this edge CA's suffixes ({suffixes}); make a CA with --edge-suffix, or get a public certificate"
    )]
    Name { name: String, suffixes: String },
    #[error("no name was asked for")]
    NoName,
    #[error("the edge CA has expired; remove it, and install the next one with signet trust install")]
    Expired,
    #[error("the stored edge CA is unusable: {0}; remove it, and a new one is made")]
    Stored(#[from] NoRoot),
    #[error(
        "the stored edge CA is unusable: key and certificate do not belong together; remove it, and a new one is made"
    )]
    Key,
    #[error("{0} is not a time that a certificate can hold")]
    Time(i64),
    #[error("signing: {0}")]
    Sign(#[from] rcgen::Error),
}

/// Seconds by which notBefore lies in the past: clocks differ.
const BACKDATED: i64 = 120;
/// Ten years: who installed it should not have to again soon.
const ROOT_LIFE: i64 = 3650 * 86_400;
/// Ninety days, like public ones; Apple's platforms take at most 825 of a private CA's.
const LEAF_LIFE: i64 = 90 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
    use rustls_pki_types::{ServerName, UnixTime};
    use std::time::Duration;

    const NOW: i64 = 1_800_000_000;

    fn ca(more: &[&str]) -> (EdgeCa, Zeroizing<String>) {
        let more: Vec<Suffix> = more.iter().map(|suffix| suffix.parse().unwrap()).collect();
        EdgeCa::generate(&more, NOW).unwrap()
    }

    /// Whether a client of ordinary WebPKI rules believes `certificate` for `host`.
    fn believes(ca: &EdgeCa, certificate: &CertificateDer<'_>, host: &str, now: i64) -> bool {
        let anchor = webpki::anchor_from_trusted_cert(ca.certificate()).unwrap();
        let leaf = webpki::EndEntityCert::try_from(certificate).unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None).is_ok()
            && leaf.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap()).is_ok()
    }

    #[test]
    fn a_host_below_a_suffix_gets_a_certificate_that_clients_believe_until_it_ends() {
        let (ca, _) = ca(&["home.example.com"]);
        let issued = ca.issue(&["blog.localhost", "*.shop.test", "nas.home.example.com"], NOW).unwrap();
        for host in ["blog.localhost", "a.shop.test", "nas.home.example.com"] {
            assert!(believes(&ca, &issued.certificate, host, NOW), "{host}");
        }
        assert!(!believes(&ca, &issued.certificate, "other.localhost", NOW));
        assert!(believes(&ca, &issued.certificate, "a.shop.test", NOW + LEAF_LIFE));
        assert!(!believes(&ca, &issued.certificate, "a.shop.test", NOW + LEAF_LIFE + 1));
    }

    #[test]
    fn a_name_of_the_internet_is_refused() {
        let (ca, _) = ca(&[]);
        for names in
            [&["example.com"][..], &["blog.localhost", "example.com"], &["*.com"], &["localhost.example.com"]]
        {
            assert!(matches!(ca.issue(names, NOW), Err(EdgeCaError::Name { .. })), "{names:?}");
        }
        assert!(matches!(ca.issue(&[], NOW), Err(EdgeCaError::NoName)));
    }

    /// What a thief of the key could sign, clients do not believe: the root itself forbids it.
    #[test]
    fn what_a_thief_of_the_key_signs_for_a_public_host_or_an_address_is_not_believed() {
        let (ca, key) = ca(&[]);
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).unwrap();
        let thief = Issuer::from_ca_cert_der(ca.certificate(), key).unwrap();
        let forged = |san: SanType| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![san];
            params.not_before = at(NOW - 1).unwrap();
            params.not_after = at(NOW + 1000).unwrap();
            params.signed_by(&KeyPair::generate().unwrap(), &thief).unwrap().der().clone()
        };
        let of_a_name = |name: &str| forged(SanType::DnsName(name.try_into().unwrap()));
        assert!(believes(&ca, &of_a_name("blog.test"), "blog.test", NOW), "the thief does sign well");
        assert!(!believes(&ca, &of_a_name("example.com"), "example.com", NOW));
        let address = forged(SanType::IpAddress([192, 0, 2, 1].into()));
        assert!(!believes(&ca, &address, "192.0.2.1", NOW));
    }

    #[test]
    fn a_stored_root_signs_again_and_one_that_is_not_bound_to_names_is_refused() {
        let (made, key) = ca(&["home.example.com"]);
        let loaded = EdgeCa::load(&made.pem(), &key).unwrap();
        assert_eq!((loaded.id(), loaded.suffixes()), (made.id(), made.suffixes()));
        loaded.issue(&["blog.localhost"], NOW).unwrap();
        let (_, other) = ca(&[]);
        assert!(matches!(EdgeCa::load(&made.pem(), &other), Err(EdgeCaError::Key)));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let unbound = signet_core::bundle::certificate_pem(params.self_signed(&key).unwrap().der());
        assert!(matches!(EdgeCa::load(&unbound, &key.serialize_pem()), Err(EdgeCaError::Stored(_))));
    }

    #[test]
    fn nothing_outlives_the_root() {
        let (ca, _) = ca(&[]);
        let late = ca.issue(&["blog.test"], ca.not_after() - 10).unwrap();
        assert_eq!(late.not_after, ca.not_after());
        assert!(matches!(ca.issue(&["blog.test"], ca.not_after() + 1), Err(EdgeCaError::Expired)));
    }
}
