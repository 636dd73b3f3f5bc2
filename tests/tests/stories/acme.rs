//! Certificates from Pebble, with challenges answered as gateways and a zone's servers would.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, header::HOST};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::PrivateKeyDer;
use signet_acme::{
    challenge::{ACME_TLS, Answer, Challenge, WELL_KNOWN},
    drive::{Snapshot, Wishes, drive},
    issuer::Issuer,
    names::NameSet,
    order::Kind,
    plan::Wish,
    problem::Problem,
    record::Record,
    solver::{Seen, Solver},
    steps::Hands,
    store::directory::DirectoryStore,
    transport::Web,
};
use signet_core::{clock, drain::Drain, tls};
use signet_tests::{
    eventually::{SOON, eventually},
    network::Network,
    pebble::Pebble,
};
use tokio::{net::TcpListener, sync::watch};

/// A gateway of the test's own, and the zone's provider.
#[derive(Clone)]
struct Gateway {
    pebble: Arc<Pebble>,
    /// Host and path.
    files: Arc<Mutex<HashMap<(String, String), String>>>,
    certificates: Arc<Certificates>,
    _drain: Drain,
}

#[derive(Debug, Default)]
struct Certificates(Mutex<HashMap<String, Arc<CertifiedKey>>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().get(hello.server_name()?).cloned()
    }
}

impl Gateway {
    async fn start(pebble: &Arc<Pebble>) -> Self {
        let gateway = Self {
            pebble: Arc::clone(pebble),
            files: Arc::default(),
            certificates: Arc::default(),
            _drain: Drain::new(),
        };
        let at = |port| SocketAddr::new(pebble.hosts, port);
        let (http, https) =
            (TcpListener::bind(at(5002)).await.unwrap(), TcpListener::bind(at(5001)).await.unwrap());
        let (files, drain) = (Arc::clone(&gateway.files), gateway._drain.clone());
        gateway._drain.keep(async move {
            while let Ok((stream, _)) = http.accept().await {
                let files = Arc::clone(&files);
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let host =
                        request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                    let host = host.split(':').next().unwrap_or_default().to_owned();
                    let file = files.lock().unwrap().get(&(host, request.uri().path().to_owned())).cloned();
                    let status = if file.is_some() { 200 } else { 404 };
                    let answer = Response::builder().status(status);
                    let answer = answer.body(Full::<Bytes>::from(file.unwrap_or_default())).unwrap();
                    async move { Ok::<_, hyper::Error>(answer) }
                });
                drain.spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let mut config = ServerConfig::builder_with_provider(Arc::new(tls::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&gateway.certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ACME_TLS.to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let drain = gateway._drain.clone();
        gateway._drain.keep(async move {
            while let Ok((stream, _)) = https.accept().await {
                let acceptor = acceptor.clone();
                drain.spawn(async move { drop(acceptor.accept(stream).await) });
            }
        });
        gateway
    }
}

impl Solver for Gateway {
    async fn present(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        for challenge in challenges {
            match &challenge.answer {
                Answer::Http01 { token, key_authorization } => {
                    let path = (challenge.host.clone(), format!("{WELL_KNOWN}{token}"));
                    self.files.lock().unwrap().insert(path, key_authorization.clone());
                }
                Answer::TlsAlpn01(alpn) => {
                    let key = PrivateKeyDer::Pkcs8(alpn.key_der().clone_key());
                    let chain = vec![alpn.certificate.clone()];
                    let key = tls::default_provider().key_provider.load_private_key(key).unwrap();
                    let certified = CertifiedKey::new(chain, key);
                    self.certificates.0.lock().unwrap().insert(challenge.host.clone(), Arc::new(certified));
                }
                Answer::Dns01 { name, value } => {
                    self.pebble.set_txt(name, value).await.map_err(Problem::ours)?
                }
            }
        }
        Ok(())
    }

    async fn look(&self, _: &[Challenge]) -> Result<Seen, Problem> {
        Ok(Seen { by: vec!["the test".into()], ..Seen::default() })
    }

    async fn clear(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        for challenge in challenges {
            match &challenge.answer {
                Answer::Http01 { token, .. } => {
                    let path = (challenge.host.clone(), format!("{WELL_KNOWN}{token}"));
                    self.files.lock().unwrap().remove(&path);
                }
                Answer::TlsAlpn01(_) => drop(self.certificates.0.lock().unwrap().remove(&challenge.host)),
                Answer::Dns01 { name, .. } => self.pebble.clear_txt(name).await.map_err(Problem::ours)?,
            }
        }
        Ok(())
    }
}

struct Edge {
    pebble: Arc<Pebble>,
    gateway: Gateway,
    directory: std::path::PathBuf,
}

impl Edge {
    /// With a Pebble that refuses half of all nonces.
    async fn start(name: &str) -> Self {
        let pebble = Arc::new(Pebble::start(&Network::claim(), 50).await.unwrap());
        let gateway = Gateway::start(&pebble).await;
        let directory = std::env::temp_dir().join(format!("signet-acme-story-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        Self { pebble, gateway, directory }
    }

    fn wish(&self, kind: Kind, profile: Option<&str>) -> Wish {
        let mut issuer = Issuer::new("pebble", &self.pebble.directory).unwrap();
        issuer.roots = Some(self.pebble.roots.clone());
        issuer.email = Some("me@example.com".into());
        issuer.profile = profile.map(str::to_owned);
        Wish { issuer, kind, namespace: "shop".into(), held_back: None, renew: None }
    }

    /// A process of its own: drives until `until` holds of what it published and the steps it took, and is killed.
    async fn drive(&self, wishes: Wishes, mut until: impl FnMut(&Snapshot, usize) -> bool) -> Arc<Snapshot> {
        // What the one before was writing when it was dropped keeps the lock until it is written.
        let store = eventually("the lock", SOON, async || DirectoryStore::open(&self.directory).ok()).await;
        let web = Web::new(Arc::new(tls::default_provider()), Arc::new(clock::unix_now));
        let hands = Hands { store, solver: self.gateway.clone(), web };
        let (_wishing, wishes) = watch::channel(Arc::new(wishes));
        let (publish, mut published) = watch::channel(Arc::default());
        let taken = AtomicUsize::new(0);
        let driving = drive(&hands, wishes, &publish, |of| {
            taken.fetch_add(1, Ordering::SeqCst);
            let problem = of.record.and_then(|record| record.failures.last());
            eprintln!("{} {:?} {problem:?}", of.id, of.step);
        });
        let watching = async {
            loop {
                published.changed().await.unwrap();
                let snapshot: Arc<Snapshot> = Arc::clone(&published.borrow());
                if until(&snapshot, taken.load(Ordering::SeqCst)) {
                    break snapshot;
                }
            }
        };
        tokio::select! {
            error = driving => panic!("{error:?}"),
            snapshot = tokio::time::timeout(Duration::from_secs(120), watching) => snapshot.expect("within two minutes"),
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn record<'s>(snapshot: &'s Snapshot, names: &NameSet) -> Option<&'s Record> {
    snapshot.entries.get(&names.id()).map(|entry| &*entry.record)
}

fn is_done(snapshot: &Snapshot, names: &NameSet) -> bool {
    record(snapshot, names).is_some_and(|record| {
        record.held.is_some() && record.order.is_none() && record.leftover.challenges.is_empty()
    })
}

#[tokio::test]
async fn pebble_gives_certificates_by_http_01_tls_alpn_01_and_dns_01_while_it_refuses_half_of_our_nonces() {
    let edge = Edge::start("kinds").await;
    let set = |names: &[&str]| NameSet::new(names).unwrap();
    let sets = BTreeMap::from([
        (set(&["blog.example.com", "www.example.com"]), edge.wish(Kind::Http01, Some("default"))),
        (set(&["files.example.com"]), edge.wish(Kind::TlsAlpn01, Some("default"))),
        (set(&["*.lab.example.com", "lab.example.com"]), edge.wish(Kind::Dns01, Some("default"))),
    ]);
    let names: Vec<NameSet> = sets.keys().cloned().collect();
    let snapshot = edge.drive(sets, |snapshot, _| names.iter().all(|of| is_done(snapshot, of))).await;
    for of in &names {
        let held = record(&snapshot, of).unwrap().held.as_ref().unwrap();
        assert_eq!(held.chain.matches("BEGIN CERTIFICATE").count(), 3, "leaf and two intermediates");
        assert!((89 * 86400..=90 * 86400).contains(&held.life()), "{}", held.life());
    }
    assert_eq!(
        edge.pebble.count("is fully authorized. Processing finalization"),
        3,
        "one finalize for each name set"
    );
    assert_eq!(edge.pebble.count("There are now 1 accounts in memory"), 1);
    assert_eq!(edge.pebble.count("There are now 2 accounts in memory"), 0);
    assert!(
        edge.gateway.files.lock().unwrap().is_empty()
            && edge.gateway.certificates.0.lock().unwrap().is_empty()
    );
}

#[tokio::test]
async fn certificates_of_60_seconds_are_renewed_in_time_and_pebble_hears_what_each_replaces() {
    let edge = Edge::start("minute").await;
    let names = NameSet::new(["blog.example.com"]).unwrap();
    let wishes = BTreeMap::from([(names.clone(), edge.wish(Kind::Http01, Some("minute")))]);
    let (mut chains, mut lapses) = (Vec::new(), 0);
    edge.drive(wishes, |snapshot, _| {
        let Some(record) = record(snapshot, &names) else { return false };
        match record.served(clock::unix_now()) {
            Some(held) if !chains.contains(&held.chain) => chains.push(held.chain.clone()),
            None if !chains.is_empty() => lapses += 1,
            _ => {}
        }
        chains.len() == 3
    })
    .await;
    assert_eq!(lapses, 0, "there was a valid one all the time");
    let finalized = edge.pebble.count("is fully authorized. Processing finalization");
    assert_eq!((finalized, edge.pebble.count("is a replacement of")), (3, 2));
}

#[tokio::test]
async fn killed_after_any_step_an_order_at_pebble_goes_on_with_one_finalize() {
    let edge = Edge::start("killed").await;
    let names = NameSet::new(["blog.example.com", "www.example.com"]).unwrap();
    let wishes = BTreeMap::from([(names.clone(), edge.wish(Kind::Http01, Some("default")))]);
    let mut processes = 0;
    // Each takes one step more than the one before, and dies while it begins the next. (Were it always one, none would ever tell the CA.)
    loop {
        let snapshot = edge.drive(wishes.clone(), |_, taken| taken == 1 + processes).await;
        processes += 1;
        if is_done(&snapshot, &names) {
            break;
        }
    }
    assert!(processes > 2, "{processes}");
    assert_eq!(edge.pebble.count("is fully authorized. Processing finalization"), 1);
    assert_eq!(edge.pebble.count("There are now 2 accounts in memory"), 0);
}
