//! TCP sockets as the relay needs them: a call is made only when it is worth making, and a plain socket that is dropped
//! resets its peer.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr},
    os::fd::AsRawFd as _,
    task::{Context, Poll},
    time::Duration,
};

use nix::libc;
use signet_link::client::connect_from;
use socket2::{SockRef, TcpKeepalive};
use tokio::{io::Interest, net::TcpStream, time::timeout};

/// A socket that remembers, edge-triggered, whether it can be read and written. `WouldBlock` often comes without a system
/// call: a short read or write proves that the next one would block, and the runtime is told so at once.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl Socket {
    pub fn new(tcp: TcpStream) -> Self {
        Self(tcp)
    }

    /// Reads into `buffers`, of `room` bytes in all. 0: the other side ended its direction.
    pub fn read(&self, buffers: &mut [IoSliceMut<'_>], room: usize) -> io::Result<usize> {
        self.exhaustively(Interest::READABLE, room, |mut socket| match buffers {
            [one] => socket.read(one),
            several => socket.read_vectored(several),
        })
    }

    /// Writes what fits of `buffers`, `len` bytes in all.
    pub fn write(&self, buffers: &[IoSlice<'_>], len: usize) -> io::Result<usize> {
        self.exhaustively(Interest::WRITABLE, len, |mut socket| match buffers {
            [one] => socket.write(one),
            several => socket.write_vectored(several),
        })
    }

    /// One call. Less than `all` was done: the socket is drained (or full), which is what WouldBlock means to the runtime. The
    /// end of the stream is never forgotten that way: a half-closed socket stays readable.
    fn exhaustively(
        &self,
        interest: Interest,
        all: usize,
        call: impl FnOnce(&socket2::Socket) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut short = None;
        let done = self.0.try_io(interest, || match call(&SockRef::from(&self.0))? {
            n if n > 0 && n < all => {
                short = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            n => Ok(n),
        });
        short.map_or(done, Ok)
    }

    /// Whether a read is worth trying; if not, `cx` is woken when it is.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(drop) // an error is found by the read itself
    }

    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_write_ready(cx).map(drop)
    }

    pub async fn readable(&self) {
        let _ = self.0.readable().await; // as above
    }

    /// Nothing to read, and neither end nor error: what an idle connection must be to be used again. Asks the kernel, since
    /// the runtime may not have looked for a while.
    pub fn is_quiet(&self) -> bool {
        let peeked = SockRef::from(&self.0).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// What became of the bytes that the kernel took from us.
    #[expect(unsafe_code, reason = "no crate of ours asks for TCP_INFO")]
    pub fn sent(&self) -> io::Result<Sent> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut size = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
        // SAFETY: `info` is valid for `size` bytes, the kernel writes no more of them, and any bytes are a tcp_info.
        let info = unsafe {
            let to = info.as_mut_ptr().cast();
            if libc::getsockopt(self.0.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut size) != 0
            {
                return Err(io::Error::last_os_error());
            }
            info.assume_init()
        };
        Ok(match (info.tcpi_unacked, info.tcpi_notsent_bytes) {
            (0, 0) => Sent::Arrived,
            (0, _) => Sent::HeldBack,
            _ => Sent::OnItsWay,
        })
    }

    /// Whether unacknowledged data ends the connection after [`UNACKED`]. A closed window counts as that, too.
    pub fn expect_progress(&self, expected: bool) -> io::Result<()> {
        SockRef::from(&self.0).set_tcp_user_timeout(expected.then_some(UNACKED))
    }

    /// Ends our direction.
    pub fn shutdown(&self) -> io::Result<()> {
        match SockRef::from(&self.0).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()), // not connected: the other side reset it, which reading tells
        }
    }

    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.0
    }
}

/// See [`Socket::sent`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    Arrived,
    /// Not acknowledged yet: a peer that does not do so is lost.
    OnItsWay,
    /// The peer's window is closed: it is alive and does not read, however long that takes.
    HeldBack,
}

/// A plain socket that is reset unless [`AppSocket::end`] was called: an app never takes a lost connection for a finished
/// one, and even a killed proxy resets it (SO_LINGER 0 from the first moment).
#[derive(Debug)]
pub struct AppSocket(Socket);

impl AppSocket {
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
        Ok(Self(Socket(tcp)))
    }

    pub fn socket(&self) -> &Socket {
        &self.0
    }

    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.0.0
    }

    /// Hands the socket to TLS, where a frame says the end of a stream and the kernel may send what is left.
    pub fn into_tcp(self) -> io::Result<TcpStream> {
        SockRef::from(&self.0.0).set_linger(None)?;
        Ok(self.0.0)
    }

    /// Both directions ended cleanly: the kernel may send what is left and close in peace.
    pub fn end(self) {
        if let Err(error) = SockRef::from(&self.0.0).set_linger(None) {
            tracing::debug!(%error, "SO_LINGER not unset; the app may see a reset after its last byte");
        }
    }
}

/// Bytes that a socket did not take yet. Holds no memory when empty.
#[derive(Debug, Default)]
pub struct Backlog {
    pub bytes: Vec<u8>,
    at: usize,
}

impl From<Vec<u8>> for Backlog {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes what it holds and `more` behind it, and keeps what the socket refuses. True: nothing is left.
    pub fn send(&mut self, socket: &Socket, more: &[u8]) -> io::Result<bool> {
        let held = &self.bytes[self.at..];
        let all = held.len() + more.len();
        if all == 0 {
            return Ok(true);
        }
        let buffers = [IoSlice::new(held), IoSlice::new(more)];
        let buffers = match (held, more) {
            ([], _) => &buffers[1..],
            (_, []) => &buffers[..1],
            _ => &buffers[..],
        };
        let sent = match socket.write(buffers, all) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        if sent == all {
            *self = Self::default();
        } else if sent < held.len() {
            self.at += sent;
            self.bytes.extend_from_slice(more);
        } else {
            let rest = more[sent - held.len()..].to_vec();
            *self = rest.into();
        }
        Ok(sent == all)
    }
}

/// Connects within `patience`, from `source` where one is given.
pub async fn dial(to: SocketAddr, source: Option<IpAddr>, patience: Duration) -> io::Result<TcpStream> {
    timeout(patience, connect_from(source, to)).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {patience:?}")))
    })
}

/// Finds a half-open peer in less than ten seconds, whether we are sending to it or waiting for it.
pub fn tune(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_PROBE).with_retries(2);
    let tuned =
        socket.set_tcp_keepalive(&keepalive).and_then(|()| socket.set_tcp_user_timeout(Some(UNACKED)));
    if let Err(error) = tuned.and_then(|()| socket.set_tcp_nodelay(true)) {
        tracing::debug!(%error, "socket options not set");
    }
}

const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(2);
/// TCP_USER_TIMEOUT: sent and not acknowledged; idle + 2 probes for the other case come to the same 9 s.
const UNACKED: Duration = Duration::from_secs(9);
