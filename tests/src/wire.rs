//! The native wire, written a second time from docs/wire.md for peers that a test plays itself: they present any
//! certificate, verify nobody, and send what they like.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use signet_core::tls;
use signet_link::client::connect_from;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::pki::Credential;

/// A connection whose TLS handshake ended well on our side. In TLS 1.3 the server's refusal of a client's certificate
/// comes after that: only a frame from the other side shows that it took us.
pub struct Peer {
    tls: TlsStream<tokio::net::TcpStream>,
}

/// Type and payload.
pub type RawFrame = (u8, Vec<u8>);

impl Peer {
    /// Dials a proxy as the client `credential` says, or as one without a certificate.
    pub async fn connect(
        from: IpAddr,
        to: SocketAddr,
        credential: Option<&Credential>,
        alpn: &[&[u8]],
    ) -> io::Result<Self> {
        let config = client_config(credential, alpn);
        within(async {
            let tcp = connect_from(Some(from), to).await?;
            let tls = TlsConnector::from(config).connect(tls::no_name(), tcp).await?;
            Ok(Self { tls: tls.into() })
        })
        .await
    }

    /// Takes one connection in place of a sidecar, as the server `credential` says.
    pub async fn accept(listener: &TcpListener, credential: &Credential, alpn: &[&[u8]]) -> io::Result<Self> {
        let config = server_config(credential, alpn);
        within(async {
            let (tcp, _) = listener.accept().await?;
            let tls = TlsAcceptor::from(config).accept(tcp).await?;
            Ok(Self { tls: tls.into() })
        })
        .await
    }

    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    }

    pub async fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let [_, a, b, c] = u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes();
        let frame = [&[kind, a, b, c], payload].concat();
        within(async {
            self.tls.write_all(&frame).await?;
            self.tls.flush().await
        })
        .await
    }

    /// OPEN and one DATA, as a client with something to say does.
    pub async fn open_with(&mut self, data: &[u8]) -> io::Result<()> {
        self.send(OPEN, &[]).await?; // an empty message: both fields are for logs
        self.send(DATA, data).await
    }

    /// The next frame. Errors: the other side refused, reset or ended.
    pub async fn receive(&mut self) -> io::Result<RawFrame> {
        within(async {
            let mut head = [0; 4];
            self.tls.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
            let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.tls.read_exact(&mut payload).await?;
            Ok((head[0], payload))
        })
        .await
    }
}

async fn within<T>(act: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, act).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn client_config(credential: Option<&Credential>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(tls::default_provider()); // all of it: P-521 and RSA keys must be able to sign
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match credential {
        None => builder.with_no_client_auth(),
        Some(credential) => builder.with_client_cert_resolver(resolver(credential, &provider)),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.enable_sni = false;
    Arc::new(config)
}

fn server_config(credential: &Credential, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let provider = Arc::new(tls::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_cert_resolver(resolver(credential, &provider));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Without rustls' check that key and certificate belong together: that is for honest peers.
fn resolver(credential: &Credential, provider: &CryptoProvider) -> Arc<SingleCertAndKey> {
    let key =
        provider.key_provider.load_private_key(credential.key.clone_key()).expect("the provider's own key");
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(credential.chain.clone(), key)))
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
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

/// The one ALPN of the native wire.
pub const ALPN: &[&[u8]] = &[b"signet/1"];
pub const OPEN: u8 = 0x01;
pub const ACCEPT: u8 = 0x02;
pub const DATA: u8 = 0x03;
pub const FIN: u8 = 0x04;
pub const RST: u8 = 0x05;
pub const GOAWAY: u8 = 0x06;
/// The payload of RST.
pub const REFUSED: u8 = 1;
pub const DENIED: u8 = 2;
pub const DRAINING: u8 = 3;

/// Longer than any deadline of the proxy.
const DEADLINE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hostile, network::Network, pki::Authority};

    #[tokio::test]
    async fn a_test_can_play_both_ends_with_every_hostile_certificate() {
        let network = Network::claim();
        let listener = TcpListener::bind((network.address(0, 2), 8080)).await.unwrap();
        let address = listener.local_addr().unwrap();
        for case in hostile::table(&Authority::new(), "shop/api") {
            let client = Peer::connect(network.address(0, 3), address, Some(&case.credential), ALPN);
            let server = Peer::accept(&listener, &case.credential, ALPN);
            let (client, server) = tokio::join!(client, server);
            let mut server = server.unwrap_or_else(|e| panic!("{}: {e}", case.name));
            client.unwrap_or_else(|e| panic!("{}: {e}", case.name)).open_with(b"secret").await.unwrap();
            assert_eq!(server.receive().await.unwrap(), (OPEN, vec![]), "{}", case.name);
            assert_eq!(server.receive().await.unwrap(), (DATA, b"secret".to_vec()), "{}", case.name);
        }
    }
}
