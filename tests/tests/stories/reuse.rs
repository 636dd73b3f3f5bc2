//! One mutual TLS connection, many app connections, one after the other: what each of the two sides may rely on. The test
//! plays the other side (docs/wire.md, written a second time in `signet_tests::wire`).

use std::{io, time::Duration};

use signet_core::clock;
use signet_tests::{
    apps::{App, Does, pattern},
    client,
    eventually::{SOON, eventually},
    manifests::{self, Pod},
    mesh::Mesh,
    pki::{Authority, Credential, key, leaf_params},
    wire::{ABORTED, ACCEPT, ALPN, DATA, DENIED, DRAINING, FIN, GOAWAY, MAX_DATA, OPEN, Peer, REFUSED, RST},
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Instant, sleep, timeout},
};

/// Nothing happens but connections: each has its row at both ends, and they need no more handshakes than there are at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_short_connections_share_a_few_handshakes_and_each_has_its_own_row_at_both_ends() {
    const AT_A_TIME: usize = 8;
    let mesh = Mesh::start([
        Pod::named("web").with_upstream(9000, "api.shop:8080"),
        Pod::named("api").accepting(8080),
    ])
    .await;
    let app = mesh.run("shop/api", 8080, Does::Echo).await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    let made = client::many(web.address, web.port(9000), AT_A_TIME, 1000, async {}).await;
    assert_eq!((made.failed, app.connections(), app.received()), (vec![], 1000, made.bytes));
    for (workload, peer_id) in [(&web, API), (&api, WEB)] {
        let rows = eventually("the last line to be written", SOON, async || {
            Some(rows(workload)).filter(|rows| rows.len() == 1000)
        })
        .await;
        assert!(rows.iter().all(|row| row.peer_id == peer_id && row.reason == "ok"), "{}", workload.name);
        let [sent, received] =
            [|row: &Row| row.sent, |row: &Row| row.received].map(|of| rows.iter().map(of).sum());
        assert_eq!((sent, received), (made.bytes, made.bytes), "{}", workload.name);
        // "number 1." to "number 1000": each length stands for one connection, as often at either end.
        let mut lengths: Vec<u64> = rows.iter().map(|row| row.sent).collect();
        lengths.dedup();
        assert!(lengths.len() > 500, "the rows repeat each other");
        let open = workload.metric("signet_connections_open", &[]).await;
        let ended = workload.metric("signet_connections_ended_total", &[("reason", "ok")]).await;
        assert_eq!((open, ended), (0.0, 1000.0), "{}", workload.name);
    }
    let outbound = web.metric("signet_handshakes_total", &[("direction", "outbound")]).await;
    let inbound = api.metric("signet_handshakes_total", &[("direction", "inbound")]).await;
    assert_eq!(outbound, inbound);
    assert!(
        outbound <= 2.0 * AT_A_TIME as f64,
        "{outbound} handshakes for {AT_A_TIME} connections at a time"
    );
    let edge = eventually("the edge with all of them", SOON, async || {
        mesh.edges().await.into_iter().find(|edge| edge["total"] == 1000 && edge["open"] == 0)
    })
    .await;
    assert_eq!(
        (edge["client"]["id"].as_str(), edge["server"]["id"].as_str()),
        (Some(WEB), Some(API)),
        "{edge}"
    );
    assert_eq!(
        (edge["sent"].as_u64(), edge["received"].as_u64()),
        (Some(made.bytes), Some(made.bytes)),
        "{edge}"
    );
    mesh.finish().await;
}

/// Everything that a quiet day has: a renewal, a policy, a pod that restarts, one that drains with a long connection on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_short_connections_over_a_rotation_a_policy_change_a_restart_and_a_drain_lose_none() {
    const AT_A_TIME: usize = 8;
    let pods =
        ["api-0", "api-1"].map(|name| Pod::named(name).behind("api").as_account("api").accepting(8080));
    let mut builder = Mesh::builder().pod(Pod::named("web").with_upstream(9000, "api.shop:8080"));
    for pod in pods.clone() {
        builder = builder.pod(pod);
    }
    let mesh = builder.leaf_life("20s").grace(SOON * 2).start().await;
    let apps =
        [mesh.run("shop/api-0", 8080, Does::Echo).await, mesh.run("shop/api-1", 8080, Does::Echo).await];
    let web = mesh.workload("shop/web");
    let servers = ["shop/api-0", "shop/api-1"].map(|name| mesh.workload(name));
    // A long connection, and the server that carries it.
    let mut long = client::dial(web.address, web.port(9000)).await.unwrap();
    client::ping(&mut long, b"long").await.unwrap();
    let (restarted, drained) = if apps[0].connections() == 1 { (1, 0) } else { (0, 1) };
    let mut handshakes = 0.0;
    let serial = web.identity().await["serial"].clone();
    let made = client::many(web.address, web.port(9000), AT_A_TIME, 10_000, async {
        mesh.write("policy.yaml", &[manifests::policy("shop/only-web", "api", &["shop/web"])]);
        for server in &servers {
            eventually("the policy to arrive", SOON, async || {
                server.config().await.to_string().contains("only-web").then_some(())
            })
            .await;
        }
        for (which, is_busy) in [(restarted, false), (drained, true)] {
            let (name, pod) = (&servers[which].name, pods[which].clone().at(servers[which].address));
            handshakes += servers[which].metric("signet_handshakes_total", &[("direction", "inbound")]).await;
            // As a kubelet and the control plane do: at the same time, and one of them first.
            let stopping = mesh.local.stop_child(name);
            let meanwhile = async {
                mesh.write(
                    &format!("{}.yaml", name.replace('/', ".")),
                    &pod.clone().unready().documents(servers[which].address),
                );
                if is_busy {
                    eventually("the drain to begin", SOON, async || {
                        (!servers[which].is_ready().await).then_some(())
                    })
                    .await;
                    for _ in 0..50 {
                        client::ping(&mut long, b"still served").await.unwrap();
                        sleep(Duration::from_millis(10)).await;
                    }
                    long.shutdown().await.unwrap();
                    assert_eq!(timeout(SOON, long.read(&mut [0])).await.unwrap().unwrap(), 0);
                }
            };
            let (stopped, ()) = tokio::join!(stopping, meanwhile);
            stopped.unwrap();
            mesh.local.start_child(name).await.unwrap();
            eventually("the server to be back", SOON, async || servers[which].is_ready().await.then_some(()))
                .await;
            mesh.write(&format!("{}.yaml", name.replace('/', ".")), &pod.documents(servers[which].address));
        }
        eventually("the client's leaf to be renewed", SOON, async || {
            (web.identity().await["serial"] != serial).then_some(())
        })
        .await;
    })
    .await;
    assert!(made.failed.is_empty(), "{} of {}: {:?}", made.failed.len(), made.connections, made.failed);
    let served: u64 = apps.iter().map(App::connections).sum();
    assert_eq!(served, made.connections + 1, "one was carried twice, or not at all");
    assert_eq!(apps.iter().map(App::received).sum::<u64>(), made.bytes + 4 + 50 * 12);
    let rows = eventually("the last line to be written", SOON, async || {
        Some(rows(&web)).filter(|rows| rows.len() as u64 == made.connections + 1)
    })
    .await;
    assert!(rows.iter().all(|row| row.peer_id == API && row.reason == "ok"));
    for server in &servers {
        handshakes += server.metric("signet_handshakes_total", &[("direction", "inbound")]).await;
    }
    // Each change makes new connections necessary, and a server that drains takes one stream on each.
    assert!(handshakes < made.connections as f64 / 10.0, "{handshakes} for {}", made.connections);
    mesh.finish().await;
}

/// What a test looks at in a line of the access log.
struct Row {
    peer_id: String,
    reason: String,
    sent: u64,
    received: u64,
}

fn rows(workload: &Workload) -> Vec<Row> {
    let row = |line: &String| {
        let field = |name: &str| {
            let value = line.split(&format!(" {name}=")).nth(1).and_then(|rest| rest.split(' ').next());
            value.ok_or_else(|| format!("no {name} in {line}")).unwrap().to_owned()
        };
        Row {
            peer_id: field("peer_id"),
            reason: field("reason"),
            sent: field("sent").parse().unwrap(),
            received: field("received").parse().unwrap(),
        }
    };
    workload.access_log().iter().map(row).collect()
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const API: &str = "spiffe://cluster.local/ns/shop/sa/api";

fn credential(authority: &Authority, id: &str) -> Credential {
    authority.credential(&signet_core::identity::parse(id).unwrap())
}

/// The proxy of `shop/api` for real; the test plays `shop/web`.
struct Server {
    mesh: Mesh,
    api: Workload,
    web: Workload,
    authority: Authority,
}

impl Server {
    async fn start() -> Self {
        let mesh = Mesh::builder()
            .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
            .pod(Pod::named("api").accepting(8080))
            .strict("shop")
            .start()
            .await;
        let authority = Authority::new();
        mesh.believe_also(&authority).await;
        let (api, web) = (mesh.workload("shop/api"), mesh.workload("shop/web"));
        Self { mesh, api, web, authority }
    }

    async fn run(&self, does: Does) -> App {
        self.mesh.run("shop/api", 8080, does).await
    }

    async fn connect(&self) -> Peer {
        self.connect_as(&credential(&self.authority, WEB)).await
    }

    async fn connect_as(&self, credential: &Credential) -> Peer {
        let to = self.api.port(8080);
        Peer::connect(self.web.address, to, Some(credential), ALPN).await.unwrap()
    }
}

/// The proxy of `shop/web` for real; the test plays the proxy of `shop/api`.
struct Client {
    mesh: Mesh,
    web: Workload,
    listener: TcpListener,
    authority: Authority,
    credential: Credential,
}

impl Client {
    async fn start() -> Self {
        let mesh = Mesh::builder()
            .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
            .pod(Pod::named("api").accepting(8080))
            .inbound_aside("shop/api", 9)
            .start()
            .await;
        let authority = Authority::new();
        mesh.believe_also(&authority).await;
        let listener = TcpListener::bind(mesh.workload("shop/api").port(8080)).await.unwrap();
        let (web, credential) = (mesh.workload("shop/web"), credential(&authority, API));
        Self { mesh, web, listener, authority, credential }
    }

    async fn accept(&self) -> Peer {
        Peer::accept(&self.listener, &self.credential, ALPN).await.unwrap()
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.web.send(9000, bytes).await
    }

    /// A connection that has carried one stream and waits.
    async fn used(&self) -> Peer {
        let (sent, peer) = tokio::join!(self.send(b"first"), async {
            let mut peer = self.accept().await;
            peer.echo().await.unwrap();
            peer
        });
        assert_eq!(sent.unwrap(), b"first");
        self.is_idle(1.0).await;
        peer
    }

    /// So many connections wait for their next use.
    async fn is_idle(&self, wires: f64) {
        eventually("the idle connections to be counted", SOON, async || {
            let idle = self.web.metric("signet_wires_idle", &[("direction", "outbound")]).await;
            (idle == wires).then_some(())
        })
        .await;
    }

    async fn handshakes(&self) -> f64 {
        self.web.metric("signet_handshakes_total", &[("direction", "outbound")]).await
    }

    /// The app's bytes arrive on a new connection, whole, and the old one is not used for them.
    async fn sends_elsewhere(&self, old: &mut Peer, bytes: &[u8]) {
        let (sent, got) = tokio::join!(self.send(bytes), async { self.accept().await.echo().await });
        assert_eq!((sent.unwrap(), got.unwrap()), (bytes.to_vec(), bytes.to_vec()));
        let rest = old.until_closed().await;
        assert!(rest.iter().all(|(kind, _)| *kind != OPEN), "{rest:?}");
    }
}

// ---- the server's side

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
        let denied = eventually("the policy to deny", SOON, async || {
            peer.open_with(b"secret").await.unwrap();
            peer.send(FIN, &[]).await.unwrap();
            match peer.receive().await.unwrap() {
                (RST, reason) => Some(reason),
                (ACCEPT, _) => {
                    assert_eq!(
                        peer.receive_to_fin().await.unwrap(),
                        b"secret",
                        "the policy was not there yet"
                    );
                    None
                }
                other => panic!("{other:?}"),
            }
        })
        .await;
        assert_eq!(denied, [DENIED]);
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

// ---- the client's side

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
