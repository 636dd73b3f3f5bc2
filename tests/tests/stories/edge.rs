//! Edge, as a process of its own: who gets the keys that it reads.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use signet_api::{
    EDGE_CERTIFICATE,
    xds::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use signet_core::{
    identity::{self, SpiffeId, TrustDomain},
    tls::{self, Generation},
    trust::Trust,
};
use signet_link::{Target, client};
use signet_tests::{
    binaries::binary,
    eventually::{SOON, eventually},
    fake_ca::FakeCa,
    manifests::file,
    network::Network,
    pki::Authority,
};
use tokio::{process::Command, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

#[tokio::test]
async fn a_sidecars_svid_that_asks_edge_for_a_key_gets_none_and_stands_in_its_log() {
    let (network, authority) = (Network::claim(), Arc::new(Authority::new()));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let _ca = FakeCa::start(SocketAddr::new(network.control(), 15012), Arc::clone(&authority)).await.unwrap();
    let home = std::env::temp_dir().join(format!("signet-edge-{}", std::process::id()));
    let key = write_home(&home, &authority, &domain);
    let listen = SocketAddr::new(network.control(), 15014);
    let mut child = Command::new(binary("signet"))
        .args(["run", "edge", "--listen", &listen.to_string()])
        .args(["--ca", &SocketAddr::new(network.control(), 15012).to_string()])
        .args(file_flags(&home))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(home.join("log")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ask = async |id: &SpiffeId| ask_for_keys(&authority, listen, &domain, id).await;

    let gateways = identity::gateway(&domain);
    let answer = eventually("edge to answer a gateway", SOON, async || ask(&gateways).await.ok()).await;
    let got =
        answer.resources.iter().flat_map(|resource| &resource.resource).flat_map(|any| any.value.clone());
    let got: Vec<u8> = got.collect();
    assert!(holds(&got, &key), "the gateway has no key: this test cannot fail");

    for (namespace, account) in
        [("shop", "web"), ("signet-gateway", "default"), ("shop", "gateway"), ("signet-system", "controller")]
    {
        let id = identity::of(&domain, namespace, account).unwrap();
        let answer = ask(&id).await.expect("an answer");
        assert!(answer.resources.is_empty() && answer.removed_resources == ["*"], "{id} got something");
        let log = fs::read_to_string(home.join("log")).unwrap();
        let told = log.lines().any(|line| line.contains("not_a_gateway") && line.contains(&id.to_string()));
        assert!(told, "nothing of {id} in {log}");
    }
    child.kill().await.unwrap();
    let log = fs::read(home.join("log")).unwrap();
    assert!(!holds(&log, &key) && !holds(&log, BASE64_STANDARD.encode(&key).as_bytes()));
    fs::remove_dir_all(home).unwrap();
}

/// A token and a trust bundle for edge, and an Ingress with the Secret that it names. Returns the Secret's key, DER.
fn write_home(home: &Path, authority: &Authority, domain: &TrustDomain) -> Vec<u8> {
    let manifests = home.join("manifests");
    fs::create_dir_all(&manifests).unwrap();
    fs::write(home.join("token"), identity::edge(domain).to_string()).unwrap(); // the fake CA's tokens are names
    fs::write(home.join("bundle.pem"), authority.bundle(1).to_pem()).unwrap();
    let web = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["app.example".into()]).unwrap().self_signed(&web).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "namespace": "shop", "name": "web-tls" },
        "stringData": { "tls.crt": certificate.pem(), "tls.key": web.serialize_pem() },
    });
    let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "namespace": "shop", "name": "web" },
        "spec": {
            "ingressClassName": "signet",
            "tls": [{ "hosts": ["app.example"], "secretName": "web-tls" }],
            "rules": [{ "host": "app.example", "http": { "paths": [path] } }],
        },
    });
    fs::write(manifests.join("web.yaml"), file(&[secret, ingress])).unwrap();
    web.serialize_der()
}

fn file_flags(home: &Path) -> Vec<String> {
    let flags = [
        ("--source-dir", "manifests"),
        ("--token-file", "token"),
        ("--trust-bundle", "bundle.pem"),
        ("--admin-socket", "admin"),
    ];
    flags
        .iter()
        .flat_map(|(flag, file)| [(*flag).to_owned(), home.join(file).display().to_string()])
        .collect()
}

/// Opens edge's stream as `id` and asks for every certificate: the first answer.
async fn ask_for_keys(
    authority: &Authority,
    edge: SocketAddr,
    domain: &TrustDomain,
    id: &SpiffeId,
) -> Result<DeltaDiscoveryResponse, Status> {
    let (trust, provider) = (Trust::new(domain.clone()), tls::mesh_provider(tls::default_provider()));
    trust.offer(authority.bundle(1));
    let own = authority.credential(id);
    let own = Generation::new(1, own.chain, own.key, &provider, &trust).unwrap();
    let target = Target { address: edge.into(), id: identity::edge(domain) };
    let config = move || Some(Arc::clone(&own.grpc.client));
    let channel = client::channel(&target, Some(edge.ip()), config).await;
    let channel = channel.map_err(|e| Status::unavailable(e.to_string()))?;
    let (requests, stream) = mpsc::channel(1);
    let everything = DeltaDiscoveryRequest {
        type_url: EDGE_CERTIFICATE.into(),
        resource_names_subscribe: vec!["*".into()],
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(everything).await.expect("there is room");
    let opened = AggregatedDiscoveryServiceClient::new(channel)
        .delta_aggregated_resources(ReceiverStream::new(stream))
        .await?;
    let first = timeout(SOON, opened.into_inner().message()).await.expect("an answer or a refusal");
    first?.ok_or_else(|| Status::aborted("it ended without a word"))
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
