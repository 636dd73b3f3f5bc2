//! HTTP/2 frames that no library would send, towards origins that speak HTTP/1.1: what would be another request there, or no
//! request, is none here (RFC 9113 8.1 to 8.5, 10.3).

mod vectors;

use std::sync::Arc;

use signet_tests::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Heard, Raw, block, frame};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{NAMES, Stage, all, host};

type Field = (&'static [u8], &'static [u8]);

/// One stream's frames. `~` in a field is the vector's own path, `{h}` the origin's host.
struct Vector {
    name: &'static str,
    fields: &'static [Field],
    /// Empty: the head ends the stream.
    body: &'static [Piece],
    served: bool,
}

enum Piece {
    Data(&'static str),
    Trailers(&'static [Field]),
}

#[tokio::test]
async fn origins_see_the_http2_requests_that_were_logged_and_no_others_whatever_the_frames_say() {
    let stage = Arc::new(Stage::set().await);
    let (bad, good) = (vectors::REFUSED.len(), vectors::SERVED.len());
    assert!(bad >= 60 && good >= 10, "they were counted once: {bad}, {good}");
    all(&stage, bad + good, |stage, origin, place| async move {
        at(place).is_as_it_should_be(&stage, origin, place).await;
    })
    .await;
    stage.balances().await;
    for place in 0..bad + good {
        for origin in NAMES {
            at(place).was_seen(&stage, origin, place);
        }
    }
}

fn at(place: usize) -> &'static Vector {
    vectors::REFUSED.iter().chain(vectors::SERVED).nth(place).expect("in range")
}

fn path(place: usize) -> String {
    format!("/t{place}.")
}

fn filled(bytes: &[u8], origin: &str, place: usize) -> Vec<u8> {
    // Bytes that are no UTF-8 have neither of the two in them.
    match std::str::from_utf8(bytes) {
        Ok(text) => text.replace('~', &path(place)).replace("{h}", &host(origin)).into_bytes(),
        Err(_) => bytes.to_vec(),
    }
}

impl Vector {
    fn block(fields: &[Field], origin: &str, place: usize) -> Vec<u8> {
        let fields: Vec<(Vec<u8>, Vec<u8>)> = fields
            .iter()
            .map(|(name, value)| (filled(name, origin, place), filled(value, origin, place)))
            .collect();
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        block(&fields)
    }

    /// All frames, on stream 1.
    fn frames(&self, origin: &str, place: usize) -> Vec<u8> {
        let end = |last: bool| if last { END_STREAM } else { 0 };
        let head = Self::block(self.fields, origin, place);
        let mut frames = frame(HEADERS, END_HEADERS | end(self.body.is_empty()), 1, &head);
        for (n, piece) in self.body.iter().enumerate() {
            let flags = end(n + 1 == self.body.len());
            frames.extend(match piece {
                Piece::Data(text) => frame(DATA, flags, 1, text.as_bytes()),
                Piece::Trailers(fields) => {
                    frame(HEADERS, END_HEADERS | flags, 1, &Self::block(fields, origin, place))
                }
            });
        }
        frames
    }

    async fn is_as_it_should_be(&self, stage: &Stage, origin: &str, place: usize) {
        let words = format!("{origin}, {}", self.name);
        let edge = &stage.edge;
        let tls = edge.dial(&edge.tls(&[b"h2"]), &host(origin)).await.expect("a handshake");
        let mut client = Raw::begin(tls).await.expect("a preface");
        client.send(&self.frames(origin, place)).await;
        let heard = client.hear(1).await.unwrap_or_else(|e| panic!("{words}: {e}"));
        if self.served {
            assert_eq!((heard.status, heard.reset), (Some(200), None), "{words}: {heard:?}");
            let text = String::from_utf8_lossy(&heard.body);
            assert!(text.contains(&path(place)), "{words}: {text}");
        } else {
            let refused = heard.reset.is_some()
                || heard.goaway.is_some_and(|code| code != 0)
                || matches!(heard.status, Some(400 | 405 | 417));
            assert!(refused, "{words}: {heard:?}");
        }
        if heard.goaway.is_none() {
            probe(&mut client, origin, place, &words).await;
        }
    }

    /// What came whole to the origin: one request and no other, or none.
    fn was_seen(&self, stage: &Stage, origin: &str, place: usize) {
        let seen = stage.seen_below(origin, &path(place));
        let whole = seen.iter().filter(|seen| seen.whole && !seen.target.ends_with("probe"));
        let whole: Vec<(&str, &str)> =
            whole.map(|seen| (&seen.target[path(place).len()..], &*seen.body)).collect();
        let body: String =
            self.body.iter().map(|piece| if let Piece::Data(text) = piece { text } else { "" }).collect();
        match self.served {
            true => assert_eq!(whole, [("a", &*body)], "{origin}, {}", self.name),
            false => assert_eq!(whole, [], "{origin}, {}", self.name),
        }
    }
}

/// The connection's other streams do not suffer.
async fn probe(client: &mut Raw<TlsStream<TcpStream>>, origin: &str, place: usize, words: &str) {
    let fields: &[Field] =
        &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"{h}"), (b":path", b"~probe")];
    let head = Vector::block(fields, origin, place);
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &head)).await;
    let heard: Heard = client.hear(3).await.unwrap_or_else(|e| panic!("{words}, probe: {e}"));
    let text = String::from_utf8_lossy(&heard.body);
    let is_own = heard.status == Some(200) && text == format!("GET {}probe", path(place));
    assert!(is_own || heard.goaway.is_some_and(|code| code != 0), "{words}, probe: {heard:?}");
}
