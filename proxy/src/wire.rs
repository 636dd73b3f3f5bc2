//! A connection of the native wire: mutual TLS, then frames. Set-up and framing are here; what flows is [`crate::relay`]'s.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use signet_core::tls::{self, ALPN_WIRE, Generation, Peer};
use signet_link::client::connect_from;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{
    frames::{self, BadFrame, Frame, HEAD, MAX_DATA, Parsed},
    limits::Limits,
    refusal::Refusal,
};

/// Both directions of a wire whose peer is verified.
pub struct Wire {
    pub peer: Arc<Peer>,
    /// The endpoint's address (client side) or the client's (server side).
    pub address: SocketAddr,
    pub frames_in: FrameReader,
    pub frames_out: FrameWriter,
}

impl Wire {
    /// Client side: dials `to` from the workload's own address. Whether the peer is the right one is the caller's question.
    pub async fn connect(
        to: SocketAddr,
        source: IpAddr,
        generation: &Generation,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        let tcp = dial(to, Some(source), limits.dial)
            .await
            .map_err(|source| Refusal::Unreachable { peer: to, source })?;
        tune(&tcp);
        let handshake =
            TlsConnector::from(Arc::clone(&generation.wire.client)).connect(tls::no_name(), tcp.into());
        Self::finish(to, limits, async { handshake.await.map(TlsStream::from) }).await
    }

    /// Server side: `received` was read off `tcp` to tell TLS from plaintext.
    pub async fn accept(
        tcp: TcpStream,
        received: Vec<u8>,
        client: SocketAddr,
        generation: &Generation,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        tune(&tcp);
        let handshake =
            TlsAcceptor::from(Arc::clone(&generation.wire.server)).accept(Prefixed::new(tcp, received));
        Self::finish(client, limits, async { handshake.await.map(TlsStream::from) }).await
    }

    async fn finish(
        address: SocketAddr,
        limits: &Limits,
        handshake: impl Future<Output = io::Result<TlsStream<Prefixed>>>,
    ) -> Result<Self, Refusal> {
        let stream = timeout(limits.handshake, Box::pin(handshake))
            .await
            .map_err(|_| Refusal::HandshakeTimeout { peer: address, waited: limits.handshake })?
            .map_err(|error| Refusal::of_handshake(address, error))?;
        let (_, connection) = stream.get_ref();
        let peer = Peer::of(connection, ALPN_WIRE)
            .map_err(|why| Refusal::Identity { peer: address, why: why.into() })?;
        let (read, write) = tokio::io::split(stream);
        Ok(Self {
            peer: Arc::new(peer),
            address,
            frames_in: FrameReader { tls: read, buffer: vec![0; HEAD + MAX_DATA].into(), start: 0, end: 0 },
            frames_out: FrameWriter { tls: write, out: Vec::with_capacity(HEAD + MAX_DATA) },
        })
    }
}

/// Frames as they arrive.
pub struct FrameReader {
    tls: ReadHalf<TlsStream<Prefixed>>,
    /// Holds any one frame whole.
    buffer: Box<[u8]>,
    /// What of it is received and not yet handed out.
    start: usize,
    end: usize,
}

impl FrameReader {
    /// The next frame; `None` when the peer ended the connection, whether or not it said so by close_notify.
    /// Cancel safe: what was received stays.
    pub async fn next(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        let (start, len) = loop {
            match frames::parse(&self.buffer[self.start..self.end])? {
                Parsed::Frame { len, .. } => break (self.start, len),
                Parsed::Skip { len } => self.start += len,
                Parsed::More => {
                    self.make_room();
                    match self.tls.read(&mut self.buffer[self.end..]).await? {
                        0 => return Ok(None),
                        n => self.end += n,
                    }
                }
            }
        };
        self.start += len;
        match frames::parse(&self.buffer[start..start + len])? {
            Parsed::Frame { frame, .. } => Ok(Some(frame)),
            Parsed::More | Parsed::Skip { .. } => Ok(None),
        }
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() || self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] BadFrame),
}

impl ReadError {
    pub fn refusal(self, peer: SocketAddr) -> Refusal {
        match self {
            Self::Io(source) => Refusal::Lost { peer, source },
            Self::Frame(bad) => Refusal::Protocol { peer, why: bad.to_string() },
        }
    }
}

/// Frames to send: queue some, then flush them in as few records as they need.
pub struct FrameWriter {
    tls: WriteHalf<TlsStream<Prefixed>>,
    out: Vec<u8>,
}

impl FrameWriter {
    pub fn queue(&mut self, frame: &Frame<'_>) {
        frames::write(frame, &mut self.out);
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        self.tls.write_all(&self.out).await?;
        self.out.clear();
        self.tls.flush().await
    }

    pub async fn send(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        self.queue(frame);
        self.flush().await
    }

    /// Sends what is queued and the first `n` payload bytes behind the head at the front of `buffer`.
    pub async fn send_data(&mut self, buffer: &mut [u8], n: usize) -> io::Result<()> {
        if self.out.is_empty() {
            buffer[..HEAD].copy_from_slice(&frames::data_head(n));
            self.tls.write_all(&buffer[..HEAD + n]).await?;
            return self.tls.flush().await;
        }
        self.queue(&Frame::Data(&buffer[HEAD..HEAD + n]));
        self.flush().await
    }

    /// close_notify: the wire ends as both sides wished.
    pub async fn close(&mut self) -> io::Result<()> {
        self.tls.shutdown().await
    }
}

/// A socket with bytes in front that were read to decide what it is.
pub struct Prefixed {
    prefix: Vec<u8>,
    at: usize,
    tcp: TcpStream,
}

impl Prefixed {
    fn new(tcp: TcpStream, prefix: Vec<u8>) -> Self {
        Self { prefix, at: 0, tcp }
    }
}

impl From<TcpStream> for Prefixed {
    fn from(tcp: TcpStream) -> Self {
        Self::new(tcp, Vec::new())
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at < self.prefix.len() {
            let n = buf.remaining().min(self.prefix.len() - self.at);
            buf.put_slice(&self.prefix[self.at..self.at + n]);
            self.at += n;
            if self.at == self.prefix.len() {
                (self.prefix, self.at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
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
    if let Err(error) = tuned.and_then(|()| tcp.set_nodelay(true)) {
        tracing::debug!(%error, "socket options not set");
    }
}

const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(2);
/// TCP_USER_TIMEOUT: sent and not acknowledged; idle + 2 probes for the other case come to the same 9 s.
const UNACKED: Duration = Duration::from_secs(9);
