//! Whether a gateway answers a challenge: asked as a certificate authority asks, before the authority is told to.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use signet_core::{acme_tls, edge_tls, tls};
use signet_http::{
    contract::challenge::{Challenge, TlsAlpn01},
    model::Http01,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::TlsConnector;

/// Where a gateway listens: its pod's address and ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gateway {
    pub address: IpAddr,
    pub http: u16,
    pub https: u16,
}

/// Why a gateway is not known to answer. Display says this level and where; the cause is `source()`.
#[derive(Debug, thiserror::Error)]
pub enum Unseen {
    #[error("{0} does not take connections")]
    Unreachable(SocketAddr, #[source] io::Error),
    #[error("{0} hangs up, or says what is not HTTP")]
    NoAnswer(SocketAddr, #[source] io::Error),
    #[error("{0} answers the challenge's path with {1}: the challenge has not come there")]
    Status(SocketAddr, StatusCode),
    #[error("{0} answers the challenge's path with another key authorization")]
    OtherAnswer(SocketAddr),
    #[error("{0} does not finish the challenge's handshake: the challenge has not come there, or is another")]
    Handshake(SocketAddr, #[source] io::Error),
    #[error("{0} does not speak acme-tls/1 for this host")]
    NoAcmeTls(SocketAddr),
    #[error("{0} did not answer in {LIMIT:?}")]
    Silent(SocketAddr),
    #[error("the challenge is none that could be answered: {0}")]
    Ours(#[source] io::Error),
}

/// Asks until it is answered as it should be, and for 5 s: a challenge that was published a moment ago may still be on its way.
///
/// HTTP-01 by a plain request, TLS-ALPN-01 by a handshake that proves the certificate's key, and looks at its name and its
/// acmeIdentifier. A gateway that takes us for a load balancer is asked again with a PROXY header that says nothing.
///
/// Errors: why not, the last time.
pub async fn ask(gateway: &Gateway, challenge: &Challenge) -> Result<(), Unseen> {
    let question = Question::of(gateway, challenge)?;
    let until = Instant::now() + LIMIT;
    let mut why = Unseen::Silent(question.at);
    let mut pause = FIRST_PAUSE;
    loop {
        match timeout_at(until, question.put()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(unseen)) => why = unseen,
            Err(_) => return Err(why),
        }
        if Instant::now() + pause >= until {
            return Err(why);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What is to be asked where.
struct Question<'a> {
    at: SocketAddr,
    how: How<'a>,
}

enum How<'a> {
    Http(&'a Http01),
    Tls(Arc<ClientConfig>, ServerName<'static>),
}

impl<'a> Question<'a> {
    fn of(gateway: &Gateway, challenge: &'a Challenge) -> Result<Self, Unseen> {
        let at = |port| SocketAddr::new(gateway.address, port);
        Ok(match challenge {
            Challenge::Http01(challenge) => Self { at: at(gateway.http), how: How::Http(challenge) },
            Challenge::TlsAlpn01(challenge) => {
                let (config, name) = as_authority(challenge).map_err(Unseen::Ours)?;
                Self { at: at(gateway.https), how: How::Tls(config, name) }
            }
        })
    }

    async fn put(&self) -> Result<(), Unseen> {
        match self.put_after(b"").await {
            // A gateway hangs up on a load balancer that names nobody.
            Err(why @ (Unseen::NoAnswer(..) | Unseen::Handshake(..))) => {
                self.put_after(PROXY_UNKNOWN).await.map_err(|_| why)
            }
            said => said,
        }
    }

    async fn put_after(&self, greeting: &[u8]) -> Result<(), Unseen> {
        let connecting = async {
            let mut tcp = TcpStream::connect(self.at).await?;
            tcp.write_all(greeting).await?;
            io::Result::Ok(tcp)
        };
        let tcp = connecting.await.map_err(|error| Unseen::Unreachable(self.at, error))?;
        match &self.how {
            How::Http(challenge) => http(self.at, tcp, challenge).await,
            How::Tls(config, name) => handshake(self.at, tcp, config, name).await,
        }
    }
}

async fn http(at: SocketAddr, tcp: TcpStream, challenge: &Http01) -> Result<(), Unseen> {
    let failed = |error| Unseen::NoAnswer(at, error);
    let request = Request::get(challenge.path()).header("host", challenge.host().as_str());
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| Unseen::Ours(io::Error::other(error)))?;
    let asking = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(io::Error::other)?;
        let answering = async {
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = answer.status();
            if status != StatusCode::OK {
                return Ok((status, Bytes::new()));
            }
            let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
            Ok((status, body.map_err(io::Error::other)?.to_bytes()))
        };
        tokio::pin!(answering, connection);
        tokio::select! {
            biased;
            answer = &mut answering => answer,
            _ = &mut connection => answering.await, // what came before it ended is still to be read
        }
    };
    match asking.await.map_err(failed)? {
        (StatusCode::OK, body) if body == challenge.key_authorization() => Ok(()),
        (StatusCode::OK, _) => Err(Unseen::OtherAnswer(at)),
        (status, _) => Err(Unseen::Status(at, status)),
    }
}

async fn handshake(
    at: SocketAddr,
    tcp: TcpStream,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
) -> Result<(), Unseen> {
    let tls = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await;
    let tls = tls.map_err(|error| Unseen::Handshake(at, error))?;
    match tls.get_ref().1.alpn_protocol() {
        Some(acme_tls::ALPN) => Ok(()),
        _ => Err(Unseen::NoAcmeTls(at)),
    }
}

/// A client that accepts what answers this challenge: the certificate may be another that was made for it.
fn as_authority(challenge: &TlsAlpn01) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let host = challenge.host.as_str();
    let identifier = acme_tls::identifier(&challenge.certificate, host).map_err(io::Error::other)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let provider = edge_tls::edge_provider(tls::default_provider());
    Ok((acme_tls::client(&provider, identifier).map_err(io::Error::other)?, name))
}

/// Of all tries at one gateway: one that is gone or drowned does not hold the others up.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two; a stream takes milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Bytes; a key authorization has 256 at most, an app's page more.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Its version 1, for a connection of the sender's own.
const PROXY_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

#[cfg(test)]
#[path = "asked/tests.rs"]
mod tests;
