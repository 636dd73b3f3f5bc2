//! What others do to a proxy by accident or on purpose: too much, too slowly, or nothing at all any more.

use std::{io, net::SocketAddr, time::Duration};

use signet_tests::{
    apps::{Does, pattern},
    client,
    eventually::{SOON, eventually},
    manifests::{Pod, app_address},
    mesh::Mesh,
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .strict("shop")
        .start()
        .await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    (mesh, web, api)
}

/// An app connection through the mesh, both ends in the test's hands.
async fn ends(web: &Workload, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = client::dial(web.address, web.port(9000)).await.unwrap();
    let (server, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    (client, server)
}

/// Sends until the buffers on the way are full and nothing moves for [`STALLED`]; returns how much that was.
async fn fill(sender: &mut TcpStream) -> usize {
    let mut sent = 0;
    while let Ok(wrote) = timeout(STALLED, sender.write(&pattern(sent as u64, PIECE))).await {
        sent += wrote.unwrap();
    }
    sent
}

async fn read_pattern(reader: &mut TcpStream, length: usize) -> io::Result<()> {
    let mut got = vec![0; length];
    timeout(SOON, reader.read_exact(&mut got)).await??;
    assert!(got == pattern(0, length), "other bytes than were sent");
    Ok(())
}

/// A debugger, a paused consumer, a full disk: TCP waits for a reader for ever, and so do we. The pause is longer than every
/// time in docs/wire.md by which a lost peer is found.
#[tokio::test]
async fn a_reader_that_pauses_for_longer_than_a_lost_peer_is_missed_loses_nothing_in_either_direction() {
    let (mesh, web, api) = pair().await;
    let listener = TcpListener::bind(app_address(api.address, 8080)).await.unwrap();
    let (mut up, mut served_up) = ends(&web, &listener).await;
    let (mut down, mut served_down) = ends(&web, &listener).await;
    let (sent_up, sent_down) = tokio::join!(fill(&mut up), fill(&mut served_down));
    assert!(sent_up > 100_000 && sent_down > 100_000, "{sent_up} and {sent_down} bytes filled every buffer");
    sleep(PAUSE).await; // the promise is about time
    read_pattern(&mut served_up, sent_up).await.unwrap();
    read_pattern(&mut down, sent_down).await.unwrap();
    for one in [&mut up, &mut served_up] {
        one.shutdown().await.unwrap();
    }
    mesh.finish().await;
}

/// Longer than a write waits on a machine that is busy with other tests.
const STALLED: Duration = Duration::from_millis(500);
const PIECE: usize = 64 * 1024;
/// 9 s and half as much.
const PAUSE: Duration = Duration::from_secs(14);
