//! The webhook as the API server meets it: the real process, a CA that speaks the contract, TLS with its roots.

use std::{net::SocketAddr, process::Stdio, sync::Arc};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, pki_types::ServerName, version};
use serde_json::{Value, json};
use signet_core::{pod::INJECTOR_NAME, tls};
use signet_tests::{
    binaries::binary,
    eventually::{SOON, eventually},
    fake_ca::FakeCa,
    network::Network,
    pki::Authority,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn the_webhook_serves_with_the_cas_certificate_over_tls_1_2_and_1_3_and_leaves_unready_first() {
    let network = Network::claim();
    let at = |port| SocketAddr::new(network.control(), port);
    let authority = Arc::new(Authority::new());
    let home = std::env::temp_dir().join(format!("signet-injector-{}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("bundle.pem"), authority.bundle(1).to_pem()).unwrap();
    std::fs::write(home.join("token"), "spiffe://cluster.local/ns/signet-system/sa/injector").unwrap();
    let mut injector = tokio::process::Command::new(binary("signet"))
        .args(["run", "injector", "--image", "signet:1", "--mesh-range", "10.0.0.0/8"])
        .arg("--listen")
        .arg(at(8443).to_string())
        .arg("--pages")
        .arg(at(15020).to_string())
        .arg("--ca")
        .arg(at(15012).to_string())
        .arg("--token-file")
        .arg(home.join("token"))
        .arg("--trust-bundle")
        .arg(home.join("bundle.pem"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ready = async || plain(at(15020), "/ready").await;
    let waits = eventually("its pages", SOON, ready).await;
    assert_eq!(waits.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(waits.1.contains("no serving certificate"), "{}", waits.1);

    let _ca = FakeCa::start(at(15012), Arc::clone(&authority)).await.unwrap();
    eventually("ready", SOON, async || ready().await.filter(|(status, _)| *status == StatusCode::OK)).await;
    for version in [&version::TLS12, &version::TLS13] {
        let answer = asked(at(8443), &authority, version).await;
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
    }
    let metrics = plain(at(15020), "/metrics").await.unwrap().1;
    assert!(metrics.contains("signet_injector_injected_total 2"), "{metrics}");

    kill(Pid::from_raw(injector.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let leaves = async || ready().await.filter(|(status, _)| *status == StatusCode::SERVICE_UNAVAILABLE);
    assert!(eventually("unready", SOON, leaves).await.1.contains("leaving"));
    asked(at(8443), &authority, &version::TLS13).await; // still served
    assert!(injector.wait().await.unwrap().success());
    std::fs::remove_dir_all(home).unwrap();
}

async fn plain(at: SocketAddr, path: &str) -> Option<(StatusCode, String)> {
    let tcp = TcpStream::connect(at).await.ok()?;
    let (mut client, connection) = http1::handshake(TokioIo::new(tcp)).await.ok()?;
    let request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
    let exchange = async {
        let response = client.send_request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::join!(exchange, connection).0
}

/// Asks about a pod as the API server does; believes `authority`'s root for the webhook's name, and no other.
async fn asked(at: SocketAddr, authority: &Authority, version: &'static SupportedProtocolVersion) -> Value {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(tls::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from(INJECTOR_NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
    let pod = json!({ "metadata": { "name": "web" }, "spec": { "containers": [{ "name": "web" }] } });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "u", "kind": kind, "operation": "CREATE", "namespace": "shop", "object": pod },
    });
    let body = Full::new(Bytes::from(review.to_string()));
    let request = Request::post("/inject").header("host", INJECTOR_NAME).body(body).unwrap();
    let exchange = async {
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let (body, _) = tokio::join!(exchange, connection);
    serde_json::from_slice(&body).unwrap()
}
