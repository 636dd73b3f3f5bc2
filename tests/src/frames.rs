//! HTTP/2 by hand: frames as a test writes them, which no library would send, and what comes back (RFC 9113, RFC 7541).

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use crate::eventually::SOON;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length has 24 bits").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field block with every field as a literal that is not indexed, whatever its bytes are.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            number(&mut block, 7, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// RFC 7541 5.1; the bits above the prefix are 0.
fn number(block: &mut Vec<u8>, prefix: u32, value: usize) {
    let most = (1_usize << prefix) - 1;
    let byte = |value: usize| u8::try_from(value & 0xff).expect("it is one");
    if value < most {
        return block.push(byte(value));
    }
    block.push(byte(most));
    let mut left = value - most;
    while left >= 128 {
        block.push(byte(left & 127 | 128));
        left >>= 7;
    }
    block.push(byte(left));
}

/// What a connection heard of a stream, or of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    pub status: Option<u16>,
    pub body: Vec<u8>,
    /// The stream ended, cleanly.
    pub ended: bool,
    /// Its error code, if it was reset.
    pub reset: Option<u32>,
    /// The connection's, if it is told to go, or 0 if it just ended.
    pub goaway: Option<u32>,
}

impl Heard {
    fn is_over(&self) -> bool {
        self.ended || self.reset.is_some() || self.goaway.is_some()
    }
}

/// A client's connection.
pub struct Raw<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Sends preface and empty settings.
    pub async fn begin(mut stream: S) -> io::Result<Self> {
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        Ok(Self { stream })
    }

    /// Errors are no errors: who is refused may be gone.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Reads until stream `number` is over, or the connection is.
    pub async fn hear(&mut self, number: u32) -> io::Result<Heard> {
        let mut heard = Heard::default();
        while !heard.is_over() {
            let Some((kind, flags, stream, payload)) = self.receive().await? else {
                heard.goaway.get_or_insert(0);
                return Ok(heard);
            };
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(&frame(SETTINGS, ACK, 0, &[])).await,
                PING if flags & ACK == 0 => self.send(&frame(PING, ACK, 0, &payload)).await,
                GOAWAY => heard.goaway = payload.get(4..8).map(be32),
                _ if stream != number => {}
                HEADERS => {
                    heard.status = heard.status.or_else(|| status(&payload));
                    heard.ended = flags & END_STREAM != 0;
                }
                DATA => {
                    heard.body.extend(&payload);
                    heard.ended = flags & END_STREAM != 0;
                }
                RST_STREAM => heard.reset = payload.get(..4).map(be32),
                _ => {}
            }
        }
        Ok(heard)
    }

    /// The next frame: kind, flags, stream, payload. `None`: the connection ended, whichever way.
    pub async fn receive(&mut self) -> io::Result<Option<(u8, u8, u32, Vec<u8>)>> {
        let mut head = [0; 9];
        let read = async {
            self.stream.read_exact(&mut head).await?;
            let mut payload = vec![0; usize::try_from(be32(&[0, head[0], head[1], head[2]])).unwrap_or(0)];
            self.stream.read_exact(&mut payload).await?;
            Ok::<_, io::Error>((head[3], head[4], be32(&head[5..9]) & 0x7fff_ffff, payload))
        };
        Ok(timeout(SOON, read).await?.ok())
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The status, which comes first: an indexed field, or a literal with an indexed name, in Huffman's code or plain.
fn status(block: &[u8]) -> Option<u16> {
    let (first, rest) = block.split_first()?;
    match first {
        0x20..=0x3f => status(rest), // the table's size
        0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]),
        0x48 | 0x08 | 0x18 => {
            let (length, text) = rest.split_first()?;
            let text = text.get(..usize::from(length & 0x7f))?;
            match length & 0x80 {
                0 => std::str::from_utf8(text).ok()?.parse().ok(),
                _ => digits(text),
            }
        }
        _ => None,
    }
}

/// RFC 7541 B: 0, 1 and 2 have five bits, the others six.
fn digits(huffman: &[u8]) -> Option<u16> {
    let bits: String = huffman.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut number, mut rest) = (0, &*bits);
    for _ in 0..3 {
        let five = u16::from_str_radix(rest.get(..5)?, 2).ok()?;
        let (digit, length) = match five {
            0..=2 => (five, 5),
            _ => (u16::from_str_radix(rest.get(..6)?, 2).ok()?.checked_sub(0x19)? + 3, 6),
        };
        (number, rest) = (number * 10 + digit, &rest[length..]);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x88]), Some(200), "behind a new size of the table");
        assert_eq!(status(b"\x08\x03431"), Some(431));
        // 4 = 011010, 3 = 011001, 1 = 00001, padded with ones
        assert_eq!(status(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]), Some(431));
        assert_eq!(digits(&[0b0110_1101, 0b1011_0111]), None, "cut off");
    }

    #[test]
    fn lengths_are_written_as_rfc_7541_has_it() {
        let mut bytes = Vec::new();
        number(&mut bytes, 5, 1337); // its example C.1.2
        assert_eq!(bytes, [0b1_1111, 0b1001_1010, 0b1010]);
    }
}
