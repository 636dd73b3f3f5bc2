//! What has to be where, for a CA to believe that a name is ours.

use std::fmt;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::order::{Kind, Pending};

/// One challenge. There may be two of one host: of its own, and of the wildcard below it.
#[derive(Clone, Eq, PartialEq)]
pub struct Challenge {
    /// Without the `*.` of a wildcard.
    pub host: String,
    /// Whose Ingress it is; DNS credentials are given to namespaces.
    pub namespace: String,
    pub answer: Answer,
}

#[derive(Clone, Eq, PartialEq)]
pub enum Answer {
    /// `GET http://<host>/.well-known/acme-challenge/<token>` (RFC 8555 8.3).
    Http01 { token: String, key_authorization: String },
    /// A handshake with SNI `<host>` and ALPN `acme-tls/1` alone (RFC 8737).
    TlsAlpn01(AlpnCertificate),
    /// `<name>. TXT "<value>"` (RFC 8555 8.4); beside other values, where there are some.
    Dns01 { name: String, value: String },
}

/// What a handshake of TLS-ALPN-01 is answered with.
#[derive(Clone, Eq, PartialEq)]
pub struct AlpnCertificate {
    /// Self-signed, for the host, with the digest in it. Its critical extension is one that webpki does not know: whoever serves it puts
    /// it together with its key without having it parsed (`CertifiedKey::new`, not `from_der`).
    pub certificate: CertificateDer<'static>,
    /// PKCS#8, DER.
    pub key: Zeroizing<Vec<u8>>,
    /// SHA-256 of the key authorization: what the CA looks for in the certificate.
    pub digest: [u8; 32],
}

impl Challenge {
    /// Made of what is stored. Errors: no key could be made.
    pub fn of(pending: &Pending) -> Result<Self, rcgen::Error> {
        let digest: [u8; 32] = Sha256::digest(pending.key_authorization.as_bytes()).into();
        let answer = match pending.kind {
            Kind::Http01 => Answer::Http01 {
                token: pending.token.clone(),
                key_authorization: pending.key_authorization.clone(),
            },
            Kind::TlsAlpn01 => Answer::TlsAlpn01(AlpnCertificate::new(&pending.host, digest)?),
            Kind::Dns01 => Answer::Dns01 {
                name: format!("_acme-challenge.{}", pending.host),
                value: BASE64_URL_SAFE_NO_PAD.encode(digest),
            },
        };
        Ok(Self { host: pending.host.clone(), namespace: pending.namespace.clone(), answer })
    }

    pub fn kind(&self) -> Kind {
        match self.answer {
            Answer::Http01 { .. } => Kind::Http01,
            Answer::TlsAlpn01(_) => Kind::TlsAlpn01,
            Answer::Dns01 { .. } => Kind::Dns01,
        }
    }
}

impl AlpnCertificate {
    /// RFC 8737 3: the host as only name, the digest in a critical extension. It is never judged by its dates.
    pub fn new(host: &str, digest: [u8; 32]) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.der().clone(), key: Zeroizing::new(key.serialize_der()), digest })
    }

    pub fn key_der(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.key.as_slice())
    }
}

/// The key that an [`AlpnCertificate`] has is worth nothing but an answer to a CA; it is not printed all the same.
impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({} of {}, for {})", self.kind().as_str(), self.host, self.namespace)
    }
}

/// The only ALPN that a gateway offers in such a handshake, and answers it for.
pub const ACME_TLS: &[u8] = b"acme-tls/1";
/// Of HTTP-01, in front of the token.
pub const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    fn pending(kind: Kind) -> Pending {
        Pending {
            host: "example.org".into(),
            wildcard: false,
            kind,
            token: "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA".into(),
            key_authorization:
                "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
                    .into(),
            namespace: "shop".into(),
            proven: false,
        }
    }

    #[test]
    fn a_txt_record_is_the_digest_of_the_key_authorization_below_the_host() {
        let challenge = Challenge::of(&pending(Kind::Dns01)).unwrap();
        let Answer::Dns01 { name, value } = challenge.answer else { panic!() };
        assert_eq!(name, "_acme-challenge.example.org");
        let digest = Sha256::digest(pending(Kind::Dns01).key_authorization);
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(value).unwrap(), digest.as_slice());
    }

    #[test]
    fn the_alpn_certificate_names_the_host_alone_and_carries_the_digest_as_rfc_8737_has_it() {
        let challenge = Challenge::of(&pending(Kind::TlsAlpn01)).unwrap();
        let Answer::TlsAlpn01(alpn) = &challenge.answer else { panic!() };
        let (_, leaf) = X509Certificate::from_der(&alpn.certificate).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(format!("{:?}", names.value.general_names), "[DNSName(\"example.org\")]");
        let identifier =
            leaf.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(identifier.critical);
        assert_eq!(identifier.value, [&[4, 32], &alpn.digest[..]].concat());
        let key = KeyPair::try_from(&alpn.key_der()).unwrap();
        assert_eq!(rcgen::PublicKeyData::der_bytes(&key), &leaf.public_key().subject_public_key.data[..]);
        assert!(!format!("{challenge:?}").contains("evaGx"));
    }
}
