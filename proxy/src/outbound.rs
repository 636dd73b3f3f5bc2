//! Outbound: what our app opens to others, through its configured upstreams. The order of this file is a connection's life:
//! accept -> way (where to, says the controller) -> try an endpoint -> open -> relay -> record.
//!
//! No downgrade, ever: plaintext leaves only to an endpoint that the controller called PLAIN, or to an address outside the
//! mesh's ranges; a missing answer, a failed handshake or an unreachable controller refuses.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use signet_api::wire::Open;
use signet_core::{drain::Drain, identity::SpiffeId};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    Proxy,
    balance::{self, Busy},
    config::{Config, Upstream},
    connections::{Direction, Entry, Facts},
    frames::{Frame, MAX_DATA, Reset},
    judge,
    limits::Limits,
    listen::{self, CannotListen, Places},
    model::{ANSWER, Answer, Transport, Unanswered, Workload},
    refusal::Refusal,
    relay::{self, AppSocket, Owes},
    wire::{self, Wire},
};

/// Bound, not yet served.
pub struct Listeners(Vec<(TcpListener, Arc<Upstream>)>);

pub async fn bind(config: &Config) -> Result<Listeners, CannotListen> {
    let mut bound = Vec::new();
    for upstream in &config.upstreams {
        let origin = format!("upstream {}", upstream.to);
        bound.push((listen::bind(upstream.listen, &origin).await?, Arc::new(upstream.clone())));
    }
    Ok(Listeners(bound))
}

impl Listeners {
    /// Accepts until `drain` stops.
    pub fn serve(self, proxy: &Arc<Proxy>, drain: &Drain) {
        let places = Places::new(proxy.config.limits.connections);
        for (listener, upstream) in self.0 {
            let (proxy, work, places) = (Arc::clone(proxy), drain.clone(), places.clone());
            drain.spawn(async move {
                loop {
                    let (app, source) = tokio::select! {
                        biased;
                        () = work.stopping() => return,
                        accepted = listen::accept(&listener) => accepted,
                    };
                    work.spawn(serve(Arc::clone(&proxy), app, source, Arc::clone(&upstream), places.clone()));
                }
            });
        }
    }
}

/// Carries one connection and records how it ended, at whichever step.
async fn serve(
    proxy: Arc<Proxy>,
    app: TcpStream,
    source: SocketAddr,
    upstream: Arc<Upstream>,
    places: Places,
) {
    let facts = Facts::new(Direction::Outbound, source, Arc::clone(&upstream.to), upstream.port);
    let entry = proxy.connections.open(facts);
    let end = match places.take() {
        Some(_place) => Box::pin(carry(&proxy, app, &upstream, &entry)).await,
        None => Err(Refusal::OverLimit { limit: proxy.config.limits.connections }),
    };
    entry.close(&end);
}

async fn carry(proxy: &Proxy, app: TcpStream, upstream: &Upstream, entry: &Entry) -> Result<(), Refusal> {
    let mut app = AppSocket::new(app).map_err(|source| Refusal::AppReset { source })?;
    let deadline = Instant::now() + proxy.config.limits.try_all;
    let mut way = way(proxy, upstream, entry).await?;
    let mut flight = Flight::default();
    let mut refusal = None;
    for _ in 0..proxy.config.limits.tries {
        let Some((endpoint, busy)) = way.pick(proxy) else { break };
        match attempt(proxy, &mut app, &endpoint, upstream, &mut flight, entry, deadline).await {
            Ok(Carrier::Wire(wire)) => return relay_wire(proxy, app, wire, &flight, entry, busy).await,
            Ok(Carrier::Plain(plain)) => return relay_plain(proxy, app, plain, &flight, entry, busy).await,
            Err(Failure::Final(why)) => return Err(why),
            Err(Failure::TryAnother(why)) => {
                way.drop_after_failure(&endpoint);
                refusal = Some(why);
            }
        }
    }
    Err(refusal.unwrap_or_else(|| Refusal::NoEndpoint { to: Arc::clone(&upstream.to), port: upstream.port }))
}

async fn relay_wire(
    proxy: &Proxy,
    app: AppSocket,
    wire: Box<Wire>,
    flight: &Flight,
    entry: &Entry,
    _busy: Busy,
) -> Result<(), Refusal> {
    entry.carried();
    relay::count_sent(entry.live(), flight.bytes.len());
    judge::judge(&proxy.model.snapshot(), entry.live());
    Box::pin(relay::framed(app, *wire, Owes::Nothing, flight.ended, entry)).await
}

async fn relay_plain(
    proxy: &Proxy,
    app: AppSocket,
    plain: AppSocket,
    flight: &Flight,
    entry: &Entry,
    _busy: Busy,
) -> Result<(), Refusal> {
    entry.carried();
    judge::judge(&proxy.model.snapshot(), entry.live());
    let end = Box::pin(relay::plain(plain, app, &[], entry));
    debug_assert!(flight.bytes.is_empty(), "a plain endpoint is tried before any byte of the app is read");
    end.await
}

/// The endpoints that may carry a connection.
#[derive(Debug)]
struct Way {
    endpoints: Vec<Endpoint>,
    sticky: bool,
}

#[derive(Clone, Debug)]
struct Endpoint {
    address: SocketAddr,
    /// "<namespace>/<pod>"
    name: Option<Arc<str>>,
    transport: Transport,
}

impl Endpoint {
    fn of(workload: &Workload, port: u16) -> Self {
        Self {
            address: SocketAddr::new(workload.address, port),
            name: Some(format!("{}/{}", workload.namespace, workload.name).into()),
            transport: workload.transport.clone(),
        }
    }
}

impl Way {
    fn pick(&self, proxy: &Proxy) -> Option<(Endpoint, Busy)> {
        let addresses: Vec<SocketAddr> = self.endpoints.iter().map(|endpoint| endpoint.address).collect();
        let (chosen, busy) =
            match self.sticky.then(|| balance::sticky(proxy.config.workload.address, &addresses)).flatten() {
                Some(one) => proxy.balance.pick(&addresses[one..=one], |_| 0).map(|(_, busy)| (one, busy)),
                None => proxy.balance.pick(&addresses, |n| fastrand::usize(..n)),
            }?;
        Some((self.endpoints[chosen].clone(), busy))
    }

    /// Not this one again; and once a mesh endpoint failed, no plaintext one in its place.
    fn drop_after_failure(&mut self, failed: &Endpoint) {
        let was_mesh = matches!(failed.transport, Transport::Mesh(_));
        self.endpoints.retain(|endpoint| {
            endpoint.address != failed.address
                && !(was_mesh && matches!(endpoint.transport, Transport::Plain(_)))
        });
    }
}

async fn way(proxy: &Proxy, upstream: &Upstream, entry: &Entry) -> Result<Way, Refusal> {
    if let Ok(address) = upstream.name.parse::<std::net::IpAddr>()
        && !proxy.config.is_mesh(address)
    {
        return Ok(outside(SocketAddr::new(address, upstream.port)));
    }
    let to = || Arc::clone(&upstream.to);
    let answer = proxy.model.resolve(&upstream.name).await.map_err(|unanswered| match unanswered {
        Unanswered::NoAnswer => Refusal::Unanswered { to: to(), waited: ANSWER },
        Unanswered::NoSuchAddress => Refusal::NoSuchAddress { to: to() },
    })?;
    entry.note(|facts| facts.model_generation = proxy.model.snapshot().generation);
    match answer {
        Answer::Workload(workload) => {
            Ok(Way { endpoints: vec![Endpoint::of(&workload, upstream.port)], sticky: false })
        }
        Answer::Service(service) => {
            let reached = service.endpoints.iter().filter_map(|endpoint| {
                let port = endpoint.target_ports.get(&upstream.port)?;
                Some(Endpoint::of(&endpoint.workload, *port))
            });
            Ok(Way { endpoints: reached.collect(), sticky: service.client_ip_affinity })
        }
        // The bootstrap says that it is inside: two parts of the control plane disagree, and the stricter one counts.
        Answer::Outside => Err(Refusal::NoSuchAddress { to: to() }),
    }
}

fn outside(address: SocketAddr) -> Way {
    let transport = Transport::Plain(OUTSIDE.into());
    Way { endpoints: vec![Endpoint { address, name: None, transport }], sticky: false }
}

/// What carries the app's bytes to an endpoint.
enum Carrier {
    Wire(Box<Wire>),
    Plain(AppSocket),
}

enum Failure {
    /// No byte reached an app: another endpoint may be tried.
    TryAnother(Refusal),
    Final(Refusal),
}

async fn attempt(
    proxy: &Proxy,
    app: &mut AppSocket,
    endpoint: &Endpoint,
    upstream: &Upstream,
    flight: &mut Flight,
    entry: &Entry,
    deadline: Instant,
) -> Result<Carrier, Failure> {
    entry.note(|facts| {
        facts.peer_address = Some(endpoint.address);
        facts.peer = endpoint.name.clone();
    });
    match &endpoint.transport {
        Transport::Plain(reason) => {
            entry.note(|facts| facts.plain_reason = Some(Arc::clone(reason)));
            let dialled =
                wire::dial(endpoint.address, Some(proxy.config.workload.address), proxy.config.limits.dial)
                    .await;
            let plain = dialled.and_then(AppSocket::new);
            let unreachable =
                |source| Failure::TryAnother(Refusal::Unreachable { peer: endpoint.address, source });
            plain.map(Carrier::Plain).map_err(unreachable)
        }
        Transport::Mesh(id) => {
            let mut wire =
                connect(proxy, endpoint.address, id, deadline).await.map_err(Failure::TryAnother)?;
            entry.verified(&wire.peer);
            let workload = &proxy.config.workload;
            let request = Open {
                destination: upstream.to.to_string(),
                source: format!("{}/{}", workload.namespace, workload.pod),
            };
            open(app, &mut wire, request, flight, entry, deadline, upstream.port).await?;
            Ok(Carrier::Wire(Box::new(wire)))
        }
    }
}

/// A wire to exactly `id`. A server that answers the handshake with something else than TLS gets a second chance for
/// [`AFRESH`]: it may have taken us for a stranger before it knew us.
async fn connect(proxy: &Proxy, to: SocketAddr, id: &SpiffeId, deadline: Instant) -> Result<Wire, Refusal> {
    let limits: &Limits = &proxy.config.limits;
    let afresh = deadline.min(Instant::now() + AFRESH);
    loop {
        let generation = proxy.svid.current().ok_or(Refusal::NoCertificate)?;
        let connecting = Box::pin(Wire::connect(to, proxy.config.workload.address, &generation, limits));
        let connected = timeout_at(deadline, connecting).await;
        let late = || Err(Refusal::HandshakeTimeout { peer: to, waited: limits.try_all });
        match connected.unwrap_or_else(|_| late()) {
            Ok(wire) => {
                wire.peer.expect(id).map_err(|why| Refusal::Identity { peer: to, why: why.into() })?;
                return Ok(wire);
            }
            Err(why) if why.is_not_tls() && Instant::now() < afresh => sleep(AFRESH_PAUSE).await,
            Err(why) => return Err(why),
        }
    }
}

/// The app's bytes before ACCEPT: sent once per endpoint tried, delivered by the one that accepts.
#[derive(Default)]
struct Flight {
    bytes: Vec<u8>,
    /// The app already ended its direction.
    ended: bool,
}

/// Sends OPEN with what the app has said so far, and waits for ACCEPT.
async fn open(
    app: &mut AppSocket,
    wire: &mut Wire,
    request: Open,
    flight: &mut Flight,
    entry: &Entry,
    deadline: Instant,
    port: u16,
) -> Result<(), Failure> {
    let peer = wire.address;
    let gone = |source| Failure::Final(Refusal::Lost { peer, source });
    wire.frames_out.queue(&Frame::Open(request));
    if flight.bytes.is_empty() && !flight.ended {
        flight.bytes.resize(MAX_DATA, 0);
        let read = app.tcp().try_read(&mut flight.bytes);
        flight.bytes.truncate(*read.as_ref().unwrap_or(&0));
        flight.ended = matches!(read, Ok(0));
    }
    if !flight.bytes.is_empty() {
        wire.frames_out.queue(&Frame::Data(&flight.bytes));
    }
    if flight.ended {
        wire.frames_out.queue(&Frame::Fin);
    }
    wire.frames_out.flush().await.map_err(gone)?;
    let mut chunk = vec![0; MAX_DATA];
    loop {
        let room = MAX_DATA - flight.bytes.len();
        tokio::select! {
            biased;
            why = entry.cut() => return Err(Failure::Final(why)),
            frame = wire.frames_in.next() => return match frame.map_err(|e| Failure::Final(e.refusal(peer)))? {
                Some(Frame::Accept(_)) => Ok(()),
                Some(Frame::Rst(Reset::Denied)) => {
                    let server = wire.peer.id().clone();
                    Err(Failure::Final(Refusal::DeniedByPeer { peer, server, port }))
                }
                Some(Frame::Rst(reset @ (Reset::Refused | Reset::Draining))) => {
                    Err(Failure::TryAnother(Refusal::RefusedByPeer { peer, word: reset.word() }))
                }
                Some(Frame::GoAway(_)) => {
                    Err(Failure::TryAnother(Refusal::RefusedByPeer { peer, word: "going away" }))
                }
                Some(Frame::Rst(Reset::Aborted)) => Err(Failure::Final(Refusal::PeerReset)),
                Some(_) => Err(Failure::Final(Refusal::Protocol { peer, why: "data before ACCEPT".into() })),
                None => Err(gone(std::io::ErrorKind::UnexpectedEof.into())),
            },
            read = app.tcp().read(&mut chunk[..room]), if room > 0 && !flight.ended => {
                let n = read.map_err(|source| Failure::Final(Refusal::AppReset { source }))?;
                if n == 0 {
                    flight.ended = true;
                    wire.frames_out.send(&Frame::Fin).await.map_err(gone)?;
                } else {
                    flight.bytes.extend_from_slice(&chunk[..n]);
                    wire.frames_out.send(&Frame::Data(&chunk[..n])).await.map_err(gone)?;
                }
            }
            () = sleep_until(deadline) => return Err(gone(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

/// The word for addresses outside the mesh's ranges.
const OUTSIDE: &str = "outside_mesh";
/// How long a server may answer our handshake with plaintext (design 4).
const AFRESH: Duration = Duration::from_secs(2);
const AFRESH_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use signet_core::identity;

    fn endpoint(n: u8, transport: Transport) -> Endpoint {
        Endpoint { address: SocketAddr::from(([198, 18, 0, n], 80)), name: None, transport }
    }

    #[test]
    fn after_a_mesh_endpoint_failed_no_plaintext_endpoint_takes_its_place() {
        let mesh = Transport::Mesh(identity::parse("spiffe://td/ns/a/sa/b").unwrap());
        let plain = Transport::Plain("namespace_not_labelled".into());
        let all = vec![endpoint(1, mesh.clone()), endpoint(2, plain.clone()), endpoint(3, mesh.clone())];
        let left = |failed: usize| {
            let mut way = Way { endpoints: all.clone(), sticky: false };
            way.drop_after_failure(&all[failed]);
            way.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left(0), ["198.18.0.3:80"]);
        assert_eq!(left(1), ["198.18.0.1:80", "198.18.0.3:80"], "plain failed: mesh may be tried");
    }
}
