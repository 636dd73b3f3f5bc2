//! Bodies on their way, in both directions. Nothing is collected: a frame is taken from one side when the other has room.

use std::{
    error::Error as _,
    future::Future as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{guard::Malformed, refusal::Refusal, request};

/// What arrives from either side, or what we say ourselves.
pub(crate) enum Body {
    Empty,
    Text(Bytes),
    H1(Incoming),
    H2(Received),
}

impl Body {
    /// The next frame; an error is not yet anybody's fault.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => {
                let text = std::mem::take(text);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(text))))
            }
            Self::H1(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|e| Broken::of_h1(&e))))
            }
            Self::H2(body) => {
                let frame = ready!(body.poll(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|_| Broken::Lost)))
            }
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_empty(),
            Self::H1(body) => body.is_end_stream(),
            Self::H2(body) => body.stream.is_end_stream(),
        }
    }

    fn hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::H1(body) => body.size_hint(),
            Self::H2(body) if body.stream.is_end_stream() => SizeHint::with_exact(0),
            Self::H2(_) => SizeHint::default(),
        }
    }
}

/// How a body ended before its end.
enum Broken {
    Lost,
    Malformed(&'static str),
}

impl Broken {
    fn of_h1(error: &hyper::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            if let Some(Malformed(why)) = io.and_then(|inner| inner.downcast_ref()) {
                return Self::Malformed(why);
            }
            source = cause.source();
        }
        Self::Lost
    }
}

/// A body of HTTP/2. Room is given to the sender as it is read.
pub(crate) struct Received {
    stream: RecvStream,
    data_over: bool,
}

impl Received {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, data_over: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only for more than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // RFC 9113 8.1: the whole answer was sent, and the rest of the request is not wanted.
                Some(Err(e)) if e.reason() == Some(h2::Reason::NO_ERROR) => return Poll::Ready(None),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => self.data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }
}

/// A client's body on its way to a backend.
pub(crate) struct Upload {
    body: Body,
    /// Bytes that it may still have.
    left: u64,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
}

/// What others see of an upload.
pub(crate) struct Progress(Mutex<Uploaded>);

struct Uploaded {
    bytes: u64,
    over: bool,
    last: Instant,
    failed: Option<Refusal>,
    cancelled: bool,
    waker: Option<Waker>,
}

impl Upload {
    pub(crate) fn new(body: Body, limit: Option<u64>, patience: Duration) -> Self {
        let uploaded = Uploaded {
            bytes: 0,
            over: body.is_over(),
            last: Instant::now(),
            failed: None,
            cancelled: false,
            waker: None,
        };
        let progress = Arc::new(Progress(Mutex::new(uploaded)));
        Self { body, left: limit.unwrap_or(u64::MAX), patience, timer: None, progress }
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_over()
    }

    fn poll_judged(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let frame = match self.body.poll(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let deadline = Instant::now() + self.patience;
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                ready!(timer.as_mut().poll(cx));
                return Poll::Ready(Some(Err(Refusal::BodyTimeout)));
            }
        };
        self.timer = None;
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.checked_sub(bytes).ok_or(Refusal::BodyTooLarge)?;
                Ok(match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(request::trailers_for_backend(trailers)),
                    Err(frame) => frame,
                })
            }
            Err(Broken::Lost) => Err(Refusal::ClientGone),
            Err(Broken::Malformed(why)) => Err(Refusal::BadFraming(why)),
        }))
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        {
            let mut uploaded = self.progress.lock();
            if uploaded.cancelled {
                return Poll::Ready(Some(Err(Refusal::ClientGone)));
            }
            match &mut uploaded.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
        }
        let frame = ready!(self.poll_judged(cx));
        let mut uploaded = self.progress.lock();
        uploaded.last = Instant::now();
        match &frame {
            Some(Ok(frame)) => uploaded.bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
            Some(Err(refusal)) => uploaded.failed = Some(*refusal),
            None => {}
        }
        uploaded.over |= frame.is_none() || self.body.is_over();
        drop(uploaded);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.hint()
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Uploaded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// When it last moved; it has waited for the client since then, or the backend for us.
    pub(crate) fn last(&self) -> Instant {
        self.lock().last
    }

    /// Why it ended early, if that was the client's doing.
    pub(crate) fn failed(&self) -> Option<Refusal> {
        self.lock().failed
    }

    /// Nobody needs the rest.
    pub(crate) fn cancel(&self) {
        let mut uploaded = self.lock();
        uploaded.cancelled = true;
        if let Some(waker) = uploaded.waker.take() {
            waker.wake();
        }
    }
}

/// Cancels an upload when it is dropped: whoever waited for the answer no longer does.
pub(crate) struct CancelOnDrop(pub(crate) Option<Arc<Progress>>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(progress) = &self.0 {
            progress.cancel();
        }
    }
}

/// A backend's body on its way to a client. Dropped, it tells `end` how it ended.
pub(crate) struct Download {
    body: Body,
    /// Without a byte from the backend while the client would take one.
    idle: Option<Duration>,
    idle_timer: Option<Pin<Box<Sleep>>>,
    deadline: Option<Pin<Box<Sleep>>>,
    bytes: u64,
    /// Set once: how it ended.
    outcome: Option<Result<(), Refusal>>,
    end: Option<End>,
}

/// Is told the bytes and the outcome.
pub(crate) type End = Box<dyn FnOnce(u64, Result<(), Refusal>) + Send>;

impl Download {
    /// `end` is called once, at the end or when the client no longer wants it.
    pub(crate) fn new(body: Body, idle: Option<Duration>, deadline: Option<Instant>, end: End) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Self { body, idle, idle_timer: None, deadline, bytes: 0, outcome: None, end: Some(end) }
    }

    fn poll_judged(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Refusal::RequestTimeout)));
        }
        match self.body.poll(cx) {
            Poll::Ready(frame) => {
                self.idle_timer = None;
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|broken| match broken {
                        Broken::Lost => Refusal::BackendLost,
                        Broken::Malformed(why) => Refusal::BackendBroke(why),
                    })
                }))
            }
            Poll::Pending => {
                let Some(idle) = self.idle else { return Poll::Pending };
                let timer =
                    self.idle_timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + idle)));
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(Refusal::BackendTimeout)))
            }
        }
    }

    fn finish(&mut self, outcome: Result<(), Refusal>) {
        if let Some(end) = self.end.take() {
            end(self.bytes, outcome);
        }
    }
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        if self.outcome.is_some() {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_judged(cx));
        let over = match &frame {
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                self.body.is_over().then_some(Ok(()))
            }
            Some(Err(refusal)) => Some(Err(*refusal)),
            None => Some(Ok(())),
        };
        if let Some(outcome) = over {
            self.outcome = Some(outcome);
            self.finish(outcome);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.outcome.is_some() || self.body.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.hint()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let over = self.body.is_over(); // nobody asks an empty body for its end
        self.finish(if over { Ok(()) } else { Err(Refusal::ClientGone) });
    }
}
