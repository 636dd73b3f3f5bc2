//! A certificate for a DNS name, by which others know a part of ours that they cannot know by SPIFFE ID: the API server, whose
//! webhook client wants a name. Its TLS takes 1.2 too, and no client certificate: who asks is not known and need not be.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, Error, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{svid::MAX_CHAIN, trust::Trust};

/// One leaf for a name, with its key and the config that serves it.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Unix seconds.
    pub not_after: i64,
    pub config: Arc<ServerConfig>,
    /// Leaf first, then intermediates.
    chain: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
}

impl Serving {
    /// Checks that `key` belongs to the leaf and that a client who believes our roots takes the chain for `name`.
    pub fn new(
        name: &ServerName<'static>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: Arc<CryptoProvider>,
        trust: &Trust,
        now: i64,
    ) -> Result<Self, Error> {
        let leaf = chain.first().ok_or(Error::NoCertificatesPresented)?;
        let not_after = not_after(leaf)?;
        let certified = Arc::new(CertifiedKey::from_der(chain.clone(), key, &provider)?);
        let algorithms = provider.signature_verification_algorithms.all;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every connection is one request: a session to resume would only be memory.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let serving = Self { not_after, config: Arc::new(config), chain, name: name.clone() };
        serving.check(algorithms, trust, now)?;
        Ok(serving)
    }

    /// Whether such a client takes it at `now`, Unix seconds. It is asked again whenever the roots change.
    pub fn check(
        &self,
        algorithms: &[&dyn rustls::pki_types::SignatureVerificationAlgorithm],
        trust: &Trust,
        now: i64,
    ) -> Result<(), Error> {
        let (leaf, intermediates) = self.chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        if intermediates.len() >= MAX_CHAIN {
            return Err(CertificateError::BadEncoding.into());
        }
        let leaf = EndEntityCert::try_from(leaf).map_err(path_error)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        let usage = KeyUsage::server_auth();
        leaf.verify_for_usage(algorithms, &trust.anchors(), intermediates, now, usage, None, None)
            .map_err(path_error)?;
        leaf.verify_is_valid_for_subject_name(&self.name).map_err(path_error)
    }

    pub fn is_valid(&self, now: i64) -> bool {
        now <= self.not_after
    }
}

fn not_after(leaf: &CertificateDer<'_>) -> Result<i64, Error> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    Ok(leaf.validity().not_after.timestamp())
}

fn path_error(error: webpki::Error) -> Error {
    Error::General(format!("no client would take it: {error}"))
}
