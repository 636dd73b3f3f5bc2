//! What the injector counts. Labels are our own words.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use signet_core::telemetry::Metrics;

use crate::review::Decision;

pub(crate) struct InjectorMetrics {
    injected: Counter,
    unchanged: Counter,
    skipped: Family<Reason, Counter>,
    refused: Family<Reason, Counter>,
    bad_requests: Family<Reason, Counter>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Reason {
    reason: &'static str,
}

impl InjectorMetrics {
    pub(crate) fn new(metrics: &mut Metrics) -> Self {
        let bad = "Requests and connections that were no question of the API server";
        Self {
            injected: metrics.add("injector_injected", "Pods injected", Counter::default()),
            unchanged: metrics.add("injector_unchanged", "Pods that needed no patch", Counter::default()),
            skipped: metrics.add("injector_skipped", "Pods left as they are, by reason", Family::default()),
            refused: metrics.add("injector_refused", "Pods refused, by reason", Family::default()),
            bad_requests: metrics.add("injector_bad_requests", bad, Family::default()),
        }
    }

    pub(crate) fn decided(&self, decision: Decision) {
        match decision {
            Decision::Injected => self.injected.inc(),
            Decision::Unchanged => self.unchanged.inc(),
            Decision::Skipped(reason) => self.skipped.get_or_create(&Reason { reason }).inc(),
            Decision::Refused(reason) => self.refused.get_or_create(&Reason { reason }).inc(),
        };
    }

    pub(crate) fn bad_request(&self, reason: &'static str) {
        self.bad_requests.get_or_create(&Reason { reason }).inc();
    }
}
