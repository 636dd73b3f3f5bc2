//! What a certificate authority asks for is answered before the host's own rules, and nothing else is taken from them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::io::AsyncWriteExt as _;

use super::world::*;
use crate::{arrival::Arrival, model::*, serve::Version};

const TOKEN: &str = "t0-ken_A";
const ANSWER: &str = "t0-ken_A.thumb-print";
const PATH: &str = "/.well-known/acme-challenge/t0-ken_A";

fn challenge(host: &str) -> Arc<Http01> {
    Arc::new(Http01::new(host.parse().unwrap(), TOKEN, ANSWER).unwrap())
}

/// Challenges for a.test, whose plaintext is answered with `unready` or sent to HTTPS, and for nobody.test, which has no route. All
/// other requests for `*.test` are answered 204.
fn challenged(unready: Option<Respond>) -> Snapshot {
    let rules = vec![Rule::new(Action::Respond(Respond::status(StatusCode::NO_CONTENT)))];
    let mut snapshot = snapshot(rules, vec![]);
    let hosts = ["a.test", "sub.a.test", "b.test"].map(|host| HostPattern::ingress(Some(host)).unwrap());
    snapshot.routes = vec![Arc::new(Route { hosts: hosts.to_vec(), ..(*snapshot.routes[0]).clone() })];
    let host = HostPattern::ingress(Some("a.test")).unwrap();
    Snapshot {
        https_hosts: vec![HttpsHost { host, port: 443, unready }],
        challenges: vec![challenge("a.test"), challenge("nobody.test")],
        ..snapshot
    }
}

fn ask(method: &str, host: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn unready() -> Option<Respond> {
    let retry_after = Some(Duration::from_secs(10));
    Some(Respond { retry_after, ..Respond::status(StatusCode::SERVICE_UNAVAILABLE) })
}

#[tokio::test(start_paused = true)]
async fn a_challenge_is_answered_for_its_host_before_redirects_503_and_routes() {
    let world = World::new();
    for snapshot in [challenged(None), challenged(unready())] {
        let other = if snapshot.https_hosts[0].unready.is_some() { 503 } else { 308 };
        world.apply_snapshot(snapshot);
        assert_eq!(statuses(&world.talk(&ask("GET", "a.test", "/")).await), [other]);
        for host in ["a.test", "A.TEST", "a.test:80", "a.test.", "nobody.test"] {
            let text = world.talk(&ask("GET", host, PATH)).await;
            assert!(statuses(&text) == [200] && text.ends_with(&format!("\r\n\r\n{ANSWER}")), "{text}");
            for field in
                ["content-type: application/octet-stream", "cache-control: no-store", "content-length: 20"]
            {
                assert!(text.contains(&format!("{field}\r\n")), "{text}");
            }
            let head = world.talk(&ask("HEAD", host, PATH)).await;
            assert!(statuses(&head) == [200] && head.ends_with("\r\n\r\n"), "{head}");
            assert!(head.contains("content-length: 20\r\n"), "{head}");
        }
    }
    let metrics = world.metrics();
    let series = r#"signet_http_requests_total{host="other",status="2xx",reason="acme_challenge"} 20"#;
    assert!(metrics.contains(series), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn on_https_it_is_answered_on_a_connection_of_another_certificate_too() {
    let world = World::new();
    world.apply_snapshot(challenged(None));
    let arrival = Arrival {
        scheme: Scheme::Https,
        sni: Some("b.test".into()),
        covers: Some(Arc::new(|host| host == "b.test")),
        ..arrival()
    };
    let mut client = world.connect_as(arrival, Version::Http1);
    let asked = [ask("GET", "a.test", "/"), ask("GET", "a.test", PATH)].concat();
    client.write_all(asked.as_bytes()).await.unwrap();
    let text = read_all(&mut client).await;
    assert!(statuses(&text) == [421, 200] && text.ends_with(ANSWER), "{text}");
}

#[tokio::test(start_paused = true)]
async fn http2_asks_alike_and_a_head_has_no_body() {
    let world = World::new();
    world.apply_snapshot(challenged(None));
    let (mut sender, connection) = h2::client::handshake(world.connect(Version::Look)).await.unwrap();
    world.drain.spawn(async move { drop(connection.await) });
    for (method, path, status, length) in [
        (Method::GET, PATH, 200, ANSWER.len()),
        (Method::HEAD, PATH, 200, 0),
        (Method::HEAD, "/none", 404, 0),
    ] {
        let host = if status == 200 { "a.test" } else { "nobody.test" };
        let request = Request::builder().method(method.clone()).uri(format!("http://{host}{path}"));
        let (response, _): (_, h2::SendStream<Bytes>) =
            sender.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        let (mut body, mut bytes) = (response.into_body(), 0);
        while let Some(data) = body.data().await {
            bytes += data.unwrap().len();
        }
        assert_eq!(bytes, length, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_spelling_host_method_or_token_goes_its_ordinary_way() {
    let world = World::new();
    let mut snapshot = challenged(None);
    snapshot.https_hosts.clear();
    world.apply_snapshot(snapshot);
    let below = |rest: &str| format!("/.well-known/acme-challenge/{rest}");
    let paths = [
        below("t0-ken_A/"),
        below("t0-ken_A?"),
        below("t0-ken_A?x=y"),
        below("t0-ken_A;x"),
        below("/t0-ken_A"),
        below("%740-ken_A"),
        below("t0%2Dken_A"),
        below("t0-ken%5fA"),
        below("T0-KEN_A"),
        below("t0-ken_"),
        below("t0-ken_AA"),
        below("t0-ken_A.thumb-print"),
        below("other"),
        below(""),
        "/.well-known/acme-challenge".into(),
        format!("/{PATH}"),
        PATH.replace("/acme", "//acme"),
        PATH.replace(".well", "%2ewell"),
        PATH.replace("acme", "ACME"),
        format!("/x{PATH}"),
    ];
    for path in &paths {
        let text = world.talk(&ask("GET", "a.test", path)).await;
        assert!(statuses(&text) == [204] && !text.contains("thumb"), "{path}: {text}");
    }
    for path in
        ["x/../t0-ken_A", "./t0-ken_A", "%2e%2e/acme-challenge/t0-ken_A", "t0-ken_A%00", "x%2ft0-ken_A"]
    {
        let text = world.talk(&ask("GET", "a.test", &below(path))).await;
        assert!(statuses(&text) == [400] && !text.contains("thumb"), "{path}: {text}");
    }
    for (method, status) in [("POST", 204), ("PUT", 204), ("OPTIONS", 204), ("get", 204), ("TRACE", 405)] {
        let text = world.talk(&ask(method, "a.test", PATH)).await;
        assert!(statuses(&text) == [status] && !text.contains("thumb"), "{method}: {text}");
    }
    for (host, status) in [("b.test", 204), ("sub.a.test", 204), ("test", 404), ("xa.test", 404)] {
        let text = world.talk(&ask("GET", host, PATH)).await;
        assert!(statuses(&text) == [status] && !text.contains("thumb"), "{host}: {text}");
    }
    let gone = Snapshot { challenges: vec![], ..challenged(None) };
    world.apply_snapshot(gone);
    assert_eq!(statuses(&world.talk(&ask("GET", "nobody.test", PATH)).await), [404], "taken back");
}
