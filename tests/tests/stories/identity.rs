//! An address is not an identity.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use signet_core::drain::Drain;
use signet_tests::{
    apps::Does,
    client,
    eventually::{SOON, eventually},
    manifests::Pod,
    mesh::Mesh,
    pki::Authority,
    wire::{ALPN, Peer},
};
use tokio::net::TcpListener;

/// The client still holds the old answer: its controller hangs. Who took over the address has a certificate of the mesh.
#[tokio::test]
async fn an_address_reused_by_another_identity_never_receives_a_byte_of_the_app() {
    let mesh = Mesh::start([
        Pod::named("api").with_upstream(9000, "db.shop:5432"),
        Pod::named("db").accepting(5432),
    ])
    .await;
    let app = mesh.run("shop/db", 5432, Does::Echo).await;
    let (api, db) = (mesh.workload("shop/api"), mesh.workload("shop/db"));
    assert_eq!(api.send(9000, b"hello").await.unwrap(), b"hello");
    let authority = Authority::new();
    mesh.believe_also(&authority).await;
    mesh.local.pause_child("controller").await.unwrap();
    mesh.local.stop_child("shop/db").await.unwrap();
    drop(app);
    let cron = signet_core::identity::parse("spiffe://cluster.local/ns/jobs/sa/cron").unwrap();
    let listener = TcpListener::bind(db.port(5432)).await.unwrap();
    let credential = authority.credential(&cron);
    let reused = async {
        let mut peer = Peer::accept(&listener, &credential, ALPN).await?;
        peer.receive().await
    };
    let (sent, received) = tokio::join!(api.send(9000, b"secret"), reused);
    assert!(received.is_err(), "the new owner of the address received {received:?}");
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::ConnectionReset);
    api.tells("peer_identity").await;
    mesh.finish().await;
}

/// The same with nothing paused: a pod goes and another takes its address while the client keeps calling.
#[tokio::test]
async fn while_an_address_changes_hands_the_new_owner_never_receives_what_was_meant_for_the_old() {
    let mut mesh = Mesh::start([
        Pod::named("api").with_upstream(9000, "db.shop:5432"),
        Pod::named("db").accepting(5432),
    ])
    .await;
    let app = mesh.run("shop/db", 5432, Does::Echo).await;
    let api = mesh.workload("shop/api");
    let (drain, over) = (Drain::new(), Arc::new(AtomicBool::new(false)));
    let (caller, ended) = (api.clone(), Arc::clone(&over));
    drain.spawn(async move {
        while !ended.load(Relaxed) {
            let _ = caller.send(9000, b"secret").await; // refused is fine, delivered to another is not
        }
    });
    eventually("the old pod to serve", SOON, async || (app.received() > 0).then_some(())).await;
    let address = mesh.delete("shop/db");
    drop(app);
    eventually("the old proxy to go", SOON, async || {
        (!mesh.local.sidecars().contains_key("shop/db")).then_some(())
    })
    .await;
    let cron = mesh.add(Pod::named("cron").in_namespace("jobs").at(address).accepting(5432)).await;
    let new = mesh.run("jobs/cron", 5432, Does::Echo).await;
    for _ in 0..3 {
        let _ = api.send(9000, b"secret").await;
    }
    over.store(true, Relaxed);
    drain.run(SOON).await;
    assert_eq!(new.received_first(), b"");
    assert_eq!(new.connections(), 0, "{:?}", cron.access_log());
    let direct = client::exchange(mesh.network.address(3, 1), cron.port(5432), b"ping").await;
    assert_eq!(direct.unwrap(), b"ping", "the new pod does serve, or the test proves nothing");
    mesh.finish().await;
}
