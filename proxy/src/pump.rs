//! One app connection on a wire: moves bytes between the app's socket and the wire's, sealed and framed. Does no waiting: a
//! call does what can be done and says what to wait for, so it runs on any runtime. Owns no buffer while nothing is stuck.
//!
//! FIN is the only clean end of a direction on the wire. Whatever else ends a connection is a reset to the app.

use std::{
    io::{self, IoSliceMut},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use signet_api::wire::{Accept, Open};

use signet_wire::{
    connection::{Fault, Received, SLOTS, Scratch, Wire},
    frames::{self, Frame, HEAD, MAX_DATA, Reset},
    heard::Heard,
    refusal::Refusal,
    socket::{AppSocket, Backlog},
};

use crate::connections::Live;

/// A stream in progress.
pub struct Pump {
    pub app: AppSocket,
    pub wire: Box<Wire>,
    live: Arc<Live>,
    /// The app's direction: what it sends goes out in frames.
    up: Life,
    /// The app filled a frame: read many at once.
    bulk: bool,
    /// Frames that go out in front of the app's next bytes.
    ahead: Vec<u8>,
    /// `ahead` waits for the app's first bytes to ride with.
    holding: bool,
    /// The wire's direction: payloads go to the app.
    down: Life,
    undelivered: Backlog,
    /// Client: the server has not accepted yet.
    opening: Option<Box<Flight>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Life {
    Open,
    /// The end was read and is to be passed on behind what is on its way.
    Ending,
    Done,
}

/// What the app said before ACCEPT: sent once per endpoint tried, delivered by the one that accepts.
#[derive(Debug, Default)]
pub struct Flight {
    bytes: Vec<u8>,
    /// The app already ended its direction.
    ended: bool,
}

/// What the pump came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flow {
    /// Nothing to do before one of these.
    Wait(Wants),
    /// There is more to do; others have a turn first.
    Again,
    /// Both directions ended as they should.
    Done,
    /// The server refused the stream: no byte of it reached an app.
    Refused(Refused),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    Reset(Reset),
    /// GOAWAY, and this OPEN is not among the accepted ones.
    GoneAway,
}

/// Sockets to wait for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wants {
    pub app_read: bool,
    pub app_write: bool,
    pub wire_read: bool,
    pub wire_write: bool,
}

impl Wants {
    fn or(self, other: Self) -> Self {
        Self {
            app_read: self.app_read || other.app_read,
            app_write: self.app_write || other.app_write,
            wire_read: self.wire_read || other.wire_read,
            wire_write: self.wire_write || other.wire_write,
        }
    }
}

/// One direction's share of a [`Flow`].
enum Step {
    Wait(Wants),
    Again,
    Done,
    Refused(Refused),
}

impl Pump {
    /// Client side: OPEN goes out at once, with `flight` and whatever else the app has said.
    pub fn open(
        app: AppSocket,
        mut wire: Box<Wire>,
        open: Open,
        flight: Box<Flight>,
        live: Arc<Live>,
    ) -> Self {
        wire.opens += 1;
        let mut ahead = Vec::with_capacity(HEAD + open.destination.len() + open.source.len() + HEAD);
        frames::write(&Frame::Open(open), &mut ahead);
        if !flight.bytes.is_empty() {
            frames::write(&Frame::Data(&flight.bytes), &mut ahead);
        }
        if flight.ended {
            frames::write(&Frame::Fin, &mut ahead);
        }
        let up = if flight.ended { Life::Ending } else { Life::Open };
        Self { up, ahead, opening: Some(flight), ..Self::idle(app, wire, live) }
    }

    /// Server side: ACCEPT is owed, and waits for the app's first bytes until [`Pump::release`].
    pub fn accept(app: AppSocket, mut wire: Box<Wire>, live: Arc<Live>) -> Self {
        wire.opens += 1;
        let mut ahead = Vec::with_capacity(HEAD);
        frames::write(&Frame::Accept(Accept {}), &mut ahead);
        Self { ahead, holding: true, ..Self::idle(app, wire, live) }
    }

    fn idle(app: AppSocket, wire: Box<Wire>, live: Arc<Live>) -> Self {
        Self {
            app,
            wire,
            live,
            up: Life::Open,
            bulk: false,
            ahead: Vec::new(),
            holding: false,
            down: Life::Open,
            undelivered: Backlog::default(),
            opening: None,
        }
    }

    pub fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// ACCEPT has waited long enough.
    pub fn release(&mut self) {
        self.holding = false;
    }

    /// After a refusal: the app's socket, what it said so far, and the wire.
    pub fn take_back(self) -> (AppSocket, Box<Flight>, Box<Wire>) {
        (self.app, self.opening.unwrap_or_default(), self.wire)
    }

    /// Does what can be done now.
    pub(crate) fn pump(&mut self, scratch: &mut Scratch) -> Result<Flow, Refusal> {
        let up = self.pump_up(scratch);
        // The reading direction knows more about how the peer went (refusal, RST, protocol error): it speaks first.
        let down = self.pump_down(scratch)?;
        if let Step::Refused(why) = down {
            return Ok(Flow::Refused(why));
        }
        Ok(match (up?, down) {
            (_, Step::Refused(why)) | (Step::Refused(why), _) => Flow::Refused(why),
            (Step::Done, Step::Done) => Flow::Done,
            (Step::Again, _) | (_, Step::Again) => Flow::Again,
            (Step::Wait(up), Step::Wait(down)) => Flow::Wait(up.or(down)),
            (Step::Wait(wants), Step::Done) | (Step::Done, Step::Wait(wants)) => Flow::Wait(wants),
        })
    }

    /// App to wire.
    fn pump_up(&mut self, scratch: &mut Scratch) -> Result<Step, Refusal> {
        let blocked = Step::Wait(Wants { wire_write: true, ..Wants::default() });
        for _ in 0..TURN {
            if !self.wire.unsent.is_empty() && !self.flush()? {
                return Ok(blocked);
            }
            if self.up != Life::Open && self.ahead.is_empty() {
                self.up = Life::Done;
                return Ok(Step::Done);
            }
            let len = self.read_app(&mut scratch.plain)?;
            if len == 0 {
                // Before ACCEPT a full flight waits for nothing but the wire.
                let app_read = self.room() > 0;
                return Ok(Step::Wait(Wants { app_read, ..Wants::default() }));
            }
            let sent = self.wire.send(&scratch.plain[..len], &mut scratch.sealed);
            if !sent.map_err(|fault| fault.refusal(self.wire.address))? {
                return Ok(blocked);
            }
        }
        Ok(Step::Again)
    }

    fn flush(&mut self) -> Result<bool, Refusal> {
        self.wire.flush().map_err(|fault| fault.refusal(self.wire.address))
    }

    /// How much the app may say now.
    fn room(&self) -> usize {
        match (&self.opening, self.up) {
            (_, Life::Ending | Life::Done) => 0,
            (Some(flight), Life::Open) => MAX_DATA - flight.bytes.len(),
            (None, Life::Open) if self.bulk && self.ahead.is_empty() => SLOTS * MAX_DATA,
            (None, Life::Open) => MAX_DATA,
        }
    }

    /// Lays frames in `plain`: those ahead, then what the app has to say. Returns their length; 0: there is nothing to send.
    fn read_app(&mut self, plain: &mut [u8]) -> Result<usize, Refusal> {
        let mut at = self.ahead.len();
        plain[..at].copy_from_slice(&self.ahead);
        let room = self.room();
        if room > 0 {
            match self.read_frames(plain, &mut at, room)? {
                None if self.holding => return Ok(0),
                None => {}
                Some(n) => {
                    self.bulk = n >= MAX_DATA;
                    // No call unless the runtime knows of the app's end already: then data and end go out together.
                    if n < room && self.up == Life::Open && self.room() > 0 {
                        self.read_frames(plain, &mut at, self.room().min(MAX_DATA))?;
                    }
                }
            }
        }
        (self.holding, self.ahead) = (false, Vec::new());
        Ok(at)
    }

    /// One read of at most `room` bytes into DATA frames at `plain[at..]`, or FIN at the app's end. `None`: nothing there.
    fn read_frames(
        &mut self,
        plain: &mut [u8],
        at: &mut usize,
        room: usize,
    ) -> Result<Option<usize>, Refusal> {
        let read = {
            let mut slots = plain[*at..].chunks_mut(HEAD + MAX_DATA);
            let mut payload = || IoSliceMut::new(slots.next().map_or(&mut [], |slot| &mut slot[HEAD..]));
            if room <= MAX_DATA {
                let mut one = payload();
                self.app.socket().read(&mut [IoSliceMut::new(&mut one[..room])], room)
            } else {
                let mut many: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| payload());
                self.app.socket().read(&mut many, room)
            }
        };
        let n = match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            read => read.map_err(|source| Refusal::AppReset { source })?,
        };
        if n == 0 {
            plain[*at..*at + HEAD].copy_from_slice(&frames::FIN_FRAME);
            *at += HEAD;
            self.up = Life::Ending;
            if let Some(flight) = &mut self.opening {
                flight.ended = true;
            }
            return Ok(Some(0));
        }
        self.live.sent.fetch_add(n as u64, Relaxed);
        let mut left = n;
        while left > 0 {
            let len = left.min(MAX_DATA);
            plain[*at..*at + HEAD].copy_from_slice(&frames::data_head(len));
            if let Some(flight) = &mut self.opening {
                flight.bytes.extend_from_slice(&plain[*at + HEAD..*at + HEAD + len]);
            }
            *at += HEAD + len;
            left -= len;
        }
        Ok(Some(n))
    }

    /// Wire to app.
    fn pump_down(&mut self, scratch: &mut Scratch) -> Result<Step, Refusal> {
        let lost = |source| Refusal::AppReset { source };
        for _ in 0..TURN {
            if !self.undelivered.is_empty() && !self.undelivered.send(self.app.socket(), &[]).map_err(lost)? {
                return Ok(Step::Wait(Wants { app_write: true, ..Wants::default() }));
            }
            match self.down {
                Life::Done => return Ok(Step::Done),
                Life::Ending => {
                    self.down = Life::Done;
                    if self.up == Life::Open {
                        self.app.socket().shutdown().map_err(lost)?; // otherwise its close says it
                    }
                    return Ok(Step::Done);
                }
                Life::Open => {}
            }
            let (received, heard) = self.hear(scratch).map_err(|fault| fault.refusal(self.wire.address))?;
            if let Some(refused) = self.understand(&heard)? {
                return Ok(Step::Refused(refused));
            }
            if heard.len > 0 {
                self.live.received.fetch_add(heard.len as u64, Relaxed);
                self.undelivered.send(self.app.socket(), &scratch.plain[..heard.len]).map_err(lost)?;
            }
            match received {
                Received::Nothing => return Ok(Step::Wait(Wants { wire_read: true, ..Wants::default() })),
                Received::End if self.down == Life::Open => {
                    let source = io::ErrorKind::UnexpectedEof.into();
                    return Err(Refusal::Lost { peer: self.wire.address, source });
                }
                Received::End | Received::Some => {}
            }
        }
        Ok(Step::Again)
    }

    /// Takes what arrived apart: payloads to the front of `scratch.plain`, the rest into [`Heard`].
    fn hear(&mut self, scratch: &mut Scratch) -> Result<(Received, Heard), Fault> {
        let mut heard = Heard { accepted: self.opening.is_none(), ..Heard::default() };
        let Scratch { sealed, plain } = scratch;
        if !self.wire.early.is_empty() {
            let early = std::mem::take(&mut self.wire.early);
            heard.record(&mut self.wire.unframer, &early, plain)?;
            return Ok((Received::Some, heard));
        }
        let received =
            self.wire.receive(sealed, |unframer, payload| heard.record(unframer, payload, plain))?;
        Ok((received, heard))
    }

    /// Acts on the control frames.
    fn understand(&mut self, heard: &Heard) -> Result<Option<Refused>, Refusal> {
        if let Some(accepted) = heard.going_away {
            self.wire.going_away = true;
            if self.opening.is_some() && !heard.accepted && self.wire.opens > accepted {
                return Ok(Some(Refused::GoneAway));
            }
        }
        if heard.accepted {
            self.opening = None;
        }
        match heard.reset {
            Some(Reset::Aborted) => return Err(Refusal::PeerReset),
            Some(_) if self.opening.is_none() => return Err(Refusal::PeerReset),
            Some(reset) => return Ok(Some(Refused::Reset(reset))),
            None => {}
        }
        if heard.fin {
            self.down = Life::Ending;
        }
        Ok(None)
    }
}

/// Batches in a row before others have a turn.
pub(crate) const TURN: usize = 8;
