//! What we tell the controller: who we spoke with, how, and how much. On discovery's connection, and the first thing to be
//! dropped: sums wait in the connection table until they can be sent.

use std::{sync::Arc, time::Duration};

use signet_api::v1::{
    self, Direction as WireDirection, EdgeDelta, ProxyState, ReportRequest, telemetry_client::TelemetryClient,
};
use signet_core::drain::Drain;
use tokio::{
    sync::mpsc,
    time::{Instant, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::debug;

use crate::{
    Proxy,
    connections::{Direction, EdgeKey, EdgeSums},
    discovery::Discovery,
    settings::Mode,
};

/// Reports for ever, until `drain` stops.
pub fn run(proxy: Arc<Proxy>, discovery: &Arc<Discovery>, drain: &Drain) {
    let mut channel = discovery.channel();
    let stop = drain.clone();
    drain.spawn(async move {
        loop {
            let now = channel.borrow_and_update().clone();
            let one = async {
                if let Some(now) = now {
                    report(&proxy, now).await;
                }
            };
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                changed = channel.changed() => if changed.is_err() { return },
                () = async { one.await; std::future::pending().await } => {}
            }
        }
    });
}

/// One report stream over `channel`, until it ends.
async fn report(proxy: &Proxy, channel: Channel) {
    let (requests, outgoing) = mpsc::channel(REPORTS);
    let mut client = TelemetryClient::new(channel);
    let answer = client.report(ReceiverStream::new(outgoing));
    tokio::pin!(answer);
    let mut ticks = interval(TICK);
    let mut spoke: Option<Instant> = None;
    loop {
        tokio::select! {
            end = &mut answer => {
                debug!(?end, "report stream ended");
                return;
            }
            _ = ticks.tick() => {}
        }
        let Ok(slot) = requests.try_reserve() else { continue }; // pressure: the sums wait
        let edges = proxy.connections.take_edges();
        if edges.is_empty() && spoke.is_some_and(|spoke| spoke.elapsed() < ALIVE) {
            continue;
        }
        spoke = Some(Instant::now());
        slot.send(ReportRequest { proxy: Some(state(proxy)), edges: edges.into_iter().map(delta).collect() });
    }
}

fn state(proxy: &Proxy) -> ProxyState {
    let not_ready = proxy.not_ready();
    let mode = match proxy.model.snapshot().settings.as_deref().map(|settings| settings.mode) {
        Some(Mode::Strict) => v1::Mode::Strict,
        Some(Mode::Permissive) => v1::Mode::Permissive,
        None => v1::Mode::Unspecified,
    };
    ProxyState {
        namespace: proxy.config.workload.namespace.to_string(),
        pod: proxy.config.workload.pod.to_string(),
        version: signet_core::VERSION.into(),
        leaf_not_after: proxy.svid.current().map_or(0, |generation| generation.leaf.not_after),
        bundle_sequence: proxy.trust.bundle().map_or(0, |bundle| bundle.sequence),
        mode: mode.into(),
        ready: not_ready.is_empty(),
        not_ready: not_ready.join("; "),
    }
}

fn delta((key, sums): (EdgeKey, EdgeSums)) -> EdgeDelta {
    let direction = match key.direction {
        Direction::Inbound => WireDirection::Inbound,
        Direction::Outbound => WireDirection::Outbound,
    };
    EdgeDelta {
        direction: direction.into(),
        peer_id: key.peer_id.map(|id| id.to_string()).unwrap_or_default(),
        peer: key.peer.to_string(),
        port: key.port.into(),
        tls: key.tls.map(|tls| v1::Tls {
            version: tls.version.into(),
            key_exchange: tls.key_exchange.into(),
            cipher: tls.cipher.into(),
            peer_not_after: sums.peer_not_after,
        }),
        plain_reason: key.plain_reason.map(|reason| reason.to_string()).unwrap_or_default(),
        refused_reason: key.refused.unwrap_or_default().into(),
        opened: sums.opened,
        closed: sums.closed,
        sent: sums.sent,
        received: sums.received,
    }
}

/// A guess: an edge is seen soon after its first connection, and a busy proxy sends two small messages a second.
const TICK: Duration = Duration::from_millis(500);
/// Without traffic, so that the controller knows our state.
const ALIVE: Duration = Duration::from_secs(5);
const REPORTS: usize = 4;
