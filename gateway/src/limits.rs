//! What a gateway allows strangers before a request, with units and reasons. The limits of requests are the engine's
//! (docs/http.md); docs/gateway.md has both as tables. All of these are settable ([`signet_core::pod::Serving`]).

use std::time::Duration;

/// Limits of one gateway.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections, of all and of one client address (an IPv4 address, an IPv6 /64): a busy office behind one address fits,
    /// a thousand tabs of one browser do not.
    pub connections: usize,
    pub connections_per_client: usize,
    /// Of these, not yet finished with PROXY header and handshake: each may cost a signature.
    pub handshakes: usize,
    pub handshakes_per_client: usize,
    /// Accept to finished handshake, PROXY header included: slow mobile networks fit, slow readers do not.
    pub handshake: Duration,
    /// SIGTERM to the end of accepting: as long as load balancers take to believe that we are unready.
    pub drain: Duration,
    /// From then to cutting what is left: the manifest's grace period is larger than both.
    pub finish: Duration,
}
