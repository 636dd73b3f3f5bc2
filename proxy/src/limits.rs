//! What the sidecar allows its peers, with units and reasons.

use std::time::Duration;

use signet_wire::connection::Patience;

/// Limits of one proxy; the defaults are what is shipped.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Dialling an endpoint or our app, and handshakes.
    pub wire: Patience,
    /// Until a client's first bytes, where they decide between TLS and plaintext. A meshed client sends them at once; a
    /// plaintext one of a server-first protocol never does (its server speaks first where that is allowed).
    pub first_bytes: Duration,
    /// Largest ClientHello, record heads included: what rustls takes of a handshake message (64 KiB), in records of 512 bytes.
    /// The post-quantum share takes 1.2 KiB.
    pub client_hello_bytes: usize,
    /// Connections of one source (an IPv4 address, an IPv6 /64) whose handshake has not ended or that have not shown what they
    /// are: a busy node's worth, and memory for one ClientHello each.
    pub arrivals_per_source: usize,
    /// OPEN after the handshake; a client opens when its app dialled, so at once.
    pub open: Duration,
    /// Endpoints tried for one connection, and the time for all of them.
    pub tries: usize,
    pub try_all: Duration,
    /// Connections in each direction, two descriptors each; see [`connections_for`].
    pub connections: usize,
    /// SIGTERM to cutting what is left: less than the kubelet's 30 s, because closing beats being killed.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wire: Patience::default(),
            first_bytes: Duration::from_secs(10),
            client_hello_bytes: 65 * 1024,
            arrivals_per_source: 256,
            open: Duration::from_secs(5),
            tries: 4,
            try_all: Duration::from_secs(10),
            connections: connections_for(20_000),
            drain: Duration::from_secs(25),
        }
    }
}

/// How many connections so many descriptors allow; what is left serves the admin pages, discovery and idle wires. With fewer
/// than these need, half of them.
pub fn connections_for(descriptors: usize) -> usize {
    (descriptors - RESERVED.min(descriptors / 2)) / 2
}

const RESERVED: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_few_descriptors_there_are_some_connections_are_served() {
        for (descriptors, connections) in [(20_000, 9700), (1200, 300), (1024, 256), (400, 100), (2, 0)] {
            assert_eq!(connections_for(descriptors), connections, "{descriptors}");
        }
    }
}
