//! Before the first request: load balancers, budgets, and the way to a pod behind.

use serde_json::json;
use signet_core::identity::{self, TrustDomain};
use signet_http::model::Security;
use signet_tests::{
    client,
    eventually::{SOON, eventually},
    gateway::{Edge, backend, request, response, route},
    wire::{ACCEPT, ALPN, DATA, FIN, OPEN, Peer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

use super::{BACKEND, mirror, origin, serves};

#[tokio::test]
async fn only_a_declared_load_balancer_says_whose_connection_it_is_and_it_must() {
    // The network is claimed inside; the last number of the address is enough to tell the two apart.
    let edge = Edge::start_with(json!({"proxyProtocol": ["127.0.0.0/8"]}), |world, web, network| {
        serves(world, web, network, &["a.example.com"]);
    })
    .await;
    let _origin = mirror(&edge.network).await;
    let balancer = edge.network.address(7, 7);
    for header in [
        &b"PROXY TCP4 203.0.113.7 10.0.0.5 41214 80\r\n"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x05\xa0\xfe\0\x50",
    ] {
        let mut tcp = client::dial(balancer, edge.at(8080)).await.unwrap();
        tcp.write_all(header).await.unwrap();
        let (status, seen) = request(&mut tcp, "a.example.com", "/").await.unwrap();
        assert_eq!(status, 200, "{seen}");
        let seen = seen.to_ascii_lowercase();
        assert!(seen.contains("x-forwarded-for: 203.0.113.7\r\n"), "{seen}");
    }
    let mut bare = client::dial(balancer, edge.at(8080)).await.unwrap();
    bare.write_all(b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(SOON, bare.read_to_end(&mut rest)).await.unwrap(); // a reset is as good
    assert!(rest.is_empty(), "a header is required");
    assert!(edge.page("/metrics").await.contains("gateway_connections_total{result=\"bad_proxy_header\"} 1"));
}

#[tokio::test]
async fn a_strangers_proxy_header_is_a_bad_request_and_forwarded_headers_are_not_believed() {
    let edge = Edge::start_with(json!({"proxyProtocol": ["10.0.0.0/8"]}), |world, web, network| {
        serves(world, web, network, &["a.example.com"]);
    })
    .await;
    let _origin = mirror(&edge.network).await;
    let stranger = edge.network.address(7, 7);
    let mut tcp = client::dial(stranger, edge.at(8080)).await.unwrap();
    tcp.write_all(
        b"PROXY TCP4 203.0.113.7 10.0.0.5 41214 80\r\nGET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n",
    )
    .await
    .unwrap();
    assert_eq!(response(&mut tcp).await.unwrap().0, 400);
    let mut tcp = client::dial(stranger, edge.at(8080)).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: a.example.com\r\nx-forwarded-for: 1.2.3.4\r\n\r\n")
        .await
        .unwrap();
    let (status, seen) = response(&mut tcp).await.unwrap();
    assert!(status == 200 && seen.contains(&format!("{stranger}")) && !seen.contains("1.2.3.4"), "{seen}");
}

#[tokio::test]
async fn one_client_takes_its_share_of_connections_and_handshakes_and_no_more() {
    let serving = json!({"connectionsPerClient": 4, "handshakesPerClient": 2, "handshakeSeconds": 2});
    let edge =
        Edge::start_with(serving, |world, web, network| serves(world, web, network, &["a.example.com"]))
            .await;
    let _origin = mirror(&edge.network).await;
    let (greedy, other) = (edge.network.address(7, 1), edge.network.address(7, 2));
    let silent = [
        client::dial(greedy, edge.at(8443)).await.unwrap(),
        client::dial(greedy, edge.at(8443)).await.unwrap(),
    ];
    eventually("two handshakes", SOON, async || {
        (edge.json("/v1/connections").await["handshakes"] == 2).then_some(())
    })
    .await;
    let tls = edge.tls(&[b"http/1.1"]);
    assert!(edge.dial_from(greedy, &tls, "a.example.com").await.is_err(), "two handshakes at once");
    assert!(edge.dial_from(other, &tls, "a.example.com").await.is_ok(), "others have their own");
    for mut silent in silent {
        let ended = timeout(SOON, silent.read(&mut [0; 16])).await.expect("a silent client is closed");
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(edge.dial_from(greedy, &tls, "a.example.com").await.unwrap());
    }
    assert!(edge.dial_from(greedy, &tls, "a.example.com").await.is_err(), "four connections");
    assert!(edge.dial_from(other, &tls, "a.example.com").await.is_ok());
    held.clear();
    eventually("its places back", SOON, async || edge.dial_from(greedy, &tls, "a.example.com").await.ok())
        .await;
    let metrics = edge.page("/metrics").await;
    for word in ["too_many_connections", "too_many_handshakes", "timeout"] {
        assert!(
            metrics.contains(&format!("gateway_connections_total{{result=\"{word}\"}}")),
            "{word}: {metrics}"
        );
    }
}

#[tokio::test]
async fn a_pod_is_reached_by_the_mesh_as_exactly_who_it_should_be() {
    let domain = TrustDomain::new("cluster.local").unwrap();
    let (api, thief) =
        (identity::of(&domain, "shop", "api").unwrap(), identity::of(&domain, "evil", "thief").unwrap());
    let expected = api.clone();
    let edge = Edge::start(|world, web, network| {
        serves(world, web, network, &["a.example.com"]);
        world.backend(&backend(BACKEND, origin(network), Security::Mesh([expected].into())));
    })
    .await;
    let listener = TcpListener::bind(origin(&edge.network)).await.unwrap();
    let (good, bad) = (edge.authority.credential(&api), edge.authority.credential(&thief));
    let pod = async {
        let mut peer = Peer::accept(&listener, &good, ALPN).await?;
        peer.expect(OPEN).await?;
        peer.send(ACCEPT, &[]).await?;
        let request = peer.expect(DATA).await?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        peer.send_together(&[(DATA, answer), (FIN, &[])]).await?;
        std::io::Result::Ok((request, peer))
    };
    let tls = edge.tls(&[b"http/1.1"]);
    let (answer, served) = tokio::join!(edge.get(&tls, "a.example.com", "a.example.com", "/"), pod);
    assert!(answer.0 == 200 && answer.1.ends_with("hello"), "{answer:?}");
    let (request, peer) = served.unwrap();
    assert!(request.starts_with(b"GET / HTTP/1.1\r\n"), "{request:?}");
    drop(peer);
    let stolen = async {
        loop {
            let Ok(mut peer) = Peer::accept(&listener, &bad, ALPN).await else { continue };
            let heard = peer.receive().await;
            assert!(heard.is_err(), "the thief heard {heard:?}");
        }
    };
    let asked = edge.get(&tls, "a.example.com", "a.example.com", "/");
    tokio::select! {
        (status, _) = asked => assert!(matches!(status, 502 | 503), "{status}"),
        () = stolen => {}
    }
}

/// `route` of a backend that is late, then there.
#[tokio::test]
async fn a_route_is_served_when_its_backend_is_known_and_answers_500_when_it_never_comes() {
    let edge = Edge::start(|world, web, network| serves(world, web, network, &["a.example.com"])).await;
    let _origin = mirror(&edge.network).await;
    let tls = edge.tls(&[b"http/1.1"]);
    edge.changes(|world| world.route(&route("a.example.com", "shop/late:80"))).await;
    assert_eq!(edge.get(&tls, "a.example.com", "a.example.com", "/").await.0, 500, "a second is over");
    edge.changes(|world| world.backend(&backend("shop/late:80", origin(&edge.network), Security::Plain)))
        .await;
    assert_eq!(edge.get(&tls, "a.example.com", "a.example.com", "/").await.0, 200);
}
