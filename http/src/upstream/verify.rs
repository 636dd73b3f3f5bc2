//! Whom a TLS backend must prove to be.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::model::{Roots, San, Verify};

/// Errors: none of the given roots can be used, so that everyone would be refused; whoever wrote them should hear it.
pub(super) fn verifier(
    verify: &Verify,
    well_known: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let expected = match verify {
        Verify::Nothing => None,
        Verify::Against { roots, names } => {
            let roots = match roots {
                Roots::WellKnown => Arc::clone(well_known),
                Roots::These(certificates) => {
                    let mut store = RootCertStore::empty();
                    store.add_parsable_certificates(certificates.iter().cloned());
                    Arc::new(store)
                }
            };
            if roots.is_empty() {
                return Err(Error::General("no root certificate for this backend can be used".into()));
            }
            Some(Expected { roots, names: Arc::clone(names) })
        }
    };
    Ok(Arc::new(Verifier { expected, provider: Arc::clone(provider) }))
}

#[derive(Debug)]
struct Verifier {
    /// `None`: anyone. The handshake is still signed with the key of the certificate.
    expected: Option<Expected>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Expected {
    roots: Arc<RootCertStore>,
    names: Arc<[San]>,
}

impl Expected {
    fn is_named(&self, leaf: &CertificateDer<'_>) -> Result<bool, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let webpki = webpki::EndEntityCert::try_from(leaf)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        Ok(self.names.iter().any(|name| match name {
            San::Dns(name) => ServerName::try_from(name.as_str())
                .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok()),
            San::Uri(uri) => webpki.valid_uri_names().any(|held| held == &**uri),
        }))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>, // the names to be believed are the model's
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(expected) = &self.expected else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &expected.roots, intermediates, now, algorithms)?;
        match expected.is_named(leaf)? {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
