//! Listening sockets: all bound before any is served, and an accept loop that never spins.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::warn;

/// Binds `address`; `origin` says in the error where it came from.
pub async fn bind(address: SocketAddr, origin: &str) -> Result<TcpListener, CannotListen> {
    TcpListener::bind(address).await.map_err(|source| CannotListen {
        address,
        origin: origin.to_owned(),
        source,
    })
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({origin}); is another process there? ss -ltnp")]
pub struct CannotListen {
    address: SocketAddr,
    origin: String,
    source: io::Error,
}

/// The next connection. Errors of accept (out of descriptors, mostly) are logged and waited out.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(%error, "accept failed; trying again in {PAUSE:?}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Connections of one direction, counted against a limit.
#[derive(Clone)]
pub struct Places {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// One connection's place; dropping it gives it back.
pub struct Place(Arc<AtomicUsize>);

impl Places {
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    pub fn take(&self) -> Option<Place> {
        if self.taken.fetch_add(1, Relaxed) < self.limit {
            return Some(Place(Arc::clone(&self.taken)));
        }
        self.taken.fetch_sub(1, Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Connections that have not shown yet who they are, counted by where they come from.
#[derive(Clone)]
pub struct Sources {
    arrived: Arc<Mutex<HashMap<IpAddr, usize>>>,
    limit: usize,
}

/// One arrival; dropped when it is known who it is, or gone.
pub struct Arrival {
    sources: Sources,
    source: IpAddr,
}

impl Sources {
    pub fn new(limit: usize) -> Self {
        Self { arrived: Arc::default(), limit }
    }

    /// `None`: this source has enough of them.
    pub fn arrive(&self, source: IpAddr) -> Option<Arrival> {
        let source = counted_as(source);
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let count = arrived.entry(source).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Arrival { sources: self.clone(), source })
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut arrived = self.sources.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        match arrived.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(arrived.remove(&self.source)),
        }
    }
}

/// One host has a whole IPv6 /64 to come from.
fn counted_as(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_so_many_arrivals_at_once_and_a_64_is_one_source() {
        let sources = Sources::new(2);
        let arrive = |address: &str| sources.arrive(address.parse().unwrap());
        let (_first, second) = (arrive("2001:2::1").unwrap(), arrive("2001:2::2").unwrap());
        assert!(arrive("2001:2::3").is_none());
        assert!(arrive("2001:2:0:1::1").is_some() && arrive("198.18.0.1").is_some());
        drop(second);
        assert!(arrive("2001:2::3").is_some());
        assert_eq!(sources.arrived.lock().unwrap().len(), 1, "who has none is forgotten");
    }
}
