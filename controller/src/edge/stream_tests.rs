//! Edge's stream over real mutual TLS on loopback, with a CA of the test's own: a gateway gets everything, a sidecar nothing.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_api::{
    EDGE_BACKEND, EDGE_CERTIFICATE, EDGE_TYPES,
    xds::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    },
};
use signet_core::{
    bundle::TrustBundle,
    drain::Drain,
    identity::{self, SpiffeId, TrustDomain},
    telemetry,
    tls::{self, Generation},
    trust::Trust,
};
use signet_http::{
    contract::{
        self,
        certificate::{Certificate, PrivateKey},
    },
    model::{Backend, Choice, HostPattern, Protocol},
};
use signet_link::{Target, client, server};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{snapshot::EdgeSnapshot, translate::Translated};
use crate::{metrics::Metrics, resources::Serves as _, stream::Discovery, streams::Streams};

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn snapshot(backends: &[&str]) -> Arc<EdgeSnapshot> {
    let backend = |name: &&str| {
        Arc::new(Backend {
            name: (*name).into(),
            protocol: Protocol::Http1,
            choice: Choice::Quicker,
            endpoints: Vec::new(),
        })
    };
    let certificate = Certificate {
        name: "shop/web-tls".into(),
        listeners: vec!["ingress/https".into()],
        names: vec![HostPattern::ingress(Some("app.example")).unwrap()],
        chain: vec![CertificateDer::from(vec![1, 2, 3])],
        key: PrivateKey::new(b"EDGEKEY".to_vec()),
        default: false,
    };
    let translated = Translated {
        backends: backends.iter().map(backend).collect(),
        certificates: vec![certificate],
        ..Translated::default()
    };
    Arc::new(EdgeSnapshot::new(identity::gateway(&domain()), None, translated))
}

/// Edge on loopback, whose snapshot the test replaces.
struct Edge {
    ca: Issuer<'static, KeyPair>,
    target: Target,
    trust: Arc<Trust>,
    snapshots: watch::Sender<Arc<EdgeSnapshot>>,
    registry: Arc<telemetry::Metrics>,
    _drain: Drain,
}

impl Edge {
    async fn start() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        let ca = Issuer::new(params, key);
        let trust = Trust::new(domain());
        trust.offer(TrustBundle::new(1, vec![root], vec![]).unwrap());
        let own = generation(&ca, &trust, &identity::edge(&domain()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target { address: listener.local_addr().unwrap().into(), id: identity::edge(&domain()) };
        let (drain, mut registry) = (Drain::new(), telemetry::Metrics::new());
        let metrics = Arc::new(Metrics::new(&mut registry));
        let (snapshots, snapshot) = watch::channel(snapshot(&["shop/web:80"]));
        let discovery = Discovery {
            snapshots: snapshot,
            streams: Arc::new(Streams::new(EdgeSnapshot::TYPES)),
            trust: Arc::clone(&trust),
            algorithms: provider().signature_verification_algorithms,
            metrics,
            drain: drain.clone(),
        };
        let config = move || Some(Arc::clone(&own.grpc.server));
        let incoming = server::incoming(listener, config, server::Limits::default(), &drain);
        let router =
            tonic::transport::Server::builder().add_service(AggregatedDiscoveryServiceServer::new(discovery));
        let stop = drain.clone();
        let stopping = async move { stop.stopping().await };
        drain.spawn(async move {
            Box::pin(router.serve_with_incoming_shutdown(incoming, stopping)).await.unwrap()
        });
        Self { ca, target, trust, snapshots, registry: registry.share(), _drain: drain }
    }

    async fn open(&self, id: &SpiffeId) -> Client {
        let own = generation(&self.ca, &self.trust, id);
        let source: IpAddr = "127.0.0.7".parse().unwrap();
        let config = move || Some(Arc::clone(&own.grpc.client));
        let channel = client::channel(&self.target, Some(source), config).await.unwrap();
        let (requests, stream) = mpsc::channel(16);
        let opened = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(ReceiverStream::new(stream))
            .await
            .unwrap();
        Client { requests, responses: opened.into_inner() }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    tls::mesh_provider(tls::default_provider())
}

fn generation(ca: &Issuer<'_, KeyPair>, trust: &Arc<Trust>, id: &SpiffeId) -> Generation {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let chain = vec![params.signed_by(&key, ca).unwrap().der().clone()];
    Generation::new(1, chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap(), &provider(), trust)
        .unwrap()
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn subscribe(&self, type_url: &str, names: &[&str]) {
        let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let request = DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = timeout(DEADLINE, self.responses.message()).await.expect("an answer within the deadline");
        let response = next.unwrap().unwrap();
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        let ack = DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() };
        self.requests.send(ack).await.unwrap();
        response
    }
}

fn names(response: &DeltaDiscoveryResponse) -> (Vec<&str>, Vec<&str>) {
    let resources = response.resources.iter().map(|resource| resource.name.as_str()).collect();
    (resources, response.removed_resources.iter().map(String::as_str).collect())
}

/// Only ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_gateway_gets_all_of_every_type_and_then_what_changes() {
    let edge = Edge::start().await;
    let mut gateway = edge.open(&identity::gateway(&domain())).await;
    gateway.subscribe(EDGE_CERTIFICATE, &["*"]).await;
    let certificates = gateway.next().await;
    assert_eq!(names(&certificates), (vec!["shop/web-tls"], vec![]));
    let message = certificates.resources[0].resource.as_ref().unwrap();
    let message: signet_api::edge::Certificate = prost::Message::decode(&*message.value).unwrap();
    let certificate = contract::certificate::decode(message).unwrap();
    assert_eq!(certificate, snapshot(&[]).translated.certificates[0]);
    gateway.subscribe(EDGE_BACKEND, &["*"]).await;
    assert_eq!(names(&gateway.next().await), (vec!["shop/web:80"], vec![]));
    edge.snapshots.send_replace(snapshot(&["shop/api:80"]));
    assert_eq!(names(&gateway.next().await), (vec!["shop/api:80"], vec!["shop/web:80"]));
}

/// Host theft's last door: a sidecar's certificate is as good as any of the mesh, and gets no edge key.
#[tokio::test]
async fn nobody_but_the_gateways_own_id_gets_anything_and_who_tries_is_counted() {
    let edge = Edge::start().await;
    for id in [
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/signet-system/sa/controller",
        "spiffe://cluster.local/ns/signet-system/sa/gateway",
        "spiffe://cluster.local/ns/signet-gateway/sa/default",
        "spiffe://cluster.local/ns/signet-gateway/sa/gateway2",
    ] {
        let mut other = edge.open(&identity::parse(id).unwrap()).await;
        for kind in EDGE_TYPES {
            other.subscribe(kind, &["*"]).await;
            let response = other.next().await;
            assert_eq!(names(&response), (vec![], vec!["*"]), "{id} {kind}");
            other.subscribe(kind, &["shop/web-tls", "shop/web:80"]).await;
            let response = other.next().await;
            assert_eq!(response.resources, vec![], "{id} {kind}");
        }
    }
    let text = edge.registry.render();
    let counted = text.lines().find(|line| line.contains("not_a_gateway")).unwrap();
    let count: u64 = counted.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 5 * 5 * 3, "{counted}");
    assert!(!text.contains("shop") && !text.contains("EDGEKEY"), "no name and no key in metrics");
}

#[test]
fn nothing_shows_a_key() {
    let snapshot = snapshot(&["shop/web:80"]);
    let shown = format!("{snapshot:?}");
    assert!(shown.contains("shop/web-tls"), "{shown}");
    let key = format!("{:?}", b"EDGEKEY");
    assert!(!shown.contains("EDGEKEY") && !shown.contains(&key), "{shown}");
}
