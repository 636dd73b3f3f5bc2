//! How a connection ends: well, or refused, or lost. One word for each end, the same in the access log, in the metric and in
//! the connection table; `docs/reasons/<word>.md` explains it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use signet_core::{identity::SpiffeId, tls::NotOurPeer};

/// Why a connection was not carried, or not to its end. Display says this level and the next step; the cause is `source()`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    // ---- us
    #[error("no certificate of our own yet, or it expired; see signet ca status")]
    NoCertificate,
    #[error("our settings have not arrived from the controller yet; the inbound is closed until they do")]
    NoSettings,
    #[error("this proxy is draining")]
    Draining,
    #[error("more than {limit} connections; the app or its callers hold too many open")]
    OverLimit { limit: usize },
    #[error("{from} has {limit} connections open that have not shown who they are; a flood, or a scanner")]
    SourceOverLimit { from: IpAddr, limit: usize },
    #[error(
        "{to} is the proxy's own or not ours, or no rule redirected this connection; dial the app's port on the pod's address \
         (docs/capture.md)"
    )]
    NotRedirected { to: SocketAddr },
    // ---- the peer
    #[error(
        "{peer} spoke plaintext and this workload is strict; who else would break: signet edges --plaintext"
    )]
    Plaintext { peer: SocketAddr },
    #[error("{peer} sent nothing for {waited:?}, so there was no telling TLS from plaintext")]
    Silent { peer: SocketAddr, waited: Duration },
    #[error("{peer} did not finish the TLS handshake in {waited:?}")]
    HandshakeTimeout { peer: SocketAddr, waited: Duration },
    #[error("TLS handshake with {peer} failed; compare trust bundles: signet ca status")]
    Handshake { peer: SocketAddr, source: io::Error },
    #[error("{peer} has no certificate that this mesh trusts; compare trust bundles: signet ca status")]
    Untrusted { peer: SocketAddr, source: io::Error },
    #[error("{peer} {why}")]
    Identity { peer: SocketAddr, why: Box<NotOurPeer> },
    #[error("{peer} broke the wire protocol: {why}")]
    Protocol { peer: SocketAddr, why: String },
    #[error(
        "{caller} may not call port {port}; name it in one of the policies that select this pod: {policies}"
    )]
    Denied { caller: String, port: u16, policies: Arc<str> },
    // ---- the app
    #[error("our app does not take connections at {address}")]
    App { address: SocketAddr, source: io::Error },
    // ---- the way out
    #[error("the controller did not say within {waited:?} where {to} leads; is it running? signet status")]
    Unanswered { to: Arc<str>, waited: Duration },
    #[error(
        "the controller knows no Service or Pod {to}; is its manifest there and does it parse? signet status"
    )]
    NoSuchAddress { to: Arc<str> },
    #[error("{to} has no ready endpoint for port {port}; see its Pods and Endpoints")]
    NoEndpoint { to: Arc<str>, port: u16 },
    #[error("cannot connect to {peer}")]
    Unreachable { peer: SocketAddr, source: io::Error },
    #[error("{server} at {peer} denies this workload port {port}; name it in one of that pod's policies")]
    DeniedByPeer { peer: SocketAddr, server: SpiffeId, port: u16 },
    #[error("{peer} refused ({word}) and no other endpoint was left to try")]
    RefusedByPeer { peer: SocketAddr, word: &'static str },
    // ---- a connection that lived
    #[error("{peer} was lost without an end of stream; the app was told so by a reset")]
    Lost { peer: SocketAddr, source: io::Error },
    #[error("the wire to the peer broke while we sent; the app was told so by a reset")]
    WireWrite { source: io::Error },
    #[error("our app reset the connection")]
    AppReset { source: io::Error },
    #[error("the peer's app reset the connection")]
    PeerReset,
    #[error("a policy change no longer allows {caller} on port {port}")]
    PolicyChanged { caller: String, port: u16 },
    #[error("our own certificate expired")]
    CertificateExpired,
    #[error("the root behind {peer}'s certificate was distrusted")]
    RootDistrusted { peer: SocketAddr },
    #[error("the address {peer} belongs to another workload now")]
    EndpointChanged { peer: SocketAddr },
}

impl Refusal {
    /// A closed set, so that no peer can add a metric series.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NoSettings => "no_settings",
            Self::Draining => "draining",
            Self::OverLimit { .. } | Self::SourceOverLimit { .. } => "over_limit",
            Self::NotRedirected { .. } => "not_redirected",
            Self::Plaintext { .. } => "plaintext_refused",
            Self::Silent { .. } => "first_bytes_timeout",
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::Handshake { .. } => "handshake_failed",
            Self::Untrusted { .. } => "peer_untrusted",
            Self::Identity { .. } => "peer_identity",
            Self::Protocol { .. } => "protocol_error",
            Self::Denied { .. } => "policy_denied",
            Self::App { .. } => "app_unreachable",
            Self::Unanswered { .. } => "address_unanswered",
            Self::NoSuchAddress { .. } => "address_unknown",
            Self::NoEndpoint { .. } => "no_endpoint",
            Self::Unreachable { .. } => "endpoint_unreachable",
            Self::DeniedByPeer { .. } => "denied_by_peer",
            Self::RefusedByPeer { .. } => "refused_by_peer",
            Self::Lost { .. } | Self::WireWrite { .. } => "peer_lost",
            Self::AppReset { .. } => "app_reset",
            Self::PeerReset => "peer_reset",
            Self::PolicyChanged { .. } => "policy_changed",
            Self::CertificateExpired => "certificate_expired",
            Self::RootDistrusted { .. } => "root_distrusted",
            Self::EndpointChanged { .. } => "endpoint_changed",
        }
    }

    /// Whether the connection was carried for a while: its end is not a refusal.
    pub fn lived(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. }
                | Self::WireWrite { .. }
                | Self::AppReset { .. }
                | Self::PeerReset
                | Self::PolicyChanged { .. }
                | Self::CertificateExpired
                | Self::RootDistrusted { .. }
                | Self::EndpointChanged { .. }
        )
    }

    /// A failed TLS handshake, told apart by whose certificate was at fault.
    pub fn of_handshake(peer: SocketAddr, error: io::Error) -> Self {
        let certificate =
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(|e| {
                matches!(
                    e,
                    rustls::Error::InvalidCertificate(_)
                        | rustls::Error::NoCertificatesPresented
                        | rustls::Error::PeerIncompatible(_)
                )
            });
        if certificate {
            Self::Untrusted { peer, source: error }
        } else {
            Self::Handshake { peer, source: error }
        }
    }

    /// The server answered our handshake with something that is not TLS.
    pub fn is_not_tls(&self) -> bool {
        let Self::Handshake { source, .. } = self else { return false };
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidMessage(_)))
    }

    /// Display and its causes in one line, for `why` in the access log and the table.
    pub fn why(&self) -> String {
        let mut why = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            why.push_str(": ");
            why.push_str(&cause.to_string());
            source = cause.source();
        }
        why
    }
}

/// The word of a connection that ended as both sides wished.
pub const OK: &str = "ok";

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The words stand in logs, metrics and tables; whoever meets one must find what it means.
    #[test]
    fn every_reason_has_its_page() {
        let source = include_str!("refusal.rs");
        let reasons =
            source.split("pub fn reason").nth(1).and_then(|rest| rest.split("pub fn").next()).unwrap();
        let words: Vec<&str> =
            reasons.lines().filter_map(|line| line.split("=> \"").nth(1)?.split('"').next()).collect();
        assert!(words.len() > 20, "{words:?}");
        for word in words {
            let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/reasons/{word}.md"));
            let text = std::fs::read_to_string(&page).unwrap_or_default();
            assert!(text.starts_with(&format!("# {word}\n")), "{} is missing", page.display());
        }
    }
}
