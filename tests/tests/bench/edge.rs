//! A gateway with a thousand hosts: how fast it is there, how fast it follows, and what they cost.

use std::{sync::Arc, time::Duration};

use hyper::header::{HeaderName, HeaderValue};
use rustls::{ClientConfig, client::Resumption};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use signet_http::{
    contract::certificate::Certificate,
    model::{HeaderEdits, HostPattern, HttpsHost, Route, Security},
};
use signet_tests::{
    fake_edge::World,
    gateway::{Edge, backend, certificate, request, route},
    mirror::Mirror,
    network::Network,
    pki::Authority,
    record::Record,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::{edge_process, pss};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "bench: make bench"]
async fn a_gateway_with_a_thousand_hosts_starts_within_5_s_shows_a_change_within_100_ms_and_costs_40_mb() {
    let record = Record::begin("bench", "7.5b").unwrap();
    let base = {
        let (shop, _origin) = Shop::open(1).await;
        shop.visit_all().await;
        sleep(SETTLE).await;
        shop.pss()
    };

    let whole = edge_process::start(HOSTS).await;
    let (mut shop, _origin) = Shop::open(HOSTS).await;
    let ready = shop.edge.gateway.ready;
    shop.visit_all().await;
    sleep(SETTLE).await;
    let (full, mut peak) = (shop.pss(), 0);
    let (mut routes, mut certificates) = (Vec::new(), Vec::new());
    for n in 0..CHANGES {
        let host = fastrand::usize(..HOSTS);
        if n % 2 == 0 {
            routes.push(shop.change_route(host, n).await);
        } else {
            certificates.push(shop.change_certificate(host).await);
        }
        peak = peak.max(shop.pss());
        sleep(BETWEEN).await;
    }
    shop.visit_all().await;
    peak = peak.max(shop.pss());
    sleep(SETTLE).await;
    let after = shop.pss();
    assert_eq!(shop.edge.edge.heard().nacks, [""; 0]);

    let mut both: Vec<Duration> = routes.iter().chain(&certificates).copied().collect();
    let over = |bytes: u64| (bytes as f64 - base as f64) / 1e6;
    let visible = percentile(&mut both, 99);
    let numbers = json!({
        "promised": { "startMilliseconds": START_PROMISED, "visibleMillisecondsP99": VISIBLE_PROMISED, "megabytesOverBase": MEMORY_PROMISED },
        "hosts": HOSTS, "changes": CHANGES,
        "startMilliseconds": milliseconds(ready),
        "withEdge": { "startMilliseconds": milliseconds(whole.start), "edgeMegabytesPss": whole.edge as f64 / 1e6 },
        "visibleMilliseconds": { "p50": percentile(&mut both, 50), "p99": visible, "max": percentile(&mut both, 100) },
        "ofThemRoutes": { "p50": percentile(&mut routes, 50), "max": percentile(&mut routes, 100) },
        "ofThemCertificates": { "p50": percentile(&mut certificates, 50), "max": percentile(&mut certificates, 100) },
        "baseMegabytesPss": base as f64 / 1e6,
        "megabytesOverBase": { "started": over(full), "peakWhileChanging": over(peak), "afterwards": over(after) },
    });
    eprintln!("{numbers:#}");
    assert!(milliseconds(ready).max(milliseconds(whole.start)) < START_PROMISED, "{numbers:#}");
    assert!(visible < VISIBLE_PROMISED, "{numbers:#}");
    assert!(over(peak) <= MEMORY_PROMISED, "{numbers:#}");
    record.held(&numbers).unwrap();
}

/// A gateway that serves hosts 0 to `hosts.len()`, each with a certificate, a route, a backend and 308 from HTTP of its own.
struct Shop {
    edge: Edge,
    /// Their leaves now.
    leaves: Vec<CertificateDer<'static>>,
    /// Of a client that never resumes, and so always sees a certificate.
    client: Arc<ClientConfig>,
}

impl Shop {
    async fn open(hosts: usize) -> (Self, Mirror) {
        let mut leaves = Vec::new();
        let edge = Edge::start_as_shipped(|world, web, network| {
            leaves = (0..hosts).map(|n| serve(world, web, network, n)).collect();
        })
        .await;
        let origin = Mirror::start((edge.network.address(2, 1), ORIGIN).into()).await.unwrap();
        let mut client = ClientConfig::clone(&edge.tls(&[b"http/1.1"]));
        client.resumption = Resumption::disabled();
        (Self { edge, leaves, client: Arc::new(client) }, origin)
    }

    /// Each host answers, with the certificate that is its own now.
    async fn visit_all(&self) {
        for (n, leaf) in self.leaves.iter().enumerate() {
            let mut tls = self.dial(n).await;
            assert_eq!(leaf_of(&tls), leaf, "{}", host(n));
            assert_eq!(request(&mut tls, &host(n), "/").await.unwrap().0, 200, "{}", host(n));
        }
    }

    fn pss(&self) -> u64 {
        pss(self.edge.gateway.pid().try_into().unwrap())
    }

    async fn dial(&self, n: usize) -> TlsStream<TcpStream> {
        self.edge.dial(&self.client, &host(n)).await.unwrap()
    }

    /// From telling the gateway until an open connection of a client is answered by the new route. No request fails meanwhile.
    async fn change_route(&self, n: usize, mark: usize) -> Duration {
        let mut tls = self.dial(n).await;
        request(&mut tls, &host(n), "/").await.unwrap();
        let changed = route_of(n, Some(mark));
        let seen = format!("{MARK}: {mark}\r\n");
        let begun = Instant::now();
        self.edge.edge.change(|world| world.route(&changed));
        let look = async {
            loop {
                let (status, answer) = request(&mut tls, &host(n), "/").await.unwrap();
                assert_eq!(status, 200, "{answer}");
                if answer.contains(&seen) {
                    return begun.elapsed();
                }
            }
        };
        timeout(PATIENCE, look).await.unwrap()
    }

    /// From telling the gateway until a client is shown the new certificate. No handshake fails meanwhile.
    async fn change_certificate(&mut self, n: usize) -> Duration {
        let changed = certificate_of(&self.edge.web, n);
        let new = changed.chain[0].clone();
        let begun = Instant::now();
        self.edge.edge.change(|world| world.certificate(&changed));
        let look = async {
            while *leaf_of(&self.dial(n).await) != new {}
            begun.elapsed()
        };
        let took = timeout(PATIENCE, look).await.unwrap();
        self.leaves[n] = new;
        took
    }
}

/// Returns the leaf of host `n`.
fn serve(world: &mut World, web: &Authority, network: &Network, n: usize) -> CertificateDer<'static> {
    let origin = (network.address(2, 1), ORIGIN).into();
    let certificate = certificate_of(web, n);
    world.backend(&backend(&backend_name(n), origin, Security::Plain));
    world.route(&route_of(n, None));
    let pattern = HostPattern::ingress(Some(&host(n))).unwrap();
    world.https_host(&HttpsHost { host: pattern, port: 443, unready: None });
    world.certificate(&certificate);
    certificate.chain[0].clone()
}

pub(crate) fn host(n: usize) -> String {
    format!("shop-{n}.example.com")
}

fn backend_name(n: usize) -> String {
    format!("shop/web-{n}:80")
}

pub(crate) fn certificate_of(web: &Authority, n: usize) -> Certificate {
    certificate(web, &format!("shop/web-{n}"), &[&host(n)])
}

/// Its answers carry `mark`.
fn route_of(n: usize, mark: Option<usize>) -> Route {
    let mut route = route(&host(n), &backend_name(n));
    if let Some(mark) = mark {
        let field = (HeaderName::from_static(MARK), HeaderValue::from(mark));
        route.rules[0].response_headers = HeaderEdits::new(vec![field], Vec::new(), Vec::new()).unwrap();
    }
    route
}

pub(crate) fn leaf_of(tls: &TlsStream<TcpStream>) -> &CertificateDer<'static> {
    &tls.get_ref().1.peer_certificates().unwrap()[0]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    milliseconds(times[(times.len() - 1) * percent / 100])
}

const HOSTS: usize = 1000;
/// Half of routes, half of certificates.
const CHANGES: usize = 100;
const BETWEEN: Duration = Duration::from_millis(20);
const MARK: &str = "x-bench-change";
pub(crate) const ORIGIN: u16 = 8000;
const START_PROMISED: f64 = 5000.0;
const VISIBLE_PROMISED: f64 = 100.0;
const MEMORY_PROMISED: f64 = 40.0;
/// Twice what the gateway's allocator keeps freed pages for.
const SETTLE: Duration = Duration::from_secs(2);
/// A hang, not a measure.
const PATIENCE: Duration = Duration::from_secs(20);
