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
mod tests {
    use rustls::{
        ConnectionTrafficSecrets, ContentType, ProtocolVersion,
        crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage},
    };

    use super::*;
    use crate::pki_for_tests::generations;

    fn pair() -> (Tls, Tls) {
        let (client, server) = generations();
        (Tls::client(&client.wire.client).unwrap(), Tls::server(&server.wire.server).unwrap())
    }

    fn shaken() -> (Tls, Tls) {
        let (mut client, mut server) = pair();
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        loop {
            let client_done = client.handshake(&mut to_client).unwrap();
            to_server.extend(client.take_unsent());
            let server_done = server.handshake(&mut to_server).unwrap();
            to_client.extend(server.take_unsent());
            if client_done && server_done {
                return (client, server);
            }
        }
    }

    fn open_all(tls: &mut Tls, sealed: &mut [u8]) -> (Vec<u8>, Opened) {
        let mut plain = Vec::new();
        let opened = tls.open::<Error>(sealed, |bytes| {
            plain.extend_from_slice(bytes);
            Ok(Then::GoOn)
        });
        (plain, opened.unwrap())
    }

    #[test]
    fn a_handshake_may_arrive_byte_by_byte() {
        let (mut client, mut server) = pair();
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        assert!(!client.handshake(&mut to_client).unwrap());
        for byte in client.take_unsent() {
            to_server.push(byte);
            assert!(!server.handshake(&mut to_server).unwrap());
        }
        let flight = server.take_unsent();
        assert!(flight.len() > 1000);
        let mut done = false;
        for byte in flight {
            to_client.push(byte);
            done = client.handshake(&mut to_client).unwrap();
        }
        assert!(done);
        let mut done = false;
        for byte in client.take_unsent() {
            to_server.push(byte);
            done = server.handshake(&mut to_server).unwrap();
        }
        assert!(done && server.peer_certificates().is_some());
    }

    #[test]
    fn what_is_sealed_is_opened_whole_in_whatever_pieces_it_arrives() {
        let (mut client, mut server) = shaken();
        let plain: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut sealed = Vec::new();
        client.seal_into(&plain, &mut sealed).unwrap();
        let (mut held, mut got) = (Vec::new(), Vec::new());
        for piece in sealed.chunks(4999) {
            held.extend_from_slice(piece);
            let (part, opened) = open_all(&mut server, &mut held);
            got.extend(part);
            held.drain(..opened.consumed);
        }
        assert!(held.is_empty() && got == plain);
    }

    #[test]
    fn open_stops_behind_the_record_where_it_is_told_to() {
        let (mut client, mut server) = shaken();
        let mut sealed = Vec::new();
        client.seal_into(b"one", &mut sealed).unwrap();
        let first = sealed.len();
        client.seal_into(b"two", &mut sealed).unwrap();
        let opened = server.open::<Error>(&mut sealed, |_| Ok(Then::Stop)).unwrap();
        assert_eq!(opened, Opened { consumed: first, closed: false, stopped: true });
        assert_eq!(open_all(&mut server, &mut sealed[first..]).0, b"two");
    }

    #[test]
    fn a_key_update_of_either_side_changes_nothing_for_the_bytes() {
        let (mut client, mut server) = shaken();
        for round in 0..5_u8 {
            client.refresh_keys().unwrap();
            let mut sealed = Vec::new();
            client.seal_into(&[round; 20_000], &mut sealed).unwrap();
            assert_eq!(open_all(&mut server, &mut sealed).0, [round; 20_000]);
            // The answer to the update rides with the next data, and fits the room that sealed_len promises.
            let mut sealed = vec![0; sealed_len(MAX_PLAIN)];
            let len = server.seal(&[round; MAX_PLAIN], &mut sealed).unwrap();
            assert_eq!(open_all(&mut client, &mut sealed[..len]).0, [round; MAX_PLAIN]);
        }
    }

    #[test]
    fn too_little_room_is_told_and_loses_nothing() {
        let (mut client, mut server) = shaken();
        client.refresh_keys().unwrap();
        let mut sealed = vec![0; 64];
        let Err(Unsealed::Room { needed }) = client.seal(&[7; 100], &mut sealed) else { panic!("too small") };
        let mut sealed = vec![0; needed];
        let len = client.seal(&[7; 100], &mut sealed).unwrap();
        assert_eq!(open_all(&mut server, &mut sealed[..len]).0, [7; 100]);
    }

    #[test]
    fn data_behind_the_handshake_stays_sealed_until_it_is_opened() {
        let (mut client, mut server) = pair();
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        client.handshake(&mut to_client).unwrap();
        to_server.extend(client.take_unsent());
        server.handshake(&mut to_server).unwrap();
        to_client.extend(server.take_unsent());
        assert!(client.handshake(&mut to_client).unwrap());
        client.seal_into(b"early", &mut to_server).unwrap();
        assert!(server.handshake(&mut to_server).unwrap(), "flight and data came in one piece");
        assert_eq!(open_all(&mut server, &mut to_server).0, b"early");
    }

    #[test]
    fn what_is_no_record_is_refused_at_the_byte_that_shows_it() {
        for bytes in [&b"2"[..], b"GET / HTTP/1.1", b"\x16\x02", b"\x17\x03\x03\x41\x01"] {
            let mut client = pair().0;
            client.handshake(&mut Vec::new()).unwrap();
            let answer = client.handshake(&mut bytes.to_vec());
            assert!(matches!(answer, Err(Error::InvalidMessage(_))), "{bytes:02x?}: {answer:?}");
        }
    }

    #[test]
    fn a_broken_connection_is_an_error_for_ever_and_never_a_panic() {
        let (mut client, mut server) = shaken();
        let mut sealed = Vec::new();
        client.seal_into(b"hello", &mut sealed).unwrap();
        sealed[7] ^= 1;
        assert!(server.open::<Error>(&mut sealed, |_| Ok(Then::GoOn)).is_err());
        assert!(server.seal(b"x", &mut [0; 100]).is_err());
        assert!(server.open::<Error>(&mut [], |_| Ok(Then::GoOn)).is_err());
        server.close_into(&mut sealed);
    }

    #[test]
    fn empty_records_are_nothing_and_a_flood_of_them_is_an_error() {
        let (mut client, mut server) = shaken();
        let mut sealed = Vec::new();
        client.seal_into(b"", &mut sealed).unwrap();
        assert_eq!(open_all(&mut server, &mut sealed), (vec![], Opened::default()));
        client.close_into(&mut sealed);
        assert!(open_all(&mut server, &mut sealed).1.closed);
    }

    #[test]
    fn a_refused_certificate_leaves_an_alert_to_send() {
        let (client, _) = generations();
        let (_, server) = generations(); // of another root
        let mut client = Tls::client(&client.wire.client).unwrap();
        let mut server = Tls::server(&server.wire.server).unwrap();
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        client.handshake(&mut to_client).unwrap();
        to_server.extend(client.take_unsent());
        server.handshake(&mut to_server).unwrap();
        to_client.extend(server.take_unsent());
        assert!(matches!(client.handshake(&mut to_client), Err(Error::InvalidCertificate(_))));
        let mut alert = client.take_unsent();
        assert!(!alert.is_empty());
        assert!(matches!(server.handshake(&mut alert), Err(Error::AlertReceived(_))));
    }

    /// Seals records of any type and content for `server`, as no TLS stack would.
    struct Forger {
        seal: Box<dyn MessageEncrypter>,
        next: u64,
    }

    impl Forger {
        fn record(&mut self, kind: ContentType, plain: &[u8]) -> Vec<u8> {
            let payload = OutboundChunks::Single(plain);
            let record = OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload };
            let sealed = self.seal.encrypt(record, self.next).unwrap();
            self.next += 1;
            sealed.encode()
        }
    }

    fn forger_and_server() -> (Forger, Tls) {
        let (client, server) = generations();
        let mut config = ClientConfig::clone(&client.wire.client);
        config.enable_secret_extraction = true;
        let mut client = Tls::client(&Arc::new(config)).unwrap();
        let mut server = Tls::server(&server.wire.server).unwrap();
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        while !client.handshake(&mut to_client).unwrap() {
            to_server.extend(client.take_unsent());
            server.handshake(&mut to_server).unwrap();
            to_client.extend(server.take_unsent());
        }
        to_server.extend(client.take_unsent());
        assert!(server.handshake(&mut to_server).unwrap());
        let Side::Client(client) = client.side else { panic!("a client") };
        let (next, secrets) = client.dangerous_into_kernel_connection().unwrap().0.tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("the first suite") };
        let suites = tls::mesh_provider(tls::default_provider()).cipher_suites.clone();
        let suite = suites.iter().find_map(|suite| suite.tls13()).unwrap();
        (Forger { seal: suite.aead_alg.encrypter(key, iv), next }, server)
    }

    /// rustls panics when it is called without the half of a message that it has seen. However a peer cuts its messages, and
    /// whatever we do in between, that never happens.
    #[test]
    fn half_a_handshake_message_in_whatever_company_is_an_error_or_nothing_and_never_a_panic() {
        let update = [24, 0, 0, 1, 1];
        let halves =
            |at: usize| [&update[..at], &update[at..]].map(|part| (ContentType::Handshake, part.to_vec()));
        let data = (ContentType::ApplicationData, b"data".to_vec());
        let close = (ContentType::Alert, vec![1, 0]);
        let both = (ContentType::Handshake, [&update[..], &update[..3]].concat());
        let mut cases =
            vec![vec![both.clone()], vec![both, data.clone()], vec![(ContentType::Handshake, vec![])]];
        cases.push(vec![(ContentType::Handshake, vec![24, 0xff, 0xff, 0xff, 0])]);
        cases.push(update.iter().map(|byte| (ContentType::Handshake, vec![*byte])).collect());
        for at in 1..update.len() {
            let [first, second] = halves(at);
            cases.push(vec![first.clone()]);
            cases.push(vec![first.clone(), second.clone()]);
            cases.push(vec![data.clone(), first.clone(), data.clone()]);
            cases.push(vec![data.clone(), first.clone(), close.clone()]);
            cases.push(vec![first.clone(), first.clone(), second.clone()]);
            cases.push(vec![data.clone(), first, data.clone(), second]);
        }
        for case in &cases {
            for pieces in [1, 7, 30, usize::MAX] {
                for then in [Then::GoOn, Then::Stop] {
                    let (mut forger, mut server) = forger_and_server();
                    let sealed: Vec<u8> =
                        case.iter().flat_map(|(kind, plain)| forger.record(*kind, plain)).collect();
                    let mut held = Vec::new();
                    for piece in sealed.chunks(pieces.min(sealed.len())) {
                        held.extend_from_slice(piece);
                        // As a wire does: what is whole is opened, again as long as it was told to stop.
                        while let Ok(opened) = server.open::<Error>(&mut held, |_| Ok(then)) {
                            held.drain(..opened.consumed);
                            let _ = server.seal(b"in between", &mut [0; 200]);
                            if !opened.stopped {
                                break;
                            }
                        }
                    }
                    let _ = server.seal(b"afterwards", &mut [0; 200]);
                    let _ = server.open::<Error>(&mut [], |_| Ok(Then::GoOn));
                    server.close_into(&mut Vec::new());
                }
            }
        }
    }
}
