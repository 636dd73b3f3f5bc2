//! HTTP/2 at either end: gRPC and its trailers, the two versions mixed, refused streams, and clients that ask for more than
//! they take.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::*;
use crate::{
    limits::Limits,
    model::{Rule, Timeout, Timeouts},
    serve::Version,
};

/// A client of its own connection.
async fn client(world: &World) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(1 << 30); // a client's own patience with itself is not what is tested
    let (sender, connection) = builder.handshake(world.connect(Version::Look)).await.unwrap();
    world.drain.spawn(async move { drop(connection.await) });
    sender
}

fn post(path: &str) -> Request<()> {
    let uri = format!("http://a.test{path}");
    Request::builder().method(Method::POST).uri(uri).header("te", "trailers").body(()).unwrap()
}

async fn whole(response: Response<h2::RecvStream>) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    (bytes, body.trailers().await.unwrap())
}

/// An HTTP/2 origin at `n` that echoes each body as it comes and ends it with trailers; the first `refuse` streams are refused.
fn echoing(world: &World, n: u16, refuse: usize) {
    let refused = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (origins, drain) = (Arc::downgrade(&world.origins), world.drain.clone());
    world.put(
        n,
        Arc::new(move |stream| {
            let (origins, drain, refused) = (origins.clone(), drain.clone(), Arc::clone(&refused));
            Box::pin(async move {
                // Its own budget is not what is tested.
                let mut builder = h2::server::Builder::new();
                let mut connection = builder.data_frame_budget(1 << 30).handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if refused.fetch_add(1, Relaxed) < refuse {
                        respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    }
                    let (parts, mut body) = request.into_parts();
                    let head =
                        format!("{} {} {:?}\n{:?}", parts.method, parts.uri, parts.version, parts.headers);
                    origins.upgrade().unwrap().seen.lock().unwrap().push(Seen { head, body: String::new() });
                    drain.spawn(async move {
                        let mut send = respond.send_response(Response::new(()), false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            let mut data = data;
                            while !data.is_empty() {
                                send.reserve_capacity(data.len());
                                let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else {
                                    return;
                                };
                                send.send_data(data.split_to(room.min(data.len())), false).unwrap();
                            }
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        let _ = send.send_trailers(trailers);
                    });
                }
            })
        }),
    );
}

#[tokio::test(start_paused = true)]
async fn grpc_streams_both_ways_and_its_trailers_arrive() {
    let world = World::new();
    echoing(&world, 1, 0);
    world.apply(vec![to_backend()], vec![h2_backend(&[1])]);
    let mut sender = client(&world).await;
    let (response, mut up) = sender.send_request(post("/pkg.Service/Chat"), false).unwrap();
    up.send_data("one".into(), false).unwrap();
    let response = response.await.unwrap(); // before the request has ended
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one");
    up.send_data("two".into(), true).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "two");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    let seen = &world.seen()[0].head;
    assert!(seen.starts_with("POST http://a.test/pkg.Service/Chat HTTP/2.0"), "{seen}");
    assert!(seen.contains(r#""te": "trailers""#), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn many_requests_share_a_connection_to_the_backend() {
    let world = World::new();
    echoing(&world, 1, 0);
    world.apply(vec![to_backend()], vec![h2_backend(&[1])]);
    let sender = client(&world).await;
    let mut all = Vec::new();
    for n in 0..50 {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, mut up) = sender.send_request(post("/"), false).unwrap();
        up.send_data(n.to_string().into(), true).unwrap();
        all.push((n, response));
    }
    for (n, response) in all {
        assert_eq!(whole(response.await.unwrap()).await.0, n.to_string().as_bytes());
    }
    assert_eq!(world.origins.dials.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn large_bodies_pass_windows_that_are_smaller() {
    let world = World::new();
    echoing(&world, 1, 0);
    world.apply(vec![to_backend()], vec![h2_backend(&[1])]);
    let mut sender = client(&world).await;
    let (response, mut up) = sender.send_request(post("/"), false).unwrap();
    let sent = Bytes::from(vec![b'x'; 3_000_000]);
    let (mut left, expected) = (sent.clone(), sent.len());
    let uploading = async {
        while !left.is_empty() {
            up.reserve_capacity(left.len());
            let room = poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
            up.send_data(left.split_to(room.min(left.len())), false).unwrap();
        }
        up.send_data(Bytes::new(), true).unwrap();
    };
    let ((), (bytes, _)) = tokio::join!(uploading, async { whole(response.await.unwrap()).await });
    assert_eq!(bytes.len(), expected);
}

#[tokio::test(start_paused = true)]
async fn http2_becomes_http1_with_one_cookie_and_a_framing() {
    let world = World::new();
    world.answering(1, |seen| reply("200 OK", &seen.body));
    let mut sender = client(&world).await;
    let mut request = post("/x?y");
    for crumb in ["a=1", "b=2"] {
        request.headers_mut().append("cookie", HeaderValue::from_static(crumb));
    }
    let (response, mut up) = sender.send_request(request, false).unwrap();
    up.send_data("hi".into(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-length"], "2");
    assert_eq!(whole(response).await.0, b"hi");
    let seen = &world.seen()[0];
    assert_eq!(seen.line(), "POST /x?y HTTP/1.1");
    assert_eq!((seen.field("host"), seen.field("cookie")), (Some("a.test"), Some("a=1; b=2")));
    assert_eq!((seen.field("transfer-encoding"), &*seen.body), (Some("chunked"), "hi"));
}

#[tokio::test(start_paused = true)]
async fn http1_becomes_http2() {
    let world = World::new();
    echoing(&world, 1, 0);
    world.apply(vec![to_backend()], vec![h2_backend(&[1])]);
    let text = world
        .talk("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nPOST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nho")
        .await;
    assert_eq!(statuses(&text), [200, 200], "{text}");
    assert!(text.contains("hi\r\n") && text.contains("ho\r\n"), "{text}");
    assert!(
        world.seen().iter().all(|s| !s.head.contains("transfer-encoding") && !s.head.contains("\"host\""))
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_goes_elsewhere_whatever_its_method() {
    let world = World::new();
    echoing(&world, 1, 1);
    echoing(&world, 2, 1);
    world.apply(vec![to_backend()], vec![h2_backend(&[1, 2])]);
    let mut sender = client(&world).await;
    let (response, _) = sender.send_request(post("/"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(world.seen().len(), 1);
}

/// What HTTP/1 could not say, HTTP/2 must not: each of these is refused, and the origin hears nothing.
#[tokio::test(start_paused = true)]
async fn fields_that_would_be_another_request_in_http1_are_refused() {
    let world = World::new();
    world.answering(1, |_| reply("200 OK", ""));
    let odd = |change: &dyn Fn(&mut Request<()>)| {
        let mut request = post("/");
        change(&mut request);
        request
    };
    let field = |name: &'static str, value: &'static str| {
        odd(&|r| {
            r.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
        })
    };
    for (request, status) in [
        (field("host", "b.test"), 400),
        (field("content-length", "+1"), 400),
        (field("expect", "x"), 417),
        (post("/a/../b"), 400),
        (post("/a%2f..%2fb"), 400),
        (odd(&|r| *r.method_mut() = Method::TRACE), 405),
        (odd(&|r| (0..101).for_each(|n| assert!(r.headers_mut().append("x", n.into()) || n == 0))), 431),
        (odd(&|r| (0..300).for_each(|n| assert!(r.headers_mut().append("cookie", n.into()) || n == 0))), 431),
    ] {
        let shown = format!("{request:?}");
        let mut sender = client(&world).await;
        match sender.send_request(request, true).unwrap().0.await {
            Ok(response) => assert_eq!(response.status(), status, "{shown}"),
            Err(e) => assert!(e.is_reset() && status == 400, "{shown}: {e}"), // h2 itself saw it
        }
    }
    assert!(world.seen().is_empty(), "{:?}", world.seen());
}

/// Bytes on the wire that no client library would send. The first is the twin that is a request.
#[tokio::test(start_paused = true)]
async fn raw_frames_with_line_ends_in_fields_never_become_a_request() {
    for (name, value) in [
        (&b"x-a"[..], &b"b"[..]),
        (b"x-a", b"b\r\nx-evil: 1"),
        (b"x-a", b"b\nc"),
        (b"x-a", b"b\0c"),
        (b"x-a\r\nx-evil", b"1"),
        (b"X-Upper", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b":path", b"/evil HTTP/1.1\r\nhost: evil\r\n\r\n"),
    ] {
        let world = World::new();
        world.answering(1, |_| reply("200 OK", ""));
        let mut block = vec![0x82, 0x86]; // :method GET, :scheme http
        let mut literal = |name: &[u8], value: &[u8]| {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text);
            }
        };
        if name != b":path" {
            literal(b":path", b"/");
        }
        literal(b":authority", b"a");
        literal(name, value);
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
        bytes.extend(block);
        let mut client = world.connect(Version::Http2);
        client.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        let (said, seen) = (on_stream_1(&answer), world.seen());
        if value == b"b" {
            assert_eq!((said, seen.len()), (Said::Answered(0x88), 1), "{seen:?}");
        } else {
            assert!(matches!(said, Said::Reset | Said::Gone | Said::Answered(0x8c)), "{name:?}: {said:?}");
            assert!(seen.is_empty(), "{name:?}: {seen:?}");
        }
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Said {
    Nothing,
    Reset,
    /// The connection is over, by GOAWAY.
    Gone,
    /// The first byte of its field block: 0x88 is 200, 0x8c is 400.
    Answered(u8),
}

/// The first that was said on stream 1.
fn on_stream_1(mut frames: &[u8]) -> Said {
    while let [a, b, c, kind, _, 0, 0, 0, stream, rest @ ..] = frames {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        match (stream, kind) {
            (1, 1) => return Said::Answered(rest[0]),
            (1, 3) => return Said::Reset,
            (0, 7) if rest[4..8] != [0; 4] => return Said::Gone,
            _ => frames = &rest[length..],
        }
    }
    Said::Nothing
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_takes_its_request_back() {
    let world = World::new();
    let (gone, heard) = tokio::sync::oneshot::channel::<()>();
    let gone = std::sync::Mutex::new(Some(gone));
    let (arrived, arrives) = tokio::sync::oneshot::channel();
    let arrived = std::sync::Mutex::new(Some(arrived));
    world.put(
        1,
        Arc::new(move |stream| {
            let (gone, arrived) = (gone.lock().unwrap().take(), arrived.lock().unwrap().take());
            Box::pin(async move {
                let mut reader = Reader::new(stream);
                reader.request().await.unwrap();
                let _ = arrived.unwrap().send(());
                let _ = reader.take(1).await;
                drop(gone);
            })
        }),
    );
    let mut sender = client(&world).await;
    let (response, mut up) = sender.send_request(post("/"), true).unwrap();
    arrives.await.unwrap();
    up.send_reset(Reason::CANCEL);
    drop(response);
    assert!(tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_time_is_over_stops_its_upload() {
    let world = World::new();
    let (told, hears) = tokio::sync::oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    world.put(
        1,
        Arc::new(move |stream| {
            let told = told.lock().unwrap().take();
            Box::pin(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (request, _respond) = connection.accept().await.unwrap().unwrap();
                let mut body = request.into_body();
                let ended = async {
                    while let Some(Ok(_)) = body.data().await {}
                    body.is_end_stream()
                };
                tokio::select! {
                    whole = ended => drop(told.unwrap().send(whole)),
                    _ = connection.accept() => {}
                }
            })
        }),
    );
    let timeouts = Timeouts { request: Timeout::After(Duration::from_secs(2)), ..Timeouts::default() };
    world.apply(vec![Rule { timeouts, ..to_backend() }], vec![h2_backend(&[1])]);
    let mut sender = client(&world).await;
    let (response, mut up) = sender.send_request(post("/"), false).unwrap();
    up.send_data("some".into(), false).unwrap();
    assert_eq!(response.await.unwrap().status(), 504);
    let over = tokio::time::Instant::now();
    assert!(!hears.await.unwrap(), "a body cut short is not whole");
    assert!(over.elapsed() < Duration::from_secs(1), "{:?}", over.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resets_all_that_it_asks_for_is_sent_away() {
    let mut limits = Limits::default();
    (limits.h2.resets, limits.h2.resets_per_second) = (20, 0);
    let world = World::with(limits);
    world.put(1, Arc::new(|stream| Box::pin(async move { drop(Reader::new(stream).until("never").await) })));
    let mut sender = client(&world).await;
    for n in 0..200 {
        let Ok(mut ready) = sender.clone().ready().await else {
            assert!(n > 20, "{n}");
            return;
        };
        let Ok((response, mut up)) = ready.send_request(post("/"), true) else {
            assert!(n > 20, "{n}");
            return;
        };
        tokio::time::sleep(Duration::from_millis(1)).await;
        up.send_reset(Reason::CANCEL);
        drop(response);
        tokio::time::sleep(Duration::from_millis(1)).await;
        sender = ready;
    }
    panic!("200 resets");
}

/// The h2 crate counts small frames that wait, and ends the connection by default after 2 000.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_small_messages_does_not_end_its_neighbours() {
    let world = World::new();
    echoing(&world, 1, 0);
    world.apply(vec![to_backend()], vec![h2_backend(&[1])]);
    let slow = client(&world).await;
    let mut quick = client(&world).await;
    let (response, mut neighbour) = quick.send_request(post("/quick"), false).unwrap();
    let answered = response.await.unwrap();
    let (response, mut up) = slow.ready().await.unwrap().send_request(post("/slow"), false).unwrap();
    let unread = response.await.unwrap();
    for _ in 0..40_000 {
        // 13 000 fill the client's window, the rest waits unread on the connection to the backend
        up.reserve_capacity(5);
        let room = tokio::time::timeout(Duration::from_secs(1), poll_fn(|cx| up.poll_capacity(cx))).await;
        if room.is_err() {
            break; // held back, as it should be
        }
        up.send_data("small".into(), false).unwrap();
    }
    neighbour.send_data("hi".into(), true).unwrap();
    assert_eq!(whole(answered).await.0, b"hi");
    assert_eq!(world.origins.dials.load(Relaxed), 1);
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_told_to_go() {
    let world = World::new();
    let (_sender, connection) = h2::client::handshake(world.connect(Version::Http2)).await.unwrap();
    let began = tokio::time::Instant::now();
    let _ = connection.await;
    assert_eq!(began.elapsed().as_secs(), Limits::default().client.idle.as_secs());
}
