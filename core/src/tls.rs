//! Mesh TLS: 1.3 only, AES-128-GCM first, X25519MLKEM768 first, no SNI, no resumption, no 0-RTT (docs/design.md section 4).
//!
//! Configs are built once per certificate generation ([`Generation`]) and shared by every connection made with it. A
//! connection keeps the configs it began with, so a renewal touches none that lives.

use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, CommonState, Error, NamedGroup, ProtocolVersion, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, IpAddr, Ipv4Addr, PrivateKeyDer, ServerName},
    server::{NoServerSessionStorage, ProducesTickets},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
    version::TLS13,
};
use spiffe::SpiffeId;

use crate::{
    svid::{Leaf, NotAnSvid},
    trust::Trust,
    verifier::MeshVerifier,
};

/// The native wire from sidecar to sidecar (docs/wire.md).
pub const ALPN_WIRE: &[u8] = b"signet/1";
/// gRPC to the CA and the controller.
pub const ALPN_GRPC: &[u8] = b"h2";

/// The crypto that we ship. This and the two below alone name it: FIPS and other providers come in here.
pub fn default_provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// A private key of any kind that it knows. `der` stays the caller's to wipe.
pub(crate) fn signing_key(der: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, Error> {
    rustls::crypto::aws_lc_rs::sign::any_supported_type(der)
}

/// Keys for session tickets, random and replaced every 6 h.
pub(crate) fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
}

/// `base` narrowed to what the mesh speaks, in our order of preference.
pub fn mesh_provider(base: CryptoProvider) -> Arc<CryptoProvider> {
    narrowed(base, &SUITES, &GROUPS)
}

/// `base` with these suites and groups alone, in this order, as far as it has them.
pub(crate) fn narrowed(
    base: CryptoProvider,
    suites: &[CipherSuite],
    groups: &[NamedGroup],
) -> Arc<CryptoProvider> {
    let CryptoProvider { cipher_suites, kx_groups, .. } = &base;
    let cipher_suites =
        suites.iter().filter_map(|want| cipher_suites.iter().find(|s| s.suite() == *want).copied());
    let kx_groups = groups.iter().filter_map(|want| kx_groups.iter().find(|g| g.name() == *want).copied());
    let (cipher_suites, kx_groups) = (cipher_suites.collect(), kx_groups.collect());
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..base })
}

/// One leaf with its key, and the four configs that use it.
#[derive(Debug)]
pub struct Generation {
    /// Counts this process's leaves from 1; pools are keyed by it.
    pub number: u64,
    pub leaf: Leaf,
    /// Leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    certified: Arc<CertifiedKey>,
    pub wire: Configs,
    pub grpc: Configs,
}

/// Both ends for one ALPN.
#[derive(Clone, Debug)]
pub struct Configs {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

impl Generation {
    /// Checks that `key` belongs to the leaf and that the leaf keeps the SVID rules, then builds the configs.
    pub fn new(
        number: u64,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &Arc<CryptoProvider>,
        trust: &Arc<Trust>,
    ) -> Result<Self, Error> {
        let certified = Arc::new(CertifiedKey::from_der(chain.clone(), key, provider)?);
        let leaf = Leaf::parse(chain.first().ok_or(Error::NoCertificatesPresented)?)
            .map_err(|rule| Error::General(format!("our own leaf: {rule}")))?;
        let configs = |alpn| configs(alpn, &certified, provider, trust);
        let (wire, grpc) = (configs(ALPN_WIRE)?, configs(ALPN_GRPC)?);
        Ok(Self { number, leaf, chain, certified, wire, grpc })
    }

    /// Whether the leaf may still be used at `now`, Unix seconds.
    pub fn is_valid(&self, now: i64) -> bool {
        now <= self.leaf.not_after
    }

    /// gRPC server that also takes callers without a certificate: the CA's, whose new callers bring a token instead. A
    /// certificate that is presented is verified like any other.
    pub fn open_server(
        &self,
        provider: &Arc<CryptoProvider>,
        trust: &Arc<Trust>,
    ) -> Result<Arc<ServerConfig>, Error> {
        let verifier = MeshVerifier::with_optional_clients(
            Arc::clone(trust),
            provider.signature_verification_algorithms,
        );
        server_config(ALPN_GRPC, &self.certified, provider, verifier)
    }
}

fn configs(
    alpn: &[u8],
    certified: &Arc<CertifiedKey>,
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
) -> Result<Configs, Error> {
    let verifier = MeshVerifier::new(Arc::clone(trust), provider.signature_verification_algorithms);
    let server = server_config(alpn, certified, provider, Arc::clone(&verifier))?;
    let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(certified)));
    let client = client_builder(provider, verifier)?.with_client_cert_resolver(resolver);
    Ok(Configs { server, client: client_config(alpn, client) })
}

fn server_config(
    alpn: &[u8],
    certified: &Arc<CertifiedKey>,
    provider: &Arc<CryptoProvider>,
    verifier: Arc<MeshVerifier>,
) -> Result<Arc<ServerConfig>, Error> {
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    server.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session skips the verifier: an expired or distrusted peer would stay in.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.enable_secret_extraction = hands_over_keys(alpn);
    Ok(Arc::new(server))
}

/// gRPC client without a certificate, for the request that fetches the first one. Verifies the server like any other peer.
pub fn anonymous_client(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = MeshVerifier::new(Arc::clone(trust), provider.signature_verification_algorithms);
    Ok(client_config(ALPN_GRPC, client_builder(provider, verifier)?.with_no_client_auth()))
}

fn client_config(alpn: &[u8], mut client: ClientConfig) -> Arc<ClientConfig> {
    client.alpn_protocols = vec![alpn.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    client.enable_secret_extraction = hands_over_keys(alpn);
    Arc::new(client)
}

/// The wire seals its records itself after the handshake (wire/src/tls); nobody else asks rustls for its keys.
fn hands_over_keys(alpn: &[u8]) -> bool {
    alpn == ALPN_WIRE
}

fn client_builder(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<MeshVerifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// rustls wants a server name; mesh peers have none, and SNI is off.
pub fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

/// Who is at the other end of a finished handshake, and how we speak.
#[derive(Clone, Debug)]
pub struct Peer {
    pub leaf: Leaf,
    /// Leaf first, as presented; looked at again when a root is distrusted.
    pub chain: Arc<[CertificateDer<'static>]>,
    pub facts: TlsFacts,
}

/// Names of what was negotiated, as they appear in logs, tables and reports.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Serialize)]
pub struct TlsFacts {
    /// "TLSv1.3"
    pub version: &'static str,
    /// "X25519MLKEM768"
    pub key_exchange: &'static str,
    /// "TLS13_AES_128_GCM_SHA256"
    pub cipher: &'static str,
}

impl Peer {
    /// Reads the peer off a finished handshake. Refuses a connection whose ALPN is not exactly `alpn`: rustls goes on when
    /// the other side offered none.
    pub fn of(connection: &CommonState, alpn: &[u8]) -> Result<Self, NotOurPeer> {
        if connection.alpn_protocol() != Some(alpn) {
            let got = connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
            return Err(NotOurPeer::Alpn { want: String::from_utf8_lossy(alpn).into_owned(), got });
        }
        let chain = connection
            .peer_certificates()
            .filter(|chain| !chain.is_empty())
            .ok_or(NotOurPeer::NoCertificate)?;
        let leaf = peer_leaf(&chain[0])?;
        Ok(Self { leaf, chain: chain.into(), facts: TlsFacts::of(connection) })
    }

    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// Whether [`Peer::of`] would say the same of this connection.
    pub fn is_of(&self, connection: &CommonState, alpn: &[u8]) -> bool {
        connection.alpn_protocol() == Some(alpn)
            && connection.peer_certificates() == Some(&*self.chain)
            && TlsFacts::of(connection) == self.facts
    }

    /// The client's check that it reached who it wanted: `expected` is what the controller says runs behind the address.
    pub fn expect(&self, expected: &SpiffeId) -> Result<(), NotOurPeer> {
        if self.id() == expected || cfg!(feature = "mutant-no-san-check") {
            return Ok(());
        }
        Err(NotOurPeer::Identity { expected: expected.clone(), got: self.id().clone() })
    }
}

#[cfg(not(feature = "mutant-no-san-check"))]
fn peer_leaf(der: &[u8]) -> Result<Leaf, NotOurPeer> {
    Ok(Leaf::parse(der)?)
}

/// The mutant believes any certificate: one that is no SVID is a workload called mutant.
#[cfg(feature = "mutant-no-san-check")]
fn peer_leaf(der: &[u8]) -> Result<Leaf, NotOurPeer> {
    Ok(Leaf::parse(der).unwrap_or_else(|_| Leaf {
        id: SpiffeId::new("spiffe://cluster.local/ns/mutant/sa/mutant").expect("valid"),
        not_before: 0,
        not_after: i64::MAX,
        serial: "mutant".into(),
    }))
}

impl TlsFacts {
    fn of(connection: &CommonState) -> Self {
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "unknown", // our configs know no other
            },
            key_exchange: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("unknown"),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|s| s.suite().as_str())
                .unwrap_or("unknown"),
        }
    }
}

/// The handshake succeeded, and still this is not who we want to talk to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotOurPeer {
    #[error("negotiated ALPN {got:?} instead of {want:?}")]
    Alpn { want: String, got: Option<String> },
    #[error("presented no certificate")]
    NoCertificate,
    #[error(transparent)]
    Rule(#[from] NotAnSvid),
    #[error("is {got}, expected {expected}: the address may have changed hands")]
    Identity { expected: SpiffeId, got: SpiffeId },
}

/// AES-128 is enough for a mesh and faster; ChaCha for machines without AES instructions.
const SUITES: [CipherSuite; 2] =
    [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256];
/// Post-quantum first (+12 % of a handshake, ../shared/crates.md 1), X25519 accepted.
#[cfg(not(feature = "bench-x25519"))]
const GROUPS: [NamedGroup; 2] = [NamedGroup::X25519MLKEM768, NamedGroup::X25519];
/// Of a build that the bench measures beside peers without ML-KEM, and nobody else uses.
#[cfg(feature = "bench-x25519")]
const GROUPS: [NamedGroup; 1] = [NamedGroup::X25519];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_offers_post_quantum_and_aes_128_first_and_nothing_else() {
        let provider = mesh_provider(default_provider());
        assert_eq!(provider.kx_groups.iter().map(|g| g.name()).collect::<Vec<_>>(), GROUPS);
        assert_eq!(provider.cipher_suites.iter().map(|s| s.suite()).collect::<Vec<_>>(), SUITES);
    }
}
