//! The server side: TLS is finished, within limits, before gRPC sees a connection.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use signet_core::{
    drain::Drain,
    tls::{ALPN_GRPC, Peer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::debug;

use crate::listen::{Place, Places, accept};

/// What a stranger may take before anyone knows who it is.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accept to finished handshake: two lost flights fit (1 s + 2 s, RFC 6298), a silent client does not.
    pub handshake: Duration,
    /// Connections in all, handshaking ones included.
    pub connections: usize,
    /// Connections of one source address.
    pub per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(5), connections: 4096, per_source: 64 }
    }
}

/// The caller of a gRPC method, in the request's extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The verified SVID; `None` only where the server's config lets clients come without one.
    pub peer: Option<Arc<Peer>>,
    pub address: SocketAddr,
}

/// Accepts on `listener` until `drain` stops. `config` is asked for every connection, so that the newest leaf serves it;
/// while it is `None` (no certificate yet, or expired) connections are closed.
pub fn incoming<F>(
    listener: TcpListener,
    config: F,
    limits: Limits,
    drain: &Drain,
) -> ReceiverStream<io::Result<MeshStream>>
where
    F: Fn() -> Option<Arc<ServerConfig>> + Send + Sync + 'static,
{
    let (ready, stream) = mpsc::channel(ACCEPTED);
    let places = Places::new(limits.connections, limits.per_source);
    let work = drain.clone();
    drain.spawn(async move {
        loop {
            let (tcp, address) = tokio::select! {
                biased;
                () = work.stopping() => return,
                accepted = accept(&listener) => accepted,
            };
            let (Some(place), Some(config)) = (Places::take(&places, address.ip()), config()) else {
                debug!(%address, "connection closed: over the limit, or no certificate to serve it with");
                continue;
            };
            let (ready, deadline) = (ready.clone(), limits.handshake);
            work.spawn(async move {
                match timeout(deadline, handshake(tcp, address, config, place)).await {
                    Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                    Ok(Err(error)) => debug!(%address, %error, "handshake failed"),
                    Err(_) => debug!(%address, "handshake not finished in {deadline:?}"),
                }
            });
        }
    });
    ReceiverStream::new(stream)
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    place: Place,
) -> io::Result<MeshStream> {
    tcp.set_nodelay(true)?;
    let tls = TlsAcceptor::from(config).accept(tcp).await?;
    let connection = tls.get_ref().1;
    let peer = match connection.peer_certificates() {
        Some(_) => Some(Arc::new(Peer::of(connection, ALPN_GRPC).map_err(io::Error::other)?)),
        None => None,
    };
    Ok(MeshStream { tls, caller: Caller { peer, address }, _place: place })
}

/// One accepted connection; it knows its caller.
pub struct MeshStream {
    tls: TlsStream<TcpStream>,
    caller: Caller,
    _place: Place,
}

impl Connected for MeshStream {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Finished handshakes that wait for the server's loop; it takes them at once.
const ACCEPTED: usize = 16;
