//! The one place that reads the wall clock. Everything that decides by time takes `now` as an argument.

use time::OffsetDateTime;

/// Now, UTC.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
pub fn now() -> OffsetDateTime {
    std::time::SystemTime::now().into()
}

/// Whole seconds since the Unix epoch, as certificates count.
pub fn unix_now() -> i64 {
    now().unix_timestamp()
}
