//! The addresses of a cluster. Dual-stack; all of them benchmarking addresses (198.18.0.0/15, RFC 2544; 2001:2::/48, RFC 5180).
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | pods of node N | 198.18.(2N-2).0/23 | 2001:2:0:1NN::/64 |
//! | Services | 198.19.0.0/17 | 2001:2:0:200::/112 |
//! | LoadBalancers | 198.19.128.0/18 | 2001:2:0:300::/112 |
//! | nodes and, as .254, the fabric | 198.19.255.0/24 | 2001:2:0:400::/64 |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const EVERYTHING: [&str; 2] = ["198.18.0.0/15", "2001:2::/48"];
pub const PODS: [&str; 2] = ["198.18.0.0/17", "2001:2:0:100::/56"];
pub const SERVICES: [&str; 2] = ["198.19.0.0/17", "2001:2:0:200::/112"];
pub const LOAD_BALANCERS: [&str; 2] = ["198.19.128.0/18", "2001:2:0:300::/112"];

/// `kubernetes.default.svc`: the first address of each Service range.
pub const API_SERVICE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0x200, 0, 0, 0, 1))];
/// `kube-dns.kube-system.svc`.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);
pub const DOMAIN: &str = "cluster.local";
/// A domain of the world outside, which CoreDNS asks the fabric about: a story may run a DNS server there.
pub const ABROAD: &str = "acme.test";

pub const API_PORT: u16 = 6443;
/// The image registry, on the first node.
pub const REGISTRY_PORT: u16 = 5000;

/// `number` counts from 1.
pub fn node_name(number: u8) -> String {
    format!("node{number}")
}

pub fn node_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 19, 255, number)
}

pub fn node_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0x400, 0, 0, 0, number.into())
}

/// The pod ranges of one node.
pub fn node_pods(number: u8) -> [String; 2] {
    [format!("198.18.{}.0/23", 2 * (number - 1)), format!("2001:2:0:1{number:02x}::/64")]
}

/// The router between the nodes, and the outside world as the cluster sees it.
pub const FABRIC_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 254);
pub const FABRIC_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x400, 0, 0, 0, 0xfe);
