//! The X.509-SVID rules, checked on every certificate that a peer presents and on every one that we are issued.
//! rustls-webpki checks the path, the times and EKU; it checks neither KeyUsage nor anything below.

use std::sync::Arc;

use spiffe::SpiffeId;
use x509_parser::{oid_registry, prelude::*};

use crate::identity;

/// What we keep of a leaf that passed [`Leaf::parse`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    pub id: SpiffeId,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds; the last second at which it is valid.
    pub not_after: i64,
    /// Lower-case hex.
    pub serial: Arc<str>,
}

impl Leaf {
    /// Parses a DER certificate as the leaf of one of our workloads.
    ///
    /// Shape: X.509 v3, at most 8 KiB; exactly one URI SAN, the ID of a workload; empty subject and critical SAN;
    /// BasicConstraints present with CA:FALSE; KeyUsage critical with digitalSignature and nothing else; EKU with
    /// serverAuth and clientAuth; a P-256 key. Path, signature and times are the verifier's part.
    /// Errors: [`NotAnSvid`], one variant per rule. Source: X509-SVID 2-5, narrowed by docs/design.md section 3.
    pub fn parse(der: &[u8]) -> Result<Self, NotAnSvid> {
        if der.len() > MAX_LEAF_BYTES {
            return Err(NotAnSvid::TooLong);
        }
        let (rest, cert) = X509Certificate::from_der(der).map_err(|_| NotAnSvid::NotX509)?;
        if !rest.is_empty() || cert.version() != X509Version::V3 {
            return Err(NotAnSvid::NotX509);
        }
        check_constraints(&cert)?;
        check_usages(&cert)?;
        check_key(&cert)?;
        let id = spiffe_id(&cert)?;
        Ok(Self {
            id,
            not_before: cert.validity().not_before.timestamp(),
            not_after: cert.validity().not_after.timestamp(),
            serial: hex(cert.raw_serial()).into(),
        })
    }
}

fn spiffe_id(cert: &X509Certificate<'_>) -> Result<SpiffeId, NotAnSvid> {
    let san =
        cert.subject_alternative_name().map_err(|_| NotAnSvid::NotX509)?.ok_or(NotAnSvid::UriSans(0))?;
    let uris: Vec<&str> = san
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else { return Err(NotAnSvid::UriSans(uris.len())) };
    let id = identity::parse(uri)?;
    if cert.subject().iter().next().is_some() || !san.critical {
        return Err(NotAnSvid::Subject);
    }
    Ok(id)
}

fn check_constraints(cert: &X509Certificate<'_>) -> Result<(), NotAnSvid> {
    match cert.basic_constraints() {
        Ok(Some(constraints)) if !constraints.value.ca => Ok(()),
        Ok(_) => Err(NotAnSvid::Ca),
        Err(_) => Err(NotAnSvid::NotX509),
    }
}

fn check_usages(cert: &X509Certificate<'_>) -> Result<(), NotAnSvid> {
    match cert.key_usage() {
        Ok(Some(usage)) if usage.critical && usage.value.flags == DIGITAL_SIGNATURE => {}
        Ok(_) => return Err(NotAnSvid::KeyUsage),
        Err(_) => return Err(NotAnSvid::NotX509),
    }
    match cert.extended_key_usage() {
        Ok(Some(usage)) if usage.value.server_auth && usage.value.client_auth => Ok(()),
        Ok(_) => Err(NotAnSvid::ExtendedKeyUsage),
        Err(_) => Err(NotAnSvid::NotX509),
    }
}

fn check_key(cert: &X509Certificate<'_>) -> Result<(), NotAnSvid> {
    if is_p256(cert.public_key()) { Ok(()) } else { Err(NotAnSvid::Key) }
}

/// Whether a public key is an uncompressed P-256 point, the only kind that leaves of this mesh have.
pub fn is_p256(key: &SubjectPublicKeyInfo<'_>) -> bool {
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    key.algorithm.algorithm == oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve == Some(oid_registry::OID_EC_P256)
        && key.subject_public_key.data.len() == P256_POINT_BYTES
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Which rule a presented certificate breaks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAnSvid {
    #[error("not a DER X.509 v3 certificate")]
    NotX509,
    #[error("longer than {MAX_LEAF_BYTES} bytes")]
    TooLong,
    #[error("{0} URI SANs instead of exactly one (X509-SVID 2)")]
    UriSans(usize),
    #[error(transparent)]
    Id(#[from] identity::NotASpiffeId),
    #[error("{id} is not of trust domain {trust_domain}")]
    TrustDomain { id: SpiffeId, trust_domain: String },
    #[error("subject is not empty, or SAN is not critical")]
    Subject,
    #[error(
        "BasicConstraints is absent or says CA:TRUE: signing certificates never authenticate (X509-SVID 5.2)"
    )]
    Ca,
    #[error("KeyUsage is not critical digitalSignature alone (X509-SVID 4.3)")]
    KeyUsage,
    #[error("extended key usage lacks serverAuth or clientAuth (X509-SVID 4.4)")]
    ExtendedKeyUsage,
    #[error("key is not P-256")]
    Key,
    #[error("chain of {0} certificates; at most {MAX_CHAIN} are looked at")]
    Chain(usize),
}

/// Leaf and intermediates that a peer may present: ours are two, one more leaves room for a brought-along hierarchy, and
/// path building stays far below a handshake's own cost.
pub const MAX_CHAIN: usize = 4;
/// Ours are about 500 bytes; 2 KiB of SPIFFE ID and a hierarchy's extensions fit.
const MAX_LEAF_BYTES: usize = 8 * 1024;
/// Bit 0 of KeyUsage as x509-parser stores it.
const DIGITAL_SIGNATURE: u16 = 1;
/// 0x04, x, y (SEC 1, 2.3.3).
const P256_POINT_BYTES: usize = 65;

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
        SanType,
    };

    const ID: &str = "spiffe://cluster.local/ns/shop/sa/api";

    fn good() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    fn parse(params: CertificateParams, key: &KeyPair) -> Result<Leaf, NotAnSvid> {
        Leaf::parse(params.self_signed(key).unwrap().der())
    }

    #[test]
    fn a_leaf_as_we_issue_it_passes() {
        let leaf = parse(good(), &KeyPair::generate().unwrap()).unwrap();
        assert_eq!(leaf.id.to_string(), ID);
    }

    #[test]
    fn each_rule_refuses_by_its_own_name() {
        let p256 = KeyPair::generate().unwrap();
        let with = |change: fn(&mut CertificateParams)| {
            let mut params = good();
            change(&mut params);
            parse(params, &p256).unwrap_err()
        };
        assert_eq!(with(|p| p.subject_alt_names.clear()), NotAnSvid::UriSans(0));
        assert_eq!(with(|p| p.subject_alt_names.push(p.subject_alt_names[0].clone())), NotAnSvid::UriSans(2));
        assert_eq!(
            with(|p| p.subject_alt_names = vec![SanType::DnsName("spiffe.cluster.local".try_into().unwrap())]),
            NotAnSvid::UriSans(0)
        );
        assert_eq!(with(|p| p.distinguished_name.push(DnType::CommonName, "x")), NotAnSvid::Subject);
        assert_eq!(with(|p| p.is_ca = IsCa::NoCa), NotAnSvid::Ca);
        assert_eq!(with(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), NotAnSvid::Ca);
        assert_eq!(with(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), NotAnSvid::KeyUsage);
        assert_eq!(with(|p| p.key_usages.clear()), NotAnSvid::KeyUsage);
        assert_eq!(with(|p| p.extended_key_usages.clear()), NotAnSvid::ExtendedKeyUsage);
        assert_eq!(with(|p| drop(p.extended_key_usages.pop())), NotAnSvid::ExtendedKeyUsage);
        assert_eq!(
            with(|p| p
                .custom_extensions
                .push(CustomExtension::from_oid_content(&[1, 3, 6, 1], vec![0; 9000]))),
            NotAnSvid::TooLong
        );
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(parse(good(), &p384).unwrap_err(), NotAnSvid::Key);
        assert_eq!(Leaf::parse(b"not a certificate").unwrap_err(), NotAnSvid::NotX509);
    }
}
