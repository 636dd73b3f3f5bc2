//! The gateway goes, or edge does: clients do not notice.

use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::json;
use signet_tests::{
    client,
    eventually::{SOON, eventually},
    fake_edge::FakeEdge,
    gateway::{Edge, request, response},
    mirror::Mirror,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{mirror, serves};

/// A request whose answer has not ended, and its origin.
async fn begun(edge: &Edge, tls: &Arc<ClientConfig>) -> (Mirror, TlsStream<TcpStream>) {
    let origin = mirror(&edge.network).await;
    let mut slow = edge.dial(tls, "a.example.com").await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: a.example.com\r\n\r\n").await.unwrap();
    eventually("the request at the origin", SOON, async || (origin.requests() == 1).then_some(())).await;
    (origin, slow)
}

#[tokio::test]
async fn sigterm_makes_it_unready_goes_on_accepting_and_finishes_what_was_begun() {
    let mut edge =
        Edge::start_with(json!({"drainSeconds": 2, "finishSeconds": 30}), |world, web, network| {
            serves(world, web, network, &["a.example.com"]);
        })
        .await;
    let tls = edge.tls(&[b"http/1.1"]);
    let (origin, mut slow) = begun(&edge, &tls).await;
    edge.terminate();
    eventually("unready", SOON, async || {
        matches!(client::get(edge.at(15021), "/ready").await, Ok((503, why)) if why.contains("draining"))
            .then_some(())
    })
    .await;
    assert_eq!(
        edge.get(&tls, "a.example.com", "a.example.com", "/").await.0,
        200,
        "new connections are served"
    );
    eventually("the listener to close", SOON, async || TcpStream::connect(edge.at(8443)).await.err()).await;
    origin.go();
    let (status, body) = response(&mut slow).await.unwrap();
    assert!(status == 200 && body.ends_with("first-last"), "{body}");
    let mut rest = Vec::new();
    let _ = timeout(SOON, slow.read_to_end(&mut rest)).await.expect("closed behind the answer");
    assert!(edge.ends().await, "{}", edge.log());
    assert!(edge.log().contains("\"cut\":0"), "{}", edge.log());
}

#[tokio::test]
async fn a_second_signal_cuts() {
    let mut edge = Edge::start(|world, web, network| serves(world, web, network, &["a.example.com"])).await;
    let tls = edge.tls(&[b"http/1.1"]);
    let (_origin, mut slow) = begun(&edge, &tls).await;
    edge.terminate();
    eventually("the drain to begin", SOON, async || edge.log().contains("draining").then_some(())).await;
    edge.terminate();
    assert!(edge.ends().await);
    assert!(response(&mut slow).await.is_err(), "cut");
}

#[tokio::test]
async fn without_edge_everything_known_goes_on_and_its_return_is_a_resumption() {
    let mut edge = Edge::start(|world, web, network| serves(world, web, network, &["a.example.com"])).await;
    let _origin = mirror(&edge.network).await;
    let tls = edge.tls(&[b"http/1.1"]);
    let mut kept = edge.dial(&tls, "a.example.com").await.unwrap();
    let at = std::net::SocketAddr::new(edge.network.control(), 15014);
    let placeholder =
        FakeEdge::start(edge.network.aside(1, 15014), &edge.authority, Default::default()).await.unwrap();
    let world = std::mem::replace(&mut edge.edge, placeholder).stop().await;
    eventually("edge to be missed", SOON, async || {
        (edge.json("/v1/hosts").await["discovery"]["connected"] == false).then_some(())
    })
    .await;
    assert_eq!(request(&mut kept, "a.example.com", "/").await.unwrap().0, 200);
    assert_eq!(edge.get(&tls, "a.example.com", "a.example.com", "/").await.0, 200);
    assert_eq!(client::get(edge.at(15021), "/ready").await.unwrap().0, 200, "stale beats empty");
    edge.edge = FakeEdge::start(at, &edge.authority, world).await.unwrap();
    eventually("a resumption", SOON, async || {
        (edge.edge.heard().resumed.get(signet_api::EDGE_CERTIFICATE) == Some(&1)).then_some(())
    })
    .await;
    assert_eq!(request(&mut kept, "a.example.com", "/").await.unwrap().0, 200);
}
