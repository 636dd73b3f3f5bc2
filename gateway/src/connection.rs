//! One client connection, from accept to the engine: PROXY header, if it comes from a load balancer -> places -> ClientHello ->
//! certificate -> handshake -> requests. All of it before the first request has one deadline and a budget for each client.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{HandshakeKind, server::Acceptor};
use signet_core::drain::Drain;
use signet_http::{
    arrival::Arrival,
    model::Scheme,
    serve::{self, Version},
};
use signet_link::listen::{Place, Places, counted_as};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tracing::debug;

use crate::{
    Gateway,
    certificates::{Certified, Offer, Presented},
    limits::Limits,
    metrics::Came,
    proxy_header,
};

/// Who may have how many connections.
pub struct Budget {
    pub connections: Arc<Places>,
    pub handshakes: Arc<Places>,
    /// Of load balancers, until it is known whose connection it is: they come from few addresses.
    balancers: Arc<Places>,
}

impl Budget {
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections: Places::new(limits.connections, limits.connections_per_client),
            handshakes: Places::new(limits.handshakes, limits.handshakes_per_client),
            balancers: Places::new(limits.handshakes, limits.handshakes),
        }
    }
}

/// Why a connection came to no request.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("as many connections are open as may be, of all or of this client")]
    TooMany,
    #[error("as many handshakes are open as may be, of all or of this client")]
    TooManyHandshakes,
    #[error("it did not finish its handshake in time")]
    TimedOut,
    #[error("a load balancer sent no PROXY header")]
    ProxyHeader(#[source] io::Error),
    #[error("no certificate for {sni:?}")]
    UnrecognizedName { sni: Option<String> },
    #[error("its handshake failed")]
    Handshake(#[source] io::Error),
}

impl Refused {
    fn came(&self) -> Came {
        match self {
            Self::TooMany => Came::TooManyConnections,
            Self::TooManyHandshakes => Came::TooManyHandshakes,
            Self::TimedOut => Came::TimedOut,
            Self::ProxyHeader(_) => Came::BadProxyHeader,
            Self::UnrecognizedName { .. } => Came::UnrecognizedName,
            Self::Handshake(_) => Came::Failed,
        }
    }
}

/// Where a connection came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Port {
    pub number: u16,
    pub scheme: Scheme,
}

/// Serves one connection until it ends. `drain` is the one that its requests are part of.
pub async fn serve(gateway: Arc<Gateway>, port: Port, tcp: TcpStream, source: SocketAddr, drain: Drain) {
    match Box::pin(arrive(&gateway, port, tcp, source)).await {
        Ok(arrived) => arrived.requests(&gateway, &drain).await,
        Err(why) => {
            gateway.metrics.came(why.came());
            let cause = std::error::Error::source(&why).map(tracing::field::display);
            debug!(%source, port = port.number, reason = why.came().word(), cause, "connection closed: {why}");
        }
    }
}

/// A connection that may send requests.
enum Arrived {
    Plain(TcpStream, Arrival, Place),
    Secured(Box<TlsStream<TcpStream>>, Arrival, Place),
}

impl Arrived {
    async fn requests(self, gateway: &Gateway, drain: &Drain) {
        let engine = &gateway.engine;
        match self {
            Self::Plain(tcp, arrival, _place) => {
                Box::pin(serve::serve(engine, tcp, arrival, Version::Look, drain)).await;
            }
            Self::Secured(tls, arrival, _place) => {
                let version = match tls.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Version::Http2,
                    _ => Version::Http1,
                };
                Box::pin(serve::serve(engine, *tls, arrival, version, drain)).await;
            }
        }
    }
}

async fn arrive(
    gateway: &Arc<Gateway>,
    port: Port,
    mut tcp: TcpStream,
    source: SocketAddr,
) -> Result<Arrived, Refused> {
    let (limits, budget) = (&gateway.config.limits, &gateway.budget);
    let deadline = Instant::now() + limits.handshake;
    let _ = tcp.set_nodelay(true); // fails on a connection that is gone already
    let client = match gateway.config.is_load_balancer(source.ip()) {
        false => source,
        true => {
            let _waiting = Places::take(&budget.balancers, source.ip()).ok_or(Refused::TooManyHandshakes)?;
            let header = timeout_at(deadline, proxy_header::read(&mut tcp)).await;
            header.map_err(|_| Refused::TimedOut)?.map_err(Refused::ProxyHeader)?.unwrap_or(source)
        }
    };
    let place = Places::take(&budget.connections, counted_as(client.ip())).ok_or(Refused::TooMany)?;
    let arrival = Arrival { client, port: port.number, scheme: port.scheme, sni: None, covers: None };
    if port.scheme == Scheme::Http {
        gateway.metrics.came(Came::Plain);
        return Ok(Arrived::Plain(tcp, arrival, place));
    }
    let _shaking =
        Places::take(&budget.handshakes, counted_as(client.ip())).ok_or(Refused::TooManyHandshakes)?;
    let shaken = timeout_at(deadline, handshake(gateway, port.number, tcp)).await;
    let (tls, sni, presented) = shaken.map_err(|_| Refused::TimedOut)??;
    gateway.metrics.came(match tls.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Resumed) => Came::Resumed,
        _ => Came::Handshake,
    });
    let (of, certified) = (Arc::clone(gateway), Arc::clone(&presented.certified));
    let covers = move |host: &str| covers(&of, port.number, &certified, host);
    let arrival = Arrival { sni: sni.map(Into::into), covers: Some(Arc::new(covers)), ..arrival };
    Ok(Arrived::Secured(Box::new(tls), arrival, place))
}

fn covers(gateway: &Gateway, port: u16, presented: &Certified, host: &str) -> bool {
    !gateway.certificates.load().is_misdirected(port, presented, host)
}

type Shaken = (TlsStream<TcpStream>, Option<String>, Arc<Presented>);

async fn handshake(gateway: &Gateway, port: u16, tcp: TcpStream) -> Result<Shaken, Refused> {
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(Refused::Handshake)?;
    let hello = start.client_hello();
    let sni = hello.server_name().map(str::to_ascii_lowercase);
    let offer = Offer { schemes: hello.signature_schemes(), suites: hello.cipher_suites() };
    let certificates = gateway.certificates.load_full();
    let Some(presented) = certificates.choose(port, sni.as_deref(), &offer) else {
        let _ = start.io.write_all(&UNRECOGNIZED_NAME).await; // a courtesy to who may be gone
        let _ = start.io.shutdown().await;
        return Err(Refused::UnrecognizedName { sni });
    };
    let presented = Arc::clone(presented);
    let tls = start.into_stream(Arc::clone(&presented.config)).await.map_err(Refused::Handshake)?;
    Ok((tls, sni, presented))
}

/// A record with the fatal alert unrecognized_name (112), which rustls has no way to send (RFC 6066 3, RFC 9846 6.2).
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 112];
