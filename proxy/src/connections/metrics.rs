//! The connections' numbers. Labels are closed sets of our own words.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use signet_core::telemetry::Metrics;
use signet_wire::pool::DirectionLabel;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct EndLabels {
    pub(super) direction: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct BytesLabels {
    pub(super) direction: &'static str,
    pub(super) flow: &'static str,
}

pub(super) struct ConnectionMetrics {
    pub(super) open: Family<DirectionLabel, Gauge>,
    pub(super) ended: Family<EndLabels, Counter>,
    pub(super) refused: Family<EndLabels, Counter>,
    pub(super) bytes: Family<BytesLabels, Counter>,
    pub(super) edges_dropped: Counter,
}

impl ConnectionMetrics {
    pub(super) fn new(metrics: &mut Metrics) -> Self {
        Self {
            open: metrics.add("connections_open", "Connections open now", Family::default()),
            ended: metrics.add(
                "connections_ended",
                "Connections ended, by the word of their end",
                Family::default(),
            ),
            refused: metrics.add("refused", "Connections refused, by reason", Family::default()),
            bytes: metrics.add("bytes", "Bytes of the app in connections that ended", Family::default()),
            edges_dropped: metrics.add(
                "edges_dropped",
                "Edge sums dropped: too many peers between reports",
                Counter::default(),
            ),
        }
    }
}
