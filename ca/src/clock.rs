//! Time as the CA sees it, Unix seconds: the real one, or a test's.

use std::sync::Arc;

/// Asked for every decision.
pub(crate) type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

pub(crate) fn real() -> Clock {
    Arc::new(signet_core::clock::unix_now)
}
