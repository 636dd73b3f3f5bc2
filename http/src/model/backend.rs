//! Where requests go: endpoints, and how they are spoken to.

use std::{net::SocketAddr, sync::Arc};

use rustls_pki_types::CertificateDer;
use signet_core::identity::SpiffeId;

use super::Hostname;

/// A Service's port, usually.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backend {
    /// "<namespace>/<service>:<port>". What is known of its endpoints' health stays with the name.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub choice: Choice,
    /// The ready ones. None: 503.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    Http1,
    /// Known beforehand in plaintext (h2c) and on mesh streams, by ALPN on TLS. For gRPC.
    Http2,
}

/// Which endpoint takes a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Choice {
    /// The quicker of two random ones.
    #[default]
    Quicker,
    /// sessionAffinity ClientIP: always the same one for a client's address.
    ClientIp,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub security: Security,
}

/// How a connection to an endpoint is secured. A connection is used again only for an endpoint that equals its own.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Security {
    Plain,
    Tls(Arc<BackendTls>),
    /// Native mesh mTLS; the peer must be one of these. Never empty by meaning: an empty list refuses everyone.
    Mesh(Arc<[SpiffeId]>),
}

/// TLS to a backend that is not of the mesh.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct BackendTls {
    /// SNI. `None`: none is sent, as ingress-nginx does.
    pub sni: Option<Hostname>,
    pub verify: Verify,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Verify {
    /// Encrypted, to whoever answers: ingress-nginx's `backend-protocol: HTTPS`.
    Nothing,
    /// A chain to these roots, and one of the names in the certificate.
    Against { roots: Roots, names: Arc<[San]> },
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Roots {
    /// Those that the engine was started with: the public ones.
    WellKnown,
    These(Arc<[CertificateDer<'static>]>),
}

/// A name in a certificate, compared by its type.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum San {
    Dns(Hostname),
    Uri(Arc<str>),
}
