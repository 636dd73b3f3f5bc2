//! Everything that `signet check` can find. An ID keeps its meaning for ever; tests hold that each has a page and a case that
//! provokes it.

use clap::ValueEnum as _;
use serde::{Serialize, Serializer};

use crate::output;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Works, and is not as it should be
    Warn,
    /// Does not work, or is not safe
    Error,
}

/// In the order of their numbers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub(crate) enum Id {
    OldKubernetes,
    MissingRight,
    PodSecurity,
    PartNotReady,
    NoCaBundle,
    WrongCaBundle,
    NotInjected,
    OldProxy,
    OutsideRanges,
    CertificateEnds,
    RootEnds,
    BroughtRefused,
    PlaintextCaller,
    NodeCaller,
    OnHostNetwork,
    OutsideStrict,
    ApiServerCall,
    HiddenControlPlane,
    NotTcp,
    ExcludedPorts,
    NotServed,
    RefusedBackend,
    WithoutCertificate,
    NotHonoured,
    WithoutBackend,
    EdgeCaEnds,
    NotRenewed,
    OrderFailed,
    StagingCertificate,
    SecretFirst,
}

/// `--list`.
#[derive(Serialize)]
pub(crate) struct Known {
    id: Id,
    severity: Severity,
    title: &'static str,
    why: &'static str,
    page: String,
}

impl Id {
    /// Every one that there is: the derive forgets none, so neither do the tests that ask for a page and a provoking case of each.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    pub(crate) fn word(self) -> &'static str {
        self.row().0
    }

    pub(super) fn severity(self) -> Severity {
        self.row().1
    }

    pub(super) fn why(self) -> &'static str {
        self.row().3
    }

    pub(super) fn page(self) -> String {
        format!("docs/checks/{}.md", self.word())
    }

    /// ID, severity, what it is, why it matters.
    fn row(self) -> (&'static str, Severity, &'static str, &'static str) {
        use Severity::{Error, Warn};
        match self {
            Self::OldKubernetes => (
                "SG001",
                Error,
                "Kubernetes is older than 1.33",
                "The proxy is a restartable init container: an older kubelet starts it too late, or not at all.",
            ),
            Self::MissingRight => (
                "SG002",
                Error,
                "Your account may not install Signet",
                "An installation that stops half-way has a webhook without its injector, or an injector without rights.",
            ),
            Self::PodSecurity => (
                "SG003",
                Error,
                "A labelled namespace enforces Pod Security baseline or restricted",
                "Capture needs NET_ADMIN for a moment, which these levels forbid: new pods of the namespace are refused.",
            ),
            Self::PartNotReady => (
                "SG010",
                Error,
                "A part of the control plane has a pod that is not ready, or none",
                "Traffic that is known goes on; new pods, renewals and changes wait.",
            ),
            Self::NoCaBundle => (
                "SG011",
                Error,
                "The webhook is missing or has no caBundle",
                "The API server cannot reach the injector: new pods of labelled namespaces are refused, or slip out of the mesh.",
            ),
            Self::WrongCaBundle => (
                "SG012",
                Error,
                "The webhook's caBundle is not the CA's roots",
                "The API server does not believe the injector, or will not after the next rotation.",
            ),
            Self::NotInjected => (
                "SG020",
                Warn,
                "Pods of a labelled namespace have no proxy",
                "They talk plaintext, and strict namespaces refuse them.",
            ),
            Self::OldProxy => (
                "SG021",
                Warn,
                "Proxies are of another version than the control plane",
                "Every release speaks with the one before it, and not with older ones.",
            ),
            Self::OutsideRanges => (
                "SG022",
                Error,
                "A pod has an address outside of the mesh's ranges",
                "What is outside of them passes unencrypted when the controller does not answer.",
            ),
            Self::CertificateEnds => (
                "SG030",
                Error,
                "A certificate has ended or ends before it should have been renewed",
                "Without a valid certificate a workload's mesh traffic is closed, in both directions.",
            ),
            Self::RootEnds => (
                "SG031",
                Warn,
                "A root, or an intermediate of your own, ends soon",
                "A root is replaced at half of its life, so one that is about to end says that rotation does not work. What you bring yourself, nobody but you renews.",
            ),
            Self::BroughtRefused => (
                "SG032",
                Warn,
                "The intermediate of your own is not used, or no longer there",
                "The CA goes on with what it has in memory, or with its own root; a restart, or the end of what it has, leaves it without.",
            ),
            Self::PlaintextCaller => (
                "SG040",
                Error,
                "Somebody calls the namespace in plaintext",
                "Strict refuses plaintext: this caller would be cut off.",
            ),
            Self::NodeCaller => (
                "SG041",
                Error,
                "A node, or a pod on its network, calls the namespace in plaintext",
                "A node's address is shared and never an identity of the mesh: strict would refuse this caller, and no label helps it.",
            ),
            Self::OnHostNetwork => (
                "SG042",
                Warn,
                "Pods of the namespace use the host's network",
                "They are never in the mesh: strict pods refuse what they send, and nothing guards what they serve.",
            ),
            Self::OutsideStrict => (
                "SG043",
                Error,
                "Pods of the namespace have no proxy",
                "Strict does not guard them, and its pods would refuse what they send.",
            ),
            Self::ApiServerCall => (
                "SG044",
                Error,
                "The API server calls a Service of the namespace",
                "It is no client of the mesh: strict would refuse it, and with a webhook what it guards can no longer be changed.",
            ),
            Self::HiddenControlPlane => (
                "SG045",
                Error,
                "A NetworkPolicy keeps proxies from CA or controller",
                "They get no certificate and no settings: in a strict namespace nothing reaches their pods.",
            ),
            Self::NotTcp => (
                "SG046",
                Warn,
                "A Service has a port that is not TCP",
                "Strict covers TCP: UDP and SCTP pass the proxy unencrypted, whoever sends it.",
            ),
            Self::ExcludedPorts => (
                "SG047",
                Warn,
                "Ports are excluded from the proxy",
                "Strict does not guard an excluded inbound port: everybody reaches it in plaintext, unseen.",
            ),
            Self::NotServed => (
                "SG050",
                Error,
                "An Ingress does not get a host, or is refused as a whole",
                "Its requests get another namespace's answer, or 404: a host has one owner, and what would have restricted access is not served open.",
            ),
            Self::RefusedBackend => (
                "SG051",
                Error,
                "An Ingress leads where no gateway dials",
                "Requests get 500 or 503: such an address may be a node, the API server, or another team's pod.",
            ),
            Self::WithoutCertificate => (
                "SG052",
                Error,
                "A host is to have HTTPS and has no certificate, or not its newest",
                "Handshakes fail until there is one; an old one ends some day.",
            ),
            Self::NotHonoured => (
                "SG053",
                Warn,
                "Annotations of an Ingress do nothing here",
                "It is served without them, and may behave otherwise than under the controller that they were written for.",
            ),
            Self::WithoutBackend => ("SG054", Warn, "An Ingress leads to no endpoint", "Requests get 503."),
            Self::EdgeCaEnds => (
                "SG055",
                Warn,
                "The edge CA has ended, or ends soon",
                "It certifies no host beyond its end, and nobody renews it by himself: who believes its root has to install the next one.",
            ),
            Self::NotRenewed => (
                "SG056",
                Error,
                "A certificate of an ACME CA is not renewed in time",
                "Less than a third of its life is left (half, below ten days), and it should have been renewed before. When it ends, handshakes fail.",
            ),
            Self::OrderFailed => (
                "SG057",
                Warn,
                "Orders for a certificate fail, and an older one is served",
                "It is tried again by itself, and the CA counts failures: whoever waits too long finds its limits.",
            ),
            Self::StagingCertificate => (
                "SG058",
                Warn,
                "A certificate is of a CA's staging environment",
                "It is served as asked, and no browser believes it.",
            ),
            Self::SecretFirst => (
                "SG059",
                Warn,
                "A certificate is asked for by annotation, and a Secret of yours is served",
                "What you bring always wins, so nothing is ordered, and nobody but you, or who makes that Secret, renews it.",
            ),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

pub(crate) fn list() -> Vec<Known> {
    let known = |id: Id| {
        let (_, severity, title, why) = id.row();
        Known { id, severity, title, why, page: id.page() }
    };
    Id::all().iter().copied().map(known).collect()
}

pub(crate) fn table(list: &[Known]) -> String {
    let rows = list.iter().map(|known| {
        let severity = if known.severity == Severity::Error { "error" } else { "warning" };
        [known.id.word().into(), severity.into(), known.title.into(), known.page.clone()]
    });
    output::table(["ID", "SEVERITY", "FINDING", "PAGE"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, path::Path};

    #[test]
    fn every_finding_has_a_number_of_its_own_and_a_page_that_says_what_to_do() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut words = BTreeSet::new();
        for id in Id::all().iter().copied() {
            assert!(words.insert(id.word()), "{} twice", id.word());
            let page = std::fs::read_to_string(directory.join(id.page())).unwrap_or_default();
            assert!(page.starts_with(&format!("# {}: {}", id.word(), id.row().2)), "{}", id.page());
            for section in ["## Why it matters", "## What to do"] {
                assert!(page.contains(section), "{} has no {section}", id.page());
            }
        }
        let pages = std::fs::read_dir(directory.join("docs/checks")).unwrap().count();
        assert_eq!(pages, Id::all().len(), "a page without a finding");
    }
}
