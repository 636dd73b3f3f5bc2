//! One mutual TLS connection, many app connections, one after the other: what each of the two sides may rely on. The test
//! plays the other side (docs/wire.md, written a second time in `signet_tests::wire`).

mod calling;
mod served;

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
