//! One request's record: filled in on its way, and written once, at its end: the access log line and the metrics carry the
//! same word.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, StatusCode, Version, uri::PathAndQuery};
use signet_core::access_log;
use tokio::time::Instant;
use tracing::Level;

use crate::{
    arrival::Arrival,
    body::Progress,
    engine::Engine,
    metrics::{OTHER, Open},
    model::Scheme,
    refusal::{OK, Refusal},
};

/// What the access log says of a request.
pub(crate) struct Record {
    engine: Arc<Engine>,
    arrival: Arc<Arrival>,
    began: Instant,
    pub(crate) line: Line,
    progress: Option<Arc<Progress>>,
    _active: Open,
    written: bool,
}

/// The fields that are learnt on the way.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) version: &'static str,
    pub(crate) method: Option<Method>,
    pub(crate) scheme: Scheme,
    pub(crate) client: IpAddr,
    /// As the client wrote them; checked, so that neither can write a line of its own.
    pub(crate) authority: Option<Arc<str>>,
    /// Its path is told; the query may hold secrets.
    pub(crate) target: Option<PathAndQuery>,
    /// A host pattern of the table.
    pub(crate) host: Arc<str>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) backend: Option<Arc<str>>,
    pub(crate) endpoint: Option<std::net::SocketAddr>,
    pub(crate) tries: u32,
    pub(crate) status: StatusCode,
    /// Until the response's head.
    pub(crate) answered_after: Option<Duration>,
    pub(crate) request_id: Option<HeaderValue>,
    /// The word for its end, if that is a good one.
    pub(crate) good: &'static str,
}

impl Record {
    pub(crate) fn open(engine: &Arc<Engine>, arrival: &Arc<Arrival>, version: Version) -> Self {
        let line = Line {
            version: match version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            },
            method: None,
            scheme: arrival.scheme,
            client: arrival.client.ip().to_canonical(),
            authority: None,
            target: None,
            host: Arc::clone(&engine.other),
            route: None,
            backend: None,
            endpoint: None,
            tries: 0,
            status: StatusCode::OK,
            answered_after: None,
            request_id: None,
            good: OK,
        };
        Self {
            engine: Arc::clone(engine),
            arrival: Arc::clone(arrival),
            began: Instant::now(),
            line,
            progress: None,
            _active: Open::count(&engine.metrics.active),
            written: false,
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn uploads(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
    }

    /// The head of the answer is ready.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.line.status = status;
        self.line.answered_after = Some(self.began.elapsed());
    }

    /// The request is over. `sent`: bytes of the response's body.
    pub(crate) fn close(mut self, sent: u64, outcome: Result<(), Refusal>) {
        self.write(sent, outcome);
    }

    fn write(&mut self, sent: u64, outcome: Result<(), Refusal>) {
        self.written = true;
        let (reason, why) = match outcome {
            Ok(()) => (self.line.good, None),
            Err(refusal) => (refusal.reason(), Some(refusal.why())),
        };
        if self.line.answered_after.is_none() {
            self.line.status = outcome.err().map_or(StatusCode::OK, Refusal::status);
        }
        let metrics = &self.engine.metrics;
        metrics.answered(&self.line.host, self.line.status.as_u16(), reason);
        if let Some(time) = self.line.answered_after {
            metrics.took(&self.line.host, time);
        }
        self.log(sent, reason, why);
    }

    fn log(&self, sent: u64, reason: &'static str, why: Option<&'static str>) {
        let of = &self.line;
        access_log::line(Level::INFO, |line| {
            line.ip("client", of.client);
            line.address("peer", self.arrival.client);
            line.number("port", u64::from(self.arrival.port));
            line.word("version", of.version);
            line.text("method", of.method.as_ref().map(Method::as_str));
            line.word("scheme", of.scheme.word());
            line.text("authority", of.authority.as_deref());
            line.text("path", of.target.as_ref().map(PathAndQuery::path));
            line.text("host", (*of.host != *OTHER).then_some(&*of.host));
            line.text("route", of.route.as_deref());
            line.text("backend", of.backend.as_deref());
            line.address("endpoint", of.endpoint);
            line.number("tries", u64::from(of.tries));
            line.number("status", u64::from(of.status.as_u16()));
            line.number("received", self.progress.as_ref().map_or(0, |progress| progress.bytes()));
            line.number("sent", sent);
            line.number("answered_ms", of.answered_after.map(milliseconds));
            line.number("lasted_ms", milliseconds(self.began.elapsed()));
            line.text("request_id", of.request_id.as_ref().and_then(|id| id.to_str().ok()));
            line.word("reason", reason);
            line.text("why", why);
        });
    }
}

impl Drop for Record {
    /// Nobody waited for the answer any longer.
    fn drop(&mut self) {
        if !self.written {
            self.write(0, Err(Refusal::ClientGone));
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
