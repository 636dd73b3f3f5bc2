//! The server side: TLS is finished, within limits, before gRPC sees a connection.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
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
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

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

/// Listens on `address`. `[::]` takes both families; on a node whose kernel has no IPv6 it is 0.0.0.0 instead.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(NO_SUCH_FAMILY) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
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
    let counts = Counts::new(limits.clone());
    let work = drain.clone();
    drain.spawn(async move {
        loop {
            let (tcp, address) = tokio::select! {
                biased;
                () = work.stopping() => return,
                accepted = listener.accept() => match accepted {
                    // On [::] a peer's 10.0.0.1 is ::ffff:10.0.0.1: one address, one spelling.
                    Ok((tcp, from)) => (tcp, SocketAddr::new(from.ip().to_canonical(), from.port())),
                    Err(error) => {
                        warn!(%error, "accept failed; trying again in {ACCEPT_PAUSE:?}");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (Some(slot), Some(config)) = (Counts::take(&counts, address.ip()), config()) else {
                debug!(%address, "connection closed: over the limit, or no certificate to serve it with");
                continue;
            };
            let (ready, deadline) = (ready.clone(), limits.handshake);
            work.spawn(async move {
                match timeout(deadline, handshake(tcp, address, config, slot)).await {
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
    slot: Slot,
) -> io::Result<MeshStream> {
    tcp.set_nodelay(true)?;
    let tls = TlsAcceptor::from(config).accept(tcp).await?;
    let connection = tls.get_ref().1;
    let peer = match connection.peer_certificates() {
        Some(_) => Some(Arc::new(Peer::of(connection, ALPN_GRPC).map_err(io::Error::other)?)),
        None => None,
    };
    Ok(MeshStream { tls, caller: Caller { peer, address }, _slot: slot })
}

/// One accepted connection; it knows its caller.
pub struct MeshStream {
    tls: TlsStream<TcpStream>,
    caller: Caller,
    _slot: Slot,
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

/// How many connections each source has.
pub(crate) struct Counts {
    limits: Limits,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place in the counts; dropping it gives the place back.
pub(crate) struct Slot {
    counts: Arc<Counts>,
    source: IpAddr,
}

impl Counts {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    pub(crate) fn take(counts: &Arc<Self>, source: IpAddr) -> Option<Slot> {
        let mut open = counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = open.values().sum();
        let of_source = open.get(&source).copied().unwrap_or(0);
        if total >= counts.limits.connections || of_source >= counts.limits.per_source {
            return None;
        }
        open.insert(source, of_source + 1);
        Some(Slot { counts: Arc::clone(counts), source })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.source) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(open.remove(&self.source)),
        }
    }
}

/// EAFNOSUPPORT.
const NO_SUCH_FAMILY: i32 = 97;
/// Finished handshakes that wait for the server's loop; it takes them at once.
const ACCEPTED: usize = 16;
/// Out of descriptors: long enough not to spin, short enough not to be noticed.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_the_places_of_others_and_gives_its_own_back() {
        let limits = Limits { connections: 3, per_source: 2, ..Limits::default() };
        let counts = Counts::new(limits);
        let [a, b, c] = ["198.18.0.1", "198.18.0.2", "198.18.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let first = Counts::take(&counts, a);
        let second = Counts::take(&counts, a);
        assert!(first.is_some() && second.is_some() && Counts::take(&counts, a).is_none());
        let other = Counts::take(&counts, b);
        assert!(other.is_some() && Counts::take(&counts, c).is_none(), "three in all");
        drop(first);
        assert!(Counts::take(&counts, a).is_some());
    }
}
