//! Listening to strangers: on both families, with an accept loop that never spins, and with places that no one source can take
//! from the others.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_core::drain::Drain;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::warn;

/// Listens on `address`. `[::]` takes both families; on a node whose kernel has no IPv6 it is 0.0.0.0 instead.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip() != Ipv6Addr::UNSPECIFIED {
        return TcpListener::bind(address).await;
    }
    match listening(address) {
        Err(error) if error.raw_os_error() == Some(NO_SUCH_FAMILY) => {
            listening((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

/// As [`TcpListener::bind`], but that an IPv6 one takes IPv4 too, whatever net.ipv6.bindv6only says.
pub fn listening(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves each connection of `listener` in a task of its own, until `drain` stops. `serve` is called as they arrive.
pub fn serve<W>(
    listener: TcpListener,
    drain: &Drain,
    serve: impl Fn(TcpStream, SocketAddr) -> W + Send + 'static,
) where
    W: Future<Output = ()> + Send + 'static,
{
    let work = drain.clone();
    drain.keep(async move {
        loop {
            let (tcp, source) = accept(&listener).await;
            work.spawn(serve(tcp, source));
        }
    });
}

/// The next connection; an IPv4 peer of a listener of both families has its IPv4 address. Errors of accept (out of
/// descriptors, mostly) are logged and waited out.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => return (tcp, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Err(error) => {
                warn!(%error, "accept failed; trying again in {PAUSE:?}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Connections of one listener: counted in all, and by the address that they come from. A node's pods share an IPv6 /64, so that is
/// one source only where the caller says so ([`counted_as`]).
pub struct Places {
    most: usize,
    per_source: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One connection's place; dropping it gives it back.
pub struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    pub fn new(most: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self { most, per_source, taken: Mutex::default() })
    }

    /// `None`: all are taken, or this source has enough of them.
    pub fn take(places: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = source.to_canonical();
        let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.all >= places.most || of_source >= places.per_source {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, of_source + 1);
        Some(Place { places: Arc::clone(places), source })
    }

    /// Places that are taken, and sources that have one.
    pub fn count(&self) -> (usize, usize) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        (taken.all, taken.by_source.len())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        match taken.by_source.get_mut(&self.source) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.by_source.remove(&self.source)),
        }
    }
}

/// A stranger of the Internet: one host has a whole IPv6 /64 to come from.
pub fn counted_as(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// As tokio has it.
const BACKLOG: i32 = 1024;
/// EAFNOSUPPORT.
const NO_SUCH_FAMILY: i32 = 97;
/// Out of descriptors: long enough not to spin, short enough not to be noticed.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_the_places_of_others_and_gives_its_own_back() {
        let places = Places::new(3, 2);
        let [a, b, c] = ["198.18.0.1", "2001:2::1", "198.18.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let first = Places::take(&places, a);
        let second = Places::take(&places, a);
        assert!(first.is_some() && second.is_some() && Places::take(&places, a).is_none());
        let other = Places::take(&places, b);
        assert!(other.is_some() && Places::take(&places, c).is_none(), "three in all");
        drop(first);
        let again = Places::take(&places, a);
        assert!(again.is_some());
        drop((second, other, again));
        assert_eq!(places.count(), (0, 0), "who has none is forgotten");
    }

    #[test]
    fn two_pods_of_a_node_are_two_sources_and_two_addresses_of_a_stranger_are_one() {
        let places = Places::new(9, 1);
        let pods = ["2001:2::1", "2001:2::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let held = pods.map(|pod| Places::take(&places, pod));
        assert!(held.iter().all(Option::is_some));
        drop(held);
        let stranger = pods.map(|address| Places::take(&places, counted_as(address)));
        assert!(stranger[0].is_some() && stranger[1].is_none());
    }
}
