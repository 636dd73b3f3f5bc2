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

/// Takes frames off a stream of bytes that arrives in pieces. Holds no payload but a control frame's that arrived in part.
#[derive(Debug, Default)]
pub struct Unframer {
    head: [u8; HEAD],
    /// Bytes of `head` that are there; [`HEAD`] while its payload is taken.
    held: usize,
    /// Payload bytes still to come.
    left: usize,
    /// The part of a control frame's payload that is there.
    part: Vec<u8>,
}

impl Unframer {
    /// Takes the next frame off the front of `bytes`; a DATA frame comes in as many pieces as it arrives in, an empty one not
    /// at all. `None`: all of `bytes` is taken, and more is needed.
    ///
    /// Errors: a mandatory type that we do not know, a length over the type's limit (told by the head alone), a payload that
    /// does not parse. The caller closes the connection: nothing behind such a frame can be trusted.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Frame<'a>>, BadFrame> {
        loop {
            if self.held < HEAD {
                let head = take(bytes, HEAD - self.held);
                self.head[self.held..self.held + head.len()].copy_from_slice(head);
                self.held += head.len();
                if self.held < HEAD {
                    return Ok(None);
                }
                self.left = length(self.head)?;
            }
            let kind = self.head[0];
            if is_control(kind) {
                let payload = take(bytes, self.left);
                self.left -= payload.len();
                if self.left > 0 {
                    self.part.extend_from_slice(payload);
                    return Ok(None);
                }
                self.held = 0;
                if self.part.is_empty() {
                    return control_frame(kind, payload).map(Some);
                }
                let mut whole = std::mem::take(&mut self.part);
                whole.extend_from_slice(payload);
                return control_frame(kind, &whole).map(Some);
            }
            let payload = take(bytes, self.left);
            self.left -= payload.len();
            if self.left == 0 {
                self.held = 0;
            }
            match (kind, payload) {
                (DATA, [_, ..]) => return Ok(Some(Frame::Data(payload))),
                _ if self.held == HEAD => return Ok(None), // the rest of it is still to come
                _ => {}                                    // an empty frame, or the end of one that we skip
            }
        }
    }

    /// Whether nothing of a frame has been taken whose rest is missing.
    pub fn is_between_frames(&self) -> bool {
        self.held == 0
    }
}

fn take<'a>(bytes: &mut &'a [u8], at_most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(at_most.min(bytes.len()));
    *bytes = rest;
    taken
}

/// The length that a head announces, if its type may have it.
fn length([kind, a, b, c]: [u8; HEAD]) -> Result<usize, BadFrame> {
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    let limit = match kind {
        OPEN | ACCEPT => MAX_CONTROL,
        RST => 1,
        FIN => 0,
        GOAWAY => 4,
        DATA | OPTIONAL.. => MAX_DATA,
        _ => return Err(BadFrame::Type(kind)),
    };
    if length > limit { Err(BadFrame::Length { kind, length, limit }) } else { Ok(length) }
}

fn is_control(kind: u8) -> bool {
    kind != DATA && kind < OPTIONAL
}

fn control_frame(kind: u8, payload: &[u8]) -> Result<Frame<'static>, BadFrame> {
    let broken = || BadFrame::Payload(kind);
    Ok(match kind {
        OPEN => Frame::Open(Open::decode(payload).map_err(|_| broken())?),
        ACCEPT => Frame::Accept(Accept::decode(payload).map_err(|_| broken())?),
        FIN => Frame::Fin,
        RST => Frame::Rst(reset(payload)?),
        GOAWAY => Frame::GoAway(u32::from_be_bytes(payload.try_into().map_err(|_| broken())?)),
        _ => return Err(BadFrame::Type(kind)),
    })
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
        Frame::Fin => out.extend_from_slice(&FIN_FRAME),
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

/// FIN has no payload.
pub const FIN_FRAME: [u8; HEAD] = [FIN, 0, 0, 0];

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

    /// What an unframer makes of `bytes`, given in pieces of `size`, adjacent pieces of DATA joined.
    fn frames(bytes: &[u8], size: usize) -> Result<Vec<(Frame<'static>, Vec<u8>)>, BadFrame> {
        let mut unframer = Unframer::default();
        let mut got: Vec<(Frame<'static>, Vec<u8>)> = Vec::new();
        for mut piece in bytes.chunks(size) {
            while let Some(frame) = unframer.next(&mut piece)? {
                match (frame, got.last_mut()) {
                    (Frame::Data(data), Some((Frame::Data(_), before))) => before.extend_from_slice(data),
                    (Frame::Data(data), _) => got.push((Frame::Data(b""), data.to_vec())),
                    (Frame::Open(open), _) => got.push((Frame::Open(open), vec![])),
                    (Frame::Accept(accept), _) => got.push((Frame::Accept(accept), vec![])),
                    (Frame::Fin, _) => got.push((Frame::Fin, vec![])),
                    (Frame::Rst(reset), _) => got.push((Frame::Rst(reset), vec![])),
                    (Frame::GoAway(n), _) => got.push((Frame::GoAway(n), vec![])),
                }
            }
            assert!(piece.is_empty());
        }
        Ok(got)
    }

    #[test]
    fn frames_are_read_as_they_were_written_however_they_are_cut() {
        let mut bytes = Vec::new();
        for frame in every_frame(b"hello") {
            write(&frame, &mut bytes);
        }
        bytes.extend_from_slice(&[0x80, 0, 0, 3, 1, 2, 3, DATA, 0, 0, 0]); // skipped, and empty
        write(&Frame::Fin, &mut bytes);
        let whole = frames(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), every_frame(b"").len() + 1);
        assert_eq!(whole[2], (Frame::Data(b""), b"hello".to_vec()));
        for size in 1..40 {
            assert_eq!(frames(&bytes, size).unwrap(), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_that_is_not_whole_is_told_apart_from_none() {
        let mut unframer = Unframer::default();
        assert!(unframer.is_between_frames());
        for byte in [DATA, 0, 0, 2, 9] {
            unframer.next(&mut &[byte][..]).unwrap();
            assert!(!unframer.is_between_frames());
        }
        unframer.next(&mut &[9][..]).unwrap();
        assert!(unframer.is_between_frames());
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
            assert_eq!(Unframer::default().next(&mut &head[..]).is_err(), refused, "{head:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_pieces_change_nothing(bytes in prop::collection::vec(any::<u8>(), 1..200), size in 1..50_usize) {
            prop_assert_eq!(frames(&bytes, size), frames(&bytes, bytes.len()));
        }
    }
}
