//! Is this our wire? Reads a ClientHello without a TLS stack, however it is split over segments and records, and looks for
//! our ALPN. Anything else is unauthenticated plaintext to us, the app's own TLS included.

use signet_core::tls::ALPN_WIRE;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Look {
    /// Undecided: wait for more.
    More,
    /// A ClientHello that offers `signet/1`.
    Wire,
    /// Anything else.
    Other,
}

/// Looks at everything received so far. Linear in `bytes`, of which at most `limit` are looked at; longer is `Other`.
pub fn look(bytes: &[u8], limit: usize) -> Look {
    if bytes.len() > limit {
        return Look::Other;
    }
    match handshake(bytes) {
        Some(hello) => message(&hello),
        None => Look::Other,
    }
}

/// The handshake bytes of the leading records: `None` when these are not TLS handshake records.
fn handshake(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut hello = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        if kind != HANDSHAKE || rest.first().is_some_and(|major| *major != 3) {
            return None;
        }
        let Some((length, body)) = rest.get(2..).and_then(|rest| rest.split_first_chunk::<2>()) else {
            break;
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || length > MAX_RECORD {
            return None;
        }
        hello.extend_from_slice(&body[..length.min(body.len())]);
        if body.len() < length {
            break;
        }
        bytes = &body[length..];
    }
    Some(hello)
}

/// The handshake message (RFC 9846 4.1.2), as far as it is there.
fn message(hello: &[u8]) -> Look {
    let Some((&kind, rest)) = hello.split_first() else { return Look::More };
    if kind != CLIENT_HELLO {
        return Look::Other;
    }
    let Some(([a, b, c], body)) = rest.split_first_chunk::<3>() else { return Look::More };
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if length > MAX_HELLO {
        return Look::Other;
    }
    let Some(body) = body.get(..length) else { return Look::More };
    match offers_wire(body) {
        Some(true) => Look::Wire,
        Some(false) | None => Look::Other,
    }
}

/// Whether the ALPN extension of a whole ClientHello lists our wire; `None`: malformed.
fn offers_wire(body: &[u8]) -> Option<bool> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?; // legacy_version, random
    let session = hello.length(1)?;
    hello.take(session)?;
    let suites = hello.length(2)?;
    hello.take(suites)?;
    let compression = hello.length(1)?;
    hello.take(compression)?;
    if hello.0.is_empty() {
        return Some(false);
    }
    let extensions = hello.length(2)?;
    let mut extensions = Reader(hello.take(extensions)?);
    while !extensions.0.is_empty() {
        let kind = extensions.length(2)?;
        let length = extensions.length(2)?;
        let extension = extensions.take(length)?;
        if kind == ALPN {
            let mut list = Reader(extension);
            let length = list.length(2)?;
            let mut names = Reader(list.take(length)?);
            while !names.0.is_empty() {
                let length = names.length(1)?;
                if names.take(length)? == ALPN_WIRE {
                    return Some(true);
                }
            }
        }
    }
    Some(false)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of `n` bytes.
    fn length(&mut self, n: usize) -> Option<usize> {
        Some(self.take(n)?.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    }
}

/// TLSPlaintext.type (RFC 9846 5.1).
const HANDSHAKE: u8 = 22;
/// Handshake.msg_type.
const CLIENT_HELLO: u8 = 1;
/// ExtensionType application_layer_protocol_negotiation (RFC 7301).
const ALPN: usize = 16;
/// TLSPlaintext.length at most 2^14; one over is not TLS.
const MAX_RECORD: usize = 1 << 14;
/// What rustls takes of a handshake message.
const MAX_HELLO: usize = 0xffff;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use signet_core::tls;
    use std::sync::Arc;

    const LIMIT: usize = 65 * 1024;

    fn client_hello(alpn: &[&[u8]]) -> Vec<u8> {
        let provider = tls::mesh_provider(tls::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let mut bytes = Vec::new();
        let mut client = ClientConnection::new(Arc::new(config), tls::no_name()).unwrap();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same handshake message in records of `size` bytes each.
    fn in_records_of(size: usize, hello: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in hello[5..].chunks(size) {
            bytes.extend_from_slice(&[HANDSHAKE, 3, 1]);
            bytes.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    #[test]
    fn our_hello_is_recognised_only_whole_and_however_it_is_split() {
        let hello = client_hello(&[b"h2", b"signet/1"]);
        for cut in 0..hello.len() {
            assert_eq!(look(&hello[..cut], LIMIT), Look::More, "cut at {cut}");
        }
        for size in [1, 2, 3, 5, 100, 1000, 16000] {
            let split = in_records_of(size, &hello);
            assert_eq!(look(&split, LIMIT), Look::Wire, "records of {size}");
            assert_eq!(look(&split[..split.len() - 1], LIMIT), Look::More, "records of {size}");
        }
    }

    #[test]
    fn everything_else_is_other_at_the_first_byte_that_shows_it() {
        assert_eq!(look(&client_hello(&[b"h2"]), LIMIT), Look::Other);
        assert_eq!(look(&client_hello(&[]), LIMIT), Look::Other);
        for bytes in [
            &b"G"[..],
            b"\x16\x02",
            b"\x17\x03\x03",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\0\x01\x02",
        ] {
            assert_eq!(look(bytes, LIMIT), Look::Other, "{bytes:02x?}");
        }
        assert_eq!(look(b"", LIMIT), Look::More);
        let hello = client_hello(&[b"signet/1"]);
        assert_eq!(look(&hello, hello.len() - 1), Look::Other, "over the limit");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            look(&bytes, LIMIT);
        }
        #[test]
        fn one_flipped_byte_never_panics(at in 0usize..1500, value: u8) {
            let mut hello = client_hello(&[b"signet/1"]);
            let at = at % hello.len();
            hello[at] = value;
            look(&hello, LIMIT);
        }
    }
}
