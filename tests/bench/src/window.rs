//! When costs count. A load that prepares connections begins the window when they stand and ends it before they close, so
//! that a request is not charged with handshakes.

use std::time::{Duration, Instant};

use crate::proc;

pub struct Window {
    /// Of the proxies, where there are any.
    pids: Vec<u32>,
    begun: Mark,
    ended: Option<Mark>,
}

#[derive(Clone)]
struct Mark {
    at: Instant,
    cpu: Vec<u64>,
}

impl Window {
    /// Begins now.
    pub fn new(pids: Vec<u32>) -> Self {
        Self { begun: Mark::now(&pids), ended: None, pids }
    }

    /// Begins again: what was before does not count.
    pub fn begin(&mut self) {
        self.begun = Mark::now(&self.pids);
    }

    /// What comes now does not count. The first time says when.
    pub fn end(&mut self) {
        let now = Mark::now(&self.pids);
        self.ended.get_or_insert(now);
    }

    pub fn time(&self) -> Duration {
        self.ended().at.saturating_duration_since(self.begun.at)
    }

    /// CPU nanoseconds of each proxy.
    pub fn cpu(&self) -> Vec<u64> {
        let ended = self.ended();
        let cost = self.begun.cpu.iter().zip(ended.cpu);
        cost.map(|(before, after)| after.saturating_sub(*before)).collect()
    }

    fn ended(&self) -> Mark {
        self.ended.clone().unwrap_or_else(|| Mark::now(&self.pids))
    }
}

impl Mark {
    fn now(pids: &[u32]) -> Self {
        Self { at: Instant::now(), cpu: pids.iter().map(|pid| proc::cpu_nanoseconds(*pid)).collect() }
    }
}
