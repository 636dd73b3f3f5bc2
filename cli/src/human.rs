//! Numbers as people say them.

use std::time::Duration;

use time::OffsetDateTime;

/// The two largest units: "23h 59m", "9y 364d", "1m 5s", "12s", and "350ms" below a second.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 && !duration.is_zero() {
        return format!("{}ms", duration.as_millis());
    }
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, length) in UNITS {
        let n = left / length;
        left %= length;
        if n > 0 || !parts.is_empty() {
            parts.push((n, unit));
        }
    }
    let shown: Vec<_> =
        parts.iter().take(2).filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if shown.is_empty() { "0s".into() } else { shown.join(" ") }
}

/// Time left of something that ends: "23h 59m", or "expired 5m ago".
pub(crate) fn left(seconds: i64) -> String {
    let length = duration(Duration::from_secs(seconds.unsigned_abs()));
    if seconds < 0 { format!("expired {length} ago") } else { length }
}

/// Time left until an RFC 3339 `end`; what does not parse is shown as it came.
pub(crate) fn left_until(end: &str, now: OffsetDateTime) -> String {
    seconds_until(end, now).map_or_else(|| end.to_owned(), left)
}

/// Seconds until an RFC 3339 `end`, negative when it is past.
pub(crate) fn seconds_until(end: &str, now: OffsetDateTime) -> Option<i64> {
    let end = OffsetDateTime::parse(end, &time::format_description::well_known::Rfc3339).ok()?;
    Some((end - now).whole_seconds())
}

/// Where an RFC 3339 time is, seen from now: "in 9m", "12m ago", "now"; what does not parse is shown as it came.
pub(crate) fn when(at: &str, now: OffsetDateTime) -> String {
    let length = |seconds: i64| duration(Duration::from_secs(seconds.unsigned_abs()));
    match seconds_until(at, now) {
        None => at.to_owned(),
        Some(0) => "now".into(),
        Some(seconds) if seconds < 0 => format!("{} ago", length(seconds)),
        Some(seconds) => format!("in {}", length(seconds)),
    }
}

/// "312 B", "1.2 KiB", "7.0 GiB".
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// "1 edge", "3 edges".
pub(crate) fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// A year of 365 days, as certificates are talked about.
const UNITS: [(&str, u64); 5] = [("y", 31_536_000), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        for (seconds, want) in [
            (0, "0s"),
            (12, "12s"),
            (65, "1m 5s"),
            (3_600, "1h"),
            (86_399, "23h 59m"),
            (86_401, "1d"),
            (10 * 31_536_000 - 1, "9y 364d"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), want);
        }
        assert_eq!(duration(Duration::from_millis(350)), "350ms");
    }

    #[test]
    fn what_is_past_says_so() {
        assert_eq!(left(-300), "expired 5m ago");
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap();
        assert_eq!(left_until("1970-01-12T13:47:40Z", now), "1m");
        assert_eq!(left_until("soon", now), "soon");
        for (at, want) in [
            ("1970-01-12T13:47:40Z", "in 1m"),
            ("1970-01-12T13:46:40Z", "now"),
            ("1970-01-12T13:46:28Z", "12s ago"),
            ("soon", "soon"),
        ] {
            assert_eq!(when(at, now), want);
        }
    }

    #[test]
    fn bytes_keep_one_digit() {
        for (n, want) in [(312, "312 B"), (1024, "1.0 KiB"), (1_300, "1.3 KiB"), (7 << 30, "7.0 GiB")] {
            assert_eq!(bytes(n), want);
        }
    }
}
