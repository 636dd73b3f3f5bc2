//! A shutdown: what was begun is finished, what is idle is let go, and nobody's request is lost to it.

use std::{sync::Arc, time::Duration};

use h2::client::handshake;
use tokio::{io::AsyncWriteExt as _, sync::Semaphore};

use super::world::*;
use crate::serve::Version;

/// An origin that answers when it is allowed to.
fn waiting(world: &World) -> Arc<Semaphore> {
    let may = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may);
    world.put(
        1,
        Arc::new(move |stream| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                while reader.request().await.is_some() {
                    gate.acquire().await.unwrap().forget();
                    reader.stream.write_all(reply("200 OK", "done").as_bytes()).await.unwrap();
                }
            })
        }),
    );
    may
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_http1_client_in_the_middle_is_answered_and_told_to_close() {
    let world = World::new();
    let may = waiting(&world);
    let mut client = world.connect(Version::Http1);
    client.write_all(GET.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.drain.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    may.add_permits(1);
    let text = read_all(&mut client).await;
    assert!(text.contains("connection: close") && text.ends_with("done"), "{text}");
    assert_eq!(world.drain.run(Duration::from_secs(1)).await, 0, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn an_idle_http1_client_may_send_one_more_request() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", "done"));
    let mut client = Reader::new(world.connect(Version::Http1));
    client.stream.write_all(GET.as_bytes()).await.unwrap();
    client.until("done").await.unwrap();
    world.drain.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.stream.write_all(GET.as_bytes()).await.unwrap();
    let text = read_all(&mut client.stream).await;
    assert!(text.contains("connection: close") && text.ends_with("done"), "{text}");

    let world = World::new();
    let mut client = world.connect(Version::Http1);
    world.drain.stop();
    let began = tokio::time::Instant::now();
    assert_eq!(read_all(&mut client).await, "");
    assert_eq!(began.elapsed(), world.engine.limits.client.drain_idle);
    assert_eq!(world.drain.run(Duration::from_secs(1)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_is_told_and_its_streams_are_finished() {
    let world = World::new();
    let may = waiting(&world);
    let (mut sender, connection) = handshake(world.connect(Version::Http2)).await.unwrap();
    let (ended, end) = tokio::sync::oneshot::channel();
    world.origins_drain().spawn(async move {
        let _ = ended.send(connection.await.is_ok());
    });
    let request = || http::Request::get("http://a/").body(()).unwrap();
    let (response, _) = sender.send_request(request(), true).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.drain.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(sender.clone().ready().await.is_err(), "GOAWAY");
    may.add_permits(1);
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "done");
    drop((body, sender));
    assert!(end.await.unwrap());
    assert_eq!(world.drain.run(Duration::from_secs(1)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_under_load_loses_nothing() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", "done"));
    world.answering(2, |_| reply("200 OK", "done"));
    let mut client = Reader::new(world.connect(Version::Http1));
    for n in 0..200u16 {
        client.stream.write_all(GET.as_bytes()).await.unwrap();
        world.apply(vec![to_backend()], vec![backend(&[1 + n % 2])]);
        assert!(client.until("done").await.unwrap().contains("200 OK"));
    }
}
