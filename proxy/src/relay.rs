//! Runs a relay until it ends: a stream on a wire ([`framed`]), or two plain sockets ([`plain`]). Waits for what the pump asks
//! for, and for the three things that it cannot see: a cut, a deadline, ACCEPT's moment.

use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    connections::Entry,
    pump::{Flow, Pump, Refused, Wants},
    refusal::Refusal,
    socket::AppSocket,
    tls::MAX_PLAIN,
    wire::{Backlog, LOOK, SLOTS, Scratch, with_scratch},
};

/// How a stream ended without breaking its wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Both directions ended as the apps wished.
    Cleanly,
    /// The server refused it; no byte reached an app.
    Refused(Refused),
}

/// Pumps until the stream ended or the entry is cut. `opening`: until when the server may take its time to accept;
/// `on_accept` hears of it. An `Err` leaves app and wire to be ended by the caller.
pub async fn framed(
    pump: &mut Pump,
    entry: &Entry,
    opening: Instant,
    mut on_accept: impl FnMut(),
) -> Result<Ended, Refusal> {
    let mut cut = pin!(entry.cut());
    let mut ride = pin!(sleep(RIDE));
    // Until ACCEPT its deadline, then the time for a look at the peer.
    let mut late = pin!(sleep_until(opening));
    let mut is_watching = false;
    poll_fn(|cx| {
        if let Poll::Ready(why) = cut.as_mut().poll(cx) {
            return Poll::Ready(Err(why));
        }
        loop {
            let was_opening = pump.is_opening();
            let flow = with_scratch(|scratch| pump.pump(scratch));
            if was_opening && !pump.is_opening() && !matches!(flow, Ok(Flow::Refused(_))) {
                on_accept();
                if matches!(flow, Ok(Flow::Wait(_))) {
                    continue; // the app may say more now
                }
            }
            match flow? {
                Flow::Done => return Poll::Ready(Ok(Ended::Cleanly)),
                Flow::Refused(why) => return Poll::Ready(Ok(Ended::Refused(why))),
                Flow::Again => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Flow::Wait(wants) => {
                    let mut again = poll_sockets(pump, wants, cx);
                    if pump.is_holding() && ride.as_mut().poll(cx).is_ready() {
                        pump.release();
                        again = true;
                    }
                    if pump.is_opening() && late.as_mut().poll(cx).is_ready() {
                        let source = io::ErrorKind::TimedOut.into();
                        return Poll::Ready(Err(Refusal::Lost { peer: pump.wire.address, source }));
                    }
                    if pump.wire.watched && !pump.is_opening() {
                        if !is_watching {
                            late.as_mut().reset(Instant::now() + LOOK);
                            is_watching = true;
                        }
                        if late.as_mut().poll(cx).is_ready() {
                            let looked = pump.wire.look_at_peer();
                            looked.map_err(|source| Refusal::Lost { peer: pump.wire.address, source })?;
                            is_watching = false;
                            again = true;
                        }
                    }
                    if !again {
                        return Poll::Pending;
                    }
                }
            }
        }
    })
    .await
}

/// Whether one of the wanted sockets is ready; the others will wake us.
fn poll_sockets(pump: &Pump, wants: Wants, cx: &mut Context<'_>) -> bool {
    let (app, wire) = (pump.app.socket(), &pump.wire.socket);
    let mut ready = false;
    if wants.app_read {
        ready |= app.poll_readable(cx).is_ready();
    }
    if wants.app_write {
        ready |= app.poll_writable(cx).is_ready();
    }
    if wants.wire_read {
        ready |= wire.poll_readable(cx).is_ready();
    }
    if wants.wire_write {
        ready |= wire.poll_writable(cx).is_ready();
    }
    ready
}

/// Relays plaintext as it is. `first`: bytes already read from `a`. A direction's end is passed on as one; an error resets
/// the other side, since both sockets are dropped.
pub async fn plain(a: AppSocket, b: AppSocket, first: Vec<u8>, entry: &Entry) -> Result<(), Refusal> {
    let live = entry.live();
    live.received.fetch_add(first.len() as u64, Relaxed);
    let mut forth = Direction::new(&a, &b, &live.received, Backlog::from(first));
    let mut back = Direction::new(&b, &a, &live.sent, Backlog::default());
    let mut cut = pin!(entry.cut());
    let end = poll_fn(|cx| {
        if let Poll::Ready(why) = cut.as_mut().poll(cx) {
            return Poll::Ready(Err(why));
        }
        let forth = forth.poll(cx).map_err(|source| Refusal::AppReset { source })?;
        let back = back.poll(cx).map_err(|source| Refusal::AppReset { source })?;
        if forth.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await;
    if end.is_ok() {
        a.end();
        b.end();
    }
    end
}

/// One direction between two plain sockets.
struct Direction<'a> {
    from: &'a AppSocket,
    to: &'a AppSocket,
    count: &'a AtomicU64,
    undelivered: Backlog,
    /// The last read took all that it had room for.
    bulk: bool,
    ended: bool,
}

impl<'a> Direction<'a> {
    fn new(from: &'a AppSocket, to: &'a AppSocket, count: &'a AtomicU64, undelivered: Backlog) -> Self {
        Self { from, to, count, undelivered, bulk: false, ended: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if !self.undelivered.is_empty() && !self.undelivered.send(self.to.socket(), &[])? {
                ready!(self.to.socket().poll_writable(cx));
                continue;
            }
            match with_scratch(|scratch| self.carry(scratch)) {
                Ok(0) => {
                    self.ended = true;
                    self.to.socket().shutdown()?;
                }
                Ok(n) => {
                    self.count.fetch_add(n as u64, Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.from.socket().poll_readable(cx));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read and its write.
    fn carry(&mut self, scratch: &mut Scratch) -> io::Result<usize> {
        let room = if self.bulk { SLOTS * MAX_PLAIN } else { MAX_PLAIN };
        let n = self.from.socket().read(&mut [IoSliceMut::new(&mut scratch.plain[..room])], room)?;
        self.bulk = n >= MAX_PLAIN;
        self.undelivered.send(self.to.socket(), &scratch.plain[..n])?;
        Ok(n)
    }
}

/// ACCEPT waits so long for the app's first data; a guess that a fast server beats, and no one notices.
const RIDE: Duration = Duration::from_millis(1);
/// Batches in a row before others have a turn.
const TURN: usize = 8;

#[cfg(test)]
mod tests;
