//! Listening sockets: all bound before any is served; what every part of Signet needs of them is [`signet_link::listen`].

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nix::errno::Errno;
pub use signet_link::listen::serve;
use signet_link::listen::{counted_as, listening};
use tokio::net::TcpListener;

/// Binds `address`; `origin` says in the error where it came from.
pub async fn bind(address: SocketAddr, origin: &str) -> Result<TcpListener, CannotListen> {
    TcpListener::bind(address).await.map_err(|source| CannotListen {
        address,
        origin: origin.to_owned(),
        source,
    })
}

/// Binds `port` on every address of both families; of IPv4 alone where the kernel has no IPv6.
pub fn bind_everywhere(port: u16, origin: &str) -> Result<TcpListener, CannotListen> {
    let six = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let four = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let failed = |address| move |source| CannotListen { address, origin: origin.to_owned(), source };
    match listening(six).map_err(failed(six)) {
        Err(error) if error.lacks_family() => listening(four).map_err(failed(four)),
        bound => bound,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({origin}); is another process there? ss -ltnp")]
pub struct CannotListen {
    address: SocketAddr,
    origin: String,
    source: io::Error,
}

impl CannotListen {
    /// Somebody else has the address.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }

    /// This network namespace lacks the address family, or loopback's address of it.
    pub fn lacks_family(&self) -> bool {
        let errno = self.source.raw_os_error().map(Errno::from_raw);
        matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
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

#[cfg(test)]
mod tests {
    use signet_link::listen::accept;
    use tokio::net::TcpStream;

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

    #[tokio::test]
    async fn one_listener_takes_both_families_and_an_ipv4_peer_keeps_its_address() {
        let listener = bind_everywhere(0, "a test").unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()] {
            let (client, (_accepted, peer)) = tokio::join!(TcpStream::connect(address), accept(&listener));
            assert_eq!(peer, client.unwrap().local_addr().unwrap());
        }
        assert!(bind_everywhere(port, "again").unwrap_err().is_taken());
    }
}
