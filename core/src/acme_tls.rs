//! TLS-ALPN-01 (RFC 8737): the handshake by which a gateway shows a certificate authority that a host leads to it. Nothing else is
//! ever said on such a connection.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::{Oid, oid},
    extensions::GeneralName,
    prelude::FromDer as _,
};

use crate::tls::signing_key;

/// What the authority offers, alone.
pub const ALPN: &[u8] = b"acme-tls/1";

/// Why a certificate answers no challenge.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct NotAChallenge(&'static str);

/// What a certificate answers `host`'s challenge with: SHA-256 of the key authorization.
///
/// Errors: it does not parse, it is not for `host` alone (an authority accepts no other), or its acmeIdentifier is missing, not
/// critical, or no hash. Source: RFC 8737 3.
pub fn identifier(certificate: &[u8], host: &str) -> Result<[u8; HASH], NotAChallenge> {
    identified(&parsed(certificate)?, host)
}

fn parsed(certificate: &[u8]) -> Result<X509Certificate<'_>, NotAChallenge> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(NotAChallenge("the certificate has bytes behind it")),
        Err(_) => Err(NotAChallenge("it is no certificate")),
    }
}

fn identified(certificate: &X509Certificate<'_>, host: &str) -> Result<[u8; HASH], NotAChallenge> {
    let names = certificate.subject_alternative_name().ok().flatten();
    match names.map(|names| &names.value.general_names[..]) {
        Some([GeneralName::DNSName(name)]) if name.eq_ignore_ascii_case(host) => {}
        _ => return Err(NotAChallenge("the certificate is not for this host alone")),
    }
    let extension = certificate.get_extension_unique(&ACME_IDENTIFIER).ok().flatten();
    let extension = extension.ok_or(NotAChallenge("the certificate has no acmeIdentifier, or two"))?;
    if !extension.critical {
        return Err(NotAChallenge("its acmeIdentifier is not critical"));
    }
    match extension.value {
        [OCTET_STRING, 32, hash @ ..] => hash.try_into().ok(),
        _ => None,
    }
    .ok_or(NotAChallenge("its acmeIdentifier is no SHA-256 hash"))
}

/// Certificate and key as one. Errors: see [`identifier`]; or the key is of no kind that we know, or is not the certificate's.
pub fn certified(
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'_>,
    host: &str,
) -> Result<Arc<CertifiedKey>, NotAChallenge> {
    let leaf = parsed(&certificate)?;
    identified(&leaf, host)?;
    let key = signing_key(&key.into()).map_err(|_| NotAChallenge("its key is of no kind that we know"))?;
    // rustls' own comparison does not know the extension, and refuses what it does not know.
    if key.public_key().is_none_or(|own| *own != *leaf.public_key().raw) {
        return Err(NotAChallenge("certificate and private key do not make a pair"));
    }
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
}

/// A server that presents `certified` to who speaks acme-tls/1, and resumes nothing: the next authority asks anew.
pub fn server(
    provider: &Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A client that asks as an authority does: its handshake succeeds with who presents a certificate for the name that is asked for
/// and for `identifier`, and has its key. ALPN is to be looked at afterwards: a server may answer none.
pub fn client(provider: &Arc<CryptoProvider>, identifier: [u8; HASH]) -> Result<Arc<ClientConfig>, Error> {
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Expects { identifier, algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Believes in one answer, whoever signed it.
#[derive(Debug)]
struct Expects {
    identifier: [u8; HASH],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Expects {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ServerName::DnsName(host) = name else {
            return Err(refused(NotAChallenge("an address has no such challenge")));
        };
        match identifier(certificate, host.as_ref()).map_err(refused)? {
            own if own == self.identifier => Ok(ServerCertVerified::assertion()),
            _ => Err(refused(NotAChallenge("its acmeIdentifier is another challenge's"))),
        }
    }

    /// Never: TLS 1.2 is not offered.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused(NotAChallenge("it speaks TLS 1.2")))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // By the key: as a certificate webpki refuses it, for its critical extension.
        let leaf = parsed(certificate).map_err(refused)?;
        let key = SubjectPublicKeyInfoDer::from(leaf.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(why: NotAChallenge) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// Bytes of SHA-256.
pub const HASH: usize = 32;
/// id-pe-acmeIdentifier (RFC 8737 6.1).
const ACME_IDENTIFIER: Oid<'static> = oid!(1.3.6.1.5.5.7.1.31);
const OCTET_STRING: u8 = 0x04;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ED25519, SanType};

    use super::*;
    use crate::{edge_tls::edge_provider, tls::default_provider};

    const SHA: [u8; HASH] = [7; HASH];

    fn certificate(names: &[&str], extensions: Vec<CustomExtension>) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let san = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
        params.subject_alt_names = names.iter().map(san).collect();
        params.custom_extensions = extensions;
        (params.self_signed(&key).unwrap().der().clone(), key)
    }

    fn good() -> (CertificateDer<'static>, KeyPair) {
        certificate(&["a.example"], vec![CustomExtension::new_acme_identifier(&SHA)])
    }

    fn raw(value: &[u8], critical: bool) -> CustomExtension {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 31], value.to_vec());
        extension.set_criticality(critical);
        extension
    }

    #[test]
    fn an_answer_is_for_one_host_and_has_one_critical_identifier() {
        assert_eq!(identifier(&good().0, "A.example"), Ok(SHA));
        let hash = [&[OCTET_STRING, 32][..], &SHA].concat();
        let identified = || vec![raw(&hash, true)];
        for (names, extensions, why) in [
            (&["b.example"][..], identified(), "not for this host alone"),
            (&["a.example", "b.example"], identified(), "not for this host alone"),
            (&["*.example"], identified(), "not for this host alone"),
            (&[], identified(), "not for this host alone"),
            (&["a.example"], vec![], "no acmeIdentifier"),
            (&["a.example"], vec![raw(&hash, false)], "not critical"),
            (&["a.example"], vec![raw(&hash[..33], true)], "no SHA-256 hash"),
            (&["a.example"], vec![raw(&SHA, true)], "no SHA-256 hash"),
            (&["a.example"], vec![raw(&[&hash[..], &[0]].concat(), true)], "no SHA-256 hash"),
        ] {
            let said = identifier(&certificate(names, extensions).0, "a.example").unwrap_err().to_string();
            assert!(said.contains(why), "{names:?}: {said}");
        }
        assert!(identifier(b"junk", "a.example").is_err());
        assert!(identifier(&[&good().0[..], &[0]].concat(), "a.example").is_err());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ((ours, key), (_, other)) = (good(), good());
        let pair = |key: &KeyPair| {
            let der = key.serialize_der();
            certified(ours.clone(), PrivatePkcs8KeyDer::from(der.as_slice()), "a.example").map(drop)
        };
        assert_eq!(pair(&key), Ok(()));
        assert!(pair(&other).unwrap_err().to_string().contains("do not make a pair"));
        assert!(pair(&KeyPair::generate_for(&PKCS_ED25519).unwrap()).is_err());
    }

    /// Both ends in memory. The error is the client's.
    fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> Result<Vec<u8>, Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(client, name).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &wire[..]).unwrap();
            let said = server.process_new_packets();
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut &wire[..]).unwrap();
            client.process_new_packets()?;
            said?;
        }
        Ok(client.alpn_protocol().unwrap_or_default().to_vec())
    }

    #[test]
    fn the_client_believes_the_answer_to_its_own_question_and_no_other() {
        let provider = edge_provider(default_provider());
        let serves = |(certificate, key): (CertificateDer<'static>, KeyPair), host| {
            let der = key.serialize_der();
            let pair = certified(certificate, PrivatePkcs8KeyDer::from(der.as_slice()), host).unwrap();
            server(&provider, pair).unwrap()
        };
        let asks = |sha| client(&provider, sha).unwrap();
        assert_eq!(shake(serves(good(), "a.example"), asks(SHA), "a.example").unwrap(), ALPN);
        let other = shake(serves(good(), "a.example"), asks([8; HASH]), "a.example").unwrap_err();
        assert!(format!("{other:?}").contains("another challenge's"), "{other:?}");
        let stranger = shake(serves(good(), "a.example"), asks(SHA), "b.example").unwrap_err();
        assert!(format!("{stranger:?}").contains("not for this host alone"), "{stranger:?}");
    }

    #[test]
    fn a_certificate_without_its_key_proves_nothing() {
        let provider = edge_provider(default_provider());
        let (certificate, _) = good();
        let thief = KeyPair::generate().unwrap().serialize_der();
        let key = signing_key(&PrivatePkcs8KeyDer::from(thief.as_slice()).into()).unwrap();
        let stolen = Arc::new(CertifiedKey::new(vec![certificate], key));
        let said = shake(server(&provider, stolen).unwrap(), client(&provider, SHA).unwrap(), "a.example");
        assert!(matches!(said, Err(Error::InvalidCertificate(CertificateError::BadSignature))), "{said:?}");
    }
}
