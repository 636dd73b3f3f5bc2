//! What is tried again, where, how often, and what is not.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;

use super::world::*;
use crate::{limits::Limits, model::*};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_no_connection_is_passed_by_whatever_the_method() {
    let world = World::new();
    world.answering(2, |_| reply("200 OK", ""));
    world.apply(vec![to_backend()], vec![backend(&[1, 2])]);
    for request in [GET, POST] {
        let text = world.talk(&request.repeat(20)).await;
        assert_eq!(statuses(&text), [200; 20]);
    }
    assert!(world.seen().iter().filter(|s| s.line().starts_with("POST")).all(|s| s.body == "hi"));
    world.apply(vec![to_backend()], vec![backend(&[1])]);
    assert_eq!(statuses(&world.talk(GET).await), [502]);
}

#[tokio::test(start_paused = true)]
async fn what_a_backend_may_have_seen_is_sent_again_only_if_that_is_harmless() {
    let world = World::new();
    world.answering(1, |_| String::new()); // reads, and hangs up
    world.answering(2, |_| reply("200 OK", ""));
    world.apply(vec![to_backend()], vec![backend(&[1, 2])]);
    for _ in 0..20 {
        assert_eq!(statuses(&world.talk(GET).await), [200]);
    }
    world.apply(vec![to_backend()], vec![backend(&[1])]);
    for _ in 0..5 {
        assert_eq!(
            statuses(&world.talk("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await),
            [502]
        );
    }
    assert_eq!(world.seen().iter().filter(|s| s.line().starts_with("POST")).count(), 5, "each was seen once");
}

/// nginx would call it "upstream prematurely closed": the origin closed its idle connection as we used it again.
#[tokio::test(start_paused = true)]
async fn a_pooled_connection_that_was_closed_meanwhile_costs_no_request() {
    let world = World::new();
    world.put(
        1,
        Arc::new(|stream| {
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                reader.request().await.unwrap();
                use tokio::io::AsyncWriteExt as _;
                reader.stream.write_all(reply("200 OK", "").as_bytes()).await.unwrap();
                // and closes without a word
            })
        }),
    );
    for request in [GET, POST] {
        assert_eq!(statuses(&world.talk(&request.repeat(5)).await), [200; 5]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pooled_connection_is_not_used_under_another_certificate_nor_when_it_is_old() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", ""));
    let dials = || world.origins.dials.load(Relaxed);
    world.talk(GET).await; // ends after the idle time, and so does what it pooled
    world.talk(GET).await;
    assert_eq!(dials(), 2);
    use tokio::io::AsyncWriteExt as _;
    let mut client = Reader::new(world.connect(crate::serve::Version::Http1));
    for (generation, expected) in [(0, 3), (0, 3), (1, 4), (1, 4)] {
        world.origins.generation.store(generation, Relaxed);
        client.stream.write_all(GET.as_bytes()).await.unwrap();
        client.until("\r\n\r\n").await.unwrap();
        assert_eq!(dials(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_is_tried_again_elsewhere_if_the_rule_says_so() {
    let world = World::new();
    world.answering(1, |_| reply("503 Service Unavailable", "busy"));
    world.answering(2, |_| reply("200 OK", "good"));
    let retry = Retry { statuses: Arc::new([StatusCode::SERVICE_UNAVAILABLE]), ..Retry::default() };
    world.apply(vec![Rule { retry, ..to_backend() }], vec![backend(&[1, 2])]);
    for _ in 0..20 {
        assert_eq!(statuses(&world.talk(GET).await), [200]);
    }
    world.apply(vec![to_backend()], vec![backend(&[1])]);
    assert!(world.talk(GET).await.ends_with("busy"));
}

#[tokio::test(start_paused = true)]
async fn when_everything_fails_the_budget_keeps_the_load_of_a_backend_near_what_it_was() {
    let world = World::new();
    world.answering(1, |_| String::new());
    let retry = Retry { attempts: 5, backoff: Duration::ZERO, ..Retry::default() };
    world.apply(vec![Rule { retry, ..to_backend() }], vec![backend(&[1])]);
    let budget = Limits::default().upstream;
    let mut clients = Vec::new();
    for _ in 0..500 {
        use tokio::io::AsyncWriteExt as _;
        let mut client = world.connect(crate::serve::Version::Http1);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(statuses(&read_all(&mut client).await), [502]);
    }
    let most = 500 + 500 * budget.retry_percent / 100 + budget.retries_per_second + 1;
    assert!(world.seen().len() <= most as usize, "{} <= {most}", world.seen().len());
    assert!(
        world.metrics().contains(r#"signet_http_retries_total{reason="no_budget"}"#),
        "{}",
        world.metrics()
    );
}
