//! Where a redirected connection was meant to go: SO_ORIGINAL_DST, and what may be done with the answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::OWN_PORTS;
use signet_wire::pool::Direction;

/// The original destination, in its own family. Refused is what would make the proxy call itself, or carry for strangers:
/// a connection that no rule redirected, one to a port of the proxy, and an inbound one to an address that is not ours.
pub fn orig_dst(tcp: &TcpStream, direction: Direction) -> Result<SocketAddr, NotRedirected> {
    let listener = tcp.local_addr().map_or(NOWHERE, canonical);
    let to = original(tcp).ok_or(NotRedirected { to: listener })?;
    let ours = || to.ip() == listener.ip() || is_ours(to.ip());
    if is_the_proxy(to, listener, direction) || (direction == Direction::Inbound && !ours()) {
        return Err(NotRedirected { to });
    }
    Ok(to)
}

/// With the destination as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotRedirected {
    pub to: SocketAddr,
}

/// Conntrack's answer; `None`: it does not know this connection. A dual-stack listener has to ask by the peer's family.
pub(super) fn original(tcp: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(tcp);
    let answer = match canonical(tcp.peer_addr().ok()?) {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    answer.ok()?.as_socket().map(canonical)
}

/// Conntrack answers for connections that were not redirected too, with the address that they were accepted at.
fn is_the_proxy(to: SocketAddr, listener: SocketAddr, direction: Direction) -> bool {
    let own_port = direction == Direction::Inbound && OWN_PORTS.contains(&to.port());
    own_port || to == listener || to.ip().is_loopback() || to.ip().is_unspecified()
}

/// Whether an address is one of this namespace: only such a one can be bound.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// `::ffff:192.0.2.1` is 192.0.2.1.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A socket that is gone already.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn the_proxy_never_calls_itself() {
        use Direction::{Inbound, Outbound};
        for (case, to, listener, direction, own) in [
            ("another pod", "198.18.0.2:80", "127.0.0.1:15001", Outbound, false),
            ("another pod's proxy refuses by itself", "198.18.0.2:15006", "127.0.0.1:15001", Outbound, false),
            ("dialled by name of the listener", "127.0.0.1:15001", "127.0.0.1:15001", Outbound, true),
            ("... or on the pod's address", "198.18.0.1:15001", "198.18.0.1:15001", Outbound, true),
            ("loopback is not captured", "127.0.0.1:80", "127.0.0.1:15001", Outbound, true),
            ("our app", "198.18.0.1:80", "198.18.0.1:15006", Inbound, false),
            ("our app at a second address", "[2001:2::1]:80", "[2001:2::9]:15006", Inbound, false),
            ("the inbound listener", "198.18.0.1:15006", "198.18.0.1:15006", Inbound, true),
            ("the outbound listener", "198.18.0.1:15001", "198.18.0.1:15006", Inbound, true),
            ("the self-test", "198.18.0.1:15009", "198.18.0.1:15006", Inbound, true),
            ("the pages", "198.18.0.1:15020", "198.18.0.1:15006", Inbound, true),
            ("the pages of loopback", "198.18.0.1:15021", "198.18.0.1:15006", Inbound, true),
            ("loopback from outside", "127.0.0.1:80", "198.18.0.1:15006", Inbound, true),
            ("nowhere", "0.0.0.0:80", "198.18.0.1:15006", Inbound, true),
        ] {
            let (to, listener) = (to.parse().unwrap(), listener.parse().unwrap());
            assert_eq!(is_the_proxy(to, listener, direction), own, "{case}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert_eq!(canonical("[::ffff:192.0.2.1]:80".parse().unwrap()), "192.0.2.1:80".parse().unwrap());
        assert_eq!(canonical("[2001:db8::1]:80".parse().unwrap()), "[2001:db8::1]:80".parse().unwrap());
    }

    #[test]
    fn only_our_own_addresses_are_ours() {
        assert!(is_ours("127.0.0.1".parse().unwrap()));
        assert!(!is_ours("192.0.2.1".parse().unwrap()), "a documentation address");
    }

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (tcp, _)) = (client.unwrap(), accepted.unwrap());
        assert_eq!(orig_dst(&tcp, Direction::Outbound), Err(NotRedirected { to: address }));
    }
}
