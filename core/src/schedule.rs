//! When to renew and when to try again: pure functions, so that rotation is tested without waiting for it.

use std::time::Duration;

/// How long after now a certificate with `life` left in all is renewed: half of it, give or take a tenth, so that a
/// restarted cluster does not renew in one burst. `jitter` is uniform in 0..1.
pub fn renew_after(life: Duration, jitter: f64) -> Duration {
    life.mul_f64(0.45 + 0.10 * jitter.clamp(0.0, 1.0))
}

/// Back-off of a failed renewal: doubles from 1 s, at most min(60 s, life left / 4), so that a short-lived leaf still has
/// several tries; 5 s once expired, because everything is closed until then. Jitter of a fifth on top.
pub fn retry_after(failures: u32, left: Duration, jitter: f64) -> Duration {
    let cap = if left.is_zero() { EXPIRED_RETRY } else { LONGEST_RETRY.min(left / 4).max(SHORTEST_RETRY) };
    let step = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(10));
    step.min(cap).mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
const EXPIRED_RETRY: Duration = Duration::from_secs(5);
/// A quarter of the last second must not become a busy loop.
const SHORTEST_RETRY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_renewal_leaves_room_for_tries_before_expiry(life in 2u64..1_000_000, jitter in 0.0..1.0) {
            let life = Duration::from_secs(life);
            let at = renew_after(life, jitter);
            prop_assert!(at >= life.mul_f64(0.44) && at <= life.mul_f64(0.56));
        }
        #[test]
        fn retries_are_never_busy_and_never_slower_than_a_minute(failures in 1u32.., left in 0u64..100_000, jitter in 0.0..1.0) {
            let after = retry_after(failures, Duration::from_secs(left), jitter);
            prop_assert!(after >= Duration::from_millis(200) && after <= Duration::from_secs(66));
        }
        #[test]
        fn an_expired_leaf_is_tried_for_every_five_seconds(failures in 4u32.., jitter in 0.0..1.0) {
            let after = retry_after(failures, Duration::ZERO, jitter);
            prop_assert!(after >= Duration::from_millis(4500) && after <= Duration::from_millis(5500));
        }
    }
}
