//! A request's way through and its answer's way back.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::world::*;
use crate::{model::*, serve::Version};

#[tokio::test(start_paused = true)]
async fn a_request_goes_through_and_its_connection_is_used_again() {
    let world = World::new();
    world.answering(1, |seen| reply("200 OK", seen.line()));
    let text = world.talk("GET /a//b?x=%2F HTTP/1.1\r\nHost: A.test:80\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\nPOST /c HTTP/1.1\r\nHost: A.test:80\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(statuses(&text), [200, 200], "{text}");
    assert!(text.contains("GET /a//b?x=%2F HTTP/1.1"), "as the client wrote it: {text}");
    let seen = world.seen();
    assert_eq!(seen[0].field("host"), Some("A.test:80"));
    assert_eq!(seen[0].field("x-forwarded-for"), Some("198.18.0.7"));
    assert_eq!(seen[0].field("x-hop"), None);
    assert_eq!(seen[0].field("connection"), None);
    assert_eq!(seen[1].body, "hi");
    assert_eq!(world.origins.dials.load(std::sync::atomic::Ordering::Relaxed), 1, "one connection for both");
}

#[tokio::test(start_paused = true)]
async fn an_old_client_gets_an_answer_that_ends_with_the_connection() {
    let world = World::new();
    world.answering(1, |_| {
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into()
    });
    let text = world.talk("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.0 200") && text.ends_with("\r\n\r\nabc"), "{text}");
    assert!(!text.contains("chunked"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_head_has_a_length_and_no_body() {
    let world = World::new();
    world.answering(1, |_| "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".into());
    let text = world.talk("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(statuses(&text), [200, 200]);
    assert!(text.contains("content-length: 1000"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn trailers_and_a_get_with_a_body_pass() {
    let world = World::new();
    world.answering(1, |_| {
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nx-sum: 9\r\n\r\n".into()
    });
    let text = world
        .talk("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-up, x-real-ip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-real-ip: 6.6.6.6\r\nx-up: 7\r\n\r\n")
        .await;
    assert!(text.ends_with("0\r\nx-sum: 9\r\n\r\n"), "{text}");
    assert_eq!(world.seen()[0].body, "hix-up: 7");
}

/// nginx's way: the origin is not asked, and the client is not told to go on before somebody takes its body.
#[tokio::test(start_paused = true)]
async fn a_client_that_asks_first_is_told_to_go_on_when_there_is_a_backend() {
    let world = World::new();
    world.answering(1, |seen| reply("200 OK", &seen.body));
    let mut client = Reader::new(world.connect(Version::Http1));
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    client.stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(client.until("\r\n\r\n").await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.stream.write_all(b"hi").await.unwrap();
    assert!(client.until("\r\n\r\nhi").await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(world.seen()[0].field("expect"), None);

    world.remove(1);
    world.apply(vec![Rule { max_body: Some(1), ..to_backend() }], vec![backend(&[])]);
    let text = world.talk(head).await;
    assert_eq!(statuses(&text), [413], "and never 100: {text}");
}

/// Server-sent events: each comes when it was sent, and the client's going is the origin's news.
#[tokio::test(start_paused = true)]
async fn events_pass_one_by_one_and_a_client_that_goes_is_the_end_for_the_origin() {
    let world = World::new();
    let (gone, heard) = tokio::sync::oneshot::channel::<()>();
    let gone = std::sync::Mutex::new(Some(gone));
    world.put(
        1,
        std::sync::Arc::new(move |stream| {
            let gone = gone.lock().unwrap().take();
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                reader.request().await.unwrap();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                reader.stream.write_all(head.as_bytes()).await.unwrap();
                reader.stream.write_all(b"3\r\none\r\n").await.unwrap();
                let _ = reader.take(1).await; // until the other side closes
                drop(gone);
            })
        }),
    );
    let mut client = Reader::new(world.connect(Version::Http1));
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.until("one").await.unwrap();
    drop(client);
    assert!(timeout(Duration::from_secs(5), heard).await.unwrap().is_err());
    assert!(world.metrics().contains(r#"reason="client_gone""#), "{}", world.metrics());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_the_answer_takes_its_request_back() {
    let world = World::new();
    let (gone, heard) = tokio::sync::oneshot::channel::<()>();
    let gone = std::sync::Mutex::new(Some(gone));
    let (arrived, arrives) = tokio::sync::oneshot::channel();
    let arrived = std::sync::Mutex::new(Some(arrived));
    world.put(
        1,
        std::sync::Arc::new(move |stream| {
            let (gone, arrived) = (gone.lock().unwrap().take(), arrived.lock().unwrap().take());
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                reader.request().await.unwrap();
                let _ = arrived.unwrap().send(());
                let _ = reader.take(1).await;
                drop(gone);
            })
        }),
    );
    let mut client = world.connect(Version::Http1);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    arrives.await.unwrap();
    drop(client);
    assert!(timeout(Duration::from_secs(5), heard).await.unwrap().is_err());
}

/// Memory: what waits for a slow client is the pipes and one buffer, however much the origin has to say.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_the_origin_back() {
    for version in [Version::Http1, Version::Http2] {
        let world = World::new();
        let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&written);
        world.put(
            1,
            std::sync::Arc::new(move |stream| {
                let count = std::sync::Arc::clone(&count);
                Box::pin(async move {
                    let mut reader = Reader::new(stream);
                    reader.request().await.unwrap();
                    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
                    reader.stream.write_all(head.as_bytes()).await.unwrap();
                    while reader.stream.write_all(&[b'x'; 8192]).await.is_ok() {
                        count.fetch_add(8192, std::sync::atomic::Ordering::Relaxed);
                    }
                })
            }),
        );
        let client = world.connect(version);
        if version == Version::Http1 {
            let mut client = client;
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await; // virtual: everything that can move has moved
            held_back(&written);
            let mut some = vec![0; 4096];
            client.read_exact(&mut some).await.unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop(client);
        } else {
            let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
            world.drain.spawn(async move { drop(connection.await) });
            let request = http::Request::get("http://a/").body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let _unread = response.await.unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await;
            held_back(&written);
        }
    }
}

fn held_back(written: &std::sync::atomic::AtomicUsize) {
    let bytes = written.load(std::sync::atomic::Ordering::Relaxed);
    assert!((10_000..1_000_000).contains(&bytes), "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn a_large_upload_and_a_large_download_arrive_whole() {
    let world = World::new();
    world.answering(1, |seen| reply("200 OK", &seen.body));
    let body = "0123456789abcdef".repeat(200_000);
    let mut client = world.connect(Version::Http1);
    let head =
        format!("PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(body.as_bytes()).await.unwrap();
    let text = read_all(&mut client).await;
    assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{}", text.len());
}
