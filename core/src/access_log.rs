//! The access log: a line for each request of a gateway and each connection of a sidecar, in the form of all other log lines.
//!
//! It is most of what a data plane logs, so it has a way of its own: tracing's visitors took a tenth of a request. A thread that
//! collects writes its lines together when its event loop has nothing left to do ([`crate::runtime`]); on every other thread a line
//! is written at once.

use std::{
    cell::RefCell,
    fmt,
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use time::OffsetDateTime;
use tracing::Level;

use crate::{clock, telemetry::LogFormat};

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

thread_local! {
    static PAGE: RefCell<Page> = RefCell::default();
}

/// Lines of one thread that are not written yet.
#[derive(Default)]
struct Page {
    text: Vec<u8>,
    collects: bool,
    /// The second of the last line, Unix, and how it is written: "2026-11-26T12:43:10".
    second: Option<(i64, String)>,
}

/// How lines look from now on. The first word counts.
pub(crate) fn set_format(format: LogFormat) {
    let _ = FORMAT.set(format);
}

/// From now on this thread keeps its lines until [`flush`].
pub(crate) fn collect() {
    PAGE.with_borrow_mut(|page| page.collects = true);
}

/// Writes what this thread has kept, to stderr.
pub(crate) fn flush() {
    PAGE.with_borrow_mut(Page::flush);
}

/// Writes a line with the fields that `fields` puts into it, if `--log` wants the target `access` at this level (info or warn).
pub fn line(level: Level, fields: impl FnOnce(&mut Line<'_>)) {
    let is_wanted = match level {
        Level::WARN => tracing::enabled!(target: "access", Level::WARN),
        _ => tracing::enabled!(target: "access", Level::INFO),
    };
    if !is_wanted {
        return;
    }
    let format = FORMAT.get().copied().unwrap_or_default();
    PAGE.with_borrow_mut(|page| {
        page.line(format, level, clock::now(), fields);
        if !page.collects || page.text.len() > MOST {
            page.flush();
        }
    });
}

impl Page {
    fn line(
        &mut self,
        format: LogFormat,
        level: Level,
        now: OffsetDateTime,
        fields: impl FnOnce(&mut Line<'_>),
    ) {
        let (unix, micros) = (now.unix_timestamp(), now.microsecond());
        let (_, second) = match &mut self.second {
            Some(held) if held.0 == unix => held,
            held => held.insert((unix, second(unix))),
        };
        let text = &mut self.text;
        // Writing to a Vec cannot fail.
        let _ = match format {
            LogFormat::Json => {
                write!(text, r#"{{"timestamp":"{second}.{micros:06}Z","level":"{level}""#)
            }
            LogFormat::Text => write!(text, "{second}.{micros:06}Z {level:>5} access:"),
        };
        let mut line = Line { text, format };
        fields(&mut line);
        text.extend_from_slice(match format {
            LogFormat::Json => b",\"target\":\"access\"}\n",
            LogFormat::Text => b"\n",
        });
    }

    /// Nobody can be told that stderr is gone.
    fn flush(&mut self) {
        if !self.text.is_empty() {
            let _ = io::stderr().lock().write_all(&self.text);
            self.text.clear();
            self.text.shrink_to(MOST);
        }
    }
}

/// A line that is being written: its fields, in the order in which they come.
pub struct Line<'a> {
    text: &'a mut Vec<u8>,
    format: LogFormat,
}

impl Line<'_> {
    /// What somebody else may have chosen: escaped, and in quotes in both formats. `None`: no such field.
    pub fn text<'v>(&mut self, name: &'static str, value: impl Into<Option<&'v str>>) {
        let Some(value) = value.into() else { return };
        self.name(name);
        match self.format {
            LogFormat::Json => quoted(self.text, value),
            LogFormat::Text => drop(write!(self.text, "{value:?}")),
        }
    }

    /// A word of ours, or a name that was checked: nothing in it needs escaping.
    pub fn word(&mut self, name: &'static str, value: impl fmt::Display) {
        self.plain(name, |text| drop(write!(text, "{value}")));
    }

    /// `None`: no such field.
    pub fn number(&mut self, name: &'static str, value: impl Into<Option<u64>>) {
        let Some(value) = value.into() else { return };
        self.name(name);
        digits(self.text, value);
    }

    pub fn ip(&mut self, name: &'static str, value: IpAddr) {
        self.plain(name, |text| ip(text, value));
    }

    /// With its port. `None`: no such field.
    pub fn address(&mut self, name: &'static str, value: impl Into<Option<SocketAddr>>) {
        let Some(value) = value.into() else { return };
        self.plain(name, |text| match value {
            SocketAddr::V4(v4) => {
                ip(text, IpAddr::V4(*v4.ip()));
                text.push(b':');
                digits(text, v4.port().into());
            }
            SocketAddr::V6(v6) => drop(write!(text, "{v6}")),
        });
    }

    /// What is a string in JSON, and needs no quotes elsewhere.
    fn plain(&mut self, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        let quote: &[u8] = if self.format == LogFormat::Json { b"\"" } else { b"" };
        self.text.extend_from_slice(quote);
        value(self.text);
        self.text.extend_from_slice(quote);
    }

    fn name(&mut self, name: &'static str) {
        match self.format {
            LogFormat::Json => {
                self.text.extend_from_slice(b",\"");
                self.text.extend_from_slice(name.as_bytes());
                self.text.extend_from_slice(b"\":");
            }
            LogFormat::Text => {
                self.text.push(b' ');
                self.text.extend_from_slice(name.as_bytes());
                self.text.push(b'=');
            }
        }
    }
}

/// Without `fmt`: with numbers and addresses of a line so, a request of 14 to 19 us takes 0.1 to 0.2 us less.
fn digits(text: &mut Vec<u8>, mut value: u64) {
    let mut digits = [b'0'; 20]; // of u64::MAX
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] += (value % 10) as u8; // below 10
        value /= 10;
        if value == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[first..]);
}

fn ip(text: &mut Vec<u8>, value: IpAddr) {
    match value {
        IpAddr::V4(v4) => {
            for (n, octet) in v4.octets().into_iter().enumerate() {
                if n > 0 {
                    text.push(b'.');
                }
                digits(text, octet.into());
            }
        }
        IpAddr::V6(v6) => drop(write!(text, "{v6}")),
    }
}

/// RFC 8259 7.
fn quoted(text: &mut Vec<u8>, value: &str) {
    text.push(b'"');
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        text.extend_from_slice(value.as_bytes());
    } else {
        for c in value.chars() {
            let _ = match c {
                '"' | '\\' => write!(text, "\\{c}"),
                c if c < ' ' => write!(text, "\\u{:04x}", u32::from(c)),
                c => write!(text, "{c}"),
            };
        }
    }
    text.push(b'"');
}

/// As all log lines begin, UTC. A time that no calendar has is empty.
fn second(unix: i64) -> String {
    clock::rfc3339(unix).unwrap_or_default().trim_end_matches('Z').to_owned()
}

/// Bytes that a thread keeps: a busy turn of its event loop has tens of lines.
const MOST: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: LogFormat, fields: impl FnOnce(&mut Line<'_>)) -> String {
        let mut page = Page::default();
        let now = OffsetDateTime::from_unix_timestamp_nanos(1_795_696_990_000_042_000).unwrap();
        page.line(format, Level::INFO, now, fields);
        String::from_utf8(page.text).unwrap()
    }

    fn fields(line: &mut Line<'_>) {
        line.word("scheme", "https");
        line.text("path", "/a\"b\\\u{1}é");
        line.number("status", 200);
    }

    #[test]
    fn a_line_is_like_all_others_in_both_formats() {
        assert_eq!(
            written(LogFormat::Json, fields),
            concat!(
                r#"{"timestamp":"2026-11-26T12:43:10.000042Z","level":"INFO","scheme":"https","#,
                r#""path":"/a\"b\\\u0001é","status":200,"target":"access"}"#,
                "\n"
            )
        );
        assert_eq!(
            written(LogFormat::Text, fields),
            "2026-11-26T12:43:10.000042Z  INFO access: scheme=https path=\"/a\\\"b\\\\\\u{1}é\" status=200\n"
        );
    }

    #[test]
    fn numbers_and_addresses_are_written_as_fmt_writes_them() {
        for value in [0, 9, 10, 65_535, u64::MAX] {
            let text = written(LogFormat::Text, |line| line.number("n", value));
            assert!(text.ends_with(&format!(" n={value}\n")), "{text}");
        }
        for text in ["0.0.0.0:0", "198.18.0.255:65535", "[2001:2::1]:443", "[::ffff:198.18.0.1]:1"] {
            let value: SocketAddr = text.parse().unwrap();
            let line = written(LogFormat::Text, |line| {
                line.address("at", value);
                line.ip("ip", value.ip());
            });
            assert!(line.ends_with(&format!(" at={value} ip={}\n", value.ip())), "{line}");
            let line = written(LogFormat::Json, |line| line.address("at", value));
            assert!(line.contains(&format!(r#","at":"{value}","#)), "{line}");
        }
    }

    #[test]
    fn no_value_ends_its_line_or_its_quotes() {
        for value in ["\n", "\",\"reason\":\"ok", "\\", "\u{7f}\r", "\u{2028}"] {
            let line = written(LogFormat::Json, |line| line.text("path", value));
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["path"], value);
            assert_eq!(read["target"], "access");
        }
    }
}
