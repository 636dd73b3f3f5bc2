//! The one place that reads the wall clock. Everything that decides by time takes `now` as an argument.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Now, UTC.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
pub fn now() -> OffsetDateTime {
    std::time::SystemTime::now().into()
}

/// Whole seconds since the Unix epoch, as certificates count.
pub fn unix_now() -> i64 {
    now().unix_timestamp()
}

/// Unix seconds as "2026-11-26T12:00:00Z"; `None`: no time that can be written so.
pub fn rfc3339(seconds: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}
