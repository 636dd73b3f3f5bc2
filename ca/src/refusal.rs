//! Why a request for a certificate is refused: one variant, one word, one gRPC status, one sentence for the caller.

use std::time::Duration;

use signet_core::identity::{NotASpiffeId, SpiffeId, TrustDomain};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{
    audit::CannotAudit, cluster::reviews::Unreviewed, csr::BadCsr, issue::CannotIssue, tokens::BadToken,
};

/// Display is for the audit log and says all; callers get [`Refusal::status`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("neither a token nor a certificate")]
    NoCredentials,
    #[error("no token; in a cluster each certificate needs the pod's")]
    NoToken,
    #[error(transparent)]
    Token(#[from] BadToken),
    #[error(transparent)]
    Review(#[from] Unreviewed),
    #[error("the certificate of {id} is no longer believed: {source}")]
    Svid { id: SpiffeId, source: rustls::Error },
    #[error("{id} is the CA itself; nobody else is named so")]
    Reserved { id: SpiffeId },
    #[error("{id} is not of trust domain {domain}")]
    Foreign { id: SpiffeId, domain: TrustDomain },
    #[error(transparent)]
    Name(#[from] NotASpiffeId),
    #[error(transparent)]
    Csr(#[from] BadCsr),
    #[error("a life of {0} seconds was asked for")]
    Life(i64),
    #[error("{name:?} is a serving name that {id} does not get")]
    Serving { id: SpiffeId, name: String },
    #[error("too many requests at once, {limit}")]
    Busy { limit: &'static str },
    #[error("the request was not there within {0:?}")]
    Slow(Duration),
    /// Refused by gRPC before its content was looked at.
    #[error("{reason}: {message:?}")]
    Protocol { reason: &'static str, message: String },
    #[error(transparent)]
    Audit(#[from] CannotAudit),
    #[error(transparent)]
    Issue(#[from] CannotIssue),
}

impl Refusal {
    /// Of a closed set: the audit log's `reason` and the metric's label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials | Self::NoToken => "no_credentials",
            Self::Token(BadToken::Unknown) => "token_unknown",
            Self::Token(BadToken::Expired(_)) => "token_expired",
            Self::Review(why) => why.reason(),
            Self::Svid { .. } => "svid_untrusted",
            Self::Reserved { .. } => "name_reserved",
            Self::Foreign { .. } => "name_foreign",
            Self::Name(_) => "name_invalid",
            Self::Csr(BadCsr::TooBig(_)) => "csr_too_big",
            Self::Csr(BadCsr::NotACsr) => "csr_malformed",
            Self::Csr(BadCsr::Key) => "csr_key",
            Self::Csr(BadCsr::Signature) => "csr_signature",
            Self::Life(_) => "life_invalid",
            Self::Serving { .. } => "serving_denied",
            Self::Busy { .. } => "busy",
            Self::Slow(_) => "slow",
            Self::Protocol { reason, .. } => reason,
            Self::Audit(_) => "audit_unavailable",
            Self::Issue(CannotIssue::Behind) => "state_behind",
            Self::Issue(_) => "signing_failed",
        }
    }

    /// What the caller is told: enough to mend its side, nothing about ours.
    pub(crate) fn status(&self) -> Status {
        let (code, words) = match self {
            Self::NoCredentials => (
                Code::Unauthenticated,
                "send a join token (authorization: Bearer ...) or renew with a certificate of this mesh"
                    .into(),
            ),
            Self::NoToken => (
                Code::Unauthenticated,
                "send the pod's token of audience signet-ca (authorization: Bearer ...), also for a renewal"
                    .into(),
            ),
            Self::Token(_) => (
                Code::Unauthenticated,
                "the token is unknown, used or expired; read the token file again".into(),
            ),
            Self::Review(why) => why.words(),
            Self::Svid { .. } => {
                (Code::Unauthenticated, "the certificate is no longer believed; send a join token".into())
            }
            Self::Reserved { .. } | Self::Foreign { .. } | Self::Serving { .. } => {
                (Code::PermissionDenied, "this name is not issued to you".into())
            }
            Self::Name(_) | Self::Csr(_) => (Code::InvalidArgument, self.to_string()),
            Self::Life(_) => {
                (Code::InvalidArgument, "validity_duration is in seconds; 0 asks for the default".into())
            }
            Self::Busy { .. } => {
                (Code::ResourceExhausted, "the CA is busy; try again after the pause named".into())
            }
            Self::Slow(limit) => {
                (Code::DeadlineExceeded, format!("the request was not there within {limit:?}"))
            }
            Self::Protocol { .. } => (Code::InvalidArgument, "not a request of this service".into()),
            Self::Audit(_) | Self::Issue(_) => {
                (Code::Unavailable, "the CA cannot issue now; its log says why".into())
            }
        };
        let mut status = Status::with_metadata(code, words, MetadataMap::new());
        if code == Code::ResourceExhausted {
            // gRFC A6: the server's word on when to try again, milliseconds.
            status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from_static(RETRY_HINT));
        }
        status
    }
}

/// Milliseconds: a CA works off a full house (256 requests) in 60 ms; clients spread their retries themselves.
const RETRY_HINT: &str = "1000";
