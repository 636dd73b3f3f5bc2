//! A connection of the native wire (docs/wire.md): mutual TLS that carries app connections one after the other. Here is its
//! set-up and what happens between two of them; what flows in one is its user's.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use rustls::{CommonState, Error};
use signet_api::wire::Open;
use signet_core::tls::{ALPN_WIRE, Generation, NotOurPeer, Peer};
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::yield_now, time::timeout};

use crate::{
    frames::{self, BadFrame, Frame, MAX_DATA, Reset, Unframer},
    refusal::Refusal,
    socket::{self, Backlog, Sent, Socket},
    tls::{Handshake, MAX_PLAIN, MAX_SEALED, Opened, Then, Tls, Unsealed},
};

/// How long a peer may take.
#[derive(Clone, Debug)]
pub struct Patience {
    /// To the TCP connection: one lost SYN fits.
    pub dial: Duration,
    /// From there to the end of the TLS handshake: two lost flights fit (1 s + 2 s, RFC 6298), a silent peer does not.
    pub handshake: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { dial: Duration::from_secs(2), handshake: Duration::from_secs(5) }
    }
}

/// A wire whose peer is verified.
pub struct Wire {
    pub peer: Arc<Peer>,
    /// The endpoint's address (client side) or the client's (server side).
    pub address: SocketAddr,
    pub socket: Socket,
    tls: Tls,
    pub unframer: Unframer,
    /// Received, and not opened yet: part of a record, or what came behind the end of a stream.
    sealed: Vec<u8>,
    /// `sealed` was left there on purpose and may hold whole records.
    whole: bool,
    /// The last read took all that it had room for.
    full: bool,
    /// Frames that came in one record with an OPEN.
    pub early: Vec<u8>,
    /// Sealed, and not taken by the kernel yet.
    pub unsent: Backlog,
    /// Something was sent that had not arrived when we last looked ([`Wire::look_at_peer`]).
    pub watched: bool,
    /// The peer holds back what we send: it may take its time.
    held_back: bool,
    /// OPENs on this wire so far: sent (client) or accepted (server).
    pub opens: u32,
    /// The other side said GOAWAY.
    pub going_away: bool,
    /// Of a stream that we refused: what came in one record with its OPEN, and how much more the client may have sent before it
    /// hears of it; see [`Wire::refuse`].
    refused: Vec<u8>,
    skip: usize,
    /// Of our own leaf, [`Generation::number`].
    pub generation: u64,
    /// What the peer was verified under: `Pool::epoch` at the handshake's beginning; its maker's to set.
    pub epoch: u64,
    /// The earlier notAfter of the two leaves, Unix seconds: no OPEN after it.
    not_after: i64,
}

impl Wire {
    /// Client side: dials `to`, from `source` where one is given. Whether the peer is the right one is the caller's question.
    pub async fn connect(
        to: SocketAddr,
        source: Option<IpAddr>,
        generation: &Generation,
        patience: &Patience,
    ) -> Result<Box<Self>, Refusal> {
        let tcp = socket::dial(to, source, patience.dial)
            .await
            .map_err(|source| Refusal::Unreachable { peer: to, source })?;
        let shaking =
            Handshake::client(&generation.wire.client).map_err(|error| broken_handshake(to, error))?;
        Self::shake(tcp, Vec::new(), to, shaking, generation, patience).await
    }

    /// Server side: `received` was read off `tcp` to tell TLS from plaintext.
    pub async fn accept(
        tcp: TcpStream,
        received: Vec<u8>,
        client: SocketAddr,
        generation: &Generation,
        patience: &Patience,
    ) -> Result<Box<Self>, Refusal> {
        let shaking =
            Handshake::server(&generation.wire.server).map_err(|error| broken_handshake(client, error))?;
        Self::shake(tcp, received, client, shaking, generation, patience).await
    }

    async fn shake(
        mut tcp: TcpStream,
        mut received: Vec<u8>,
        address: SocketAddr,
        mut shaking: Handshake,
        generation: &Generation,
        patience: &Patience,
    ) -> Result<Box<Self>, Refusal> {
        socket::tune(&tcp);
        timeout(patience.handshake, handshake(&mut tcp, &mut shaking, &mut received))
            .await
            .map_err(|_| Refusal::HandshakeTimeout { peer: address, waited: patience.handshake })?
            .map_err(|error| Refusal::of_handshake(address, error))?;
        let peer = peer_of(shaking.negotiated())
            .map_err(|why| Refusal::Identity { peer: address, why: why.into() })?;
        let tls = shaking.finish().map_err(|error| broken_handshake(address, error))?;
        Ok(Box::new(Self {
            not_after: peer.leaf.not_after.min(generation.leaf.not_after),
            generation: generation.number,
            epoch: 0,
            peer,
            address,
            socket: Socket::new(tcp),
            tls,
            unframer: Unframer::default(),
            whole: !received.is_empty(),
            sealed: received,
            full: false,
            early: Vec::new(),
            unsent: Backlog::default(),
            watched: false,
            held_back: false,
            opens: 0,
            going_away: false,
            refused: Vec::new(),
            skip: 0,
        }))
    }

    /// Whether an OPEN may still be sent or taken at `now`, Unix seconds.
    pub fn may_open(&self, now: i64) -> bool {
        now <= self.not_after && !self.going_away
    }

    /// Nothing of the stream before is left in either direction: another one may follow.
    pub fn is_between_streams(&self) -> bool {
        self.sealed.is_empty()
            && self.early.is_empty()
            && self.unsent.is_empty()
            && self.unframer.is_between_frames()
    }

    /// The next OPEN. `None`: the client ended the connection, which between two streams is its right. Cancel safe.
    pub async fn next_open(&mut self) -> Result<Option<Open>, Fault> {
        loop {
            let mut open = None;
            let (skip, early, unframer) = (&mut self.skip, &mut self.early, &mut self.unframer);
            let mut take = |mut payload: &[u8]| {
                while let Some(frame) = unframer.next(&mut payload)? {
                    match frame {
                        Frame::Open(opened) => {
                            open = Some(opened);
                            early.extend_from_slice(payload);
                            return Ok(Then::Stop);
                        }
                        Frame::Data(data) if data.len() <= *skip => *skip -= data.len(),
                        Frame::Fin if *skip > 0 => {}
                        Frame::Rst(_) if *skip > 0 => *skip = 0,
                        _ => return Err(Fault::Protocol("a frame outside of a stream")),
                    }
                }
                Ok(Then::GoOn)
            };
            let refused = std::mem::take(&mut self.refused);
            let received = if refused.is_empty() {
                let incoming =
                    Incoming { sealed: &mut self.sealed, whole: &mut self.whole, full: &mut self.full };
                let received = with_scratch(|scratch| {
                    receive(&self.socket, &mut self.tls, incoming, &mut scratch.sealed, take)
                });
                received.inspect_err(|_| alert(&mut self.tls, &self.socket, &mut self.unsent))?
            } else {
                take(&refused)?;
                Received::Some
            };
            if open.is_some() {
                self.skip = 0;
                return Ok(open);
            }
            match received {
                Received::Nothing => self.socket.readable().await,
                Received::End if self.unframer.is_between_frames() => return Ok(None),
                Received::End => return Err(Fault::Lost(io::ErrorKind::UnexpectedEof.into())),
                Received::Some => yield_now().await, // a flood of frames that we skip is nobody else's wait
            }
        }
    }

    /// Opens what has arrived, record by record.
    pub fn receive(
        &mut self,
        sealed: &mut [u8],
        mut take: impl FnMut(&mut Unframer, &[u8]) -> Result<Then, Fault>,
    ) -> Result<Received, Fault> {
        let incoming = Incoming { sealed: &mut self.sealed, whole: &mut self.whole, full: &mut self.full };
        let take = |payload: &[u8]| take(&mut self.unframer, payload);
        receive(&self.socket, &mut self.tls, incoming, sealed, take)
            .inspect_err(|_| alert(&mut self.tls, &self.socket, &mut self.unsent))
    }

    /// Seals `plain` and sends it behind what is unsent; what the kernel does not take stays unsent. False: it took not all.
    pub fn send(&mut self, plain: &[u8], sealed: &mut [u8]) -> Result<bool, Fault> {
        let len = match self.tls.seal(plain, sealed) {
            Ok(len) => len,
            Err(Unsealed::Room { .. }) => {
                self.tls.seal_into(plain, &mut self.unsent.bytes)?;
                0
            }
            Err(Unsealed::Tls(error)) => return Err(error.into()),
        };
        self.watched = true;
        let all = self.unsent.send(&self.socket, &sealed[..len]).map_err(Fault::Write)?;
        Ok(all)
    }

    /// Due every [`LOOK`] while `watched`: a peer whose app does not read is told from one that is lost. The kernel takes both for
    /// lost after the same time.
    pub fn look_at_peer(&mut self) -> io::Result<()> {
        let sent = self.socket.sent()?;
        let held_back = sent == Sent::HeldBack;
        if held_back != self.held_back {
            self.socket.expect_progress(!held_back)?;
            self.held_back = held_back;
        }
        self.watched = sent != Sent::Arrived;
        Ok(())
    }

    /// Sends what is unsent. False: the kernel took not all of it.
    pub fn flush(&mut self) -> Result<bool, Fault> {
        self.unsent.send(&self.socket, &[]).map_err(Fault::Write)
    }

    /// Answers an OPEN with RST and stays usable: what the client sends of that stream until it hears of it is skipped.
    pub async fn refuse(&mut self, reset: Reset) -> io::Result<()> {
        self.refused = std::mem::take(&mut self.early);
        self.skip = MAX_DATA + 1; // its flight and FIN (docs/wire.md)
        self.say(&[Frame::Rst(reset)]).await
    }

    /// Tells the client that no OPEN after those accepted so far will be.
    pub async fn go_away(&mut self) -> io::Result<()> {
        self.say(&[Frame::GoAway(self.opens)]).await
    }

    /// Waits until the client closes; what it sends meanwhile is not read as frames any more.
    pub async fn until_closed(&mut self) {
        let mut rest = [0; 512];
        while !matches!(self.socket.tcp().read(&mut rest).await, Ok(0) | Err(_)) {}
    }

    /// Both sides' keys change with the next record.
    pub fn refresh_keys(&mut self) -> Result<(), Error> {
        self.tls.refresh_keys()
    }

    /// A last word and close_notify, to a peer that may not be reading.
    pub async fn close(mut self: Box<Self>, last: Option<Frame<'_>>) {
        let said = match &last {
            Some(last) => self.say(std::slice::from_ref(last)).await.is_ok(),
            None => true,
        };
        if said {
            self.tls.close_into(&mut self.unsent.bytes);
            let _ = self.flush_for(GOODBYE).await;
        }
    }

    /// Breaks a stream off without waiting: the other side hears of it if the kernel takes that much at once.
    pub fn reset(mut self: Box<Self>) {
        let mut last = Vec::new();
        frames::write(&Frame::Rst(Reset::Aborted), &mut last);
        if self.tls.seal_into(&last, &mut self.unsent.bytes).is_ok() {
            self.tls.close_into(&mut self.unsent.bytes);
            let _ = self.flush();
        }
    }

    /// The other side hears of a stream that broke, where it can still hear.
    pub async fn abort(self: Box<Self>, why: &Refusal) {
        if !matches!(why, Refusal::Lost { .. } | Refusal::WireWrite { .. } | Refusal::PeerReset) {
            self.close(Some(Frame::Rst(Reset::Aborted))).await;
        }
    }

    async fn say(&mut self, frames: &[Frame<'_>]) -> io::Result<()> {
        let mut plain = Vec::new();
        for frame in frames {
            frames::write(frame, &mut plain);
        }
        self.tls.seal_into(&plain, &mut self.unsent.bytes).map_err(io::Error::other)?;
        self.flush_for(GOODBYE).await
    }

    async fn flush_for(&mut self, patience: Duration) -> io::Result<()> {
        let flushed = poll_fn(|cx| {
            loop {
                if self.unsent.send(&self.socket, &[])? {
                    return std::task::Poll::Ready(Ok(()));
                }
                std::task::ready!(self.socket.poll_writable(cx));
            }
        });
        timeout(patience, flushed).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn handshake(tcp: &mut TcpStream, shaking: &mut Handshake, received: &mut Vec<u8>) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    loop {
        match shaking.step(received) {
            Ok(true) => return Ok(()), // the last flight rides with the first frames
            Ok(false) => tcp.write_all(&shaking.take_unsent()).await?,
            Err(error) => {
                let _ = tcp.try_write(&shaking.take_unsent()); // the alert is a courtesy
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        if received.len() > MAX_FLIGHT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a flight of more than 128 KiB"));
        }
        received.reserve(READ);
        if tcp.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Who is at the other end. All wires of one peer share what is known of it: a chain is a kilobyte.
fn peer_of(tls: &CommonState) -> Result<Arc<Peer>, NotOurPeer> {
    let Some(leaf) = tls.peer_certificates().and_then(|chain| chain.first()) else {
        return Peer::of(tls, ALPN_WIRE).map(Arc::new);
    };
    PEERS.with_borrow_mut(|peers| {
        let known = peers.get(leaf.as_ref()).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.is_of(tls, ALPN_WIRE)) {
            return Ok(known);
        }
        let peer = Arc::new(Peer::of(tls, ALPN_WIRE)?);
        if peers.len() >= PEERS_LOOK {
            peers.retain(|_, peer| peer.strong_count() > 0);
        }
        peers.insert(leaf.to_vec(), Arc::downgrade(&peer));
        Ok(peer)
    })
}

fn broken_handshake(peer: SocketAddr, error: Error) -> Refusal {
    Refusal::of_handshake(peer, io::Error::other(error))
}

/// Where a wire keeps what it cannot use yet.
struct Incoming<'a> {
    sealed: &'a mut Vec<u8>,
    whole: &'a mut bool,
    full: &'a mut bool,
}

/// What a try to receive came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// The socket has nothing.
    Nothing,
    Some,
    /// EOF or close_notify.
    End,
}

/// Reads once, unless whole records are held, and opens what is whole.
fn receive(
    socket: &Socket,
    tls: &mut Tls,
    incoming: Incoming<'_>,
    scratch: &mut [u8],
    take: impl FnMut(&[u8]) -> Result<Then, Fault>,
) -> Result<Received, Fault> {
    let Incoming { sealed, whole, full } = incoming;
    let held = sealed.len();
    let mut there = held;
    if !*whole {
        let room = if *full { scratch.len() } else { (held + MAX_SEALED).min(scratch.len()) };
        match socket.read(&mut [IoSliceMut::new(&mut scratch[held..room])], room - held) {
            Ok(0) => return Ok(Received::End),
            Ok(n) => {
                there += n;
                *full = n >= MAX_PLAIN;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
            Err(error) => return Err(Fault::Lost(error)),
        }
    }
    scratch[..held].copy_from_slice(sealed);
    let Opened { consumed, closed, stopped } = tls.open(&mut scratch[..there], take)?;
    if consumed == there {
        *sealed = Vec::new(); // an idle connection holds no buffer
    } else {
        sealed.clear();
        sealed.extend_from_slice(&scratch[consumed..there]);
    }
    *whole = stopped && consumed < there;
    Ok(if closed { Received::End } else { Received::Some })
}

/// Tells the peer what was wrong with what it sent: a courtesy, which waits for nothing.
fn alert(tls: &mut Tls, socket: &Socket, unsent: &mut Backlog) {
    unsent.bytes.append(&mut tls.take_unsent());
    let _ = unsent.send(socket, &[]);
}

/// The buffers of a thread, which every connection on it uses in turn and none keeps.
pub struct Scratch {
    /// Sealed: [`SLOTS`] records and part of one more.
    pub sealed: Box<[u8]>,
    /// Their plaintext, whatever the size of the records: never more than was sealed.
    pub plain: Box<[u8]>,
}

thread_local! {
    /// Those that wires are open to, by leaf.
    static PEERS: RefCell<HashMap<Vec<u8>, Weak<Peer>>> = RefCell::default();
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        sealed: vec![0; (SLOTS + 2) * MAX_SEALED].into(),
        plain: vec![0; (SLOTS + 2) * MAX_SEALED].into(),
    });
}

/// `work` must not wait, and cannot: it is no future.
pub fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}

/// What broke a wire.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Reading failed, or it ended where it must not.
    #[error(transparent)]
    Lost(io::Error),
    #[error(transparent)]
    Write(io::Error),
    #[error(transparent)]
    Tls(#[from] Error),
    #[error(transparent)]
    Frame(#[from] BadFrame),
    #[error("{0}")]
    Protocol(&'static str),
}

impl Fault {
    pub fn refusal(self, peer: SocketAddr) -> Refusal {
        match self {
            Self::Lost(source) => Refusal::Lost { peer, source },
            Self::Write(source) => Refusal::WireWrite { source },
            Self::Tls(error) => {
                Refusal::Lost { peer, source: io::Error::new(io::ErrorKind::InvalidData, error) }
            }
            Self::Frame(bad) => Refusal::Protocol { peer, why: bad.to_string() },
            Self::Protocol(why) => Refusal::Protocol { peer, why: why.to_owned() },
        }
    }
}

/// Records of a batch, once a connection fills one: as many as a socket's usual buffers hold (measured, relay/REPORT.md).
pub const SLOTS: usize = 16;
/// From so many on, those that left are looked for at each new one; as many as live are kept.
const PEERS_LOOK: usize = 256;
/// Of a handshake: a ClientHello of 64 KiB and a certificate flight of as much.
const MAX_FLIGHT: usize = 128 * 1024;
/// Most flights come whole in one read.
const READ: usize = 4096;
/// Often enough before a peer that holds us back counts as lost (socket.rs, 9 s after its window closed).
pub const LOOK: Duration = Duration::from_secs(3);
/// For a last frame to a peer that may not be reading.
const GOODBYE: Duration = Duration::from_secs(1);
