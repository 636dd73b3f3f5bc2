//! Edge's own numbers, beside those that it shares with the controller. No host and no namespace is a label: strangers choose those.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use signet_acme::drive;
use signet_core::telemetry;

use super::translate::Translated;

/// Handles; cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct EdgeMetrics {
    hosts: Gauge,
    refused: Gauge,
    unready: Gauge,
    certificates: Gauge,
    backends: Gauge,
    first_expiry: Gauge,
    pub(crate) leads: Gauge,
    pub(crate) statuses: Counter,
    pub(crate) claims: Counter,
}

impl EdgeMetrics {
    pub(crate) fn new(registry: &mut telemetry::Metrics) -> Self {
        Self {
            hosts: registry.add("edge_hosts", "Hosts that are served", Gauge::default()),
            refused: registry.add(
                "edge_hosts_refused",
                "Ingresses times hosts that do not get the host",
                Gauge::default(),
            ),
            unready: registry.add(
                "edge_hosts_without_certificate",
                "Hosts that are to have HTTPS and have no certificate",
                Gauge::default(),
            ),
            certificates: registry.add("edge_certificates", "Certificates served", Gauge::default()),
            backends: registry.add("edge_backends", "Backends served", Gauge::default()),
            first_expiry: registry.add(
                "edge_first_certificate_not_after_seconds",
                "When the first of the served certificates expires, Unix seconds; 0: there is none",
                Gauge::default(),
            ),
            leads: registry.add("edge_leads", "1 while this replica holds the Lease", Gauge::default()),
            statuses: registry.add(
                "edge_statuses_written",
                "Statuses of Ingresses written",
                Counter::default(),
            ),
            claims: registry.add("edge_claims_written", "Claims of hosts stored", Counter::default()),
        }
    }

    pub(crate) fn count(&self, translated: &Translated) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let hosts = || translated.hosts.iter();
        self.hosts.set(number(hosts().filter(|host| !host.ingresses.is_empty()).count()));
        self.refused.set(number(hosts().map(|host| host.refused.len()).sum()));
        self.unready.set(number(translated.https_hosts.iter().filter(|host| host.unready.is_some()).count()));
        self.certificates.set(number(translated.certificates.len()));
        self.backends.set(number(translated.backends.len()));
        self.first_expiry.set(translated.first_expiry.unwrap_or(0));
    }
}

/// Of certificates that are ordered. All are 0 on the replicas that do not order, but for the counters.
#[derive(Clone, Debug)]
pub(crate) struct AcmeMetrics {
    wanted: Gauge,
    held: Gauge,
    overdue: Gauge,
    held_back: Gauge,
    failing: Gauge,
    broken: Gauge,
    first_expiry: Gauge,
    pub(crate) failures: Counter,
    pub(crate) troubles: Counter,
}

impl AcmeMetrics {
    pub(crate) fn new(registry: &mut telemetry::Metrics) -> Self {
        let mut gauge = |name, help| registry.add(name, help, Gauge::default());
        Self {
            wanted: gauge("edge_acme_wanted", "Certificates that are to be ordered of ACME authorities"),
            held: gauge("edge_acme_held", "Those of them that are held, and valid"),
            overdue: gauge(
                "edge_acme_overdue",
                "Those of them with less than a third of their life left, or half of one below ten days",
            ),
            held_back: gauge(
                "edge_acme_held_back",
                "Those that nothing is ordered for, because of DNS or credentials",
            ),
            failing: gauge("edge_acme_failing", "Those whose last order failed"),
            broken: gauge("edge_acme_broken", "Records that cannot be read"),
            first_expiry: gauge(
                "edge_acme_first_not_after_seconds",
                "When the first of those that are wanted and held expires, Unix seconds; 0: there is none",
            ),
            failures: registry.add("edge_acme_orders_failed", "Orders that failed", Counter::default()),
            troubles: registry.add(
                "edge_acme_calls_failed",
                "Steps of orders that came to nothing, and are taken again",
                Counter::default(),
            ),
        }
    }

    /// `now`: Unix seconds.
    pub(crate) fn count(&self, snapshot: &drive::Snapshot, now: i64) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let wanted = || snapshot.entries.values().filter(|entry| entry.wish.is_some());
        let held = || wanted().filter_map(|entry| entry.record.served(now));
        self.wanted.set(number(wanted().count()));
        self.held.set(number(held().count()));
        self.overdue.set(number(held().filter(|held| held.is_overdue(now)).count()));
        let is_held_back = |entry: &&drive::Entry| entry.wish.as_ref().is_some_and(|w| w.held_back.is_some());
        self.held_back.set(number(wanted().filter(is_held_back).count()));
        self.failing.set(number(wanted().filter(|entry| !entry.record.failures.is_empty()).count()));
        self.broken.set(number(snapshot.broken.len()));
        self.first_expiry.set(held().map(|held| held.not_after).min().unwrap_or(0));
    }
}
