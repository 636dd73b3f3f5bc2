//! The client side: one HTTP/2 connection to a part of the control plane, which must prove its pinned SPIFFE ID.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use signet_core::{
    identity::SpiffeId,
    tls::{self, ALPN_GRPC, NotOurPeer, Peer},
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Target, place::Place};

/// Connects and returns a channel. `config` is asked at every (re)connect, so that the newest leaf is used; `None` means
/// that there is none to use. `source`: the local address to dial from, the workload's own.
///
/// Errors: [`Unreachable`]; what `target` sent is not trusted before its ID was checked.
pub async fn channel<F>(target: &Target, source: Option<IpAddr>, config: F) -> Result<Channel, Unreachable>
where
    F: Fn() -> Option<Arc<ClientConfig>> + Clone + Send + Sync + 'static,
{
    let connector = {
        let target = target.clone();
        tower::service_fn(move |_: Uri| {
            let (target, config) = (target.clone(), config());
            async move { Ok::<_, Unreachable>(TokioIo::new(dial(&target, source, config).await?)) }
        })
    };
    endpoint(&target.address)
        .connect_with_connector(connector)
        .await
        .map_err(|e| Unreachable::from_transport(target, e))
}

fn endpoint(address: &Place) -> Endpoint {
    // The URI is only HTTP/2's :authority; the connector dials `target`.
    Endpoint::from(
        Uri::builder()
            .scheme("http")
            .authority(address.to_string())
            .path_and_query("/")
            .build()
            .unwrap_or_default(),
    )
    .connect_timeout(CONNECT)
    .http2_keep_alive_interval(KEEP_ALIVE)
    .keep_alive_timeout(KEEP_ALIVE)
    .keep_alive_while_idle(true)
}

async fn dial(
    target: &Target,
    source: Option<IpAddr>,
    config: Option<Arc<ClientConfig>>,
) -> Result<TlsStream<TcpStream>, Unreachable> {
    let failed =
        |source| Unreachable::Connect { id: target.id.clone(), address: target.address.clone(), source };
    let config = config.ok_or_else(|| Unreachable::NoCertificate { id: target.id.clone() })?;
    let tcp = connect(source, &target.address).await.map_err(failed)?;
    let tls = TlsConnector::from(config).connect(tls::no_name(), tcp).await.map_err(failed)?;
    let peer = Peer::of(tls.get_ref().1, ALPN_GRPC).and_then(|peer| peer.expect(&target.id).map(|()| peer));
    peer.map_err(|why| Unreachable::Impostor { address: target.address.clone(), why })?;
    Ok(tls)
}

/// The first of its addresses that answers.
async fn connect(source: Option<IpAddr>, to: &Place) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in to.resolve().await? {
        match connect_from(source, address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Dials from a workload's own address, so that its peers see it as Kubernetes would show it.
pub async fn connect_from(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A part of the control plane could not be reached, or is not who it should be.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("cannot reach {id} at {address}")]
    Connect { id: SpiffeId, address: Place, source: io::Error },
    #[error("who listens at {address} is not trusted: {why}; compare bundles: signet ca status")]
    Impostor { address: Place, why: NotOurPeer },
    #[error("cannot reach {id} without a certificate of our own")]
    NoCertificate { id: SpiffeId },
    #[error("cannot reach {id} at {address}: {why}")]
    Transport { id: SpiffeId, address: Place, why: String },
}

impl Unreachable {
    /// tonic wraps the connector's error; the innermost message is the one that helps.
    fn from_transport(target: &Target, error: tonic::transport::Error) -> Self {
        let mut innermost: &dyn std::error::Error = &error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self::Transport { id: target.id.clone(), address: target.address.clone(), why: innermost.to_string() }
    }
}

/// Two lost SYNs (1 s + 2 s, RFC 6298) and a handshake fit.
const CONNECT: Duration = Duration::from_secs(5);
/// A control plane that is hung, not dead, is noticed within twice this; data planes live on what they know meanwhile.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
