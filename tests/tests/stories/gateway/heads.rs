//! Heads that are far too large: an answer, an end, and no memory.

use signet_tests::{
    answers::Answers,
    eventually::{SOON, eventually},
    frames::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Raw, block, frame},
    gateway::Edge,
};
use tokio::io::AsyncWriteExt as _;

use super::{mirror, serves};

const HOST: &str = "a.example.com";

#[tokio::test]
async fn heads_of_10_mb_are_431_and_cost_no_memory() {
    let edge = Edge::start(|world, web, network| serves(world, web, network, &[HOST])).await;
    let origin = mirror(&edge.network).await;
    let tls = edge.tls(&[b"http/1.1"]);
    let begin = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n");
    assert_eq!(edge.get(&tls, HOST, HOST, "/").await.0, 200);
    let before = edge.gateway.peak();
    let one = |bytes: String, status: u16| {
        let (edge, tls) = (&edge, &tls);
        async move {
            let tls = edge.dial(tls, HOST).await.unwrap();
            let (read, mut write) = tokio::io::split(tls);
            let mut client = Answers::new(read);
            // It may be cut off in the middle, but not before it was answered.
            let (_, answer) = tokio::join!(write.write_all(bytes.as_bytes()), client.next(false));
            assert_eq!(answer.unwrap().status, status);
            assert_eq!(client.rest().await.unwrap(), b"");
        }
    };
    let each = AT_ONCE / 4;
    let heads = (0..each).flat_map(|_| {
        [
            one(format!("{begin}x: {}\r\n\r\n", "y".repeat(SIZE)), 431),
            one(format!("{begin}{}\r\n", "x: y\r\n".repeat(SIZE / 6)), 431),
            one(format!("{begin}{}", "cookie: y\r\n".repeat(SIZE / 11)), 431), // without an end
            one(format!("GET /{} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", "a".repeat(SIZE)), 414),
        ]
    });
    futures_util::future::join_all(heads).await;
    let cost = edge.gateway.peak() - before;
    assert!(cost < HEAD_COSTS * AT_ONCE as u64, "{AT_ONCE} heads of 10 MB cost {cost} bytes");
    assert_eq!(origin.requests(), 1, "none of them");
    eventually("a line for each", SOON, async || {
        let lines = edge.gateway.accesses();
        let count = |status| lines.iter().filter(|line| line.status == status).count();
        ((count(431), count(414)) == (each * 3, each)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn http2_heads_of_10_mb_and_of_endless_frames_are_refused_and_cost_no_memory() {
    let edge = Edge::start(|world, web, network| serves(world, web, network, &[HOST])).await;
    let origin = mirror(&edge.network).await;
    assert_eq!(edge.get(&edge.tls(&[b"http/1.1"]), HOST, HOST, "/").await.0, 200);
    let before = edge.gateway.peak();
    let request: &[(&[u8], &[u8])] =
        &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", HOST.as_bytes()), (b":path", b"/")];
    let begin = block(request);
    let large = [begin.clone(), block(&[(b"x", &vec![b'y'; SIZE])])].concat();
    let many = [begin.clone(), block(&vec![(&b"x"[..], &b"y"[..]); SIZE / 4])].concat();
    // 4 kB into the table, then a byte for each time that it is meant (HPACK bomb).
    let entry = [&[0x40][..], &block(&[(b"x", &[b'y'; 4000])])[1..]].concat();
    let bomb = [begin.clone(), entry, vec![0x80 | 62; SIZE / 4000]].concat();
    let crumbs = [begin.clone(), [&[0x60][..], b"\x01y"].concat(), vec![0x80 | 62; 60_000]].concat();
    // Each frame is small, and there is no end.
    let endless =
        [frame(HEADERS, END_STREAM, 1, &begin), frame(CONTINUATION, 0, 1, b"").repeat(SIZE / 9)].concat();
    let attacks = [
        ("one field of 10 MB", pieces(&large, PIECE)),
        ("10 MB of fields", pieces(&many, PIECE)),
        ("10 MB of fields in small frames", pieces(&many[..SIZE / 10], 64)),
        ("one field of 4 kB, meant 2 500 times", pieces(&bomb, PIECE)),
        ("a cookie crumb, meant 60 000 times", pieces(&crumbs, PIECE)),
        ("empty frames without end", endless),
    ];
    let one = |name: &'static str, bytes: Vec<u8>| {
        let edge = &edge;
        async move {
            let tls = edge.dial(&edge.tls(&[b"h2"]), HOST).await.unwrap();
            let mut client = Raw::begin(tls).await.unwrap();
            for piece in bytes.chunks(PIECE) {
                client.send(piece).await;
            }
            let heard = client.hear(1).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            let refused = heard.status == Some(431) || heard.reset.is_some() || heard.goaway.is_some();
            assert!(refused && heard.status != Some(200), "{name}: {heard:?}");
        }
    };
    let all = (0..AT_ONCE / 8).flat_map(|_| attacks.iter().map(|(name, bytes)| one(name, bytes.clone())));
    futures_util::future::join_all(all).await;
    let cost = edge.gateway.peak() - before;
    assert!(cost < HEAD_COSTS * AT_ONCE as u64, "{} attacks cost {cost} bytes", AT_ONCE / 8 * attacks.len());
    assert_eq!(origin.requests(), 1, "none of them");

    // The twin: a head of many frames that is not too large.
    let fair: Vec<(&[u8], &[u8])> = [request, &[(&b"x"[..], &[b'y'; 500][..]); 90]].concat();
    let tls = edge.dial(&edge.tls(&[b"h2"]), HOST).await.unwrap();
    let mut client = Raw::begin(tls).await.unwrap();
    client.send(&pieces(&block(&fair), PIECE)).await;
    assert_eq!(client.hear(1).await.unwrap().status, Some(200));
}

/// A head on stream 1 in frames of so many bytes.
fn pieces(block: &[u8], size: usize) -> Vec<u8> {
    let mut frames = Vec::new();
    let count = block.len().div_ceil(size);
    for (n, piece) in block.chunks(size).enumerate() {
        let (kind, end) = if n == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        frames.extend(frame(kind, end | if n + 1 == count { END_HEADERS } else { 0 }, 1, piece));
    }
    frames
}

const SIZE: usize = 10_000_000;
const PIECE: usize = 16 * 1024;
const AT_ONCE: usize = 16;
/// Bytes of memory for one: the head's limit is 64 KiB, and what was read is decrypted and copied.
const HEAD_COSTS: u64 = 1024 * 1024;
