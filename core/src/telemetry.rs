//! Logs and metrics, the same in every binary.
//!
//! Log levels: *error* asks a person to act, *warn* is one peer or object refused, *info* is our own change of state and
//! the access log (target `access`), *debug* is a connection. No secret is ever a field.

use std::{fmt, str::FromStr, sync::Arc};

use prometheus_client::{encoding::text::encode, registry::Registry};
use tracing_subscriber::{
    EnvFilter, fmt::format::FmtSpan, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::access_log;

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is not a log format; use text or json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Logs to stderr. `filter` is in tracing's syntax ("info,signet_proxy=debug"); a bad one is an error, not a silent default.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    access_log::set_format(format);
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("log filter {filter:?}: {e}"))?;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    }
    .map_err(|e| e.to_string())
}

/// The process's metrics, all named `signet_*`. Register first, then share with [`Metrics::share`].
pub struct Metrics(Registry);

impl Metrics {
    pub fn new() -> Self {
        Self(Registry::with_prefix("signet"))
    }

    /// Registers a metric and hands it back: `let refused = metrics.add("refused", "Connections refused", Family::default())`.
    pub fn add<M: prometheus_client::registry::Metric + Clone>(
        &mut self,
        name: &str,
        help: &str,
        metric: M,
    ) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    pub fn share(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("writing to a String cannot fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Content type of [`Metrics::render`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
