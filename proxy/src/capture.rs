//! Capture: the pod's own network namespace sends its TCP connections to the proxy, and no app has to know.
//!
//! [`rules`] says what is redirected (pure), [`netlink`] programs it, [`self_test`] proves it with real connections, and
//! [`command`] is `signet-proxy capture`, which does the three. The running proxy asks [`orig_dst`] where a connection was
//! meant to go. That the rules are still there is [`crate::canary`]'s to know.

pub mod command;
mod netlink;
pub mod orig_dst;
pub mod rules;
pub mod self_test;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use signet_core::pod::{ADMIN_PORT, PAGES_PORT};

/// Our app's connections to others are redirected here.
pub const OUTBOUND_PORT: u16 = 15001;
/// Others' connections to our app are redirected here.
pub const INBOUND_PORT: u16 = 15006;
/// On loopback only: answers who we are and where the connection was meant to go.
pub const SELF_TEST_PORT: u16 = 15009;
/// Who the proxy runs as, unless told otherwise: its own connections are not captured.
pub const PROXY_UID: u32 = 1337;

/// What no app may be reached by: the proxy would call itself. Nothing redirects the pages' port, which the kubelet and
/// scrapers ask.
pub const OWN_PORTS: [u16; 5] = [OUTBOUND_PORT, INBOUND_PORT, SELF_TEST_PORT, PAGES_PORT, ADMIN_PORT];

/// Documentation addresses (RFC 5737, RFC 3849): nobody has them, so a connection that arrives was redirected by us.
pub const CANARIES: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), SELF_TEST_PORT),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), SELF_TEST_PORT),
];
/// The same for the way that an app's connection takes, past every exemption. The port is discard's (RFC 863).
pub const OUTBOUND_PROBES: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)), 9),
];

/// Whether a socket could be sent to `address` at all; asks the routing table and sends nothing. A namespace without IPv6
/// has neither an address nor a route of that family.
pub fn has_route(address: SocketAddr) -> bool {
    let unspecified: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    std::net::UdpSocket::bind((unspecified, 0)).is_ok_and(|socket| socket.connect(address).is_ok())
}
