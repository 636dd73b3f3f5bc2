//! A certificate authority of the web, as far as a gateway meets it: what it asks for, and how.

use std::{io, net::IpAddr, sync::Arc};

use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use signet_controller::edge::acme::asked::Gateway;
use signet_core::tls;
use signet_http::{
    contract::{
        certificate::PrivateKey,
        challenge::{Challenge, TlsAlpn01},
    },
    model::Http01,
};

/// What the answer to an HTTP-01 challenge ends with; no other answer of a test has it.
pub const THUMBPRINT: &str = "evGfFLMsU3pWvh4QF_cGdZUmDpVsCdqyr7gRjWbjmqk";

pub fn http_01(host: &str, token: &str) -> Challenge {
    let host = host.parse().expect("a host");
    Challenge::Http01(Http01::new(host, token, &format!("{token}.{THUMBPRINT}")).expect("a token"))
}

/// With a new key. `hash` tells one from another.
pub fn tls_alpn_01(host: &str, hash: u8) -> TlsAlpn01 {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName(host.try_into().expect("a DNS name"))];
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[hash; 32])];
    let certificate = params.self_signed(&key).expect("it signs itself").der().clone();
    TlsAlpn01 { host: host.parse().expect("a host"), certificate, key: PrivateKey::new(key.serialize_der()) }
}

/// The ports of all Ingresses at `address`.
pub fn asked(address: IpAddr) -> Gateway {
    Gateway { address, http: 8080, https: 8443 }
}

/// A client that takes any certificate: the test looks at what it was shown.
pub fn credulous(versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(tls::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Whether a handshake ended with the alert that says "not by this protocol".
pub fn is_no_application_protocol(error: &io::Error) -> bool {
    error.to_string().to_ascii_lowercase().replace(' ', "").contains("noapplicationprotocol")
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
