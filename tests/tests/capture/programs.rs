//! Real programs, as they are: each is told a plain address, and all of it is mutual TLS on the link.

use std::net::SocketAddr;

use signet_tests::{
    apps::Does,
    captured::Captured,
    eventually::{SOON, eventually},
    manifests::Pod,
    programs,
    tap::Tap,
    unprivileged::Unprivileged,
};
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{DEADLINE, exchange, marker};

const SERVER: &str = "shop/all";

/// One client pod and one that serves everything, in a strict namespace, and somebody who is not in the mesh.
async fn start() -> Captured {
    let server = [8080, 6379, 5432, 5201, 25].into_iter().fold(Pod::named("all"), Pod::accepting);
    Captured::builder()
        .strict("shop")
        .pod(Pod::named("web"))
        .pod(server)
        .pod(Pod::named("stranger").in_namespace("jobs").outside_the_mesh())
        .start()
        .await
}

/// The pod's addresses and its Service's, IPv4 and IPv6 of each.
fn ways(mesh: &Captured, port: u16) -> Vec<SocketAddr> {
    [mesh.at_pod(SERVER, port), mesh.at_service(SERVER, port)].concat()
}

#[tokio::test]
async fn curl_redis_cli_and_psql_dial_pod_and_service_addresses_of_both_families_and_no_plaintext_is_on_the_link()
 {
    let mesh = start().await;
    let pod = mesh.pod(SERVER);
    let (server, client) = (
        Unprivileged::inside(&pod.netns).unwrap(),
        Unprivileged::inside(&mesh.pod("shop/web").netns).unwrap(),
    );
    let _nginx = programs::nginx(&server, &mesh.at_pod(SERVER, 8080)).await.unwrap();
    let _redis = programs::redis(&server, &mesh.at_pod(SERVER, 6379)).await.unwrap();
    let _postgres = programs::postgres(&server, &mesh.at_pod(SERVER, 5432)).await.unwrap();
    let secret = marker();
    server.write("www/index.html", &secret).unwrap();
    let tap = Tap::start(&pod.link, pod.addresses[0]).await.unwrap();

    for to in ways(&mesh, 8080) {
        let mut curl = client.command("curl");
        curl.args(["-sS", "--fail", &format!("http://{to}/")]);
        assert_eq!(client.output(curl).await.unwrap(), secret, "{to}");
    }
    for (n, to) in ways(&mesh, 6379).iter().enumerate() {
        let mut redis = client.command("redis-cli");
        redis.args(["-h", &to.ip().to_string(), "APPEND", "words", &secret]);
        assert_eq!(client.output(redis).await.unwrap().trim(), ((n + 1) * secret.len()).to_string(), "{to}");
    }
    for to in ways(&mesh, 5432) {
        let mut psql = client.command("psql");
        psql.args(["-U", "postgres", "-h", &to.ip().to_string(), "-Atc"]).arg(format!("select '{secret}'"));
        assert_eq!(client.output(psql).await.unwrap().trim(), secret, "{to}");
    }

    // The control: whoever is not in the mesh says this in plain sight on the same link, and the tap hears it.
    let (control, stranger) = (marker(), mesh.pod("jobs/stranger"));
    let _ = exchange(&stranger.netns, mesh.at_pod(SERVER, 8080)[0], control.as_bytes()).await;
    let tapped = tap.stop().await.unwrap();
    assert!(tapped.says(control.as_bytes()), "the tap hears nothing");
    assert!(!tapped.says(secret.as_bytes()), "what the apps said passed in plaintext");
    let rows = mesh.workload(SERVER).connections().await;
    let carried = rows.iter().filter(|row| {
        row["tls"]["version"] == "TLSv1.3"
            && row["peerId"].as_str().is_some_and(|id| id.ends_with("/ns/shop/sa/web"))
    });
    assert_eq!(carried.count(), 12, "three programs, four ways each: {rows:#?}");
    mesh.finish().await;
}

#[tokio::test]
async fn iperf3_pushes_and_pulls_over_both_families() {
    let mesh = start().await;
    let netns = &mesh.pod(SERVER).netns;
    let (server, client) =
        (Unprivileged::inside(netns).unwrap(), Unprivileged::inside(&mesh.pod("shop/web").netns).unwrap());
    let _iperf3 = programs::iperf3(&server, &mesh.at_pod(SERVER, 5201)).await.unwrap();
    for to in ways(&mesh, 5201) {
        for direction in [None, Some("-R")] {
            // It serves one client at a time, and needs a moment between two.
            let report = eventually(&format!("iperf3 to {to}"), SOON, async || {
                let mut iperf3 = client.command("iperf3");
                iperf3.args(["-J", "-n", "20M", "-P", "2", "-c", &to.ip().to_string()]).args(direction);
                client.output(iperf3).await.ok()
            })
            .await;
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            let bytes = report["end"]["sum_received"]["bytes"].as_u64();
            let bytes = bytes.unwrap_or_else(|| panic!("{to} {direction:?}: {report:#}"));
            // It counts when the end is announced, on another connection; megabytes are still on their way then.
            assert!(bytes > 1_000_000, "{to} {direction:?}: {bytes} bytes");
        }
    }
    let rows = mesh.workload(SERVER).connections().await;
    assert!(rows.len() >= 4 * 2 * 3, "one to control and two for bytes, each time: {rows:#?}");
    assert!(rows.iter().all(|row| row["tls"]["version"] == "TLSv1.3"), "{rows:#?}");
    mesh.finish().await;
}

#[tokio::test]
async fn a_mail_server_greets_a_client_that_says_nothing_and_the_greeting_is_encrypted() {
    let mesh = start().await;
    let pod = mesh.pod(SERVER);
    const BANNER: &[u8] = b"220 mail.shop.example ESMTP at your service\r\n";
    let mail = mesh.run(SERVER, 25, Does::Greet(BANNER));
    let tap = Tap::start(&pod.link, pod.addresses[0]).await.unwrap();
    for to in ways(&mesh, 25) {
        let mut connection = mesh.pod("shop/web").netns.dial(to).await.unwrap();
        let mut greeting = vec![0; BANNER.len()];
        timeout(DEADLINE, connection.read_exact(&mut greeting)).await.unwrap().unwrap();
        assert_eq!(greeting, BANNER, "{to}");
    }
    assert_eq!(mail.connections(), 4);
    let tapped = tap.stop().await.unwrap();
    assert!(!tapped.says(BANNER));
    assert!(tapped.bytes() > 4 * 2_000, "four handshakes are on the link: {} bytes", tapped.bytes());
    mesh.finish().await;
}

#[tokio::test]
async fn an_app_that_calls_its_own_service_or_its_own_address_reaches_itself_inside_the_pod() {
    let mesh = start().await;
    let (pod, workload) = (mesh.pod(SERVER), mesh.workload(SERVER));
    let app = mesh.run(SERVER, 8080, Does::Echo);
    let tap = Tap::start(&pod.link, pod.addresses[0]).await.unwrap();
    let secret = marker();
    let itself = [SocketAddr::from(([127, 0, 0, 1], 8080)), "[::1]:8080".parse().unwrap()];
    for to in mesh.at_pod(SERVER, 8080).into_iter().chain(itself) {
        assert_eq!(exchange(&pod.netns, to, secret.as_bytes()).await.unwrap(), secret.as_bytes(), "{to}");
    }
    assert_eq!(workload.connections().await, Vec::<serde_json::Value>::new(), "the proxy saw none of these");
    for to in mesh.at_service(SERVER, 8080) {
        assert_eq!(exchange(&pod.netns, to, secret.as_bytes()).await.unwrap(), secret.as_bytes(), "{to}");
        let row = eventually("the row of the call", SOON, async || {
            let rows = workload.connections().await;
            rows.into_iter().find(|row| row["destination"] == to.to_string() && row["state"] == "ended")
        })
        .await;
        assert_eq!(
            (&row["plainReason"], &row["direction"]),
            (&"own_pod".into(), &"outbound".into()),
            "{row}"
        );
    }
    assert_eq!(app.connections(), 6);
    assert!(!tap.stop().await.unwrap().says(secret.as_bytes()), "it left the pod");
    mesh.finish().await;
}
