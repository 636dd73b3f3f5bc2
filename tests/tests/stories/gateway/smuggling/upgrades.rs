//! A request for another protocol that the origin grants: the tunnel is the client's alone, and what came before it is nobody's.

use signet_tests::answers::Answers;
use tokio::io::AsyncWriteExt as _;

use super::Stage;

const HOST: &str = "node.example.com";

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
}

#[tokio::test]
async fn a_second_request_behind_an_upgrade_that_is_granted_reaches_nobody_and_nothing_is_reused() {
    let stage = Stage::set().await;
    let edge = &stage.edge;
    let tls = edge.tls(&[b"http/1.1"]);
    let connect = async || Answers::new(edge.dial(&tls, HOST).await.expect("a handshake"));

    let mut granted = connect().await;
    granted.stream.write_all(ask("/one/switch").as_bytes()).await.unwrap();
    assert_eq!(granted.next(false).await.unwrap().status, 101);
    let words = format!("GET /one/evil HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    granted.stream.write_all(words.as_bytes()).await.unwrap();
    assert_eq!(granted.take(words.len()).await.unwrap(), words.as_bytes(), "an echo, no answer");

    // Behind a request whose answer is 101, in the same write.
    for second in [format!("GET /two/evil HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), "\0\u{1}binary".into()] {
        let mut early = connect().await;
        early.stream.write_all((ask("/two/switch") + &second).as_bytes()).await.unwrap();
        let rest = early.rest().await.expect("closed");
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 101 "), "{rest}");
        assert_eq!(rest.matches("HTTP/").count(), rest.len().min(1), "no second answer, no echo: {rest}");
        assert!(!rest.contains("evil") && !rest.contains("binary"), "{rest}");
    }

    // Others on connections of their own meanwhile, and the tunnel goes on.
    let mut other = connect().await;
    for n in 0..10 {
        let words = format!("GET /three/{n} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        other.stream.write_all(words.as_bytes()).await.unwrap();
        let answer = other.next(false).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.body), format!("GET /three/{n}"));
    }
    granted.stream.write_all(b"still").await.unwrap();
    assert_eq!(granted.take(5).await.unwrap(), b"still");
    granted.stream.shutdown().await.unwrap();
    assert_eq!(granted.rest().await.unwrap(), b"");

    let seen = stage.seen_below("node", "/");
    assert!(seen.iter().all(|seen| !seen.target.contains("evil") && seen.body.is_empty()), "{seen:?}");
    assert_eq!(seen.len(), 1 + 2 + 10, "{seen:?}");
    let early = edge.gateway.accesses().into_iter().filter(|access| access.path == "/two/switch");
    let reasons: Vec<String> = early.map(|access| access.reason).collect();
    assert_eq!(reasons, ["bad_framing", "bad_framing"]);
}
