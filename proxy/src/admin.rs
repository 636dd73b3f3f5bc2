//! The admin pages: what this proxy is, knows and does. Read-only; what a stranger sent appears as JSON strings only.
//!
//! In a pod all of them are on loopback alone, where port-forward reaches them and Kubernetes' own rights guard them. Its
//! network sees whether we are ready, the metrics, and the app's probes.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{
        HeaderMap, Request, StatusCode, Uri,
        header::{CONTENT_TYPE, USER_AGENT},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use serde_json::{Value, json};
use signet_core::{
    bundle::{certificate_pem, root_id},
    clock,
    drain::Drain,
    pod::{ADMIN_PORT, PAGES_PORT},
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::ServiceExt as _;
use tracing::debug;

use crate::{
    Proxy,
    config::{Admin, Config},
    connections::{Ended, Facts, Live},
    discovery::Discovery,
    limits::Limits,
    listen::{self, CannotListen, Places, Sources},
    model::{Answer, Transport, Workload},
    probes::{Probes, Reply},
};

/// Bound, not yet served.
pub struct Listeners {
    /// For all pages.
    all: Vec<TcpListener>,
    /// In a pod, for those that its network may see.
    few: Option<TcpListener>,
}

pub async fn bind(config: &Config) -> Result<Listeners, CannotListen> {
    let address = match config.admin {
        Admin::At(address) => {
            return Ok(Listeners {
                all: vec![listen::bind(address, "admin of the bootstrap").await?],
                few: None,
            });
        }
        Admin::Pod => SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
    };
    let mut all = vec![listen::bind(address, "the pod's admin pages").await?];
    match listen::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, ADMIN_PORT)), "the pod's admin pages").await {
        Ok(listener) => all.push(listener),
        Err(error) if error.lacks_family() => {}
        Err(error) => return Err(error),
    }
    let few = listen::bind_everywhere(PAGES_PORT, "readiness, metrics and probes")?;
    Ok(Listeners { all, few: Some(few) })
}

#[derive(Clone)]
struct Pages {
    proxy: Arc<Proxy>,
    discovery: Arc<Discovery>,
    probes: Arc<Probes>,
    metrics: Arc<Metrics>,
    gauges: Gauges,
}

/// Read when someone asks.
#[derive(Clone)]
struct Gauges {
    ready: Gauge,
    trust_fault: Gauge,
    model: Gauge,
}

impl Listeners {
    /// Serves until `drain` stops. The metrics are complete by now.
    pub fn serve(
        self,
        proxy: &Arc<Proxy>,
        discovery: &Arc<Discovery>,
        probes: Arc<Probes>,
        mut metrics: Metrics,
        drain: &Drain,
    ) {
        let version: Family<Vec<(&'static str, &'static str)>, Gauge> =
            metrics.add("proxy_info", "The proxy's version", Family::default());
        version.get_or_create(&vec![("version", signet_core::VERSION)]).set(1);
        let gauges = Gauges {
            ready: metrics.add("ready", "1: this proxy is ready", Gauge::default()),
            trust_fault: metrics.add(
                "trust_fault",
                "1: nobody is trusted, because the trust bundle is missing or broken",
                Gauge::default(),
            ),
            model: metrics.add(
                "model_generation",
                "Changes of what the controller told us",
                Gauge::default(),
            ),
        };
        let pages = Pages {
            proxy: Arc::clone(proxy),
            discovery: Arc::clone(discovery),
            probes,
            metrics: metrics.share(),
            gauges,
        };
        let few = Router::new().route("/ready", get(ready)).route("/metrics", get(metrics_page));
        let all = few
            .clone()
            .route("/connections", get(connections))
            .route("/config", get(config))
            .route("/identity", get(identity))
            .with_state(pages.clone());
        for listener in self.all {
            serve_on(listener, all.clone(), LOCAL, drain);
        }
        if let Some(listener) = self.few {
            let few = few.route("/probe/{container}/{kind}", get(probe)).with_state(pages);
            serve_on(listener, few, NETWORK, drain);
        }
    }
}

/// How many connections may be open at once.
#[derive(Clone, Copy)]
struct Crowd {
    all: usize,
    /// Of one source (an IPv4 address, an IPv6 /64).
    each: usize,
}

/// Answers one request for each connection, within limits: strangers reach this port.
fn serve_on(listener: TcpListener, router: Router, crowd: Crowd, drain: &Drain) {
    let (places, sources) = (Places::new(crowd.all), Sources::new(crowd.each));
    listen::serve(listener, drain, move |tcp, address| {
        let (place, arrival, router) = (places.take(), sources.arrive(address.ip()), router.clone());
        async move {
            let (Some(_place), Some(_arrival)) = (place, arrival) else {
                return debug!(%address, "admin connection closed: too many are open");
            };
            answer(tcp, address, router).await;
        }
    });
}

async fn answer(tcp: TcpStream, address: SocketAddr, router: Router) {
    let asking = &AtomicBool::new(false);
    let pages = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            asking.store(true, Relaxed);
            let answered = router.oneshot(request).await;
            asking.store(false, Relaxed);
            let Ok(response) = answered; // a router has no errors
            match response.extensions().get::<NoAnswer>() {
                None => Ok(response),
                Some(NoAnswer) => Err(io::Error::other("the app did not answer a hook")),
            }
        }
    });
    let answered = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(tcp), pages);
    let mut answered = pin!(answered);
    loop {
        match timeout(EXCHANGE, &mut answered).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => return debug!(%address, %error, "admin connection failed"),
            Err(_) if asking.load(Relaxed) => {} // a probe has a limit of its own, which may be longer
            Err(_) => return debug!(%address, "admin connection closed: not done in {EXCHANGE:?}"),
        }
    }
}

/// In a response: close the connection instead of sending it.
#[derive(Clone, Copy)]
struct NoAnswer;

/// What the kubelet wants to know of the app, if the pod's spec has it.
async fn probe(State(pages): State<Pages>, uri: Uri, headers: HeaderMap) -> Response {
    match pages.probes.ask(uri.path(), headers.get(USER_AGENT)).await {
        Some(Reply::Say(status, text)) => (status, text + "\n").into_response(),
        Some(Reply::Hang) => Extension(NoAnswer).into_response(),
        None => (StatusCode::NOT_FOUND, "the pod's spec has no such probe\n").into_response(),
    }
}

async fn ready(State(pages): State<Pages>) -> Response {
    let reasons = pages.proxy.not_ready();
    match reasons.is_empty() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response(),
    }
}

async fn metrics_page(State(pages): State<Pages>) -> Response {
    let proxy = &pages.proxy;
    pages.gauges.ready.set(proxy.not_ready().is_empty().into());
    pages.gauges.trust_fault.set(proxy.trust.fault().is_some().into());
    pages.gauges.model.set(i64::try_from(proxy.model.snapshot().generation).unwrap_or(i64::MAX));
    ([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], pages.metrics.render()).into_response()
}

/// `{"identity", "connections": [row..]}`: live rows first, then the last 256 that ended, newest first.
async fn connections(State(pages): State<Pages>) -> Json<Value> {
    let proxy = &pages.proxy;
    let own = proxy.config.workload.id.to_string();
    let live = proxy.connections.live().iter().map(|live| row_of_live(live)).collect::<Vec<_>>();
    let rows: Vec<Value> =
        live.into_iter().chain(proxy.connections.ended().iter().map(row_of_ended)).collect();
    Json(json!({"identity": own, "connections": rows}))
}

fn row_of_live(live: &Live) -> Value {
    let mut row = row(&live.facts());
    row["id"] = live.id.into();
    row["state"] = if live.is_carried() { "open" } else { "opening" }.into();
    row["startedAt"] = clock::rfc3339(live.started_at).into();
    row["ageSeconds"] = live.started.elapsed().as_secs_f64().into();
    row["sent"] = live.sent.load(std::sync::atomic::Ordering::Relaxed).into();
    row["received"] = live.received.load(std::sync::atomic::Ordering::Relaxed).into();
    row
}

fn row_of_ended(ended: &Ended) -> Value {
    let mut row = row(&ended.facts);
    row["state"] = if ended.refused { "refused" } else { "ended" }.into();
    row["endedAt"] = clock::rfc3339(ended.ended_at).into();
    row["ageSeconds"] = ended.lasted.as_secs_f64().into();
    row["sent"] = ended.sent.into();
    row["received"] = ended.received.into();
    row["reason"] = ended.reason.into();
    row["why"] = ended.why.clone().into();
    row
}

fn row(facts: &Facts) -> Value {
    json!({
        "direction": facts.direction,
        "source": facts.source,
        "destination": facts.destination,
        "port": facts.port,
        "peerAddress": facts.peer_address,
        "peer": facts.peer,
        "peerId": facts.peer_id().map(ToString::to_string),
        "peerCertLeftSeconds": facts.peer_not_after().map(|not_after| not_after - clock::unix_now()),
        "tls": facts.tls().map(|tls| json!({
            "version": tls.version, "keyExchange": tls.key_exchange, "cipher": tls.cipher,
        })),
        "plainReason": facts.plain_reason,
        "modelGeneration": facts.model_generation,
        "audited": facts.audited,
    })
}

/// Configuration as this proxy sees it: bootstrap (no secrets), settings, each known address, discovery.
async fn config(State(pages): State<Pages>) -> Json<Value> {
    let proxy = &pages.proxy;
    let snapshot = proxy.model.snapshot();
    let addresses: serde_json::Map<String, Value> =
        snapshot.addresses().map(|(name, answer)| (name.to_string(), shown(answer))).collect();
    Json(json!({
        "version": signet_core::VERSION,
        "bootstrap": proxy.config,
        "modelGeneration": snapshot.generation,
        "settings": snapshot.settings,
        "addresses": addresses,
        "discovery": pages.discovery.status(),
        "limits": shown_limits(&proxy.config.limits),
    }))
}

fn shown_limits(limits: &Limits) -> Value {
    json!({
        "handshakeSeconds": limits.wire.handshake.as_secs_f64(),
        "firstBytesSeconds": limits.first_bytes.as_secs_f64(),
        "clientHelloBytes": limits.client_hello_bytes,
        "openSeconds": limits.open.as_secs_f64(),
        "dialSeconds": limits.wire.dial.as_secs_f64(),
        "tries": limits.tries,
        "tryAllSeconds": limits.try_all.as_secs_f64(),
        "connections": limits.connections,
        "drainSeconds": limits.drain.as_secs_f64(),
    })
}

fn shown(answer: Option<&Answer>) -> Value {
    match answer {
        None => json!({"verdict": "UNKNOWN"}),
        Some(Answer::Outside) => json!({"verdict": "OUTSIDE"}),
        Some(Answer::Workload(workload)) => shown_workload(workload),
        Some(Answer::Service(service)) => json!({
            "service": format!("{}/{}", service.namespace, service.name),
            "ports": service.ports,
            "clientIpAffinity": service.client_ip_affinity,
            "endpoints": service.endpoints.iter().map(|endpoint| {
                let mut shown = shown_workload(&endpoint.workload);
                shown["targetPorts"] = endpoint.target_ports.iter().map(|(from, to)| (from.to_string(), (*to).into())).collect::<serde_json::Map<_, Value>>().into();
                shown
            }).collect::<Vec<_>>(),
        }),
    }
}

fn shown_workload(workload: &Workload) -> Value {
    let mut shown = json!({
        "workload": format!("{}/{}", workload.namespace, workload.name),
        "address": workload.address,
    });
    match &workload.transport {
        Transport::Mesh(id) => {
            shown["verdict"] = "MESH".into();
            shown["identity"] = id.to_string().into();
        }
        Transport::Plain(reason) => {
            shown["verdict"] = "PLAIN".into();
            shown["reason"] = (**reason).into();
        }
    }
    shown
}

/// Our own leaf, its chain, and whom we trust. Never the key.
async fn identity(State(pages): State<Pages>) -> Json<Value> {
    let proxy = &pages.proxy;
    let bundle = proxy.trust.bundle();
    let mut page = json!({
        "spiffeId": proxy.config.workload.id.to_string(),
        "bundleSequence": bundle.as_ref().map(|bundle| bundle.sequence),
        "roots": bundle.iter().flat_map(|bundle| bundle.roots.iter().map(|root| root_id(root))).collect::<Vec<_>>(),
        "distrusted": bundle.as_ref().map(|bundle| bundle.distrusted.clone()),
        "trustFault": proxy.trust.fault(),
        "serial": null,
    });
    if let Some(generation) = proxy.svid.current() {
        let leaf = &generation.leaf;
        page["serial"] = (*leaf.serial).into();
        page["notBefore"] = clock::rfc3339(leaf.not_before).into();
        page["notAfter"] = clock::rfc3339(leaf.not_after).into();
        page["leftSeconds"] = (leaf.not_after - clock::unix_now()).into();
        page["generation"] = generation.number.into();
        page["key"] = "ECDSA P-256".into();
        page["chain"] = generation.chain.iter().map(|der| certificate_pem(der)).collect::<String>().into();
    }
    Json(page)
}

/// Several people and a scraper at once; each costs [`HEAD_BYTES`] and two descriptors at most.
const LOCAL: Crowd = Crowd { all: 32, each: 32 };
/// The kubelet with every probe of a large pod, scrapers, and strangers, of whom one alone must not take a probe's place.
const NETWORK: Crowd = Crowd { all: 128, each: 32 };
/// Request head and our answer: the largest page is some 100 kB.
const EXCHANGE: Duration = Duration::from_secs(10);
/// A browser's cookies fit; hyper takes no less than 8 KiB.
const HEAD_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use signet_link::client::connect_from;
    use signet_wire::pool::Direction;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn served(crowd: Crowd) -> (SocketAddr, Drain) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, drain) = (listener.local_addr().unwrap(), Drain::new());
        let hung = async || Extension(NoAnswer).into_response();
        let router = Router::new().route("/ready", get(async || "ready\n")).route("/hung", get(hung));
        serve_on(listener, router, crowd, &drain);
        (address, drain)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await; // a refused request may end by a reset
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn pages_are_read_only_and_a_connection_is_closed_after_its_answer() {
        let (address, drain) = served(NETWORK).await;
        let answer = ask(address, "GET /ready HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
        let post = ask(address, "POST /ready HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405"), "{post}");
        let long = format!("GET /ready HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(4 * HEAD_BYTES));
        assert!(!ask(address, &long).await.starts_with("HTTP/1.1 200"));
        assert_eq!(ask(address, "GET /hung HTTP/1.1\r\nhost: a\r\n\r\n").await, "", "no answer");
        assert_eq!(drain.run(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn callers_that_say_nothing_take_all_places_and_no_more() {
        let (address, drain) = served(Crowd { all: 4, each: 3 }).await;
        let mut silent = Vec::new();
        for source in [[127, 0, 0, 2], [127, 0, 0, 2], [127, 0, 0, 2], [127, 0, 0, 3]] {
            silent.push(connect_from(Some(source.into()), address).await.unwrap());
            // Accepted in order: by the time that this one is looked at, the others have their places.
            if silent.len() >= 3 {
                let mut refused = connect_from(Some([127, 0, 0, 2].into()), address).await.unwrap();
                assert_eq!(refused.read(&mut [0; 1]).await.unwrap(), 0, "one source has all of its places");
            }
        }
        let mut refused = connect_from(Some([127, 0, 0, 4].into()), address).await.unwrap();
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap(), 0, "all places are taken");
        drain.run(Duration::ZERO).await;
    }

    #[test]
    fn what_a_stranger_sent_is_escaped() {
        let mut facts = Facts::new(Direction::Inbound, "198.18.0.9:1".parse().unwrap(), "a".into(), 80);
        facts.peer = Some("x\"}\n\u{1b}[2J<script>".into());
        let text = row(&facts).to_string();
        assert!(!text.contains('\n') && !text.contains('\u{1b}') && text.contains(r#"x\"}\n"#), "{text}");
    }

    #[test]
    fn an_unknown_address_is_shown_as_unknown_and_never_as_plain() {
        assert_eq!(shown(None)["verdict"], "UNKNOWN");
        let workload = Workload {
            address: "10.0.0.1".parse().unwrap(),
            namespace: "shop".into(),
            name: "api-0".into(),
            transport: Transport::Plain("host_network".into()),
        };
        let plain = shown(Some(&Answer::Workload(workload.into())));
        assert_eq!((&plain["verdict"], &plain["reason"]), (&json!("PLAIN"), &json!("host_network")));
    }
}
