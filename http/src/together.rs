//! What an HTTP/2 connection writes in one turn, written at once.
//!
//! `h2` asks for a flush after each DATA frame, so that each answer would be a TLS record and a system call of its own. Here its
//! flushes do nothing; whoever polls the connection flushes when there is nothing left to poll ([`Out::flush`]).

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Paced;

/// `stream` for `h2`, and the way to flush it.
pub(crate) fn together(stream: Paced) -> (Together, Out) {
    let shared = Arc::new(Mutex::new(Shared { stream, written: BytesMut::new() }));
    (Together(Arc::clone(&shared)), Out(shared))
}

/// A stream whose flushes wait for [`Out::flush`].
pub(crate) struct Together(Arc<Mutex<Shared>>);

/// The other end of a [`Together`].
pub(crate) struct Out(Arc<Mutex<Shared>>);

struct Shared {
    stream: Paced,
    /// Not yet in `stream`. Empty, it holds no memory.
    written: BytesMut,
}

impl Out {
    /// Writes what there is. Never done: an error, or it waits for more.
    pub(crate) fn flush(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match lock(&self.0).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Shared {
    /// Hands everything to the stream.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.written.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written.advance(n),
            }
        }
        self.written = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl AsyncRead for Together {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Together {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        if shared.written.len() >= MOST {
            ready!(shared.poll_write_out(cx))?;
        }
        let mut taken = 0;
        for slice in slices {
            let room = MOST.saturating_sub(shared.written.len());
            let part = &slice[..slice.len().min(room)];
            shared.written.extend_from_slice(part);
            taken += part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // by whoever polls the connection
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        ready!(shared.poll_flush(cx))?;
        Pin::new(&mut shared.stream).poll_shutdown(cx)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes: one TLS record (RFC 9846 5.1).
const MOST: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// Our end, with the way to flush it, and the peer's with room for `room` bytes.
    fn pair(room: usize) -> (Together, Out, tokio::io::DuplexStream) {
        let (ours, peer) = duplex(room);
        let (stream, out) = together(Paced::new(Box::new(ours), bytes::Bytes::new(), PATIENCE));
        (stream, out, peer)
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_leaves_before_the_flush_and_everything_with_it() {
        let (mut stream, out, mut peer) = pair(1 << 20);
        for _ in 0..3 {
            stream.write_all(b"answer ").await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut read = [0; 64];
        let early = tokio::time::timeout(Duration::from_millis(1), peer.read(&mut read)).await;
        assert!(early.is_err(), "written before the flush");
        let is_pending = poll_fn(|cx| Poll::Ready(out.flush(cx).is_pending())).await;
        assert!(is_pending, "it waits for more");
        let n = peer.read(&mut read).await.unwrap();
        assert_eq!(&read[..n], b"answer answer answer ");
        assert_eq!(lock(&out.0).written.capacity(), 0, "an idle connection holds no buffer");
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_record_is_not_kept_and_arrives_whole_at_the_latest_with_the_end() {
        let (mut stream, out, mut peer) = pair(1000);
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let writing = async {
            stream.write_all(&sent).await.unwrap();
            assert!(lock(&out.0).written.len() <= MOST);
            stream.shutdown().await.unwrap();
            drop(stream);
            drop(out);
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(writing, peer.read_to_end(&mut got));
        read.unwrap();
        assert!(got == sent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_fails_the_flush() {
        let (mut stream, out, _peer) = pair(10);
        stream.write_all(&[0; 100]).await.unwrap();
        let error = poll_fn(|cx| out.flush(cx)).await;
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
