//! Times and sizes, in virtual time: each has its status, its word, and its end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::world::*;
use crate::{limits::Limits, model::*, serve::Version};

/// An origin that reads a request and then says `words`, once, and nothing more.
fn saying(world: &World, n: u16, words: &'static str) {
    world.put(
        n,
        std::sync::Arc::new(move |stream| {
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                let _ = reader.request().await;
                let _ = reader.stream.write_all(words.as_bytes()).await;
                let _ = reader.take(1).await;
            })
        }),
    );
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_arrive_is_408_and_an_idle_connection_is_closed() {
    let (world, limits) = (World::new(), Limits::default().client);
    let began = Instant::now();
    let text = world.talk("GET / HTTP/1.1\r\nHo").await;
    assert_eq!(statuses(&text), [408], "{text}");
    assert_eq!(began.elapsed().as_secs(), limits.head.as_secs());
    let began = Instant::now();
    let mut client = world.connect(Version::Http1);
    assert_eq!(read_all(&mut client).await, "");
    assert_eq!(began.elapsed().as_secs(), limits.idle.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_dripped_head_has_no_more_time_than_a_silent_one() {
    let (world, limits) = (World::new(), Limits::default().client);
    let began = Instant::now();
    let mut client = world.connect(Version::Http1);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(client);
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writer.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut text = String::new();
    tokio::select! {
        () = drip => {}
        _ = tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut text) => {}
    }
    assert_eq!(statuses(&text), [408]);
    assert!(began.elapsed() < limits.head + Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn sizes_of_a_head_have_their_statuses() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", ""));
    let get = |target: &str, fields: &str| format!("GET /{target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for (bytes, status) in [
        (get(&"a".repeat(9000), ""), 414),
        (format!("GET /{}", "a".repeat(20_000)), 414),
        (get("", &"x: y\r\n".repeat(100)), 431),
        (get("", &format!("x: {}\r\n", "y".repeat(70_000))), 431),
        (get("", &"x: y\r\n".repeat(99)), 200),
        (get("", &format!("x: {}\r\n", "y".repeat(60_000))), 200),
    ] {
        let text = world.talk(&bytes).await;
        assert_eq!(statuses(&text), [status], "{}", &bytes[..40]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_or_stops_is_refused_and_its_connection_closed() {
    let world = World::new();
    world.answering(1, |seen| reply("200 OK", &seen.body));
    world.apply(vec![Rule { max_body: Some(4), ..to_backend() }], vec![backend(&[1])]);
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let chunked = "Transfer-Encoding: chunked";
    for (bytes, status) in [
        (post("Content-Length: 4", "abcd"), 200),
        (post("Content-Length: 5", "abcde"), 413),
        (post(chunked, "4\r\nabcd\r\n0\r\n\r\n"), 200),
        (post(chunked, "4\r\nabcd\r\n1\r\ne\r\n0\r\n\r\n"), 413),
        (post("Content-Length: 4", "ab"), 408),
        (post(chunked, "2\r\nab\r\n"), 408),
    ] {
        let text = world.talk(&bytes).await;
        assert_eq!(statuses(&text), [status], "{bytes:?}: {text}");
        assert_eq!(text.contains("connection: close"), status != 200, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_silent_is_504_and_one_that_stops_in_the_middle_ends_the_answer() {
    let (world, limits) = (World::new(), Limits::default().upstream);
    saying(&world, 1, "");
    let began = Instant::now();
    assert_eq!(statuses(&world.talk(GET).await), [504]);
    assert!(began.elapsed() >= limits.idle);
    let idle = Timeouts { idle: Timeout::After(Duration::from_secs(3)), ..Timeouts::default() };
    world.apply(vec![Rule { timeouts: idle, ..to_backend() }], vec![backend(&[1])]);
    saying(&world, 1, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    let began = Instant::now();
    let text = world.talk(GET).await;
    assert!(text.ends_with("\r\n\r\nabc"), "{text}");
    assert_eq!(began.elapsed().as_secs(), 3);
    assert!(world.metrics().contains(r#"reason="backend_timeout""#), "{}", world.metrics());
}

#[tokio::test(start_paused = true)]
async fn times_of_a_rule_are_kept() {
    let world = World::new();
    let seconds = |s| Timeout::After(Duration::from_secs(s));
    let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
    let off = Timeouts { idle: Timeout::Off, ..Timeouts::default() };
    for (timeouts, words, statuses_, took) in [
        (Timeouts { request: seconds(2), ..off }, "", [504], 2),
        (Timeouts { request: seconds(2), ..off }, endless, [200], 2),
        (Timeouts { backend: seconds(3), ..off }, endless, [200], 3),
    ] {
        saying(&world, 1, words);
        let retry = Retry { attempts: 0, ..Retry::default() };
        world.apply(vec![Rule { timeouts, retry, ..to_backend() }], vec![backend(&[1])]);
        let mut client = world.connect(Version::Http1);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let text = read_all(&mut client).await;
        assert_eq!(statuses(&text), statuses_, "{text}");
        assert_eq!(began.elapsed().as_secs(), took, "{timeouts:?}");
        assert!(!text.ends_with("0\r\n\r\n"), "cut short is not whole: {text}");
    }
    // One that was told to answer in 3 s is asked twice more.
    saying(&world, 1, "");
    let timeouts = Timeouts { backend: seconds(3), ..off };
    world.apply(vec![Rule { timeouts, ..to_backend() }], vec![backend(&[1])]);
    let began = Instant::now();
    let mut client = world.connect(Version::Http1);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(statuses(&read_all(&mut client).await), [504]);
    assert_eq!(began.elapsed().as_secs(), 9);
}

/// A long answer to a client that reads slowly, and a long upload: neither is idleness.
#[tokio::test(start_paused = true)]
async fn slow_clients_are_not_idle_backends() {
    let world = World::new();
    world.answering(1, |seen| match seen.body.len() {
        0 => reply("200 OK", &"x".repeat(2_000_000)),
        length => reply("200 OK", &length.to_string()),
    });
    let mut client = world.connect(Version::Http1);
    client
        .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(20)).await; // 200 s in all, more than any time
        client.write_all(b"x").await.unwrap();
    }
    assert!(read_all(&mut client).await.ends_with("\r\n\r\n10"));

    let mut client = world.connect(Version::Http1);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut piece, mut read, began) = (vec![0; 100_000], Vec::new(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(20)).await;
        match client.read(&mut piece).await.unwrap() {
            0 => break,
            n => read.extend_from_slice(&piece[..n]),
        }
    }
    let read = String::from_utf8_lossy(&read);
    assert!(read.len() > 2_000_000, "{} {:.300}", read.len(), read);
    assert!(
        began.elapsed() > Limits::default().upstream.idle * 3,
        "the backend waited for longer than it may be idle"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    let (world, limits) = (World::new(), Limits::default().client);
    world.answering(1, |_| reply("200 OK", &"x".repeat(1_000_000)));
    let mut client = world.connect(Version::Http1);
    client.write_all(GET.as_bytes()).await.unwrap();
    tokio::time::sleep(limits.write * 2).await;
    assert!(world.metrics().contains("signet_http_requests_active 0"), "{}", world.metrics());
    assert!(read_all(&mut client).await.len() < 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn more_connections_than_an_endpoint_may_have_are_refused_before_it_is_asked() {
    let mut limits = Limits::default();
    limits.upstream.connections = 2;
    let world = World::with(limits);
    saying(&world, 1, "");
    let ask = || async {
        let mut client = world.connect(Version::Http1);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        statuses(&read_all(&mut client).await)
    };
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let mut all = [one, two, three].concat();
    all.sort_unstable();
    assert_eq!(all, [503, 504, 504]);
}

/// hyper reads what the guard judged, with a limit of its own.
#[tokio::test(start_paused = true)]
async fn a_head_that_may_be_larger_than_what_is_written_at_once_is_served() {
    let mut limits = Limits::default();
    limits.head.bytes = 512 * 1024;
    let world = World::with(limits);
    world.answering(1, |_| reply("200 OK", ""));
    let mut client = world.connect(Version::Http1);
    let head =
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx: {}\r\n\r\n", "y".repeat(300_000));
    client.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(statuses(&read_all(&mut client).await), [200]);
}
