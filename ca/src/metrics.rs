//! What the CA counts. Labels are of closed sets.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use signet_core::telemetry::Metrics;

use crate::{callers::Via, rotation::Phase};

/// All of them are registered at once, in [`CaMetrics::new`].
pub(crate) struct CaMetrics {
    issued: Family<ViaLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    left: Family<TierLabel, Gauge<i64, AtomicI64>>,
    rotation: Family<PhaseLabel, Gauge<i64, AtomicI64>>,
    failures: Counter,
    all_issued: AtomicU64,
    all_refused: AtomicU64,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ViaLabel {
    via: &'static str,
}
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabel {
    reason: &'static str,
}
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TierLabel {
    tier: &'static str,
}
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PhaseLabel {
    state: String,
}

impl CaMetrics {
    pub(crate) fn new(metrics: &mut Metrics) -> Self {
        Self {
            issued: metrics.add(
                "ca_issued",
                "Leaves issued, by how the caller proved itself",
                Family::default(),
            ),
            refused: metrics.add("ca_refused", "Requests refused, by reason", Family::default()),
            left: metrics.add(
                "ca_certificate_left_seconds",
                "Life left of the CA's own certificates",
                Family::default(),
            ),
            rotation: metrics.add(
                "ca_rotation_state",
                "1 for the state that the rotation is in",
                Family::default(),
            ),
            failures: metrics.add(
                "ca_step_failures",
                "Failed renewals, rotation steps and publications; each is tried again",
                Counter::default(),
            ),
            all_issued: AtomicU64::new(0),
            all_refused: AtomicU64::new(0),
        }
    }

    pub(crate) fn issued(&self, via: Option<Via>) {
        self.issued.get_or_create(&ViaLabel { via: via.map_or("unknown", Via::word) }).inc();
        if via != Some(Via::Own) {
            self.all_issued.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
        self.all_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn left(&self, tier: &'static str, seconds: i64) {
        self.left.get_or_create(&TierLabel { tier }).set(seconds);
    }

    pub(crate) fn phase(&self, now: Phase) {
        for phase in [Phase::Steady, Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
            self.rotation
                .get_or_create(&PhaseLabel { state: phase.to_string() })
                .set(i64::from(phase == now));
        }
    }

    pub(crate) fn step_failed(&self) {
        self.failures.inc();
    }

    /// (issued, refused), for the status.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.all_issued.load(Ordering::Relaxed), self.all_refused.load(Ordering::Relaxed))
    }
}
