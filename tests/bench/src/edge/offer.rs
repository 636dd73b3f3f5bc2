//! What the load generator offers, and what it holds every connection to: TLS 1.3, AES-128-GCM, one key exchange, a full
//! handshake or a resumed one, and a certificate of the CA that it believes. What is otherwise is an error.

use std::{io, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use signet_core::tls::default_provider;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The name of the host that every edge serves.
pub const HOST: &str = "edge.bench";
pub const H1: &[u8] = b"http/1.1";
pub const H2: &[u8] = b"h2";

#[derive(Clone)]
pub struct Offer {
    config: Arc<ClientConfig>,
    group: NamedGroup,
    alpn: &'static [u8],
    kind: HandshakeKind,
}

impl Offer {
    /// Full handshakes.
    pub fn new(root_pem: &str, group: NamedGroup, alpn: &'static [u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root_pem.as_bytes())?)?;
        let provider = default_provider();
        let only = CryptoProvider {
            cipher_suites: provider.cipher_suites.into_iter().filter(|s| s.suite() == SUITE).collect(),
            kx_groups: provider.kx_groups.into_iter().filter(|kx| kx.name() == group).collect(),
            ..provider
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(only))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("TLS 1.3 with one suite and one group")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), group, alpn, kind: HandshakeKind::Full })
    }

    /// The same client with a memory of its own for sessions: after a first connection of kind [`HandshakeKind::Full`] every
    /// other one is to be resumed. Returns that first offer, and the one for all others.
    pub fn resuming(&self) -> (Self, Self) {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let first = Self { config: Arc::new(config), ..self.clone() };
        let others = Self { kind: HandshakeKind::Resumed, ..first.clone() };
        (first, others)
    }

    pub async fn connect(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await?;
        let connection = stream.get_ref().1;
        let group = connection.negotiated_key_exchange_group().map(|group| group.name());
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let got = (connection.protocol_version(), suite, group, connection.handshake_kind());
        let wanted = (Some(ProtocolVersion::TLSv1_3), Some(SUITE), Some(self.group), Some(self.kind));
        if got != wanted {
            return Err(io::Error::other(format!("negotiated {got:?}, not {wanted:?}")));
        }
        if connection.alpn_protocol() != Some(self.alpn) {
            return Err(io::Error::other(format!("another protocol than {:?}", self.config.alpn_protocols)));
        }
        Ok(stream)
    }
}

const SUITE: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
/// Of one server.
const SESSIONS: usize = 32;
