//! What an origin must never see (security-perf.md A1, T14 and T15): every request that it reads is one that we judged and
//! logged.

use super::world::*;
use crate::serve::Version;
use tokio::io::AsyncWriteExt as _;

/// Raw bytes, the statuses that come back, and how many requests the origin saw.
const TABLE: &[(&str, &[u16], usize)] = &[
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200], 1),
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200], 1),
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 200], 2),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[200, 200],
        2,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[200, 200],
        2,
    ),
    // the framing itself
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        &[400],
        0,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        &[400],
        0,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", &[400], 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", &[400], 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400], 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", &[400], 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", &[400], 0),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        &[400],
        0,
    ),
    // lines
    ("GET / HTTP/1.1\nHost: a\n\n", &[400], 0),
    ("GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n", &[400], 0),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", &[400], 0),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rGET /evil HTTP/1.1\r\n\r\n", &[400], 0),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", &[400], 0),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", &[400], 0),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", &[400], 0),
    // host
    ("GET / HTTP/1.1\r\n\r\n", &[400], 0),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400], 0),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", &[200], 1),
    ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", &[400], 0),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", &[400], 0),
    // paths
    ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("GET /a/%2e%2E/x HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &[400], 0),
    // methods
    ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n", &[405], 0),
    ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", &[405], 0),
    ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &[400], 0),
    // a second request that is none
    (
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        &[200, 400],
        1,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcdGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        &[200, 200],
        2,
    ),
    // field values end in nothing but spaces and tabs
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n", &[400], 0),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0cchunked\r\n\r\n0\r\n\r\n", &[400], 0),
    // expectations
    ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", &[417], 0),
];

#[tokio::test(start_paused = true)]
async fn the_origin_sees_the_requests_that_were_judged_and_no_others() {
    for (bytes, expected, count) in TABLE {
        let world = World::new();
        world.answering(1, |_| reply("200 OK", "ok"));
        let text = world.talk(bytes).await;
        assert_eq!(statuses(&text), *expected, "{bytes:?}\n{text}");
        let seen = world.seen();
        assert_eq!(seen.len(), *count, "{bytes:?}: {seen:?}");
        assert!(!seen.iter().any(|s| s.line().contains("evil")), "{bytes:?}: {seen:?}");
        let refused = expected.last().is_some_and(|status| *status >= 400);
        assert_eq!(text.contains("connection: close"), refused, "{bytes:?}\n{text}");
    }
}

/// A body that breaks its framing: the origin has its head, and must learn that the rest will not come.
#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_none_ends_both_connections() {
    for chunk in ["x\r\n", "3\r\nabcd\r\n", "3;\n\r\nabc\r\n", "-1\r\n", "0\r\nContent-Length: 5\r\n\r\n"] {
        let world = World::new();
        world.answering(1, |_| reply("200 OK", "ok"));
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = world.talk(&format!("{head}{chunk}GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(statuses(&text), [400], "{chunk:?}: {text}");
        assert!(world.seen().is_empty(), "{chunk:?}: {:?}", world.seen()); // none was whole
    }
}

#[tokio::test(start_paused = true)]
async fn however_a_head_is_cut_it_is_read_alike() {
    let bytes =
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    for size in 1..bytes.len() {
        let world = World::new();
        world.answering(1, |_| reply("200 OK", "ok"));
        let mut client = world.connect(Version::Look);
        for piece in bytes.as_bytes().chunks(size) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(statuses(&read_all(&mut client).await), [200, 200], "{size}");
        assert_eq!(world.seen()[0].body, "abc");
    }
}

/// The other direction: an origin that ends its answer in two ways is not believed twice.
#[tokio::test(start_paused = true)]
async fn an_answer_with_two_framings_goes_on_with_one() {
    let world = World::new();
    world.answering(1, |_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 100\r\nConnection: x-secret, close\r\nx-secret: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n".into()
    });
    let text = world.talk("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(text.ends_with("2\r\nok\r\n0\r\n\r\n"), "{text}");
    assert!(!text.contains("100") && !text.contains("secret"), "{text}");
}
