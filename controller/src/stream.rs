//! The discovery stream, delta xDS: open -> requests and changes, in turn -> responses -> end. What is sent is decided in
//! [`crate::subscriptions`]; who may have it in [`crate::resources`].

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use rustls::{crypto::WebPkiSupportedAlgorithms, pki_types::UnixTime};
use signet_api::xds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use signet_core::{clock, drain::Drain, tls::Peer, trust::Trust, verifier::MeshVerifier};
use signet_link::server::Caller;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::{
    metrics::Metrics,
    resources::{Serves, Subscriber},
    streams::{Seat, Streams},
    subscriptions::{Answer, Breach},
};

/// The gRPC service.
pub(crate) struct Discovery<S> {
    pub(crate) snapshots: watch::Receiver<Arc<S>>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
}

impl<S> Clone for Discovery<S> {
    fn clone(&self) -> Self {
        Self {
            snapshots: self.snapshots.clone(),
            streams: Arc::clone(&self.streams),
            trust: Arc::clone(&self.trust),
            algorithms: self.algorithms,
            metrics: Arc::clone(&self.metrics),
            drain: self.drain.clone(),
        }
    }
}

#[tonic::async_trait]
impl<S: Serves> AggregatedDiscoveryService for Discovery<S> {
    type DeltaAggregatedResourcesStream = stream::Map<ReceiverStream<Boxed>, fn(Boxed) -> Unboxed>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (peer, who) = caller(&request)?;
        let Some(seat) = self.streams.open(&who) else {
            self.metrics.refused("too_many_streams");
            warn!(id = %who.id, address = %who.address, "discovery stream refused: it has too many already");
            return Err(Status::resource_exhausted("too many discovery streams of this workload"));
        };
        let (responses, stream) = mpsc::channel(S::TYPES.len() + 1); // one in flight per type, and the end: never full
        let session = Session { discovery: self.clone(), peer, who, seat, responses, ack_by: None };
        self.drain.spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream).map(|response| response.map(|response| *response))))
    }
}

/// The verified caller of a method. Without a certificate there is none, and no answer.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<(Arc<Peer>, Subscriber), Status> {
    let caller = request.extensions().get::<Caller>();
    let peer = caller.and_then(|caller| caller.peer.clone());
    match (caller, peer) {
        (Some(caller), Some(peer)) => {
            let who = Subscriber { id: peer.id().clone(), address: caller.address.ip().to_canonical() };
            Ok((peer, who))
        }
        _ => Err(Status::unauthenticated("a certificate of this mesh is needed")),
    }
}

/// On its way to the stream: tokio's channels hold 32 places each, so a place is to be small.
type Boxed = Result<Box<DeltaDiscoveryResponse>, Status>;
type Unboxed = Result<DeltaDiscoveryResponse, Status>;

/// One stream's life.
struct Session<S> {
    discovery: Discovery<S>,
    peer: Arc<Peer>,
    who: Subscriber,
    seat: Seat,
    responses: mpsc::Sender<Boxed>,
    /// When the oldest response in flight must have been answered.
    ack_by: Option<Instant>,
}

impl<S: Serves> Session<S> {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let metrics = Arc::clone(&self.discovery.metrics);
        metrics.streams.inc();
        debug!(id = %self.who.id, address = %self.who.address, "discovery stream opened");
        let end = self.serve(&mut requests).await;
        metrics.subscriptions.dec_by(i64::try_from(self.seat.subscriptions().names()).unwrap_or(i64::MAX));
        metrics.streams.dec();
        if let Some(status) = end {
            info!(id = %self.who.id, address = %self.who.address, why = status.message(), "discovery stream ended");
            let _ = self.responses.send(Err(status)).await; // fails when the client has gone: fine
        }
    }

    /// Until the client leaves (`None`), or with the words that it is sent away with.
    async fn serve(&mut self, requests: &mut Streaming<DeltaDiscoveryRequest>) -> Option<Status> {
        let mut snapshots = self.discovery.snapshots.clone();
        let mut trust = self.discovery.trust.watch();
        let expiry = Instant::now() + left(&self.peer);
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.push(&snapshot).await?;
            let ack_by = self.ack_by;
            tokio::select! {
                biased;
                () = self.discovery.drain.stopping() => return Some(stops::<S>()),
                () = self.responses.closed() => return None,
                () = sleep_until(expiry) => {
                    return Some(Status::unauthenticated("your certificate expired; come back with the next one"));
                }
                () = sleep_until(ack_by.unwrap_or(expiry)), if ack_by.is_some() => {
                    self.discovery.metrics.refused("no_ack");
                    return Some(Status::deadline_exceeded(format!("no answer to a response in {ACK:?}")));
                }
                _ = trust.changed() => {
                    if !self.is_believed() {
                        return Some(Status::unauthenticated("your certificate rests on a root that is distrusted"));
                    }
                }
                changed = snapshots.changed() => match changed {
                    Ok(()) => self.seat.subscriptions().touch(),
                    Err(_) => return Some(stops::<S>()),
                },
                message = requests.message() => match message {
                    Ok(Some(request)) => if let Err(status) = self.take(request) { return Some(status) },
                    Ok(None) | Err(_) => return None,
                },
            }
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let metrics = &self.discovery.metrics;
        let before = self.seat.subscriptions().names();
        let answer = self.seat.subscriptions().request(request);
        let gained = self.seat.subscriptions().names() as i64 - before as i64;
        metrics.subscriptions.inc_by(gained);
        let answer = answer.map_err(|breach| {
            warn!(id = %self.who.id, address = %self.who.address, "discovery stream ended: {breach}");
            match breach {
                Breach::TooManyNames => {
                    metrics.refused("too_many_names");
                    Status::resource_exhausted(breach.to_string())
                }
                Breach::UnknownType(_) | Breach::LongName(_) => {
                    metrics.refused("bad_request");
                    Status::invalid_argument(breach.to_string())
                }
            }
        })?;
        match answer {
            Answer::None => return Ok(()),
            Answer::Ack(kind) => self.seat.nack(kind, None),
            Answer::Nack { kind, names, why } => {
                let shown = names.iter().take(NACK_NAMES).map(|name| &**name).collect::<Vec<_>>().join(", ");
                warn!(id = %self.who.id, address = %self.who.address, kind = kind.word(), names = %shown, %why, "a data plane rejected what we sent");
                metrics.nacks(kind.word());
                self.seat.nack(kind, Some(format!("{} {shown}: {why}", kind.word())));
            }
        }
        self.ack_by = self.seat.subscriptions().in_flight().then(|| Instant::now() + ACK);
        Ok(())
    }

    /// Sends what is due. `None`: the client has gone.
    async fn push(&mut self, snapshot: &S) -> Option<()> {
        for kind in S::TYPES.iter().copied() {
            let (who, metrics) = (&self.who, &self.discovery.metrics);
            let refused = |name: &str, word: &'static str| {
                warn!(id = %who.id, address = %who.address, kind = kind.word(), name, reason = word, "subscription refused");
                metrics.refused(word);
            };
            let response = self.seat.subscriptions().next(kind, snapshot, who, refused);
            if let Some(response) = response {
                metrics.pushes(kind.word());
                self.responses.send(Ok(Box::new(response))).await.ok()?;
                self.ack_by.get_or_insert(Instant::now() + ACK);
            }
        }
        Some(())
    }

    fn is_believed(&self) -> bool {
        let verifier = MeshVerifier::new(Arc::clone(&self.discovery.trust), self.discovery.algorithms);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now().unsigned_abs()));
        verifier.check_chain(&self.peer.chain, now).is_ok()
    }
}

fn stops<S: Serves>() -> Status {
    Status::unavailable(format!("{} stops", S::PART))
}

/// How long the peer's leaf is still valid.
fn left(peer: &Peer) -> Duration {
    Duration::from_secs(u64::try_from(peer.leaf.not_after + 1 - clock::unix_now()).unwrap_or(0).min(A_YEAR))
}

/// A proxy answers at once; one that is stopped for longer comes back with the versions that it holds.
const ACK: Duration = Duration::from_secs(60);
/// Seconds; timers further away than any leaf lives are capped.
const A_YEAR: u64 = 365 * 24 * 3600;
/// Names of a rejected response that a log line repeats.
const NACK_NAMES: usize = 5;

#[cfg(test)]
#[path = "stream/tests.rs"]
pub(crate) mod tests;
