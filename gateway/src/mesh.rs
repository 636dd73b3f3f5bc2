//! Connections to backends: pods of the mesh by the native wire, their identity proven; everything else by the engine's own.

use std::{io, net::IpAddr, sync::Arc};

use rustls::RootCertStore;
use signet_api::wire::Open;
use signet_core::{edge_tls, identity::SpiffeId, tls::NotOurPeer, trust::Trust};
use signet_http::{
    model::{Endpoint, Protocol, Security},
    stream::Stream,
    upstream::{Connecting, Connector, direct::Direct},
};
use signet_link::svid::Svid;
use signet_wire::{client::Client, connection::Patience, pool::Pool, refusal::Refusal};
use tokio::time::Instant;

/// Both ways to a backend.
pub struct Ways {
    direct: Direct,
    mesh: Client,
    pool: Arc<Pool>,
    svid: Svid,
    /// Our name, for the logs of the other side.
    name: String,
    patience: Patience,
}

impl Ways {
    pub fn new(pool: Arc<Pool>, svid: Svid, trust: Arc<Trust>, source: Option<IpAddr>, name: &str) -> Self {
        let edge = edge_tls::edge_provider(signet_core::tls::default_provider());
        let (algorithms, patience) = (edge.signature_verification_algorithms, Patience::default());
        // No public roots yet: nothing that Ingress says leads to them, and with none every such backend is refused.
        let well_known = Arc::new(RootCertStore::empty());
        Self {
            direct: Direct::new(edge, well_known),
            mesh: Client::new(
                Arc::clone(&pool),
                svid.clone(),
                trust,
                algorithms,
                source,
                Patience::default(),
            ),
            pool,
            svid,
            name: name.to_owned(),
            patience,
        }
    }

    /// A stream to who proves to be one of `ids`.
    async fn open(&self, endpoint: &Endpoint, ids: &[SpiffeId]) -> io::Result<Box<dyn Stream>> {
        let address = endpoint.address;
        let open = Open { destination: address.to_string(), source: self.name.clone() };
        let deadline = Instant::now() + self.patience.dial + self.patience.handshake * 2;
        let first = ids.first().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                "nobody is expected at this endpoint, so nobody is let in",
            )
        })?;
        let stream = match self.mesh.open(address, first, &open, deadline).await {
            // An address has one identity, but for a moment in which it changes hands.
            Err(Refusal::Identity { why, peer }) => match one_of(&why, ids) {
                Some(got) => self.mesh.open(address, &got, &open, deadline).await,
                None => Err(Refusal::Identity { why, peer }),
            },
            opened => opened,
        };
        match stream {
            Ok(stream) => Ok(Box::new(stream)),
            Err(why) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, why)),
        }
    }
}

/// Whom we found, if it is another one that is expected there.
fn one_of(why: &NotOurPeer, ids: &[SpiffeId]) -> Option<SpiffeId> {
    match why {
        NotOurPeer::Identity { got, .. } if ids.contains(got) => Some(got.clone()),
        _ => None,
    }
}

impl Connector for Ways {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint, protocol: Protocol) -> Connecting<'a> {
        match &endpoint.security {
            Security::Mesh(ids) => Box::pin(self.open(endpoint, ids)),
            Security::Plain | Security::Tls(_) => self.direct.connect(endpoint, protocol),
        }
    }

    fn generation(&self, security: &Security) -> u64 {
        match security {
            Security::Mesh(_) => {
                let own = self.svid.current().map_or(0, |generation| generation.number);
                (own << 32) ^ self.pool.epoch() // both count a process's renewals and retired roots
            }
            Security::Plain | Security::Tls(_) => self.direct.generation(security),
        }
    }
}
