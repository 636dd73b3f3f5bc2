//! Edge's stream over real mutual TLS on loopback, with a CA of the test's own: a gateway gets everything, a sidecar nothing.

use std::{net::IpAddr, sync::Arc};

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use signet_api::{
    EDGE_BACKEND, EDGE_CERTIFICATE, EDGE_CHALLENGE, EDGE_TYPES,
    xds::{DeltaDiscoveryResponse, aggregated_discovery_service_server::AggregatedDiscoveryServiceServer},
};
use signet_core::{
    drain::Drain,
    identity::{self, SpiffeId, TrustDomain},
    telemetry,
    trust::Trust,
};
use signet_http::{
    contract::{
        self,
        certificate::{Certificate, PrivateKey},
        challenge::{Challenge, TlsAlpn01},
    },
    model::{Backend, Choice, HostPattern, Protocol},
};
use signet_link::{Target, client};
use tokio::{net::TcpListener, sync::watch};

use super::{snapshot::EdgeSnapshot, translate::Translated};
use crate::{
    metrics::Metrics,
    resources::Serves as _,
    stream::{
        Discovery,
        tests::{Client, authority, generation, names, provider, serve},
    },
    streams::Streams,
};

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
    let translated = Translated {
        backends: backends.iter().map(backend).collect(),
        certificates: vec![certificate()],
        challenges: Arc::new([(challenge().name(), Arc::new(challenge()))].into()),
        ..Translated::default()
    };
    Arc::new(EdgeSnapshot::new(identity::gateway(&domain()), None, translated))
}

fn certificate() -> Certificate {
    Certificate {
        name: "shop/web-tls".into(),
        listeners: vec!["ingress/https".into()],
        names: vec![HostPattern::ingress(Some("app.example")).unwrap()],
        chain: vec![CertificateDer::from(vec![1, 2, 3])],
        key: PrivateKey::new(b"EDGEKEY".to_vec()),
        default: false,
    }
}

fn challenge() -> Challenge {
    let (certificate, key) = (vec![4, 5, 6].into(), PrivateKey::new(b"EDGEKEY".to_vec()));
    Challenge::TlsAlpn01(TlsAlpn01 { host: "app.example".parse().unwrap(), certificate, key })
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
        let (ca, trust) = authority(&domain());
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
        let router =
            tonic::transport::Server::builder().add_service(AggregatedDiscoveryServiceServer::new(discovery));
        serve(router, listener, own, &drain);
        Self { ca, target, trust, snapshots, registry: registry.share(), _drain: drain }
    }

    async fn open(&self, id: &SpiffeId) -> Client {
        let own = generation(&self.ca, &self.trust, id);
        let source: IpAddr = "127.0.0.7".parse().unwrap();
        let config = move || Some(Arc::clone(&own.grpc.client));
        let channel = client::channel(&self.target, Some(source), config).await.unwrap();
        Client::open(channel).await.unwrap()
    }
}

/// The next response, acknowledged.
async fn next(client: &mut Client) -> DeltaDiscoveryResponse {
    let response = client.next().await.unwrap();
    client.answer(&response, None).await;
    response
}

#[tokio::test]
async fn a_gateway_gets_all_of_every_type_and_then_what_changes() {
    let edge = Edge::start().await;
    let mut gateway = edge.open(&identity::gateway(&domain())).await;
    gateway.subscribe(EDGE_CERTIFICATE, &["*"]).await;
    let certificates = next(&mut gateway).await;
    assert_eq!(names(&certificates), (vec!["shop/web-tls"], vec![]));
    let message = certificates.resources[0].resource.as_ref().unwrap();
    let message: signet_api::edge::Certificate = prost::Message::decode(&*message.value).unwrap();
    assert_eq!(contract::certificate::decode(message).unwrap(), certificate());
    gateway.subscribe(EDGE_CHALLENGE, &["*"]).await;
    let challenges = next(&mut gateway).await;
    assert_eq!(names(&challenges), (vec!["tls-alpn-01/app.example"], vec![]));
    let message = challenges.resources[0].resource.as_ref().unwrap();
    let message: signet_api::edge::Challenge = prost::Message::decode(&*message.value).unwrap();
    assert_eq!(contract::challenge::decode(message).unwrap(), challenge());
    gateway.subscribe(EDGE_BACKEND, &["*"]).await;
    assert_eq!(names(&next(&mut gateway).await), (vec!["shop/web:80"], vec![]));
    edge.snapshots.send_replace(snapshot(&["shop/api:80"]));
    assert_eq!(names(&next(&mut gateway).await), (vec!["shop/api:80"], vec!["shop/web:80"]));
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
            let response = next(&mut other).await;
            assert_eq!(names(&response), (vec![], vec!["*"]), "{id} {kind}");
            other.subscribe(kind, &["shop/web-tls", "shop/web:80", "tls-alpn-01/app.example"]).await;
            let response = next(&mut other).await;
            assert_eq!(response.resources, vec![], "{id} {kind}");
        }
    }
    let text = edge.registry.render();
    let counted = text.lines().find(|line| line.contains("not_a_gateway")).unwrap();
    let count: u64 = counted.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 5 * 6 * 4, "{counted}");
    assert!(!text.contains("shop") && !text.contains("EDGEKEY"), "no name and no key in metrics");
}

#[test]
fn nothing_shows_a_key() {
    let snapshot = snapshot(&["shop/web:80"]);
    let shown = format!("{snapshot:?}");
    assert!(shown.contains("shop/web-tls") && shown.contains("tls-alpn-01/app.example"), "{shown}");
    let key = format!("{:?}", b"EDGEKEY");
    assert!(!shown.contains("EDGEKEY") && !shown.contains(&key), "{shown}");
}
