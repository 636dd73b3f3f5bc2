//! The proxy calls; the test plays the server of its connections.

use super::*;

#[tokio::test]
async fn app_connections_follow_each_other_on_one_connection_and_two_at_once_never_share_one() {
    let client = Client::start().await;
    let mut first = client.used().await;
    for n in 0..20_u8 {
        let bytes = vec![n; 100];
        let (sent, got) = tokio::join!(client.send(&bytes), first.echo());
        assert!(sent.unwrap() == bytes && got.unwrap() == bytes, "number {n}");
    }
    assert_eq!(client.handshakes().await, 1.0);
    // One is busy: the next app connection takes a connection of its own.
    let mut busy = client::dial(client.web.address, client.web.port(9000)).await.unwrap();
    busy.write_all(b"busy").await.unwrap();
    first.expect(OPEN).await.unwrap();
    assert_eq!(first.expect(DATA).await.unwrap(), b"busy");
    let (sent, mut second) = tokio::join!(client.send(b"meanwhile"), async {
        let mut second = client.accept().await;
        assert_eq!(second.echo().await.unwrap(), b"meanwhile");
        second
    });
    assert_eq!(sent.unwrap(), b"meanwhile");
    assert!(!first.hears_something_within(Duration::from_millis(100)).await);
    // And the one that is still open at the server's side is not free before both directions ended.
    busy.shutdown().await.unwrap();
    first.expect(FIN).await.unwrap();
    let (sent, got) = tokio::join!(client.send(b"on the second"), second.echo());
    assert_eq!((sent.unwrap(), got.unwrap()), (b"on the second".to_vec(), b"on the second".to_vec()));
    first.answer(b"late").await.unwrap();
    let mut late = Vec::new();
    timeout(SOON, busy.read_to_end(&mut late)).await.unwrap().unwrap();
    assert_eq!(late, b"late");
    client.is_idle(2.0).await;
    assert_eq!(client.handshakes().await, 2.0);
    client.mesh.finish().await;
}

#[tokio::test]
async fn after_a_renewal_of_our_own_leaf_the_next_app_connection_makes_a_new_handshake() {
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .leaf_life("20s")
        .start()
        .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    let handshakes = async || web.metric("signet_handshakes_total", &[("direction", "outbound")]).await;
    for before in [0.0, 1.0] {
        let serial = web.identity().await["serial"].clone();
        for _ in 0..5 {
            assert_eq!(web.send(9000, b"of one leaf").await.unwrap(), b"of one leaf");
        }
        let (now, same) = (handshakes().await, web.identity().await["serial"] == serial);
        assert!(now == before + 1.0 || !same, "{now} handshakes after {before}");
        eventually("the leaf to be renewed", SOON, async || {
            (web.identity().await["serial"] != serial).then_some(())
        })
        .await;
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_connection_on_which_anything_arrived_while_idle_is_not_used_again() {
    let client = Client::start().await;
    for (case, kind, payload) in [
        ("an optional frame", 0x80, &b"?"[..]),
        ("DATA of nobody", DATA, b"injected"),
        ("a second FIN", FIN, b""),
        ("GOAWAY", GOAWAY, &[0, 0, 0, 1]),
        ("RST", RST, &[ABORTED]),
    ] {
        let mut peer = client.used().await;
        peer.send(kind, payload).await.unwrap();
        client.sends_elsewhere(&mut peer, case.as_bytes()).await;
        client.is_idle(0.0).await; // the test's other end is gone, and so is ours
    }
    let mut peer = client.used().await;
    peer.shutdown().await.unwrap();
    client.sends_elsewhere(&mut peer, b"close_notify").await;
    client.mesh.finish().await;
}

/// The app's bytes are counted where they arrive: once, whatever was sent where before.
#[tokio::test]
async fn an_open_that_crossed_goaway_or_draining_is_carried_elsewhere_with_no_byte_lost_or_doubled() {
    let client = Client::start().await;
    let cases: [(&str, u8, &[u8]); 2] = [("GOAWAY", GOAWAY, &[0, 0, 0, 1]), ("DRAINING", RST, &[DRAINING])];
    for (case, kind, payload) in cases {
        for length in [0, 1, 10_000, MAX_DATA, 3 * MAX_DATA + 1] {
            let mut old = client.used().await;
            let bytes = pattern(3, length);
            let (sent, got) = tokio::join!(client.send(&bytes), async {
                old.expect(OPEN).await.unwrap();
                let flight = length.min(MAX_DATA);
                let mut kept = 0;
                while kept < flight {
                    kept += old.expect(DATA).await.unwrap().len();
                }
                assert_eq!(kept, flight, "it sent more than it keeps");
                old.send(kind, payload).await.unwrap();
                let mut new = client.accept().await;
                new.echo().await.unwrap()
            });
            assert!(got == bytes, "{case}, {length} bytes: {} arrived", got.len());
            assert!(sent.unwrap() == bytes, "{case}, {length} bytes");
            let rest = old.until_closed().await;
            assert!(
                rest.iter().all(|(kind, _)| *kind == FIN),
                "{case}: the old connection was used: {rest:?}"
            );
            client.is_idle(0.0).await;
        }
    }
    client.mesh.finish().await;
}

#[tokio::test]
async fn refused_and_denied_leave_the_connection_usable_and_only_refused_is_tried_again() {
    let client = Client::start().await;
    let mut peer = client.used().await;
    for (reason, word) in [(REFUSED, "refused_by_peer"), (DENIED, "denied_by_peer")] {
        let (sent, ()) = tokio::join!(client.send(b"no"), async {
            peer.expect(OPEN).await.unwrap();
            assert_eq!(peer.receive_to_fin().await.unwrap(), b"no");
            peer.send(RST, &[reason]).await.unwrap();
        });
        assert!(sent.is_err(), "{word}: {sent:?}");
        client.web.tells(word).await;
        client.is_idle(1.0).await;
    }
    let (sent, got) = tokio::join!(client.send(b"yes"), peer.echo());
    assert_eq!((sent.unwrap(), got.unwrap()), (b"yes".to_vec(), b"yes".to_vec()));
    assert_eq!(client.handshakes().await, 1.0);
    client.mesh.finish().await;
}

/// What an app may already have seen is never sent twice: the app hears of the loss and decides.
#[tokio::test]
async fn any_other_loss_is_a_reset_to_the_app_and_never_tried_again() {
    let client = Client::start().await;
    let cases: [(&str, &[u8]); 8] = [
        ("end without FIN", &[]),
        ("ABORTED before ACCEPT", &[RST, 0, 0, 1, ABORTED]),
        ("an unknown reason", &[RST, 0, 0, 1, 99]),
        ("DATA before ACCEPT", &[DATA, 0, 0, 1, 7]),
        ("REFUSED after ACCEPT", &[ACCEPT, 0, 0, 0, RST, 0, 0, 1, REFUSED]),
        ("OPEN from a server", &[OPEN, 0, 0, 0]),
        ("a second ACCEPT", &[ACCEPT, 0, 0, 0, ACCEPT, 0, 0, 0]),
        ("half a frame after ACCEPT", &[ACCEPT, 0, 0, 0, DATA, 0, 0, 9, 1]),
    ];
    for (case, bytes) in cases {
        for reused in [true, false] {
            let used = if reused { Some(client.used().await) } else { None };
            let (sent, ()) = tokio::join!(client.send(b"once"), async {
                let mut peer = match used {
                    Some(peer) => peer,
                    None => client.accept().await,
                };
                peer.expect(OPEN).await.unwrap();
                peer.receive_to_fin().await.unwrap();
                if !bytes.is_empty() {
                    peer.send_raw(bytes).await.unwrap();
                }
                peer.shutdown().await.unwrap();
                peer.until_closed().await;
            });
            let kind = sent.map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::ConnectionReset), "{case}, reused: {reused}");
            let again = timeout(Duration::from_millis(50), client.listener.accept()).await;
            assert!(again.is_err(), "{case}: tried again");
            client.is_idle(0.0).await;
        }
    }
    client.mesh.finish().await;
}

/// Both happen in one look of the proxy: a last word that can still be read, and a socket that takes nothing more.
#[tokio::test]
async fn a_refusal_counts_also_when_the_server_was_gone_before_the_app_had_finished_speaking() {
    let client = Client::start().await;
    let mut old = client.used().await;
    let mut app = client::dial(client.web.address, client.web.port(9000)).await.unwrap();
    app.write_all(b"one, ").await.unwrap();
    old.expect(OPEN).await.unwrap();
    assert_eq!(old.expect(DATA).await.unwrap(), b"one, ");
    client.mesh.local.pause_child("shop/web").await.unwrap();
    app.write_all(b"two").await.unwrap();
    old.send(RST, &[DRAINING]).await.unwrap();
    old.reset();
    client.mesh.local.resume_child("shop/web").await.unwrap();
    let mut new = client.accept().await;
    app.shutdown().await.unwrap();
    assert_eq!(new.echo().await.unwrap(), b"one, two");
    let mut answer = Vec::new();
    timeout(SOON, app.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"one, two");
    client.mesh.finish().await;
}

/// What was accepted is no refusal, however soon it ends.
#[tokio::test]
async fn an_app_that_resets_as_it_is_accepted_is_counted_as_carried_and_not_as_refused() {
    let client = Client::start().await;
    let mut app = client::dial(client.web.address, client.web.port(9000)).await.unwrap();
    app.write_all(b"x").await.unwrap();
    let mut peer = client.accept().await;
    peer.expect(OPEN).await.unwrap();
    client.mesh.local.pause_child("shop/web").await.unwrap();
    peer.send(ACCEPT, &[]).await.unwrap();
    app.set_zero_linger().unwrap();
    drop(app);
    client.mesh.local.resume_child("shop/web").await.unwrap();
    let heard = peer.until_closed().await;
    assert_eq!(heard.last(), Some(&(RST, vec![ABORTED])), "{heard:?}");
    client.web.connection_with("app_reset").await;
    assert_eq!(client.web.metric("signet_refused_total", &[]).await, 0.0);
    client.mesh.finish().await;
}

/// The handshake of a client that does not find whom it expected is whole, and says nothing of its app.
#[tokio::test]
async fn a_server_of_another_identity_sees_a_whole_handshake_and_an_end() {
    let client = Client::start().await;
    let other = credential(&client.authority, "spiffe://cluster.local/ns/shop/sa/other");
    let (sent, heard) = tokio::join!(client.send(b"secret"), async {
        let mut peer = Peer::accept(&client.listener, &other, ALPN).await.unwrap();
        peer.until_closed().await
    });
    assert_eq!((sent.is_err(), heard), (true, vec![]));
    client.web.tells("peer_identity").await;
    client.mesh.finish().await;
}

#[tokio::test]
async fn a_connection_that_was_busy_when_the_trust_bundle_changed_is_not_used_again() {
    let client = Client::start().await;
    let mut old = client.used().await;
    let (sent, ()) = tokio::join!(client.send(b"over a change"), async {
        old.expect(OPEN).await.unwrap();
        client.mesh.believe_also(&Authority::new()).await;
        let data = old.receive_to_fin().await.unwrap();
        old.answer(&data).await.unwrap();
    });
    assert_eq!(sent.unwrap(), b"over a change");
    client.sends_elsewhere(&mut old, b"after it").await;
    client.mesh.finish().await;
}
