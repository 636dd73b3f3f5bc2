//! TLS without buffers of its own: a [`Handshake`], then records that are sealed into and opened in the caller's buffers. Does
//! no input or output.
//!
//! rustls makes the handshake, then hands its keys over: what it would keep for records of its own is 1.5 kB of every idle
//! connection. The crypto stays its provider's.

mod handshake;
pub mod inner;
mod records;

use rustls::Error;

pub use self::handshake::Handshake;
use self::{
    inner::{Inner, alert_for},
    records::Records,
};

/// One TLS connection after its handshake.
pub struct Tls {
    /// `None`: over, by an error or by our close_notify. Every call is an error then.
    records: Option<Records>,
    /// Sealed by TLS itself (the last flight, an alert) and still to be sent, in front of everything sealed later.
    unsent: Vec<u8>,
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
    /// Opens whole records at the front of `sealed`, in place, and hands each one's plaintext to `take`, until there is no
    /// whole one or `take` says stop.
    ///
    /// Errors of the peer's end the connection, and leave an alert in [`Tls::take_unsent`].
    pub fn open<E: From<Error>>(
        &mut self,
        sealed: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<Then, E>,
    ) -> Result<Opened, E> {
        let records = self.records.as_mut().ok_or(Error::HandshakeNotComplete)?;
        let mut opened = Opened { closed: records.closed, ..Opened::default() };
        while !opened.closed && !opened.stopped {
            match records.open(&mut sealed[opened.consumed..]) {
                Ok(None) => break,
                Ok(Some((len, inner))) => {
                    opened.consumed += len;
                    opened.closed = inner == Inner::Closed;
                    if let Inner::Data(data @ [_, ..]) = inner {
                        opened.stopped = take(data)? == Then::Stop;
                    }
                }
                Err(error) => return Err(self.fail(error).into()),
            }
        }
        Ok(opened)
    }

    /// Seals `plain` into records at the front of `out`, behind what TLS itself has to say, and returns their length. `out`
    /// needs room for [`sealed_len`] of it.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Unsealed> {
        let needed = self.needed(plain)?;
        let Some(out) = out.get_mut(..needed) else { return Err(Unsealed::Room { needed }) };
        let ahead = self.unsent.len();
        if ahead > 0 {
            out[..ahead].copy_from_slice(&std::mem::take(&mut self.unsent));
        }
        let records = self.records.as_mut().ok_or(Error::HandshakeNotComplete)?;
        match records.seal(plain, &mut out[ahead..]) {
            Ok(len) => Ok(ahead + len),
            Err(error) => Err(self.fail(error).into()),
        }
    }

    /// Seals `plain` behind what is in `out`, which grows as needed.
    pub fn seal_into(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let at = out.len();
        out.resize(at + self.needed(plain)?, 0);
        match self.seal(plain, &mut out[at..]) {
            Ok(_) => Ok(()),
            Err(Unsealed::Tls(error)) => Err(error),
            Err(Unsealed::Room { .. }) => Err(Error::EncryptError),
        }
    }

    /// How much room `plain` needs now, and what waits in front of it.
    fn needed(&self, plain: &[u8]) -> Result<usize, Error> {
        let records = self.records.as_ref().ok_or(Error::HandshakeNotComplete)?;
        Ok(self.unsent.len() + records.sealed_len(plain.len()))
    }

    /// close_notify, behind what is in `out` and what TLS still had to say (the end of a handshake).
    pub fn close_into(&mut self, out: &mut Vec<u8>) {
        if let Some(records) = self.records.take() {
            out.append(&mut self.unsent);
            records.alert(CLOSE_NOTIFY, out);
        }
    }

    /// What TLS itself has to send: the alert of an error, behind what waited for data to ride with.
    pub fn take_unsent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unsent)
    }

    /// Lets go of the keys, after a last word to a peer that did wrong.
    fn fail(&mut self, error: Error) -> Error {
        if let (Some(records), Some(alert)) = (self.records.take(), alert_for(&error)) {
            records.alert([FATAL, alert.into()], &mut self.unsent);
        }
        error
    }

    /// Both sides change their keys with the next record.
    pub fn refresh_keys(&mut self) -> Result<(), Error> {
        let records = self.records.as_mut().ok_or(Error::HandshakeNotComplete)?;
        let mut update = [0; SLACK];
        let len = records.update(true, &mut update)?;
        self.unsent.extend_from_slice(&update[..len]);
        Ok(())
    }
}

/// Why nothing was sealed.
#[derive(Debug, thiserror::Error)]
pub enum Unsealed {
    /// The end of the handshake wanted its place as well. Nothing is lost: seal again with so much room.
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
/// For a key update that is due: 5 + 5 + 1 + 16 bytes.
const SLACK: usize = 64;
/// Level (warning) and description.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// An alert's level.
const FATAL: u8 = 2;

#[cfg(test)]
mod tests;
