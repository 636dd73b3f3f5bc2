//! A proxy as the injector puts it into a pod: told by its environment, in an empty image, asked by the kubelet.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use signet_api::health::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use signet_core::{
    drain::Drain,
    pod::{Ask, HttpAsk, Probe, ProbeKind},
};
use signet_tests::{
    apps::Does,
    captured::Captured,
    client,
    eventually::{SOON, eventually},
    manifests::Pod,
    netns::Netns,
    unprivileged::Unprivileged,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::server::TcpIncoming;

use crate::{DEADLINE, exchange};

/// GET from inside a namespace: the whole answer, "" when there is none.
async fn get_inside(netns: &Netns, at: SocketAddr, path: &str) -> String {
    let asked = async {
        let mut connection = netns.dial(at).await?;
        connection.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap().unwrap_or_default()
}

fn probe(container: &str, kind: ProbeKind, ask: Ask) -> Probe {
    Probe { container: container.into(), kind, ask, timeout_seconds: 2 }
}

fn http(https: bool, port: u16, path: &str) -> Ask {
    let headers = vec![("X-Probe".to_owned(), "yes".to_owned())];
    Ask::Http(HttpAsk { https, port, path: path.into(), host: None, headers })
}

#[tokio::test]
async fn a_proxy_in_an_empty_image_finds_the_control_plane_by_name_and_carries_both_families() {
    let mesh = Captured::builder()
        .pod(Pod::named("web").with_upstream(9001, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .injecting("shop/web", &[])
        .injecting("shop/api", &[])
        .strict("shop")
        .start()
        .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo);
    let web = &mesh.pod("shop/web").netns;
    for to in mesh.at_pod("shop/api", 8080).into_iter().chain(mesh.at_service("shop/api", 8080)) {
        assert_eq!(exchange(web, to, b"by name").await.unwrap(), b"by name", "{to}");
        let line = mesh.workload("shop/web").access_line(&["direction=outbound", &to.to_string()]).await;
        assert!(line.contains("/ns/shop/sa/api"), "{line}");
    }
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, 9001));
    assert_eq!(exchange(web, upstream, b"explicit").await.unwrap(), b"explicit");
    // From outside nothing leads to it: what a stranger sent would leave with the pod's identity.
    let from_api =
        exchange(&mesh.pod("shop/api").netns, mesh.at_pod("shop/web", 9001)[0], b"in and out").await;
    assert!(from_api.as_ref().map_or(true, Vec::is_empty), "{from_api:?}");
    // ndots:5 makes the resolver try the search domains first; who stands in /etc/hosts is never asked for.
    let asked = mesh.dns.asked();
    for name in ["ca.signet-system.svc.shop.svc.cluster.local", "ca.signet-system.svc.cluster.local"] {
        assert!(asked.iter().any(|asked| asked == name), "{name}: {asked:?}");
    }
    assert!(!asked.iter().any(|asked| asked.starts_with("controller")), "{asked:?}");
    mesh.finish().await;
}

#[tokio::test]
async fn a_pods_network_sees_readiness_and_metrics_and_its_loopback_sees_everything() {
    let mesh = Captured::builder()
        .pod(Pod::named("api").accepting(8080))
        .injecting("shop/api", &[probe("api", ProbeKind::Readiness, http(false, 8080, "/"))])
        .start()
        .await;
    let netns = &mesh.pod("shop/api").netns;
    for at in mesh.at_pod("shop/api", 15020) {
        for (path, status) in
            [("/ready", 200), ("/metrics", 200), ("/config", 404), ("/connections", 404), ("/identity", 404)]
        {
            assert_eq!(client::get(at, path).await.unwrap().0, status, "{at} {path}");
        }
    }
    for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        for path in ["/ready", "/metrics", "/config", "/connections", "/identity"] {
            let answer = get_inside(netns, SocketAddr::new(loopback, 15021), path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{loopback} {path}: {answer}");
        }
    }
    let config = get_inside(netns, SocketAddr::from((Ipv4Addr::LOCALHOST, 15021)), "/config").await;
    assert!(config.contains("/probe/api/readiness") && !config.contains("X-Probe"), "{config}");
    for at in mesh.at_pod("shop/api", 15021) {
        client::get(at, "/config").await.unwrap_err();
        mesh.workload("shop/api").access_line(&["reason=not_redirected", &at.to_string()]).await;
        assert_eq!(get_inside(netns, at, "/config").await, "", "the pod's own address is not loopback");
    }
    mesh.finish().await;
}

#[tokio::test]
async fn under_strict_the_kubelet_sees_each_kind_of_probe_turn_green_and_red_and_nothing_that_is_not_listed()
{
    let listed = [
        probe("web", ProbeKind::Startup, http(false, 8080, "/healthz?deep=1")),
        probe("tls", ProbeKind::Readiness, http(true, 8443, "/")),
        probe("db", ProbeKind::Liveness, Ask::Tcp { port: 5432, host: None }),
        probe("rpc", ProbeKind::Readiness, Ask::Grpc { port: 9090, service: "shop.Api".into() }),
        probe("rpc", ProbeKind::Liveness, Ask::Grpc { port: 5432, service: String::new() }),
        probe("web", ProbeKind::PreStop, http(false, 8080, "/stop")),
    ];
    let mesh = Captured::builder()
        .pod(Pod::named("api").accepting(8080))
        .injecting("shop/api", &listed)
        .strict("shop")
        .start()
        .await;
    let pod = mesh.pod("shop/api");
    let pages = mesh.at_pod("shop/api", 15020);
    let kubelet = async |path: &str| {
        let [four, six] = [client::get(pages[0], path).await, client::get(pages[1], path).await];
        assert_eq!(four.as_ref().ok(), six.as_ref().ok(), "{path}: one answer over both families");
        four.ok()
    };
    for (path, said) in [
        ("/probe/web/startup", ":8080/healthz?deep=1\": Connection refused"),
        ("/probe/tls/readiness", "Get \"https://198.18.0.1:8443/\": Connection refused"),
        ("/probe/db/liveness", "dial tcp 198.18.0.1:5432: Connection refused"),
        ("/probe/rpc/readiness", "error: failed to connect service \"198.18.0.1:9090\": Connection refused"),
    ] {
        let (status, text) = kubelet(path).await.unwrap();
        assert!(status == 503 && text.contains(said), "{path}: {status} {text}");
    }
    assert_eq!(kubelet("/probe/web/pre-stop").await, None, "a hook fails by having no answer");

    let _apps =
        (mesh.run("shop/api", 8080, Does::Http("hello".into())), mesh.run("shop/api", 5432, Does::Echo));
    let rpc = pod.netns.listen(SocketAddr::from(([0_u16; 8], 9090))).unwrap();
    let (drain, serving) = (Drain::new(), HealthServer::new(OneService));
    let server = tonic::transport::Server::builder().add_service(serving);
    let server = Box::pin(server.serve_with_incoming(TcpIncoming::from(rpc)));
    drain.spawn(async move { drop(server.await) });
    let _tls = tls12_server(&pod.netns, pod.addresses[0]).await;
    for path in [
        "/probe/web/startup",
        "/probe/tls/readiness",
        "/probe/db/liveness",
        "/probe/rpc/readiness",
        "/probe/web/pre-stop",
    ] {
        let answer = kubelet(path).await;
        assert_eq!(answer.as_ref().map(|(status, _)| *status), Some(200), "{path}: {answer:?}");
    }
    let (status, text) = kubelet("/probe/rpc/liveness").await.unwrap();
    assert!(status == 503 && text.starts_with("error: health rpc probe failed"), "{status} {text}");
    for unlisted in
        ["/probe/web/readiness", "/probe/db/startup", "/probe/web/startup/", "/probe/web/..", "/probe"]
    {
        assert_eq!(kubelet(unlisted).await.unwrap().0, 404, "{unlisted}");
    }
    // Strict is strict: what the kubelet is told through us, it is not told by the app.
    client::get(SocketAddr::new(pod.addresses[0], 8080), "/healthz").await.unwrap_err();
    for result in ["failed", "passed"] {
        let labels = [("kind", "startup"), ("result", result)];
        assert_eq!(mesh.workload("shop/api").metric("signet_probes_total", &labels).await, 2.0, "{result}");
    }
    mesh.finish().await;
}

#[tokio::test]
async fn outbound_works_until_sigterm_and_while_it_drains_and_the_proxy_ends_with_the_last_connection() {
    let mesh = Captured::builder()
        .pod(Pod::named("web"))
        .pod(Pod::named("api").accepting(8080))
        .injecting("shop/web", &[])
        .start()
        .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo);
    let (web, to) = (&mesh.pod("shop/web").netns, mesh.at_pod("shop/api", 8080)[0]);
    let mut last = web.dial(to).await.unwrap();
    client::ping(&mut last, b"before").await.unwrap();
    let mut left = None;
    let (stopped, ()) = tokio::join!(mesh.mesh.local.stop_child("shop/web"), async {
        eventually("the proxy to be unready", SOON, async || {
            let (status, why) = client::get(mesh.at_pod("shop/web", 15020)[0], "/ready").await.ok()?;
            (status == 503 && why.contains("draining")).then_some(())
        })
        .await;
        client::ping(&mut last, b"while it drains").await.unwrap();
        assert_eq!(exchange(web, to, b"a new one").await.unwrap(), b"a new one");
        drop(last);
        left = Some(Instant::now());
    });
    stopped.unwrap();
    let took = left.unwrap().elapsed();
    assert!(took < Duration::from_secs(3), "it ended {took:?} after its last connection");
    let log = mesh.mesh.log("shop/web");
    assert!(log.contains("drained") && log.contains("cut=0"), "{log}");
    mesh.finish().await;
}

/// grpc.health.v1 of a server that has one service, shop.Api.
struct OneService;

#[tonic::async_trait]
impl Health for OneService {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        match &*request.into_inner().service {
            "shop.Api" => {
                let status = ServingStatus::Serving.into();
                Ok(tonic::Response::new(HealthCheckResponse { status }))
            }
            other => Err(tonic::Status::not_found(other.to_owned())),
        }
    }
}

/// OpenSSL's own server, of TLS 1.2 and nothing newer, with a certificate that nobody would believe.
async fn tls12_server(netns: &Netns, address: IpAddr) -> (Unprivileged, signet_tests::unprivileged::Server) {
    let user = Unprivileged::inside(netns).unwrap();
    let mut make = user.command("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=nobody"]);
    make.args(["-keyout", "key.pem", "-out", "cert.pem"]);
    user.output(make).await.unwrap();
    let mut server = user.command("openssl");
    server.args(["s_server", "-tls1_2", "-www", "-accept", "8443", "-key", "key.pem", "-cert", "cert.pem"]);
    let server = user.server("s_server", server, &[SocketAddr::new(address, 8443)]).await.unwrap();
    (user, server)
}
