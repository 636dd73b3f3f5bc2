//! What others do to a proxy by accident or on purpose: too much, too slowly, or nothing at all any more.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use signet_cli::local::ChildOverride;
use signet_tests::{
    apps::{Does, pattern},
    binaries::binary,
    client,
    eventually::{SOON, eventually},
    manifests::{Pod, app_address},
    mesh::Mesh,
    netns::Node,
    pki::Authority,
    wire::{ALPN, OPEN, Peer, client_hello},
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .strict("shop")
        .start()
        .await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    (mesh, web, api)
}

/// An app connection through the mesh, both ends in the test's hands.
async fn ends(web: &Workload, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = client::dial(web.address, web.port(9000)).await.unwrap();
    let (server, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    (client, server)
}

/// Sends until the buffers on the way are full and nothing moves for [`STALLED`]; returns how much that was.
async fn fill(sender: &mut TcpStream) -> usize {
    let mut sent = 0;
    while let Ok(wrote) = timeout(STALLED, sender.write(&pattern(sent as u64, PIECE))).await {
        sent += wrote.unwrap();
    }
    sent
}

async fn read_pattern(reader: &mut TcpStream, length: usize) -> io::Result<()> {
    let mut got = vec![0; length];
    timeout(SOON, reader.read_exact(&mut got)).await??;
    assert!(got == pattern(0, length), "other bytes than were sent");
    Ok(())
}

/// A debugger, a paused consumer, a full disk: TCP waits for a reader for ever, and so do we. The pause is longer than every
/// time in docs/wire.md by which a lost peer is found.
#[tokio::test]
async fn a_reader_that_pauses_for_longer_than_a_lost_peer_is_missed_loses_nothing_in_either_direction() {
    let (mesh, web, api) = pair().await;
    let listener = TcpListener::bind(app_address(api.address, 8080)).await.unwrap();
    let (mut up, mut served_up) = ends(&web, &listener).await;
    let (mut down, mut served_down) = ends(&web, &listener).await;
    let (sent_up, sent_down) = tokio::join!(fill(&mut up), fill(&mut served_down));
    assert!(sent_up > 100_000 && sent_down > 100_000, "{sent_up} and {sent_down} bytes filled every buffer");
    sleep(PAUSE).await; // the promise is about time
    read_pattern(&mut served_up, sent_up).await.unwrap();
    read_pattern(&mut down, sent_down).await.unwrap();
    for one in [&mut up, &mut served_up] {
        one.shutdown().await.unwrap();
    }
    mesh.finish().await;
}

/// Strangers that drip, a peer that never opens, a peer and an app that never read: each has its deadline or waits alone.
#[tokio::test]
async fn those_who_are_slow_on_either_side_end_in_time_or_wait_alone_and_others_are_served() {
    let (mesh, web, api) = pair().await;
    let authority = Authority::new();
    mesh.believe_also(&authority).await;
    let id = signet_core::identity::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    let credential = authority.credential(&id);
    let (stranger, to) = (mesh.network.address(3, 1), api.port(8080));
    let hello = client_hello(ALPN);
    // A byte a second would take half an hour.
    let mut drip = client::dial(stranger, to).await.unwrap();
    let dripping = async {
        for byte in hello {
            drip.write_all(&[byte]).await?;
            sleep(Duration::from_secs(1)).await;
        }
        Ok::<_, io::Error>(())
    };
    let mut unopened = Peer::connect(web.address, to, Some(&credential), ALPN).await.unwrap();
    let mut half_open = Peer::connect(web.address, to, Some(&credential), ALPN).await.unwrap();
    half_open.send_raw(&[OPEN, 0, 0, 9, 10]).await.unwrap();
    let listener = TcpListener::bind(app_address(api.address, 8080)).await.unwrap();
    // An app that never reads, and a client that never does.
    let (mut to_nobody, _deaf) = ends(&web, &listener).await;
    let (_nobody, mut from_app) = ends(&web, &listener).await;
    let (up, down) = tokio::join!(fill(&mut to_nobody), fill(&mut from_app));
    assert!(up.max(down) < 64 << 20, "{up} and {down} bytes were taken for a reader that does not read");
    let ends = async {
        tokio::select! {
            dripped = timeout(SOON, dripping) => assert!(dripped.unwrap().is_err(), "a whole hello in drips"),
            () = sleep(SOON) => panic!("the drip goes on"),
        }
        assert_eq!(unopened.until_closed().await, []);
        assert_eq!(half_open.until_closed().await, []);
    };
    let others = async {
        loop {
            let (mut client, mut server) = self::ends(&web, &listener).await;
            client.write_all(b"served").await.unwrap();
            timeout(SOON, server.read_exact(&mut [0; 6])).await.unwrap().unwrap();
        }
    };
    tokio::select! {
        () = ends => {}
        () = others => {}
    }
    // Not in the table any more, which the others have filled.
    api.access_line(&["reason=first_bytes_timeout"]).await;
    api.access_line(&["reason=protocol_error", "no OPEN in 5s"]).await;
    mesh.finish().await;
}

/// Out of descriptors a proxy takes nobody new, says so once in a while, does not spin, and goes on when it has some again.
#[tokio::test]
async fn out_of_descriptors_the_proxy_sheds_does_not_spin_and_recovers_by_itself() {
    let (mesh, web, api) = pair().await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    assert_eq!(web.send(9000, b"before").await.unwrap(), b"before");
    let pid = mesh.local.child_pid("shop/api").unwrap();
    let mut live = client::dial(web.address, web.port(9000)).await.unwrap();
    client::ping(&mut live, b"there before").await.unwrap();
    limit_descriptors(pid, open_descriptors(pid) + 1).await;
    let used = cpu_ticks(pid);
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(client::dial(mesh.network.address(3, 1), api.port(8080)).await.unwrap());
    }
    sleep(Duration::from_secs(3)).await; // time to spin in
    let spent = cpu_ticks(pid) - used;
    assert!(spent < 60, "{spent} hundredths of a second of processor time in 3 s of nothing");
    assert!(mesh.log("shop/api").contains("Too many open files"), "nobody is told");
    client::ping(&mut live, b"still there").await.unwrap();
    assert!(web.send(9000, b"one too many").await.is_err());
    limit_descriptors(pid, 20_000).await;
    drop(waiting);
    eventually("the proxy to serve again", SOON, async || web.send(9000, b"after").await.ok()).await;
    client::ping(&mut live, b"to the end").await.unwrap();
    assert_eq!(mesh.local.child_pid("shop/api"), Some(pid), "it was started again");
    mesh.finish().await;
}

/// With few descriptors from the start there are as few places, and who comes in vain is told why.
#[tokio::test]
async fn with_few_descriptors_there_are_few_places_and_the_others_are_refused_with_a_reason() {
    let program = with_descriptors(400);
    let few = ChildOverride { program: Some(program.clone()), ..Default::default() };
    let builder = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .overriding("shop/web", few);
    let mesh = builder.start().await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    let mut held = Vec::new();
    for n in 0..400 {
        let mut one = client::dial(web.address, web.port(9000)).await.unwrap();
        match client::ping(&mut one, b"a place").await {
            Ok(()) => held.push(one),
            Err(_) => {
                assert!(n >= 50, "only {n} places");
                break;
            }
        }
    }
    assert!(held.len() < 200, "{} connections of two descriptors each in 400", held.len());
    web.tells("over_limit").await;
    client::ping(&mut held[0], b"not disturbed").await.unwrap();
    held.truncate(10);
    eventually("places to be free again", SOON, async || web.send(9000, b"again").await.ok()).await;
    mesh.finish().await;
    std::fs::remove_file(program).unwrap();
}

/// The link goes, and no FIN ever comes: whether somebody was speaking or not, both sides hear of it.
#[tokio::test]
async fn a_peer_that_vanishes_is_missed_within_seconds_by_who_speaks_to_it_and_by_who_listens() {
    let _node = Node::enter().unwrap(); // a loopback of the test's own, whose rules are nobody else's
    let (mesh, web, api) = pair().await;
    let listener = TcpListener::bind(app_address(api.address, 8080)).await.unwrap();
    let (mut speaks, mut listens) = ends(&web, &listener).await;
    let (mut silent, mut silent_too) = ends(&web, &listener).await;
    for one in [&mut speaks, &mut silent] {
        one.write_all(b"x").await.unwrap();
    }
    for one in [&mut listens, &mut silent_too] {
        one.read_exact(&mut [0]).await.unwrap();
    }
    drop_between(web.address, api.port(8080)).await;
    speaks.write_all(b"is anybody there?").await.unwrap();
    let vanished = Instant::now();
    for (who, one) in [
        ("who speaks", &mut speaks),
        ("who is spoken to", &mut listens),
        ("the silent client", &mut silent),
        ("the silent server", &mut silent_too),
    ] {
        let end = timeout(SOON, one.read(&mut [0])).await.unwrap_or_else(|_| panic!("{who} still waits"));
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{who}");
        assert!(vanished.elapsed() < MISSED, "{who} heard of it after {:?}", vanished.elapsed());
    }
    for workload in [&web, &api] {
        workload.connection_with("peer_lost").await;
        workload.access_line(&["reason=peer_lost"]).await;
    }
    mesh.finish().await;
}

/// Drops what goes between `client` and `server`, both ways.
async fn drop_between(client: IpAddr, server: SocketAddr) {
    let rules = format!(
        "add table ip vanish
        add chain ip vanish input {{ type filter hook input priority 0; }}
        add rule ip vanish input ip saddr {client} ip daddr {address} tcp dport {port} drop
        add rule ip vanish input ip saddr {address} ip daddr {client} tcp sport {port} drop",
        address = server.ip(),
        port = server.port()
    );
    let mut nft =
        tokio::process::Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).await.unwrap();
    assert!(nft.wait().await.unwrap().success());
}

/// A script that runs the proxy with so many descriptors at most.
fn with_descriptors(limit: u32) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path =
        std::env::temp_dir().join(format!("signet-proxy-with-{limit}-descriptors-{}", std::process::id()));
    let proxy = binary("signet-proxy");
    std::fs::write(&path, format!("#!/bin/sh\nulimit -n {limit}\nexec {} \"$@\"\n", proxy.display()))
        .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

async fn limit_descriptors(pid: u32, limit: usize) {
    let soft = format!("--nofile={limit}:20000");
    let set = tokio::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &soft]).status().await;
    assert!(set.unwrap().success());
}

/// User and system time so far, in hundredths of a second (USER_HZ).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Longer than a write waits on a machine that is busy with other tests.
const STALLED: Duration = Duration::from_millis(500);
const PIECE: usize = 64 * 1024;
/// The promise is 10 s; the rest is for a machine that does much else.
const MISSED: Duration = Duration::from_secs(15);
/// 9 s and half as much.
const PAUSE: Duration = Duration::from_secs(14);
