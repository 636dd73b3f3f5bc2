//! Finds the ServerHellos in a packet capture: what was really negotiated (RFC 8446 4.1.3).

use std::fmt;

/// What a server chose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerHello {
    suite: u16,
    /// Of its key share.
    group: u16,
}

/// All of them. A ServerHello is the first record of its direction, so it begins within a packet and is not cut by the next
/// one (below 1.5 KiB with any group that is known here).
pub fn server_hellos(capture: &[u8]) -> Vec<ServerHello> {
    (0..capture.len()).filter_map(|at| parse(&capture[at..])).collect()
}

fn parse(bytes: &[u8]) -> Option<ServerHello> {
    // record: handshake, 1.2 for show; message: server hello, its length; version 1.2 for show
    let [0x16, 0x03, 0x03, _, _, 0x02, 0x00, _, _, 0x03, 0x03, rest @ ..] = bytes else { return None };
    let rest = rest.get(32..)?; // random
    let (session, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(*session)..)?;
    let (suite, rest) = word(rest)?;
    let (compression, rest) = rest.split_first()?;
    let (length, rest) = word(rest)?;
    let mut extensions = rest.get(..usize::from(length))?;
    if *compression != 0 {
        return None;
    }
    while let Some((kind, rest)) = word(extensions) {
        let (length, rest) = word(rest)?;
        let content = rest.get(..usize::from(length))?;
        if kind == KEY_SHARE {
            return Some(ServerHello { suite, group: word(content)?.0 });
        }
        extensions = rest.get(usize::from(length)..)?;
    }
    None
}

fn word(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*first), rest))
}

impl fmt::Display for ServerHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.suite {
            0x1301 => write!(f, "TLS_AES_128_GCM_SHA256")?,
            0x1302 => write!(f, "TLS_AES_256_GCM_SHA384")?,
            0x1303 => write!(f, "TLS_CHACHA20_POLY1305_SHA256")?,
            other => write!(f, "suite {other:#06x}")?,
        }
        match self.group {
            0x001d => write!(f, ", X25519"),
            0x0017 => write!(f, ", P-256"),
            0x11ec => write!(f, ", X25519MLKEM768"),
            other => write!(f, ", group {other:#06x}"),
        }
    }
}

const KEY_SHARE: u16 = 51;

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(group: u16, extra: &[u8]) -> Vec<u8> {
        let mut extensions = extra.to_vec();
        extensions.extend([0, 51, 0, 4]);
        extensions.extend(group.to_be_bytes());
        extensions.extend([0, 0]);
        let mut bytes = vec![0x16, 3, 3, 0, 0, 2, 0, 0, 0, 3, 3];
        bytes.extend([7; 32]);
        bytes.push(32);
        bytes.extend([9; 32]);
        bytes.extend([0x13, 0x01, 0]);
        bytes.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        bytes.extend(extensions);
        bytes
    }

    #[test]
    fn each_server_hello_of_a_capture_is_found_with_its_suite_and_group() {
        let versions = [0, 43, 0, 2, 3, 4];
        let capture = [&b"link header"[..], &hello(0x11ec, &versions), b"....", &hello(0x001d, &[])].concat();
        let found: Vec<String> = server_hellos(&capture).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["TLS_AES_128_GCM_SHA256, X25519MLKEM768", "TLS_AES_128_GCM_SHA256, X25519"]);
    }

    #[test]
    fn one_that_is_cut_off_anywhere_is_none() {
        let whole = hello(0x001d, &[]);
        for length in 0..whole.len() - 2 {
            assert_eq!(server_hellos(&whole[..length]), [], "{length}");
        }
    }
}
