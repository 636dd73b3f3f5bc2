//! Certificate requests from strangers: read within limits, and believed in nothing but their public key.
//!
//! [`parse`] is the pre-authentication parser (fuzzed as it stands; no cryptography in it); [`Csr::verify`] then checks the
//! signature, the proof that the caller holds the key. What else a request asks for is named for the audit log and ignored.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{
    alg_id,
    pem::{PemObject as _, SectionKind},
};
use serde::Serialize;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry,
    prelude::FromDer as _,
};

use crate::issue::PublicKey;

/// A well-formed request whose signature nobody has checked yet.
#[derive(Debug)]
pub struct Csr {
    key: PublicKey,
    signed: Vec<u8>,
    signature: Vec<u8>,
    algorithm: rustls_pki_types::AlgorithmIdentifier,
    asks: Asks,
}

/// A request whose sender holds the key.
#[derive(Debug)]
pub struct Verified {
    pub key: PublicKey,
    pub asks: Asks,
}

/// What the request asked for beside its key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Asks {
    /// The only name asked for, when it is one URI: asking for one's own name is a courtesy, not a finding.
    uri: Option<String>,
    ignored: Vec<Ignored>,
}

impl Asks {
    /// For the audit line of a caller who is `id`.
    pub fn ignored(&self, id: &str) -> Vec<Ignored> {
        let own = self.uri.as_deref() == Some(id);
        self.ignored.iter().copied().filter(|asked| !(own && *asked == Ignored::San)).collect()
    }
}

/// A closed set: strangers write no words of their own into the log.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Ignored {
    San,
    BasicConstraints,
    KeyUsage,
    ExtendedKeyUsage,
    Subject,
    /// Any other extension or attribute.
    Other,
}

/// Parses a PKCS#10 request.
///
/// Shape: at most 8 KiB; exactly one PEM block `CERTIFICATE REQUEST`; a P-256 key; ecdsa-with-SHA256 or -SHA384.
/// Errors: [`BadCsr`]; the caller is refused. The signature is not checked here.
pub fn parse(pem: &[u8]) -> Result<Csr, BadCsr> {
    if pem.len() > MAX_BYTES {
        return Err(BadCsr::TooBig(pem.len()));
    }
    let mut blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem);
    let (Some(Ok((SectionKind::Csr, der))), None) = (blocks.next(), blocks.next()) else {
        return Err(BadCsr::NotACsr);
    };
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| BadCsr::NotACsr)?;
    if !rest.is_empty() {
        return Err(BadCsr::NotACsr);
    }
    let info = &request.certification_request_info;
    let key = PublicKey::from_spki(&info.subject_pki).ok_or(BadCsr::Key)?;
    let algorithm = match &request.signature_algorithm.algorithm {
        oid if *oid == oid_registry::OID_SIG_ECDSA_WITH_SHA256 => alg_id::ECDSA_SHA256,
        oid if *oid == oid_registry::OID_SIG_ECDSA_WITH_SHA384 => alg_id::ECDSA_SHA384,
        _ => return Err(BadCsr::Signature),
    };
    Ok(Csr {
        key,
        signed: info.raw.to_vec(),
        signature: request.signature_value.data.to_vec(),
        algorithm,
        asks: asks(&request),
    })
}

impl Csr {
    /// Checks the proof of possession.
    pub fn verify(self, algorithms: &WebPkiSupportedAlgorithms) -> Result<Verified, BadCsr> {
        let algorithm = algorithms
            .all
            .iter()
            .find(|known| {
                known.public_key_alg_id() == alg_id::ECDSA_P256 && known.signature_alg_id() == self.algorithm
            })
            .ok_or(BadCsr::Signature)?;
        algorithm
            .verify_signature(self.key.point(), &self.signed, &self.signature)
            .map_err(|_| BadCsr::Signature)?;
        Ok(Verified { key: self.key, asks: self.asks })
    }
}

fn asks(request: &X509CertificationRequest<'_>) -> Asks {
    let info = &request.certification_request_info;
    let mut asks = Asks::default();
    if info.subject.iter().next().is_some() {
        asks.ignored.push(Ignored::Subject);
    }
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else {
            asks.ignored.push(Ignored::Other);
            continue;
        };
        for extension in &wanted.extensions {
            asks.ignored.push(match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    if let ([GeneralName::URI(uri)], None) = (&san.general_names[..], &asks.uri) {
                        asks.uri = Some((*uri).to_owned());
                    } else {
                        asks.uri = Some(String::new()); // several names: nobody's own
                    }
                    Ignored::San
                }
                ParsedExtension::BasicConstraints(_) => Ignored::BasicConstraints,
                ParsedExtension::KeyUsage(_) => Ignored::KeyUsage,
                ParsedExtension::ExtendedKeyUsage(_) => Ignored::ExtendedKeyUsage,
                _ => Ignored::Other,
            });
        }
    }
    asks.ignored.sort_unstable();
    asks.ignored.dedup();
    asks
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadCsr {
    #[error("the request is {0} bytes long; at most {MAX_BYTES} are read")]
    TooBig(usize),
    #[error("not one PEM block CERTIFICATE REQUEST with a PKCS#10 request in it")]
    NotACsr,
    #[error("the key is not P-256; no other kind is certified")]
    Key,
    #[error("the request's signature is not its key's (ECDSA with SHA-256 or SHA-384)")]
    Signature,
}

/// A P-256 request with a SPIFFE ID of the greatest length (2 KiB, twice as much in PEM with the rest) fits.
pub(crate) const MAX_BYTES: usize = 8 * 1024;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
        SanType,
    };
    use signet_core::{bundle::certificate_pem, tls};

    pub(crate) const RSA_512: &str = include_str!("../tests/fixtures/rsa-512.csr.pem");
    const ID: &str = "spiffe://cluster.local/ns/shop/sa/api";

    fn read(pem: &str) -> Result<Verified, BadCsr> {
        parse(pem.as_bytes())?.verify(&tls::default_provider().signature_verification_algorithms)
    }

    pub(crate) fn plain() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
    }

    pub(crate) fn pem(params: &CertificateParams) -> String {
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    /// One bit of the signature turned over.
    pub(crate) fn forged() -> String {
        let csr = plain().serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let mut der = csr.der().to_vec();
        *der.last_mut().unwrap() ^= 1;
        certificate_pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    }

    #[test]
    fn a_request_yields_its_key_and_nothing_else() {
        let key = KeyPair::generate().unwrap();
        let csr = plain().serialize_request(&key).unwrap().pem().unwrap();
        let verified = read(&csr).unwrap();
        assert_eq!(Some(verified.key), PublicKey::of(&key));
        assert_eq!(verified.asks.ignored(ID), []);
    }

    #[test]
    fn hostile_requests_are_refused_each_by_its_own_name() {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let by = |key: &KeyPair| plain().serialize_request(key).unwrap().pem().unwrap();
        let good = pem(&plain());
        let mut long = plain();
        long.subject_alt_names =
            vec![SanType::URI(format!("{ID}{}", "x".repeat(MAX_BYTES)).try_into().unwrap())];
        let long = pem(&long);
        for (case, csr, want) in [
            ("empty", String::new(), BadCsr::NotACsr),
            ("words", "please".into(), BadCsr::NotACsr),
            ("cut off", good[..good.len() / 2].to_owned(), BadCsr::NotACsr),
            ("two at once", format!("{good}{good}"), BadCsr::NotACsr),
            ("a certificate's label", good.replace(" REQUEST", ""), BadCsr::NotACsr),
            (
                "garbage in PEM",
                "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".into(),
                BadCsr::NotACsr,
            ),
            ("RSA-512", RSA_512.to_owned(), BadCsr::Key),
            ("P-384", by(&p384), BadCsr::Key),
            ("Ed25519", by(&ed25519), BadCsr::Key),
            ("forged signature", forged(), BadCsr::Signature),
            ("a name of 8 KiB", long.clone(), BadCsr::TooBig(long.len())),
            ("10 MB", "A".repeat(10 << 20), BadCsr::TooBig(10 << 20)),
        ] {
            assert_eq!(read(&csr).unwrap_err(), want, "{case}");
        }
    }

    #[test]
    fn what_is_asked_for_is_named_and_ignored() {
        let with = |change: fn(&mut CertificateParams)| {
            let mut params = plain();
            change(&mut params);
            read(&pem(&params)).unwrap().asks.ignored(ID)
        };
        assert_eq!(with(|p| p.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())]), []);
        assert_eq!(
            with(|p| p.subject_alt_names =
                vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/db".try_into().unwrap())]),
            [Ignored::San]
        );
        assert_eq!(
            with(|p| p.subject_alt_names =
                vec![SanType::URI(ID.try_into().unwrap()), SanType::DnsName("api.shop".try_into().unwrap())]),
            [Ignored::San]
        );
        assert_eq!(
            with(|p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
                p.distinguished_name.push(DnType::CommonName, "root");
            }),
            [Ignored::BasicConstraints, Ignored::KeyUsage, Ignored::Subject]
        );
        assert_eq!(
            with(|p| p
                .custom_extensions
                .push(rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1], vec![5, 0]))),
            [Ignored::Other]
        );
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }
        /// The same, beyond the PEM layer. (A few bits outside of what is signed may change without harm.)
        #[test]
        fn no_damage_to_a_request_panics_or_brings_in_another_key(at in 0usize..10_000, bit in 0u8..8) {
            let key = KeyPair::generate().unwrap();
            let csr = plain().serialize_request(&key).unwrap();
            let mut der = csr.der().to_vec();
            let at = at % der.len();
            der[at] ^= 1 << bit;
            let pem = certificate_pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
            if let Ok(verified) = read(&pem) {
                prop_assert_eq!(Some(verified.key), PublicKey::of(&key));
            }
        }
    }
}
