//! The webhook: `POST /inject` over TLS, one AdmissionReview for each connection; beside it, in plaintext, `GET /ready` and
//! `/metrics`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::CONTENT_TYPE,
};
use prometheus_client::metrics::gauge::Gauge;
use signet_core::{
    drain::Drain,
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use signet_link::serving::Certificate;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::{
    Settings,
    metrics::InjectorMetrics,
    review::{Decision, Reviewed, review},
    serve,
};

/// What both ports serve.
pub(crate) struct Webhook {
    settings: Settings,
    certificate: Certificate,
    metrics: InjectorMetrics,
    registry: Metrics,
    ready: Gauge,
    leaving: AtomicBool,
    /// Bodies above [`SMALL_BODY`] at a time.
    large: Semaphore,
}

impl Webhook {
    /// Everything that counts is registered by now.
    pub(crate) fn new(
        settings: Settings,
        certificate: Certificate,
        metrics: InjectorMetrics,
        mut registry: Metrics,
    ) -> Self {
        let ready = registry.add("ready", "1: this injector is ready", Gauge::default());
        Self {
            settings,
            certificate,
            metrics,
            registry,
            ready,
            leaving: AtomicBool::new(false),
            large: Semaphore::new(LARGE_BODIES),
        }
    }

    /// From now on not ready, and still serving.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    pub(crate) fn serve(self: &Arc<Self>, listener: TcpListener, drain: &Drain) {
        let webhook = Arc::clone(self);
        serve::connections(listener, drain, move |tcp, source| Arc::clone(&webhook).over_tls(tcp, source));
    }

    pub(crate) fn serve_pages(self: &Arc<Self>, listener: TcpListener, drain: &Drain) {
        let webhook = Arc::clone(self);
        serve::connections(listener, drain, move |tcp, source| {
            let webhook = Arc::clone(&webhook);
            async move { serve::once(tcp, source, async |request| webhook.page(&request)).await }
        });
    }

    /// Without a certificate the connection is closed: the API server then says that nobody answers, which is true.
    async fn over_tls(self: Arc<Self>, tcp: TcpStream, source: SocketAddr) {
        let Some(serving) = self.certificate.current() else {
            self.metrics.bad_request("no_certificate");
            return debug!(%source, "connection closed: no serving certificate yet");
        };
        match TlsAcceptor::from(Arc::clone(&serving.config)).accept(tcp).await {
            Ok(tls) => serve::once(tls, source, async |request| self.answer(request, source).await).await,
            Err(error) => {
                self.metrics.bad_request("handshake_failed");
                debug!(%source, %error, "handshake failed");
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, source: SocketAddr) -> Response<Full<Bytes>> {
        let fail = |status, reason, why: &str| {
            self.metrics.bad_request(reason);
            debug!(%source, reason, why, "refused a request");
            text(status, why.to_owned())
        };
        if request.uri().path() != "/inject" {
            return fail(StatusCode::NOT_FOUND, "not_found", "only POST /inject is here");
        }
        if request.method() != Method::POST {
            return fail(StatusCode::METHOD_NOT_ALLOWED, "not_found", "only POST /inject is here");
        }
        // What does not say its size counts as large.
        let size = request.body().size_hint().exact().unwrap_or(BODY_BYTES as u64);
        let _large = match self.large.try_acquire() {
            _ if size <= SMALL_BODY => None,
            Ok(permit) => Some(permit),
            Err(_) => {
                return fail(StatusCode::SERVICE_UNAVAILABLE, "too_many_large", "too many large requests");
            }
        };
        let body = match Limited::new(request.into_body(), BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return fail(StatusCode::PAYLOAD_TOO_LARGE, "bad_body", &error.to_string()),
        };
        match review(&body, &self.settings) {
            Ok(reviewed) => {
                self.told(&reviewed);
                respond(StatusCode::OK, "application/json", reviewed.answer)
            }
            Err(why) => fail(StatusCode::BAD_REQUEST, "bad_review", &why),
        }
    }

    fn told(&self, reviewed: &Reviewed) {
        let Reviewed { decision, pod, why, .. } = reviewed;
        self.metrics.decided(*decision);
        match decision {
            Decision::Injected => info!(%pod, warnings = %why, "injected"),
            Decision::Unchanged => debug!(%pod, "nothing to do"),
            Decision::Skipped(reason) => info!(%pod, reason, %why, "not injected"),
            Decision::Refused(reason) => warn!(%pod, reason, %why, "refused"),
        }
    }

    fn page(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/ready") => match self.not_ready() {
                None => text(StatusCode::OK, "ready".into()),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why.into()),
            },
            (&Method::GET, "/metrics") => {
                self.ready.set(i64::from(self.not_ready().is_none()));
                respond(StatusCode::OK, METRICS_CONTENT_TYPE, self.registry.render())
            }
            _ => text(StatusCode::NOT_FOUND, "GET /ready and /metrics are here".into()),
        }
    }

    fn not_ready(&self) -> Option<&'static str> {
        if self.leaving.load(Relaxed) {
            return Some("leaving: SIGTERM was received");
        }
        self.certificate
            .current()
            .is_none()
            .then_some("no serving certificate: the CA has not issued one; see the log")
    }
}

fn text(status: StatusCode, words: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", words + "\n")
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

/// etcd takes objects of 1.5 MiB; JSON of the API server, with room for escapes, has twice that.
const BODY_BYTES: usize = 3 << 20;
/// A pod of 2 000 lines has 60 kB. All connections together hold 64 MiB of these.
const SMALL_BODY: u64 = 256 * 1024;
/// Strangers must not make us hold 3 MiB for each connection; a fifth giant pod at one moment is asked for again.
const LARGE_BODIES: usize = 4;
