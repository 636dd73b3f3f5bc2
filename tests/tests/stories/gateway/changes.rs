//! 500 changes, and one of three gateways that goes, while the web goes on: no request fails, and each is answered as the model
//! before or behind the last change has it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    header::{HeaderName, HeaderValue},
};
use rustls::{ClientConfig, client::Resumption};
use serde_json::json;
use signet_core::drain::Drain;
use signet_http::{
    contract::certificate::Certificate,
    model::{Action, HeaderEdits, Route, Security, Target},
};
use signet_tests::{
    eventually::{SOON, eventually},
    fake_edge::World,
    gateway::{Edge, Gateway, backend, certificate, route},
    teller::Teller,
    web::Web,
};
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

const HOST: &str = "a.example.com";
/// Of the two backends between which the route changes; each answers with its name.
const NAMES: [&str; 2] = ["blue", "green"];

/// Version `version` of the route: it leads to one of the two, and says in its answers which it is.
fn routed(version: u64) -> Route {
    let mut route = route(HOST, &format!("shop/{}:80", name(version)));
    let Action::Forward(forward) = &mut route.rules[0].action else { panic!("route() forwards") };
    assert!(matches!(forward.backends[0].target, Target::Backend(_)));
    let says = (HeaderName::from_static("x-version"), HeaderValue::from(version));
    forward.backends[0].response_headers = HeaderEdits::new(vec![says], vec![], vec![]).unwrap();
    route
}

fn name(version: u64) -> &'static str {
    NAMES[usize::from(version % 2 == 1)]
}

/// What the load balancer and its clients know.
struct Fleet {
    /// With the first of the three gateways.
    edge: Edge,
    others: [Gateway; 2],
    gateways: [Known; 3],
    tls: [Arc<ClientConfig>; 2],
    /// Its place in the order in which edge presents them.
    leaves: HashMap<Vec<u8>, u64>,
    /// The newest that edge has said, or is about to say.
    route: AtomicU64,
    certificate: AtomicU64,
    served: AtomicU64,
    failed: Mutex<Vec<String>>,
}

struct Known {
    place: usize,
    /// It said that it is ready when it was asked last.
    used: AtomicBool,
    /// The newest that it has answered with: it never goes back.
    route: AtomicU64,
    certificate: AtomicU64,
    /// Connections that are kept: of HTTP/1.1 those that nobody uses, of HTTP/2 the one for all.
    idle: Mutex<Vec<Web>>,
    shared: tokio::sync::Mutex<Option<Web>>,
}

impl Fleet {
    async fn start(certificates: &mut Vec<Certificate>) -> Self {
        let serving = json!({"drainSeconds": 3, "finishSeconds": 60, "connectionsPerClient": 4000});
        let edge = Edge::start_with(serving, |world, web, network| {
            for (name, number) in NAMES.into_iter().zip(1..) {
                let at = (network.address(2, number), 8000).into();
                world.backend(&backend(&format!("shop/{name}:80"), at, Security::Plain));
            }
            certificates.extend((0..=CHANGES / 2).map(|_| certificate(web, "shop/a", &[HOST])));
            world.certificate(&certificates[0]);
            world.route(&routed(0));
        })
        .await;
        let tls = [&b"http/1.1"[..], b"h2"].map(|alpn| {
            let mut config = ClientConfig::clone(&edge.tls(&[alpn]));
            config.resumption = Resumption::disabled(); // each handshake shows its certificate
            Arc::new(config)
        });
        let others = [edge.another(2).await, edge.another(3).await];
        let gateways = [0, 1, 2].map(|place| Known {
            place,
            used: AtomicBool::new(true),
            route: AtomicU64::new(0),
            certificate: AtomicU64::new(0),
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        });
        let leaves = certificates.iter().zip(0..).map(|(c, place)| (c.chain[0].to_vec(), place)).collect();
        Self {
            edge,
            others,
            gateways,
            tls,
            leaves,
            route: AtomicU64::new(0),
            certificate: AtomicU64::new(0),
            served: AtomicU64::new(0),
            failed: Mutex::default(),
        }
    }

    fn gateway(&self, at: &Known) -> &Gateway {
        match at.place {
            0 => &self.edge.gateway,
            place => &self.others[place - 1],
        }
    }

    /// A new connection, whose certificate was presented when it was made.
    async fn connect(&self, at: &Known, version: usize) -> io::Result<Web> {
        let before = at.certificate.load(Relaxed);
        let (from, to) = (self.edge.network.address(9, 9), self.gateway(at).at(8443));
        let web = Web::connect(from, to, &self.tls[version], HOST).await?;
        let shown = self.leaves.get(&web.leaf).copied();
        let shown = shown.ok_or_else(|| io::Error::other("a certificate that edge never presented"))?;
        let newest = self.certificate.load(Relaxed);
        if !(before..=newest).contains(&shown) {
            return Err(io::Error::other(format!("certificate {shown}, not {before} to {newest}")));
        }
        at.certificate.fetch_max(shown, Relaxed);
        Ok(web)
    }

    async fn ask(&self, at: &Known, web: &mut Web) -> io::Result<()> {
        let before = at.route.load(Relaxed);
        let (answer, body) = web.get(HOST, "/").await?;
        let newest = self.route.load(Relaxed);
        let version = answer.headers().get("x-version").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        match version {
            Some(version)
                if answer.status() == 200
                    && (before..=newest).contains(&version)
                    && body == name(version).as_bytes() =>
            {
                at.route.fetch_max(version, Relaxed);
                self.served.fetch_add(1, Relaxed);
                Ok(())
            }
            _ => Err(io::Error::other(format!("{answer:?} {body:?}, not {before} to {newest}"))),
        }
    }

    /// One request: over a new connection or a kept one, in both versions.
    async fn request(&self, number: usize) -> io::Result<()> {
        let usable: Vec<&Known> = self.gateways.iter().filter(|at| at.used.load(Relaxed)).collect();
        let at = usable[number / 4 % usable.len()];
        match number % 4 {
            0 | 1 => {
                let mut web = self.connect(at, number % 4).await?;
                self.ask(at, &mut web).await
            }
            2 => {
                let kept = at.idle.lock().unwrap().pop().filter(Web::is_open);
                let mut web = match kept {
                    Some(kept) => kept,
                    None => self.connect(at, 0).await?,
                };
                self.ask(at, &mut web).await?;
                at.idle.lock().unwrap().push(web);
                Ok(())
            }
            _ => {
                let mut web = {
                    let mut shared = at.shared.lock().await;
                    if shared.is_none() {
                        *shared = Some(self.connect(at, 1).await?);
                    }
                    shared.as_ref().and_then(Web::share).expect("it is HTTP/2")
                };
                self.ask(at, &mut web).await
            }
        }
    }

    /// Asks whether each is ready, as a load balancer does, and uses only those that are.
    async fn balance(self: Arc<Self>) {
        let mut ticks = interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            for at in &self.gateways {
                at.used.store(self.gateway(at).is_ready().await, Relaxed);
            }
        }
    }

    /// Open loop: as many each second as it is told, whatever becomes of them.
    async fn load(self: Arc<Self>, drain: Drain) {
        let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0.. {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                _ = ticks.tick() => {}
            }
            let fleet = Arc::clone(&self);
            drain.spawn(async move {
                if let Err(error) = fleet.request(number).await {
                    fleet.failed.lock().unwrap().push(format!("request {number}: {error}"));
                }
            });
        }
    }
}

/// One answer that goes on, read to its end: every event, in order, and nothing else.
async fn follow(mut body: Incoming) -> Result<u64, String> {
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        let piece = frame.map_err(|e| format!("behind {} bytes: {e}", text.len()))?;
        text += std::str::from_utf8(piece.data_ref().map_or(b"", |data| data)).map_err(|e| e.to_string())?;
    }
    let events = text.matches("data: ").count() as u64;
    let expected: String = (1..=events).map(|n| format!("data: {n}\n\n")).collect();
    if text == expected { Ok(events) } else { Err(text) }
}

#[tokio::test]
async fn changes_under_load_and_a_gateway_of_three_that_goes_with_a_thousand_streams_fail_no_request() {
    let mut certificates = Vec::new();
    let fleet = Arc::new(Fleet::start(&mut certificates).await);
    let network = &fleet.edge.network;
    let blue = Teller::start((network.address(2, 1), 8000).into(), NAMES[0]).await.unwrap();
    let _green = Teller::start((network.address(2, 2), 8000).into(), NAMES[1]).await.unwrap();

    let mut streams = tokio::task::JoinSet::new();
    let mut connections = Vec::new();
    for at in &fleet.gateways {
        for _ in 0..CONNECTIONS {
            let web = fleet.connect(at, 1).await.unwrap();
            for _ in 0..STREAMS {
                let mut one = web.share().unwrap();
                let body = one.begin(HOST, "/events").await.unwrap().into_body();
                streams.spawn(follow(body));
            }
            connections.push(web);
        }
    }
    let all = (fleet.gateways.len() * CONNECTIONS * STREAMS) as u64;
    assert!(all >= 1000);
    eventually("all streams", SOON, async || (blue.streams() == all).then_some(())).await;

    let (load, balance) = (Drain::new(), Drain::new());
    balance.keep(Arc::clone(&fleet).balance());
    load.spawn(Arc::clone(&fleet).load(load.clone()));
    let mut told = 0;
    let mut tell = || {
        told += 1;
        blue.tell();
    };
    let mut ticks = interval(PACE);
    for change in 1..=CHANGES {
        ticks.tick().await;
        // What may be seen is known before it can be.
        match change % 2 {
            1 => {
                let version = fleet.route.fetch_add(1, Relaxed) + 1;
                fleet.edge.edge.change(|world| reroute(world, version));
            }
            _ => {
                let place = fleet.certificate.fetch_add(1, Relaxed) + 1;
                let renewed = &certificates[usize::try_from(place).unwrap()];
                fleet.edge.edge.change(|world| world.certificate(renewed));
            }
        }
        if change % 50 == 0 {
            tell();
        }
    }
    assert_eq!(fleet.route.load(Relaxed) + fleet.certificate.load(Relaxed), CHANGES);
    let has_all =
        |at: &Known| at.route.load(Relaxed) == CHANGES / 2 && at.certificate.load(Relaxed) == CHANGES / 2;
    eventually("the last of both at all three", SOON, async || {
        fleet.gateways.iter().all(has_all).then_some(())
    })
    .await;
    let before = fleet.served.load(Relaxed);

    let goes = &fleet.gateways[0];
    let gone = fleet.gateway(goes);
    gone.terminate();
    eventually("its clients to leave it", SOON, async || (!goes.used.load(Relaxed)).then_some(())).await;
    let closed = async || TcpStream::connect(gone.at(8443)).await.err();
    eventually("its listener to close", SOON, closed).await;
    assert_eq!(blue.streams(), all, "it finishes what it has");
    tell();
    let more = || fleet.served.load(Relaxed) > before + u64::from(PER_SECOND);
    eventually("the others to serve", SOON, async || more().then_some(())).await;
    tell();
    blue.end();
    let mut whole = 0;
    while let Some(ended) = streams.join_next().await {
        assert_eq!(ended.unwrap(), Ok(told), "every event, and a clean end");
        whole += 1;
    }
    assert_eq!(whole, all);
    drop(connections);
    eventually("its last words", SOON, async || gone.log().contains(r#""cut":0"#).then_some(())).await;

    assert_eq!(load.run(SOON).await, 0);
    balance.run(SOON).await;
    let failed = fleet.failed.lock().unwrap();
    assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), fleet.served.load(Relaxed));
}

/// The next version of the route, and one more host in place of another.
fn reroute(world: &mut World, version: u64) {
    world.route(&routed(version));
    world.route(&route(&format!("extra-{version}.example.com"), "shop/blue:80"));
    world.remove(signet_api::EDGE_ROUTE, &format!("ingress/shop/extra-{}.example.com", version - 1));
}

/// Half of them of the route, half of the certificate.
const CHANGES: u64 = 500;
/// One change after the other.
const PACE: Duration = Duration::from_millis(20);
const PER_SECOND: u32 = 80;
/// To each gateway, and streams on each: below HTTP/2's limit of 100.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 84;
