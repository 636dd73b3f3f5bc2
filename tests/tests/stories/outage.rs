//! What is known goes on without the control plane; what is not is refused, never reached in plaintext.

use std::time::Duration;

use signet_tests::{
    apps::{App, Does},
    eventually::{SOON, eventually},
    manifests::Pod,
    mesh::Mesh,
};
use tokio::time::Instant;

async fn mesh() -> Mesh {
    Mesh::start([
        Pod::named("web").with_upstream(9000, "api.shop:8080").with_upstream(9001, "late.shop:8080"),
        Pod::named("api").accepting(8080),
    ])
    .await
}

/// Known: works, each time on a new connection. Never seen: refused within 3 s, and no plaintext arrives.
async fn known_goes_on_and_unknown_is_refused(mut mesh: Mesh) -> Mesh {
    let app = mesh.run("shop/api", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    // The new pod is there: an app that would take plaintext, on the pod's own port.
    let late = mesh.place(&Pod::named("late").outside_the_mesh().accepting(8080));
    let plain = App::start((late, 8080).into(), Does::Echo).await.unwrap();
    for _ in 0..10 {
        assert_eq!(web.send(9000, b"hello").await.unwrap(), b"hello");
    }
    assert_eq!(app.connections(), 10);
    let asked = Instant::now();
    assert!(web.send(9001, b"secret").await.is_err());
    assert!(asked.elapsed() < Duration::from_secs(3), "refused after {:?}", asked.elapsed());
    assert_eq!(plain.connections(), 0, "reached in plaintext");
    mesh
}

#[tokio::test]
async fn with_the_controller_stopped_known_workloads_go_on_and_an_unknown_one_is_refused_within_3_s() {
    let mesh = mesh().await;
    mesh.local.stop_child("controller").await.unwrap();
    let mesh = known_goes_on_and_unknown_is_refused(mesh).await;
    mesh.workload("shop/web").tells("address_unknown").await;
    mesh.finish().await;
}

#[tokio::test]
async fn with_the_controller_paused_known_workloads_go_on_and_an_unknown_one_is_refused_within_3_s() {
    let mesh = mesh().await;
    mesh.local.pause_child("controller").await.unwrap();
    let mesh = known_goes_on_and_unknown_is_refused(mesh).await;
    mesh.local.resume_child("controller").await.unwrap();
    mesh.finish().await;
}

/// A proxy that starts while the controller hangs knows nobody: everything is unknown to it until the answers come.
#[tokio::test]
async fn with_the_controller_answering_late_a_dial_waits_for_its_answer_or_is_refused_within_3_s() {
    let mesh = mesh().await;
    let app = mesh.run("shop/api", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    mesh.local.pause_child("controller").await.unwrap();
    mesh.local.kill_child("shop/web").await.unwrap();
    eventually("the new proxy to listen", SOON, async || {
        tokio::net::TcpStream::connect(web.port(9000)).await.ok()
    })
    .await;
    let asked = Instant::now();
    assert!(web.send(9000, b"secret").await.is_err());
    assert!(asked.elapsed() < Duration::from_secs(3), "refused after {:?}", asked.elapsed());
    web.tells("address_unanswered").await;
    assert_eq!(app.connections(), 0);
    let (sent, ()) = tokio::join!(web.send(9000, b"late"), async {
        mesh.local.resume_child("controller").await.unwrap();
    });
    assert_eq!(sent.unwrap(), b"late", "the answer came while the dial waited");
    mesh.finish().await;
}

#[tokio::test]
async fn proxies_and_their_connections_outlive_ca_and_controller_killed_and_restarted() {
    let mesh = mesh().await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    let mut live = signet_tests::client::dial(web.address, web.port(9000)).await.unwrap();
    signet_tests::client::ping(&mut live, b"before").await.unwrap();
    for child in ["controller", "ca"] {
        mesh.local.kill_child(child).await.unwrap();
        signet_tests::client::ping(&mut live, b"during").await.unwrap();
        assert_eq!(web.send(9000, b"new").await.unwrap(), b"new");
    }
    mesh.local.wait_ready(SOON).await.unwrap();
    signet_tests::client::ping(&mut live, b"after").await.unwrap();
    mesh.finish().await;
}
