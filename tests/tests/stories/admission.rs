//! Which is it? A connection's first bytes decide, however they arrive; and a stranger has only so many of them.

use std::time::Duration;

use signet_tests::{
    apps::{App, Does},
    client::{self, dial},
    eventually::{SOON, eventually},
    manifests::{self, Pod},
    mesh::Mesh,
    pki::{Authority, Credential},
    wire::{ALPN, Cut, Peer, client_hello},
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

struct Inbound {
    mesh: Mesh,
    api: Workload,
    web: Workload,
    app: App,
    credential: Credential,
}

impl Inbound {
    async fn start(does: Does) -> Self {
        let mesh = Mesh::builder()
            .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
            .pod(Pod::named("api").accepting(8080))
            .strict("shop")
            .start()
            .await;
        let authority = Authority::new();
        mesh.believe_also(&authority).await;
        let id = signet_core::identity::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let (api, web) = (mesh.workload("shop/api"), mesh.workload("shop/web"));
        let app = mesh.run("shop/api", 8080, does).await;
        Self { api, web, app, credential: authority.credential(&id), mesh }
    }

    async fn takes_plaintext(&self) {
        self.mesh.write("shop.yaml", &[manifests::namespace("shop", "permissive")]);
        let stranger = self.mesh.network.address(3, 9);
        eventually("plaintext to be taken", SOON, async || {
            client::exchange(stranger, self.api.port(8080), b"plain").await.ok()
        })
        .await;
    }

    /// Whether a ClientHello that is cut like this leads to a stream.
    async fn carries(&self, cut: Cut, alpn: &[&[u8]]) -> bool {
        let (from, to) = (self.web.address, self.api.port(8080));
        let carried = async {
            let mut peer = Peer::connect_in(cut, from, to, Some(&self.credential), alpn).await?;
            peer.exchange(b"a stream").await
        };
        carried.await.is_ok_and(|answer| answer == b"a stream")
    }
}

/// Names that nobody speaks, in front of ours: more than one record's worth.
fn long_list() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = (0..80_u8).map(|n| vec![b'a' + n % 26; 250]).collect();
    names.push(b"signet/1".to_vec());
    names
}

#[tokio::test]
async fn our_hello_is_taken_as_ours_however_it_is_cut_where_plaintext_is_refused_and_where_it_is_not() {
    let inbound = Inbound::start(Does::Echo).await;
    let length = client_hello(ALPN).len();
    let long = long_list();
    let long: Vec<&[u8]> = long.iter().map(Vec::as_slice).collect();
    assert!(client_hello(&long).len() > 16 * 1024, "it fits one record: the test proves nothing");
    for mode in ["strict", "permissive"] {
        if mode == "permissive" {
            inbound.takes_plaintext().await;
        }
        let mut cuts: Vec<Cut> = [1, 2, 3, 32, 1000].map(Cut::Records).into();
        cuts.extend([Cut::Whole, Cut::Dripped, Cut::DrippedRecords]);
        // Every boundary of the heads, then some of the body, and the last ones.
        cuts.extend((1..12).chain((12..length).step_by(97)).chain(length - 3..length).map(Cut::Segments));
        for cut in cuts {
            assert!(inbound.carries(cut, ALPN).await, "{mode}, {cut:?}");
        }
        // One byte a record would make six of each: over the limit of 65 KiB, and so it is plaintext.
        for cut in
            [Cut::Whole, Cut::Records(500), Cut::Segments(5), Cut::Segments(16_390), Cut::Segments(17_000)]
        {
            assert!(inbound.carries(cut, &long).await, "{mode}, 20 KB, {cut:?}");
        }
        assert!(!inbound.carries(Cut::Records(1), &long).await, "{mode}: 120 KB of hello");
    }
    inbound.mesh.finish().await;
}

/// The app's own TLS, and everything else.
#[tokio::test]
async fn whatever_is_not_our_hello_is_plaintext_however_it_is_cut() {
    let inbound = Inbound::start(Does::Sink).await;
    let stranger = inbound.mesh.network.address(3, 1);
    let hello = client_hello(&[b"h2"]);
    let mut garbage: Vec<u8> =
        (0..3000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    garbage[0] = 0x16;
    let cases: [(&str, &[u8]); 6] = [
        ("a hello of the app's own", &hello),
        ("a record that is no hello", b"\x16\x03\x01\x00\x05\x02\0\0\x01\0"),
        ("half a hello", &client_hello(ALPN)[..100]),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: api\r\n\r\n"),
        ("one byte", b"\x16"),
        ("garbage", &garbage),
    ];
    for mode in ["strict", "permissive"] {
        if mode == "permissive" {
            inbound.takes_plaintext().await;
        }
        for (case, bytes) in cases {
            for cut in [Cut::Whole, Cut::Segments(1), Cut::Segments(6), Cut::Dripped] {
                let (served, counted) = (inbound.app.connections(), inbound.app.received());
                let mut connection = dial(stranger, inbound.api.port(8080)).await.unwrap();
                connection.set_nodelay(true).unwrap();
                let said = async {
                    for piece in cut.pieces(bytes) {
                        connection.write_all(&piece).await?;
                        tokio::task::yield_now().await;
                    }
                    connection.shutdown().await?;
                    let mut answer = String::new();
                    connection.read_to_string(&mut answer).await.map(|_| answer)
                };
                let answer = timeout(SOON, said).await.unwrap();
                if mode == "strict" {
                    assert!(answer.is_err(), "{case}, {cut:?}: {answer:?}");
                    assert_eq!(inbound.app.connections(), served, "{case}, {cut:?} reached the app");
                } else {
                    assert_eq!(answer.unwrap(), bytes.len().to_string(), "{case}, {cut:?}");
                    assert_eq!(inbound.app.received() - counted, bytes.len() as u64, "{case}, {cut:?}");
                }
            }
        }
    }
    inbound.api.tells("plaintext_refused").await;
    inbound.mesh.finish().await;
}

/// Whoever has not shown who they are takes places of their own source only.
#[tokio::test]
async fn a_source_that_only_arrives_is_limited_and_others_are_served_meanwhile() {
    let inbound = Inbound::start(Does::Echo).await;
    let (flood, to) = (inbound.mesh.network.address(3, 1), inbound.api.port(8080));
    let mut silent = Vec::new();
    for _ in 0..LIMIT {
        let mut connection = dial(flood, to).await.unwrap();
        connection.write_all(b"\x16\x03").await.unwrap(); // a record may follow
        silent.push(connection);
    }
    let begun = Instant::now();
    for _ in 0..10 {
        let mut one_more = dial(flood, to).await.unwrap();
        let end = timeout(SOON, one_more.read(&mut [0])).await.unwrap();
        assert!(!matches!(end, Ok(1..)), "{end:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "the first ones had gone: the test proves nothing");
    inbound.api.tells("over_limit").await;
    assert!(inbound.carries(Cut::Whole, ALPN).await, "an honest peer of another source");
    assert_eq!(inbound.web.send(9000, b"hello").await.unwrap(), b"hello");
    // Their time is over after 5 s, and their source is welcome again.
    let closed = async {
        for connection in &mut silent {
            let _ = connection.read(&mut [0]).await;
        }
    };
    timeout(SOON, closed).await.unwrap();
    inbound.api.tells("first_bytes_timeout").await;
    let again = Peer::connect(flood, to, Some(&inbound.credential), ALPN).await;
    assert_eq!(again.unwrap().exchange(b"again").await.unwrap(), b"again");
    inbound.mesh.finish().await;
}

/// As many at once as an attacker has addresses: each read to its end, none of it delivered, and the memory comes back.
#[tokio::test]
async fn garbage_of_a_thousand_strangers_reaches_no_app_and_leaves_the_proxy_as_it_was() {
    let inbound = Inbound::start(Does::Echo).await;
    let to = inbound.api.port(8080);
    let pid = inbound.mesh.local.child_pid("shop/api");
    let strangers = (0..1000_u32).map(|n| {
        let [c, d] = [4 + n / 200, 1 + n % 200].map(|number| u8::try_from(number).unwrap());
        let from = inbound.mesh.network.address(c, d);
        async move {
            let mut connection = dial(from, to).await?;
            let mut random = fastrand::Rng::with_seed(n.into());
            let mut bytes = vec![0; random.usize(3..70_000)];
            random.fill(&mut bytes);
            match n % 4 {
                0 => {}
                1 => bytes[..3].copy_from_slice(b"\x16\x03\x01"),
                2 => bytes = client_hello(ALPN)[..random.usize(1..1200)].to_vec(),
                _ => {
                    bytes = client_hello(ALPN);
                    let at = random.usize(..bytes.len());
                    bytes[at] ^= 1 << random.u8(..8);
                }
            }
            connection.write_all(&bytes).await?;
            connection.shutdown().await?;
            connection.read_to_end(&mut Vec::new()).await.map(drop)
        }
    });
    timeout(SOON * 2, futures_util::future::join_all(strangers)).await.unwrap();
    assert_eq!(inbound.app.connections(), 0);
    assert_eq!(inbound.mesh.local.child_pid("shop/api"), pid, "the proxy was started again");
    assert!(inbound.carries(Cut::Whole, ALPN).await);
    eventually("nothing to be left open", SOON, async || {
        (inbound.api.metric("signet_connections_open", &[]).await == 0.0).then_some(())
    })
    .await;
    inbound.mesh.finish().await;
}

/// Of connections whose handshake has not ended, of one source (limits.rs).
const LIMIT: usize = 256;
