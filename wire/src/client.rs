//! The way to an endpoint: a wire that waits for its next use, or a new one to exactly the identity that is expected there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{crypto::WebPkiSupportedAlgorithms, pki_types::UnixTime};
use signet_core::{clock, drain::Drain, identity::SpiffeId, tls::Peer, trust::Trust, verifier::MeshVerifier};
use signet_link::svid::Svid;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    connection::{Patience, Wire},
    pool::{Direction, Pool},
    refusal::Refusal,
};

/// What every wire that we open needs.
pub struct Client {
    pub pool: Arc<Pool>,
    /// Where streams end that nobody holds any more.
    pub(crate) drain: Drain,
    svid: Svid,
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    /// The local address to dial from; the kernel's choice where there is none.
    source: Option<IpAddr>,
    patience: Patience,
}

/// A wire, and whether it was used before.
pub struct Found {
    pub wire: Box<Wire>,
    pub used: bool,
}

impl Client {
    pub fn new(
        pool: Arc<Pool>,
        svid: Svid,
        trust: Arc<Trust>,
        algorithms: WebPkiSupportedAlgorithms,
        source: Option<IpAddr>,
        patience: Patience,
        drain: &Drain,
    ) -> Self {
        Self { pool, drain: drain.clone(), svid, trust, algorithms, source, patience }
    }

    /// A wire to `id` at `to`. Errors: no certificate of our own, and what [`Wire::connect`] says; a peer that is somebody else
    /// is [`Refusal::Identity`].
    pub async fn wire(&self, to: SocketAddr, id: &SpiffeId, deadline: Instant) -> Result<Found, Refusal> {
        let generation = self.svid.current().ok_or(Refusal::NoCertificate)?;
        match self.pool.take(to, id, generation.number, clock::unix_now()) {
            Some(wire) => Ok(Found { wire, used: true }),
            None => Ok(Found { wire: Box::pin(self.connect(to, id, deadline)).await?, used: false }),
        }
    }

    /// Ready when a stream to `peer` may not live on.
    pub(crate) fn cut(&self, peer: Arc<Peer>, address: SocketAddr) -> impl Future<Output = Refusal> + use<> {
        let (trust, algorithms) = (Arc::clone(&self.trust), self.algorithms);
        let (mut trusted, mut leaves) = (trust.watch(), self.svid.watch());
        async move {
            loop {
                tokio::select! {
                    changed = trusted.changed() => match changed {
                        Ok(()) => {
                            let distrust = Distrust::of(&trust, algorithms);
                            if distrust.is_some_and(|distrust| distrust.reaches(&peer)) {
                                return Refusal::RootDistrusted { peer: address };
                            }
                        }
                        Err(_) => return std::future::pending().await,
                    },
                    changed = leaves.changed() => match changed {
                        Ok(()) if leaves.borrow_and_update().is_none() => return Refusal::CertificateExpired,
                        Ok(()) => {}
                        Err(_) => return std::future::pending().await, // the process ends
                    },
                }
            }
        }
    }

    /// A new one. A server that answers the handshake with something else than TLS gets a second chance for [`AFRESH`]: it may
    /// have taken us for a stranger before it knew us.
    async fn connect(&self, to: SocketAddr, id: &SpiffeId, deadline: Instant) -> Result<Box<Wire>, Refusal> {
        let begun = Instant::now();
        let afresh = deadline.min(begun + AFRESH);
        loop {
            let generation = self.svid.current().ok_or(Refusal::NoCertificate)?;
            let epoch = self.pool.epoch();
            let connecting = Wire::connect(to, self.source, &generation, &self.patience);
            let connected = timeout_at(deadline, Box::pin(connecting)).await;
            let late = || Err(Refusal::HandshakeTimeout { peer: to, waited: begun.elapsed() });
            match connected.unwrap_or_else(|_| late()) {
                Ok(mut wire) => {
                    wire.epoch = epoch;
                    if let Err(why) = wire.peer.expect(id) {
                        wire.close(None).await;
                        return Err(Refusal::Identity { peer: to, why: why.into() });
                    }
                    self.pool.shook_hands(Direction::Outbound);
                    return Ok(wire);
                }
                Err(why) if why.is_not_tls() && Instant::now() < afresh => sleep(AFRESH_PAUSE).await,
                Err(why) => return Err(why),
            }
        }
    }
}

/// That roots were distrusted: the one change of trust that cuts what is busy. A retired root's leaves have expired by themselves.
pub struct Distrust {
    verifier: Arc<MeshVerifier>,
    /// Unix seconds.
    now: i64,
}

impl Distrust {
    /// `None`: nothing is distrusted, or nothing is known.
    pub fn of(trust: &Arc<Trust>, algorithms: WebPkiSupportedAlgorithms) -> Option<Self> {
        let any = trust.bundle().is_some_and(|bundle| !bundle.distrusted.is_empty());
        (any && trust.fault().is_none()).then(|| Self {
            verifier: MeshVerifier::new(Arc::clone(trust), algorithms),
            now: clock::unix_now(),
        })
    }

    /// Whether it reaches `peer`. That its leaf has expired since is no reason: a busy connection outlives it (design 4).
    pub fn reaches(&self, peer: &Peer) -> bool {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.now.unsigned_abs()));
        peer.leaf.not_after >= self.now && self.verifier.check_chain(&peer.chain, now).is_err()
    }
}

/// How long a server may answer our handshake with plaintext (design 4).
const AFRESH: Duration = Duration::from_secs(2);
const AFRESH_PAUSE: Duration = Duration::from_millis(100);
