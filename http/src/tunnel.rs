//! A tunnel: what a connection becomes when a backend answered 101. Bytes go both ways until both sides have ended.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use crate::{
    balance::Load, engine::Engine, guard::Guard, metrics::Open, record::Record, refusal::Refusal,
    stream::Paced,
};

/// The two connections, once hyper lets go of them.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) backend: OnUpgrade,
}

impl Tunnel {
    /// Runs as a task of its own, which writes the request's record at its end.
    pub(crate) fn start(self, engine: &Arc<Engine>, record: Record, load: Option<Load>) {
        let patience = engine.limits.client.tunnel;
        let open = Open::count(&engine.metrics.tunnels);
        engine.drain.spawn(async move {
            let _held = (load, open);
            let mut sent = 0;
            let outcome = self.carry(patience, &mut sent).await;
            record.close(sent, outcome);
        });
    }

    /// Counts in `sent` the bytes that went to the client, however it ends.
    async fn carry(self, patience: std::time::Duration, sent: &mut u64) -> Result<(), Refusal> {
        let client = self.client.await.map_err(|_| Refusal::ClientGone)?;
        let mut client = client_half(client)?;
        let mut backend = TokioIo::new(self.backend.await.map_err(|_| Refusal::BackendLost)?);
        let mut up = Half::new(Refusal::ClientGone, Refusal::BackendLost);
        let mut down = Half::new(Refusal::BackendLost, Refusal::ClientGone);
        let mut idle = std::pin::pin!(sleep_until(Instant::now() + patience));
        poll_fn(|cx| {
            let before = up.bytes + down.bytes;
            let up_over = up.poll(cx, &mut client, &mut backend);
            let down_over = down.poll(cx, &mut backend, &mut client);
            *sent = down.bytes;
            if up_over?.is_ready() & down_over?.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if up.bytes + down.bytes != before {
                idle.as_mut().reset(Instant::now() + patience);
            }
            ready!(idle.as_mut().poll(cx));
            Poll::Ready(Err(Refusal::BackendTimeout))
        })
        .await
    }
}

/// The client's stream. Bytes that it sent before it was told 101 end it: a backend that is no tunnel after all could take
/// them for a request that nobody has judged.
fn client_half(upgraded: Upgraded) -> Result<Paced, Refusal> {
    let parts = upgraded.downcast::<Guard>().map_err(|_| Refusal::ClientGone)?;
    let early = Refusal::BadFraming("bytes of the new protocol before 101");
    let stream = parts.io.into_tunnel().ok_or(early)?;
    if parts.read_buf.is_empty() { Ok(stream) } else { Err(early) }
}

/// One direction.
struct Half {
    buffer: Box<[u8; BUFFER]>,
    from: usize,
    to: usize,
    bytes: u64,
    ended: Ended,
    /// Whose fault it is where reading, or writing, fails.
    reading: Refusal,
    writing: Refusal,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Ended {
    No,
    Read,
    Written,
}

impl Half {
    fn new(reading: Refusal, writing: Refusal) -> Self {
        Self { buffer: Box::new([0; BUFFER]), from: 0, to: 0, bytes: 0, ended: Ended::No, reading, writing }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Refusal>> {
        let (reading, writing) = (self.reading, self.writing);
        for _ in 0..TURNS {
            while self.from < self.to {
                let piece = &self.buffer[self.from..self.to];
                let n = ready!(Pin::new(&mut *writer).poll_write(cx, piece)).map_err(|_| writing)?;
                if n == 0 {
                    return Poll::Ready(Err(writing));
                }
                self.from += n;
                self.bytes += n as u64;
            }
            match self.ended {
                Ended::Written => return Poll::Ready(Ok(())),
                Ended::Read => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(|_| writing)?;
                    self.ended = Ended::Written;
                    continue;
                }
                Ended::No => {}
            }
            let mut read = ReadBuf::new(&mut self.buffer[..]);
            if Pin::new(&mut *reader).poll_read(cx, &mut read).map_err(|_| reading)?.is_pending() {
                ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(|_| writing)?;
                return Poll::Pending;
            }
            (self.from, self.to) = (0, read.filled().len());
            if self.to == 0 {
                self.ended = Ended::Read;
            }
        }
        cx.waker().wake_by_ref(); // others first
        Poll::Pending
    }
}

/// Bytes of each direction: a WebSocket's messages are small, and there are many of them.
const BUFFER: usize = 4 * 1024;
/// Buffers before others have their turn.
const TURNS: usize = 32;
