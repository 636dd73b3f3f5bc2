//! The handshake, as rustls' state machine over bytes.

use std::sync::Arc;

use rustls::{
    ClientConfig, CommonState, Error, PeerMisbehaved, ServerConfig,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use signet_core::tls;

use super::{
    Tls,
    records::{Records, Schedule, record_len},
};

/// A connection before its first record of data.
pub struct Handshake {
    side: Side,
    /// Flights and alerts, still to be sent.
    unsent: Vec<u8>,
    /// How much of what was received TLS has seen. It sees one record at a time, because data may follow the last one of the
    /// handshake.
    seen: usize,
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
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

impl Handshake {
    pub fn client(config: &Arc<ClientConfig>) -> Result<Self, Error> {
        let client = UnbufferedClientConnection::new(Arc::clone(config), tls::no_name())?;
        Ok(Self::new(Side::Client(Box::new(client))))
    }

    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        let server = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self::new(Side::Server(Box::new(server))))
    }

    fn new(side: Side) -> Self {
        Self { side, unsent: Vec::new(), seen: 0 }
    }

    /// One step on what has been `received` so far; consumes from its front. True: it is done, and [`Handshake::finish`] is
    /// next. Otherwise [`Handshake::take_unsent`] has to be sent, and more to be received. Data behind the handshake is left,
    /// sealed.
    ///
    /// Errors, after which there is no other step: what TLS says, its alert in [`Handshake::take_unsent`]; bytes that are no
    /// TLS record as soon as they show it.
    pub fn step(&mut self, received: &mut Vec<u8>) -> Result<bool, Error> {
        loop {
            match self.process(received) {
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

    fn process(&mut self, received: &mut Vec<u8>) -> Result<Step, Error> {
        let (discard, step) = either!(&mut self.side, connection => {
            take_step(connection.process_tls_records(&mut received[..self.seen]), &mut self.unsent)
        });
        received.drain(..discard);
        self.seen -= discard;
        step
    }

    /// Keeps the alert that TLS has queued beside its error.
    fn fail(&mut self, received: &mut Vec<u8>, error: Error) -> Result<bool, Error> {
        while let Ok(Step::Again) = self.process(received) {}
        Err(error)
    }

    /// What TLS has to send. What is left of it at the end rides with the first data ([`Handshake::finish`]).
    pub fn take_unsent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unsent)
    }

    /// What was agreed on, and the peer's certificates.
    pub fn negotiated(&self) -> &CommonState {
        either!(&self.side, connection => connection)
    }

    /// Takes the keys, and lets go of what only the handshake needed.
    pub fn finish(self) -> Result<Tls, Error> {
        let suite = self.negotiated().negotiated_cipher_suite().and_then(|suite| suite.tls13());
        let (secrets, schedule) = match self.side {
            Side::Client(client) => {
                let (secrets, kernel) = client.dangerous_into_kernel_connection()?;
                (secrets, Schedule::Client(Box::new(kernel)))
            }
            Side::Server(server) => {
                let (secrets, kernel) = server.dangerous_into_kernel_connection()?;
                (secrets, Schedule::Server(Box::new(kernel)))
            }
        };
        let records = Records::new(suite.ok_or(Error::HandshakeNotComplete)?, secrets, schedule)?;
        Ok(Tls { records: Some(records), unsent: self.unsent })
    }
}

enum Step {
    Again,
    Blocked,
    Ready,
}

fn take_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    unsent: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
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
