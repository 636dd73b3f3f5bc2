//! Runs a relay until it ends: a stream on a wire ([`framed`]), or two plain sockets ([`plain`]). Waits for what the pump asks
//! for, and for the three things that it cannot see: a cut, a deadline, ACCEPT's moment.

use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use signet_wire::{
    connection::{LOOK, SLOTS, Scratch, with_scratch},
    refusal::Refusal,
    socket::{AppSocket, Backlog},
    tls::MAX_PLAIN,
};

use crate::{
    connections::Entry,
    pump::{Flow, Pump, Refused, TURN, Wants},
};

/// Client side: pumps until the server accepted the stream (`None`) or refused it. It may take until `deadline`.
/// An `Err` leaves app and wire to be ended by the caller.
pub async fn opened(pump: &mut Pump, entry: &Entry, deadline: Instant) -> Result<Option<Refused>, Refusal> {
    let mut cut = pin!(entry.cut());
    let mut late = pin!(sleep_until(deadline));
    poll_fn(|cx| {
        if let Poll::Ready(why) = cut.as_mut().poll(cx) {
            return Poll::Ready(Err(why));
        }
        if let Poll::Ready(end) = poll(pump, cx, Pump::is_opening)? {
            return Poll::Ready(Ok(end));
        }
        ready!(late.as_mut().poll(cx));
        let source = io::ErrorKind::TimedOut.into();
        Poll::Ready(Err(Refusal::Lost { peer: pump.wire.address, source }))
    })
    .await
}

/// Pumps an accepted stream to its end, which both apps wished, or until the entry is cut. An `Err` leaves app and wire to be
/// ended by the caller.
pub async fn framed(pump: &mut Pump, entry: &Entry) -> Result<(), Refusal> {
    let mut cut = pin!(entry.cut());
    // Until ACCEPT has left its moment, then the time for a look at the peer. An idle connection waits for neither.
    let mut timer: Option<(Duration, Pin<Box<Sleep>>)> = None;
    poll_fn(|cx| {
        if let Poll::Ready(why) = cut.as_mut().poll(cx) {
            return Poll::Ready(Err(why));
        }
        loop {
            if poll(pump, cx, |_| true)?.is_ready() {
                return Poll::Ready(Ok(()));
            }
            let patience = if pump.is_holding() {
                RIDE
            } else if pump.wire.watched {
                LOOK
            } else {
                return Poll::Pending;
            };
            let due = match &mut timer {
                Some((running, due)) if *running == patience => due,
                timer => &mut timer.insert((patience, Box::pin(sleep(patience)))).1,
            };
            ready!(due.as_mut().poll(cx));
            timer = None;
            if pump.is_holding() {
                pump.release();
            } else {
                let looked = pump.wire.look_at_peer();
                looked.map_err(|source| Refusal::Lost { peer: pump.wire.address, source })?;
            }
        }
    })
    .await
}

/// Pumps as long as there is something to do and `goes_on` says so. Ready: it does not go on, both directions ended, or the
/// server refused the stream.
fn poll(
    pump: &mut Pump,
    cx: &mut Context<'_>,
    goes_on: impl Fn(&Pump) -> bool,
) -> Poll<Result<Option<Refused>, Refusal>> {
    loop {
        match with_scratch(|scratch| pump.pump(scratch))? {
            Flow::Refused(why) => return Poll::Ready(Ok(Some(why))),
            Flow::Done => return Poll::Ready(Ok(None)),
            _ if !goes_on(pump) => return Poll::Ready(Ok(None)),
            Flow::Again => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Flow::Wait(wants) => {
                if !poll_sockets(pump, wants, cx) {
                    return Poll::Pending;
                }
            }
        }
    }
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

#[cfg(test)]
mod tests;
