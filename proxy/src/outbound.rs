//! Outbound: what our app opens to others. The order of this file is a connection's life: accept -> way (where to, says the
//! controller) -> try an endpoint -> a wire, idle or new -> open -> relay -> record.
//!
//! No downgrade, ever: an endpoint of the mesh is reached over mutual TLS or not at all.

use std::{net::SocketAddr, sync::Arc};

use signet_api::wire::Open;
use signet_core::{drain::Drain, identity::SpiffeId};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use signet_wire::{
    client::Found,
    connection::Wire,
    frames::Reset,
    pool::Direction,
    refusal::Refusal,
    socket::{self, AppSocket},
};

use crate::{
    Proxy,
    balance::Busy,
    capture::{OUTBOUND_PORT, self_test},
    captured,
    config::{Config, Upstream},
    connections::{Entry, Facts},
    judge,
    listen::{self, CannotListen, Place, Places},
    model::Transport,
    pump::{Flight, Pump, Refused},
    relay,
    way::{Endpoint, way},
};

/// Bound, not yet served. Without an upstream of its own, a listener takes what the kernel redirects to it.
pub struct Listeners(Vec<(TcpListener, Option<Arc<Upstream>>)>);

pub async fn bind(config: &Config) -> Result<Listeners, CannotListen> {
    let mut bound = Vec::new();
    for upstream in &config.upstreams {
        let origin = format!("upstream {}", upstream.to);
        bound.push((listen::bind(upstream.listen, &origin).await?, Some(Arc::new(upstream.clone()))));
    }
    if config.captured {
        bound.push((listen::bind_everywhere(OUTBOUND_PORT, "captured outbound")?, None));
    }
    Ok(Listeners(bound))
}

impl Listeners {
    /// Accepts until `drain` stops.
    pub fn serve(self, proxy: &Arc<Proxy>, drain: &Drain) {
        let places = Places::new(proxy.config.limits.connections);
        for (listener, upstream) in self.0 {
            let (proxy, work, places) = (Arc::clone(proxy), drain.clone(), places.clone());
            listen::serve(listener, drain, move |app, source| {
                serve(Arc::clone(&proxy), app, source, upstream.clone(), places.clone(), work.clone())
            });
        }
    }
}

/// Carries one connection and records how it ended, at whichever step.
async fn serve(
    proxy: Arc<Proxy>,
    app: TcpStream,
    source: SocketAddr,
    upstream: Option<Arc<Upstream>>,
    places: Places,
    drain: Drain,
) {
    let (upstream, redirected) = match upstream {
        Some(upstream) => (upstream, Ok(())),
        None => captured::outbound(&app),
    };
    if let Some(process) = captured::asks_who_we_are(&proxy, &upstream) {
        return Box::pin(self_test::answer(app, process)).await;
    }
    let facts = Facts::new(Direction::Outbound, source, Arc::clone(&upstream.to), upstream.port);
    let entry = proxy.connections.open(facts);
    if let Err(why) = redirected {
        return entry.close(&Err(why));
    }
    let Some(place) = places.take() else {
        return entry.close(&Err(Refusal::OverLimit { limit: proxy.config.limits.connections }));
    };
    // The relay is a task of its own, so that it does not hold what only the way to it needed.
    match Box::pin(open(&proxy, app, &upstream, &entry)).await {
        Ok((Carrier::Wire(pump), busy)) => drain.spawn(carry(proxy, pump, entry, (busy, place))),
        Ok((Carrier::Plain { app, endpoint }, busy)) => {
            drain.spawn(carry_plain(app, endpoint, entry, (busy, place)));
        }
        Err(why) => entry.close(&Err(why)),
    }
}

/// What carries the app's bytes to an endpoint that takes them.
enum Carrier {
    Wire(Box<Pump>),
    Plain { app: AppSocket, endpoint: AppSocket },
}

/// From the app's connection to an endpoint that accepted it.
async fn open(
    proxy: &Proxy,
    app: TcpStream,
    upstream: &Upstream,
    entry: &Entry,
) -> Result<(Carrier, Busy), Refusal> {
    let mut app = AppSocket::new(app).map_err(|source| Refusal::AppReset { source })?;
    let deadline = Instant::now() + proxy.config.limits.try_all;
    let mut way = way(proxy, upstream, entry).await?;
    let mut flight = Box::<Flight>::default();
    let mut refusal = None;
    for _ in 0..proxy.config.limits.tries {
        let Some((endpoint, busy)) = way.pick(proxy) else { break };
        entry.note(|facts| {
            facts.peer_address = Some(endpoint.address);
            facts.peer = endpoint.name.clone();
        });
        let tried = match &endpoint.transport {
            Transport::Plain(reason) => plain(proxy, app, &endpoint, reason, entry).await,
            Transport::Mesh(id) => {
                let to = To { endpoint: &endpoint, id, upstream, deadline };
                mesh(proxy, app, flight, &to, entry).await
            }
        };
        match tried {
            Tried::Accepted(carrier) => {
                entry.carried();
                judge::judge(&proxy.model.snapshot(), entry.live());
                return Ok((carrier, busy));
            }
            Tried::Final(why) => return Err(why),
            Tried::Another { app: back, flight: said, why } => {
                (app, flight) = (back, said);
                way.drop_after_failure(&endpoint);
                refusal = Some(why);
            }
        }
    }
    Err(refusal.unwrap_or_else(|| Refusal::NoEndpoint { to: Arc::clone(&upstream.to), port: upstream.port }))
}

/// To the end, and the wire back to the pool.
async fn carry(proxy: Arc<Proxy>, mut pump: Box<Pump>, entry: Entry, _counted: (Busy, Place)) {
    let end = relay::framed(&mut pump, &entry).await;
    let (app, _, wire) = pump.take_back();
    match &end {
        Ok(()) => {
            app.end();
            proxy.client.pool.put(wire);
        }
        Err(why) => {
            drop(app); // reset
            Box::pin(wire.abort(why)).await;
        }
    }
    entry.close(&end);
}

async fn carry_plain(app: AppSocket, endpoint: AppSocket, entry: Entry, _counted: (Busy, Place)) {
    let end = relay::plain(endpoint, app, Vec::new(), &entry).await;
    entry.close(&end);
}

/// What became of a try.
enum Tried {
    Accepted(Carrier),
    /// The app's bytes may have reached another one, or nobody may have them.
    Final(Refusal),
    /// No byte reached an app: another endpoint may be tried with what the app said so far.
    Another {
        app: AppSocket,
        flight: Box<Flight>,
        why: Refusal,
    },
}

/// The endpoint of one try.
struct To<'a> {
    endpoint: &'a Endpoint,
    id: &'a SpiffeId,
    upstream: &'a Upstream,
    deadline: Instant,
}

async fn plain(
    proxy: &Proxy,
    app: AppSocket,
    endpoint: &Endpoint,
    reason: &Arc<str>,
    entry: &Entry,
) -> Tried {
    entry.note(|facts| facts.plain_reason = Some(Arc::clone(reason)));
    let limits = &proxy.config.limits;
    let dialled = socket::dial(endpoint.address, Some(proxy.config.workload.address), limits.wire.dial).await;
    match dialled.and_then(AppSocket::new) {
        Ok(endpoint) => Tried::Accepted(Carrier::Plain { app, endpoint }),
        Err(source) => {
            // A plain endpoint is tried before any byte of the app is read: never after one of the mesh (way.rs).
            let why = Refusal::Unreachable { peer: endpoint.address, source };
            Tried::Another { app, flight: Box::default(), why }
        }
    }
}

async fn mesh(
    proxy: &Proxy,
    mut app: AppSocket,
    mut flight: Box<Flight>,
    to: &To<'_>,
    entry: &Entry,
) -> Tried {
    loop {
        let Found { wire, used } = match proxy.client.wire(to.endpoint.address, to.id, to.deadline).await {
            Ok(found) => found,
            Err(why) => return Tried::Another { app, flight, why },
        };
        entry.verified(&wire.peer);
        let workload = &proxy.config.workload;
        let open = Open {
            destination: to.upstream.to.to_string(),
            source: format!("{}/{}", workload.namespace, workload.pod),
        };
        let mut pump = Box::new(Pump::open(app, wire, open, flight, Arc::clone(entry.live())));
        let refused = match relay::opened(&mut pump, entry, to.deadline).await {
            Ok(None) => return Tried::Accepted(Carrier::Wire(pump)),
            Ok(Some(refused)) => refused,
            Err(why) => {
                if !pump.is_opening() {
                    entry.carried(); // it broke as it was accepted
                }
                let (app, _, wire) = pump.take_back();
                drop(app); // reset
                wire.abort(&why).await;
                return Tried::Final(why);
            }
        };
        let (back, said, mut wire) = pump.take_back();
        wire.going_away |= matches!(refused, Refused::Reset(Reset::Draining)); // it carries no other stream (docs/wire.md)
        (app, flight) = (back, said);
        if used && matches!(refused, Refused::GoneAway | Refused::Reset(Reset::Draining)) {
            continue; // the wire was old, not the endpoint: the same one again, on another wire
        }
        let why = refusal(refused, to, &wire);
        proxy.client.pool.put(wire); // unless it is going away
        return match refused {
            Refused::Reset(Reset::Denied) => Tried::Final(why),
            _ => Tried::Another { app, flight, why },
        };
    }
}

fn refusal(refused: Refused, to: &To<'_>, wire: &Wire) -> Refusal {
    let peer = to.endpoint.address;
    match refused {
        Refused::Reset(Reset::Denied) => {
            Refusal::DeniedByPeer { peer, server: wire.peer.id().clone(), port: to.upstream.port }
        }
        Refused::Reset(reset) => Refusal::RefusedByPeer { peer, word: reset.word() },
        Refused::GoneAway => Refusal::RefusedByPeer { peer, word: "going away" },
    }
}
