//! What can go wrong with a step or an order.

use std::sync::Arc;

use signet_core::identity::TrustDomain;

use super::TRIES;
use crate::{
    brought::{Refused, SECRET},
    issue::CannotIssue,
    publication::CannotPublish,
    rotation::OutOfOrder,
    store::StoreError,
};

/// What went wrong with a step or an order. What was valid before it still is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Order(#[from] OutOfOrder),
    #[error(transparent)]
    Issue(#[from] CannotIssue),
    #[error(transparent)]
    Publish(#[from] CannotPublish),
    #[error(
        "the state is of trust domain {stored}, not {wanted}; a trust domain cannot be renamed, use another state"
    )]
    TrustDomain { stored: String, wanted: TrustDomain },
    #[error("the state's roots make no bundle: {0}; restore the state from a backup")]
    Bundle(String),
    #[error("the state has no active root; restore the state from a backup")]
    NoRoot,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(
        "root {root} is your own, and {SECRET} has no intermediate of it: {why}. Put one there. Where there is none any \
         more, delete Secret signet-system/signet-ca to begin anew with what you bring: everyone joins again by token \
         (docs/ca.md)"
    )]
    NoIntermediate { root: Arc<str>, why: String },
    #[error(
        "{SECRET} is gone, while root {root} of yours signs: a replica that restarts issues nothing, and nobody does after \
         {until}; put it back"
    )]
    Withdrawn { root: Arc<str>, until: String },
    #[error("the stored state is gone; restore it, or restart every replica to begin with a new root")]
    Gone,
    #[error("the stored state is another one (version {found}, ours is {held}); restart every replica")]
    Replaced { found: u64, held: u64 },
    /// Of a step; nobody is told.
    #[error("another replica was faster")]
    Overtaken,
    #[error("other replicas wrote the state {TRIES} times while this one tried; try again")]
    Contended,
}

impl CaError {
    /// Whether it may pass by itself, so that a CA that starts tries again.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::Publish(CannotPublish::Api(_)) | Self::Contended => true,
            // Someone is to put something else into the Secret.
            Self::Refused(_) | Self::NoIntermediate { .. } | Self::Order(OutOfOrder::NoReplacement) => true,
            _ => false,
        }
    }
}
