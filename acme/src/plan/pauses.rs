//! How long after something failed it is tried again.

use super::part;
use crate::record::{DAY, Record};

/// How long after the `failed`th order in a row the next is asked for: 1, 10, 100 minutes, then a day, as Let's Encrypt advises, give
/// or take a tenth; at most `most` ([`longest_pause`]).
pub(crate) fn back_off(failed: u32, most: i64, random: &mut fastrand::Rng) -> i64 {
    let step = match failed {
        0 | 1 => 60,
        2 => 600,
        3 => 6000,
        _ => DAY,
    };
    part(step.min(most), 0.9 + 0.2 * random.f64()).max(1)
}

/// How long after the `count`th call in a row that failed it is made again: 5 s, then three times that and so on, at most 15 minutes, and at
/// most `most`.
pub(crate) fn call_again(count: u32, most: i64, random: &mut fastrand::Rng) -> i64 {
    let step = 5_i64.saturating_mul(3_i64.saturating_pow(count.saturating_sub(1))).min(15 * 60);
    part(step.min(most), 0.9 + 0.2 * random.f64()).max(1)
}

/// What no back-off is longer than, seconds: a quarter of what the held certificate has left, so that short ones have several tries, too;
/// of one that has ended, its life, so that the limit of orders is what holds back whoever lives by minutes.
pub(crate) fn longest_pause(record: &Record, now: i64) -> i64 {
    match &record.held {
        None => i64::MAX,
        Some(held) if now <= held.not_after => ((held.not_after - now) / 4).max(SHORTEST),
        Some(held) => held.life().max(AFTER_END),
    }
}

/// Seconds; of any back-off, so that a certificate of a minute is not tried for without a pause.
pub(super) const SHORTEST: i64 = 5;
/// Seconds; the same after the end of a certificate: a little less than the tenth part of an hour, of which the limit of orders makes six
/// minutes.
const AFTER_END: i64 = 300;
