//! Records after the handshake (RFC 9846 5): keys, sequence numbers, and when keys change.

use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, InvalidMessage, PeerMisbehaved,
    ProtocolVersion, Side, Tls13CipherSuite,
    client::ClientConnectionData,
    crypto::cipher::{
        AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
        OutboundChunks, OutboundPlainMessage,
    },
    kernel::KernelConnection,
    server::ServerConnectionData,
};

use super::{
    HEAD, MAX_PLAIN, MAX_SEALED, OVERHEAD,
    inner::{self, Inner},
};

/// Both directions of a connection.
pub(super) struct Records {
    suite: &'static Tls13CipherSuite,
    sealing: Sealing,
    opening: Opening,
    schedule: Schedule,
    /// The peer asked for a KeyUpdate. However often it did, one answers, in front of our next data (RFC 9846 4.7.3).
    answer_owed: bool,
    /// Records in a row that carried no data.
    quiet: u8,
    /// The peer said close_notify: nothing behind it is read.
    pub(super) closed: bool,
}

/// What is left of rustls' connection: where the next keys come from. It holds the peer's chain too, and does not give it back.
pub(super) enum Schedule {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

struct Sealing {
    key: Box<dyn MessageEncrypter>,
    next: u64,
}

struct Opening {
    key: Box<dyn MessageDecrypter>,
    next: u64,
}

impl Records {
    /// `secrets` have sealed nothing yet: our configs send no tickets (core/src/tls.rs), and aws-lc wants to see a key's first
    /// record.
    pub(super) fn new(
        suite: &'static Tls13CipherSuite,
        secrets: ExtractedSecrets,
        schedule: Schedule,
    ) -> Result<Self, Error> {
        let (sealing, opening) = (Sealing::new(suite, secrets.tx)?, Opening::new(suite, secrets.rx)?);
        Ok(Self { suite, sealing, opening, schedule, answer_owed: false, quiet: 0, closed: false })
    }

    /// Opens the record at the front of `sealed` in place. Returns its length beside what it says; `None`: it is not whole.
    pub(super) fn open<'a>(&mut self, sealed: &'a mut [u8]) -> Result<Option<(usize, Inner<'a>)>, Error> {
        let Some(len) = record_len(sealed)? else { return Ok(None) };
        let Some(record) = sealed.get_mut(..len) else { return Ok(None) };
        let InboundPlainMessage { typ, payload, .. } = self.opening.open(record)?;
        let inner = inner::parse(self.schedule.side(), typ, payload)?;
        match inner {
            Inner::Data([_, ..]) => self.quiet = 0,
            Inner::Data([]) => self.no_data(PeerMisbehaved::TooManyEmptyFragments)?,
            Inner::Nothing => self.no_data(PeerMisbehaved::TooManyWarningAlertsReceived)?,
            Inner::KeyUpdate { answer } => {
                self.no_data(PeerMisbehaved::TooManyKeyUpdateRequests)?;
                self.opening = Opening::new(self.suite, self.schedule.next_to_open()?)?;
                self.answer_owed |= answer;
            }
            Inner::Closed => self.closed = true,
        }
        Ok(Some((len, inner)))
    }

    fn no_data(&mut self, too_many: PeerMisbehaved) -> Result<(), Error> {
        self.quiet += 1;
        if self.quiet > MAX_QUIET { Err(too_many.into()) } else { Ok(()) }
    }

    /// How many bytes [`Records::seal`] makes of `len`.
    pub(super) fn sealed_len(&self, len: usize) -> usize {
        let update = if self.owes_update(len) { KEY_UPDATE.len() + OVERHEAD } else { 0 };
        update + len + len.div_ceil(MAX_PLAIN) * OVERHEAD
    }

    /// Seals `plain` to the front of `out`, behind a KeyUpdate where one is due.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let mut at = if self.owes_update(plain.len()) { self.update(false, out)? } else { 0 };
        for chunk in plain.chunks(MAX_PLAIN) {
            at += self.sealing.seal(ContentType::ApplicationData, chunk, &mut out[at..])?;
        }
        Ok(at)
    }

    /// Owed to the peer, or because one of these records would reach the limit of what a key may seal.
    fn owes_update(&self, len: usize) -> bool {
        let records = len.div_ceil(MAX_PLAIN) as u64;
        let limit = self.suite.common.confidentiality_limit;
        records > 0 && (self.answer_owed || self.sealing.next.saturating_add(records) >= limit)
    }

    /// Says KeyUpdate with the old key. What follows is sealed with the new one. `answer`: the peer is to do the same.
    pub(super) fn update(&mut self, answer: bool, out: &mut [u8]) -> Result<usize, Error> {
        let mut message = KEY_UPDATE;
        message[4] = answer.into();
        let len = self.sealing.seal(ContentType::Handshake, &message, out)?;
        self.sealing = Sealing::new(self.suite, self.schedule.next_to_seal()?)?;
        self.answer_owed = false;
        Ok(len)
    }

    /// Appends an alert, the last thing that is said.
    pub(super) fn alert(mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + alert.len() + OVERHEAD, 0);
        let sealed = self.sealing.seal(ContentType::Alert, &alert, &mut out[at..]);
        out.truncate(at + sealed.unwrap_or(0)); // a courtesy
    }

    /// One record of any type and content.
    #[cfg(test)]
    pub(super) fn forge(&mut self, kind: ContentType, plain: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; plain.len() + OVERHEAD];
        let len = self.sealing.seal(kind, plain, &mut sealed).unwrap();
        assert_eq!(len, sealed.len());
        sealed
    }

    /// As if so many records had been sealed and opened.
    #[cfg(test)]
    pub(super) fn fast_forward(&mut self, sealed: u64, opened: u64) {
        (self.sealing.next, self.opening.next) = (sealed, opened);
    }
}

impl Sealing {
    fn new(
        suite: &Tls13CipherSuite,
        (next, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        let (key, iv) = key_of(secrets)?;
        Ok(Self { key: suite.aead_alg.encrypter(key, iv), next })
    }

    /// Seals one record to the front of `out`, which has room for it, and returns its length.
    fn seal(&mut self, kind: ContentType, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let payload = OutboundChunks::Single(plain);
        let record = OutboundPlainMessage { typ: kind, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = self.key.encrypt(record, self.next)?.encode();
        self.next += 1; // whatever happens to this record: a number is used once
        out.get_mut(..sealed.len()).ok_or(Error::EncryptError)?.copy_from_slice(&sealed);
        Ok(sealed.len())
    }
}

impl Opening {
    fn new(
        suite: &Tls13CipherSuite,
        (next, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        let (key, iv) = key_of(secrets)?;
        Ok(Self { key: suite.aead_alg.decrypter(key, iv), next })
    }

    /// Opens one whole record. Nothing is plaintext any more, not even the compatibility's change_cipher_spec.
    fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<InboundPlainMessage<'a>, Error> {
        let kind = ContentType::from(record[0]);
        if kind != ContentType::ApplicationData {
            let expect_types = vec![ContentType::ApplicationData];
            return Err(Error::InappropriateMessage { expect_types, got_type: kind });
        }
        let sealed = InboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, &mut record[HEAD..]);
        let opened = self.key.decrypt(sealed, self.next)?;
        self.next += 1;
        Ok(opened)
    }
}

impl Schedule {
    fn side(&self) -> Side {
        match self {
            Self::Client(_) => Side::Client,
            Self::Server(_) => Side::Server,
        }
    }

    fn next_to_seal(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_to_open(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

fn key_of(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher suite that is not ours".into())),
    }
}

/// How long the record at the front of `bytes` is, head included; `None`: its head is not whole.
///
/// Errors: as soon as a byte shows that this is no TLS record. Waiting for the "length" of something else would hang.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
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

/// Type (24), length (1), update_not_requested.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// What BoringSSL and rustls take of key updates and of empty records before they call it a flood.
const MAX_QUIET: u8 = 32;
