//! Certificates that must not pass, and trust that must not be had.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use signet_cli::local::ChildOverride;
use signet_core::{bundle::TrustBundle, files};
use signet_tests::{
    apps::{App, Does},
    binaries::mutant_proxy,
    eventually::{SOON, eventually},
    hostile::{self, Case},
    manifests::Pod,
    mesh::Mesh,
    pki::{Authority, key},
    wire::{ACCEPT, ALPN, Peer},
};
use tokio::net::TcpListener;

/// Names of the cases whose certificate got a client's bytes to the app. (A connection alone proves nothing: where plaintext is
/// allowed, the app is dialled for a stranger before its first byte.)
async fn clients_that_pass(mesh: &Mesh, app: &App, authority: &Authority) -> BTreeSet<&'static str> {
    let (api, stranger) = (mesh.workload("shop/api"), mesh.network.address(3, 1));
    let mut passed = BTreeSet::new();
    for Case { name, credential, .. } in hostile::table(authority, "shop/web") {
        let before = app.received();
        let taken = async {
            let mut peer = Peer::connect(stranger, api.port(8080), Some(&credential), ALPN).await?;
            peer.open_with(b"secret").await?;
            peer.receive().await
        };
        if matches!(taken.await, Ok((ACCEPT, _))) {
            eventually(name, SOON, async || (app.received() > before).then_some(())).await;
            passed.insert(name);
        } else {
            assert_eq!(app.received(), before, "{name}: refused, and the app was told");
        }
    }
    passed
}

fn names(authority: &Authority, which: fn(&Case) -> bool) -> BTreeSet<&'static str> {
    hostile::table(authority, "shop/web").into_iter().filter(which).map(|case| case.name).collect()
}

#[tokio::test]
async fn no_hostile_client_certificate_reaches_the_app_and_the_good_ones_do() {
    let mesh = Mesh::start([Pod::named("api").accepting(8080)]).await;
    let app = mesh.run("shop/api", 8080, Does::Sink).await;
    let authority = Authority::new();
    mesh.believe_also(&authority).await;
    assert_eq!(clients_that_pass(&mesh, &app, &authority).await, names(&authority, |case| !case.hostile));
    mesh.workload("shop/api").tells("peer_untrusted").await;
    mesh.finish().await;
}

#[tokio::test]
async fn a_proxy_without_the_san_check_is_caught_by_the_table_of_hostile_certificates() {
    let mutant = ChildOverride { program: Some(mutant_proxy()), ..Default::default() };
    let builder = Mesh::builder().pod(Pod::named("api").accepting(8080)).overriding("shop/api", mutant);
    let mesh = builder.start().await;
    let app = mesh.run("shop/api", 8080, Does::Sink).await;
    let authority = Authority::new();
    mesh.believe_also(&authority).await;
    let passed = clients_that_pass(&mesh, &app, &authority).await;
    let hostile = names(&authority, |case| case.hostile);
    assert!(passed.intersection(&hostile).count() > 10, "the mutant let through only {passed:?}");
    mesh.finish().await;
}

#[tokio::test]
async fn no_hostile_server_certificate_gets_a_byte_of_the_app_and_the_good_ones_do() {
    let builder = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .inbound_aside("shop/api", 9);
    let mesh = builder.start().await;
    let authority = Authority::new();
    mesh.believe_also(&authority).await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    let listener = TcpListener::bind(api.port(8080)).await.unwrap();
    for Case { name, hostile, credential, .. } in hostile::table(&authority, "shop/api") {
        let server = async {
            let mut peer = Peer::accept(&listener, &credential, ALPN).await?;
            peer.receive().await
        };
        let (sent, got) = tokio::join!(web.send(9000, b"secret"), server);
        assert_eq!(got.is_err(), hostile, "{name}: the server got {got:?}");
        assert!(sent.is_err(), "{name}: the app was told {sent:?} though nobody answered it");
    }
    web.tells("peer_untrusted").await;
    mesh.finish().await;
}

#[tokio::test]
async fn strangers_are_refused_with_a_reason_in_log_metric_and_table() {
    let mesh = Mesh::builder().pod(Pod::named("api").accepting(8080)).strict("shop").start().await;
    let app = mesh.run("shop/api", 8080, Does::Echo).await;
    let (api, stranger) = (mesh.workload("shop/api"), mesh.network.address(3, 1));
    let id = signet_core::identity::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    let foreign = Authority::new().credential(&id);
    for credential in [None, Some(&foreign)] {
        let taken = async {
            let mut peer = Peer::connect(stranger, api.port(8080), credential, ALPN).await?;
            peer.open_with(b"secret").await?;
            peer.receive().await
        };
        assert!(taken.await.is_err());
    }
    api.tells("peer_untrusted").await;
    assert!(
        signet_tests::client::exchange(stranger, api.port(8080), b"GET / HTTP/1.1\r\n\r\n").await.is_err()
    );
    api.tells("plaintext_refused").await;
    assert_eq!(app.connections(), 0);
    mesh.finish().await;
}

#[tokio::test]
async fn a_trust_file_that_is_missing_empty_cut_off_or_of_the_wrong_type_refuses_everything() {
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .strict("shop")
        .start()
        .await;
    let app = mesh.run("shop/api", 8080, Does::Echo).await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    assert_eq!(web.send(9000, b"hello").await.unwrap(), b"hello");
    mesh.local.stop_child("ca").await.unwrap(); // it would mend its file
    let file = mesh.local.state_dir().trust_bundle();
    let good = fs::read(&file).unwrap();
    for (case, content) in [
        ("missing", None),
        ("empty", Some(Vec::new())),
        ("cut off", Some(good[..good.len() - 40].to_vec())),
        ("a private key", Some(key().serialize_pem().into_bytes())),
        ("not PEM", Some(b"{\"roots\": []}".to_vec())),
    ] {
        let served = app.connections();
        match content {
            Some(content) => files::write_atomic(&file, &content, files::PUBLIC).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        for workload in [&web, &api] {
            eventually(&format!("{} not ready: {case}", workload.name), SOON, async || {
                (!workload.is_ready().await).then_some(())
            })
            .await;
            assert_eq!(workload.metric("signet_trust_fault", &[]).await, 1.0, "{case}");
        }
        assert!(web.send(9000, b"hello").await.is_err(), "{case}");
        assert_eq!(app.connections(), served, "{case}");
        files::write_atomic(&file, &good, files::PUBLIC).unwrap();
        for workload in [&web, &api] {
            eventually(&format!("{} ready after: {case}", workload.name), SOON, async || {
                workload.is_ready().await.then_some(())
            })
            .await;
        }
        assert_eq!(web.send(9000, b"hello").await.unwrap(), b"hello", "mended after: {case}");
    }
    fs::write(&file, b"").unwrap();
    mesh.local.kill_child("shop/api").await.unwrap();
    eventually("the api proxy again, not ready", SOON, async || {
        TcpListener::bind(SocketAddr::new(api.address, 15020)).await.is_err().then_some(())
    })
    .await;
    assert!(
        !api.is_ready().await && web.send(9000, b"hello").await.is_err(),
        "started on an empty trust file"
    );
    assert!(TrustBundle::read(&file).is_err());
    mesh.finish().await;
}
