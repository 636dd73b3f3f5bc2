//! Who is slow, on either side: served if they only take their time, held back if they take nothing, and ended if they stop.

use std::{future::poll_fn, pin::Pin, time::Duration};

use http_body_util::BodyExt as _;
use signet_http::model::{Timeout, Timeouts};
use signet_tests::{
    answers::Answers,
    apps::pattern,
    eventually::{SOON, eventually},
    frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Raw, block, frame},
    gateway::{Edge, route},
    teller::Teller,
    web::Web,
};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};

use super::{BACKEND, origin, serves};

const HOST: &str = "a.example.com";

async fn edge() -> (Edge, Teller) {
    let edge = Edge::start(|world, web, network| serves(world, web, network, &[HOST])).await;
    let teller = Teller::start(origin(&edge.network), "origin").await.unwrap();
    (edge, teller)
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_served_whole() {
    let (edge, teller) = edge().await;
    let tls = edge.dial(&edge.tls(&[b"http/1.1"]), HOST).await.unwrap();
    let mut client = Answers::new(tls);
    let request =
        format!("POST /count HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 300\r\n\r\n{}", "x".repeat(300));
    for byte in request.bytes() {
        client.stream.write_all(&[byte]).await.unwrap(); // each a record, and a packet
        client.stream.flush().await.unwrap();
    }
    assert_eq!(client.next(false).await.unwrap().body, b"300");

    let tls = edge.dial(&edge.tls(&[b"h2"]), HOST).await.unwrap();
    let mut client = Raw::begin(tls).await.unwrap();
    let fields: &[(&[u8], &[u8])] = &[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", HOST.as_bytes()),
        (b":path", b"/count"),
        (b"content-length", b"300"),
    ];
    let block = block(fields);
    let (first, rest) = block.split_at(1);
    client.send(&frame(HEADERS, 0, 1, first)).await;
    let (second, rest) = rest.split_at(1);
    client.send(&frame(CONTINUATION, 0, 1, second)).await;
    client.send(&frame(CONTINUATION, END_HEADERS, 1, rest)).await;
    for n in 1..=300 {
        client.send(&frame(DATA, if n == 300 { END_STREAM } else { 0 }, 1, b"x")).await;
    }
    let heard = client.hear(1).await.unwrap();
    assert_eq!((heard.status, &*heard.body), (Some(200), &b"300"[..]), "{heard:?}");
    assert_eq!(teller.received(), 600);
}

#[tokio::test]
async fn a_head_that_stops_is_408_and_others_are_served_meanwhile() {
    let (edge, teller) = edge().await;
    let tls = edge.tls(&[b"http/1.1"]);
    let mut stopped = Vec::new();
    for words in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: a.example.com\r\nx: y\r\n"] {
        let mut client = Answers::new(edge.dial(&tls, HOST).await.unwrap());
        client.stream.write_all(words.as_bytes()).await.unwrap();
        stopped.push(client);
    }
    for _ in 0..20 {
        assert_eq!(edge.get(&tls, HOST, HOST, "/").await.0, 200);
    }
    for mut client in stopped {
        assert_eq!(client.next(false).await.unwrap().status, 408);
        assert_eq!(client.rest().await.unwrap(), b"", "closed");
    }
    assert_eq!(teller.requests(), 20, "none of the three");
    eventually("three lines", SOON, async || {
        let lines = edge.gateway.accesses();
        (lines.iter().filter(|line| line.reason == "head_timeout").count() == 3).then_some(())
    })
    .await;
}

/// Answers of 32 MiB each to clients that do not read, over both versions.
#[tokio::test]
async fn clients_that_do_not_read_hold_their_origin_back_cost_little_and_miss_nothing_when_they_go_on() {
    let (edge, teller) = edge().await;
    let from = edge.network.address(9, 9);
    let path = format!("/flood/{FLOOD}");
    let tls = edge.tls(&[b"http/1.1"]);
    assert_eq!(edge.get(&tls, HOST, HOST, "/").await.0, 200);
    let before = edge.gateway.peak();
    let mut waiting = Vec::new();
    for n in 0..READERS {
        let tls = edge.tls(&[if n % 2 == 0 { b"http/1.1" } else { b"h2" }]);
        let mut web = Web::connect(from, edge.at(8443), &tls, HOST).await.unwrap();
        waiting.push((web.begin(HOST, &path).await.unwrap().into_body(), web));
    }
    stands("the origin to be held back", || teller.flooded()).await;
    let (said, all) = (teller.flooded(), FLOOD * READERS as u64);
    assert!(said < all / 2, "it was held back: {said} of {all} bytes");
    let cost = edge.gateway.peak() - before;
    assert!(cost < READER_COSTS * READERS as u64, "{READERS} readers that do not read cost {cost} bytes");
    for (mut body, _web) in waiting.drain(..2) {
        let mut at = 0;
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece == pattern(at, piece.len()), "at {at}");
            at += piece.len() as u64;
        }
        assert_eq!(at, FLOOD);
    }
}

#[tokio::test]
async fn an_origin_that_does_not_read_holds_its_client_back() {
    let (edge, _teller) = edge().await;
    let tls = edge.tls(&[b"http/1.1"]);
    assert_eq!(edge.get(&tls, HOST, HOST, "/").await.0, 200);
    let before = edge.gateway.peak();
    let mut client = edge.dial(&tls, HOST).await.unwrap();
    let head = format!("POST /silent HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {FLOOD}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (piece, mut sent) = (vec![b'x'; 64 * 1024], 0);
    // As long as it is taken within a moment.
    let mut take = async || {
        let write = poll_fn(|cx| Pin::new(&mut client).poll_write(cx, &piece));
        tokio::time::timeout(Duration::from_millis(500), write).await
    };
    while let Ok(taken) = take().await {
        sent += taken.unwrap() as u64;
        assert!(sent < FLOOD, "it was held back");
    }
    let cost = edge.gateway.peak() - before;
    assert!(cost < 4 * READER_COSTS, "{sent} bytes that nobody reads cost {cost}");
}

#[tokio::test]
async fn an_origin_that_is_too_slow_is_504_or_cuts_its_answer_short_and_its_neighbours_go_on() {
    let (edge, _teller) = edge().await;
    edge.changes(|world| {
        let mut patient = route(HOST, BACKEND);
        let idle = Timeout::After(Duration::from_secs(1));
        patient.rules[0].timeouts = Timeouts { idle, ..Timeouts::default() };
        world.route(&patient);
    })
    .await;
    let from = edge.network.address(9, 9);
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let tls = edge.tls(&[alpn]);
        let mut web = Web::connect(from, edge.at(8443), &tls, HOST).await.unwrap();
        let (answer, words) = web.get(HOST, "/silent").await.unwrap();
        assert_eq!(answer.status(), 504);
        assert!(words.starts_with(b"504 the backend did not answer in time"), "{words:?}");

        let mut half = web.begin(HOST, "/half").await.unwrap();
        assert_eq!(half.status(), 200);
        let first = half.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "first");
        // On the same connection, where there can be two.
        if let Some(mut beside) = web.share() {
            assert_eq!(beside.get(HOST, "/").await.unwrap().1, "origin");
        }
        let rest = tokio::time::timeout(SOON, half.frame()).await.expect("it does not wait for ever");
        assert!(matches!(rest, Some(Err(_))), "a part is never taken for the whole");
        if let Some(mut beside) = web.share() {
            assert_eq!(beside.get(HOST, "/").await.unwrap().1, "origin", "its stream ended, no other");
        }
    }
    eventually("their lines", SOON, async || {
        let lines = edge.gateway.accesses();
        let slow = lines.iter().filter(|line| line.reason == "backend_timeout");
        let mut slow: Vec<(&str, u16)> = slow.map(|line| (&*line.path, line.status)).collect();
        slow.sort_unstable();
        (slow == [("/half", 200), ("/half", 200), ("/silent", 504), ("/silent", 504)]).then_some(())
    })
    .await;
}

/// Waits until `number` has not changed for a while.
async fn stands(what: &str, number: impl Fn() -> u64) {
    let (mut last, mut looks) = (number(), 0);
    eventually(what, SOON, async || {
        let now = number();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        (looks == LOOKS).then_some(())
    })
    .await;
}

/// Bytes of one answer.
const FLOOD: u64 = 32 * 1024 * 1024;
const READERS: usize = 40;
/// Bytes: what waits for a client (128 KiB), what was read from the origin for it, TLS' own buffers and the allocator's rounding
/// (285 kB measured).
const READER_COSTS: u64 = 512 * 1024;
/// Each some 10 ms after the last.
const LOOKS: u32 = 50;
