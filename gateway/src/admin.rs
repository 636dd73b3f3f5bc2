//! The pages: what this gateway serves and how it stands. Read-only. In a pod its network sees readiness and metrics alone;
//! hosts and connections are on its loopback, where port-forward reaches them and Kubernetes' own rights guard them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};
use signet_core::{
    clock,
    drain::Drain,
    pod::{ADMIN_PORT, PAGES_PORT},
    telemetry::{METRICS_CONTENT_TYPE, Metrics},
};
use signet_http::model::{
    Action, Backend, HostPattern, Hostname, HttpsHost, Labels, Route, Security, Target,
};
use signet_link::{discovery::Discovery, listen, pages::Pages};
use tracing::error;

use crate::{Adopted, Gateway, certificates::Certified, config::Admin, held::Model};

/// Bound, not yet served.
pub struct Listeners {
    /// For all pages.
    all: Vec<Pages>,
    /// In a pod, for those that its network may see.
    few: Option<Pages>,
}

pub async fn bind(admin: Admin) -> io::Result<Listeners> {
    let page = async |address: SocketAddr| {
        let bound = listen::bind(address).await.map(Pages::new);
        bound.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot serve pages on {address}: {error}"))
        })
    };
    match admin {
        Admin::At(address) => Ok(Listeners { all: vec![page(address).await?], few: None }),
        Admin::Pod => {
            let few = page((Ipv6Addr::UNSPECIFIED, PAGES_PORT).into()).await?;
            let mut all = vec![page((Ipv4Addr::LOCALHOST, ADMIN_PORT).into()).await?];
            all.extend(page((Ipv6Addr::LOCALHOST, ADMIN_PORT).into()).await); // there may be no IPv6
            Ok(Listeners { all, few: Some(few) })
        }
    }
}

#[derive(Clone)]
struct Shown {
    gateway: Arc<Gateway>,
    discovery: Arc<Discovery>,
    metrics: Arc<Metrics>,
}

impl Listeners {
    /// Serves until `drain` stops. The metrics are complete by now.
    pub fn serve(self, gateway: &Arc<Gateway>, discovery: &Arc<Discovery>, metrics: Metrics, drain: &Drain) {
        let (gateway, discovery) = (Arc::clone(gateway), Arc::clone(discovery));
        let shown = Shown { gateway, discovery, metrics: metrics.share() };
        let few = Router::new().route("/ready", get(ready)).route("/metrics", get(metrics_page));
        let all = few.clone().route("/v1/hosts", get(hosts)).route("/v1/connections", get(connections));
        for listener in self.all {
            run(listener, all.clone().with_state(shown.clone()), drain);
        }
        if let Some(listener) = self.few {
            run(listener, few.with_state(shown), drain);
        }
    }
}

fn run(listener: Pages, routes: Router, drain: &Drain) {
    drain.keep(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            error!(%error, "pages are closed");
        }
    });
}

async fn ready(State(shown): State<Shown>) -> Response {
    let reasons = shown.gateway.not_ready();
    match reasons.is_empty() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response(),
    }
}

async fn metrics_page(State(shown): State<Shown>) -> Response {
    let gateway = &shown.gateway;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let (connections, clients) = gateway.budget.connections.count();
    gateway.metrics.connections.set(count(connections));
    gateway.metrics.clients.set(count(clients));
    gateway.metrics.ready.set(gateway.not_ready().is_empty().into());
    ([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], shown.metrics.render()).into_response()
}

async fn connections(State(shown): State<Shown>) -> Json<Value> {
    let budget = &shown.gateway.budget;
    let ((open, clients), (handshakes, _)) = (budget.connections.count(), budget.handshakes.count());
    Json(
        json!({"open": open, "clients": clients, "handshakes": handshakes, "draining": shown.gateway.is_draining()}),
    )
}

/// For `signet hosts`: each host with its routes, their backends, and its certificate.
async fn hosts(State(shown): State<Shown>) -> Json<Value> {
    let adopted = shown.gateway.model.borrow().clone();
    let mut page = page(&adopted);
    page["discovery"] = json!(shown.discovery.status());
    page["config"] = json!(shown.gateway.config);
    page["notReady"] = shown.gateway.not_ready().into();
    Json(page)
}

fn page(adopted: &Adopted) -> Value {
    let Adopted { generation, at, model, problems } = adopted;
    let snapshot = &model.snapshot;
    let backends: BTreeMap<&str, &Backend> = snapshot.backends.iter().map(|b| (&*b.name, &**b)).collect();
    let mut hosts: BTreeMap<String, (&HostPattern, Vec<&Route>)> = BTreeMap::new();
    for route in &snapshot.routes {
        let of = if route.hosts.is_empty() { ANY } else { &route.hosts[..] };
        for host in of {
            hosts.entry(host.to_string()).or_insert_with(|| (host, Vec::new())).1.push(route);
        }
    }
    let mut https: HashMap<&HostPattern, &HttpsHost> = HashMap::new();
    for host in &snapshot.https_hosts {
        https.entry(&host.host).or_insert(host);
    }
    let presented = Presented::new(&model.certificates);
    let host = |(name, (pattern, routes)): (&String, &(&HostPattern, Vec<&Route>))| {
        json!({
            "host": name,
            "routes": routes.iter().map(|route| shown_route(route, &backends)).collect::<Vec<_>>(),
            "https": https.get(pattern).map(|host| shown_https(host)),
            "certificate": presented.of(pattern).map(shown_certificate),
        })
    };
    json!({
        "generation": generation,
        "adoptedAt": clock::rfc3339(*at),
        "hosts": hosts.iter().map(host).collect::<Vec<_>>(),
        "certificates": model.certificates.iter().map(|c| shown_certificate(c)).collect::<Vec<_>>(),
        "challenges": challenges(model),
        "faults": model.faults.iter().chain(problems).collect::<Vec<_>>(),
    })
}

/// Hosts by how they are asked for.
fn challenges(model: &Model) -> Value {
    let tokens =
        model.snapshot.challenges.iter().map(|c| json!({"host": c.host().as_str(), "kind": "http-01"}));
    let proofs = model.proofs.iter().map(|proof| json!({"host": proof.host.as_str(), "kind": "tls-alpn-01"}));
    tokens.chain(proofs).collect()
}

fn shown_route(route: &Route, backends: &BTreeMap<&str, &Backend>) -> Value {
    let mut named = BTreeSet::new();
    for rule in &route.rules {
        if let Action::Forward(forward) = &rule.action {
            named.extend(forward.backends.iter().filter_map(|weighted| match &weighted.target {
                Target::Backend(name) => Some(&**name),
                Target::Respond(_) => None,
            }));
        }
    }
    let backend = |name: &&str| match backends.get(name) {
        None => json!({"name": name, "endpoints": null}),
        Some(backend) => json!({
            "name": name,
            "endpoints": backend.endpoints.len(),
            "security": security(backend),
        }),
    };
    json!({
        "name": route.name,
        "listeners": route.parents,
        "rules": route.rules.len(),
        "backends": named.iter().map(backend).collect::<Vec<_>>(),
    })
}

/// "mesh", "tls" or "plain", which is all that is left where endpoints differ: the weakest one.
fn security(backend: &Backend) -> Option<&'static str> {
    let of = |security: &Security| match security {
        Security::Plain => (0, "plain"),
        Security::Tls(_) => (1, "tls"),
        Security::Mesh(_) => (2, "mesh"),
    };
    backend.endpoints.iter().map(|endpoint| of(&endpoint.security)).min().map(|(_, word)| word)
}

fn shown_https(https: &HttpsHost) -> Value {
    json!({"port": https.port, "waitsForCertificate": https.unready.is_some()})
}

/// Which certificate is presented for a host, of thousands of both.
struct Presented<'a> {
    certificates: &'a [Arc<Certified>],
    /// The first that names a pattern.
    first: HashMap<&'a HostPattern, usize>,
}

impl<'a> Presented<'a> {
    fn new(certificates: &'a [Arc<Certified>]) -> Self {
        let mut first = HashMap::new();
        for (n, certified) in certificates.iter().enumerate() {
            for name in certified.names.iter() {
                first.entry(name).or_insert(n);
            }
        }
        Self { certificates, first }
    }

    /// The first, by name, that names just this host; else of an exact one the first whose wildcard covers it.
    fn of(&self, host: &HostPattern) -> Option<&'a Certified> {
        let covering = || match host {
            HostPattern::Exact(name) => self.covering(name),
            HostPattern::Any | HostPattern::Wildcard(..) => None,
        };
        let n = self.first.get(host).copied().or_else(covering)?;
        self.certificates.get(n).map(|certified| &**certified)
    }

    fn covering(&self, name: &Hostname) -> Option<usize> {
        let above = name.as_str().match_indices('.').filter_map(|(at, _)| name.as_str().get(at + 1..));
        let suffixes = above.filter_map(|suffix| suffix.parse::<Hostname>().ok());
        let wild = suffixes.flat_map(|suffix| {
            [Labels::One, Labels::Any].map(|labels| HostPattern::Wildcard(suffix.clone(), labels))
        });
        let covers = wild.chain([HostPattern::Any]).filter(|pattern| pattern.matches(name.as_str()));
        covers.filter_map(|pattern| self.first.get(&pattern).copied()).min()
    }
}

/// Never the key.
fn shown_certificate(certified: &Certified) -> Value {
    let facts = &certified.facts;
    json!({
        "name": certified.name,
        "presentedFor": certified.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "default": certified.default,
        "names": facts.names,
        "issuer": facts.issuer,
        "key": facts.key,
        "notBefore": clock::rfc3339(facts.not_before),
        "notAfter": clock::rfc3339(facts.not_after),
        "leftSeconds": facts.not_after - clock::unix_now(),
    })
}

/// Of a route that names no host.
const ANY: &[HostPattern] = &[HostPattern::Any];

#[cfg(test)]
mod tests {
    use signet_http::model::{Choice, Endpoint, Forward, Protocol, Rule, Snapshot, Weighted};

    use super::*;
    use crate::{
        challenges::Proof,
        pki_for_tests::{certificate, proof},
    };

    #[test]
    fn a_host_is_shown_with_its_routes_their_weakest_hop_and_its_certificate_and_no_key() {
        let endpoint = |security| Endpoint { address: "10.0.0.1:80".parse().unwrap(), security };
        let backend = Backend {
            name: "shop/web:80".into(),
            protocol: Protocol::Http1,
            choice: Choice::Quicker,
            endpoints: vec![endpoint(Security::Mesh(Arc::new([]))), endpoint(Security::Plain)],
        };
        let weighted = Weighted {
            target: Target::Backend("shop/web:80".into()),
            weight: 1,
            request_headers: Default::default(),
            response_headers: Default::default(),
        };
        let rule = Rule::new(Action::Forward(Forward { backends: vec![weighted], ..Forward::default() }));
        let host = HostPattern::ingress(Some("app.example.com")).unwrap();
        let route = Route {
            name: "ingress/shop/web".into(),
            created: 0,
            parents: vec!["ingress/https".into()],
            hosts: vec![host.clone()],
            rules: vec![rule],
        };
        let snapshot = Snapshot {
            routes: vec![Arc::new(route)],
            backends: vec![Arc::new(backend)],
            https_hosts: vec![HttpsHost { host, port: 443, unready: None }],
            ..Snapshot::default()
        };
        let certified =
            Certified::new(certificate("shop/tls", &["ingress/https"], &["*.example.com"])).unwrap();
        let model = Model {
            snapshot: Arc::new(snapshot),
            certificates: vec![Arc::new(certified)],
            proofs: vec![Arc::new(Proof::new(proof("new.example.com")).unwrap())],
            faults: vec![],
        };
        let page =
            page(&Adopted { generation: 3, at: 0, model: Arc::new(model), problems: vec!["p".into()] });
        let host = &page["hosts"][0];
        assert_eq!((&host["host"], &host["https"]["port"]), (&json!("app.example.com"), &json!(443)));
        let backend = &host["routes"][0]["backends"][0];
        assert_eq!((&backend["security"], &backend["endpoints"]), (&json!("plain"), &json!(2)));
        assert_eq!(host["certificate"]["name"], "shop/tls");
        assert_eq!(page["faults"], json!(["p"]));
        assert_eq!(page["challenges"], json!([{"host": "new.example.com", "kind": "tls-alpn-01"}]));
        let keys: Vec<_> = host["certificate"].as_object().unwrap().keys().collect();
        assert!(!keys.iter().any(|key| key.contains("private")) && host["certificate"]["key"] == "ECDSA");
    }

    #[test]
    fn each_host_is_shown_with_the_first_certificate_that_names_it_else_the_first_that_covers_it() {
        let named = [
            ("a/wide", &["*.example.com"][..]),
            ("b/exact", &["a.example.com", "*.b.example.com"]),
            ("c/again", &["a.example.com", "*.example.com"]),
            ("d/other", &["other.test"]),
        ];
        let certificates: Vec<Arc<Certified>> = named
            .iter()
            .map(|(name, of)| Arc::new(Certified::new(certificate(name, &["ingress/https"], of)).unwrap()))
            .collect();
        let presented = Presented::new(&certificates);
        for (host, want) in [
            ("a.example.com", Some("b/exact")),
            ("z.example.com", Some("a/wide")),
            ("x.b.example.com", Some("b/exact")),
            ("x.z.example.com", None),
            ("example.com", None),
            ("*.example.com", Some("a/wide")),
            ("*.z.example.com", None),
            ("other.test", Some("d/other")),
            ("", None),
        ] {
            let host = HostPattern::ingress(Some(host)).unwrap();
            assert_eq!(presented.of(&host).map(|found| &*found.name), want, "{host}");
        }
    }
}
