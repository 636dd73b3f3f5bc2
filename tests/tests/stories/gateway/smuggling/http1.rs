//! HTTP/1.1 as it is and as it is not: each vector on a TLS connection of its own, byte for byte.

/// A request's begin, and what follows it.
macro_rules! post {
    ($($rest:literal),*) => { concat!("POST ~a HTTP/1.1\r\nHost: {h}\r\n", $($rest),*) };
}
macro_rules! get {
    ($($rest:literal),*) => { concat!("GET ~a HTTP/1.1\r\nHost: {h}\r\n", $($rest),*) };
}
macro_rules! ten {
    ($text:expr) => {
        concat!($text, $text, $text, $text, $text, $text, $text, $text, $text, $text)
    };
}

mod refused;
mod served;

use std::sync::Arc;

use signet_tests::{answers::Answers, gateway::Edge};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::client::TlsStream;

use super::{NAMES, Stage, all, host};

/// What a client sends, and what must become of it. In the bytes `~` is the path of this vector alone, below which all is its,
/// and `{h}` the origin's host.
struct Vector {
    name: &'static str,
    bytes: &'static str,
    /// What the origin sees: method, target behind the vector's path, body. Each is answered with its own method and target.
    passes: &'static [(&'static str, &'static str, &'static str)],
    then: Then,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    /// One answer of this status, and the end.
    Refused(u16),
    /// The end, without a byte.
    Closed,
    /// The connection is good for another request.
    Goes,
}

const fn refused(name: &'static str, bytes: &'static str) -> Vector {
    Vector { name, bytes, passes: &[], then: Then::Refused(400) }
}

const fn served(
    name: &'static str,
    bytes: &'static str,
    passes: &'static [(&'static str, &'static str, &'static str)],
) -> Vector {
    Vector { name, bytes, passes, then: Then::Goes }
}

fn vectors() -> impl Iterator<Item = &'static Vector> {
    refused::VECTORS.iter().chain(served::VECTORS)
}

#[tokio::test]
async fn origins_see_the_http1_requests_that_were_logged_and_no_others_whatever_is_sent() {
    let stage = Arc::new(Stage::set().await);
    let count = vectors().count();
    assert!(refused::VECTORS.len() >= 100 && served::VECTORS.len() >= 40, "they were counted once");
    all(&stage, count, |stage, origin, place| async move {
        let vector = vectors().nth(place).expect("in range");
        vector.is_as_it_should_be(&stage.edge, origin, place).await;
    })
    .await;
    let whole = stage.balances().await;
    for (place, vector) in vectors().enumerate() {
        for origin in NAMES {
            vector.was_seen(&stage, origin, place);
        }
    }
    // Each passed request and each probe once, at each of the three, and nothing else.
    let probes = vectors().filter(|vector| vector.then == Then::Goes).count();
    let expected = vectors().map(|vector| vector.passes.len()).sum::<usize>() + probes;
    assert_eq!(whole, [expected; 3]);
    let refused = vectors().filter(|vector| matches!(vector.then, Then::Refused(_))).count();
    let lines = stage.edge.gateway.accesses();
    assert_eq!(lines.len(), 3 * (expected + refused), "each refusal has its line, too");
    let by_us = lines.iter().filter(|line| line.reason != "ok" && (400..=417).contains(&line.status)).count();
    assert_eq!(by_us, 3 * refused);
}

/// Of one vector; no other's begins with it.
fn path(place: usize) -> String {
    format!("/t{place}.")
}

impl Vector {
    async fn is_as_it_should_be(&self, edge: &Edge, origin: &str, place: usize) {
        let (host, path) = (host(origin), path(place));
        let bytes = self.bytes.replace('~', &path).replace("{h}", &host);
        let tls = edge.dial(&edge.tls(&[b"http/1.1"]), &host).await.expect("a handshake");
        let mut client = Answers::new(tls);
        let _ = client.stream.write_all(bytes.as_bytes()).await; // it may be refused in the middle
        let words = format!("{origin}, {}", self.name);
        for (method, target, _) in self.passes {
            self.answers(&mut client, method, &format!("{path}{target}"), &words).await;
        }
        match self.then {
            Then::Refused(status) => {
                let answer = client.next(false).await.unwrap_or_else(|e| panic!("{words}: {e}"));
                assert_eq!(answer.status, status, "{words}: {answer:?}");
                let text = String::from_utf8_lossy(&answer.body);
                assert!(text.starts_with(&status.to_string()), "our own words: {words}: {text}");
                assert!(answer.head.contains("connection: close"), "{words}: {answer:?}");
                assert_eq!(client.rest().await.expect("closed"), b"", "{words}");
            }
            Then::Closed => assert_eq!(client.rest().await.expect("closed"), b"", "{words}"),
            Then::Goes => {
                let probe = format!("GET {path}probe HTTP/1.1\r\nhost: {host}\r\n\r\n");
                client.stream.write_all(probe.as_bytes()).await.expect("an open connection");
                self.answers(&mut client, "GET", &format!("{path}probe"), &words).await;
            }
        }
    }

    /// The next answer is the origin's, and to this request.
    async fn answers(
        &self,
        client: &mut Answers<TlsStream<TcpStream>>,
        method: &str,
        target: &str,
        words: &str,
    ) {
        let answer = client.next(method == "HEAD").await.unwrap_or_else(|e| panic!("{words}: {e}"));
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 200, "{words}: {answer:?} {text}");
        assert!(method == "HEAD" || text == format!("{method} {target}"), "{words}: {text} for {target}");
    }

    fn was_seen(&self, stage: &Stage, origin: &str, place: usize) {
        let (name, path) = (self.name, path(place));
        let seen = stage.seen_below(origin, &path);
        let whole = seen.iter().filter(|seen| seen.whole && !seen.target.ends_with("probe"));
        let whole: Vec<(&str, &str, &str)> =
            whole.map(|seen| (&*seen.method, &seen.target[path.len()..], &*seen.body)).collect();
        assert_eq!(whole, self.passes, "{origin}, {name}: {seen:?}");
    }
}
