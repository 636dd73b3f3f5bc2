//! A world of one engine, its clients and its origins.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use signet_core::{drain::Drain, telemetry::Metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use crate::{
    arrival::Arrival,
    engine::Engine,
    limits::Limits,
    metrics::HttpMetrics,
    model::*,
    serve::{Version, serve},
    upstream::{Connecting, Connector},
};

pub(super) struct World {
    pub(super) engine: Arc<Engine>,
    pub(super) drain: Drain,
    pub(super) origins: Arc<Origins>,
    metrics: Arc<Metrics>,
}

/// Who answers at which address.
#[derive(Default)]
pub(super) struct Origins {
    by_address: Mutex<HashMap<SocketAddr, Origin>>,
    pub(super) seen: Mutex<Vec<Seen>>,
    pub(super) dials: AtomicUsize,
    pub(super) generation: AtomicU64,
    drain: Drain,
}

type Life = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(super) type Origin = Arc<dyn Fn(DuplexStream) -> Life + Send + Sync>;

/// One request as an origin read it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: String,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .find_map(|line| line.split_once(": ").filter(|(n, _)| *n == name))
            .map(|(_, v)| v)
    }
}

impl Connector for Origins {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint, _: Protocol) -> Connecting<'a> {
        Box::pin(async move {
            self.dials.fetch_add(1, Relaxed);
            let origin = self.by_address.lock().unwrap().get(&endpoint.address).cloned();
            match origin {
                None => Err(io::ErrorKind::ConnectionRefused.into()),
                Some(origin) => {
                    let (ours, theirs) = duplex(PIPE);
                    self.drain.spawn(origin(theirs));
                    Ok(Box::new(ours) as Box<dyn crate::stream::Stream>)
                }
            }
        })
    }

    fn generation(&self, _: &Security) -> u64 {
        self.generation.load(Relaxed)
    }
}

impl World {
    /// A listener for every host on port 80, whose requests go to backend "b".
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        let (mut metrics, drain) = (Metrics::new(), Drain::new());
        let origins = Arc::new(Origins::default());
        let http = HttpMetrics::new(&mut metrics);
        let engine = Engine::new(Arc::clone(&origins) as Arc<dyn Connector>, limits, http, drain.clone());
        let world = Self { engine, drain, origins, metrics: metrics.share() };
        world.apply(vec![to_backend()], vec![backend(&[1])]);
        world
    }

    /// Rules of one route for every host, and backends.
    pub(super) fn apply(&self, rules: Vec<Rule>, backends: Vec<Backend>) {
        self.apply_snapshot(snapshot(rules, backends));
    }

    pub(super) fn apply_snapshot(&self, snapshot: Snapshot) {
        assert_eq!(self.engine.apply(Arc::new(snapshot)), []);
    }

    /// Puts an origin at endpoint `n`.
    pub(super) fn put(&self, n: u16, origin: Origin) {
        self.origins.by_address.lock().unwrap().insert(address(n), origin);
    }

    pub(super) fn remove(&self, n: u16) {
        self.origins.by_address.lock().unwrap().remove(&address(n));
    }

    /// An HTTP/1 origin at `n` that answers each request with what `answer` says.
    pub(super) fn answering(&self, n: u16, answer: impl Fn(&Seen) -> String + Send + Sync + 'static) {
        let (answer, origins) = (Arc::new(answer), Arc::downgrade(&self.origins));
        self.put(
            n,
            Arc::new(move |stream| {
                let (answer, origins) = (Arc::clone(&answer), origins.clone());
                Box::pin(async move {
                    let mut reader = Reader::new(stream);
                    while let Some(seen) = reader.request().await {
                        let reply = answer(&seen);
                        let Some(origins) = origins.upgrade() else { return };
                        origins.seen.lock().unwrap().push(seen);
                        if reply.is_empty() || reader.stream.write_all(reply.as_bytes()).await.is_err() {
                            return; // says nothing and hangs up
                        }
                    }
                })
            }),
        );
    }

    /// A client's connection.
    pub(super) fn connect(&self, version: Version) -> DuplexStream {
        self.connect_as(arrival(), version)
    }

    pub(super) fn connect_as(&self, arrival: Arrival, version: Version) -> DuplexStream {
        let (client, ours) = duplex(PIPE);
        let (engine, drain) = (Arc::clone(&self.engine), self.drain.clone());
        self.drain.spawn(async move { Box::pin(serve(&engine, ours, arrival, version, &drain)).await });
        client
    }

    /// Sends bytes and returns all that comes back until the connection is closed, for idleness if for nothing else.
    pub(super) async fn talk(&self, bytes: &str) -> String {
        let mut client = self.connect(Version::Look);
        let _ = client.write_all(bytes.as_bytes()).await; // it may be refused in the middle
        read_all(&mut client).await
    }

    /// Owns what is outside of the engine: it is not drained with it.
    pub(super) fn origins_drain(&self) -> &Drain {
        &self.origins.drain
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.origins.seen.lock().unwrap().clone()
    }

    pub(super) fn metrics(&self) -> String {
        self.metrics.render()
    }
}

pub(super) fn arrival() -> Arrival {
    Arrival {
        client: "198.18.0.7:4000".parse().unwrap(),
        port: 80,
        scheme: Scheme::Http,
        sni: None,
        covers: None,
    }
}

pub(super) fn address(n: u16) -> SocketAddr {
    ([198, 18, 1, 1], n).into()
}

pub(super) fn backend(endpoints: &[u16]) -> Backend {
    let endpoint = |n: &u16| Endpoint { address: address(*n), security: Security::Plain };
    Backend {
        name: "b".into(),
        protocol: Protocol::Http1,
        choice: Choice::Quicker,
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

pub(super) fn h2_backend(endpoints: &[u16]) -> Backend {
    Backend { protocol: Protocol::Http2, ..backend(endpoints) }
}

pub(super) fn weighted(target: Target, weight: u32) -> Weighted {
    Weighted {
        target,
        weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

pub(super) fn forward() -> Forward {
    Forward { backends: vec![weighted(Target::Backend("b".into()), 1)], ..Forward::default() }
}

pub(super) fn to_backend() -> Rule {
    Rule::new(Action::Forward(forward()))
}

pub(super) fn snapshot(rules: Vec<Rule>, backends: Vec<Backend>) -> Snapshot {
    let listener = Listener {
        name: "l".into(),
        port: 80,
        public_port: 80,
        scheme: Scheme::Http,
        hosts: HostPattern::Any,
    };
    let route = Route { name: "ns/r".into(), created: 0, parents: vec!["l".into()], hosts: vec![], rules };
    Snapshot {
        listeners: vec![Arc::new(listener)],
        routes: vec![Arc::new(route)],
        backends: backends.into_iter().map(Arc::new).collect(),
        https_hosts: vec![],
        challenges: vec![],
    }
}

/// Reads HTTP/1 messages as a plain origin would.
pub(super) struct Reader {
    pub(super) stream: DuplexStream,
    pub(super) buffer: Vec<u8>,
}

impl Reader {
    pub(super) fn new(stream: DuplexStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Up to and with `end`. `None`: the stream ended.
    pub(super) async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end.as_bytes()) {
                let bytes: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            self.more().await?;
        }
    }

    pub(super) async fn take(&mut self, length: usize) -> Option<String> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        let bytes: Vec<u8> = self.buffer.drain(..length).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn more(&mut self) -> Option<()> {
        let n = self.stream.read_buf(&mut self.buffer).await.ok()?;
        (n > 0).then_some(())
    }

    /// A message with its body.
    pub(super) async fn request(&mut self) -> Option<Seen> {
        let head = self.until("\r\n\r\n").await?;
        let mut seen = Seen { head, body: String::new() };
        if seen.field("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.until("\r\n").await?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    let mut trailers = self.until("\r\n").await?;
                    while !trailers.ends_with("\r\n\r\n") && trailers != "\r\n" {
                        trailers.push_str(&self.until("\r\n").await?);
                    }
                    seen.body.push_str(trailers.trim_end());
                    break;
                }
                seen.body.push_str(&self.take(size).await?);
                self.until("\r\n").await?;
            }
        } else if let Some(length) = seen.field("content-length") {
            seen.body = self.take(length.parse().unwrap()).await?;
        }
        Some(seen)
    }
}

pub(super) async fn read_all(stream: &mut DuplexStream) -> String {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// The statuses of the answers in `text`.
pub(super) fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok()).collect()
}

/// An answer of `status` with `body`.
pub(super) fn reply(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Bytes that wait in memory between two sides.
const PIPE: usize = 64 * 1024;
