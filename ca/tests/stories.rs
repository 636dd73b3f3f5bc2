//! The CA as its callers see it: real gRPC over real TLS on loopback, a real directory, the audit log beside it.

#![expect(clippy::unwrap_used, reason = "helpers of tests stop at the first surprise")]

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use clap::Parser as _;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use signet_api::istio::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use signet_ca::{Args, Ca, admin::status};
use signet_core::{
    bundle::{TrustBundle, certificate_pem},
    drain::Drain,
    identity::{self, TrustDomain},
    svid::Leaf,
    telemetry::Metrics,
    tls::{self, Generation, anonymous_client, mesh_provider},
    trust::Trust,
};
use signet_link::{
    Target, client,
    svid::{Svid, SvidConfig, Token},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use tonic::Code;

const API: &str = "spiffe://cluster.local/ns/shop/sa/api";
const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";
/// For conditions that hold within milliseconds unless something is broken.
const SOON: Duration = Duration::from_secs(20);

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// A running CA in a scratch directory.
struct World {
    directory: PathBuf,
    ca: Ca,
    drain: Drain,
}

impl World {
    async fn start(flags: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("signet-ca-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let drain = Drain::new();
        let ca = Ca::start(&args(&directory, flags), &drain).await.unwrap();
        Self { directory, ca, drain }
    }

    async fn token(&self, id: &str) -> String {
        let (status, answer) =
            self.admin("POST", "/v1/tokens", Some(json!({ "identity": id, "lifeSeconds": 90 }))).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    /// One request to the admin socket: status and JSON (or text as a JSON string).
    async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut socket = UnixStream::connect(self.directory.join("ca/admin.sock")).await.unwrap();
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: ca\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    async fn status(&self) -> status::Status {
        serde_json::from_value(self.admin("GET", "/v1/status", None).await.1).unwrap()
    }

    fn trust(&self) -> Arc<Trust> {
        let trust = Trust::new(TrustDomain::new("cluster.local").unwrap());
        trust.offer(TrustBundle::read(&self.directory.join("trust/bundle.pem")).unwrap());
        trust
    }

    fn target(&self) -> Target {
        Target { address: self.ca.address.into(), id: identity::ca(self.trust().domain()) }
    }

    /// A client without a certificate.
    async fn stranger(&self) -> Client {
        let provider = mesh_provider(tls::default_provider());
        self.client(anonymous_client(&provider, &self.trust()).unwrap()).await
    }

    async fn client(&self, config: Arc<ClientConfig>) -> Client {
        let channel = client::channel(&self.target(), None, move || Some(Arc::clone(&config))).await.unwrap();
        Client(IstioCertificateServiceClient::new(channel))
    }

    /// A client that joined as `id` and has the SVID that it got.
    async fn member(&self, id: &str) -> Client {
        let key = KeyPair::generate().unwrap();
        let csr = plain().serialize_request(&key).unwrap().pem().unwrap();
        let chain = self.stranger().await.ask(Some(&self.token(id).await), &csr).await.unwrap();
        let ders =
            chain[..2].iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = mesh_provider(tls::default_provider());
        let generation = Generation::new(1, ders, key, &provider, &self.trust()).unwrap();
        self.client(Arc::clone(&generation.grpc.client)).await
    }

    /// Lines of the audit log, the CA's own leaf left out.
    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("ca/audit.log")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["via"] != "own").collect()
    }

    async fn stop(self) {
        assert_eq!(self.drain.run(Duration::from_secs(3)).await, 0, "nothing had to be cut");
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

#[derive(Clone)]
struct Client(IstioCertificateServiceClient<tonic::transport::Channel>);

impl Client {
    async fn ask(&self, token: Option<&str>, csr: &str) -> Result<Vec<String>, tonic::Status> {
        self.ask_for(token, csr, 0).await
    }

    async fn ask_for(&self, token: Option<&str>, csr: &str, life: i64) -> Result<Vec<String>, tonic::Status> {
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: life,
            metadata: None,
        });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let answer = timeout(SOON, self.0.clone().create_certificate(request)).await.unwrap();
        answer.map(|answer| answer.into_inner().cert_chain)
    }
}

fn args(directory: &std::path::Path, flags: &str) -> Args {
    let line = format!(
        "ca --listen 127.0.0.1:0 --state {0}/ca --trust-bundle {0}/trust/bundle.pem {flags}",
        directory.display()
    );
    Cli::try_parse_from(line.split_whitespace()).unwrap().args
}

fn plain() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn csr(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = plain();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn leaf(chain: &[String]) -> Leaf {
    Leaf::parse(&CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_workload_joins_by_token_and_renews_by_its_svid() {
    let world = World::start("").await;
    let member = world.member(API).await;
    let chain = member.ask(None, &csr(|_| {})).await.unwrap();
    assert_eq!(chain.len(), 3);
    assert_eq!(leaf(&chain).id.to_string(), API);
    assert_eq!(TrustBundle::from_pem(chain[2].as_bytes()).unwrap(), *world.trust().bundle().unwrap());
    let audit = world.audit();
    for (line, via) in audit.iter().zip(["token", "svid"]) {
        assert_eq!(
            (&line["decision"], &line["via"], &line["id"]),
            (&json!("issued"), &json!(via), &json!(API))
        );
        assert!(line["source"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(line["keyHash"].as_str().unwrap().len(), 64);
    }
    assert_eq!(audit[1]["serial"], &*leaf(&chain).serial);
    world.stop().await;
}

/// Issue 3: someone else's name, CA:TRUE, RSA-512, a bad signature, 10 MB.
#[tokio::test]
async fn hostile_requests_are_refused_or_their_wishes_ignored_and_the_audit_log_says_so() {
    let world = World::start("").await;
    let stranger = world.stranger().await;
    let uri = |id: &str| vec![SanType::URI(id.try_into().unwrap())];
    let mut der = plain().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    *der.last_mut().unwrap() ^= 1;
    let forged = certificate_pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    for (case, csr, ignored) in [
        ("someone else's name", csr(|p| p.subject_alt_names = uri(DB)), json!(["san"])),
        (
            "a DNS name too",
            csr(|p| p.subject_alt_names = vec![SanType::DnsName("db.shop".try_into().unwrap())]),
            json!(["san"]),
        ),
        (
            "CA:TRUE",
            csr(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            json!(["basicConstraints"]),
        ),
        ("its own name", csr(|p| p.subject_alt_names = uri(API)), Value::Null),
    ] {
        let chain = stranger.ask(Some(&world.token(API).await), &csr).await.unwrap();
        assert_eq!(leaf(&chain).id.to_string(), API, "{case}"); // Leaf::parse refuses CA:TRUE and second names
        let line = world.audit().pop().unwrap();
        assert_eq!((&line["decision"], &line["ignored"]), (&json!("issued"), &ignored), "{case}");
    }
    for (case, csr, code, reason) in [
        ("RSA-512", include_str!("fixtures/rsa-512.csr.pem").to_owned(), Code::InvalidArgument, "csr_key"),
        ("bad signature", forged, Code::InvalidArgument, "csr_signature"),
        ("not a request", "please".to_owned(), Code::InvalidArgument, "csr_malformed"),
        ("9 KiB", "A".repeat(9 << 10), Code::InvalidArgument, "csr_too_big"),
        ("10 MB", "A".repeat(10 << 20), Code::OutOfRange, "message_too_big"),
    ] {
        let status = stranger.ask(Some(&world.token(API).await), &csr).await.unwrap_err();
        assert_eq!(status.code(), code, "{case}: {status}");
        let line = world.audit().pop().unwrap();
        assert_eq!(
            (&line["decision"], &line["reason"]),
            (&json!("refused"), &json!(reason)),
            "{case}: {line}"
        );
        assert!(line["serial"].is_null());
    }
    let status = world.status().await;
    assert_eq!((status.issued, status.refused), (4, 5));
    world.stop().await;
}

#[tokio::test]
async fn who_cannot_say_who_it_is_gets_nothing_and_an_audit_line() {
    let world = World::start("").await;
    let stranger = world.stranger().await;
    let used = world.token(API).await;
    stranger.ask(Some(&used), &csr(|_| {})).await.unwrap();
    for (case, token, reason) in [
        ("nothing", None, "no_credentials"),
        ("a guess", Some("AAAA"), "token_unknown"),
        ("a used token", Some(&*used), "token_unknown"),
        ("an empty token", Some(""), "token_unknown"),
    ] {
        let status = stranger.ask(token, &csr(|_| {})).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{case}");
        let line = world.audit().pop().unwrap();
        assert_eq!((&line["decision"], &line["reason"]), (&json!("refused"), &json!(reason)), "{case}");
    }
    let member = world.member(API).await;
    let status = member.ask(Some("AAAA"), &csr(|_| {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "a good SVID does not excuse a bad token");
    let status = member.ask_for(None, &csr(|_| {}), -1).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(world.audit().pop().unwrap()["reason"], "life_invalid");
    let chain = member.ask_for(None, &csr(|_| {}), 60).await.unwrap();
    let left = leaf(&chain).not_after - signet_core::clock::unix_now();
    assert!((55..=60).contains(&left), "{left}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_200_concurrent_uses_of_a_token_over_the_wire_one_succeeds() {
    let world = World::start("").await;
    let token = world.token(API).await;
    let mut uses = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let stranger = world.stranger().await;
        for _ in 0..10 {
            let (stranger, token) = (stranger.clone(), token.clone());
            uses.spawn(async move {
                stranger.ask(Some(&token), &csr(|_| {})).await.map_err(|status| status.code())
            });
        }
    }
    let results = uses.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let expected = [Code::Unauthenticated, Code::ResourceExhausted]; // the limit per source may come first
    assert!(results.iter().filter_map(|result| result.as_ref().err()).all(|code| expected.contains(code)));
    assert_eq!(world.audit().iter().filter(|line| line["decision"] == "issued").count(), 1);
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_a_request_of_this_service_is_refused_and_written() {
    let world = World::start("").await;
    let config = anonymous_client(&mesh_provider(tls::default_provider()), &world.trust()).unwrap();
    let channel = client::channel(&world.target(), None, move || Some(Arc::clone(&config))).await.unwrap();
    let mut other =
        signet_api::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient::new(channel);
    let status = other.delta_aggregated_resources(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(world.audit().pop().unwrap()["reason"], "method_unknown");
    world.stop().await;
}

/// The connection was made while its chain was good.
#[tokio::test]
async fn a_connection_that_outlives_the_trust_in_its_root_renews_no_more() {
    let world = World::start("").await;
    let member = world.member(API).await;
    member.ask(None, &csr(|_| {})).await.unwrap();
    let root = world.status().await.roots[0].id.clone();
    let (status, answer) = world.admin("POST", "/v1/distrust", Some(json!({ "root": root }))).await;
    assert_eq!(status, 200, "{answer}");
    let refused = member.ask(None, &csr(|_| {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(world.audit().pop().unwrap()["reason"], "svid_untrusted");
    // Whoever has the new bundle reaches the CA, which has a new certificate of its own, and joins again.
    let joined = async {
        loop {
            let provider = mesh_provider(tls::default_provider());
            let config = anonymous_client(&provider, &world.trust()).unwrap();
            let dialled = client::channel(&world.target(), None, move || Some(Arc::clone(&config))).await;
            if let Ok(channel) = dialled {
                let client = Client(IstioCertificateServiceClient::new(channel));
                break client.ask(Some(&world.token(API).await), &csr(|_| {})).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let chain = timeout(SOON, joined).await.unwrap();
    let bundle = TrustBundle::from_pem(chain[2].as_bytes()).unwrap();
    assert_eq!(bundle.distrusted, [root.into()]);
    world.stop().await;
}

#[tokio::test]
async fn the_life_of_an_svid_of_seconds_joins_and_renews_before_it_ends() {
    let world = World::start("--leaf-life 5s --allow-short-leaves").await;
    let token_file = world.directory.join("token");
    fs::write(&token_file, world.token(API).await).unwrap();
    let (id, token) = (identity::parse(API).unwrap(), Token::Once(token_file));
    let config = SvidConfig { id, ca: world.target(), token, source: None };
    let provider = mesh_provider(tls::default_provider());
    let svid = Svid::start(config, provider, world.trust(), &world.drain, &mut Metrics::new());
    let first = timeout(SOON, svid.ready()).await.unwrap();
    let mut watch = svid.watch();
    let renewed = async {
        loop {
            watch.changed().await.unwrap();
            let now = watch.borrow_and_update().clone().expect("never without a certificate in between");
            if now.number > first.number {
                break now;
            }
        }
    };
    let second = timeout(SOON, renewed).await.unwrap();
    assert_ne!(second.leaf.serial, first.leaf.serial);
    assert_eq!(world.audit().pop().unwrap()["via"], "svid");
    world.stop().await;
}

#[tokio::test]
async fn the_admin_socket_answers_in_the_documented_shapes() {
    let world = World::start("").await;
    let (_, status) = world.admin("GET", "/v1/status", None).await;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut all = keys(&status);
    all.sort();
    assert_eq!(
        all,
        [
            "bootId",
            "bundleSequence",
            "intermediate",
            "issued",
            "leafLifeSeconds",
            "refused",
            "roots",
            "rotation",
            "trustDomain",
            "version"
        ]
    );
    assert_eq!((&status["rotation"]["state"], &status["leafLifeSeconds"]), (&json!("steady"), &json!(86400)));
    assert_eq!(status["roots"][0]["state"], "active");
    assert!(status["rotation"]["nextStepAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(status["intermediate"]["issuedBy"], status["roots"][0]["id"]);

    let (_, bundle) = world.admin("GET", "/v1/bundle", None).await;
    assert_eq!(bundle, fs::read_to_string(world.directory.join("trust/bundle.pem")).unwrap());
    let (_, metrics) = world.admin("GET", "/metrics", None).await;
    let metrics = metrics.as_str().unwrap();
    for name in [
        "signet_ca_issued_total{via=\"own\"} 1",
        "signet_ca_rotation_state{state=\"steady\"} 1",
        "signet_ca_certificate_left_seconds{tier=\"root\"}",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }

    let (code, rotating) = world.admin("POST", "/v1/rotate", Some(json!({}))).await;
    assert_eq!((code, &rotating["rotation"]["state"]), (200, &json!("prepare")));
    assert_eq!(world.status().await.roots[1].state, status::RootState::Next);
    for (path, body, code, word) in [
        ("/v1/rotate", json!({}), 409, "under way"),
        ("/v1/distrust", json!({ "root": "0123456789abcdef" }), 409, "no root of this CA"),
        ("/v1/distrust", json!({}), 400, "root"),
        (
            "/v1/tokens",
            json!({ "identity": "spiffe://cluster.local/ns/signet-system/sa/ca", "lifeSeconds": 90 }),
            400,
            "the CA itself",
        ),
        (
            "/v1/tokens",
            json!({ "identity": "spiffe://other/ns/a/sa/b", "lifeSeconds": 90 }),
            400,
            "trust domain",
        ),
        ("/v1/tokens", json!({ "identity": API, "lifeSeconds": 90_000 }), 400, "seconds"),
    ] {
        let (status, answer) = world.admin("POST", path, Some(body)).await;
        assert_eq!(status, code, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(word), "{path}: {answer}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_second_ca_on_the_same_directory_is_refused_and_a_stopped_one_makes_way() {
    let world = World::start("").await;
    let args = args(&world.directory, "");
    let error = Ca::start(&args, &Drain::new()).await.err().unwrap();
    assert!(error.to_string().contains("another CA"), "{error:#}");
    let root = world.status().await.roots[0].id.clone();
    let World { directory, ca, drain } = world;
    assert_eq!(drain.run(Duration::from_secs(3)).await, 0);
    drop(ca);
    let drain = Drain::new();
    let ca = Ca::start(&args, &drain).await.unwrap();
    let world = World { directory, ca, drain };
    assert_eq!(world.status().await.roots[0].id, root);
    world.stop().await;
}

/// Design 3: "written" is accepted by write(2).
#[tokio::test]
async fn what_cannot_be_written_down_is_not_issued() {
    let fifo = std::env::temp_dir().join(format!("signet-ca-{}-fifo", std::process::id()));
    let _ = fs::remove_file(&fifo);
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open, and full to the last byte: as a disk that hangs.
    let mut hung = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&hung, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    while std::io::Write::write(&mut hung, &[b' '; 512]).is_ok() {}
    for (log, words) in [("/dev/full", "cannot be written"), (fifo.to_str().unwrap(), "took no line")] {
        let world = World::start(&format!("--audit-log {log}")).await;
        let token = world.token(API).await;
        let error = world.ca.create_certificate(&token, &csr(|_| {})).await.unwrap_err();
        assert!(error.to_string().contains(words), "{log}: {error}");
        let status = world.status().await;
        assert_eq!((status.issued, status.refused), (0, 1), "{log}");
        let (_, metrics) = world.admin("GET", "/metrics", None).await;
        assert!(
            metrics.as_str().unwrap().contains("signet_ca_refused_total{reason=\"audit_unavailable\"} 1")
        );
        let config = anonymous_client(&mesh_provider(tls::default_provider()), &world.trust()).unwrap();
        let dialled = client::channel(&world.target(), None, move || Some(Arc::clone(&config))).await;
        assert!(dialled.is_err(), "its own certificate was not written down either");
        world.stop().await;
    }
    fs::remove_file(fifo).unwrap();
}
