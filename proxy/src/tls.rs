//! TLS without buffers of its own: the handshake as a state machine over bytes, then records that are sealed into and opened
//! from the caller's buffers (rustls' unbuffered API). Does no input or output.

use std::{ops::Deref, sync::Arc};

use rustls::{
    ClientConfig, CommonState, Error, InvalidMessage, PeerMisbehaved, ServerConfig,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use signet_core::tls;

/// One TLS connection.
pub struct Tls {
    side: Side,
    /// Sealed by TLS itself (a flight, an alert, a key update) and still to be sent, in front of everything sealed later.
    unsent: Vec<u8>,
    /// During the handshake: how much of what was received TLS has seen. It sees one record at a time, because data may follow
    /// the last one of the handshake.
    seen: usize,
    /// After an error TLS must not be called again: it may hold half of a message, and takes an empty buffer for a mistake of
    /// ours (it panics).
    broken: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Both sides have the same methods, and no trait in common.
macro_rules! either {
    ($side:expr, $connection:ident => $does:expr) => {
        match $side {
            Side::Client($connection) => $does,
            Side::Server($connection) => $does,
        }
    };
}

/// What [`Tls::open`] found at the front of its input.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opened {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// The peer said close_notify.
    pub closed: bool,
    /// Told to stop: there may be whole records left.
    pub stopped: bool,
}

/// Whether [`Tls::open`] goes on with the next record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    GoOn,
    Stop,
}

impl Tls {
    pub fn client(config: &Arc<ClientConfig>) -> Result<Self, Error> {
        let client = UnbufferedClientConnection::new(Arc::clone(config), tls::no_name())?;
        Ok(Self::new(Side::Client(client)))
    }

    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        let server = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self::new(Side::Server(server)))
    }

    fn new(side: Side) -> Self {
        Self { side, unsent: Vec::new(), seen: 0, broken: false }
    }

    /// One step of the handshake on what has been `received` so far; consumes from its front. True: it is finished. Otherwise
    /// [`Tls::take_unsent`] has to be sent, and more to be received. Data behind the handshake is left, sealed.
    ///
    /// Errors: what TLS says, its alert in [`Tls::take_unsent`]; bytes that are no TLS record as soon as they show it.
    pub fn handshake(&mut self, received: &mut Vec<u8>) -> Result<bool, Error> {
        loop {
            match self.step(received) {
                Ok(Step::Again) => {}
                Ok(Step::Ready) if self.seen == 0 => return Ok(true),
                Ok(Step::Ready) => {
                    return self.fail(received, PeerMisbehaved::KeyEpochWithPendingFragment.into());
                }
                Ok(Step::Blocked) => match record_len(&received[self.seen..]) {
                    Err(error) => return self.fail(received, error),
                    Ok(Some(len)) if received.len() - self.seen >= len => self.seen += len,
                    Ok(_) => return Ok(false),
                },
                Err(error) => return self.fail(received, error),
            }
        }
    }

    fn step(&mut self, received: &mut Vec<u8>) -> Result<Step, Error> {
        let (discard, step) = either!(&mut self.side, connection => {
            step(connection.process_tls_records(&mut received[..self.seen]), &mut self.unsent)
        });
        received.drain(..discard);
        self.seen -= discard;
        step
    }

    /// Keeps the alert that TLS has queued beside its error.
    fn fail(&mut self, received: &mut Vec<u8>, error: Error) -> Result<bool, Error> {
        while let Ok(Step::Again) = self.step(received) {}
        self.broken = true;
        Err(error)
    }

    /// Opens whole records at the front of `sealed` and hands each one's plaintext to `take`, until there is no whole one or
    /// `take` says stop. Allocates one record at a time (rustls 0.23).
    pub fn open<E: From<Error>>(
        &mut self,
        sealed: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<Then, E>,
    ) -> Result<Opened, E> {
        let opened = self.open_records(sealed, &mut take);
        self.broken |= opened.is_err();
        let opened = opened?;
        if opened.stopped || opened.closed {
            return Ok(opened);
        }
        // A whole record that TLS keeps is half of a handshake message. Nobody needs to cut a KeyUpdate, and TLS could not be
        // called without it any more.
        match record_len(&sealed[opened.consumed..]) {
            Ok(Some(len)) if sealed.len() - opened.consumed >= len => {
                self.broken = true;
                Err(E::from(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into()))
            }
            _ => Ok(opened),
        }
    }

    fn open_records<E: From<Error>>(
        &mut self,
        sealed: &mut [u8],
        take: &mut impl FnMut(&[u8]) -> Result<Then, E>,
    ) -> Result<Opened, E> {
        self.usable().map_err(E::from)?;
        let mut opened = Opened::default();
        loop {
            either!(&mut self.side, connection => {
                let UnbufferedStatus { discard, state } =
                    connection.process_tls_records(&mut sealed[opened.consumed..]);
                opened.consumed += discard;
                match state.map_err(E::from)? {
                    ConnectionState::ReadTraffic(mut traffic) => {
                        while let Some(record) = traffic.next_record() {
                            let record = record.map_err(E::from)?;
                            opened.consumed += record.discard;
                            if take(record.payload)? == Then::Stop {
                                opened.stopped = true;
                                return Ok(opened); // each status holds one record
                            }
                        }
                    }
                    ConnectionState::EncodeTlsData(mut data) => {
                        encode(&mut self.unsent, |out| data.encode(out)).map_err(E::from)?;
                    }
                    ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                    ConnectionState::WriteTraffic(_) => return Ok(opened),
                    ConnectionState::PeerClosed | ConnectionState::Closed => {
                        opened.closed = true;
                        return Ok(opened);
                    }
                    _ => return Err(E::from(Error::HandshakeNotComplete)),
                }
            });
        }
    }

    /// Seals `plain` into records at the front of `out`, behind what TLS itself has to say, and returns their length. `out`
    /// needs room for [`sealed_len`] of it.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Unsealed> {
        self.usable()?;
        loop {
            either!(&mut self.side, connection => {
                match connection.process_tls_records(&mut []).state? {
                    ConnectionState::EncodeTlsData(mut data) => {
                        encode(&mut self.unsent, |out| data.encode(out))?;
                    }
                    ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                    ConnectionState::WriteTraffic(mut traffic) => {
                        let ahead = self.unsent.len();
                        let room = out.get_mut(ahead..).unwrap_or_default();
                        let len = traffic.encrypt(plain, room).map_err(|error| match error {
                            EncryptError::InsufficientSize(size) => {
                                Unsealed::Room { needed: ahead + size.required_size }
                            }
                            EncryptError::EncryptExhausted => Error::EncryptError.into(),
                        })?;
                        if ahead > 0 {
                            out[..ahead].copy_from_slice(&std::mem::take(&mut self.unsent));
                        }
                        return Ok(ahead + len);
                    }
                    _ => return Err(Error::HandshakeNotComplete.into()),
                }
            });
        }
    }

    /// Seals `plain` behind what is in `out`, which grows as needed.
    pub fn seal_into(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let at = out.len();
        let mut room = self.unsent.len() + sealed_len(plain.len());
        loop {
            out.resize(at + room, 0);
            match self.seal(plain, &mut out[at..]) {
                Ok(len) => {
                    out.truncate(at + len);
                    return Ok(());
                }
                Err(Unsealed::Room { needed }) if needed > room => room = needed,
                Err(Unsealed::Room { .. }) => return Err(Error::EncryptError),
                Err(Unsealed::Tls(error)) => return Err(error),
            }
        }
    }

    /// close_notify, behind what is in `out` and what TLS still had to say (the end of a handshake).
    pub fn close_into(&mut self, out: &mut Vec<u8>) {
        if self.broken {
            return;
        }
        out.append(&mut self.unsent);
        let at = out.len();
        out.resize(at + ALERT_ROOM, 0);
        let sealed = either!(&mut self.side, connection => {
            match connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.queue_close_notify(&mut out[at..]),
                _ => Ok(0), // closed already, or broken: there is nothing to say
            }
        });
        out.truncate(at + sealed.unwrap_or(0));
    }

    /// What TLS itself has to send: handshake flights, and the alert of a failed one.
    pub fn take_unsent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unsent)
    }

    fn usable(&self) -> Result<(), Error> {
        if self.broken { Err(Error::HandshakeNotComplete) } else { Ok(()) }
    }

    /// Makes both sides change their keys with the next record.
    #[cfg(test)]
    pub fn refresh_keys(&mut self) -> Result<(), Error> {
        either!(&mut self.side, connection => {
            match connection.process_tls_records(&mut []).state? {
                ConnectionState::WriteTraffic(traffic) => traffic.refresh_traffic_keys(),
                _ => Err(Error::HandshakeNotComplete),
            }
        })
    }
}

/// What was negotiated, and the peer's certificates.
impl Deref for Tls {
    type Target = CommonState;
    fn deref(&self) -> &CommonState {
        either!(&self.side, connection => connection)
    }
}

enum Step {
    Again,
    Blocked,
    Ready,
}

fn step<Data>(status: UnbufferedStatus<'_, '_, Data>, unsent: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(unsent, |out| data.encode(out)).map(|()| Step::Again)
        }
        // Sent by the caller before it reads again; the last flight rides with the first data.
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Ready),
        Ok(_) => Err(Error::HandshakeNotComplete), // closed, or data before its end
        Err(error) => Err(error),
    };
    (status.discard, step)
}

/// Asks for the size first: an `Err` of the first call is how the API tells it.
fn encode(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let at = out.len();
    let Err(EncodeError::InsufficientSize(size)) = encode(&mut []) else { return Ok(()) }; // nothing to encode
    out.resize(at + size.required_size, 0);
    encode(&mut out[at..])
        .map(drop)
        .map_err(|_| Error::General("TLS asked for more room than it said".into()))
}

/// How long the record at the front of `bytes` is, head included; `None`: its head is not whole.
///
/// Errors: as soon as a byte shows that this is no TLS record. Waiting for the "length" of something else would hang.
fn record_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    if bytes.first().is_some_and(|kind| !(20..=23).contains(kind)) {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let Some([_, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    let len = HEAD + usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_SEALED { Err(InvalidMessage::MessageTooLarge.into()) } else { Ok(Some(len)) }
}

/// Why nothing was sealed.
#[derive(Debug, thiserror::Error)]
pub enum Unsealed {
    /// A key update wanted its place as well. Nothing is lost: seal again with so much room.
    #[error("{needed} bytes of room are needed")]
    Room { needed: usize },
    #[error(transparent)]
    Tls(#[from] Error),
}

/// At most so long are records with `len` bytes of plaintext, and a key update in front of them.
pub fn sealed_len(len: usize) -> usize {
    len + len.div_ceil(MAX_PLAIN).max(1) * OVERHEAD + SLACK
}

/// Plaintext of one record (RFC 9846 5.1).
pub const MAX_PLAIN: usize = 16 * 1024;
/// Record head (5), content type (1), tag (16).
pub const OVERHEAD: usize = 22;
/// The longest record that a peer may send (RFC 9846 5.2): expansion of at most 256 bytes.
pub const MAX_SEALED: usize = HEAD + MAX_PLAIN + 256;
/// TLSPlaintext's type, version and length.
const HEAD: usize = 5;
/// For a pending key update: 5 + 5 + 1 + 16 bytes.
const SLACK: usize = 64;
const ALERT_ROOM: usize = 256;

#[cfg(test)]
mod tests;
