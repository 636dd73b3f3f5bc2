//! Inbound: what others open to our workload. The order of this file is a connection's life: accept -> admit (our wire or
//! plaintext) -> handshake -> OPEN -> authorize -> dial the app -> relay -> record -> the next OPEN.
//!
//! No certificate, no settings or a policy that does not allow it refuses the connection (design 7, 10). The server trusts
//! its own eyes: it dials and authorizes its configured target, never an address from OPEN. Every OPEN is judged by itself,
//! and has its own row and log line.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use signet_api::wire::Open;
use signet_core::{clock, drain::Drain};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use signet_wire::{
    connection::Wire,
    frames::Reset,
    pool::Direction,
    refusal::Refusal,
    socket::{self, AppSocket},
};

use crate::{
    Proxy,
    admit::{Admitted, admit},
    capture::INBOUND_PORT,
    captured,
    config::{Config, Inbound},
    connections::{Entry, Facts},
    judge::{self, caller},
    listen::{self, CannotListen, Place, Places, Sources},
    model::{Snapshot, Transport},
    pump::Pump,
    relay,
    settings::{Judgement, Settings},
};

/// Bound, not yet served. Without an inbound of its own, a listener takes what the kernel redirects to it.
pub struct Listeners(Vec<(TcpListener, Option<Arc<Inbound>>)>);

pub async fn bind(config: &Config) -> Result<Listeners, CannotListen> {
    let mut bound = Vec::new();
    for inbound in &config.inbound {
        let origin = format!("inbound port {}", inbound.port);
        bound.push((listen::bind(inbound.listen, &origin).await?, Some(Arc::new(inbound.clone()))));
    }
    if config.captured {
        bound.push((listen::bind_everywhere(INBOUND_PORT, "captured inbound")?, None));
    }
    Ok(Listeners(bound))
}

impl Listeners {
    /// Accepts until `drain` stops.
    pub fn serve(self, proxy: &Arc<Proxy>, drain: &Drain) {
        let places = Places::new(proxy.config.limits.connections);
        let sources = Sources::new(proxy.config.limits.arrivals_per_source);
        for (listener, inbound) in self.0 {
            let (proxy, work) = (Arc::clone(proxy), drain.clone());
            let (places, sources) = (places.clone(), sources.clone());
            listen::serve(listener, drain, move |down, source| {
                let counted = (places.clone(), sources.clone());
                serve(Arc::clone(&proxy), down, source, inbound.clone(), counted, work.clone())
            });
        }
    }
}

/// Carries one TCP connection and records how each app connection on it ended, at whichever step.
async fn serve(
    proxy: Arc<Proxy>,
    down: TcpStream,
    source: SocketAddr,
    inbound: Option<Arc<Inbound>>,
    (places, sources): (Places, Sources),
    drain: Drain,
) {
    let (inbound, redirected) = match inbound {
        Some(inbound) => (inbound, Ok(())),
        None => captured::inbound(&down),
    };
    let entry = proxy.connections.open(facts(&proxy, source, &inbound));
    if let Err(why) = redirected {
        return entry.close(&Err(why));
    }
    let Some(place) = places.take() else {
        return entry.close(&Err(Refusal::OverLimit { limit: proxy.config.limits.connections }));
    };
    // The rest is a task of its own, so that a relay does not hold the room that the handshake needed.
    match Box::pin(arrive(&proxy, down, source, &inbound, &sources, &entry)).await {
        Err(why) => entry.close(&Err(why)),
        Ok(Arrived::Left) => entry.close(&Ok(())),
        Ok(Arrived::Plain(plain)) => drain.spawn(serve_plain(proxy, plain, inbound, entry, place)),
        Ok(Arrived::Wire(wire)) => {
            drain.spawn(serve_wire(proxy, wire, inbound, entry, place, drain.clone()));
        }
    }
}

fn facts(proxy: &Proxy, source: SocketAddr, inbound: &Inbound) -> Facts {
    let own = captured::shown(&proxy.config, inbound);
    Facts::new(Direction::Inbound, source, own.to_string().into(), inbound.port)
}

/// What came in.
enum Arrived {
    /// A wire with its first OPEN.
    Wire(Box<Wire>),
    Plain(Plain),
    /// The client left before it wanted anything.
    Left,
}

/// Plaintext, and allowed.
struct Plain {
    down: AppSocket,
    received: Vec<u8>,
    /// Dialled already, because it may speak first.
    app: Option<AppSocket>,
    settings: Arc<Settings>,
}

/// From the first byte to what is wanted.
async fn arrive(
    proxy: &Proxy,
    down: TcpStream,
    source: SocketAddr,
    inbound: &Inbound,
    sources: &Sources,
    entry: &Entry,
) -> Result<Arrived, Refusal> {
    let limit = proxy.config.limits.arrivals_per_source;
    let _arrival =
        sources.arrive(source.ip()).ok_or(Refusal::SourceOverLimit { from: source.ip(), limit })?;
    let snapshot = proxy.model.snapshot();
    entry.note(|facts| facts.model_generation = snapshot.generation);
    let settings = snapshot.settings.clone().ok_or(Refusal::NoSettings)?;
    let mut down = AppSocket::new(down).map_err(|source| Refusal::AppReset { source })?;
    match admit(proxy, &mut down, source, inbound, &settings, entry).await? {
        Admitted::Nothing => Ok(Arrived::Left),
        Admitted::Plain { received, app } => Ok(Arrived::Plain(Plain { down, received, app, settings })),
        Admitted::Wire(received) => {
            let wire = shake_hands(proxy, down, received, source, entry).await?;
            Ok(wire.map_or(Arrived::Left, Arrived::Wire))
        }
    }
}

/// How an app connection ended, and the wire if it can carry another one.
struct Served {
    end: Result<(), Refusal>,
    wire: Option<Box<Wire>>,
}

/// The handshake and the first OPEN; `None`: the client closed without one (it did not find in us whom it expected).
async fn shake_hands(
    proxy: &Proxy,
    down: AppSocket,
    received: Vec<u8>,
    source: SocketAddr,
    entry: &Entry,
) -> Result<Option<Box<Wire>>, Refusal> {
    let limits = &proxy.config.limits;
    let generation = proxy.svid.current().ok_or(Refusal::NoCertificate)?;
    let down = down.into_tcp().map_err(|source| Refusal::AppReset { source })?;
    let epoch = proxy.client.pool.epoch();
    let mut wire = Wire::accept(down, received, source, &generation, &limits.wire).await?;
    wire.epoch = epoch;
    proxy.client.pool.shook_hands(Direction::Inbound);
    entry.verified(&wire.peer);
    let open = timeout(limits.open, wire.next_open()).await;
    let open =
        open.map_err(|_| Refusal::Protocol { peer: source, why: format!("no OPEN in {:?}", limits.open) })?;
    let open = open.map_err(|fault| fault.refusal(source))?;
    Ok(open.map(|open| {
        note_claim(entry, &open);
        wire
    }))
}

/// The app connections of a wire, one after the other; `entry` is the first one's.
async fn serve_wire(
    proxy: Arc<Proxy>,
    mut wire: Box<Wire>,
    inbound: Arc<Inbound>,
    mut entry: Entry,
    _place: Place,
    drain: Drain,
) {
    loop {
        wire = {
            let served = serve_stream(&proxy, wire, &inbound, &entry, &drain).await;
            entry.close(&served.end);
            let Some(wire) = served.wire else { return };
            wire
        };
        let Some(open) = Box::pin(between_streams(&proxy, &mut wire)).await else { return };
        entry = proxy.connections.open(facts(&proxy, wire.address, &inbound));
        entry.verified(&wire.peer);
        note_claim(&entry, &open);
    }
}

/// Waits for the next OPEN. `None`: the wire is over, because the client closed it or we said GOAWAY.
async fn between_streams(proxy: &Arc<Proxy>, wire: &mut Wire) -> Option<Open> {
    let mut retired = proxy.client.pool.watch_retired();
    let seat = proxy.client.pool.seat(wire.peer.id());
    let is_of_now = wire.epoch == *retired.borrow_and_update();
    if seat.is_some() && is_of_now && !proxy.is_draining() && wire.may_open(clock::unix_now()) {
        tokio::select! {
            biased;
            open = wire.next_open() => match open {
                Ok(open) => return open,
                Err(fault) => {
                    tracing::debug!(peer = %wire.address, %fault, "an idle connection broke");
                    return None;
                }
            },
            _ = retired.changed() => {}
            () = sleep(IDLE_TIME) => {}
        }
    }
    if wire.go_away().await.is_ok() {
        let _ = timeout(LINGER, wire.until_closed()).await;
    }
    drop(seat); // a drain waits for it
    None
}

/// One app connection on a wire, from its OPEN on.
async fn serve_stream(
    proxy: &Proxy,
    wire: Box<Wire>,
    inbound: &Inbound,
    entry: &Entry,
    drain: &Drain,
) -> Served {
    // Boxed, so that the relay does not hold what only the way to it needed.
    let app = match Box::pin(reach_app(proxy, &wire, inbound, entry, drain)).await {
        Ok(app) => app,
        Err((reset, why)) => return Box::pin(refuse(wire, reset, why)).await,
    };
    let mut pump = Box::new(Pump::accept(app, wire, Arc::clone(entry.live())));
    let end = relay::framed(&mut pump, entry).await;
    let (app, _, wire) = pump.take_back();
    match end {
        Ok(()) => {
            app.end();
            Served { end: Ok(()), wire: Some(wire) }
        }
        Err(why) => {
            drop(app); // reset
            Box::pin(wire.abort(&why)).await;
            Served { end: Err(why), wire: None }
        }
    }
}

/// The app, if this OPEN may reach it; otherwise what the client is told, and why.
async fn reach_app(
    proxy: &Proxy,
    wire: &Wire,
    inbound: &Inbound,
    entry: &Entry,
    drain: &Drain,
) -> Result<AppSocket, (Reset, Refusal)> {
    if drain.is_stopping() || !wire.may_open(clock::unix_now()) {
        return Err((Reset::Draining, Refusal::Draining));
    }
    // This OPEN is judged on one snapshot of now.
    let snapshot = proxy.model.snapshot();
    entry.note(|facts| facts.model_generation = snapshot.generation);
    let settings = snapshot.settings.as_ref().ok_or((Reset::Denied, Refusal::NoSettings))?;
    authorize(settings, inbound.port, entry).map_err(|denied| (Reset::Denied, denied))?;
    let app = dial_app(inbound, proxy.config.limits.wire.dial).await.map_err(|why| (Reset::Refused, why))?;
    entry.carried();
    judge::judge(&proxy.model.snapshot(), entry.live());
    Ok(app)
}

/// Answers an OPEN with RST; the wire stays usable, or is left to the client to close, which a reset of ours must not overtake.
async fn refuse(mut wire: Box<Wire>, reset: Reset, why: Refusal) -> Served {
    let said = wire.refuse(reset).await;
    Served { end: Err(why), wire: said.is_ok().then_some(wire) }
}

async fn serve_plain(proxy: Arc<Proxy>, plain: Plain, inbound: Arc<Inbound>, entry: Entry, _place: Place) {
    let end = match Box::pin(open_plain(&proxy, plain, &inbound, &entry)).await {
        Ok((down, app, received)) => relay::plain(down, app, received, &entry).await,
        Err(why) => Err(why),
    };
    entry.close(&end);
}

async fn open_plain(
    proxy: &Proxy,
    plain: Plain,
    inbound: &Inbound,
    entry: &Entry,
) -> Result<(AppSocket, AppSocket, Vec<u8>), Refusal> {
    let Plain { down, received, app, settings } = plain;
    entry.note(|facts| {
        let snapshot = proxy.model.snapshot();
        facts.plain_reason = Some(plain_reason(&snapshot, facts.source));
        facts.peer =
            snapshot.workload_at(facts.source.ip()).map(|w| format!("{}/{}", w.namespace, w.name).into());
    });
    authorize(&settings, inbound.port, entry)?;
    let app = match app {
        Some(app) => app,
        None => dial_app(inbound, proxy.config.limits.wire.dial).await?,
    };
    entry.carried();
    judge::judge(&proxy.model.snapshot(), entry.live());
    Ok((down, app, received))
}

/// Why this peer speaks plaintext, in the controller's word where it has one.
fn plain_reason(snapshot: &Snapshot, source: SocketAddr) -> Arc<str> {
    match snapshot.workload_at(source.ip()).map(|workload| &workload.transport) {
        Some(Transport::Plain(reason)) => Arc::clone(reason),
        Some(Transport::Mesh(_)) => "client_bypassed_proxy".into(),
        None => "client_unknown".into(),
    }
}

/// Whether our policies let this caller in.
pub fn authorize(settings: &Settings, port: u16, entry: &Entry) -> Result<(), Refusal> {
    let facts = entry.live().facts();
    match settings.judge(facts.peer_id(), port) {
        Judgement::Allowed => Ok(()),
        Judgement::Audited(policies) => {
            entry.note(|facts| facts.audited = Some(policies));
            Ok(())
        }
        Judgement::Denied(policies) => Err(Refusal::Denied { caller: caller(&facts), port, policies }),
    }
}

/// The app behind a port; it says no where it does not listen.
pub async fn dial_app(inbound: &Inbound, patience: Duration) -> Result<AppSocket, Refusal> {
    let dialled = socket::dial(inbound.target, None, patience).await;
    dialled.and_then(AppSocket::new).map_err(|source| Refusal::App { address: inbound.target, source })
}

fn note_claim(entry: &Entry, open: &Open) {
    entry.note(|facts| facts.peer = name_for_logs(&open.source));
}

/// A client's claim about its own name, where it looks like one.
fn name_for_logs(claim: &str) -> Option<Arc<str>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/');
    (!claim.is_empty() && claim.len() <= MAX_NAME && claim.chars().all(plain)).then(|| claim.into())
}

/// A client that says nothing for so long has forgotten us; more than its own 60 s (pool.rs).
const IDLE_TIME: Duration = Duration::from_secs(90);
/// GOAWAY to close: an OPEN that crossed it finds its answer.
const LINGER: Duration = Duration::from_secs(10);
/// Namespace (63) + "/" + pod name (253), RFC 1123 as Kubernetes uses it.
const MAX_NAME: usize = 317;
