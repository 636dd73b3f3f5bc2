//! One client connection, from accept to the engine: PROXY header, if it comes from a load balancer -> places -> ClientHello ->
//! certificate -> handshake -> requests; or -> challenge -> handshake -> end. All of it before the first request has one deadline and a
//! budget for each client.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{HandshakeKind, server::Acceptor};
use signet_core::{access_log, drain::Drain};
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
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};
use tracing::{Level, debug};

use crate::{
    Gateway,
    certificates::{Certified, Offer, Presented},
    challenges,
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
    #[error("no ACME challenge for {sni:?}")]
    NoAcmeChallenge { sni: Option<String> },
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
            Self::NoAcmeChallenge { .. } => Came::NoAcmeChallenge,
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

/// A connection that may send requests, or that was a challenge and is closed.
enum Arrived {
    Plain(TcpStream, Arrival, Place),
    Secured(Box<TlsStream<TcpStream>>, Arrival, Place),
    Challenge,
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
            Self::Challenge => {}
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
    let shaken = timeout_at(deadline, Box::pin(handshake(gateway, port.number, tcp))).await;
    let (tls, sni, presented) = match shaken.map_err(|_| Refused::TimedOut)?? {
        Shaken::Host(tls, sni, presented) => (tls, sni, presented),
        Shaken::Challenge(host) => {
            gateway.metrics.came(Came::AcmeChallenge);
            // As the engine writes of requests, which HTTP-01 is.
            let (ip, port, version) = (client.ip().to_canonical(), port.number, "acme-tls/1");
            access_log::line(Level::INFO, |line| {
                line.ip("client", ip);
                line.address("peer", client);
                line.number("port", u64::from(port));
                line.word("version", version);
                line.text("host", host.as_str());
                line.word("reason", "acme_challenge");
            });
            return Ok(Arrived::Challenge);
        }
    };
    gateway.metrics.came(match tls.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Resumed) => Came::Resumed,
        _ => Came::Handshake,
    });
    let (of, certified) = (Arc::clone(gateway), Arc::clone(&presented.certified));
    let covers = move |host: &str| covers(&of, port.number, &certified, host);
    let arrival = Arrival { sni: sni.map(Into::into), covers: Some(Arc::new(covers)), ..arrival };
    Ok(Arrived::Secured(tls, arrival, place))
}

fn covers(gateway: &Gateway, port: u16, presented: &Certified, host: &str) -> bool {
    !gateway.certificates.load().is_misdirected(port, presented, host)
}

/// A handshake that came to its end.
enum Shaken {
    /// With SNI, and a certificate of the web.
    Host(Box<TlsStream<TcpStream>>, Option<String>, Arc<Presented>),
    /// For this host.
    Challenge(String),
}

async fn handshake(gateway: &Gateway, port: u16, tcp: TcpStream) -> Result<Shaken, Refused> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(Refused::Handshake)?;
    let hello = start.client_hello();
    let sni = hello.server_name().map(str::to_ascii_lowercase);
    if hello.alpn().is_some_and(challenges::is_asked) {
        return Box::pin(challenge(gateway, start, sni)).await;
    }
    let offer = Offer { schemes: hello.signature_schemes(), suites: hello.cipher_suites() };
    let certificates = gateway.certificates.load_full();
    let Some(presented) = certificates.choose(port, sni.as_deref(), &offer) else {
        alert(start, UNRECOGNIZED_NAME).await;
        return Err(Refused::UnrecognizedName { sni });
    };
    let presented = Arc::clone(presented);
    let tls = start.into_stream(Arc::clone(&presented.config)).await.map_err(Refused::Handshake)?;
    Ok(Shaken::Host(Box::new(tls), sni, presented))
}

/// The handshake is all of it, and then the connection is closed (RFC 8737 3).
async fn challenge(
    gateway: &Gateway,
    start: StartHandshake<TcpStream>,
    sni: Option<String>,
) -> Result<Shaken, Refused> {
    let config = gateway.challenges.load().find(sni.as_deref());
    let (Some(host), Some(config)) = (sni.clone(), config) else {
        alert(start, NO_APPLICATION_PROTOCOL).await;
        return Err(Refused::NoAcmeChallenge { sni });
    };
    let mut tls = start.into_stream(config).await.map_err(Refused::Handshake)?;
    let _ = tls.shutdown().await; // it has what it came for, and may be gone
    Ok(Shaken::Challenge(host))
}

/// A record with a fatal alert, for which rustls has no way here; a courtesy to who may be gone.
async fn alert(mut start: StartHandshake<TcpStream>, description: u8) {
    let _ = start.io.write_all(&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, description]).await;
    let _ = start.io.shutdown().await;
}

/// RFC 6066 3, RFC 9846 6.2.
const UNRECOGNIZED_NAME: u8 = 112;
/// RFC 7301 3.2: what this name is asked for, it does not speak.
const NO_APPLICATION_PROTOCOL: u8 = 120;
