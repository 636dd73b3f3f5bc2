//! The frames of the native wire, ALPN `signet/1` (docs/wire.md): type u8, length u24, payload. Pure: bytes in, frames out.

use prost::Message as _;
use signet_api::wire::{Accept, Open};

/// A frame, its payload still where it was received.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<'a> {
    Open(Open),
    Accept(Accept),
    Data(&'a [u8]),
    Fin,
    Rst(Reset),
    /// How many OPENs the server accepted on this connection.
    GoAway(u32),
}

/// Why a stream was reset. The first three say that no byte reached the app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reset {
    /// The app does not take the connection: try another endpoint.
    Refused,
    /// Policy: do not try elsewhere.
    Denied,
    /// Going away: try another endpoint.
    Draining,
    /// The other app reset it, or its proxy gave up.
    Aborted,
}

impl Reset {
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Draining => "draining",
            Self::Aborted => "aborted",
        }
    }
}

/// What the front of a buffer holds.
#[derive(Debug, PartialEq)]
pub enum Parsed<'a> {
    /// Not a whole frame yet.
    More,
    /// A frame of `len` bytes in all.
    Frame { frame: Frame<'a>, len: usize },
    /// A frame of an optional type that we do not know: skip `len` bytes.
    Skip { len: usize },
}

/// Reads the first frame of `bytes`.
///
/// Errors: a mandatory type that we do not know, a length over the type's limit, a payload that does not parse. The caller
/// closes the connection: nothing behind such a frame can be trusted.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, BadFrame> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(Parsed::More) };
    let kind = head[0];
    let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
    let limit = match kind {
        OPEN | ACCEPT => MAX_CONTROL,
        RST => 1,
        FIN => 0,
        GOAWAY => 4,
        DATA | OPTIONAL.. => MAX_DATA,
        _ => return Err(BadFrame::Type(kind)),
    };
    if length > limit {
        return Err(BadFrame::Length { kind, length, limit });
    }
    let Some(payload) = rest.get(..length) else { return Ok(Parsed::More) };
    let len = HEAD + length;
    let frame = match kind {
        OPEN => Frame::Open(Open::decode(payload).map_err(|_| BadFrame::Payload(kind))?),
        ACCEPT => Frame::Accept(Accept::decode(payload).map_err(|_| BadFrame::Payload(kind))?),
        DATA => Frame::Data(payload),
        FIN => Frame::Fin,
        RST => Frame::Rst(reset(payload)?),
        GOAWAY => Frame::GoAway(u32::from_be_bytes(payload.try_into().map_err(|_| BadFrame::Payload(kind))?)),
        _ => return Ok(Parsed::Skip { len }),
    };
    Ok(Parsed::Frame { frame, len })
}

fn reset(payload: &[u8]) -> Result<Reset, BadFrame> {
    match payload {
        [1] => Ok(Reset::Refused),
        [2] => Ok(Reset::Denied),
        [3] => Ok(Reset::Draining),
        [_] => Ok(Reset::Aborted), // a later version's reason: the stream ended, whyever
        _ => Err(BadFrame::Payload(RST)),
    }
}

/// Appends a frame to `out`.
pub fn write(frame: &Frame<'_>, out: &mut Vec<u8>) {
    match frame {
        Frame::Open(open) => control(OPEN, open, out),
        Frame::Accept(accept) => control(ACCEPT, accept, out),
        Frame::Data(payload) => {
            out.extend_from_slice(&data_head(payload.len()));
            out.extend_from_slice(payload);
        }
        Frame::Fin => out.extend_from_slice(&[FIN, 0, 0, 0]),
        Frame::Rst(reason) => {
            let code = match reason {
                Reset::Refused => 1,
                Reset::Denied => 2,
                Reset::Draining => 3,
                Reset::Aborted => 4,
            };
            out.extend_from_slice(&[RST, 0, 0, 1, code]);
        }
        Frame::GoAway(accepted) => {
            out.extend_from_slice(&[GOAWAY, 0, 0, 4]);
            out.extend_from_slice(&accepted.to_be_bytes());
        }
    }
}

/// The head of a DATA frame whose payload is already in place behind it.
pub fn data_head(length: usize) -> [u8; HEAD] {
    debug_assert!(length <= MAX_DATA);
    head(DATA, length)
}

fn control(kind: u8, message: &impl prost::Message, out: &mut Vec<u8>) {
    debug_assert!(message.encoded_len() <= MAX_CONTROL);
    out.extend_from_slice(&head(kind, message.encoded_len()));
    message.encode_raw(out);
}

fn head(kind: u8, length: usize) -> [u8; HEAD] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind, a, b, c]
}

/// The peer broke the framing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadFrame {
    #[error("frame type {0:#04x} is unknown and not optional")]
    Type(u8),
    #[error("frame type {kind:#04x} of {length} bytes; at most {limit}")]
    Length { kind: u8, length: usize, limit: usize },
    #[error("the payload of frame type {0:#04x} does not parse")]
    Payload(u8),
}

/// Type and length.
pub const HEAD: usize = 4;
/// One TLS record (RFC 9846 5.1: 16 KiB) holds a full DATA frame.
pub const MAX_DATA: usize = 16 * 1024 - HEAD;
/// OPEN and ACCEPT: names and small features.
pub const MAX_CONTROL: usize = 4 * 1024;

const OPEN: u8 = 0x01;
const ACCEPT: u8 = 0x02;
const DATA: u8 = 0x03;
const FIN: u8 = 0x04;
const RST: u8 = 0x05;
const GOAWAY: u8 = 0x06;
// 0x07 is reserved for REAUTH: a new certificate on a busy connection.
/// Types from here on are skipped when unknown.
const OPTIONAL: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn every_frame(payload: &[u8]) -> Vec<Frame<'_>> {
        vec![
            Frame::Open(Open { destination: "api.shop:80".into(), source: "shop/web".into() }),
            Frame::Accept(Accept {}),
            Frame::Data(payload),
            Frame::Fin,
            Frame::Rst(Reset::Refused),
            Frame::Rst(Reset::Denied),
            Frame::Rst(Reset::Draining),
            Frame::Rst(Reset::Aborted),
            Frame::GoAway(7),
        ]
    }

    #[test]
    fn every_frame_is_read_as_it_was_written_however_it_is_cut() {
        for frame in every_frame(b"hello") {
            let mut bytes = Vec::new();
            write(&frame, &mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(Parsed::More), "{frame:?} cut at {cut}");
            }
            let len = bytes.len();
            bytes.extend_from_slice(b"next");
            assert_eq!(parse(&bytes), Ok(Parsed::Frame { frame, len }));
        }
    }

    #[test]
    fn limits_hold_before_the_payload_arrives() {
        for (head, refused) in [
            ([OPEN, 0, 0x10, 1], true),
            ([DATA, 0, 0x3f, 0xfd], true),
            ([DATA, 0, 0x3f, 0xfc], false),
            ([FIN, 0, 0, 1], true),
            ([0x07, 0, 0, 0], true),
            ([0x00, 0, 0, 0], true),
            ([0x80, 0, 0, 1], false),
            ([0xff, 0xff, 0xff, 0xff], true),
        ] {
            assert_eq!(parse(&head).is_err(), refused, "{head:02x?}");
        }
        assert_eq!(parse(&[0x80, 0, 0, 1, 9]), Ok(Parsed::Skip { len: 5 }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_frame_is_longer_than_its_buffer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Parsed::Frame { len, .. } | Parsed::Skip { len }) = parse(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
