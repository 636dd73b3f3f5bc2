//! One verifier for both sides of mesh TLS: path to a believed root, then the X.509-SVID rules, then our trust domain.
//! Who exactly the peer must be is asked after the handshake, before the first frame ([`crate::tls::Peer`]).

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::KeyUsage;

use crate::{
    svid::{Leaf, MAX_CHAIN, NotAnSvid},
    trust::Trust,
    verified::{Key, Verified},
};

/// Verifies peers of this mesh against the live [`Trust`].
#[derive(Debug)]
pub struct MeshVerifier {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Whether a client must present a certificate.
    mandatory: bool,
    verified: Verified,
}

impl MeshVerifier {
    pub fn new(trust: Arc<Trust>, algorithms: WebPkiSupportedAlgorithms) -> Arc<Self> {
        Arc::new(Self { trust, algorithms, mandatory: true, verified: Verified::default() })
    }

    /// Clients may come without a certificate; who presents one must pass like any other.
    pub fn with_optional_clients(trust: Arc<Trust>, algorithms: WebPkiSupportedAlgorithms) -> Arc<Self> {
        Arc::new(Self { trust, algorithms, mandatory: false, verified: Verified::default() })
    }

    /// Whether this chain (leaf first) is believed at `now`; the same checks as in a handshake. For our own leaf after the
    /// trust changed, and for the peers of live connections after a root was distrusted.
    pub fn check_chain(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.check(leaf, intermediates, now, KeyUsage::client_auth())
    }

    /// [`MeshVerifier::check`], unless this very chain passed it before and nothing that it rests on has changed.
    fn check_once(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        as_server: bool,
    ) -> Result<(), Error> {
        let (anchors, seconds) = (self.trust.anchors(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let key = Key::of(leaf, intermediates, as_server);
        if self.verified.knows(&key, &anchors, seconds) {
            return Ok(());
        }
        let usage = if as_server { KeyUsage::server_auth() } else { KeyUsage::client_auth() };
        self.check(leaf, intermediates, now, usage)?;
        // The bundle may have changed in between: then the next handshake is checked again, against what it is by then.
        self.verified.remember(key, leaf, intermediates, anchors, seconds);
        Ok(())
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(broken_rule(NotAnSvid::Chain(intermediates.len() + 1)));
        }
        let anchors = self.trust.anchors();
        let cert = webpki::EndEntityCert::try_from(leaf).map_err(|_| broken_rule(NotAnSvid::NotX509))?;
        cert.verify_for_usage(self.algorithms.all, &anchors, intermediates, now, usage, None, None)
            .map_err(path_error)?;
        check_rules(leaf, &self.trust)
    }
}

#[cfg(not(feature = "mutant-no-san-check"))]
fn check_rules(leaf: &CertificateDer<'_>, trust: &Trust) -> Result<(), Error> {
    let leaf = Leaf::parse(leaf).map_err(broken_rule)?;
    if leaf.id.trust_domain() == trust.domain() {
        return Ok(());
    }
    Err(broken_rule(NotAnSvid::TrustDomain { id: leaf.id, trust_domain: trust.domain().to_string() }))
}

/// The mutant that the hostile-certificate test must catch: a trusted path is enough.
#[cfg(feature = "mutant-no-san-check")]
fn check_rules(_leaf: &CertificateDer<'_>, _trust: &Trust) -> Result<(), Error> {
    let _ = |leaf: &[u8]| Leaf::parse(leaf);
    Ok(())
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>, // names are SPIFFE IDs here, compared after the handshake
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_once(leaf, intermediates, now, true)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::SupportedVersionsExtensionRequired)) // never reached: our configs are TLS 1.3 only
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for MeshVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_once(leaf, intermediates, now, false)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

fn broken_rule(rule: NotAnSvid) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rule))))
}

/// webpki's words as rustls' kinds, so that the peer gets the right alert and the log the right reason.
fn path_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    Error::InvalidCertificate(match error {
        E::CertExpired { .. } => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}
