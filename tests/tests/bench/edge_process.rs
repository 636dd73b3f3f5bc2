//! The real `signet run edge` over a directory of a thousand Ingresses, and a gateway that it tells: how soon both are there.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use signet_core::{
    identity::{self, TrustDomain},
    tls,
};
use signet_tests::{
    binaries::binary,
    fake_ca::FakeCa,
    gateway::{Gateway, request, shake},
    manifests::file,
    mirror::Mirror,
    network::Network,
    pki::Authority,
};
use tokio::{process::Command, time::Instant};

use crate::{
    edge::{ORIGIN, certificate_of, host, leaf_of},
    pss,
};

pub(crate) struct Started {
    /// From edge's exec to the gateway's `/ready`.
    pub(crate) start: Duration,
    /// Bytes of edge (PSS).
    pub(crate) edge: u64,
}

/// Each of `hosts` answers then, with its own certificate.
pub(crate) async fn start(hosts: usize) -> Started {
    let (network, web, authority) = (Network::claim(), Authority::new(), Arc::new(Authority::new()));
    let control = |port| SocketAddr::new(network.control(), port).to_string();
    let _ca = FakeCa::start(SocketAddr::new(network.control(), 15012), Arc::clone(&authority)).await.unwrap();
    let _origin = Mirror::start((network.address(2, 1), ORIGIN).into()).await.unwrap();
    let home = std::env::temp_dir().join(format!("signet-bench-edge-process-{}", std::process::id()));
    let leaves = write_home(&home, &authority, &web, &network, hosts);
    let path = |name: &str| home.join(name);
    let begun = Instant::now();
    let mut edge = Command::new(binary("signet"))
        .args(["run", "edge", "--listen", &control(15014), "--ca", &control(15012)])
        .args(["--mesh-range", &network.range(), "--log", "warn"])
        .arg("--source-dir")
        .arg(path("manifests"))
        .arg("--token-file")
        .arg(path("token"))
        .arg("--trust-bundle")
        .arg(path("bundle.pem"))
        .arg("--admin-socket")
        .arg(path("admin"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let gateway = Gateway::start(1, &network, &authority, &json!({}), "info").await;
    let start = begun.elapsed();
    let client = client(&web);
    for (n, leaf) in leaves.iter().enumerate() {
        let mut tls = shake(network.address(9, 9), gateway.at(8443), &client, &host(n)).await.unwrap();
        assert_eq!(leaf_of(&tls), leaf, "{}", host(n));
        assert_eq!(request(&mut tls, &host(n), "/").await.unwrap().0, 200, "{}", host(n));
    }
    let started = Started { start, edge: pss(edge.id().unwrap()) };
    edge.kill().await.unwrap();
    fs::remove_dir_all(home).unwrap();
    started
}

/// A client that never resumes, and so always sees a certificate.
fn client(web: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(web.root().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(tls::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    Arc::new(client)
}

/// What edge needs, and a file for each host. Returns their leaves.
fn write_home(
    home: &Path,
    authority: &Authority,
    web: &Authority,
    network: &Network,
    hosts: usize,
) -> Vec<CertificateDer<'static>> {
    let manifests = home.join("manifests");
    fs::create_dir_all(&manifests).unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    fs::write(home.join("token"), identity::edge(&domain).to_string()).unwrap(); // the fake CA's tokens are names
    fs::write(home.join("bundle.pem"), authority.bundle(1).to_pem()).unwrap();
    let ip = network.address(2, 1);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "shop", "name": "web-0", "labels": { "app": "web" } },
        "spec": { "serviceAccountName": "web", "containers": [{ "name": "app", "image": "app" }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    });
    fs::write(manifests.join("pod.yaml"), file(&[pod])).unwrap();
    (0..hosts)
        .map(|n| {
            let certificate = certificate_of(web, n);
            let key = pem("PRIVATE KEY", certificate.key.der().secret_pkcs8_der());
            let chain: String = certificate.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
            fs::write(manifests.join(format!("web-{n}.yaml")), file(&objects(n, &chain, &key))).unwrap();
            certificate.chain[0].clone()
        })
        .collect()
}

fn objects(n: usize, chain: &str, key: &str) -> [Value; 3] {
    let meta = json!({ "namespace": "shop", "name": format!("web-{n}") });
    let backend = json!({ "service": { "name": format!("web-{n}"), "port": { "number": 80 } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": ORIGIN }] },
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta,
            "stringData": { "tls.crt": chain, "tls.key": key },
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta,
            "spec": {
                "ingressClassName": "signet",
                "tls": [{ "hosts": [host(n)], "secretName": format!("web-{n}") }],
                "rules": [{ "host": host(n), "http": { "paths": [path] } }],
            },
        }),
    ]
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
