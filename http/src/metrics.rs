//! The golden numbers of HTTP. Labels are our own words and the host patterns of the table, never what a client wrote.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
};
use signet_core::telemetry::Metrics;

/// One per process; engines share it.
#[derive(Clone)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<HostLabel, Histogram, NewHistogram>,
    pub(crate) active: Gauge,
    pub(crate) tunnels: Gauge,
    connections: Family<VersionLabel, Gauge>,
    backend_errors: Family<ReasonLabel, Counter>,
    retries: Family<ReasonLabel, Counter>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct RequestLabels {
    host: Arc<str>,
    status: &'static str,
    reason: &'static str,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        [("host", &*self.host), ("status", self.status), ("reason", self.reason)].encode(encoder)
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct HostLabel {
    host: Arc<str>,
}

impl EncodeLabelSet for HostLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        [("host", &*self.host)].encode(encoder)
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct VersionLabel {
    version: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone)]
struct NewHistogram;

impl MetricConstructor<Histogram> for NewHistogram {
    fn new_metric(&self) -> Histogram {
        Histogram::new(SECONDS)
    }
}

impl HttpMetrics {
    pub fn new(metrics: &mut Metrics) -> Self {
        Self {
            requests: metrics.add("http_requests", "HTTP requests answered, by host", Family::default()),
            seconds: metrics.add(
                "http_request_seconds",
                "From a request's head to its response's head, by host",
                Family::new_with_constructor(NewHistogram),
            ),
            active: metrics.add("http_requests_active", "HTTP requests being served now", Gauge::default()),
            tunnels: metrics.add("http_tunnels", "Upgraded connections (WebSocket) open now", Gauge::default()),
            connections: metrics.add(
                "http_connections",
                "Client connections open now, by version",
                Family::default(),
            ),
            backend_errors: metrics.add(
                "http_backend_errors",
                "Tries of a backend that failed, by reason",
                Family::default(),
            ),
            retries: metrics.add(
                "http_retries",
                "Requests tried again, by the reason of the failure; no_budget: not tried again for lack of it",
                Family::default(),
            ),
        }
    }

    pub(crate) fn answered(&self, host: &Arc<str>, status: u16, reason: &'static str) {
        let status = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        let labels = RequestLabels { host: Arc::clone(host), status, reason };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn took(&self, host: &Arc<str>, time: Duration) {
        self.seconds.get_or_create(&HostLabel { host: Arc::clone(host) }).observe(time.as_secs_f64());
    }

    pub(crate) fn backend_failed(&self, reason: &'static str) {
        self.backend_errors.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn retried(&self, reason: &'static str) {
        self.retries.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a connection until the result is dropped.
    pub(crate) fn connection(&self, version: &'static str) -> Open {
        let gauge = self.connections.get_or_create_owned(&VersionLabel { version });
        gauge.inc();
        Open(gauge)
    }

    /// Forgets a host that is no longer served.
    pub(crate) fn forget(&self, host: &Arc<str>, reasons: impl Iterator<Item = &'static str>) {
        self.seconds.remove(&HostLabel { host: Arc::clone(host) });
        for reason in reasons {
            for status in ["1xx", "2xx", "3xx", "4xx", "5xx"] {
                self.requests.remove(&RequestLabels { host: Arc::clone(host), status, reason });
            }
        }
    }
}

pub(crate) struct Open(Gauge);

impl Open {
    /// Counts another thing until the result is dropped.
    pub(crate) fn count(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Label of requests whose host is not in the table.
pub(crate) const OTHER: &str = "other";
/// From a cached answer to what people give up on.
const SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
