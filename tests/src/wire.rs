//! The native wire, written a second time from docs/wire.md for peers that a test plays itself: they present any
//! certificate, verify nobody, and send what they like.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
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
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::pki::Credential;

/// A connection whose TLS handshake ended well on our side. In TLS 1.3 the server's refusal of a client's certificate
/// comes after that: only a frame from the other side shows that it took us.
pub struct Peer {
    tls: TlsStream<Pieces>,
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
        Self::connect_in(Cut::Whole, from, to, credential, alpn).await
    }

    /// The same with a ClientHello that arrives in pieces.
    pub async fn connect_in(
        cut: Cut,
        from: IpAddr,
        to: SocketAddr,
        credential: Option<&Credential>,
        alpn: &[&[u8]],
    ) -> io::Result<Self> {
        let config = client_config(credential, alpn);
        within(async {
            let tcp = connect_from(Some(from), to).await?;
            let tls = TlsConnector::from(config).connect(tls::no_name(), Pieces::new(tcp, cut)?).await?;
            Ok(Self { tls: tls.into() })
        })
        .await
    }

    /// Takes one connection in place of a sidecar, as the server `credential` says.
    pub async fn accept(listener: &TcpListener, credential: &Credential, alpn: &[&[u8]]) -> io::Result<Self> {
        let config = server_config(credential, alpn);
        within(async {
            let (tcp, _) = listener.accept().await?;
            let tls = TlsAcceptor::from(config).accept(Pieces::new(tcp, Cut::Whole)?).await?;
            Ok(Self { tls: tls.into() })
        })
        .await
    }

    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    }

    pub async fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.send_raw(&frame(kind, payload)).await
    }

    /// Frames in one write: in one record, if they fit.
    pub async fn send_together(&mut self, frames: &[(u8, &[u8])]) -> io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
        self.send_raw(&bytes).await
    }

    /// Any bytes, sealed as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(async {
            self.tls.write_all(bytes).await?;
            self.tls.flush().await
        })
        .await
    }

    /// A whole stream as a client: sends `data`, and returns what the app answered.
    pub async fn exchange(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        self.open_with(data).await?;
        self.send(FIN, &[]).await?;
        self.expect(ACCEPT).await?;
        self.receive_to_fin().await
    }

    /// A whole stream as a server that echoes; returns what the app sent.
    pub async fn echo(&mut self) -> io::Result<Vec<u8>> {
        self.expect(OPEN).await?;
        self.send(ACCEPT, &[]).await?; // before it the client keeps what does not fit a flight
        let data = self.receive_to_fin().await?;
        for piece in data.chunks(MAX_DATA) {
            self.send(DATA, piece).await?;
        }
        self.send(FIN, &[]).await?;
        Ok(data)
    }

    /// ACCEPT, one DATA, FIN.
    pub async fn answer(&mut self, data: &[u8]) -> io::Result<()> {
        self.send_together(&[(ACCEPT, &[]), (DATA, data), (FIN, &[])]).await
    }

    /// The next frame, which is of this type.
    pub async fn expect(&mut self, kind: u8) -> io::Result<Vec<u8>> {
        let (got, payload) = self.receive().await?;
        if got == kind {
            return Ok(payload);
        }
        Err(io::Error::other(format!("expected a frame of type {kind}, got type {got} with {payload:?}")))
    }

    /// The payload of all DATA until FIN.
    pub async fn receive_to_fin(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.receive().await? {
                (DATA, data) => all.extend(data),
                (FIN, _) => return Ok(all),
                (kind, payload) => {
                    return Err(io::Error::other(format!(
                        "a frame of type {kind} with {payload:?} in a stream"
                    )));
                }
            }
        }
    }

    /// Reads until the other side ends the connection, and returns the frames that came before. A reset is an end, too.
    pub async fn until_closed(&mut self) -> Vec<RawFrame> {
        let mut frames = Vec::new();
        loop {
            match self.receive().await {
                Ok(frame) => frames.push(frame),
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "still open, after {frames:?}");
                    return frames;
                }
            }
        }
    }

    /// close_notify and the end of our direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        within(self.tls.shutdown()).await
    }

    /// Gone at once: what the other side sends now is answered with a reset.
    pub fn reset(self) {
        let _ = self.tls.get_ref().0.tcp.set_zero_linger(); // closed already is as good
    }

    /// Whether something, an end included, arrives within `patience`.
    pub async fn hears_something_within(&mut self, patience: Duration) -> bool {
        timeout(patience, self.tls.read(&mut [0])).await.is_ok()
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

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a test's frame is small");
    let [_, a, b, c] = length.to_be_bytes();
    [&[kind, a, b, c], payload].concat()
}

/// How a ClientHello is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    Whole,
    /// Two segments; the first has so many bytes.
    Segments(usize),
    /// Segments of one byte.
    Dripped,
    /// TLS records of at most so many bytes.
    Records(usize),
    /// Both at once: records of one byte, in segments that end inside of them.
    DrippedRecords,
}

impl Cut {
    /// One write each.
    pub fn pieces(self, hello: &[u8]) -> VecDeque<Vec<u8>> {
        match self {
            Self::Whole => [hello.to_vec()].into(),
            Self::Segments(first) => {
                let (first, rest) = hello.split_at(first.min(hello.len()));
                [first.to_vec(), rest.to_vec()].into()
            }
            Self::Dripped => hello.iter().map(|byte| vec![*byte]).collect(),
            Self::Records(size) => [in_records(hello, size)].into(),
            Self::DrippedRecords => in_records(hello, 1).chunks(7).map(<[u8]>::to_vec).collect(),
        }
    }
}

/// The same handshake bytes in records of at most `size`.
fn in_records(mut hello: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    while let [kind, major, minor, high, low, rest @ ..] = hello {
        let (body, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        for part in body.chunks(size) {
            let [high, low] = u16::try_from(part.len()).expect("part of a record").to_be_bytes();
            records.extend_from_slice(&[*kind, *major, *minor, high, low]);
            records.extend_from_slice(part);
        }
        hello = behind;
    }
    records
}

/// A TCP connection whose first flight goes out as a [`Cut`] says.
struct Pieces {
    tcp: TcpStream,
    /// Until something was read.
    cut: Option<Cut>,
    unsent: VecDeque<Vec<u8>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pieces {
    fn new(tcp: TcpStream, cut: Cut) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self {
            tcp,
            cut: Some(cut).filter(|cut| *cut != Cut::Whole),
            unsent: VecDeque::new(),
            pause: None,
        })
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.tcp).poll_read(cx, to))?;
        self.cut = None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(cut) = self.cut else { return Pin::new(&mut self.tcp).poll_write(cx, bytes) };
        if self.unsent.is_empty() && self.pause.is_none() {
            self.unsent = cut.pieces(bytes);
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
                if self.unsent.is_empty() {
                    return Poll::Ready(Ok(bytes.len()));
                }
            }
            let Some(mut piece) = self.unsent.pop_front() else { return Poll::Ready(Ok(bytes.len())) };
            match Pin::new(&mut self.tcp).poll_write(cx, &piece) {
                Poll::Ready(sent) => {
                    let rest = piece.split_off(sent?);
                    if !rest.is_empty() {
                        self.unsent.push_front(rest);
                    }
                    // So that the other side reads it as a piece: not what the test rests on, only what makes it sharp.
                    self.pause = Some(Box::pin(sleep(BETWEEN_PIECES)));
                }
                Poll::Pending => {
                    self.unsent.push_front(piece);
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// The first flight of a client that offers `alpn`, as one would send it.
pub fn client_hello(alpn: &[&[u8]]) -> Vec<u8> {
    let mut hello = Vec::new();
    let client = rustls::ClientConnection::new(client_config(None, alpn), tls::no_name());
    client.expect("a configuration that works").write_tls(&mut hello).expect("a Vec takes it");
    hello
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
pub const ABORTED: u8 = 4;
/// The most that a DATA frame holds, and what a client keeps of its app until ACCEPT.
pub const MAX_DATA: usize = 16_380;

const BETWEEN_PIECES: Duration = Duration::from_micros(200);
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
