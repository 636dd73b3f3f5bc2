//! The proxy serves; the test plays the client of its connections.

use super::*;

#[tokio::test]
async fn streams_follow_each_other_on_one_connection_each_with_its_own_row() {
    let server = Server::start().await;
    let app = server.run(Does::Echo).await;
    let mut peer = server.connect().await;
    for n in 1..=20_u64 {
        let sent = pattern(n, usize::try_from(n).unwrap() * 800);
        assert_eq!(peer.exchange(&sent).await.unwrap(), sent, "stream {n}");
        assert_eq!(app.connections(), n);
        let row = server.api.access_line(&[&format!("received={} ", n * 800)]).await;
        for word in ["reason=ok", &format!("peer_id={WEB}"), "tls=TLSv1.3", &format!("sent={} ", n * 800)] {
            assert!(row.contains(word), "{word} is not in {row}");
        }
    }
    assert_eq!(server.api.metric("signet_handshakes_total", &[("direction", "inbound")]).await, 1.0);
    assert_eq!(server.api.metric("signet_connections_ended_total", &[("reason", "ok")]).await, 20.0);
    drop(peer);
    server.mesh.finish().await;
}

#[tokio::test]
async fn each_open_is_judged_by_itself_and_a_denied_one_leaves_the_connection_usable() {
    let server = Server::start().await;
    let app = server.run(Does::Echo).await;
    let mut peer = server.connect().await;
    assert_eq!(peer.exchange(b"allowed").await.unwrap(), b"allowed");
    for round in 1..=2 {
        server.mesh.write("policy.yaml", &[manifests::policy("shop/nobody", "api", &["shop/other"])]);
        // An OPEN that crosses the change is no denied one: it is cut, and its connection with it.
        eventually("the policy to be known", SOON, async || {
            let settings = server.api.config().await["settings"].to_string();
            settings.contains("/ns/shop/sa/other").then_some(())
        })
        .await;
        peer.open_with(b"secret").await.unwrap();
        peer.send(FIN, &[]).await.unwrap();
        assert_eq!(peer.receive().await.unwrap(), (RST, vec![DENIED]));
        let served = app.connections();
        server.api.tells("policy_denied").await;
        server.mesh.write("policy.yaml", &[manifests::policy("shop/nobody", "api", &["shop/web"])]);
        eventually("the policy to allow again", SOON, async || peer.exchange(b"again").await.ok()).await;
        assert!(app.connections() > served, "round {round}");
    }
    assert_eq!(server.api.metric("signet_handshakes_total", &[("direction", "inbound")]).await, 1.0);
    drop(peer);
    server.mesh.finish().await;
}

/// The app's first words come behind OPEN in as many records as they need; refusing must skip them to the last byte.
#[tokio::test]
async fn a_refused_open_with_a_full_flight_leaves_the_connection_usable() {
    let server = Server::start().await;
    let mut peer = server.connect().await;
    let flight = pattern(7, MAX_DATA);
    for length in [0, 1, 5000, MAX_DATA - 1, MAX_DATA] {
        peer.send_together(&[(OPEN, &[]), (DATA, &flight[..length]), (FIN, &[])]).await.unwrap();
        assert_eq!(peer.receive().await.unwrap(), (RST, vec![REFUSED]), "{length} bytes");
        peer.send_together(&[(OPEN, &[]), (DATA, &flight[..length])]).await.unwrap(); // its end was not said yet
        assert_eq!(peer.receive().await.unwrap(), (RST, vec![REFUSED]), "{length} bytes and no end");
    }
    server.api.tells("app_unreachable").await;
    let app = server.run(Does::Echo).await;
    assert_eq!(peer.exchange(b"now it is there").await.unwrap(), b"now it is there");
    assert_eq!((app.connections(), app.received()), (1, 15));
    assert_eq!(server.api.metric("signet_handshakes_total", &[("direction", "inbound")]).await, 1.0);
    drop(peer);
    server.mesh.finish().await;
}

#[tokio::test]
async fn an_open_after_not_after_gets_draining_which_is_heard_whatever_was_sent_behind_it() {
    let server = Server::start().await;
    let app = server.run(Does::Echo).await;
    let short = leaf_params(WEB, Duration::from_secs(4));
    let mut peer = server.connect_as(&server.authority.present(&short, &key())).await;
    assert_eq!(peer.exchange(b"valid").await.unwrap(), b"valid");
    let over = short.not_after.unix_timestamp();
    eventually("the leaf to expire", SOON, async || (clock::unix_now() > over).then_some(())).await;
    let flight = pattern(0, MAX_DATA);
    peer.send_together(&[(OPEN, &[]), (DATA, &flight), (FIN, &[])]).await.unwrap();
    assert_eq!(peer.receive().await.unwrap(), (RST, vec![DRAINING]));
    server.api.tells("draining").await;
    assert_eq!((app.connections(), app.received()), (1, 5));
    drop(peer);
    server.mesh.finish().await;
}

/// A whole process ends, and yet every client hears of it first: its next OPEN may be on its way.
#[tokio::test]
async fn a_server_that_drains_says_goaway_on_idle_connections_and_reads_no_more_frames() {
    let server = Server::start().await;
    let app = server.run(Does::Echo).await;
    let mut idle = server.connect().await;
    for n in [b"1", b"2"] {
        assert_eq!(idle.exchange(n).await.unwrap(), n);
    }
    let stopped = async {
        let begun = Instant::now();
        server.mesh.local.stop_child("shop/api").await.unwrap();
        begun.elapsed()
    };
    let (took, ()) = tokio::join!(stopped, async {
        assert_eq!(idle.receive().await.unwrap(), (GOAWAY, 2_u32.to_be_bytes().to_vec()));
        idle.open_with(b"crossed it").await.unwrap();
        assert!(
            !idle.hears_something_within(Duration::from_millis(300)).await,
            "closed before the client did"
        );
        drop(idle);
    });
    assert!(took < Duration::from_secs(4), "the last client had gone, and the proxy stayed for {took:?}");
    assert_eq!((app.connections(), app.received()), (2, 2));
    server.mesh.finish().await;
}

#[tokio::test]
async fn an_idle_connection_ends_with_goaway_when_the_trust_bundle_changes_and_is_closed_10_s_later() {
    let server = Server::start().await;
    let _app = server.run(Does::Echo).await;
    let mut idle = server.connect().await;
    assert_eq!(idle.exchange(b"trusted").await.unwrap(), b"trusted");
    server.mesh.believe_also(&Authority::new()).await;
    assert_eq!(idle.receive().await.unwrap(), (GOAWAY, 1_u32.to_be_bytes().to_vec()));
    let told = Instant::now();
    assert_eq!(idle.until_closed().await, []);
    let stayed = told.elapsed();
    assert!(
        stayed > Duration::from_secs(8),
        "it said GOAWAY and left after {stayed:?}: an OPEN may have crossed"
    );
    server.mesh.finish().await;
}

/// Busy when its trust changed, it may end what it does; the next OPEN is for a connection that was verified anew.
#[tokio::test]
async fn a_connection_that_was_busy_when_the_trust_bundle_changed_takes_no_other_open() {
    let server = Server::start().await;
    let app = server.run(Does::Echo).await;
    let mut busy = server.connect().await;
    busy.open_with(b"before").await.unwrap();
    busy.expect(ACCEPT).await.unwrap();
    assert_eq!(busy.expect(DATA).await.unwrap(), b"before");
    server.mesh.believe_also(&Authority::new()).await;
    busy.send_together(&[(DATA, b"after"), (FIN, &[])]).await.unwrap();
    assert_eq!(busy.receive_to_fin().await.unwrap(), b"after");
    assert_eq!(busy.receive().await.unwrap(), (GOAWAY, 1_u32.to_be_bytes().to_vec()));
    assert_eq!(app.connections(), 1);
    drop(busy);
    server.mesh.finish().await;
}

/// None of it panics the proxy, none of it reaches the app, and the next peer is served.
#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut_off_and_its_marker_never_reaches_the_app() {
    const MARKER: &[u8] = b"must not arrive";
    let server = Server::start().await;
    let app = server.run(Does::Echo).await;
    let frame = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind], &length[1..], payload].concat()
    };
    let marked = frame(DATA, MARKER);
    let (open, fin) = (frame(OPEN, &[]), frame(FIN, &[]));
    let before_open: [(&str, Vec<u8>); 11] = [
        ("DATA before OPEN", marked.clone()),
        ("FIN before OPEN", [&fin[..], &open, &marked].concat()),
        ("RST before OPEN", [&frame(RST, &[4])[..], &open, &marked].concat()),
        ("ACCEPT from a client", [&frame(ACCEPT, &[])[..], &open, &marked].concat()),
        ("GOAWAY from a client", [&frame(GOAWAY, &[0; 4])[..], &open, &marked].concat()),
        ("REAUTH", [&frame(0x07, &[])[..], &open, &marked].concat()),
        ("type 0", [&frame(0, &[])[..], &open, &marked].concat()),
        ("OPEN over its limit", [&[OPEN, 0, 0x10, 1][..], &[0; 4097], &marked].concat()),
        ("OPEN that does not parse", [&frame(OPEN, &[0xff; 20])[..], &marked].concat()),
        ("optional frame over its limit", [&[0x80, 0xff, 0xff, 0xff][..], &open, &marked].concat()),
        ("two OPENs in one record", [&open[..], &open, &marked].concat()),
    ];
    let pid = server.mesh.local.child_pid("shop/api");
    for (case, bytes) in before_open {
        let mut peer = server.connect().await;
        peer.send_raw(&bytes).await.unwrap();
        let heard = peer.until_closed().await;
        assert!(heard.iter().all(|(kind, _)| matches!(*kind, ACCEPT | RST)), "{case}: {heard:?}");
    }
    let in_stream: [(&str, Vec<u8>); 8] = [
        ("OPEN inside a stream", [&open[..], &marked].concat()),
        ("ACCEPT inside a stream", [&frame(ACCEPT, &[])[..], &marked].concat()),
        ("bytes behind FIN in its record", [&fin[..], &marked].concat()),
        ("an OPEN behind FIN in its record", [&fin[..], &open, &marked].concat()),
        ("bytes behind RST in its record", [&frame(RST, &[4])[..], &marked].concat()),
        ("FIN with a payload", [&[FIN, 0, 0, 1, 0][..], &marked].concat()),
        ("DATA over its limit", [&[DATA, 0, 0x3f, 0xfd][..], MARKER].concat()),
        ("RST without a reason", [&frame(RST, &[])[..], &marked].concat()),
    ];
    for (case, bytes) in in_stream {
        let mut peer = server.connect().await;
        peer.send(OPEN, &[]).await.unwrap();
        peer.expect(ACCEPT).await.unwrap();
        peer.send_raw(&bytes).await.unwrap();
        let heard = peer.until_closed().await;
        assert!(heard.iter().all(|(kind, _)| *kind == RST), "{case}: {heard:?}");
    }
    for (case, half) in [("half a head", &marked[..3]), ("half an OPEN", &[OPEN, 0, 0, 9, 10][..])] {
        let mut peer = server.connect().await;
        peer.send_raw(half).await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(peer.until_closed().await, [], "{case}");
    }
    let mut peer = server.connect().await;
    peer.open_with(b"half of it ").await.unwrap();
    peer.expect(ACCEPT).await.unwrap();
    peer.send_raw(&[DATA, 0, 0, 9, 1]).await.unwrap();
    peer.shutdown().await.unwrap(); // close_notify in the middle of a frame
    peer.until_closed().await;
    server.api.tells("protocol_error").await;
    let got = app.received_first();
    assert!(!got.windows(MARKER.len()).any(|bytes| bytes == MARKER), "{}", String::from_utf8_lossy(&got));
    assert_eq!(server.connect().await.exchange(b"an honest peer").await.unwrap(), b"an honest peer");
    assert_eq!(server.mesh.local.child_pid("shop/api"), pid, "the proxy was started again");
    nothing_is_left(&server.api).await;
    server.mesh.finish().await;
}

/// As many records as fit a socket's buffer, whatever their size: a receiver's batch holds them all.
#[tokio::test]
async fn records_of_every_size_arrive_whole_at_an_app_that_was_late_to_read() {
    let server = Server::start().await;
    for size in [15_743, 15_000, 9_000, MAX_DATA] {
        let listener = TcpListener::bind(manifests::app_address(server.api.address, 8080)).await.unwrap();
        let mut peer = server.connect().await;
        peer.send(OPEN, &[]).await.unwrap();
        let (mut app, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        peer.expect(ACCEPT).await.unwrap();
        let all = pattern(0, size * 2000);
        let (mut got, ()) = tokio::join!(
            async {
                // The sender fills every buffer on the way before the first byte is read.
                sleep(Duration::from_millis(300)).await;
                let mut got = vec![0; all.len()];
                timeout(SOON, app.read_exact(&mut got)).await.unwrap().map(|_| got)
            },
            async {
                for piece in all.chunks(size) {
                    if peer.send(DATA, piece).await.is_err() {
                        return; // the app's side says how it was broken
                    }
                }
            }
        );
        assert!(got.as_mut().is_ok_and(|got| *got == all), "records of {size}: {:?}", got.err());
        drop((peer, app, listener));
    }
    server.mesh.finish().await;
}

/// A proxy has one thread: nobody's bytes, wanted or not, may keep it from the others.
#[tokio::test]
async fn a_flood_of_frames_that_mean_nothing_keeps_nobody_waiting() {
    let server = Server::start().await;
    let _app = server.run(Does::Echo).await;
    let (mut flooding, mut honest) = (Vec::new(), server.connect().await);
    let flood: Vec<u8> = [0x80, 0, 0x3f, 0xfc].into_iter().chain([0; MAX_DATA]).collect();
    for _ in 0..2 {
        let mut peer = server.connect().await;
        assert_eq!(peer.exchange(b"well known").await.unwrap(), b"well known");
        let flood = flood.clone();
        flooding.push(async move { while peer.send_raw(&flood).await.is_ok() {} });
    }
    let served = async {
        for n in 0..200_u32 {
            assert_eq!(honest.exchange(&n.to_be_bytes()).await.unwrap(), n.to_be_bytes());
        }
    };
    tokio::select! {
        () = served => {}
        _ = futures_util::future::join_all(flooding) => panic!("the flood was refused: the test proves nothing"),
    }
    drop(honest);
    server.mesh.finish().await;
}

async fn nothing_is_left(workload: &Workload) {
    eventually(&format!("{} to have nothing open", workload.name), SOON, async || {
        let open = workload.metric("signet_connections_open", &[]).await;
        let idle = workload.metric("signet_wires_idle", &[("direction", "inbound")]).await;
        (open == 0.0 && idle == 0.0).then_some(())
    })
    .await;
}
