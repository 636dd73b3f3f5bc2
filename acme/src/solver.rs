//! Who puts challenges where the CA looks: the cluster (a Secret, and gateways that answer), a DNS zone's provider, or the
//! gateway of `signet local`.

use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::{challenge::Challenge, problem::Problem};

/// All three may be called again after a crash, with challenges that are there already, or gone already.
pub trait Solver: Send + Sync {
    /// Puts them there, and is done when they are stored: gateways, or a zone's servers, may still be on their way to them.
    fn present(&self, challenges: &[Challenge]) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Who answers with them now, and who does not. Whoever takes too long (5 s, a gateway) is missing, and holds nobody up.
    fn look(&self, challenges: &[Challenge]) -> impl Future<Output = Result<Seen, Problem>> + Send;

    /// Takes them away.
    fn clear(&self, challenges: &[Challenge]) -> impl Future<Output = Result<(), Problem>> + Send;
}

/// Who was asked for the challenges, and what came of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// When. Unix seconds.
    #[serde(default)]
    pub at: i64,
    /// Pods, or name servers, that answer with all of them.
    pub by: Vec<String>,
    pub missing: Vec<Missing>,
}

/// Somebody who does not.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    pub who: String,
    pub why: String,
}
