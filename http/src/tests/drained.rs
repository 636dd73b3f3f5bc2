//! A shutdown: what was begun is finished, what is idle is let go, and nobody's request is lost to it.

use std::{sync::Arc, time::Duration};

use h2::client::handshake;
use tokio::{io::AsyncWriteExt as _, sync::Semaphore};

use super::world::*;
use crate::serve::Version;

/// An origin at endpoint 1 that answers "done" when it is allowed to.
fn waiting(world: &World) -> Arc<Semaphore> {
    waiting_at(world, 1, "done")
}

fn waiting_at(world: &World, n: u16, word: &'static str) -> Arc<Semaphore> {
    let may = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may);
    world.put(
        n,
        Arc::new(move |stream| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                while reader.request().await.is_some() {
                    gate.acquire().await.unwrap().forget();
                    reader.stream.write_all(reply("200 OK", word).as_bytes()).await.unwrap();
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

/// At each swap one request is at its origin, and the next comes at once.
#[tokio::test(start_paused = true)]
async fn a_snapshot_under_load_loses_nothing_and_a_request_keeps_the_one_that_it_began_with() {
    let world = World::new();
    let words = ["one", "two"];
    let may = [waiting_at(&world, 1, words[0]), waiting_at(&world, 2, words[1])];
    let mut begun = Reader::new(world.connect(Version::Http1));
    let mut next = Reader::new(world.connect(Version::Http1));
    let serve = |at: usize| world.apply(vec![to_backend()], vec![backend(&[[1, 2][at]])]);
    for n in 0..200 {
        let (old, new) = (n % 2, (n + 1) % 2);
        serve(old);
        begun.stream.write_all(GET.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await; // virtual: it is at its origin
        serve(new);
        next.stream.write_all(GET.as_bytes()).await.unwrap();
        may[new].add_permits(1);
        assert!(next.until(words[new]).await.unwrap().starts_with("HTTP/1.1 200 OK"), "{n}");
        may[old].add_permits(1);
        assert!(begun.until(words[old]).await.unwrap().starts_with("HTTP/1.1 200 OK"), "{n}");
    }
    assert_eq!(world.drain.run(Duration::from_secs(10)).await, 0);
}
