//! What a certificate authority asks for is between it and edge: it is answered for its host alone, whatever the host is served with,
//! and no app hears of it; nothing else is taken from the apps.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::StatusCode;
use rustls::{
    ClientConfig, HandshakeKind,
    version::{TLS12, TLS13},
};
use serde_json::json;
use signet_controller::edge::acme::asked::{Unseen, ask};
use signet_core::drain::Drain;
use signet_http::{
    contract::challenge::{Challenge, TlsAlpn01},
    model::{HostPattern, HttpsHost, Respond},
};
use signet_tests::{
    authority::{THUMBPRINT, asked, credulous, http_01, is_no_application_protocol, tls_alpn_01},
    client,
    eventually::{SOON, eventually},
    gateway::{Edge, request, response, route},
    web::Web,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{BACKEND, mirror, serves};

const ACME: &[u8] = b"acme-tls/1";
/// As long as Let's Encrypt's.
const TOKEN: &str = "DGyRejmCefe7v4NfDGDKfA-cefe7v4NfDGDKfA_xyz1";
/// Served over HTTPS, plaintext is sent there.
const APP: &str = "app.example.com";
/// Has a route and no certificate yet: 503.
const NEW: &str = "new.example.com";
/// Nobody's.
const BARE: &str = "bare.example.com";
/// Served, and challenges of others are none of its business.
const OTHER: &str = "other.example.com";

fn path() -> String {
    format!("/.well-known/acme-challenge/{TOKEN}")
}

fn here(edge: &Edge) -> IpAddr {
    edge.at(0).ip()
}

/// All four hosts; HTTP-01 challenges for the first three.
async fn edge(serving: serde_json::Value) -> Edge {
    Edge::start_with(serving, |world, web, network| {
        serves(world, web, network, &[APP, OTHER]);
        world.route(&route(NEW, BACKEND));
        let retry_after = Some(Duration::from_secs(10));
        let unready = Respond { retry_after, ..Respond::status(StatusCode::SERVICE_UNAVAILABLE) };
        for (host, unready) in [(APP, None), (NEW, Some(unready))] {
            world.https_host(&HttpsHost { host: pattern(host), port: 443, unready });
        }
        for host in [APP, NEW, BARE] {
            world.challenge(&http_01(host, TOKEN));
        }
    })
    .await
}

/// The metrics, once they say this: a record is written behind its answer.
async fn says(edge: &Edge, line: &str) -> String {
    let said = async || Some(edge.page("/metrics").await).filter(|metrics| metrics.contains(line));
    eventually(line, SOON, said).await
}

fn pattern(host: &str) -> HostPattern {
    HostPattern::ingress(Some(host)).unwrap()
}

#[tokio::test]
async fn http_01_is_answered_for_its_host_before_308_503_404_and_421_and_no_app_hears_of_it() {
    let edge = edge(json!({})).await;
    let origin = mirror(&edge.network).await;
    let (from, tls) = (edge.network.address(9, 9), edge.tls(&[b"http/1.1"]));
    for (host, else_it_is) in [(APP, 308), (NEW, 503), (BARE, 404)] {
        ask(&asked(here(&edge)), &http_01(host, TOKEN)).await.unwrap();
        let mut tcp = client::dial(from, edge.at(8080)).await.unwrap();
        assert_eq!(request(&mut tcp, host, "/").await.unwrap().0, else_it_is, "{host}");
        let (status, said) = request(&mut tcp, host, &path()).await.unwrap();
        assert!(status == 200 && said.ends_with(&format!("\r\n\r\n{TOKEN}.{THUMBPRINT}")), "{host}: {said}");
        assert!(said.contains("cache-control: no-store\r\n"), "{said}");
        assert!(said.contains("content-type: application/octet-stream\r\n"), "{said}");
        let head = format!("HEAD {} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n", path());
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(SOON, tcp.read_to_string(&mut said)).await.unwrap().unwrap();
        assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("\r\n\r\n"), "{said}");
        assert!(
            said.contains(&format!("content-length: {}\r\n", TOKEN.len() + 1 + THUMBPRINT.len())),
            "{said}"
        );
        // On HTTPS, where an authority comes by a redirect, on whichever certificate's connection.
        for sni in [APP, OTHER] {
            let (status, said) = edge.get(&tls, sni, host, &path()).await;
            assert!(status == 200 && said.ends_with(THUMBPRINT), "{sni} {host}: {said}");
        }
    }
    assert_eq!(edge.get(&tls, OTHER, APP, "/").await.0, 421, "everything else is as it was");
    let mut web = Web::connect(from, edge.at(8443), &edge.tls(&[b"h2"]), APP).await.unwrap();
    let (head, body) = web.get(APP, &path()).await.unwrap();
    assert!(head.status() == 200 && body.ends_with(THUMBPRINT.as_bytes()), "{head:?}");
    assert_eq!(origin.requests(), 0);

    let metrics =
        says(&edge, r#"http_requests_total{host="other",status="2xx",reason="acme_challenge"} 16"#).await;
    assert!(!metrics.contains(TOKEN), "{metrics}");
    let lines = edge.gateway.accesses();
    let lines: Vec<_> = lines.iter().filter(|line| line.reason == "acme_challenge").collect();
    assert_eq!(lines.len(), 3 * 5 + 1);
    assert!(lines.iter().all(|line| line.path == path() && line.endpoint.is_none()), "{lines:?}");
    let shown = edge.json("/v1/hosts").await["challenges"].to_string();
    assert!(shown.contains(r#"{"host":"bare.example.com","kind":"http-01"}"#), "{shown}");
}

#[tokio::test]
async fn another_spelling_method_token_or_host_is_the_apps_or_refused_and_is_told_nothing() {
    let edge = edge(json!({})).await;
    let origin = mirror(&edge.network).await;
    let (from, tls) = (edge.network.address(9, 9), edge.tls(&[b"http/1.1"]));
    let (dir, encoded) =
        ("/.well-known/acme-challenge", format!("%{:02X}{}", TOKEN.as_bytes()[0], &TOKEN[1..]));
    let (lower, shorter) = (TOKEN.to_ascii_lowercase(), &TOKEN[..TOKEN.len() - 1]);
    let mut apps = 0;
    for (method, host, target, want) in [
        ("GET", APP, format!("{dir}/{TOKEN}/"), 200),
        ("GET", APP, format!("{dir}/{TOKEN}?"), 200),
        ("GET", APP, format!("{dir}/{TOKEN}?{TOKEN}"), 200),
        ("GET", APP, format!("{dir}/{TOKEN};x"), 200),
        ("GET", APP, format!("{dir}/{encoded}"), 200),
        ("GET", APP, format!("{dir}/{lower}"), 200),
        ("GET", APP, format!("{dir}/{shorter}"), 200),
        ("GET", APP, format!("{dir}/{TOKEN}x"), 200),
        ("GET", APP, format!("{dir}/{TOKEN}.{}", "x"), 200),
        ("GET", APP, format!("{dir}/of-the-apps-own-client"), 200),
        ("GET", APP, format!("{dir}/"), 200),
        ("GET", APP, format!("{dir}//{TOKEN}"), 200),
        ("GET", APP, format!("/{dir}/{TOKEN}"), 200),
        ("GET", APP, format!("/.well-known//acme-challenge/{TOKEN}"), 200),
        ("GET", APP, format!("/%2ewell-known/acme-challenge/{TOKEN}"), 200),
        ("GET", APP, format!("/.well-known/%61cme-challenge/{TOKEN}"), 200),
        ("GET", APP, format!("/.WELL-KNOWN/acme-challenge/{TOKEN}"), 200),
        ("GET", APP, format!("/x{dir}/{TOKEN}"), 200),
        ("GET", APP, format!("{dir}/x/../{TOKEN}"), 400),
        ("GET", APP, format!("{dir}/./{TOKEN}"), 400),
        ("GET", APP, format!("{dir}/x/%2e%2e/{TOKEN}"), 400),
        ("GET", APP, format!("{dir}/..;/acme-challenge/{TOKEN}"), 400),
        ("GET", APP, format!("{dir}%2f{TOKEN}"), 400),
        ("GET", APP, format!("{dir}\\{TOKEN}"), 400),
        ("GET", APP, format!("{dir}/{TOKEN}%00"), 400),
        ("GET", APP, format!("{dir}/{TOKEN}#x"), 400),
        ("POST", APP, path(), 200),
        ("PUT", APP, path(), 200),
        ("DELETE", APP, path(), 200),
        ("OPTIONS", APP, path(), 200),
        ("get", APP, path(), 200),
        ("TRACE", APP, path(), 405),
        ("GET", "sub.app.example.com", path(), 404),
        ("GET", "example.com", path(), 404),
    ] {
        let mut stream = edge.dial(&tls, APP).await.unwrap();
        let head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (status, said) = response(&mut stream).await.unwrap();
        assert!(status == want && !said.contains(THUMBPRINT), "{method} {host} {target}: {said}");
        apps += u64::from(want == 200);
    }
    // Two hosts' challenges are two: a token is its host's alone.
    let (status, said) = edge.get(&tls, OTHER, OTHER, &path()).await;
    assert!(status == 200 && !said.contains(THUMBPRINT), "{said}");
    assert_eq!(origin.requests(), apps + 1, "an app's own challenges are its own");
    let mut tcp = client::dial(from, edge.at(8080)).await.unwrap();
    let stolen = format!("GET http://{BARE}{} HTTP/1.1\r\nhost: {OTHER}\r\n\r\n", path());
    tcp.write_all(stolen.as_bytes()).await.unwrap();
    assert_eq!(response(&mut tcp).await.unwrap().0, 400, "two hosts are none");

    let mut h2 = Web::connect(from, edge.at(8443), &edge.tls(&[b"h2"]), APP).await.unwrap();
    for target in [format!("{dir}/{TOKEN}/"), format!("{dir}/{encoded}"), format!("//{}", &path()[1..])] {
        let (head, body) = h2.get(APP, &target).await.unwrap();
        let said = String::from_utf8_lossy(&body);
        assert!(head.status() == 200 && !said.contains(THUMBPRINT), "{target}: {said}");
    }
    assert!(edge.gateway.accesses().iter().all(|line| line.reason != "acme_challenge"));
    edge.changes(|world| world.forget(&http_01(BARE, TOKEN))).await;
    let gone = ask(&asked(here(&edge)), &http_01(BARE, TOKEN)).await.unwrap_err();
    assert!(matches!(gone, Unseen::Status(_, StatusCode::NOT_FOUND)), "{gone}");
}

#[tokio::test]
async fn tls_alpn_01_shows_the_challenges_certificate_for_exactly_its_name_and_nothing_follows() {
    let edge = edge(json!({})).await;
    let _origin = mirror(&edge.network).await;
    let (app, bare) = (tls_alpn_01(APP, 1), tls_alpn_01(BARE, 2));
    edge.changes(|world| {
        for challenge in [&app, &bare] {
            world.challenge(&Challenge::TlsAlpn01(challenge.clone()));
        }
    })
    .await;
    for challenge in [&app, &bare] {
        ask(&asked(here(&edge)), &Challenge::TlsAlpn01(challenge.clone())).await.unwrap();
        for version in [&TLS13, &TLS12] {
            let config = Arc::new(credulous(&[version], &[ACME]));
            for _ in 0..2 {
                let mut tls = edge.dial(&config, challenge.host.as_str()).await.unwrap();
                let session = tls.get_ref().1;
                assert_eq!(session.alpn_protocol(), Some(ACME));
                assert_eq!(
                    session.peer_certificates().unwrap(),
                    std::slice::from_ref(&challenge.certificate)
                );
                assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full), "no session is kept");
                // Closed, and no request is read: not even one that came with the handshake.
                let _ = tls.write_all(format!("GET / HTTP/1.1\r\nhost: {APP}\r\n\r\n").as_bytes()).await;
                let mut rest = Vec::new();
                let _ = timeout(SOON, tls.read_to_end(&mut rest)).await.expect("it is closed");
                assert_eq!(rest, b"");
                assert_eq!(tls.get_ref().1.tls13_tickets_received(), 0);
            }
        }
    }
    // A name in other letters is the same name.
    let config = Arc::new(credulous(&[&TLS13], &[ACME]));
    assert!(edge.dial(&config, "BARE.example.com").await.is_ok());
    says(&edge, "gateway_connections_total{result=\"acme_challenge\"} 11").await;
    let logged = async || {
        let log = edge.log();
        let lines = log.lines().filter(|line| line.contains(r#""target":"access""#));
        let told = [r#""version":"acme-tls/1""#, r#""reason":"acme_challenge""#];
        (lines.filter(|line| told.iter().all(|word| line.contains(word))).count() == 11).then_some(())
    };
    eventually("a line for each in the access log", SOON, logged).await;
}

#[tokio::test]
async fn acme_tls_1_never_gets_a_hosts_own_certificate_nor_a_browser_a_challenges() {
    let edge = edge(json!({})).await;
    let _origin = mirror(&edge.network).await;
    let app = tls_alpn_01(APP, 1);
    edge.changes(|world| world.challenge(&Challenge::TlsAlpn01(app.clone()))).await;
    let config = Arc::new(credulous(&[&TLS13, &TLS12], &[ACME]));
    for host in [OTHER, NEW, BARE, "sub.app.example.com", "example.com", "stranger.example.org"] {
        let error = edge.dial(&config, host).await.expect_err("no challenge for it");
        assert!(is_no_application_protocol(&error), "{host}: {error}");
    }
    let mut nameless = ClientConfig::clone(&config);
    nameless.enable_sni = false;
    let error = edge.dial(&Arc::new(nameless), APP).await.expect_err("it names nobody");
    assert!(is_no_application_protocol(&error), "{error}");
    says(&edge, "gateway_connections_total{result=\"no_acme_challenge\"} 7").await;

    // Verified by the web's CA: it is the host's own.
    for alpn in [&[b"h2".as_slice(), ACME][..], &[ACME, b"h2"], &[b"http/1.1".as_slice()], &[]] {
        let tls = edge.dial(&edge.tls(alpn), APP).await.unwrap();
        assert_ne!(tls.get_ref().1.alpn_protocol(), Some(ACME), "{alpn:?}");
    }
    assert!(edge.dial(&edge.tls(&[ACME, b"other"]), APP).await.is_err(), "neither is spoken");
    let other = ask(&asked(here(&edge)), &Challenge::TlsAlpn01(tls_alpn_01(APP, 9))).await.unwrap_err();
    assert!(matches!(other, Unseen::Handshake(..)), "{other}");
    edge.changes(|world| world.forget(&Challenge::TlsAlpn01(app))).await;
    let error = edge.dial(&config, APP).await.expect_err("taken back");
    assert!(is_no_application_protocol(&error), "{error}");
}

#[tokio::test]
async fn a_client_that_has_its_share_of_handshakes_or_connections_gets_no_challenge_either() {
    let serving = json!({"connectionsPerClient": 3, "handshakesPerClient": 2});
    let edge = edge(serving).await;
    edge.changes(|world| world.challenge(&Challenge::TlsAlpn01(tls_alpn_01(BARE, 1)))).await;
    let (greedy, other) = (edge.network.address(7, 1), edge.network.address(7, 2));
    let acme = Arc::new(credulous(&[&TLS13], &[ACME]));
    let silent = [
        client::dial(greedy, edge.at(8443)).await.unwrap(),
        client::dial(greedy, edge.at(8443)).await.unwrap(),
    ];
    eventually("two handshakes", SOON, async || {
        (edge.json("/v1/connections").await["handshakes"] == 2).then_some(())
    })
    .await;
    assert!(edge.dial_from(greedy, &acme, BARE).await.is_err(), "two handshakes at once");
    assert!(edge.dial_from(other, &acme, BARE).await.is_ok(), "others have their own");
    let _third = client::dial(greedy, edge.at(8080)).await.unwrap();
    eventually("three connections", SOON, async || {
        (edge.json("/v1/connections").await["open"] == 3).then_some(())
    })
    .await;
    let mut fourth = client::dial(greedy, edge.at(8080)).await.unwrap();
    let refused = request(&mut fourth, BARE, &path()).await;
    assert!(refused.is_err(), "three connections: {refused:?}");
    drop(silent);
    // A challenge gives its place back as it ends.
    for _ in 0..10 {
        eventually("a place", SOON, async || edge.dial_from(greedy, &acme, BARE).await.ok()).await;
    }
}

#[tokio::test]
async fn challenges_come_and_go_under_load_each_at_once_and_no_request_fails() {
    let edge = Arc::new(edge(json!({})).await);
    let _origin = mirror(&edge.network).await;
    let (over, served, drain) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default(), Drain::new());
    let failed: Arc<Mutex<Vec<String>>> = Arc::default();
    for host in [APP, OTHER] {
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
    let gateway = asked(here(&edge));
    for round in 0..20 {
        let token = http_01(APP, &format!("round-{round}"));
        let proof = Challenge::TlsAlpn01(tls_alpn_01(APP, round));
        // The certificate takes the place of the round before.
        edge.edge.change(|world| {
            world.challenge(&token);
            world.challenge(&proof);
        });
        ask(&gateway, &token).await.unwrap();
        ask(&gateway, &proof).await.unwrap();
        ask(&gateway, &http_01(APP, TOKEN)).await.expect("the one beside it stays");
        edge.changes(|world| world.forget(&token)).await;
        let mut tcp = client::dial(edge.network.address(9, 9), edge.at(8080)).await.unwrap();
        let path = format!("/.well-known/acme-challenge/round-{round}");
        assert_eq!(request(&mut tcp, APP, &path).await.unwrap().0, 308, "as any path of the host");
    }
    eventually("a hundred requests", SOON, async || (served.load(Relaxed) >= 100).then_some(())).await;
    over.store(true, Relaxed);
    assert_eq!(drain.run(SOON).await, 0);
    assert!(failed.lock().unwrap().is_empty(), "{failed:?}");
}

#[tokio::test]
async fn a_challenge_that_answers_nothing_is_nacked_the_one_before_stays_and_no_key_is_shown() {
    let edge = edge(json!({})).await;
    let good = tls_alpn_01(APP, 1);
    edge.changes(|world| world.challenge(&Challenge::TlsAlpn01(good.clone()))).await;
    let der = good.key.der().secret_pkcs8_der().to_vec();
    for (broken, why) in [
        (TlsAlpn01 { key: tls_alpn_01(APP, 1).key, ..good.clone() }, "do not make a pair"),
        (
            TlsAlpn01 { certificate: tls_alpn_01(BARE, 1).certificate, ..good.clone() },
            "not for this host alone",
        ),
    ] {
        edge.changes(|world| world.challenge(&Challenge::TlsAlpn01(broken))).await;
        eventually("a NACK", SOON, async || {
            let nacks = edge.edge.heard().nacks;
            nacks.iter().any(|n| n.contains("tls-alpn-01/app.example.com") && n.contains(why)).then_some(())
        })
        .await;
        ask(&asked(here(&edge)), &Challenge::TlsAlpn01(good.clone())).await.unwrap();
    }
    let pages = edge.page("/v1/hosts").await + &edge.page("/metrics").await + &edge.log();
    assert!(pages.contains("not for this host alone"), "it is shown where an operator looks");
    let shown = format!("{:?}", &der[40..48]);
    assert!(!pages.contains(shown.trim_matches(['[', ']'])), "a key is shown");
}
