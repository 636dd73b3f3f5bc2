//! What a stranger may take of us, on every request and before anyone looks at who it is: places, time, bytes.
//! (Connections and handshakes are limited before, by `signet_link::server`.)
//!
//! A refusal here, or by gRPC itself (too long a message, not protobuf, no such method), is a decision like any other: it
//! is counted and written.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use signet_link::server::Caller;
use tokio::time::timeout;
use tonic::{Code, body::Body, codegen::http};
use tower::{Layer, Service};

use crate::{
    ledger::{About, Ledger},
    refusal::Refusal,
};

/// The layer around the gRPC service.
#[derive(Clone)]
pub(crate) struct Admission {
    gate: Arc<Gate>,
    ledger: Arc<Ledger>,
}

impl Admission {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { gate: Arc::default(), ledger }
    }

    async fn serve<S>(self, mut inner: S, mut request: http::Request<Body>) -> http::Response<Body>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    {
        let source = request.extensions().get::<Caller>().map(|caller| caller.address);
        let judged = Judged::default();
        request.extensions_mut().insert(judged.clone());
        let address = source.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |source| source.ip());
        let refusal = match Gate::enter(&self.gate, address) {
            Err(limit) => Refusal::Busy { limit },
            Ok(_place) => match timeout(DEADLINE, inner.call(request)).await {
                Ok(Ok(response)) => match protocol_refusal(&response).filter(|_| !judged.is_set()) {
                    Some(refusal) => {
                        self.ledger.refused(&About { source, ..About::default() }, &refusal).await;
                        return response; // gRPC has said it in its own words
                    }
                    None => return response,
                },
                Err(_) => Refusal::Slow(DEADLINE),
            },
        };
        self.ledger.refused(&About { source, ..About::default() }, &refusal).await;
        refusal.status().into_http()
    }
}

/// Set by the service once it decides, and writes, by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judged(Arc<AtomicBool>);

impl Judged {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A response that gRPC made before our service saw the request.
fn protocol_refusal(response: &http::Response<Body>) -> Option<Refusal> {
    let status = tonic::Status::from_header_map(response.headers());
    let (code, message) = match &status {
        Some(status) => (status.code(), status.message()),
        None => (Code::Unknown, "not gRPC"),
    };
    let reason = match code {
        Code::Ok => return None,
        Code::OutOfRange => "message_too_big",
        Code::Unimplemented => "method_unknown",
        _ => "message_malformed",
    };
    Some(Refusal::Protocol { reason, message: message.chars().take(SHOWN).collect() })
}

/// Places for requests; one is held from the first header to the reply.
#[derive(Default)]
struct Gate {
    inside: Mutex<HashMap<IpAddr, usize>>,
}

struct Place {
    gate: Arc<Gate>,
    source: IpAddr,
}

impl Gate {
    fn enter(gate: &Arc<Self>, source: IpAddr) -> Result<Place, &'static str> {
        let mut inside = gate.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.values().sum::<usize>() >= REQUESTS {
            return Err("from all sources together");
        }
        let of_source = inside.entry(source).or_insert(0);
        if *of_source >= REQUESTS_PER_SOURCE {
            return Err("from this source");
        }
        *of_source += 1;
        Ok(Place { gate: Arc::clone(gate), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.lock().unwrap_or_else(PoisonError::into_inner);
        match inside.get_mut(&self.source) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(inside.remove(&self.source)),
        }
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;
    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { inner, admission: self.clone() }
    }
}

/// A service behind [`Admission`].
#[derive(Clone)]
pub(crate) struct Admitted<S> {
    inner: S,
    admission: Admission,
}

impl<S> Service<http::Request<Body>> for Admitted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, ready); // the one that poll_ready was asked of
        let admission = self.admission.clone();
        Box::pin(async move { Ok(admission.serve(inner, request).await) })
    }
}

/// First header to reply, a slow body included; our own part takes milliseconds, and at most 1 s of waiting for the log.
const DEADLINE: Duration = Duration::from_secs(5);
/// At some 70 kB each (a message of 64 KiB), 18 MB; worked off in 60 ms when they are honest.
const REQUESTS: usize = 256;
/// A node whose pods share an address behind NAT starts fewer at once; others keep seven eighths of the places.
const REQUESTS_PER_SOURCE: usize = 32;
/// gRPC's message, longest protobuf (a CSR of 8 KiB and the caller's metadata fit several times over).
pub(crate) const MESSAGE_BYTES: usize = 64 * 1024;
/// Streams of one HTTP/2 connection; a caller needs one.
pub(crate) const STREAMS: u32 = 16;
/// Bytes of headers; a token and a few fields.
pub(crate) const HEADER_BYTES: u32 = 16 * 1024;
/// HTTP/2 windows: what one stream, and one connection, may send before we read it.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Resets that a peer may have open before the connection is closed (Rapid Reset, CVE-2023-44487).
pub(crate) const PENDING_RESETS: usize = 16;
/// Callers come once per half life of a leaf; a connection that stays longer only takes a place.
pub(crate) const CONNECTION_AGE: Duration = Duration::from_secs(120);
/// Between pings to a silent peer, and for its answer.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Characters of gRPC's message in the log.
const SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_all_places_and_each_comes_back() {
        let gate = Arc::new(Gate::default());
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(0xc612_0000 + n));
        let enter = |n| Gate::enter(&gate, address(n));
        let first: Vec<_> = (0..REQUESTS_PER_SOURCE).map(|_| enter(1).ok().unwrap()).collect();
        assert_eq!(enter(1).err(), Some("from this source"));
        let others: Vec<_> = (0..REQUESTS - REQUESTS_PER_SOURCE)
            .map(|n| enter(2 + u32::try_from(n).unwrap()).ok().unwrap())
            .collect();
        assert_eq!(enter(2).err(), Some("from all sources together"));
        drop(first);
        assert!(enter(1).is_ok());
        drop(others);
        assert!(gate.inside.lock().unwrap().is_empty());
    }

    fn admission(name: &str) -> (Admission, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("signet-limits-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let metrics = Arc::new(crate::metrics::CaMetrics::new(&mut signet_core::telemetry::Metrics::new()));
        let audit = crate::audit::Audit::open(Some(&path)).unwrap();
        (Admission::new(Arc::new(Ledger::new(audit, metrics, crate::clock::real()))), path)
    }

    fn request() -> http::Request<Body> {
        let mut request = http::Request::new(Body::empty());
        request.extensions_mut().insert(Caller { peer: None, address: ([198, 18, 0, 1], 1).into() });
        request
    }

    fn code(response: &http::Response<Body>) -> Code {
        tonic::Status::from_header_map(response.headers()).unwrap().code()
    }

    /// As when a body comes a byte a minute: the service is still reading.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_for_ever_is_ended_in_five_seconds() {
        let (admission, _) = admission("slow");
        let mut service = admission
            .layer(tower::service_fn(|_| std::future::pending::<Result<http::Response<Body>, Infallible>>()));
        let began = tokio::time::Instant::now();
        let response = service.call(request()).await.unwrap();
        assert_eq!(code(&response), Code::DeadlineExceeded);
        assert!(
            began.elapsed() < DEADLINE + Duration::from_secs(2),
            "and at most a second for the audit log"
        );
    }

    #[tokio::test]
    async fn a_request_too_many_is_told_when_to_come_back_and_written() {
        let (admission, log) = admission("busy");
        let service = admission
            .layer(tower::service_fn(|_| std::future::pending::<Result<http::Response<Body>, Infallible>>()));
        let mut running: Vec<_> = (0..REQUESTS_PER_SOURCE).map(|_| service.clone().call(request())).collect();
        for one in &mut running {
            assert!(futures_util::poll!(one).is_pending());
        }
        let response = service.clone().call(request()).await.unwrap();
        assert_eq!(code(&response), Code::ResourceExhausted);
        assert_eq!(response.headers()["grpc-retry-pushback-ms"], "1000");
        let line = std::fs::read_to_string(&log).unwrap();
        assert!(line.contains("\"reason\":\"busy\"") && line.contains("198.18.0.1"), "{line}");
        std::fs::remove_file(log).unwrap();
    }
}
