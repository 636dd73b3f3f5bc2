//! The head of an HTTP/1 request, judged before anything else reads it.
//!
//! Stricter than RFC 9112 where origins are known to differ: what two parsers could read in two ways is refused, so that what
//! hyper makes of it is what every origin would. Pure: bytes in, framing out. Fuzzed (tests/fuzz, request_head).

use crate::{limits::HeadLimits, refusal::Refusal};

/// How a request goes on after its head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// What the connection must know of a head that was found good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judged {
    pub framing: Framing,
    /// It asks for another protocol and has no body. What follows waits for the answer.
    pub upgrade: bool,
}

/// The length of the head that `bytes` begin with, its empty line included; `None` while there is more to come. `from`:
/// where an earlier look at the same bytes ended. A line feed without carriage return ends a line here; [`judge`] refuses it.
pub fn end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    let mut rest = bytes.get(from..)?;
    let mut at = from;
    while let Some(feed) = rest.iter().position(|byte| *byte == b'\n') {
        let after = &rest[feed + 1..];
        if after.first() == Some(&b'\n') {
            return Some(at + feed + 2);
        }
        if after.starts_with(b"\r\n") {
            return Some(at + feed + 3);
        }
        at += feed + 1;
        rest = after;
    }
    None
}

/// Judges a whole head: request line, fields, empty line.
pub fn judge(head: &[u8], limits: &HeadLimits) -> Result<Judged, Refusal> {
    let mut lines = Lines(head);
    let request = RequestLine::parse(lines.next_line()?, limits)?;
    let mut fields = Fields::default();
    let (mut count, mut bytes) = (0, 0);
    loop {
        let line = lines.next_line()?;
        if line.is_empty() {
            break;
        }
        count += 1;
        bytes += line.len() + FIELD_OVERHEAD;
        if count > limits.fields || bytes > limits.bytes {
            return Err(Refusal::HeadTooLarge);
        }
        let (name, value) = field(line)?;
        fields.note(name, value)?;
    }
    if !lines.0.is_empty() {
        return Err(Refusal::BadHead("bytes after the head"));
    }
    fields.judge(&request)
}

/// Splits a field, of a head or of trailers, into name and trimmed value.
pub(crate) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::BadHead("a field is folded over two lines"));
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::BadHead("a line has no colon"))?;
    let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Refusal::BadHead(
            "a field's name has a character that it may not have, or a space before its colon",
        ));
    }
    if !value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)) {
        return Err(Refusal::BadHead("a field's value has a control character"));
    }
    Ok((name, value))
}

/// Without the spaces and tabs around it (RFC 9110 5.6.3), and nothing else: a form feed or a carriage return at either end is as
/// wrong as in the middle.
fn trimmed(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    match (value.iter().position(is_text), value.iter().rposition(is_text)) {
        (Some(first), Some(last)) => &value[first..=last],
        _ => &[],
    }
}

struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Result<&'a [u8], Refusal> {
        let feed = self.0.iter().position(|byte| *byte == b'\n');
        let feed = feed.ok_or(Refusal::BadHead("the head has no end"))?;
        let (line, rest) = self.0.split_at(feed + 1);
        self.0 = rest;
        line.strip_suffix(b"\r\n").ok_or(Refusal::BadHead("a line ends without a carriage return"))
    }
}

struct RequestLine<'a> {
    method: &'a [u8],
    /// Of a target in absolute form.
    authority: Option<&'a [u8]>,
    is_1_0: bool,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8], limits: &HeadLimits) -> Result<Self, Refusal> {
        if line.len() > limits.line {
            return Err(Refusal::LineTooLong);
        }
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Refusal::BadHead("the request line is not three words with single spaces"));
        };
        if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(|byte| is_token(*byte)) {
            return Err(Refusal::BadHead("the method is not a word"));
        }
        if target.is_empty() || !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
            return Err(Refusal::BadHead("the target has a character that it may not have"));
        }
        let is_1_0 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(Refusal::BadHead("the version is neither HTTP/1.1 nor HTTP/1.0")),
        };
        let authority = match target {
            b"*" => None,
            target if target.starts_with(b"/") => None,
            target if method == b"CONNECT" => Some(target),
            target => Some(absolute(target)?),
        };
        Ok(Self { method, authority, is_1_0 })
    }
}

/// The authority of `http://authority/path`.
fn absolute(target: &[u8]) -> Result<&[u8], Refusal> {
    let scheme = |name: &[u8]| target.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
    let rest = match (scheme(b"http://"), scheme(b"https://")) {
        (true, _) => &target[7..],
        (_, true) => &target[8..],
        _ => return Err(Refusal::BadHead("the target is neither a path nor a URL of http or https")),
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Ok(&rest[..end])
}

/// The fields that matter here.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    wants_upgrade: bool,
}

impl<'a> Fields<'a> {
    fn note(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Refusal> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => match self.host.replace(value) {
                None => {}
                Some(_) => return Err(Refusal::BadHost("there is more than one Host")),
            },
            7 if is("upgrade") => self.upgrade = true,
            10 if is("connection") => {
                self.wants_upgrade |= value
                    .split(|byte| *byte == b',')
                    .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
            }
            14 if is("content-length") => match self.length.replace(length(value)?) {
                None => {}
                Some(_) => return Err(Refusal::BadFraming("there is more than one Content-Length")),
            },
            17 if is("transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::BadFraming("Transfer-Encoding is not exactly one chunked"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn judge(self, request: &RequestLine<'_>) -> Result<Judged, Refusal> {
        if self.chunked && self.length.is_some() {
            return Err(Refusal::BadFraming("there are both Content-Length and Transfer-Encoding"));
        }
        if self.chunked && request.is_1_0 {
            return Err(Refusal::BadFraming("HTTP/1.0 has no Transfer-Encoding"));
        }
        let host = self.host.ok_or(Refusal::BadHost("there is no Host"))?;
        if request.authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
            return Err(Refusal::BadHost("Host is not that of the target"));
        }
        let framing = match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, None | Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
        };
        let upgrade = self.upgrade && self.wants_upgrade && framing == Framing::None && !request.is_1_0;
        // hyper hands CONNECT's connection over, too, if it is answered with 2xx; it never is.
        Ok(Judged { framing, upgrade: upgrade || request.method == b"CONNECT" })
    }
}

/// Digits only: no sign, no list, no space, and no more than any body can have.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    let digits = (1..=MAX_LENGTH_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(Refusal::BadFraming("Content-Length is not a number"))
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a field counts beyond its bytes, as in HTTP/2 (RFC 9113 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// The longest registered method, UPDATEREDIRECTREF, has 17.
const MAX_METHOD: usize = 32;
/// Less than an exabyte; fits every origin's signed 64 bits.
const MAX_LENGTH_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    fn judged(head: &str) -> Result<Judged, Refusal> {
        judge(head.as_bytes(), &Limits::default().head)
    }

    #[test]
    fn good_heads_have_one_framing() {
        let plain = Judged { framing: Framing::None, upgrade: false };
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", plain),
            ("GET http://a/x HTTP/1.1\r\nhost: A\r\n\r\n", plain),
            ("GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", plain),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", plain),
            ("GET / HTTP/1.1\r\nHost:\ta \t\r\nX: \t \r\n\r\n", plain),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n",
                Judged { framing: Framing::Length(12), ..plain },
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
                Judged { framing: Framing::Chunked, ..plain },
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Upgrade\r\nUpgrade: websocket\r\n\r\n",
                Judged { upgrade: true, ..plain },
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n",
                Judged { framing: Framing::Length(3), ..plain },
            ),
        ] {
            assert_eq!(judged(head), Ok(expected), "{head:?}");
        }
    }

    /// Each is read in two ways by some pair of servers (the HTTP Garden's catalogue, and the CVEs of security-perf.md A1).
    #[test]
    fn what_two_servers_read_differently_is_refused() {
        for (head, reason) in [
            ("GET / HTTP/1.1\nHost: a\n\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", "bad_head"),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "bad_head"),
            ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET /\r\nHost: a\r\n\r\n", "bad_head"),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET a/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\n\r\n", "bad_host"),
            ("GET / HTTP/1.0\r\n\r\n", "bad_host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "bad_host"),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_host"),
            ("GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", "bad_host"),
            ("GET / HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\u{7f}b\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n", "bad_head"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{c}\r\n\r\n", "bad_head"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\u{c}\r\n\r\n", "bad_head"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{c}chunked\r\n\r\n", "bad_head"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\r\n\r\n", "bad_head"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n", "bad_framing"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "bad_framing",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                "bad_framing",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "bad_framing",
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", "bad_framing"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", "bad_head"),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_framing"),
        ] {
            assert_eq!(judged(head).map_err(Refusal::reason), Err(reason), "{head:?}");
        }
    }

    #[test]
    fn a_head_ends_at_its_empty_line_wherever_it_was_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..head.len() {
            assert_eq!(end(&head[..cut], 0), None, "{cut}");
            assert_eq!(end(head, cut), Some(head.len()), "{cut}");
        }
        assert_eq!(end(b"a\n\nb", 0), Some(3));
    }

    #[test]
    fn too_many_and_too_long_fields_have_their_own_status() {
        let limits = Limits::default().head;
        let head = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert!(judged(&head(&"x: y\r\n".repeat(limits.fields - 1))).is_ok());
        assert_eq!(judged(&head(&"x: y\r\n".repeat(limits.fields))), Err(Refusal::HeadTooLarge));
        assert_eq!(
            judged(&head(&format!("x: {}\r\n", "y".repeat(limits.bytes)))),
            Err(Refusal::HeadTooLarge)
        );
        let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(limits.line));
        assert_eq!(judged(&line), Err(Refusal::LineTooLong));
    }
}
