//! Requests for another protocol (T13): a tunnel begins after 101, for nobody else, and with nothing that came before it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::*;
use crate::serve::Version;

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// An origin that answers a request for another protocol with `answer`, then echoes; and every other with 200.
fn upgrading(world: &World, answer: &'static str) {
    let origins = Arc::downgrade(&world.origins);
    world.put(
        1,
        Arc::new(move |stream| {
            let origins = origins.clone();
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                while let Some(seen) = reader.request().await {
                    let asks = seen.field("upgrade").is_some();
                    origins.upgrade().unwrap().seen.lock().unwrap().push(seen);
                    let answer = if asks { answer.to_string() } else { reply("200 OK", "next") };
                    reader.stream.write_all(answer.as_bytes()).await.unwrap();
                    if asks && answer.contains(" 101 ") {
                        let rest = std::mem::take(&mut reader.buffer);
                        reader.stream.write_all(&rest).await.unwrap();
                        let (mut from, mut to) = tokio::io::split(reader.stream);
                        let _ = tokio::io::copy(&mut from, &mut to).await;
                        let _ = to.shutdown().await;
                        return;
                    }
                }
            })
        }),
    );
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: y\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_tunnel_carries_both_ways_and_ends_with_either_side() {
    let world = World::new();
    upgrading(&world, SWITCH);
    let mut client = Reader::new(world.connect(Version::Http1));
    client.stream.write_all(ASK.as_bytes()).await.unwrap();
    let head = client.until("\r\n\r\n").await.unwrap();
    assert!(
        head.contains("101") && head.contains("upgrade: websocket") && head.contains("accept: y"),
        "{head}"
    );
    for message in ["hello", "GET /evil HTTP/1.1\r\n\r\n", "\0\u{1}\n"] {
        client.stream.write_all(message.as_bytes()).await.unwrap();
        assert_eq!(client.take(message.len()).await.unwrap(), message);
    }
    assert!(world.metrics().contains("signet_http_tunnels 1"));
    client.stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(world.seen().len(), 1);
    let seen = &world.seen()[0];
    assert_eq!((seen.field("upgrade"), seen.field("connection")), (Some("websocket"), Some("upgrade")));
    world.talk(NEXT).await;
    assert_eq!(world.origins.dials.load(Relaxed), 2, "the tunnel's connection is nobody else's");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_breaks_says_whose_side_it_was() {
    let world = World::new();
    upgrading(&world, SWITCH);
    let mut client = Reader::new(world.connect(Version::Http1));
    client.stream.write_all(ASK.as_bytes()).await.unwrap();
    client.until("\r\n\r\n").await.unwrap();
    client.stream.write_all(b"hello").await.unwrap();
    drop(client); // and its echo finds nobody
    while world.metrics().contains("signet_http_tunnels 1") {
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
    }
    let metrics = world.metrics();
    let line = metrics.lines().find(|line| line.starts_with("signet_http_requests_total")).unwrap();
    assert!(line.contains("client_gone"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_large_message_passes_a_tunnel_whole() {
    let world = World::new();
    upgrading(&world, SWITCH);
    let mut client = Reader::new(world.connect(Version::Http1));
    client.stream.write_all(ASK.as_bytes()).await.unwrap();
    client.until("\r\n\r\n").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let sent = vec![7; 3_000_000];
    let mut received = vec![0; sent.len()];
    let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
    assert!(wrote.is_ok() && read.is_ok() && sent == received);
}

#[tokio::test(start_paused = true)]
async fn a_refused_upgrade_is_an_answer_and_what_follows_is_judged() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
    ] {
        let world = World::new();
        upgrading(&world, answer);
        let text = world.talk(&format!("{ASK}{NEXT}")).await;
        assert_eq!(statuses(&text).len(), 2, "{text}");
        assert!(text.ends_with("next"), "{text}");
        assert_eq!(world.seen()[1].line(), "GET /next HTTP/1.1");
        let text = world.talk(&format!("{ASK}GET /evil HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")).await;
        assert_eq!(statuses(&text)[1], 400, "{text}");
        assert_eq!(world.seen().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_before_101_reach_nobody() {
    let world = World::new();
    upgrading(&world, SWITCH);
    let text = world.talk(&format!("{ASK}{NEXT}")).await;
    assert!(!text.contains("GET /next") && !text.contains("200"), "{text}");
    assert_eq!(world.seen().len(), 1);
    assert!(world.metrics().contains(r#"reason="bad_framing""#), "{}", world.metrics());
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_body_or_for_h2c_changes_no_protocol() {
    let body = "POST /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi";
    let h2c = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    for request in [body, h2c] {
        let world = World::new();
        upgrading(&world, SWITCH);
        let text = world.talk(&format!("{request}{NEXT}")).await;
        assert_eq!(statuses(&text), [200, 200], "{text}");
        assert!(
            world.seen().iter().all(|s| s.field("upgrade").is_none() && s.field("http2-settings").is_none())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_101_that_nobody_asked_for_is_502() {
    let world = World::new();
    world.answering(1, |_| SWITCH.into());
    let text = world.talk(NEXT).await;
    assert_eq!(statuses(&text), [502], "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_tunnel_ends_in_its_time() {
    let world = World::new();
    upgrading(&world, SWITCH);
    let mut client = Reader::new(world.connect(Version::Http1));
    client.stream.write_all(ASK.as_bytes()).await.unwrap();
    client.until("\r\n\r\n").await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(read_all(&mut client.stream).await, "");
    assert_eq!(began.elapsed(), world.engine.limits.client.tunnel);
}
