//! Who is not in the mesh, before captured pods.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use signet_tests::{
    apps::Does,
    captured::Captured,
    eventually::{SOON, eventually},
    manifests::{self, Pod},
    netns::Netns,
};
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{DEADLINE, exchange};

async fn start(strict: bool) -> Captured {
    let builder = Captured::builder()
        .pod(Pod::named("api").accepting(8080).accepting(25))
        .pod(Pod::named("web"))
        .pod(Pod::named("stranger").in_namespace("jobs").outside_the_mesh());
    let builder = if strict { builder.strict("shop") } else { builder };
    builder.start().await
}

#[tokio::test]
async fn strict_refuses_a_strangers_plaintext_over_both_families_and_the_same_stranger_is_served_once_it_is_permissive()
 {
    let mesh = start(true).await;
    let (app, stranger) = (mesh.run("shop/api", 8080, Does::Echo), &mesh.pod("jobs/stranger").netns);
    for to in mesh.at_pod("shop/api", 8080) {
        let answer = exchange(stranger, to, b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.as_ref().map_or(true, Vec::is_empty), "{to}: {answer:?}");
    }
    assert_eq!((app.connections(), app.received()), (0, 0), "a stranger reached the app");
    mesh.workload("shop/api").tells("plaintext_refused").await;
    let (web, to) = (&mesh.pod("shop/web").netns, mesh.at_pod("shop/api", 8080)[0]);
    assert_eq!(exchange(web, to, b"mesh").await.unwrap(), b"mesh");
    // Without the check this very stranger is answered: what was refused above was refused by it.
    mesh.mesh.write("shop.yaml", &[manifests::namespace("shop", "permissive")]);
    for to in mesh.at_pod("shop/api", 8080) {
        eventually("the stranger to be served", SOON, async || {
            exchange(stranger, to, b"plain").await.ok().filter(|answer| answer == b"plain")
        })
        .await;
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_dial_of_the_proxys_own_ports_is_refused_by_name_from_outside_and_from_inside() {
    let mesh = start(false).await;
    let (api, stranger) = (mesh.workload("shop/api"), &mesh.pod("jobs/stranger").netns);
    for port in [15001, 15006, 15009] {
        for to in mesh.at_pod("shop/api", port) {
            let answer = exchange(stranger, to, b"hello").await;
            assert!(answer.as_ref().map_or(true, Vec::is_empty), "{to}: {answer:?}");
            api.access_line(&["reason=not_redirected", &to.to_string()]).await;
        }
    }
    api.tells("not_redirected").await;
    let web = mesh.workload("shop/web");
    for to in ["127.0.0.1:15001", "127.0.0.1:15006", "[::1]:15001"] {
        let answer = exchange(&mesh.pod("shop/web").netns, to.parse().unwrap(), b"hello").await;
        assert!(answer.as_ref().map_or(true, Vec::is_empty), "{to}: {answer:?}");
        web.access_line(&["reason=not_redirected", to]).await;
    }
    mesh.finish().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_by_silent_strangers_and_members_without_any_timer_in_between() {
    const BANNER: &[u8] = b"220 mail.shop.example ESMTP at your service\r\n";
    let mesh = start(false).await;
    let _mail = mesh.run("shop/api", 25, Does::Greet(BANNER));
    for name in ["jobs/stranger", "shop/web"] {
        for to in mesh.at_pod("shop/api", 25) {
            let fastest = fastest_greeting(&mesh.pod(name).netns, to, BANNER).await;
            // A timer that fired (100 ms for the hint, 10 s for the first bytes) would have fired every time.
            assert!(fastest < Duration::from_millis(100), "{name} waited {fastest:?} for {to}");
        }
    }
    mesh.finish().await;
}

/// Of some: one slow moment of a busy machine says nothing about timers.
async fn fastest_greeting(netns: &Netns, to: SocketAddr, banner: &[u8]) -> Duration {
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let begun = Instant::now();
        let mut connection = netns.dial(to).await.unwrap();
        let mut greeting = vec![0; banner.len()];
        timeout(DEADLINE, connection.read_exact(&mut greeting)).await.unwrap().unwrap();
        assert_eq!(greeting, banner);
        fastest = fastest.min(begun.elapsed());
    }
    fastest
}
