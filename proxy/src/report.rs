//! What we tell the controller: who we spoke with, how, and how much. On discovery's connection, and the first thing to be
//! dropped: sums wait in the connection table until they can be sent.

use std::{sync::Arc, time::Duration};

use futures_util::Stream;
use signet_api::v1::{
    self, Direction as WireDirection, EdgeDelta, ProxyState, ReportRequest, telemetry_client::TelemetryClient,
};
use signet_core::drain::Drain;
use signet_wire::pool::Direction;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tracing::debug;

use crate::{
    Proxy,
    connections::{Connections, EdgeKey, EdgeSums},
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
                std::future::pending().await // until there is another connection
            };
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                changed = channel.changed() => if changed.is_err() { return },
                () = one => {}
            }
        }
    });
}

/// One report stream over `channel`, until it ends.
async fn report(proxy: &Arc<Proxy>, channel: Channel) {
    let reports = Reports {
        connections: Arc::clone(&proxy.connections),
        state: {
            let proxy = Arc::clone(proxy);
            move || state(&proxy)
        },
        spoke: None,
        waiting: Vec::new(),
    };
    let end = TelemetryClient::new(channel).report(reports.stream()).await;
    debug!(?end, "report stream ended");
}

/// Makes a report when the transport asks for one: under pressure it does not ask, and the sums wait where they are.
struct Reports<S> {
    connections: Arc<Connections>,
    state: S,
    spoke: Option<Instant>,
    /// The last report, until the transport asks for the next one and so has taken it. If the stream ends before, its sums
    /// go back; sums that were taken and lost on the way are lost, since doubled ones would be worse.
    waiting: Vec<(EdgeKey, EdgeSums)>,
}

impl<S: Fn() -> ProxyState + Send + 'static> Reports<S> {
    fn stream(self) -> impl Stream<Item = ReportRequest> + Send + 'static {
        futures_util::stream::unfold(self, async |mut reports| {
            let report = reports.next().await;
            Some((report, reports))
        })
    }

    async fn next(&mut self) -> ReportRequest {
        self.waiting.clear();
        loop {
            let alive = self.spoke.is_none_or(|spoke| spoke.elapsed() >= ALIVE);
            let edges = self.connections.take_edges(alive);
            if alive || edges.iter().any(|(_, sums)| has_news(sums)) {
                self.spoke = Some(Instant::now());
                self.waiting = edges.clone();
                let edges = edges.into_iter().map(delta).collect();
                return ReportRequest { proxy: Some((self.state)()), edges };
            }
            sleep(TICK).await;
        }
    }
}

impl<S> Drop for Reports<S> {
    fn drop(&mut self) {
        self.connections.return_edges(std::mem::take(&mut self.waiting));
    }
}

/// Whether anything happened on an edge; a silent one is repeated only with the sign of life.
fn has_news(sums: &EdgeSums) -> bool {
    sums.opened + sums.closed + sums.sent + sums.received > 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Facts;
    use futures_util::{FutureExt as _, StreamExt as _};
    use signet_core::telemetry::Metrics;

    fn carried(table: &Arc<Connections>) -> crate::connections::Entry {
        let source = "198.18.0.9:4000".parse().unwrap();
        let entry = table.open(Facts::new(Direction::Inbound, source, "198.18.0.1:80".into(), 80));
        entry.carried();
        entry
    }

    fn reports(connections: &Arc<Connections>) -> Reports<fn() -> ProxyState> {
        let state: fn() -> ProxyState = ProxyState::default;
        Reports { connections: Arc::clone(connections), state, spoke: None, waiting: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn sums_that_the_transport_never_took_are_reported_by_the_next_stream_and_taken_ones_never_twice() {
        let table = Connections::new(&mut Metrics::new());
        let _entry = carried(&table);
        let mut broken = Box::pin(reports(&table).stream());
        assert_eq!(broken.next().await.unwrap().edges[0].opened, 1);
        drop(broken);
        let mut good = Box::pin(reports(&table).stream());
        assert_eq!(good.next().await.unwrap().edges[0].opened, 1, "given back");
        assert!(good.next().now_or_never().is_none(), "asked again, so the first one is on its way");
        drop(good);
        assert_eq!(table.take_edges(true)[0].1.opened, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_within_a_tick_and_silence_costs_only_the_sign_of_life() {
        let table = Connections::new(&mut Metrics::new());
        let mut stream = Box::pin(reports(&table).stream());
        assert!(stream.next().await.unwrap().edges.is_empty(), "who we are, at once");
        let asked = Instant::now();
        let entry = {
            let next = stream.next();
            tokio::pin!(next);
            assert!(next.as_mut().now_or_never().is_none());
            let entry = carried(&table);
            assert_eq!(next.await.unwrap().edges[0].opened, 1);
            entry
        };
        assert!(asked.elapsed() <= TICK, "{:?}", asked.elapsed());
        let told = Instant::now();
        assert_eq!(stream.next().await.unwrap().edges.len(), 1, "the silent edge is still one");
        assert!(told.elapsed() >= ALIVE, "{:?}", told.elapsed());
        drop(entry);
    }
}
