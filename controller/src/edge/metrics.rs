//! Edge's own numbers, beside those that it shares with the controller. No host and no namespace is a label: strangers choose those.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
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
