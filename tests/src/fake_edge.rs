//! An edge that says what the test says: the real contract on a real stream, to whoever has a certificate of the mesh.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message as _;
use signet_api::{
    EDGE_BACKEND, EDGE_CERTIFICATE, EDGE_CHALLENGE, EDGE_HTTPS_HOST, EDGE_LISTENER, EDGE_ROUTE, EDGE_TYPES,
    xds::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
};
use signet_core::{
    drain::Drain,
    identity::{self, TrustDomain},
    tls::{self, Generation},
    trust::Trust,
};
use signet_http::{
    contract::{self, certificate::Certificate, challenge::Challenge},
    model::{Backend, HttpsHost, Listener, Route},
};
use signet_link::server::{self, Limits};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::pki::Authority;

/// What edge says.
#[derive(Clone, Debug, Default)]
pub struct World(BTreeMap<(&'static str, String), Vec<u8>>);

impl World {
    pub fn listener(&mut self, listener: &Listener) {
        self.raw(EDGE_LISTENER, &listener.name, contract::listener::encode(listener).encode_to_vec());
    }

    pub fn route(&mut self, route: &Route) {
        self.raw(EDGE_ROUTE, &route.name, contract::route::encode(route).encode_to_vec());
    }

    pub fn backend(&mut self, backend: &Backend) {
        self.raw(EDGE_BACKEND, &backend.name, contract::backend::encode(backend).encode_to_vec());
    }

    pub fn https_host(&mut self, host: &HttpsHost) {
        let name = contract::https_host::name(&host.host);
        self.raw(EDGE_HTTPS_HOST, &name, contract::https_host::encode(host).encode_to_vec());
    }

    pub fn certificate(&mut self, certificate: &Certificate) {
        let message = contract::certificate::encode(certificate);
        self.raw(EDGE_CERTIFICATE, &certificate.name, message.encode_to_vec());
    }

    pub fn challenge(&mut self, challenge: &Challenge) {
        let message = contract::challenge::encode(challenge);
        self.raw(EDGE_CHALLENGE, &challenge.name(), message.encode_to_vec());
    }

    pub fn forget(&mut self, challenge: &Challenge) {
        self.remove(EDGE_CHALLENGE, &challenge.name());
    }

    /// Whatever the bytes are.
    pub fn raw(&mut self, kind: &'static str, name: &str, bytes: Vec<u8>) {
        self.0.insert((kind, name.to_owned()), bytes);
    }

    pub fn remove(&mut self, kind: &'static str, name: &str) {
        self.0.remove(&(kind, name.to_owned()));
    }
}

pub struct FakeEdge {
    service: Service,
    drain: Drain,
}

#[derive(Clone)]
struct Service {
    world: watch::Sender<World>,
    heard: Arc<Mutex<Heard>>,
    drain: Drain,
}

/// What gateways said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub streams: usize,
    /// First requests with versions: type URL -> how many.
    pub resumed: HashMap<String, usize>,
    pub acks: usize,
    pub nacks: Vec<String>,
}

impl FakeEdge {
    /// Listens as `spiffe://cluster.local/ns/signet-system/sa/edge`, with a leaf of `authority`.
    pub async fn start(listen: SocketAddr, authority: &Authority, world: World) -> io::Result<Self> {
        let domain = TrustDomain::new("cluster.local").map_err(io::Error::other)?;
        let (trust, provider) = (Trust::new(domain.clone()), tls::mesh_provider(tls::default_provider()));
        trust.offer(authority.bundle(1));
        let own = authority.credential(&identity::edge(&domain));
        let own = Generation::new(1, own.chain, own.key, &provider, &trust).map_err(io::Error::other)?;
        let listener = TcpListener::bind(listen).await?;
        let drain = Drain::new();
        let config = Arc::clone(&own.grpc.server);
        let incoming =
            server::incoming(listener, move || Some(Arc::clone(&config)), Limits::default(), &drain);
        let service =
            Service { world: watch::Sender::new(world), heard: Arc::default(), drain: drain.clone() };
        let serve = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(service.clone()))
            .serve_with_incoming(incoming);
        let serve = Box::pin(serve);
        drain.spawn(async move { drop(serve.await) });
        Ok(Self { service, drain })
    }

    /// One change, which every stream hears as one.
    pub fn change(&self, change: impl FnOnce(&mut World)) {
        self.service.world.send_modify(change);
    }

    pub fn heard(&self) -> Heard {
        self.service.heard().clone()
    }

    /// Gives the address back, and what it said.
    pub async fn stop(self) -> World {
        let world = self.service.world.borrow().clone();
        self.drain.run(Duration::ZERO).await;
        world
    }
}

impl Service {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.heard().streams += 1;
        let (responses, stream) = mpsc::channel(64);
        let session = Session { service: self.clone(), responses, known: HashMap::new(), nonce: 0 };
        self.drain.spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Session {
    service: Service,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    /// Subscribed types: what the client has, name -> version.
    known: HashMap<&'static str, HashMap<String, String>>,
    nonce: u64,
}

impl Session {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let mut world = self.service.world.subscribe();
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => if self.take(request).await.is_none() { return },
                    Ok(None) | Err(_) => return,
                },
                changed = world.changed() => {
                    let now = world.borrow_and_update().clone();
                    if changed.is_err() || self.push(&now).await.is_none() { return }
                }
            }
        }
    }

    async fn take(&mut self, request: DeltaDiscoveryRequest) -> Option<()> {
        let kind = EDGE_TYPES.into_iter().find(|kind| *kind == request.type_url)?;
        if self.known.contains_key(kind) {
            let mut heard = self.service.heard();
            match request.error_detail {
                None => heard.acks += 1,
                Some(detail) => heard.nacks.push(detail.message),
            }
            return Some(());
        }
        if !request.initial_resource_versions.is_empty() {
            *self.service.heard().resumed.entry(request.type_url).or_default() += 1;
        }
        self.known.insert(kind, request.initial_resource_versions.into_iter().collect());
        let now = self.service.world.borrow().clone();
        self.say(kind, &now, true).await
    }

    async fn push(&mut self, world: &World) -> Option<()> {
        for kind in EDGE_TYPES {
            if self.known.contains_key(kind) {
                self.say(kind, world, false).await?;
            }
        }
        Some(())
    }

    /// What is new and what has gone; nothing if that is nothing, unless it is the first answer.
    async fn say(&mut self, kind: &'static str, world: &World, first: bool) -> Option<()> {
        let known = self.known.get_mut(kind)?;
        let of_kind = || world.0.iter().filter(|((of, _), _)| *of == kind);
        let mut resources = Vec::new();
        for ((_, name), bytes) in of_kind() {
            let version = version(bytes);
            if known.insert(name.clone(), version.clone()).as_ref() != Some(&version) {
                let body = prost_types::Any { type_url: kind.into(), value: bytes.clone() };
                resources.push(Resource { name: name.clone(), version, resource: Some(body) });
            }
        }
        let gone = known.keys().filter(|name| !world.0.contains_key(&(kind, (*name).clone())));
        let removed_resources: Vec<String> = gone.cloned().collect();
        known.retain(|name, _| !removed_resources.contains(name));
        if !first && resources.is_empty() && removed_resources.is_empty() {
            return Some(());
        }
        self.nonce += 1;
        let response = DeltaDiscoveryResponse {
            type_url: kind.into(),
            nonce: self.nonce.to_string(),
            resources,
            removed_resources,
            ..Default::default()
        };
        self.responses.send(Ok(response)).await.ok()
    }
}

fn version(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
