//! A CA in this process, over real TLS on loopback, that does what RFC 8555 and RFC 9773 say, until it is told to do something else.
//! It does not check signatures: Pebble does (tests/tests/stories/acme.rs).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyPair,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use signet_core::drain::Drain;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// What it does instead of what it should, at the paths that begin so.
#[derive(Clone, Debug)]
pub(crate) enum Trick {
    /// Answers so; the request has no effect.
    Answer { status: u16, retry_after: Option<&'static str>, body: String },
    /// Never answers, with no effect or after it.
    Hang { after: bool },
    /// Answers after so long.
    Slow(std::time::Duration),
    /// Half of the true answer.
    Truncate,
    /// Ten megabytes.
    Huge,
    /// Does it, and answers 500.
    Lie,
}

/// What is wrong with its certificates, or with its authorizations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wrong {
    Key,
    Name,
    Expired,
    /// The last one is of a name that was not ordered.
    Foreign,
    /// The last one is of the first name.
    Twice,
    /// There are a thousand.
    Many,
}

#[derive(Clone)]
pub(crate) struct FakeCa {
    pub(crate) directory: String,
    pub(crate) roots: String,
    state: Arc<Mutex<State>>,
    pub(crate) died: Arc<Notify>,
    _drain: Arc<Drain>,
}

struct State {
    base: String,
    now: i64,
    issuer: Issuer<'static, KeyPair>,
    tricks: Vec<(String, Trick)>,
    wrong: Option<Wrong>,
    /// Percent of nonces that it refuses.
    bad_nonces: u8,
    believes: bool,
    /// Orders that replace end in a 500 of its own.
    stumbles: bool,
    window: Option<(i64, i64)>,
    accounts: HashMap<String, usize>,
    orders: Vec<Order>,
    /// `POST /order/0` and so on; `+` in front where it had an effect.
    log: Vec<String>,
    /// The request, counted from 1, that hangs: before or after its effect.
    hangs_at: Option<(usize, bool)>,
    random: fastrand::Rng,
}

#[derive(Clone, Debug)]
struct Order {
    names: Vec<String>,
    status: &'static str,
    /// Per name.
    authorizations: Vec<&'static str>,
    replaces: Option<String>,
    certificate: Option<String>,
}

impl FakeCa {
    pub(crate) async fn start(now: i64) -> Self {
        let own = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&own).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
        let provider = Arc::new(signet_core::tls::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "fake CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let state = State {
            base: base.clone(),
            now,
            issuer: Issuer::new(params, KeyPair::generate().unwrap()),
            tricks: Vec::new(),
            wrong: None,
            bad_nonces: 0,
            believes: true,
            stumbles: false,
            window: None,
            accounts: HashMap::new(),
            orders: Vec::new(),
            log: Vec::new(),
            hangs_at: None,
            random: fastrand::Rng::with_seed(3),
        };
        let ca = Self {
            directory: format!("{base}/directory"),
            roots: server.pem(),
            state: Arc::new(Mutex::new(state)),
            died: Arc::default(),
            _drain: Arc::default(),
        };
        let (acceptor, drain, serving) =
            (tokio_rustls::TlsAcceptor::from(Arc::new(config)), Drain::new(), ca.clone());
        drain.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, ca) = (acceptor.clone(), serving.clone());
                drain.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| ca.clone().serve(request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        ca
    }

    pub(crate) fn trick(&self, path: &str, trick: Trick) {
        self.state.lock().unwrap().tricks.push((path.to_owned(), trick));
    }

    pub(crate) fn honest(&self) {
        let mut state = self.state.lock().unwrap();
        state.tricks.clear();
        (state.wrong, state.bad_nonces, state.believes, state.hangs_at) = (None, 0, true, None);
        state.stumbles = false;
    }

    pub(crate) fn wrong(&self, wrong: Wrong) {
        self.state.lock().unwrap().wrong = Some(wrong);
    }

    pub(crate) fn refuse_nonces(&self, percent: u8) {
        self.state.lock().unwrap().bad_nonces = percent;
    }

    pub(crate) fn believe(&self, believes: bool) {
        self.state.lock().unwrap().believes = believes;
    }

    pub(crate) fn stumble(&self) {
        self.state.lock().unwrap().stumbles = true;
    }

    pub(crate) fn set(&self, now: i64) {
        self.state.lock().unwrap().now = now;
    }

    pub(crate) fn window(&self, window: (i64, i64)) {
        self.state.lock().unwrap().window = Some(window);
    }

    /// Forgets accounts and orders, like a Pebble that was started anew.
    pub(crate) fn lose_its_memory(&self) {
        let mut state = self.state.lock().unwrap();
        state.accounts.clear();
        state.orders.clear();
    }

    pub(crate) fn hang_at(&self, request: usize, after: bool) {
        self.state.lock().unwrap().hangs_at = Some((request, after));
    }

    /// Requests so far whose log line begins so.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.state.lock().unwrap().log.iter().filter(|of| of.starts_with(line)).count()
    }

    pub(crate) fn accounts(&self) -> usize {
        self.state.lock().unwrap().accounts.len()
    }

    pub(crate) fn replaced(&self) -> Vec<Option<String>> {
        self.state.lock().unwrap().orders.iter().map(|order| order.replaces.clone()).collect()
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = parts.uri.path().to_owned();
        let (trick, hangs) = {
            let mut state = self.state.lock().unwrap();
            state.log.push(format!("{} {path}", parts.method));
            let requests = state.log.iter().filter(|line| !line.starts_with('+')).count();
            let hangs = state.hangs_at.filter(|(at, _)| *at == requests).map(|(_, after)| after);
            (state.tricks.iter().find(|(at, _)| path.starts_with(at)).map(|(_, trick)| trick.clone()), hangs)
        };
        if hangs == Some(false) || matches!(trick, Some(Trick::Hang { after: false })) {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        if let Some(Trick::Answer { status, retry_after, body }) = trick {
            let mut answer = Response::builder().status(status);
            if let Some(retry_after) = retry_after {
                answer = answer.header("retry-after", retry_after);
            }
            return Ok(answer.body(Full::from(body)).unwrap());
        }
        if let Some(Trick::Slow(after)) = trick {
            tokio::time::sleep(after).await;
        }
        let mut answer = self.state.lock().unwrap().answer(&parts.method, &path, &body);
        if hangs == Some(true) || matches!(trick, Some(Trick::Hang { after: true })) {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        match trick {
            Some(Trick::Truncate) => answer.body.truncate(answer.body.len() / 2),
            Some(Trick::Huge) => answer.body = "x".repeat(10 << 20),
            Some(Trick::Lie) => return Ok(problem(500, "serverInternal", "it went wrong").response()),
            _ => {}
        }
        Ok(answer.response())
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: HeaderMap::new(), body: body.to_string() }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        *response.headers_mut() = self.headers;
        response
    }
}

pub(crate) fn said(kind: &str, detail: &str) -> String {
    json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail }).to_string()
}

fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    Answer { status, headers: HeaderMap::new(), body: said(kind, detail) }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> Answer {
        let nonce = format!("nonce-{}", self.random.u64(..));
        let base = self.base.clone();
        let answer = match (method.as_str(), path) {
            ("GET", "/directory") => Answer::json(
                200,
                &json!({
                    "newNonce": format!("{base}/nonce"), "newAccount": format!("{base}/account"),
                    "newOrder": format!("{base}/order"), "renewalInfo": format!("{base}/window"),
                    "meta": { "profiles": { "short": "a short one" } },
                }),
            ),
            ("HEAD", "/nonce") => Answer::json(200, &Value::Null),
            ("GET", path) if path.starts_with("/window/") => self.say_window(),
            ("POST", path) => self.post(path, body),
            _ => problem(404, "malformed", "no such page"),
        };
        answer.with("replay-nonce", &nonce)
    }

    fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        if self.random.u8(0..100) < self.bad_nonces {
            return problem(400, "badNonce", "not a nonce of mine");
        }
        let jws: Value = serde_json::from_slice(body).unwrap();
        let part = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(jws[name].as_str().unwrap()).unwrap();
        let protected: Value = serde_json::from_slice(&part("protected")).unwrap();
        let payload = part("payload");
        let payload: Value =
            if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload).unwrap() };
        if path == "/account" {
            return self.account(&protected, &payload);
        }
        let known = protected["kid"].as_str().is_some_and(|kid| {
            self.accounts.values().any(|number| *kid == format!("{}/account/{number}", self.base))
        });
        if !known {
            return problem(400, "accountDoesNotExist", "no account of that name");
        }
        let mut words = path.trim_start_matches('/').split('/');
        let (what, order) = (words.next().unwrap(), words.next().and_then(|n| n.parse::<usize>().ok()));
        let name = words.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        match (what, order) {
            ("account", _) => Answer::json(200, &json!({ "status": "valid" })),
            ("order", None) => self.order(&payload),
            (_, Some(order)) if order >= self.orders.len() => problem(404, "malformed", "no such order"),
            ("order", Some(order)) => Answer::json(200, &self.show(order)),
            ("authz", Some(order)) => Answer::json(200, &self.authorization(order, name)),
            ("challenge", Some(order)) => self.challenge(order, name),
            ("finalize", Some(order)) => self.finalize(order, &payload),
            ("cert", Some(order)) => {
                let pem = self.orders[order].certificate.clone().unwrap_or_default();
                Answer { status: 200, headers: HeaderMap::new(), body: pem }
                    .with("content-type", "application/pem-certificate-chain")
            }
            _ => problem(404, "malformed", "no such thing"),
        }
    }

    fn account(&mut self, protected: &Value, payload: &Value) -> Answer {
        if let Some(binding) = payload["externalAccountBinding"]["protected"].as_str() {
            let binding = BASE64_URL_SAFE_NO_PAD.decode(binding).unwrap();
            let binding: Value = serde_json::from_slice(&binding).unwrap();
            self.log.push(format!("+binding {}", binding["kid"].as_str().unwrap()));
        }
        let next = self.accounts.len();
        let number = *self.accounts.entry(protected["jwk"].to_string()).or_insert(next);
        Answer::json(if number == next { 201 } else { 200 }, &json!({ "status": "valid" }))
            .with("location", &format!("{}/account/{number}", self.base))
    }

    fn order(&mut self, payload: &Value) -> Answer {
        let names: Vec<String> = payload["identifiers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id["value"].as_str().unwrap().into())
            .collect();
        let replaces = payload["replaces"].as_str().map(str::to_owned);
        if replaces.is_some() && self.orders.iter().any(|order| order.replaces == replaces) {
            return problem(409, "alreadyReplaced", "there is an order for that one");
        }
        if replaces.is_some() && self.stumbles {
            return problem(500, "serverInternal", "could not find an order for the given certificate");
        }
        let authorizations = vec!["pending"; names.len()];
        self.orders.push(Order { names, status: "pending", authorizations, replaces, certificate: None });
        let number = self.orders.len() - 1;
        self.log.push("+order".into());
        Answer::json(201, &self.show(number)).with("location", &format!("{}/order/{number}", self.base))
    }

    fn show(&self, number: usize) -> Value {
        let order = &self.orders[number];
        let base = &self.base;
        let many = if self.wrong == Some(Wrong::Many) { 1000 } else { order.names.len() };
        let authorizations: Vec<String> =
            (0..many).map(|name| format!("{base}/authz/{number}/{name}")).collect();
        let mut shown = json!({
            "status": order.status, "authorizations": authorizations, "finalize": format!("{base}/finalize/{number}"),
        });
        if order.certificate.is_some() {
            shown["certificate"] = format!("{base}/cert/{number}").into();
        }
        if let Some(replaces) = &order.replaces {
            shown["replaces"] = replaces.as_str().into();
        }
        shown
    }

    fn authorization(&self, number: usize, name: usize) -> Value {
        let order = &self.orders[number];
        let status = order.authorizations[name];
        let full = match self.wrong {
            Some(Wrong::Foreign) if name + 1 == order.names.len() => "victim.example.com",
            Some(Wrong::Twice) => &order.names[0],
            _ => &order.names[name],
        };
        let challenge = |kind: &str| {
            let mut shown = json!({
                "type": kind, "url": format!("{}/challenge/{number}/{name}", self.base),
                "token": format!("token-{number}-{name}"), "status": status,
            });
            if status == "invalid" {
                shown["error"] =
                    serde_json::from_str(&said("connection", "203.0.113.7: Connection refused")).unwrap();
            }
            shown
        };
        let (host, wildcard) = full.strip_prefix("*.").map_or((full, false), |host| (host, true));
        let kinds: &[&str] = if wildcard { &["dns-01"] } else { &["http-01", "tls-alpn-01", "dns-01"] };
        json!({
            "status": status, "identifier": { "type": "dns", "value": host }, "wildcard": wildcard,
            "challenges": kinds.iter().map(|kind| challenge(kind)).collect::<Vec<_>>(),
        })
    }

    fn challenge(&mut self, number: usize, name: usize) -> Answer {
        self.log.push(format!("+challenge {}", self.orders[number].names[name]));
        let believes = self.believes;
        let order = &mut self.orders[number];
        order.authorizations[name] = if believes { "valid" } else { "invalid" };
        if order.authorizations.contains(&"invalid") {
            order.status = "invalid";
        } else if order.authorizations.iter().all(|status| *status == "valid") {
            order.status = "ready";
        }
        let shown = json!({ "type": "http-01", "url": "", "token": "t", "status": "processing" });
        Answer::json(200, &shown)
    }

    fn finalize(&mut self, number: usize, payload: &Value) -> Answer {
        if self.orders[number].status != "ready" {
            return problem(403, "orderNotReady", "it is not");
        }
        self.log.push(format!("+finalize {number}"));
        let csr = BASE64_URL_SAFE_NO_PAD.decode(payload["csr"].as_str().unwrap()).unwrap();
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
        let mut names = self.orders[number].names.clone();
        if self.wrong == Some(Wrong::Name) {
            names.push("more.example.com".into());
        }
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(self.random.u64(..).to_be_bytes().to_vec().into());
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let life = if self.wrong == Some(Wrong::Expired) { -1 } else { 90 * 86400 };
        (params.not_before, params.not_after) = (at(self.now - 60), at(self.now + life));
        let certificate = match self.wrong {
            Some(Wrong::Key) => params.signed_by(&KeyPair::generate().unwrap(), &self.issuer),
            _ => params.signed_by(&csr.public_key, &self.issuer),
        };
        let order = &mut self.orders[number];
        (order.status, order.certificate) = ("valid", Some(certificate.unwrap().pem()));
        Answer::json(200, &self.show(number))
    }

    fn say_window(&self) -> Answer {
        let Some((start, end)) = self.window else { return problem(404, "malformed", "unknown certificate") };
        let at = |seconds| signet_core::clock::rfc3339(seconds).unwrap();
        let window = json!({ "suggestedWindow": { "start": at(start), "end": at(end) }, "explanationURL": "https://ca.example/why" });
        Answer::json(200, &window).with("retry-after", "21600")
    }
}
