//! Time as a part sees it, in seconds: the real one, or a test's.

use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};

/// Asked for every decision.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Unix seconds, as certificates count.
pub fn real() -> Clock {
    Arc::new(signet_core::clock::unix_now)
}

/// Seconds that this machine has run, sleep included: for how long ago something was. Nobody sets it back, and no two
/// machines agree on it.
pub fn running() -> Clock {
    Arc::new(|| {
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every kernel since 2.6.39 has this clock").tv_sec()
    })
}
