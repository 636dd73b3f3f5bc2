//! Listening sockets: all bound before any is served, and an accept loop that never spins.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
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

const PAUSE: Duration = Duration::from_millis(50);
