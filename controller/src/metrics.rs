//! The controller's own numbers. Labels are our words only, never a peer's.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use signet_core::telemetry;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OfType {
    r#type: &'static str,
}

/// Handles; cloning shares them.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub streams: Gauge,
    pub subscriptions: Gauge,
    pushes: Family<OfType, Counter>,
    nacks: Family<OfType, Counter>,
    refused: Family<Reason, Counter>,
    pub manifest_errors: Gauge,
    pub objects: Gauge,
    lists: Family<OfKind, Counter>,
    watch_failures: Family<OfKind, Counter>,
    pub indexes: Counter,
    pub events: Counter,
    pub edges: Gauge,
    edges_dropped: Family<Reason, Counter>,
}

impl Metrics {
    pub(crate) fn new(registry: &mut telemetry::Metrics) -> Self {
        Self {
            streams: registry.add("discovery_streams", "Open discovery streams", Gauge::default()),
            subscriptions: registry.add(
                "discovery_subscriptions",
                "Names subscribed to, over all streams",
                Gauge::default(),
            ),
            pushes: registry.add("discovery_pushes", "Responses sent", Family::default()),
            nacks: registry.add("discovery_nacks", "Responses that a proxy rejected", Family::default()),
            refused: registry.add(
                "discovery_refused",
                "Streams, names and reports refused",
                Family::default(),
            ),
            manifest_errors: registry.add("manifest_errors", "Errors in manifests, now", Gauge::default()),
            objects: registry.add("manifest_objects", "Objects in use, now", Gauge::default()),
            lists: registry.add("source_lists", "Complete lists read from the API server", Family::default()),
            watch_failures: registry.add(
                "source_watch_failures",
                "Lists and watches that failed",
                Family::default(),
            ),
            indexes: registry.add(
                "source_indexes",
                "Indexes built: changes, after coalescing",
                Counter::default(),
            ),
            events: registry.add(
                "events_written",
                "Events about pods that were not injected",
                Counter::default(),
            ),
            edges: registry.add("edges", "Edges remembered", Gauge::default()),
            edges_dropped: registry.add("edges_dropped", "Edges and deltas not kept", Family::default()),
        }
    }

    pub(crate) fn pushes(&self, r#type: &'static str) {
        self.pushes.get_or_create(&OfType { r#type }).inc();
    }

    pub(crate) fn nacks(&self, r#type: &'static str) {
        self.nacks.get_or_create(&OfType { r#type }).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn listed(&self, kind: &'static str) {
        self.lists.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn edge_dropped(&self, reason: &'static str) {
        self.edges_dropped.get_or_create(&Reason { reason }).inc();
    }
}
