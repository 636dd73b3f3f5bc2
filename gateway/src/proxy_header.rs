//! The PROXY header, versions 1 and 2: by which a load balancer says whose connection it forwards. Read only from those that the
//! bootstrap names, and of them it is required; anyone else's is an ordinary bad request.
//!
//! Source: "The PROXY protocol", Willy Tarreau, 2020-03-05, sections 2.1 and 2.2.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What bytes say that may begin with a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// At least so many more bytes belong to it.
    More(usize),
    /// So many bytes were the header. `None`: the load balancer speaks for itself (health checks).
    Header { client: Option<SocketAddr>, length: usize },
}

/// Reads a header, and not a byte more. Has no deadline of its own.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut bytes = Vec::with_capacity(V1_MAX);
    loop {
        match parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Seen::Header { client, .. } => return Ok(client),
            Seen::More(more) => {
                let from = bytes.len();
                bytes.resize(from + more, 0); // at most MAX: parse refuses a longer one by its head
                stream.read_exact(&mut bytes[from..]).await?;
            }
        }
    }
}

/// Reads what is there of a header. Errors: it is none, or it is longer than we take.
pub fn parse(bytes: &[u8]) -> Result<Seen, NotAHeader> {
    match bytes.get(..SIGNATURE.len()) {
        None if SIGNATURE.starts_with(bytes) || V1.starts_with(bytes) || bytes.starts_with(V1) => {
            Ok(Seen::More(SIGNATURE.len() - bytes.len())) // the shortest header of either version is longer
        }
        Some(head) if head == SIGNATURE => v2(bytes),
        Some(_) if bytes.starts_with(V1) => v1(bytes),
        _ => Err(NotAHeader("it does not begin with PROXY")),
    }
}

/// "PROXY TCP4 203.0.113.7 10.0.0.5 41214 443\r\n"
fn v1(bytes: &[u8]) -> Result<Seen, NotAHeader> {
    let Some(end) = bytes.iter().take(V1_MAX).position(|b| *b == b'\n') else {
        return match bytes.len() {
            0..V1_MAX => Ok(Seen::More(1)), // what follows the line is not ours to read
            _ => Err(NotAHeader("version 1 has no line end in 107 bytes")),
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(NotAHeader("its line does not end in CR LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| NotAHeader("it is not ASCII"))?;
    let header = |client| Ok(Seen::Header { client, length: end + 1 });
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => header(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let [source, destination] = [source, destination].map(str::parse::<IpAddr>);
            let (Ok(source), Ok(destination)) = (source, destination) else {
                return Err(NotAHeader("it has an address that is none"));
            };
            if source.is_ipv4() != (family == "TCP4") || destination.is_ipv4() != (family == "TCP4") {
                return Err(NotAHeader("it has an address of the other family"));
            }
            let [Some(port), Some(_)] = [source_port, destination_port].map(port) else {
                return Err(NotAHeader("it has a port that is none"));
            };
            header(Some(SocketAddr::new(source.to_canonical(), port)))
        }
        _ => Err(NotAHeader("version 1 has other words than expected")),
    }
}

/// Digits alone: "+80" and "080" are no ports.
fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port.to_string() == text).then_some(port)
}

/// Signature, version and command, family and transport, length of the rest; addresses, and TLVs that nobody reads.
fn v2(bytes: &[u8]) -> Result<Seen, NotAHeader> {
    let Some(&[version_command, family, high, low]) = bytes.get(SIGNATURE.len()..V2_HEAD) else {
        return Ok(Seen::More(V2_HEAD - bytes.len()));
    };
    if version_command >> 4 != 2 {
        return Err(NotAHeader("its version is neither 1 nor 2"));
    }
    let length = V2_HEAD + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX {
        return Err(NotAHeader("it is longer than 4096 bytes"));
    }
    let Some(body) = bytes.get(V2_HEAD..length) else { return Ok(Seen::More(length - bytes.len())) };
    let short = NotAHeader("its addresses are cut short");
    let client = match (version_command & 0xF, family) {
        (LOCAL, _) => None,
        (PROXY, TCP4) => {
            let &[a, b, c, d, _, _, _, _, high, low, _, _] = body.first_chunk::<12>().ok_or(short)?;
            Some(SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))))
        }
        (PROXY, TCP6) => {
            let body = body.first_chunk::<36>().ok_or(short)?;
            let source = body.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets)).ok_or(short)?;
            let port = u16::from_be_bytes([body[32], body[33]]);
            Some(SocketAddr::new(IpAddr::from(source).to_canonical(), port))
        }
        // UNSPEC, UDP and Unix sockets: not an address of a client of ours; the specification wants the connection served.
        (PROXY, _) => None,
        _ => return Err(NotAHeader("its command is neither LOCAL nor PROXY")),
    };
    Ok(Seen::Header { client, length })
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("PROXY header: {0}")]
pub struct NotAHeader(&'static str);

const V1: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD: usize = 16;
/// Bytes of a line of version 1 (section 2.1), its end included.
const V1_MAX: usize = 107;
/// Bytes of a header: TLVs with the names of a client certificate fit.
const MAX: usize = 4096;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2_of(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, body].concat()
    }

    fn client(bytes: &[u8]) -> Result<Option<SocketAddr>, NotAHeader> {
        match parse(bytes)? {
            Seen::Header { client, length } => {
                assert_eq!(length, bytes.len());
                Ok(client)
            }
            Seen::More(more) => panic!("{more} more"),
        }
    }

    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let four = [203, 0, 113, 7, 10, 0, 0, 5, 0xA0, 0xFE, 0x01, 0xBB];
        let six: Vec<u8> =
            [&[0x20, 1, 0xD, 0xB8][..], &[0; 11], &[1], &[0; 16], &[0xA0, 0xFE, 0x01, 0xBB]].concat();
        let with_tlv = [&four[..], &[4, 0, 2, 1, 1]].concat();
        vec![
            (b"PROXY TCP4 203.0.113.7 10.0.0.5 41214 443\r\n".into(), Some("203.0.113.7:41214")),
            (b"PROXY TCP6 2001:db8::1 fd00::5 41214 443\r\n".into(), Some("[2001:db8::1]:41214")),
            (b"PROXY TCP6 ::ffff:203.0.113.7 fd00::5 41214 443\r\n".into(), Some("203.0.113.7:41214")),
            (b"PROXY UNKNOWN\r\n".into(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".into(), None),
            (v2_of(PROXY, TCP4, &four), Some("203.0.113.7:41214")),
            (v2_of(PROXY, TCP4, &with_tlv), Some("203.0.113.7:41214")),
            (v2_of(PROXY, TCP6, &six), Some("[2001:db8::1]:41214")),
            (v2_of(LOCAL, 0, &[]), None),
            (v2_of(LOCAL, TCP4, &four), None),
            (v2_of(PROXY, 0x31, &[0; 216]), None),
        ]
    }

    #[test]
    fn a_header_names_the_client() {
        for (bytes, want) in good() {
            assert_eq!(client(&bytes).unwrap(), want.map(|address| address.parse().unwrap()), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_header_is_read_to_its_end_and_no_further_however_it_is_cut() {
        for (bytes, _) in good() {
            for cut in 0..bytes.len() {
                assert!(
                    matches!(parse(&bytes[..cut]), Ok(Seen::More(more)) if cut + more <= bytes.len()),
                    "{cut}"
                );
            }
            let whole = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            let mut rest = &whole[..];
            read(&mut rest).await.unwrap();
            assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{bytes:?}");
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 203.0.113.7 10.0.0.5 41214 443\n",
            b"PROXY  TCP4 203.0.113.7 10.0.0.5 41214 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.5 41214\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.5 41214 443 1\r\n",
            b"PROXY TCP4 2001:db8::1 fd00::5 41214 443\r\n",
            b"PROXY TCP6 203.0.113.7 10.0.0.5 41214 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.5 65536 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.5 +1 443\r\n",
            b"PROXY TCP4 203.0.113.07 10.0.0.5 1 443\r\n",
            b"PROXY UDP4 203.0.113.7 10.0.0.5 1 443\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
            &[&b"PROXY "[..], &[b'a'; 200]].concat()[..],
            &v2_of(2, TCP4, &[0; 12])[..],
            &v2_of(PROXY, TCP4, &[0; 11])[..],
            &v2_of(PROXY, TCP6, &[0; 35])[..],
            &v2_of(LOCAL, 0, &[0; 4081])[..],
            &[SIGNATURE, &[0x31, TCP4, 0, 0]].concat()[..],
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_want_more_than_the_limit(v in 0..3_u8, tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let head: &[u8] = match v { 0 => b"", 1 => V1, _ => SIGNATURE };
            let bytes = [head, &tail].concat();
            match parse(&bytes) {
                Ok(Seen::More(more)) => prop_assert!(more > 0 && bytes.len() + more <= MAX),
                Ok(Seen::Header { length, .. }) => prop_assert!(length <= bytes.len()),
                Err(_) => {}
            }
        }
    }
}
