//! A stand-in of Route 53 (API 2013-04-01) on loopback: keeps record sets as Route 53 does, takes a change batch whole or not at
//! all, and checks every signature by computing it anew from what came, with nothing of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use signet_core::{clock, drain::Drain};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

mod signature;
mod zones;

pub use zones::Zones;

/// Answers until it is dropped.
pub struct Route53 {
    pub at: SocketAddr,
    state: Arc<Mutex<State>>,
    drain: Drain,
}

/// What it knows and how it behaves.
pub struct State {
    pub access_key_id: String,
    pub secret_access_key: String,
    /// A temporary key's; then every request must carry and sign it.
    pub session_token: Option<String>,
    pub zones: Zones,
    /// Answers that are still "Rate exceeded".
    pub throttled: u32,
    /// Answers that are still a 503 with `Retry-After: 1`.
    pub busy: u32,
    /// The next such request is done and its answer lost, by a part of method and path.
    pub lost: Option<&'static str>,
    /// Seconds that its clock is before ours.
    pub ahead: i64,
    /// How often a change is PENDING before it is INSYNC.
    pub pending: u32,
    /// Actions that the key's policy denies, by a part of method and path.
    pub denied: Option<&'static str>,
    /// What another client does after the next reading of a record set.
    pub meanwhile: Option<Meanwhile>,
    /// `METHOD path` of every request that was signed well, in order.
    pub asked: Vec<String>,
    changes: BTreeMap<String, u32>,
}

impl Route53 {
    pub async fn start(at: SocketAddr, zones: Zones) -> io::Result<Self> {
        Self::start_with(at, zones, None).await
    }

    /// Over TLS, as AWS's own; it would rather speak HTTP/2 and cannot.
    pub async fn start_tls(at: SocketAddr, zones: Zones, mut tls: ServerConfig) -> io::Result<Self> {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start_with(at, zones, Some(Arc::new(tls).into())).await
    }

    async fn start_with(at: SocketAddr, zones: Zones, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let state = State {
            access_key_id: ACCESS_KEY_ID.into(),
            secret_access_key: SECRET_ACCESS_KEY.into(),
            session_token: None,
            zones,
            throttled: 0,
            busy: 0,
            lost: None,
            ahead: 0,
            pending: 0,
            denied: None,
            meanwhile: None,
            asked: Vec::new(),
            changes: BTreeMap::new(),
        };
        let stand_in =
            Self { at: listener.local_addr()?, state: Arc::new(Mutex::new(state)), drain: Drain::new() };
        let (state, drain) = (Arc::clone(&stand_in.state), stand_in.drain.clone());
        stand_in.drain.keep(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let answer = service_fn(move |request| answer(Arc::clone(&state), request));
                let tls = tls.clone();
                drain.keep(async move {
                    let http = http1::Builder::new();
                    // How a connection ends, who asked says.
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), answer).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                                return; // who agrees on HTTP/2 speaks it, as nobody here does
                            }
                            drop(http.serve_connection(TokioIo::new(stream), answer).await);
                        }
                    }
                });
            }
        });
        Ok(stand_in)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Route53 {
    fn drop(&mut self) {
        self.drain.stop();
    }
}

async fn answer<B>(state: Arc<Mutex<State>>, request: Request<B>) -> io::Result<Response<Full<Bytes>>>
where
    B: hyper::body::Body,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let now = clock::now() + time::Duration::seconds(state.ahead);
    let (status, xml) = state.reply(&head, &body, now);
    if state
        .lost
        .is_some_and(|lost| status == 200 && format!("{} {}", head.method, head.uri.path()).contains(lost))
    {
        state.lost = None;
        return Err(io::Error::other("the answer is lost"));
    }
    let mut answer =
        Response::builder().status(status).header("date", now.format(&Rfc2822).map_err(io::Error::other)?);
    if status == 503 {
        answer = answer.header("retry-after", "1");
    }
    answer.body(Full::new(Bytes::from(xml))).map_err(io::Error::other)
}

impl State {
    fn reply(&mut self, head: &http::request::Parts, body: &[u8], now: OffsetDateTime) -> (u16, String) {
        if self.throttled > 0 {
            self.throttled -= 1;
            return refusal(400, "Throttling", "Rate exceeded");
        }
        if self.busy > 0 {
            self.busy -= 1;
            return refusal(503, "ServiceUnavailable", "busy");
        }
        if let Err((code, words)) = signature::check(self, head, body, now) {
            return refusal(403, code, &words);
        }
        let (method, path) = (head.method.as_str(), head.uri.path());
        let asked = format!("{method} {path}");
        if self.denied.is_some_and(|denied| asked.contains(denied)) {
            return refusal(403, "AccessDenied", "User: arn:aws:iam::1:user/acme is not authorized");
        }
        self.asked.push(asked);
        let query: BTreeMap<String, String> =
            signature::pairs(head.uri.query().unwrap_or_default()).into_iter().collect();
        let of = |key: &str| query.get(key).cloned().unwrap_or_default();
        let parts: Vec<&str> =
            path.trim_start_matches("/2013-04-01/").trim_end_matches('/').split('/').collect();
        match (method, &parts[..]) {
            ("GET", ["hostedzonesbyname"]) => (200, self.zones.by_name(&of("dnsname"), &of("maxitems"))),
            ("GET", ["hostedzone", zone, "rrset"]) => {
                let answer = self.zones.record_sets(zone, &of("name"));
                if let Some(meanwhile) = self.meanwhile.take() {
                    meanwhile(&mut self.zones);
                }
                answer.map_or_else(no_zone, |xml| (200, xml))
            }
            ("POST", ["hostedzone", zone, "rrset"]) => {
                match self.zones.change(zone, &String::from_utf8_lossy(body)) {
                    None => no_zone(),
                    Some(Err(words)) => (
                        400,
                        format!(
                            "<InvalidChangeBatch xmlns=\"{NS}\"><Messages><Message>{words}</Message></Messages></InvalidChangeBatch>"
                        ),
                    ),
                    Some(Ok(())) => {
                        let id = format!("C{}", self.changes.len() + 1);
                        self.changes.insert(id.clone(), self.pending);
                        (200, change("ChangeResourceRecordSets", &id, "PENDING"))
                    }
                }
            }
            ("GET", ["change", id]) => match self.changes.get_mut(*id) {
                Some(0) => (200, change("GetChange", id, "INSYNC")),
                Some(left) => {
                    *left -= 1;
                    (200, change("GetChange", id, "PENDING"))
                }
                None => refusal(404, "NoSuchChange", "no such change"),
            },
            _ => refusal(404, "UnknownOperation", "unknown"),
        }
    }
}

fn change(action: &str, id: &str, status: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<{action}Response xmlns=\"{NS}\"><ChangeInfo><Id>/change/{id}</Id><Status>{status}</Status>\
         <SubmittedAt>2026-11-26T12:00:00Z</SubmittedAt></ChangeInfo></{action}Response>"
    )
}

fn no_zone() -> (u16, String) {
    refusal(404, "NoSuchHostedZone", "No hosted zone found with that ID")
}

fn refusal(status: u16, code: &str, words: &str) -> (u16, String) {
    let xml = format!(
        "<?xml version=\"1.0\"?>\n<ErrorResponse xmlns=\"{NS}\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{words}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    );
    (status, xml)
}

type Meanwhile = Box<dyn FnOnce(&mut Zones) + Send>;

/// The values of a record set, without their quotes.
pub type Values = BTreeSet<String>;
pub const ACCESS_KEY_ID: &str = "AKIASTANDIN";
pub const SECRET_ACCESS_KEY: &str = "stand/in+secret";
const NS: &str = "https://route53.amazonaws.com/doc/2013-04-01/";
