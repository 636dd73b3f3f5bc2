//! Who asks for a name gets its certificate or none, and a session stays with what it was begun with.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use rustls::{
    ClientConfig, HandshakeKind, NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    pki_types::ServerName,
};
use signet_core::drain::Drain;
use signet_tests::{
    eventually::{SOON, eventually},
    gateway::{Edge, certificate, request, route},
};

use super::{BACKEND, mirror, serves};

#[tokio::test]
async fn a_name_gets_its_own_certificate_and_a_strange_name_an_alert_and_no_certificate() {
    let edge = Edge::start(|world, web, network| {
        serves(world, web, network, &["app.example.com", "*.example.com"]);
    })
    .await;
    let _origin = mirror(&edge.network).await;
    let tls = edge.tls(&[b"http/1.1"]);
    for host in ["app.example.com", "other.example.com"] {
        let (status, said) = edge.get(&tls, host, host, "/").await; // verified against the name
        assert_eq!(status, 200, "{said}");
    }
    for stranger in ["stranger.example.org", "a.b.example.com"] {
        let error = edge.dial(&tls, stranger).await.expect_err("no certificate").to_string();
        assert!(error.to_ascii_lowercase().contains("unrecogni"), "{stranger}: {error}");
    }
    let mut nameless = ClientConfig::clone(&tls);
    nameless.enable_sni = false;
    let error = edge.dial(&Arc::new(nameless), "app.example.com").await.expect_err("no name").to_string();
    assert!(error.to_ascii_lowercase().contains("unrecogni"), "{error}");
    let metrics = edge.page("/metrics").await;
    assert!(metrics.contains("gateway_connections_total{result=\"unrecognized_name\"} 3"), "{metrics}");
}

#[tokio::test]
async fn the_default_certificate_is_for_who_has_no_other() {
    let edge = Edge::start(|world, web, network| {
        serves(world, web, network, &["app.example.com"]);
        let mut fallback = certificate(web, "shop/default", &["stranger.example.org"]);
        (fallback.default, fallback.names) = (true, vec![]);
        world.certificate(&fallback);
    })
    .await;
    let tls = edge.tls(&[b"http/1.1"]);
    assert_eq!(edge.get(&tls, "stranger.example.org", "stranger.example.org", "/").await.0, 404, "no route");
    let _origin = mirror(&edge.network).await;
    assert_eq!(edge.get(&tls, "app.example.com", "app.example.com", "/").await.0, 200);
}

#[tokio::test]
async fn a_host_of_another_certificate_is_421_on_this_connection_and_one_without_is_404() {
    let edge =
        Edge::start(|world, web, network| serves(world, web, network, &["a.example.com", "b.example.com"]))
            .await;
    let _origin = mirror(&edge.network).await;
    let tls = edge.tls(&[b"http/1.1"]);
    for (host, want) in [("a.example.com", 200), ("b.example.com", 421), ("nobody.example.org", 404)] {
        assert_eq!(edge.get(&tls, "a.example.com", host, "/").await.0, want, "{host}");
    }
    assert_eq!(
        edge.get(&tls, "b.example.com", "b.example.com", "/").await.0,
        200,
        "the client connects anew"
    );
}

/// Offers what it has to anyone.
#[derive(Debug)]
struct Promiscuous(ClientSessionMemoryCache);

fn anyone() -> ServerName<'static> {
    ServerName::try_from("anyone.example").unwrap()
}

impl ClientSessionStore for Promiscuous {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(anyone(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&anyone())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(anyone(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&anyone())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&anyone());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(anyone(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&anyone())
    }
}

#[tokio::test]
async fn a_session_is_resumed_for_its_own_name_and_certificate_and_for_nothing_else() {
    let edge = Edge::start(|world, web, network| {
        serves(world, web, network, &["a.example.com", "b.example.com"]);
        world.certificate(&certificate(web, "shop/two", &["one.example.com", "two.example.com"]));
        for host in ["one.example.com", "two.example.com"] {
            world.route(&route(host, BACKEND));
        }
    })
    .await;
    let _origin = mirror(&edge.network).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut config = ClientConfig::clone(&edge.tls(&[b"http/1.1"]));
        if version.version == rustls::ProtocolVersion::TLSv1_2 {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(edge.web.root().clone()).unwrap();
            let provider = Arc::new(signet_core::tls::default_provider());
            config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        }
        let memory = Arc::new(Promiscuous(ClientSessionMemoryCache::new(8)));
        config.resumption = Resumption::store(memory);
        let config = Arc::new(config);
        let shake = async |host: &str| {
            let mut tls = edge.dial(&config, host).await.unwrap();
            request(&mut tls, host, "/").await.unwrap(); // its tickets come before the answer
            tls.get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(shake("a.example.com").await, HandshakeKind::Full);
        assert_eq!(shake("a.example.com").await, HandshakeKind::Resumed, "tickets are on");
        assert_eq!(shake("b.example.com").await, HandshakeKind::Full, "another certificate");
        assert_eq!(shake("one.example.com").await, HandshakeKind::Full);
        assert_eq!(shake("two.example.com").await, HandshakeKind::Full, "another name of one certificate");
        assert_eq!(shake("two.example.com").await, HandshakeKind::Resumed);
        edge.changes(|world| {
            world.certificate(&certificate(&edge.web, "shop/two", &["one.example.com", "two.example.com"]))
        })
        .await;
        assert_eq!(shake("two.example.com").await, HandshakeKind::Full, "its certificate was renewed");
    }
}

#[tokio::test]
async fn certificates_and_routes_change_under_load_and_no_request_fails() {
    let hosts = ["a.example.com", "b.example.com", "c.example.com"];
    let edge = Arc::new(Edge::start(|world, web, network| serves(world, web, network, &hosts)).await);
    let _origin = mirror(&edge.network).await;
    let (over, served, drain) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default(), Drain::new());
    let failed: Arc<Mutex<Vec<String>>> = Arc::default();
    for host in hosts {
        let (edge, over, served) = (Arc::clone(&edge), Arc::clone(&over), Arc::clone(&served));
        let failed = Arc::clone(&failed);
        drain.spawn(async move {
            let tls = edge.tls(&[b"http/1.1"]);
            let mut kept = edge.dial(&tls, host).await.unwrap();
            while !over.load(Relaxed) {
                for answer in [
                    request(&mut kept, host, "/kept").await,
                    match edge.dial(&tls, host).await {
                        Ok(mut new) => request(&mut new, host, "/new").await,
                        Err(error) => Err(error),
                    },
                ] {
                    match answer {
                        Ok((200, _)) => {
                            served.fetch_add(1, Relaxed);
                        }
                        other => failed.lock().unwrap().push(format!("{host}: {other:?}")),
                    }
                }
            }
        });
    }
    let serial = async |host: &str| {
        let tls = edge.dial(&edge.tls(&[]), host).await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    for round in 0..20_u32 {
        let renewed = certificate(&edge.web, "shop/a.example.com", &["a.example.com"]);
        edge.changes(|world| {
            world.certificate(&renewed);
            let mut extra = route(&format!("extra-{round}.example.com"), BACKEND);
            extra.created = i64::from(round);
            world.route(&extra);
            if round > 0 {
                let gone = format!("ingress/shop/extra-{}.example.com", round - 1);
                world.remove(signet_api::EDGE_ROUTE, &gone);
            }
        })
        .await;
        eventually("the new certificate", SOON, async || {
            (serial("a.example.com").await == renewed.chain[0].to_vec()).then_some(())
        })
        .await;
    }
    eventually("a hundred requests", SOON, async || (served.load(Relaxed) >= 100).then_some(())).await;
    over.store(true, Relaxed);
    assert_eq!(drain.run(SOON).await, 0);
    assert!(failed.lock().unwrap().is_empty(), "{failed:?}");
}

#[tokio::test]
async fn a_broken_pair_is_nacked_the_last_good_one_stays_and_no_key_is_ever_shown() {
    let edge = Edge::start(|world, web, network| serves(world, web, network, &["a.example.com"])).await;
    let _origin = mirror(&edge.network).await;
    let mut broken = certificate(&edge.web, "shop/a.example.com", &["a.example.com"]);
    let key = certificate(&edge.web, "x", &["x.example.com"]).key;
    let der = key.der().secret_pkcs8_der().to_vec();
    broken.key = key;
    edge.changes(|world| world.certificate(&broken)).await;
    let tls = edge.tls(&[b"http/1.1"]);
    assert_eq!(edge.get(&tls, "a.example.com", "a.example.com", "/").await.0, 200);
    let nacks =
        eventually("a NACK", SOON, async || Some(edge.edge.heard().nacks).filter(|n| !n.is_empty())).await;
    assert!(nacks[0].contains("shop/a.example.com") && nacks[0].contains("do not make a pair"), "{nacks:?}");
    let pages = edge.page("/v1/hosts").await + &edge.page("/metrics").await + &edge.log();
    assert!(pages.contains("do not make a pair"), "it is shown where an operator looks");
    for shown in [format!("{:?}", &der[40..48]), base64(&der[36..66]), hex(&der[36..46])] {
        let shown = shown.trim_matches(['[', ']']);
        assert!(!pages.contains(shown), "a key is shown as {shown}");
    }
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::prelude::{BASE64_STANDARD, Engine as _};
    BASE64_STANDARD.encode(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
