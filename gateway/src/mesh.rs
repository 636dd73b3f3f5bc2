//! Connections to backends: pods of the mesh by the native wire, their identity proven; everything else by the engine's own.

use std::{io, sync::Arc};

use rustls::{RootCertStore, crypto::WebPkiSupportedAlgorithms};
use signet_api::wire::Open;
use signet_core::{
    drain::Drain,
    edge_tls,
    identity::SpiffeId,
    tls::{self, NotOurPeer},
    trust::Trust,
};
use signet_http::{
    model::{Endpoint, Protocol, Security},
    stream::Stream,
    upstream::{Connecting, Connector, direct::Direct},
};
use signet_link::svid::Svid;
use signet_wire::{client::Client, connection::Patience, pool::Pool, refusal::Refusal};
use tokio::time::Instant;

use crate::config::Config;

/// Both ways to a backend.
pub struct Ways {
    direct: Direct,
    mesh: Client,
    svid: Svid,
    /// Our name, for the logs of the other side.
    name: Arc<str>,
    patience: Patience,
}

impl Ways {
    /// `algorithms`: the mesh's. Streams that nobody holds any more end in `drain`.
    pub fn new(
        pool: Arc<Pool>,
        svid: Svid,
        trust: Arc<Trust>,
        algorithms: WebPkiSupportedAlgorithms,
        config: &Config,
        drain: &Drain,
    ) -> Self {
        let patience = Patience::default();
        // No public roots yet: nothing that Ingress says leads to them, and with none every such backend is refused.
        let well_known = Arc::new(RootCertStore::empty());
        Self {
            direct: Direct::new(edge_tls::edge_provider(tls::default_provider()), well_known),
            mesh: Client::new(pool, svid.clone(), trust, algorithms, config.source, patience.clone(), drain),
            svid,
            name: Arc::clone(&config.name),
            patience,
        }
    }

    /// A stream to who proves to be one of `ids`.
    async fn open(&self, endpoint: &Endpoint, ids: &[SpiffeId]) -> io::Result<Box<dyn Stream>> {
        let address = endpoint.address;
        let open = Open { destination: address.to_string(), source: self.name.to_string() };
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
                (own << 32) ^ self.mesh.pool.epoch() // both count a process's renewals and retired roots
            }
            Security::Plain | Security::Tls(_) => self.direct.generation(security),
        }
    }
}
