//! What a wiretapper makes of the bytes: plaintext, or TLS records and what the two hellos say openly (RFC 9846 4.1, 5.1).

use std::fmt;

/// The two directions of one connection, read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    /// The server chose TLS 1.3, and after the hellos only encrypted records passed.
    Tls13 { alpn: Vec<String>, encrypted: usize },
    /// Anything that is not that, in words.
    Open(String),
}

impl Reading {
    pub(super) fn of(sent: &[u8], received: &[u8]) -> Self {
        match (records(sent), records(received)) {
            (Some(sent), Some(received)) => Self::tls(&sent, &received),
            _ if sent.is_empty() => Self::Open("nothing".into()),
            _ => Self::Open(format!("plaintext: {:?}", line(sent))),
        }
    }

    fn tls(sent: &[Record<'_>], received: &[Record<'_>]) -> Self {
        let hello = sent.first().and_then(|record| Hello::parse(record, CLIENT_HELLO));
        let answer = received.first().and_then(|record| Hello::parse(record, SERVER_HELLO));
        let (Some(hello), Some(answer)) = (hello, answer) else {
            return Self::Open("TLS without two hellos".into());
        };
        if answer.chosen_version != Some(TLS13) {
            return Self::Open("a TLS version below 1.3".into());
        }
        let rest = || sent[1..].iter().chain(&received[1..]);
        if let Some(open) =
            rest().find(|record| ![APPLICATION_DATA, CHANGE_CIPHER_SPEC].contains(&record.kind))
        {
            return Self::Open(format!(
                "a TLS record of type {} after the hellos, which is not encrypted",
                open.kind
            ));
        }
        let encrypted = rest().filter(|record| record.kind == APPLICATION_DATA).count();
        Self::Tls13 { alpn: hello.alpn, encrypted }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls13 { alpn, encrypted } => write!(
                f,
                "TLS 1.3: ClientHello (ALPN {}), ServerHello, then {encrypted} encrypted records",
                alpn.join(", ")
            ),
            Self::Open(what) => f.write_str(what),
        }
    }
}

/// "16 03 01 05 f6 ...": what a wiretapper's screen shows first.
pub(super) fn hex(bytes: &[u8], at_most: usize) -> String {
    let shown: Vec<String> = bytes.iter().take(at_most).map(|byte| format!("{byte:02x}")).collect();
    shown.join(" ") + if bytes.len() > at_most { " ..." } else { "" }
}

/// The first line, as far as it can be shown.
fn line(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into_owned()
}

struct Record<'a> {
    kind: u8,
    body: &'a [u8],
}

/// The records of a stream; the last may be cut off. None: this is not TLS.
fn records(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while let [kind, 3, _, high, low, rest @ ..] = bytes {
        if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(kind) {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (body, next) = rest.split_at(length);
        records.push(Record { kind: *kind, body });
        bytes = next;
    }
    (!records.is_empty() && bytes.len() < 5).then_some(records)
}

#[derive(Default)]
struct Hello {
    alpn: Vec<String>,
    chosen_version: Option<u16>,
}

impl Hello {
    fn parse(record: &Record<'_>, kind: u8) -> Option<Self> {
        let mut body = Cursor(record.body);
        if record.kind != HANDSHAKE || body.take(1)? != [kind] {
            return None;
        }
        body.take(3 + 2 + 32)?; // length, legacy version, random
        body.vector(1)?; // legacy session id
        if kind == CLIENT_HELLO {
            body.vector(2)?; // cipher suites
            body.vector(1)?; // legacy compression
        } else {
            body.take(2 + 1)?; // the cipher suite, compression
        }
        let mut extensions = Cursor(body.vector(2)?);
        let mut hello = Self::default();
        while let Some(number) = extensions.number() {
            let mut content = Cursor(extensions.vector(2)?);
            match number {
                ALPN => {
                    let mut names = Cursor(content.vector(2)?);
                    while let Some(name) = names.vector(1) {
                        hello.alpn.push(String::from_utf8_lossy(name).into_owned());
                    }
                }
                SUPPORTED_VERSIONS if kind == SERVER_HELLO => hello.chosen_version = content.number(),
                _ => {}
            }
        }
        Some(hello)
    }
}

/// Reads from the front; None at the end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// Bytes behind their own length of `width` bytes.
    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.take(width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        self.take(length)
    }
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS13: u16 = 0x0304;
/// Bytes of plaintext that make the point.
const SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3][..], &length, body].concat()
    }

    fn client_hello() -> Vec<u8> {
        let alpn = [&[0, 16, 0, 11, 0, 9, 8][..], b"signet/1"].concat();
        let body = [&[1, 0, 0, 0, 3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, 15], &alpn].concat();
        record(22, &body)
    }

    fn server_hello(version: u16) -> Vec<u8> {
        let [high, low] = version.to_be_bytes();
        let body =
            [&[2, 0, 0, 0, 3, 3][..], &[7; 32], &[0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, high, low]].concat();
        record(22, &body)
    }

    #[test]
    fn only_tls_13_with_nothing_open_after_the_hellos_reads_as_encrypted() {
        let data = record(23, b"ciphertext");
        let sent = [client_hello(), record(20, &[1]), data.clone()].concat();
        let good = Reading::Tls13 { alpn: vec!["signet/1".into()], encrypted: 2 };
        for (case, received, want) in [
            ("TLS 1.3", [server_hello(0x0304), data.clone()].concat(), Some(&good)),
            (
                "the recording ends inside a record",
                [server_hello(0x0304), data[..9].to_vec()].concat(),
                Some(&good),
            ),
            ("TLS 1.2", [server_hello(0x0303), data.clone()].concat(), None),
            ("an open handshake record", [server_hello(0x0304), record(22, b"cert")].concat(), None),
            ("plaintext back", b"hello world\n".to_vec(), None),
            ("silence", Vec::new(), None),
        ] {
            let reading = Reading::of(&sent, &received);
            match want {
                Some(want) => assert_eq!(&reading, want, "{case}"),
                None => assert!(matches!(reading, Reading::Open(_)), "{case}: {reading}"),
            }
        }
    }

    #[test]
    fn plaintext_is_shown_as_its_first_line() {
        assert_eq!(Reading::of(b"ask secret\nmore", b"ok\n").to_string(), "plaintext: \"ask secret\"");
        assert_eq!(hex(&[0x16, 3, 1, 2], 3), "16 03 01 ...");
    }

    #[test]
    fn cut_anywhere_a_hello_is_no_panic() {
        let (hello, answer) = (client_hello(), server_hello(TLS13));
        for n in 0..hello.len() {
            let _ = Reading::of(&hello[..n], &answer);
        }
        for n in 0..answer.len() {
            let _ = Reading::of(&hello, &answer[..n]);
        }
    }
}
