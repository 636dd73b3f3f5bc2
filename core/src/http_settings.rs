//! What a gateway's settings may change of how requests are treated: every limit of `signet-http`, as JSON. Here, because who installs
//! gateways checks them before a gateway would; the numbers that hold where nothing is said, and the reasons of each, are in
//! `http/src/limits.rs` alone.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::pod::WrongServing;

/// `serving.http`. What is absent has its default; an unknown field is refused. Seconds are whole, sizes are bytes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpSettings {
    #[serde(skip_serializing_if = "is_default")]
    pub head: HeadSettings,
    #[serde(skip_serializing_if = "is_default")]
    pub h2: H2Settings,
    #[serde(skip_serializing_if = "is_default")]
    pub client: ClientSettings,
    #[serde(skip_serializing_if = "is_default")]
    pub upstream: UpstreamSettings,
}

/// Of a request's head.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HeadSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookies: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underscores: Option<Underscores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoded_slash: Option<EncodedSlash>,
}

/// What is done with a field whose name has `_`, which CGI cannot tell from `-`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Underscores {
    /// As nginx does.
    Drop,
    Pass,
}

/// What is done with `%2F` in a path, which some origins take for a `/`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EncodedSlash {
    Refuse,
    /// It stays as it is, and is no separator for the routes. `..` beside it is refused all the same.
    Pass,
}

/// Of an HTTP/2 connection with a client.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct H2Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_window_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_window_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_buffer_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resets: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resets_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_frames_bytes: Option<usize>,
}

/// Of a client's patience and of ours.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_idle_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_buffer_bytes: Option<usize>,
}

/// Towards backends.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UpstreamSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_idle_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub h2_idle_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub h2_connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_window_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_window_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_frames_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_fields: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eject_after: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eject_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eject_max_seconds: Option<u64>,
}

impl HttpSettings {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        is_default(self)
    }

    /// Errors: the first field that means nothing, by its name in JSON, and what it may be.
    pub fn check(&self) -> Result<(), WrongServing> {
        let wrong = self.numbers().into_iter().find_map(|number| {
            let told = number.told.filter(|told| !number.range.contains(told))?;
            let (least, most) = (number.range.start(), number.range.end());
            let expected = format!("{}, {least} to {most}", number.what);
            Some(WrongServing::new(&format!("http.{}.{}", number.group, number.name), &told, expected))
        });
        wrong.map_or(Ok(()), Err)
    }

    /// Every number, told or not, and what it may be.
    pub fn numbers(&self) -> Vec<Number> {
        let Self { head, h2, client, upstream } = self;
        vec![
            number("head", "lineBytes", head.line_bytes, BYTES, BUFFER),
            number("head", "bytes", head.bytes, BYTES, BUFFER),
            number("head", "fields", head.fields, COUNT, FIELDS),
            number("head", "cookies", head.cookies, COUNT, FIELDS),
            number("h2", "streams", h2.streams, COUNT, MANY),
            number("h2", "streamWindowBytes", h2.stream_window_bytes, BYTES, STREAM_WINDOW),
            number("h2", "connectionWindowBytes", h2.connection_window_bytes, BYTES, CONNECTION_WINDOW),
            number("h2", "frameBytes", h2.frame_bytes, BYTES, FRAME),
            number("h2", "sendBufferBytes", h2.send_buffer_bytes, BYTES, BUFFER),
            number("h2", "resets", h2.resets, COUNT, MANY),
            number("h2", "resetsPerSecond", h2.resets_per_second, COUNT, MANY),
            number("h2", "errors", h2.errors, COUNT, MANY),
            number("h2", "smallFramesBytes", h2.small_frames_bytes, BYTES, SMALL_FRAMES),
            number("client", "headSeconds", client.head_seconds, SECONDS, A_DAY),
            number("client", "idleSeconds", client.idle_seconds, SECONDS, A_DAY),
            number("client", "bodySeconds", client.body_seconds, SECONDS, A_DAY),
            number("client", "writeSeconds", client.write_seconds, SECONDS, A_DAY),
            number("client", "drainIdleSeconds", client.drain_idle_seconds, SECONDS, A_DAY),
            number("client", "tunnelSeconds", client.tunnel_seconds, SECONDS, A_DAY),
            number("client", "writeBufferBytes", client.write_buffer_bytes, BYTES, BUFFER),
            number("upstream", "connectSeconds", upstream.connect_seconds, SECONDS, A_DAY),
            number("upstream", "idleSeconds", upstream.idle_seconds, SECONDS, A_DAY),
            number("upstream", "poolIdleSeconds", upstream.pool_idle_seconds, SECONDS, A_DAY),
            number("upstream", "h2IdleSeconds", upstream.h2_idle_seconds, SECONDS, A_DAY),
            number("upstream", "pool", upstream.pool, COUNT, 0..=*MANY.end()),
            number("upstream", "connections", upstream.connections, COUNT, MANY),
            number("upstream", "h2Connections", upstream.h2_connections, COUNT, MANY),
            number("upstream", "streamWindowBytes", upstream.stream_window_bytes, BYTES, STREAM_WINDOW),
            number(
                "upstream",
                "connectionWindowBytes",
                upstream.connection_window_bytes,
                BYTES,
                CONNECTION_WINDOW,
            ),
            number("upstream", "smallFramesBytes", upstream.small_frames_bytes, BYTES, SMALL_FRAMES),
            number("upstream", "headFields", upstream.head_fields, COUNT, FIELDS),
            number("upstream", "headBytes", upstream.head_bytes, BYTES, HYPERS_LEAST..=*BUFFER.end()),
            number(
                "upstream",
                "retryPercent",
                upstream.retry_percent,
                "a share of requests in percent",
                0..=100,
            ),
            number("upstream", "retriesPerSecond", upstream.retries_per_second, COUNT, 0..=*MANY.end()),
            number("upstream", "ejectAfter", upstream.eject_after, COUNT, MANY),
            number("upstream", "ejectSeconds", upstream.eject_seconds, SECONDS, A_DAY),
            number("upstream", "ejectMaxSeconds", upstream.eject_max_seconds, SECONDS, A_DAY),
        ]
    }

    /// Every choice of words: group, name, words.
    pub const WORDS: [(&str, &str, [&str; 2]); 2] =
        [("head", "underscores", ["drop", "pass"]), ("head", "encodedSlash", ["refuse", "pass"])];
}

/// A limit that is a number.
pub struct Number {
    /// As in JSON: "head", "bytes".
    pub group: &'static str,
    pub name: &'static str,
    pub range: RangeInclusive<u64>,
    what: &'static str,
    told: Option<u64>,
}

fn number<T: TryInto<u64>>(
    group: &'static str,
    name: &'static str,
    told: Option<T>,
    what: &'static str,
    range: RangeInclusive<u64>,
) -> Number {
    let told = told.map(|told| told.try_into().unwrap_or(u64::MAX));
    Number { group, name, range, what, told }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const BYTES: &str = "a number of bytes";
const SECONDS: &str = "a number of seconds";
const COUNT: &str = "a number";
/// Of anything that is counted: more is a mistake.
const MANY: RangeInclusive<u64> = 1..=1_000_000;
/// Of one message: room for all of them is made for each (hyper).
const FIELDS: RangeInclusive<u64> = 1..=10_000;
/// Bytes: less is not one field, more is not a buffer that each of thousands of connections may have.
const BUFFER: RangeInclusive<u64> = 1024..=16 * 1024 * 1024;
/// Bytes: hyper panics below this.
const HYPERS_LEAST: u64 = 8192;
/// Bytes, one frame's at the least.
const SMALL_FRAMES: RangeInclusive<u64> = 256..=1024 * 1024 * 1024;
/// Bytes, RFC 9113 6.9.1. A smaller one than a frame slows everything.
const STREAM_WINDOW: RangeInclusive<u64> = 16 * 1024..=(1 << 31) - 1;
/// Bytes: a connection's begins with 65 535 and never shrinks (RFC 9113 6.9.2).
const CONNECTION_WINDOW: RangeInclusive<u64> = 65_535..=(1 << 31) - 1;
/// Bytes, RFC 9113 6.5.2.
const FRAME: RangeInclusive<u64> = 16_384..=16_777_215;
/// Seconds, at most a day.
const A_DAY: RangeInclusive<u64> = 1..=24 * 3600;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(settings: Value) -> Result<(), String> {
        let settings: HttpSettings = serde_json::from_value(settings).map_err(|e| e.to_string())?;
        settings.check().map_err(|e| e.to_string())
    }

    #[test]
    fn a_limit_that_means_nothing_is_named_with_what_it_may_be() {
        for (settings, said) in [
            (
                json!({"head": {"bytes": 0}}),
                "http.head.bytes: \"0\" is not a number of bytes, 1024 to 16777216",
            ),
            (json!({"head": {"fields": 0}}), "http.head.fields: "),
            (json!({"h2": {"frameBytes": 16_383}}), "http.h2.frameBytes: "),
            (json!({"h2": {"connectionWindowBytes": 65_534}}), "http.h2.connectionWindowBytes: "),
            (json!({"h2": {"streamWindowBytes": 1_u64 << 31}}), "http.h2.streamWindowBytes: "),
            (
                json!({"client": {"headSeconds": 0}}),
                "http.client.headSeconds: \"0\" is not a number of seconds, 1 to 86400",
            ),
            (
                json!({"upstream": {"retryPercent": 101}}),
                "http.upstream.retryPercent: \"101\" is not a share of requests in percent, 0 to 100",
            ),
            (json!({"upstream": {"headBytes": 8191}}), "http.upstream.headBytes: "),
            (json!({"upstream": {"ejectAfter": 0}}), "http.upstream.ejectAfter: "),
            (json!({"head": {"underscores": "keep"}}), "unknown variant `keep`, expected `drop` or `pass`"),
            (json!({"client": {"headSecond": 1}}), "unknown field `headSecond`"),
            (json!({"client": {"headSeconds": "1s"}}), "invalid type"),
        ] {
            let why = check(settings.clone()).expect_err(&settings.to_string());
            assert!(why.contains(said), "{settings}: {why}");
        }
        check(json!({})).unwrap();
        check(json!({"upstream": {"pool": 0, "retryPercent": 0, "retriesPerSecond": 0}})).unwrap();
    }

    #[test]
    fn what_is_not_said_is_not_written() {
        assert_eq!(serde_json::to_value(HttpSettings::default()).unwrap(), json!({}));
        let told = json!({"head": {"encodedSlash": "pass"}, "upstream": {"idleSeconds": 300}});
        let settings: HttpSettings = serde_json::from_value(told.clone()).unwrap();
        assert_eq!(serde_json::to_value(settings).unwrap(), told);
    }

    #[test]
    fn every_field_that_can_be_told_is_checked() {
        let mut all = serde_json::Map::new();
        let nothing = HttpSettings::default();
        for number in nothing.numbers() {
            let group = all.entry(number.group).or_insert_with(|| json!({}));
            group[number.name] = json!(number.range.start());
        }
        for (group, name, words) in HttpSettings::WORDS {
            all[group][name] = json!(words[1]);
        }
        let told: HttpSettings = serde_json::from_value(Value::Object(all)).unwrap();
        let fields = format!("{told:?}");
        assert!(!fields.contains("None"), "{fields}");
        assert!(told.numbers().iter().all(|number| number.told == Some(*number.range.start())));
        told.check().unwrap();
    }
}
