//! Certificates that edge orders for Ingresses: Pebble as CA, `signet run edge` with a directory of manifests, and a gateway that answers.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use serde_json::{Value, json};
use signet_core::identity::{self, TrustDomain};
use signet_tests::{
    binaries::binary, client, eventually::eventually, fake_ca::FakeCa, gateway::Gateway, manifests::file,
    network::Network, pebble::Pebble, pki::Authority,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

#[tokio::test]
async fn ingresses_of_2019_and_of_today_get_their_certificates_and_after_a_kill_they_are_still_there() {
    let (network, authority) = (Network::claim(), Arc::new(Authority::new()));
    let _ca = FakeCa::start(SocketAddr::new(network.control(), 15012), Arc::clone(&authority)).await.unwrap();
    let pebble = Pebble::start(&network, 0).await.unwrap();
    let home = std::env::temp_dir().join(format!("signet-ordered-{}", std::process::id()));
    pebble.hosts_are_at(network.address(1, 1)).await.unwrap(); // the gateway to come
    write_home(&home, &authority, &pebble);
    let mut edge = start(&home, &network, &pebble);
    let gateway = Gateway::start(1, &network, &authority, &json!({}), "info").await;

    let page = eventually("certificates of both hosts", ORDERED, async || {
        let page = acme(&home).await?;
        let of = |host: &str| certificate(&page, host).is_some_and(|one| one["served"] == true);
        (of("then.acme.test") && of("now.acme.test")).then_some(page)
    })
    .await;
    let (then, now) =
        (certificate(&page, "then.acme.test").unwrap(), certificate(&page, "now.acme.test").unwrap());
    assert_eq!(
        (then["challenge"].as_str(), now["challenge"].as_str()),
        (Some("http-01"), Some("tls-alpn-01"))
    );
    assert_eq!(then["names"], json!(["then.acme.test", "www.then.acme.test"]));
    assert_eq!((&then["seen"][0]["saw"], &then["namespace"]), (&json!(true), &json!("shop")));
    assert_eq!(then["preflight"]["holds"], json!([]));
    // A wildcard needs DNS-01, and there are no credentials: nothing is ordered, and it is said why.
    let wild = certificate(&page, "*.files.acme.test").unwrap();
    assert!(wild["heldBack"].as_str().is_some_and(|why| why.contains("signet.dev/dns-provider")), "{wild}");
    for host in ["then.acme.test", "www.then.acme.test", "now.acme.test"] {
        assert_eq!(plaintext(&gateway, host).await, 308, "{host}: it waits for no certificate");
    }
    assert_eq!(plaintext(&gateway, "a.files.acme.test").await, 503);
    let orders = pebble.count("is fully authorized. Processing finalization");
    assert_eq!(orders, 2);

    edge.kill().await.unwrap();
    let mut edge = start(&home, &network, &pebble);
    let again = eventually("the same certificates", ORDERED, async || {
        let page = acme(&home).await.filter(|page| page["leads"] == true)?;
        let of = |host: &str| certificate(&page, host).is_some_and(|one| one["served"] == true);
        (of("then.acme.test") && of("now.acme.test")).then_some(page)
    })
    .await;
    assert_eq!(certificate(&again, "then.acme.test").unwrap()["notAfter"], then["notAfter"]);
    assert_eq!(
        pebble.count("is fully authorized. Processing finalization"),
        orders,
        "nothing was ordered anew"
    );
    let log = fs::read_to_string(home.join("log")).unwrap();
    assert!(!log.contains("PRIVATE KEY"));
    edge.kill().await.unwrap();
    fs::remove_dir_all(home).unwrap();
}

fn write_home(home: &Path, authority: &Authority, pebble: &Pebble) {
    let manifests = home.join("manifests");
    fs::create_dir_all(&manifests).unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    fs::write(home.join("token"), identity::edge(&domain).to_string()).unwrap(); // the fake CA's tokens are names
    fs::write(home.join("bundle.pem"), authority.bundle(1).to_pem()).unwrap();
    fs::write(home.join("roots.pem"), &pebble.roots).unwrap();
    let all = [
        ingress(
            "then",
            &["then.acme.test", "www.then.acme.test"],
            &json!({ "kubernetes.io/tls-acme": "true" }),
        ),
        ingress(
            "now",
            &["now.acme.test"],
            &json!({ "cert-manager.io/cluster-issuer": "le", "signet.dev/acme-challenge": "tls-alpn-01" }),
        ),
        ingress("files", &["*.files.acme.test"], &json!({ "kubernetes.io/tls-acme": "true" })),
    ];
    fs::write(manifests.join("web.yaml"), file(&all)).unwrap();
}

fn ingress(name: &str, hosts: &[&str], annotations: &Value) -> Value {
    let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let rules: Vec<Value> =
        hosts.iter().map(|host| json!({ "host": host, "http": { "paths": [path] } })).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "namespace": "shop", "name": name, "annotations": annotations },
        "spec": {
            "ingressClassName": "signet",
            "tls": [{ "hosts": hosts, "secretName": format!("{name}-tls") }],
            "rules": rules,
        },
    })
}

fn start(home: &Path, network: &Network, pebble: &Pebble) -> Child {
    let at = |name: &str| home.join(name).display().to_string();
    let control = |port| SocketAddr::new(network.control(), port).to_string();
    let log = fs::OpenOptions::new().create(true).append(true).open(home.join("log")).unwrap();
    let mut command = Command::new(binary("signet"));
    command.args(["run", "edge", "--listen", &control(15014), "--ca", &control(15012)]);
    command.args(["--source-dir", &at("manifests"), "--token-file", &at("token")]);
    command.args(["--trust-bundle", &at("bundle.pem"), "--admin-socket", &at("admin")]);
    command.args(["--http-port", "5002", "--https-port", "5001"]); // where Pebble looks
    command.args(["--acme-directory", &pebble.directory, "--acme-roots", &at("roots.pem")]);
    command.args(["--acme-profile", "default"]);
    command.args(["--acme-resolver", &pebble.resolver.to_string(), "--acme-dir", &at("acme")]);
    command.args(["--acme-gateway", &network.address(1, 1).to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().unwrap()
}

async fn acme(home: &Path) -> Option<Value> {
    let (status, page) = client::ask_unix(&home.join("admin"), "GET", "/v1/acme").await.ok()?;
    serde_json::from_str(&page).ok().filter(|_| status == 200)
}

fn certificate<'a>(page: &'a Value, host: &str) -> Option<&'a Value> {
    let has = |one: &&Value| one["names"].as_array().is_some_and(|names| names.contains(&json!(host)));
    page["certificates"].as_array()?.iter().find(has)
}

/// What a request in plaintext gets.
async fn plaintext(gateway: &Gateway, host: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let at = gateway.at(5002);
    // Open until the answer is there: who ends its side is taken for gone.
    let mut connection = client::dial(at.ip(), at).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Pebble says when to ask again, in whole seconds.
const ORDERED: Duration = Duration::from_secs(90);
