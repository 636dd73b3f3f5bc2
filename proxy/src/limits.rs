//! What the sidecar allows its peers, with units and reasons.

use std::time::Duration;

/// Limits of one proxy; the defaults are what is shipped.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accept to finished handshake: two lost flights fit (1 s + 2 s, RFC 6298), a silent client does not.
    pub handshake: Duration,
    /// Until a client's first bytes, where they decide between TLS and plaintext. A meshed client sends them at once; a
    /// plaintext one of a server-first protocol never does (its server speaks first where that is allowed).
    pub first_bytes: Duration,
    /// Largest ClientHello: one full TLS record (RFC 9846 5.1), where the post-quantum share takes 1.2 KiB.
    pub client_hello_bytes: usize,
    /// OPEN after the handshake; a client opens when its app dialled, so at once.
    pub open: Duration,
    /// Dialling an endpoint or our app: one lost SYN fits.
    pub dial: Duration,
    /// Endpoints tried for one connection, and the time for all of them.
    pub tries: usize,
    pub try_all: Duration,
    /// Connections in each direction. Two descriptors each; half of a usual limit of 20 000 is left.
    pub connections: usize,
    /// SIGTERM to cutting what is left: less than the kubelet's 30 s, because closing beats being killed.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            first_bytes: Duration::from_secs(10),
            client_hello_bytes: 16 * 1024,
            open: Duration::from_secs(5),
            dial: Duration::from_secs(2),
            tries: 4,
            try_all: Duration::from_secs(10),
            connections: 4096,
            drain: Duration::from_secs(25),
        }
    }
}
