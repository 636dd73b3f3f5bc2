//! What stands between a client's HTTP/1 bytes and hyper: it judges every head, follows every body to its end, keeps the
//! times, and holds back what follows a request for another protocol until that was answered.
//!
//! A refused head never reaches hyper. In its place hyper reads a request of ours, which the service answers with the
//! refusal ([`Wire::take_refusal`]), so that it has a status, a log line and a count like any other; then the client is no
//! longer listened to.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    chunks::Chunks,
    head::{self, Framing},
    limits::Limits,
    refusal::Refusal,
    stream::Paced,
};

/// What a connection's guard and its requests say to each other.
pub(crate) struct Wire {
    state: Mutex<WireState>,
    /// A request is being served.
    busy: AtomicBool,
    /// A request began.
    began: Notify,
}

struct WireState {
    refusal: Option<Refusal>,
    upgrade: Upgrade,
    waker: Option<Waker>,
    idle_since: Instant,
}

/// The answer to a request for another protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Upgrade {
    Undecided,
    /// 101 was sent: what follows is a tunnel's.
    Tunnel,
    /// Anything else: what follows is the next request.
    Request,
}

impl Wire {
    pub(crate) fn new() -> Arc<Self> {
        let state =
            WireState { refusal: None, upgrade: Upgrade::Undecided, waker: None, idle_since: Instant::now() };
        Arc::new(Self { state: Mutex::new(state), busy: AtomicBool::new(false), began: Notify::new() })
    }

    /// Why the request that hyper just read is no request. Asked first, of every one.
    pub(crate) fn take_refusal(&self) -> Option<Refusal> {
        self.lock().refusal.take()
    }

    pub(crate) fn begin(&self) {
        self.busy.store(true, Relaxed);
        self.began.notify_one();
    }

    pub(crate) fn end(&self) {
        self.busy.store(false, Relaxed);
        self.lock().idle_since = Instant::now();
    }

    /// Whether a request is being served.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Relaxed)
    }

    /// Waits for the next request.
    pub(crate) async fn becomes_busy(&self) {
        while !self.is_busy() {
            self.began.notified().await;
        }
    }

    pub(crate) fn decide_upgrade(&self, tunnel: bool) {
        let mut state = self.lock();
        state.upgrade = if tunnel { Upgrade::Tunnel } else { Upgrade::Request };
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WireState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One HTTP/1 connection's bytes, judged.
pub(crate) struct Guard {
    stream: Paced,
    wire: Arc<Wire>,
    limits: Arc<Limits>,
    /// Read from the client and not judged yet, or judged and not handed over: the first `good` bytes.
    buffer: BytesMut,
    good: usize,
    /// Set when our side has ended in the middle of a message.
    lingering: Option<Pin<Box<Sleep>>>,
    /// Where the last look for the head's end ended.
    looked: usize,
    state: State,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the head that is arriving began to.
    head_since: Option<Instant>,
}

enum State {
    /// Between two requests: an empty line was seen already, or not.
    Head {
        empty_line: bool,
    },
    /// So many bytes of the body are still to come.
    Length(u64),
    Chunked(Box<Chunks>),
    /// A request for another protocol was handed over.
    Held,
    Tunnel,
    Refused,
}

impl Guard {
    pub(crate) fn new(stream: Paced, wire: Arc<Wire>, limits: Arc<Limits>) -> Self {
        Self {
            stream,
            wire,
            limits,
            buffer: BytesMut::new(),
            good: 0,
            lingering: None,
            looked: 0,
            state: State::Head { empty_line: false },
            timer: None,
            head_since: None,
        }
    }

    /// The stream of a tunnel. `None`: the client sent bytes before it knew that there would be one. They may be a second
    /// request, meant for a backend that parses on; nothing is to be done with them.
    pub(crate) fn into_tunnel(self) -> Option<Paced> {
        (matches!(self.state, State::Held | State::Tunnel) && self.buffer.is_empty()).then_some(self.stream)
    }

    /// Makes some bytes good, or says that there are none now. `Ok(false)`: there never will be.
    fn poll_good(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.good > 0 {
                return Poll::Ready(Ok(true));
            }
            let judged = match &mut self.state {
                State::Head { .. } => self.judge_head(),
                State::Length(_) | State::Chunked(_) => self.judge_body()?,
                State::Tunnel => {
                    self.good = self.buffer.len();
                    self.good > 0
                }
                State::Held => {
                    ready!(self.poll_held(cx))?;
                    continue;
                }
                State::Refused => return self.poll_deaf(cx),
            };
            if judged {
                continue;
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending if matches!(self.state, State::Head { .. }) => {
                    match ready!(self.poll_times(cx)) {
                        Some(refusal) => self.refuse(refusal),
                        None => return Poll::Ready(Ok(false)), // idle for too long
                    }
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether something changed.
    fn judge_head(&mut self) -> bool {
        if let State::Head { empty_line: false } = self.state
            && self.buffer.starts_with(b"\r\n")
        {
            self.buffer.advance(2); // RFC 9112 2.2: one, after the body of an old client
            self.looked = 0;
            self.state = State::Head { empty_line: true };
        }
        let Some(end) = head::end(&self.buffer, self.looked) else {
            self.looked = self.buffer.len();
            let line_ended = self.buffer[..self.looked.min(self.limits.head.line)].contains(&b'\n');
            if !line_ended && self.looked > self.limits.head.line {
                self.refuse(Refusal::LineTooLong);
                return true;
            }
            if self.looked > self.limits.head.bytes {
                self.refuse(Refusal::HeadTooLarge);
                return true;
            }
            return false;
        };
        match head::judge(&self.buffer[..end], &self.limits.head) {
            Ok(judged) => {
                self.good = end;
                self.state = match judged.framing {
                    _ if judged.upgrade => State::Held,
                    Framing::None => State::Head { empty_line: false },
                    Framing::Length(bytes) => State::Length(bytes),
                    Framing::Chunked => State::Chunked(Box::default()),
                };
                if judged.upgrade {
                    self.wire.lock().upgrade = Upgrade::Undecided;
                }
                (self.looked, self.head_since) = (0, None);
            }
            Err(refusal) => self.refuse(refusal),
        }
        true
    }

    /// Whether some bytes of the buffer are of the body.
    fn judge_body(&mut self) -> io::Result<bool> {
        let malformed = |why| io::Error::new(io::ErrorKind::InvalidData, Malformed(why));
        match &mut self.state {
            State::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= take as u64;
                self.good = take;
                if *left == 0 {
                    self.state = State::Head { empty_line: false };
                }
            }
            State::Chunked(chunks) => {
                self.good = chunks.follow(&self.buffer).map_err(malformed)?;
                if chunks.is_done() {
                    self.state = State::Head { empty_line: false };
                }
            }
            _ => {}
        }
        Ok(self.good > 0)
    }

    /// From now on the client is not listened to; hyper reads what the service answers with the refusal.
    fn refuse(&mut self, refusal: Refusal) {
        self.wire.lock().refusal = Some(refusal);
        self.state = State::Refused;
        self.buffer.clear();
        self.buffer.extend_from_slice(STAND_IN);
        self.good = STAND_IN.len();
        self.timer = None;
    }

    /// Takes and drops what a refused client still sends: closing with unread bytes would reset the connection before it has
    /// read its answer.
    fn poll_deaf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while ready!(self.poll_fill(cx))? > 0 {
            self.buffer.clear();
        }
        Poll::Pending // hyper closes when it has written the answer
    }

    /// Until the answer is known, only the client's end is looked for, and no more than a few early bytes are read.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        {
            let mut wire = self.wire.lock();
            match wire.upgrade {
                Upgrade::Undecided => wire.waker = Some(cx.waker().clone()),
                Upgrade::Tunnel => {
                    self.state = State::Tunnel;
                    return Poll::Ready(Ok(()));
                }
                Upgrade::Request => {
                    self.state = State::Head { empty_line: false };
                    return Poll::Ready(Ok(()));
                }
            }
        }
        if self.buffer.is_empty() && ready!(self.poll_fill(cx))? == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Pending
    }

    /// Reads by way of the stack: an idle connection holds no buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// `Some`: the head takes too long. `None`: nothing came for so long that the connection is closed.
    fn poll_times(&mut self, cx: &mut Context<'_>) -> Poll<Option<Refusal>> {
        loop {
            let now = Instant::now();
            let (deadline, refusal) = if self.buffer.is_empty() {
                let since = if self.wire.busy.load(Relaxed) { now } else { self.wire.lock().idle_since };
                (since + self.limits.client.idle, None)
            } else {
                let since = *self.head_since.get_or_insert(now);
                (since + self.limits.client.head, Some(Refusal::HeadTimeout))
            };
            if deadline <= now {
                return Poll::Ready(refusal);
            }
            // While a timer runs that ends no later, it is left alone: it is looked at again then.
            let timer = match &mut self.timer {
                Some(timer) if timer.deadline() <= deadline => timer,
                timer => timer.insert(Box::pin(sleep_until(deadline))),
            };
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }
}

impl Read for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        if ready!(guard.poll_good(cx))? {
            let n = guard.good.min(cursor.remaining());
            cursor.put_slice(&guard.buffer[..n]);
            guard.buffer.advance(n);
            guard.good -= n;
            if guard.buffer.is_empty() && guard.buffer.capacity() > KEPT {
                guard.buffer = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends our side. A client in the middle of a message gets a moment to read the answer before the connection goes.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        if guard.lingering.is_none() {
            ready!(Pin::new(&mut guard.stream).poll_shutdown(cx))?;
            if matches!(guard.state, State::Head { .. } | State::Held | State::Tunnel)
                && guard.buffer.is_empty()
            {
                return Poll::Ready(Ok(()));
            }
            guard.lingering = Some(Box::pin(sleep_until(Instant::now() + LINGER)));
        }
        if let Some(timer) = &mut guard.lingering
            && timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        guard.buffer.clear();
        for _ in 0..DEAF_READS {
            if ready!(guard.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
            guard.buffer.clear();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A request's body that does not keep to its framing; inside of hyper's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What hyper reads instead of a refused head. HTTP/1.0, so that nothing may follow it.
const STAND_IN: &[u8] = b"GET / HTTP/1.0\r\nhost: refused\r\n\r\n";
/// Bytes of one read, on the stack.
const READ: usize = 8 * 1024;
/// Capacity that an idle connection may keep: a usual head.
const KEPT: usize = 2048;
/// Reads of a client that is not listened to, before others have their turn.
const DEAF_READS: usize = 16;
/// For a client to read its answer while it is still sending: nginx's lingering_timeout is 5 s, and ours need not be.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);
