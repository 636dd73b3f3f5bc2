//! Inbound: what others open to our workload. The order of this file is a connection's life: accept -> admit (our wire or
//! plaintext, by its first bytes) -> handshake -> OPEN -> authorize -> dial the app -> relay -> record.
//!
//! No certificate, no settings or a policy that does not allow it refuses the connection (design 7, 10). The server trusts
//! its own eyes: it dials and authorizes its configured target, never an address from OPEN.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use signet_core::drain::Drain;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Proxy,
    config::{Config, Inbound},
    connections::{Direction, Entry, Facts},
    frames::{Frame, Reset},
    hello::{Look, look},
    judge::{self, caller},
    listen::{self, CannotListen, Places},
    model::{Answer, Snapshot, Transport},
    refusal::Refusal,
    relay::{self, AppSocket, Owes},
    settings::{Judgement, Settings},
    wire::{self, Wire},
};

/// Bound, not yet served.
pub struct Listeners(Vec<(TcpListener, Arc<Inbound>)>);

pub async fn bind(config: &Config) -> Result<Listeners, CannotListen> {
    let mut bound = Vec::new();
    for inbound in &config.inbound {
        let origin = format!("inbound port {}", inbound.port);
        bound.push((listen::bind(inbound.listen, &origin).await?, Arc::new(inbound.clone())));
    }
    Ok(Listeners(bound))
}

impl Listeners {
    /// Accepts until `drain` stops.
    pub fn serve(self, proxy: &Arc<Proxy>, drain: &Drain) {
        let places = Places::new(proxy.config.limits.connections);
        for (listener, inbound) in self.0 {
            let (proxy, work, places) = (Arc::clone(proxy), drain.clone(), places.clone());
            drain.spawn(async move {
                loop {
                    let (down, source) = tokio::select! {
                        biased;
                        () = work.stopping() => return,
                        accepted = listen::accept(&listener) => accepted,
                    };
                    let serving = serve(
                        Arc::clone(&proxy),
                        down,
                        source,
                        Arc::clone(&inbound),
                        places.clone(),
                        work.clone(),
                    );
                    work.spawn(serving);
                }
            });
        }
    }
}

/// Carries one connection and records how it ended, at whichever step.
async fn serve(
    proxy: Arc<Proxy>,
    down: TcpStream,
    source: SocketAddr,
    inbound: Arc<Inbound>,
    places: Places,
    drain: Drain,
) {
    let own = SocketAddr::new(proxy.config.workload.address, inbound.port);
    let entry =
        proxy.connections.open(Facts::new(Direction::Inbound, source, own.to_string().into(), inbound.port));
    let end = match places.take() {
        Some(_place) => Box::pin(carry(&proxy, down, source, &inbound, &entry, &drain)).await,
        None => Err(Refusal::OverLimit { limit: proxy.config.limits.connections }),
    };
    entry.close(&end);
}

async fn carry(
    proxy: &Proxy,
    down: TcpStream,
    source: SocketAddr,
    inbound: &Inbound,
    entry: &Entry,
    drain: &Drain,
) -> Result<(), Refusal> {
    let snapshot = proxy.model.snapshot();
    let settings = snapshot.settings.clone().ok_or(Refusal::NoSettings)?;
    entry.note(|facts| facts.model_generation = snapshot.generation);
    let mut down = AppSocket::new(down).map_err(|source| Refusal::AppReset { source })?;
    match admit(proxy, &mut down, source, inbound, &settings, entry).await? {
        Admitted::Wire(received) => {
            let down = down.into_tcp().map_err(|source| Refusal::AppReset { source })?;
            serve_wire(proxy, down, received, source, inbound, entry, drain).await
        }
        Admitted::Plain { received, app } => {
            serve_plain(proxy, down, received, app, inbound, &settings, entry).await
        }
        Admitted::Nothing => Ok(()),
    }
}

/// What the first bytes showed.
enum Admitted {
    /// A ClientHello for our wire, as received so far.
    Wire(Vec<u8>),
    /// Plaintext, and allowed. `app`: dialled already, because the app may speak first.
    Plain { received: Vec<u8>, app: Option<AppSocket> },
    /// The client left without a word.
    Nothing,
}

/// Tells our wire from plaintext by the first bytes alone. Where plaintext is allowed, the controller's word about the
/// source address decides only whether our app may speak before the client does.
async fn admit(
    proxy: &Proxy,
    down: &mut AppSocket,
    source: SocketAddr,
    inbound: &Inbound,
    settings: &Settings,
    entry: &Entry,
) -> Result<Admitted, Refusal> {
    let limits = &proxy.config.limits;
    let plaintext = settings.takes_plaintext(inbound.port);
    let patience = if plaintext { limits.first_bytes } else { limits.handshake };
    let silent = Instant::now() + patience;
    let mut stranger = Box::pin(is_stranger(proxy, source));
    // Strict: nothing goes out before the handshake, so nobody waits for a hint.
    let mut hint_awaited = plaintext;
    let mut app: Option<AppSocket> = None;
    let mut received = Vec::new();
    loop {
        let dialled = app.is_some();
        let event = tokio::select! {
            biased;
            why = entry.cut() => return Err(why),
            read = down.tcp().read_buf(&mut received) => Event::Client(read.map_err(|source| Refusal::AppReset { source })?),
            stranger = &mut stranger, if hint_awaited => Event::Hint { stranger },
            () = speaks(&mut app) => Event::App,
            () = sleep_until(silent), if !dialled => return Err(Refusal::Silent { peer: source, waited: patience }),
        };
        match event {
            Event::Client(0) if received.is_empty() => return Ok(Admitted::Nothing),
            Event::Client(n) => match look(&received, limits.client_hello_bytes) {
                Look::Wire => return Ok(Admitted::Wire(received)),
                Look::More if n > 0 => {}
                Look::More | Look::Other if plaintext => return Ok(Admitted::Plain { received, app }),
                Look::More | Look::Other => return Err(Refusal::Plaintext { peer: source }),
            },
            Event::Hint { stranger } => {
                hint_awaited = false;
                if stranger {
                    authorize(settings, inbound.port, entry)?;
                    app = Some(dial_app(inbound, limits.dial).await?);
                }
            }
            Event::App => return Ok(Admitted::Plain { received, app }),
        }
    }
}

enum Event {
    /// So many bytes of the client; 0: it ended.
    Client(usize),
    Hint {
        stranger: bool,
    },
    /// Our app spoke first, or ended.
    App,
}

async fn speaks(app: &mut Option<AppSocket>) {
    match app {
        Some(app) => drop(app.tcp().readable().await),
        None => std::future::pending().await,
    }
}

/// Whether the controller says that no mesh workload has this address; unknown after [`HINT`] counts as a stranger.
async fn is_stranger(proxy: &Proxy, source: SocketAddr) -> bool {
    if let Some(workload) = proxy.model.snapshot().workload_at(source.ip()) {
        return !matches!(workload.transport, Transport::Mesh(_));
    }
    match proxy.model.resolve_within(&source.ip().to_string(), HINT).await {
        Ok(Answer::Workload(workload)) => !matches!(workload.transport, Transport::Mesh(_)),
        _ => true,
    }
}

async fn serve_wire(
    proxy: &Proxy,
    down: TcpStream,
    received: Vec<u8>,
    source: SocketAddr,
    inbound: &Inbound,
    entry: &Entry,
    drain: &Drain,
) -> Result<(), Refusal> {
    let limits = &proxy.config.limits;
    let generation = proxy.svid.current().ok_or(Refusal::NoCertificate)?;
    let mut wire = Box::new(Wire::accept(down, received, source, &generation, limits).await?);
    entry.verified(&wire.peer);
    if !read_open(&mut wire, limits.open, entry).await? {
        return Ok(());
    }
    if drain.is_stopping() {
        reset(&mut wire, Reset::Draining).await;
        return Err(Refusal::Draining);
    }
    // Settings may have changed during the handshake: this OPEN is judged on one snapshot of now.
    let snapshot = proxy.model.snapshot();
    entry.note(|facts| facts.model_generation = snapshot.generation);
    let settings = snapshot.settings.clone().ok_or(Refusal::NoSettings)?;
    if let Err(denied) = authorize(&settings, inbound.port, entry) {
        reset(&mut wire, Reset::Denied).await;
        return Err(denied);
    }
    match dial_app(inbound, limits.dial).await {
        Ok(app) => {
            entry.carried();
            judge::judge(&proxy.model.snapshot(), entry.live());
            Box::pin(relay::framed(app, *wire, Owes::Accept, false, entry)).await
        }
        Err(why) => {
            reset(&mut wire, Reset::Refused).await;
            Err(why)
        }
    }
}

/// Reads OPEN; false when the client closed without one (it connected ahead, or it did not find in us whom it expected).
async fn read_open(wire: &mut Wire, patience: Duration, entry: &Entry) -> Result<bool, Refusal> {
    let peer = wire.address;
    let frame = timeout(patience, wire.frames_in.next()).await;
    let frame = frame.map_err(|_| Refusal::Protocol { peer, why: format!("no OPEN in {patience:?}") })?;
    match frame.map_err(|error| error.refusal(peer))? {
        Some(Frame::Open(open)) => {
            entry.note(|facts| facts.peer = name_for_logs(&open.source));
            Ok(true)
        }
        Some(_) => Err(Refusal::Protocol { peer, why: "a frame before OPEN".into() }),
        None => Ok(false),
    }
}

async fn serve_plain(
    proxy: &Proxy,
    down: AppSocket,
    received: Vec<u8>,
    app: Option<AppSocket>,
    inbound: &Inbound,
    settings: &Settings,
    entry: &Entry,
) -> Result<(), Refusal> {
    entry.note(|facts| {
        let snapshot = proxy.model.snapshot();
        facts.plain_reason = Some(plain_reason(&snapshot, facts.source));
        facts.peer =
            snapshot.workload_at(facts.source.ip()).map(|w| format!("{}/{}", w.namespace, w.name).into());
    });
    authorize(settings, inbound.port, entry)?;
    let app = match app {
        Some(app) => app,
        None => dial_app(inbound, proxy.config.limits.dial).await?,
    };
    entry.carried();
    judge::judge(&proxy.model.snapshot(), entry.live());
    Box::pin(relay::plain(down, app, &received, entry)).await
}

/// Why this peer speaks plaintext, in the controller's word where it has one.
fn plain_reason(snapshot: &Snapshot, source: SocketAddr) -> Arc<str> {
    match snapshot.workload_at(source.ip()).map(|workload| &workload.transport) {
        Some(Transport::Plain(reason)) => Arc::clone(reason),
        Some(Transport::Mesh(_)) => "client_bypassed_proxy".into(),
        None => "client_unknown".into(),
    }
}

fn authorize(settings: &Settings, port: u16, entry: &Entry) -> Result<(), Refusal> {
    let facts = entry.live().facts();
    match settings.judge(facts.peer_id.as_ref(), port) {
        Judgement::Allowed => Ok(()),
        Judgement::Audited(policies) => {
            entry.note(|facts| facts.audited = Some(policies));
            Ok(())
        }
        Judgement::Denied(policies) => Err(Refusal::Denied { caller: caller(&facts), port, policies }),
    }
}

async fn dial_app(inbound: &Inbound, patience: Duration) -> Result<AppSocket, Refusal> {
    let dialled = wire::dial(inbound.target, None, patience).await;
    dialled.and_then(AppSocket::new).map_err(|source| Refusal::App { address: inbound.target, source })
}

async fn reset(wire: &mut Wire, reset: Reset) {
    let _ = timeout(GOODBYE, wire.frames_out.send(&Frame::Rst(reset))).await;
    let _ = timeout(GOODBYE, wire.frames_out.close()).await;
}

/// A client's claim about its own name, where it looks like one.
fn name_for_logs(claim: &str) -> Option<Arc<str>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/');
    (!claim.is_empty() && claim.len() <= MAX_NAME && claim.chars().all(plain)).then(|| claim.into())
}

/// How long a stranger's address may hold back the app's greeting (design 4).
const HINT: Duration = Duration::from_millis(100);
/// For a last frame to a peer that may not be reading.
const GOODBYE: Duration = Duration::from_secs(1);
/// Namespace (63) + "/" + pod name (253), RFC 1123 as Kubernetes uses it.
const MAX_NAME: usize = 317;
