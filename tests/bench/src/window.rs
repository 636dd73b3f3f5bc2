//! When costs count. A load that prepares connections begins the window when they stand and ends it before they close, so
//! that a request is not charged with handshakes.

use std::time::{Duration, Instant};

use crate::{proc, side::Both};

pub struct Window {
    /// Of the proxies, where there are any.
    pids: Option<Both<u32>>,
    begun: Mark,
    ended: Option<Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    cpu: Option<Both<u64>>,
}

impl Window {
    /// Begins now.
    pub fn new(pids: Option<Both<u32>>) -> Self {
        Self { pids, begun: Mark::now(pids), ended: None }
    }

    /// Begins again: what was before does not count.
    pub fn begin(&mut self) {
        self.begun = Mark::now(self.pids);
    }

    /// What comes now does not count. The first time says when.
    pub fn end(&mut self) {
        let now = Mark::now(self.pids);
        self.ended.get_or_insert(now);
    }

    pub fn time(&self) -> Duration {
        self.ended().at.saturating_duration_since(self.begun.at)
    }

    /// CPU nanoseconds of both proxies.
    pub fn cpu(&self) -> Option<Both<u64>> {
        let (before, after) = (self.begun.cpu?, self.ended().cpu?);
        let cost = |before: u64, after: u64| after.saturating_sub(before);
        Some(Both { client: cost(before.client, after.client), server: cost(before.server, after.server) })
    }

    fn ended(&self) -> Mark {
        self.ended.unwrap_or_else(|| Mark::now(self.pids))
    }
}

impl Mark {
    fn now(pids: Option<Both<u32>>) -> Self {
        Self { at: Instant::now(), cpu: pids.map(|pids| pids.map(|pid| proc::cpu_nanoseconds(*pid))) }
    }
}
