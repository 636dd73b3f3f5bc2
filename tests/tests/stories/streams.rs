//! Bytes through the mesh are the app's bytes: all of them, once, in order, and ended as the app ended them.

use std::io::ErrorKind;

use signet_tests::{
    apps::{App, Does, pattern},
    client::{self, dial, exchange},
    eventually::{SOON, eventually},
    manifests::{Pod, app_address},
    mesh::Mesh,
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

async fn mesh() -> Mesh {
    Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .strict("shop")
        .start()
        .await
}

async fn pair(does: Does) -> (Mesh, App, Workload) {
    let mesh = mesh().await;
    let app = mesh.run("shop/api", 8080, does).await;
    let web = mesh.workload("shop/web");
    (mesh, app, web)
}

#[tokio::test]
async fn half_close_passes_the_end_of_one_direction_and_keeps_the_other() {
    let (mesh, app, web) = pair(Does::Sink).await;
    let sent = pattern(0, 3_000_000);
    assert_eq!(web.send(9000, &sent).await.unwrap(), b"3000000");
    assert_eq!(app.received(), 3_000_000);
    mesh.finish().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_by_a_client_that_says_nothing() {
    let (mesh, _app, web) = pair(Does::Greet(b"220 hello\r\n")).await;
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    let mut greeting = [0; 11];
    timeout(SOON, client.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    mesh.finish().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_by_a_silent_stranger_where_plaintext_is_allowed() {
    let mesh = Mesh::start([Pod::named("api").accepting(8080)]).await;
    let _app = mesh.run("shop/api", 8080, Does::Greet(b"220 hello\r\n")).await;
    let mut client = dial(mesh.network.address(3, 1), mesh.workload("shop/api").port(8080)).await.unwrap();
    let mut greeting = [0; 11];
    timeout(SOON, client.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    mesh.finish().await;
}

/// Every second connection meets the pod whose app is down; the sidecar says REFUSED and the other pod serves.
#[tokio::test]
async fn a_refused_endpoint_is_replaced_with_no_byte_lost_or_doubled() {
    let mesh = Mesh::start([
        Pod::named("web").with_upstream(9000, "api.shop:8080"),
        Pod::named("api-0").behind("api").accepting(8080),
        Pod::named("api-1").behind("api").accepting(8080),
    ])
    .await;
    let app = mesh.run("shop/api-1", 8080, Does::Http("ok".into())).await;
    let web = mesh.workload("shop/web");
    for n in 0..100 {
        let request = format!("GET /{n} HTTP/1.1\r\nhost: api\r\nx-filler: {}\r\n\r\n", "x".repeat(n * 50));
        let answer = web.send(9000, request.as_bytes()).await.unwrap_or_else(|e| panic!("request {n}: {e}"));
        assert!(answer.ends_with(b"ok"), "request {n}: {}", String::from_utf8_lossy(&answer));
    }
    let served = app.requests();
    assert_eq!(served.len(), 100);
    assert!(served.values().all(|times| *times == 1), "{served:?}");
    let refused =
        mesh.workload("shop/api-0").metric("signet_refused_total", &[("reason", "app_unreachable")]).await;
    assert!(refused > 10.0, "the dead endpoint was tried {refused} times only: the test proves nothing");
    mesh.finish().await;
}

#[tokio::test]
async fn a_proxy_killed_in_mid_transfer_gives_the_app_a_reset_and_never_a_clean_end() {
    for killed in ["shop/web", "shop/api"] {
        let (mesh, _app, web) = pair(Does::Source(1 << 40)).await;
        let mut client = dial(web.address, web.port(9000)).await.unwrap();
        let mut buffer = vec![0; 64 * 1024];
        client.read_exact(&mut buffer).await.unwrap();
        mesh.local.kill_child(killed).await.unwrap();
        let end = timeout(SOON, async {
            loop {
                match client.read(&mut buffer).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error.kind()),
                }
            }
        });
        assert_eq!(end.await.unwrap(), Err(ErrorKind::ConnectionReset), "{killed} killed");
        mesh.finish().await;
    }
}

/// The server's app sees the same: who uploads through a proxy that dies has not finished.
#[tokio::test]
async fn a_server_whose_clients_proxy_is_killed_sees_a_reset() {
    let mesh = mesh().await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    let listener = tokio::net::TcpListener::bind(app_address(api.address, 8080)).await.unwrap();
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    client.write_all(b"half of it").await.unwrap();
    let (mut served, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut got = [0; 10];
    served.read_exact(&mut got).await.unwrap();
    mesh.local.kill_child("shop/web").await.unwrap();
    let end = timeout(SOON, served.read(&mut got)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    mesh.finish().await;
}

#[tokio::test]
async fn many_connections_at_once_each_get_their_own_bytes_back() {
    let (mesh, app, web) = pair(Does::Echo).await;
    let drain = signet_core::drain::Drain::new();
    let (done, mut ends) = tokio::sync::mpsc::channel(200);
    for n in 0..200_u64 {
        let (web, done) = (web.clone(), done.clone());
        drain.spawn(async move {
            let sent = pattern(n << 32, 100_000);
            let _ = done
                .send(exchange(web.address, web.port(9000), &sent).await.is_ok_and(|got| got == sent))
                .await;
        });
    }
    drop(done);
    let mut good = 0;
    while let Some(same) = ends.recv().await {
        good += u32::from(same);
    }
    assert_eq!((good, app.connections()), (200, 200));
    mesh.finish().await;
}

#[tokio::test]
async fn a_reset_of_the_app_is_a_reset_at_the_other_side() {
    let mesh = mesh().await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    let listener = tokio::net::TcpListener::bind(app_address(api.address, 8080)).await.unwrap();
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let (served, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    served.set_zero_linger().unwrap();
    drop(served);
    let end = timeout(SOON, client.read(&mut [0; 1])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    mesh.finish().await;
}

/// An upstream may name what the controller calls plain; then the bytes go in plaintext and the edge says why.
#[tokio::test]
async fn a_service_outside_the_mesh_is_reached_in_plaintext_with_its_reason_shown() {
    let mesh = Mesh::start([
        Pod::named("web").with_upstream(9000, "billing.legacy:8080"),
        Pod::named("billing").in_namespace("legacy").outside_the_mesh().accepting(8080),
    ])
    .await;
    let _app = mesh.run("legacy/billing", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    assert_eq!(web.send(9000, b"hello").await.unwrap(), b"hello");
    let line = web.access_line(&["reason=ok", "plain_reason"]).await;
    assert!(line.contains("pod_opted_out") || line.contains("namespace_not_labelled"), "{line}");
    mesh.finish().await;
}

#[tokio::test]
async fn sigterm_lets_a_live_connection_finish() {
    let (mesh, _app, web) = pair(Does::Echo).await;
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    client::ping(&mut client, b"before").await.unwrap();
    let (_, pinged) = tokio::join!(mesh.local.stop_child("shop/api"), async {
        client::ping(&mut client, b"while draining").await?;
        client.shutdown().await?;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await
    });
    pinged.unwrap();
    eventually("the drained proxy's line", SOON, async || {
        let log = mesh.log("shop/api");
        log.contains("reason=ok").then_some(())
    })
    .await;
    mesh.finish().await;
}
