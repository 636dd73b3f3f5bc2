//! Over real mutual TLS on loopback, with a CA of the test's own.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use signet_api::{
    ADDRESS, WORKLOAD_SETTINGS,
    v1::{
        EdgeDelta, ProxyState, ReportRequest, telemetry_client::TelemetryClient,
        telemetry_server::TelemetryServer,
    },
    xds::{
        self, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    },
};
use signet_core::{
    bundle::TrustBundle,
    identity::{self, TrustDomain},
    telemetry,
    tls::{self, Generation},
};
use signet_link::{Target, client, server};
use tokio::{net::TcpListener, time::timeout};
use tonic::transport::Channel;

use super::*;
use crate::{
    build::{index, namespace, pod},
    report::{Reports, Telemeter},
    resources::{Snapshot, Type},
};

/// A controller on loopback, whose snapshot the test replaces.
struct Controller {
    ca: Issuer<'static, KeyPair>,
    target: Target,
    trust: Arc<Trust>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    streams: Arc<Streams>,
    reports: Arc<Reports>,
    drain: Drain,
}

/// Pod shop/api at `address`, and shop/db.
fn snapshot(address: &str) -> Arc<Snapshot> {
    let index = index([namespace("shop"), pod("api").at(address), pod("db").at("127.0.0.9")]);
    Arc::new(Snapshot::new(Arc::new(index), None))
}

impl Controller {
    async fn start() -> Self {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let (ca, trust) = authority(&domain);
        let own = generation(&ca, &trust, &identity::controller(&domain));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target =
            Target { address: listener.local_addr().unwrap().into(), id: identity::controller(&domain) };
        let (drain, mut registry) = (Drain::new(), telemetry::Metrics::new());
        let metrics = Arc::new(Metrics::new(&mut registry));
        let (streams, reports) = (Arc::new(Streams::new(Type::MESH)), Arc::new(Reports::default()));
        let (snapshots, snapshot) = watch::channel(snapshot("127.0.0.3"));
        let discovery = Discovery {
            snapshots: snapshot.clone(),
            streams: Arc::clone(&streams),
            trust: Arc::clone(&trust),
            algorithms: provider().signature_verification_algorithms,
            metrics: Arc::clone(&metrics),
            drain: drain.clone(),
        };
        let telemeter =
            Telemeter { reports: Arc::clone(&reports), snapshots: snapshot, metrics, drain: drain.clone() };
        let router = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(discovery))
            .add_service(TelemetryServer::new(telemeter));
        serve(router, listener, own, &drain);
        Self { ca, target, trust, snapshots, streams, reports, drain }
    }

    /// A connection of service account `account` in shop, from `address`.
    async fn connect(&self, account: &str, address: &str) -> Channel {
        let id = identity::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).unwrap();
        let own = generation(&self.ca, &self.trust, &id);
        let source: IpAddr = address.parse().unwrap();
        client::channel(&self.target, Some(source), move || Some(Arc::clone(&own.grpc.client))).await.unwrap()
    }

    async fn open(&self, account: &str, address: &str) -> Client {
        Client::open(self.connect(account, address).await).await.unwrap()
    }
}

/// A root, and a trust in it.
pub(crate) fn authority(domain: &TrustDomain) -> (Issuer<'static, KeyPair>, Arc<Trust>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().der().clone();
    let trust = Trust::new(domain.clone());
    trust.offer(TrustBundle::new(1, vec![root], vec![]).unwrap());
    (Issuer::new(params, key), trust)
}

/// Serves `router` as `own` until `drain` stops.
pub(crate) fn serve(
    router: tonic::transport::server::Router,
    listener: TcpListener,
    own: Generation,
    drain: &Drain,
) {
    let config = move || Some(Arc::clone(&own.grpc.server));
    let incoming = server::incoming(listener, config, server::Limits::default(), drain);
    let stop = drain.clone();
    let stopping = async move { stop.stopping().await };
    drain.spawn(
        async move { Box::pin(router.serve_with_incoming_shutdown(incoming, stopping)).await.unwrap() },
    );
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    tls::mesh_provider(tls::default_provider())
}

pub(crate) fn generation(
    ca: &Issuer<'_, KeyPair>,
    trust: &Arc<Trust>,
    id: &identity::SpiffeId,
) -> Generation {
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

/// A data plane's end of a stream.
pub(crate) struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    pub(crate) async fn open(channel: Channel) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(16);
        let opened = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(ReceiverStream::new(stream))
            .await?;
        Ok(Self { requests, responses: opened.into_inner() })
    }

    pub(crate) async fn subscribe(&self, type_url: &str, names: &[&str]) {
        let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let request = DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let error_detail = error.map(|message| xds::Status { code: 3, message: message.into() });
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        let request = DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let next =
            timeout(DEADLINE, self.responses.message()).await.expect("an answer within the deadline")?;
        next.ok_or_else(|| Status::ok("ended"))
    }
}

pub(crate) fn names(response: &DeltaDiscoveryResponse) -> (Vec<&str>, Vec<&str>) {
    let resources = response.resources.iter().map(|resource| resource.name.as_str()).collect();
    (resources, response.removed_resources.iter().map(String::as_str).collect())
}

/// Polls until `holds`.
async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it becomes so within the deadline");
}

/// Only ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_proxy_learns_an_address_and_every_change_of_it() {
    let controller = Controller::start().await;
    let mut api = controller.open("api", "127.0.0.3").await;
    api.subscribe(ADDRESS, &["127.0.0.3", "127.0.0.4"]).await;
    let first = api.next().await.unwrap();
    assert_eq!(names(&first), (vec!["127.0.0.3"], vec!["127.0.0.4"]));
    api.answer(&first, None).await;
    controller.snapshots.send_replace(snapshot("127.0.0.4"));
    assert_eq!(names(&api.next().await.unwrap()), (vec!["127.0.0.4"], vec!["127.0.0.3"]));
}

#[tokio::test]
async fn a_client_that_does_not_answer_sees_the_latest_state_and_nothing_between() {
    let controller = Controller::start().await;
    let mut api = controller.open("api", "127.0.0.3").await;
    api.subscribe(ADDRESS, &["127.0.0.3", "127.0.0.4", "127.0.0.5"]).await;
    let first = api.next().await.unwrap();
    for n in 0..200 {
        controller.snapshots.send_replace(snapshot(["127.0.0.5", "127.0.0.3"][n % 2]));
        tokio::task::yield_now().await;
    }
    controller.snapshots.send_replace(snapshot("127.0.0.4"));
    api.answer(&first, None).await;
    let latest = api.next().await.unwrap();
    assert_eq!((names(&latest), latest.nonce.as_str()), ((vec!["127.0.0.4"], vec!["127.0.0.3"]), "2"));
}

#[tokio::test]
async fn settings_of_another_pod_are_answered_as_absent() {
    let controller = Controller::start().await;
    for (account, address, want) in [
        ("api", "127.0.0.3", (vec!["shop/api"], vec!["shop/db"])),
        ("api", "127.0.0.8", (vec![], vec!["shop/api", "shop/db"])),
        ("db", "127.0.0.3", (vec![], vec!["shop/api", "shop/db"])),
    ] {
        let mut client = controller.open(account, address).await;
        client.subscribe(WORKLOAD_SETTINGS, &["shop/api", "shop/db"]).await;
        assert_eq!(names(&client.next().await.unwrap()), want, "{account} from {address}");
    }
}

#[tokio::test]
async fn a_rejected_response_is_kept_in_sight_until_one_is_accepted() {
    let controller = Controller::start().await;
    let mut api = controller.open("api", "127.0.0.3").await;
    api.subscribe(ADDRESS, &["127.0.0.3"]).await;
    let first = api.next().await.unwrap();
    api.answer(&first, Some("port out of range")).await;
    let id = identity::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap();
    let who = Subscriber { id, address: "127.0.0.3".parse().unwrap() };
    let want = ["address 127.0.0.3: port out of range"];
    until(|| controller.streams.nacks(&who) == want).await;
    controller.snapshots.send_replace(snapshot("127.0.0.4"));
    let second = api.next().await.unwrap();
    api.answer(&second, None).await;
    until(|| controller.streams.nacks(&who).is_empty()).await;
    assert!(controller.streams.is_connected(&who));
    drop(api);
    until(|| !controller.streams.is_connected(&who)).await;
}

#[tokio::test]
async fn limits_and_shutdown_end_streams_with_words() {
    let controller = Controller::start().await;
    let channel = controller.connect("api", "127.0.0.3").await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(Client::open(channel.clone()).await.unwrap());
    }
    let refused = Client::open(channel).await.err().map(|status| status.code());
    assert_eq!(refused, Some(tonic::Code::ResourceExhausted));
    let mut last = streams.pop().unwrap();
    last.subscribe("type.googleapis.com/other", &[]).await;
    assert_eq!(last.next().await.unwrap_err().code(), tonic::Code::InvalidArgument);
    controller.drain.stop();
    assert_eq!(streams[0].next().await.unwrap_err().code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn a_distrusted_root_ends_the_streams_that_rest_on_it() {
    let controller = Controller::start().await;
    let mut api = controller.open("api", "127.0.0.3").await;
    controller.trust.set_fault(Some("the trust file is broken".into()));
    assert_eq!(api.next().await.unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn reports_are_taken_from_the_pod_itself_only() {
    let controller = Controller::start().await;
    let report = |pod: &str| ReportRequest {
        proxy: Some(ProxyState {
            namespace: "shop".into(),
            pod: pod.into(),
            ready: true,
            ..Default::default()
        }),
        edges: vec![EdgeDelta {
            direction: 2,
            peer: "192.0.2.1".into(),
            port: 80,
            opened: 1,
            ..Default::default()
        }],
    };
    for (account, address, pod, accepted) in [
        ("api", "127.0.0.3", "api", true),
        ("api", "127.0.0.3", "db", false),
        ("db", "127.0.0.3", "api", false),
    ] {
        let mut client = TelemetryClient::new(controller.connect(account, address).await);
        let answer = client.report(tokio_stream::iter([report(pod)])).await;
        assert_eq!(
            answer.map_err(|status| status.code()).err(),
            (!accepted).then_some(tonic::Code::PermissionDenied)
        );
    }
    assert!(controller.reports.proxy("shop/api").unwrap().ready);
    assert_eq!((controller.reports.proxy("shop/db"), controller.reports.edges().len()), (None, 1));
}
