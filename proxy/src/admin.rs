//! The admin pages: what this proxy is, knows and does. Read-only; what a stranger sent appears as JSON strings only.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{Request, StatusCode, header::CONTENT_TYPE},
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
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{net::TcpListener, time::timeout};
use tower::ServiceExt as _;
use tracing::debug;

use crate::{
    Proxy,
    config::Config,
    connections::{Ended, Facts, Live},
    discovery::Discovery,
    limits::Limits,
    listen::{self, CannotListen, Places},
    model::{Answer, Transport, Workload},
};

/// Bound, not yet served.
pub struct Listener(TcpListener);

pub async fn bind(config: &Config) -> Result<Listener, CannotListen> {
    Ok(Listener(listen::bind(config.admin, "admin of the bootstrap").await?))
}

#[derive(Clone)]
struct Pages {
    proxy: Arc<Proxy>,
    discovery: Arc<Discovery>,
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

impl Listener {
    /// Serves until `drain` stops. The metrics are complete by now.
    pub fn serve(self, proxy: &Arc<Proxy>, discovery: &Arc<Discovery>, mut metrics: Metrics, drain: &Drain) {
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
            metrics: metrics.share(),
            gauges,
        };
        let router = Router::new()
            .route("/ready", get(ready))
            .route("/metrics", get(metrics_page))
            .route("/connections", get(connections))
            .route("/config", get(config))
            .route("/identity", get(identity))
            .with_state(pages);
        serve_on(self.0, router, drain);
    }
}

/// Answers one request for each connection, within limits: strangers reach this port.
fn serve_on(listener: TcpListener, router: Router, drain: &Drain) {
    let places = Places::new(CONNECTIONS);
    listen::serve(listener, drain, move |tcp, address| {
        let (place, router) = (places.take(), router.clone());
        async move {
            let Some(_place) = place else {
                return debug!(%address, "admin connection closed: {CONNECTIONS} are open");
            };
            let pages = service_fn(move |request: Request<Incoming>| router.clone().oneshot(request));
            let answered = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(tcp), pages);
            match timeout(EXCHANGE, answered).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%address, %error, "admin connection failed"),
                Err(_) => debug!(%address, "admin connection closed: not done in {EXCHANGE:?}"),
            }
        }
    });
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
    row["startedAt"] = rfc3339(live.started_at).into();
    row["ageSeconds"] = live.started.elapsed().as_secs_f64().into();
    row["sent"] = live.sent.load(std::sync::atomic::Ordering::Relaxed).into();
    row["received"] = live.received.load(std::sync::atomic::Ordering::Relaxed).into();
    row
}

fn row_of_ended(ended: &Ended) -> Value {
    let mut row = row(&ended.facts);
    row["state"] = if ended.refused { "refused" } else { "ended" }.into();
    row["endedAt"] = rfc3339(ended.ended_at).into();
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
        "handshakeSeconds": limits.handshake.as_secs_f64(),
        "firstBytesSeconds": limits.first_bytes.as_secs_f64(),
        "clientHelloBytes": limits.client_hello_bytes,
        "openSeconds": limits.open.as_secs_f64(),
        "dialSeconds": limits.dial.as_secs_f64(),
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
        page["notBefore"] = rfc3339(leaf.not_before).into();
        page["notAfter"] = rfc3339(leaf.not_after).into();
        page["leftSeconds"] = (leaf.not_after - clock::unix_now()).into();
        page["generation"] = generation.number.into();
        page["key"] = "ECDSA P-256".into();
        page["chain"] = generation.chain.iter().map(|der| certificate_pem(der)).collect::<String>().into();
    }
    Json(page)
}

fn rfc3339(unix: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(unix).ok()?.format(&Rfc3339).ok()
}

/// Several people and a scraper at once; each costs [`HEAD_BYTES`] and two descriptors at most.
const CONNECTIONS: usize = 32;
/// Request head and our answer: the largest page is some 100 kB.
const EXCHANGE: Duration = Duration::from_secs(10);
/// A browser's cookies fit; hyper takes no less than 8 KiB.
const HEAD_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Direction;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    async fn served() -> (std::net::SocketAddr, Drain) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, drain) = (listener.local_addr().unwrap(), Drain::new());
        serve_on(listener, Router::new().route("/ready", get(async || "ready\n")), &drain);
        (address, drain)
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await; // a refused request may end by a reset
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn pages_are_read_only_and_a_connection_is_closed_after_its_answer() {
        let (address, drain) = served().await;
        let answer = ask(address, "GET /ready HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
        let post = ask(address, "POST /ready HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405"), "{post}");
        let long = format!("GET /ready HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(4 * HEAD_BYTES));
        assert!(!ask(address, &long).await.starts_with("HTTP/1.1 200"));
        assert_eq!(drain.run(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test]
    async fn callers_that_say_nothing_take_all_places_and_no_more() {
        let (address, drain) = served().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Accepted in order: by the time that this one is looked at, the others have their places.
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap(), 0);
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
