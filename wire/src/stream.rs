//! A stream as bytes, for who speaks a protocol of their own on it: `AsyncRead` and `AsyncWrite` over a wire.
//!
//! End of file is the peer's FIN and nothing else; `shutdown` says ours. A wire whose stream ended in both directions goes back
//! to the pool; one that was dropped in the middle is reset, so that no peer takes half for the whole.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use signet_api::wire::Open;
use signet_core::{drain::Drain, identity::SpiffeId, tls::Peer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    runtime::Handle,
    time::{Instant, Sleep, sleep, timeout, timeout_at},
};

use crate::{
    client::{Client, Found},
    connection::{Fault, LOOK, Received, SLOTS, Scratch, Wire, with_scratch},
    frames::{self, FIN_FRAME, Frame, HEAD, MAX_DATA, Reset},
    heard::Heard,
    pool::Pool,
    refusal::Refusal,
};

/// A stream that the server accepted.
pub struct Stream {
    /// `None`: it broke.
    wire: Option<Box<Wire>>,
    peer: Arc<Peer>,
    pool: Arc<Pool>,
    drain: Drain,
    /// Arrived, and not read yet.
    held: Vec<u8>,
    /// How much of `held` was read.
    at: usize,
    /// We said FIN.
    finished: bool,
    /// The peer did.
    ended: bool,
    /// Why it may not live on: our certificate expired, the peer's root was distrusted.
    cut: Pin<Box<dyn Future<Output = Refusal> + Send>>,
    /// Until the next look at a peer that has not taken everything.
    look: Option<Pin<Box<Sleep>>>,
}

impl Client {
    /// Opens a stream to `id` at `to` by `deadline`. Errors: those of [`Client::wire`]; the server refused, and no byte reached
    /// an app ([`Refusal::RefusedByPeer`], another endpoint may be tried; [`Refusal::DeniedByPeer`]: by policy, none may).
    pub async fn open(
        &self,
        to: SocketAddr,
        id: &SpiffeId,
        open: &Open,
        deadline: Instant,
    ) -> Result<Stream, Refusal> {
        loop {
            let Found { mut wire, used } = self.wire(to, id, deadline).await?;
            let opened = timeout_at(deadline, say_open(&mut wire, open)).await;
            let opened = opened.unwrap_or_else(|_| Err(Fault::Lost(io::ErrorKind::TimedOut.into())));
            let refused = match opened {
                Ok(Opened::Accepted { first, ended }) => {
                    let peer = Arc::clone(&wire.peer);
                    return Ok(Stream {
                        cut: Box::pin(self.cut(Arc::clone(&peer), to)),
                        wire: Some(wire),
                        peer,
                        pool: Arc::clone(&self.pool),
                        drain: self.drain.clone(),
                        held: first,
                        at: 0,
                        finished: false,
                        ended,
                        look: None,
                    });
                }
                Ok(Opened::Refused(reset)) => reset,
                Err(fault) => {
                    let why = fault.refusal(to);
                    wire.abort(&why).await;
                    return Err(why);
                }
            };
            wire.going_away |= matches!(refused, Some(Reset::Draining)); // it carries no other stream (docs/wire.md)
            let word = match refused {
                // The wire was old, not the endpoint: the same one again, on another wire.
                None | Some(Reset::Draining) if used => continue,
                Some(Reset::Denied) => {
                    let server = wire.peer.id().clone();
                    self.pool.put(wire);
                    return Err(Refusal::DeniedByPeer { peer: to, server, port: to.port() });
                }
                Some(reset) => reset.word(),
                None => "going away",
            };
            self.pool.put(wire); // unless it is going away
            return Err(Refusal::RefusedByPeer { peer: to, word });
        }
    }
}

/// What became of an OPEN.
enum Opened {
    /// With what the app said at once.
    Accepted { first: Vec<u8>, ended: bool },
    /// By RST, or by a GOAWAY that does not count this OPEN.
    Refused(Option<Reset>),
}

async fn say_open(wire: &mut Wire, open: &Open) -> Result<Opened, Fault> {
    wire.opens += 1;
    let mut said = Vec::new();
    frames::write(&Frame::Open(open.clone()), &mut said);
    let mut sent = with_scratch(|scratch| wire.send(&said, &mut scratch.sealed))?;
    let (mut heard, mut first) = (Heard::default(), Vec::new());
    poll_fn(|cx| {
        loop {
            if !sent && !wire.flush()? {
                ready!(wire.socket.poll_writable(cx));
                continue;
            }
            sent = true;
            let received = with_scratch(|Scratch { sealed, plain }| {
                let received =
                    wire.receive(sealed, |unframer, payload| heard.record(unframer, payload, plain))?;
                first.extend_from_slice(&plain[..heard.len]);
                heard.len = 0;
                Ok::<_, Fault>(received)
            })?;
            if let Some(accepted) = heard.going_away.take() {
                wire.going_away = true;
                if !heard.accepted && wire.opens > accepted {
                    return Poll::Ready(Ok(Opened::Refused(None)));
                }
            }
            match heard.reset {
                Some(reset) if !heard.accepted && reset != Reset::Aborted => {
                    return Poll::Ready(Ok(Opened::Refused(Some(reset))));
                }
                Some(_) => return Poll::Ready(Err(Fault::Lost(io::ErrorKind::ConnectionReset.into()))),
                None => {}
            }
            if heard.accepted {
                return Poll::Ready(Ok(Opened::Accepted {
                    first: std::mem::take(&mut first),
                    ended: heard.fin,
                }));
            }
            match received {
                Received::Nothing => ready!(wire.socket.poll_readable(cx)),
                Received::End => return Poll::Ready(Err(Fault::Lost(io::ErrorKind::UnexpectedEof.into()))),
                Received::Some => {}
            }
        }
    })
    .await
}

impl Stream {
    /// Who is at the other end, as it proved.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// An error, and the end of the stream.
    fn fail(&mut self, why: io::Error) -> io::Error {
        if let Some(wire) = self.wire.take() {
            wire.reset();
        }
        why
    }

    /// What ends it from outside.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(why) => Err(self.fail(io::Error::new(io::ErrorKind::ConnectionAborted, why))),
        }
    }

    /// While something was sent that has not arrived, the peer is looked at every [`LOOK`].
    fn poll_look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let Some(wire) = self.wire.as_mut().filter(|wire| wire.watched) else {
                self.look = None;
                return Ok(());
            };
            let due = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            if due.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.look = None;
            if let Err(error) = wire.look_at_peer() {
                return Err(self.fail(error));
            }
        }
    }

    /// One try to receive into `buf`, and behind it into `held`. True: something came.
    fn receive(&mut self, buf: &mut ReadBuf<'_>) -> Result<(Received, bool), Fault> {
        let Some(wire) = &mut self.wire else { return Err(gone()) };
        let mut heard = Heard { accepted: true, ..Heard::default() };
        let received = with_scratch(|Scratch { sealed, plain }| {
            let received =
                wire.receive(sealed, |unframer, payload| heard.record(unframer, payload, plain))?;
            let read = heard.len.min(buf.remaining());
            buf.put_slice(&plain[..read]);
            self.held.extend_from_slice(&plain[read..heard.len]);
            Ok::<_, Fault>(received)
        })?;
        wire.going_away |= heard.going_away.is_some();
        if heard.reset.is_some() {
            return Err(Fault::Lost(io::ErrorKind::ConnectionReset.into()));
        }
        self.ended = heard.fin;
        if received == Received::End && !self.ended {
            return Err(Fault::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok((received, heard.len > 0 || heard.fin))
    }

    /// Sends `buffers` as far as one batch goes, in frames. The kernel need not take it: [`Stream::poll_flush`] waits for that.
    fn send(&mut self, buffers: &[io::IoSlice<'_>]) -> Result<usize, Fault> {
        let Some(wire) = self.wire.as_mut().filter(|_| !self.finished) else { return Err(gone()) };
        with_scratch(|Scratch { sealed, plain }| {
            let (mut taken, mut at) = (0, 0);
            let mut rest = buffers.iter().flat_map(|buffer| buffer.chunks(MAX_DATA));
            while at + HEAD + MAX_DATA <= SLOTS * (HEAD + MAX_DATA)
                && let Some(chunk) = rest.next()
            {
                plain[at..at + HEAD].copy_from_slice(&frames::data_head(chunk.len()));
                plain[at + HEAD..at + HEAD + chunk.len()].copy_from_slice(chunk);
                at += HEAD + chunk.len();
                taken += chunk.len();
            }
            if taken > 0 {
                wire.send(&plain[..at], sealed)?;
            }
            Ok(taken)
        })
    }

    /// Until the kernel has taken what is unsent.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        loop {
            let Some(wire) = &mut self.wire else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            match wire.flush() {
                Ok(true) => return Poll::Ready(Ok(())),
                Ok(false) if wire.socket.poll_writable(cx).is_ready() => {}
                Ok(false) => {
                    self.poll_look(cx)?;
                    return Poll::Pending;
                }
                Err(fault) => return Poll::Ready(Err(self.fail(io::Error::other(fault)))),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(cx))?;
        Poll::Ready(self.send(buffers).map_err(|fault| self.fail(io::Error::other(fault))))
    }
}

fn gone() -> Fault {
    Fault::Write(io::ErrorKind::BrokenPipe.into())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_cut(cx)?;
        for _ in 0..TURN {
            if this.at < this.held.len() {
                let read = (this.held.len() - this.at).min(buf.remaining());
                buf.put_slice(&this.held[this.at..this.at + read]);
                this.at += read;
                if this.at == this.held.len() {
                    (this.held, this.at) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.receive(buf) {
                Ok((_, true)) => return Poll::Ready(Ok(())),
                Ok((Received::Nothing, _)) => {
                    let readable =
                        this.wire.as_ref().is_none_or(|wire| wire.socket.poll_readable(cx).is_ready());
                    if !readable {
                        this.poll_look(cx)?;
                        return Poll::Pending;
                    }
                }
                Ok(_) => {}
                Err(fault) => return Poll::Ready(Err(this.fail(of_reading(fault)))),
            }
        }
        cx.waker().wake_by_ref(); // a flood of records without data is nobody else's wait
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        if let Some(wire) = this.wire.as_mut().filter(|_| !this.finished) {
            this.finished = true;
            let sent = with_scratch(|scratch| wire.send(&FIN_FRAME, &mut scratch.sealed));
            sent.map_err(|fault| this.fail(io::Error::other(fault)))?;
        }
        this.poll_sent(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(wire) = self.wire.take() else { return };
        match (self.finished, self.ended) {
            (true, true) => self.pool.put(wire),
            // Our part is said; the peer's end usually follows at once, and gives the wire back.
            (true, false) if Handle::try_current().is_ok() => {
                let cut = std::mem::replace(&mut self.cut, Box::pin(std::future::pending()));
                let rest = Stream {
                    wire: Some(wire),
                    peer: Arc::clone(&self.peer),
                    pool: Arc::clone(&self.pool),
                    drain: self.drain.clone(),
                    held: Vec::new(),
                    at: 0,
                    finished: true,
                    ended: false,
                    cut,
                    look: None,
                };
                self.drain.spawn(rest.until_ended());
            }
            _ => wire.reset(),
        }
    }
}

impl Stream {
    async fn until_ended(mut self) {
        let mut rest = [0; 1024];
        let ended = timeout(GOODBYE, async { matches!(self.read(&mut rest).await, Ok(0)) }).await;
        if !ended.unwrap_or(false)
            && let Some(wire) = self.wire.take()
        {
            wire.reset(); // it has more to say, and nobody listens
        }
    }
}

/// An error that HTTP understands: what the peer did, not a broken protocol of ours.
fn of_reading(fault: Fault) -> io::Error {
    match fault {
        Fault::Lost(error) | Fault::Write(error) => error,
        fault => io::Error::new(io::ErrorKind::InvalidData, fault),
    }
}

/// Tries in a row before others have a turn.
const TURN: usize = 8;
/// Between our FIN and the peer's, once nobody reads any more.
const GOODBYE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
