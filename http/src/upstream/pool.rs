//! Connections to one endpoint that wait for their next request. A pool belongs to a [`Member`](crate::balance::Member), so
//! to one endpoint, with one security and one protocol; within it the certificate generation must match, too.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::h2::Shared;
use crate::{body::Upload, limits::UpstreamLimits};

#[derive(Default)]
pub(crate) struct Pool {
    /// The one used last is on top: what is not needed grows old at the bottom.
    idle: Mutex<Vec<Idle>>,
    /// HTTP/1 connections, idle or busy.
    open: Arc<AtomicUsize>,
    /// HTTP/2 connections. Locked while one is made, so that a burst of requests makes one.
    pub(super) h2: tokio::sync::Mutex<Vec<Shared>>,
    /// The shutdown began: nothing waits here any more.
    closed: AtomicBool,
}

struct Idle {
    sender: SendRequest<Upload>,
    generation: u64,
    since: Instant,
}

/// A place among an endpoint's HTTP/1 connections. Held by the connection, which must not keep the pool: when the endpoint's member
/// goes, so do the pool and what is idle in it.
pub(super) struct Place(Arc<AtomicUsize>);

impl Pool {
    /// A connection that is ready, or will be in a moment, and was not closed as far as we know.
    pub(super) fn take(&self, generation: u64, limits: &UpstreamLimits) -> Option<SendRequest<Upload>> {
        let mut idle = self.lock();
        while let Some(top) = idle.pop() {
            let fresh = top.generation == generation && top.since.elapsed() < limits.pool_idle;
            if fresh && !top.sender.is_closed() {
                return Some(top.sender);
            }
        }
        None
    }

    pub(super) fn put(&self, sender: SendRequest<Upload>, generation: u64, limits: &UpstreamLimits) {
        let mut idle = self.lock();
        if idle.len() < limits.pool && !sender.is_closed() && !self.is_closed() {
            idle.push(Idle { sender, generation, since: Instant::now() });
        }
    }

    pub(super) fn place(&self, limits: &UpstreamLimits) -> Option<Place> {
        let place = self.open.fetch_update(Relaxed, Relaxed, |n| (n < limits.connections).then_some(n + 1));
        place.is_ok().then(|| Place(Arc::clone(&self.open)))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Lets go of what is closed, too old, or of another generation; of everything and for good, if `all`.
    pub(crate) fn tidy(&self, generation: u64, limits: &UpstreamLimits, all: bool) {
        self.closed.fetch_or(all, Relaxed);
        self.lock().retain(|idle| {
            !all && idle.generation == generation
                && idle.since.elapsed() < limits.pool_idle
                && !idle.sender.is_closed()
        });
        // Somebody holds the lock: a connection is being made, so nothing is idle.
        if let Ok(mut shared) = self.h2.try_lock() {
            shared.retain(|shared| !all && shared.is_worth_keeping(generation, limits));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
