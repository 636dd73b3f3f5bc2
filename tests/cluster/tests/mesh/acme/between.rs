//! Stands between edge and Pebble, as the CA: passes on what is said, but for one trick at a time.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{
        CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, ServerName, pem::PemObject as _,
    },
};
use serde_json::{Value, json};
use signet_cluster::{Cluster, network};
use signet_core::{clock, tls};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::outside::{CA, CA_PORT, Outside};

/// What it does instead of passing on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Trick {
    None,
    /// 429 to orders, with Retry-After.
    TooMany,
    /// 500 to orders.
    Broken,
    /// Half of the JSON of an order.
    Truncated,
    /// Certificates for the right names and somebody else's key.
    WrongKey,
    /// Certificates for our key and another name beside.
    WrongName,
    TenMegabytes,
    /// Orders are never answered.
    Hangs,
    /// Every certificate is to be renewed now (RFC 9773 4.2).
    Now,
}

pub(super) struct Between {
    state: Arc<State>,
    _serving: JoinSet<()>,
}

struct State {
    cluster: Cluster,
    pebble: TlsConnector,
    trick: Mutex<Trick>,
    /// Of the last order that was finalized, DER.
    csr: Mutex<Vec<u8>>,
}

impl Between {
    pub(super) async fn start(cluster: &Cluster, outside: &Outside) -> Result<Self> {
        let (certificate, key) = outside.server()?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let provider = Arc::new(tls::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let state = Arc::new(State {
            cluster: cluster.clone(),
            pebble: TlsConnector::from(Arc::new(client)),
            trick: Mutex::new(Trick::None),
            csr: Mutex::default(),
        });
        let listener = cluster.listen_outside(SocketAddr::new(network::FABRIC_V4.into(), PORT)).await?;
        let (acceptor, of) = (TlsAcceptor::from(Arc::new(server)), Arc::clone(&state));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(Arc::clone(&of), acceptor.clone(), stream));
            }
        });
        Ok(Self { state, _serving: serving })
    }

    /// From the next request on.
    pub(super) fn play(&self, trick: Trick) {
        *self.state.trick.lock().unwrap_or_else(PoisonError::into_inner) = trick;
    }
}

async fn serve(state: Arc<State>, acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { state.answer(request).await }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let trick = *self.trick.lock().unwrap_or_else(PoisonError::into_inner);
        let path = request.uri().path().to_owned();
        let (orders, certificate) = (path == "/order-plz", path.starts_with("/certZ/"));
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        match trick {
            Trick::TooMany if orders => {
                let mut refused = problem(429, "rateLimited", "too many orders, says the story")?;
                refused.headers_mut().insert(RETRY_AFTER, "3".parse()?);
                return Ok(refused);
            }
            Trick::Broken if orders => {
                return problem(500, "serverInternal", "the database is down, says the story");
            }
            Trick::Hangs if orders => std::future::pending().await,
            Trick::Now if path.contains("/renewalInfo/") => return now(),
            _ => {}
        }
        if path.starts_with("/finalize-order/")
            && let Some(csr) = csr(&body)
        {
            *self.csr.lock().unwrap_or_else(PoisonError::into_inner) = csr;
        }
        let response = self.pebble(Request::from_parts(head, Full::new(body))).await?;
        let (mut head, body) = response.into_parts();
        let body = match trick {
            Trick::Truncated if orders => body.slice(..body.len() / 2),
            Trick::WrongKey | Trick::WrongName if certificate && head.status.is_success() => {
                self.forged(trick == Trick::WrongKey)?.into()
            }
            Trick::TenMegabytes if certificate => vec![b'\n'; 10 << 20].into(),
            _ => body,
        };
        head.headers.remove(CONTENT_LENGTH);
        Ok(Response::from_parts(head, Full::new(body)))
    }

    async fn pebble(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let tcp = self.cluster.dial_from_outside(SocketAddr::new(network::FABRIC_V4.into(), CA_PORT)).await?;
        let tls = self.pebble.connect(ServerName::try_from(CA)?, tcp).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let mut connections = JoinSet::new();
        connections.spawn(async move { drop(connection.await) }); // its error is the request's, too
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// A chain like the one that was asked for, but for one thing.
    fn forged(&self, another_key: bool) -> Result<String> {
        let csr = self.csr.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut asked = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))?;
        let issuer = Issuer::new(CertificateParams::new(Vec::new())?, KeyPair::generate()?);
        let certificate = if another_key {
            asked.params.signed_by(&KeyPair::generate()?, &issuer)?
        } else {
            asked.params.subject_alt_names.push(rcgen::SanType::DnsName("another.acme.test".try_into()?));
            asked.signed_by(&issuer)?
        };
        Ok(certificate.pem())
    }
}

/// Of the JWS that finalizes an order (RFC 8555 7.4).
fn csr(jws: &[u8]) -> Option<Vec<u8>> {
    let decode = |text: &Value| BASE64_URL_SAFE_NO_PAD.decode(text.as_str()?).ok();
    let jws: Value = serde_json::from_slice(jws).ok()?;
    let payload: Value = serde_json::from_slice(&decode(&jws["payload"])?).ok()?;
    decode(&payload["csr"])
}

/// A window of an hour ago.
fn now() -> Result<Response<Full<Bytes>>> {
    let at = |ago| clock::rfc3339(clock::unix_now() - ago).context("a time");
    let window = json!({ "suggestedWindow": { "start": at(3660)?, "end": at(3600)? } }).to_string();
    Ok(Response::builder()
        .header(CONTENT_TYPE, "application/json")
        .header(RETRY_AFTER, "60")
        .body(Full::from(window))?)
}

fn problem(status: u16, kind: &str, detail: &str) -> Result<Response<Full<Bytes>>> {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let problem = json!({ "type": kind, "detail": detail, "status": status }).to_string();
    Ok(Response::builder()
        .status(StatusCode::from_u16(status)?)
        .header(CONTENT_TYPE, "application/problem+json")
        .body(Full::from(problem))?)
}

pub(super) const PORT: u16 = 14_001;
