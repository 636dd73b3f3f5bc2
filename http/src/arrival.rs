//! How a connection came to us: what its requests are judged by beside themselves.

use std::{fmt, net::SocketAddr, sync::Arc};

use crate::model::Scheme;

/// One client connection.
#[derive(Clone)]
pub struct Arrival {
    /// The client, or the proxy in front of us; from the PROXY protocol where that is spoken.
    pub client: SocketAddr,
    /// The [`Listener::port`](crate::model::Listener::port) that it came to.
    pub port: u16,
    /// Of the connection itself.
    pub scheme: Scheme,
    /// The name that the client asked for in TLS, in lower case. `None`: none, or no TLS.
    pub sni: Option<Arc<str>>,
    /// Whether a host (lower case, no port) would have been shown the certificate that this connection was shown; asked for each
    /// request, so that the answer can follow a swap of certificates. A host that would not is 421.
    pub covers: Option<Covers>,
}

pub type Covers = Arc<dyn Fn(&str) -> bool + Send + Sync>;

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to port {}, {}, sni {:?}", self.client, self.port, self.scheme.word(), self.sni)
    }
}
