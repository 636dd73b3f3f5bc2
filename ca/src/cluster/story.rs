//! The whole CA on an API server in memory: what it writes, whom it names, and that it asks for no right but those of
//! docs/design.md section 11.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use clap::Parser as _;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use signet_api::{
    SERVING_FIELD,
    istio::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use signet_core::{
    bundle::TrustBundle,
    drain::Drain,
    identity::{self, TrustDomain},
    tls::{self, Generation, anonymous_client, mesh_provider},
    trust::Trust,
};
use signet_lease::double::{Double, Fault};
use signet_link::{Target, client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::sleep,
};
use tonic::Code;

use super::reviews::tests::{POD, accepted, token};
use crate::{Args, Ca};

const SECRET: &str = "/api/v1/namespaces/signet-system/secrets/signet-ca";
const MAP: &str = "/api/v1/namespaces/signet-system/configmaps/signet-trust";
const SHOP: &str = "/api/v1/namespaces/shop/configmaps/signet-trust";

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

struct Replica {
    directory: PathBuf,
    ca: Ca,
    drain: Drain,
}

impl Replica {
    async fn start(name: &str, api: &Double) -> Self {
        let directory = std::env::temp_dir().join(format!("signet-replica-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let line = format!(
            "ca --kubernetes --listen 127.0.0.1:0 --pages 127.0.0.1:0 --admin 127.0.0.1:0 \
             --admin-socket {0}/admin.sock --audit-log {0}/audit.log",
            directory.display()
        );
        let args = Cli::try_parse_from(line.split_whitespace()).unwrap().args;
        let drain = Drain::new();
        let ca = Box::pin(Ca::start_in_cluster(&args, api.client(), &drain)).await.unwrap();
        Self { directory, ca, drain }
    }

    async fn admin(&self, request: &str) -> (u16, Value) {
        let mut socket = UnixStream::connect(self.directory.join("admin.sock")).await.unwrap();
        let request =
            format!("{request} HTTP/1.1\r\nhost: ca\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    /// Asks as who has just started and holds what is in the ConfigMap.
    async fn ask(&self, api: &Double, serving: Option<Value>) -> Result<Vec<String>, tonic::Status> {
        let config = anonymous_client(&mesh_provider(tls::default_provider()), &trust(api)).unwrap();
        let exp = signet_core::clock::unix_now() + 3600;
        let token = token(&json!({ "aud": ["signet-ca"], "exp": exp }));
        self.ask_with(config, Some(token), &KeyPair::generate().unwrap(), serving).await
    }

    async fn ask_with(
        &self,
        config: Arc<ClientConfig>,
        token: Option<String>,
        key: &KeyPair,
        serving: Option<Value>,
    ) -> Result<Vec<String>, tonic::Status> {
        let target = Target { address: self.ca.address.into(), id: identity::ca(&domain()) };
        let channel = client::channel(&target, None, move || Some(Arc::clone(&config))).await.unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(key).unwrap().pem().unwrap();
        let kind = |value: Value| match value {
            Value::String(text) => prost_types::value::Kind::StringValue(text),
            _ => prost_types::value::Kind::BoolValue(true),
        };
        let metadata = serving.map(|value| prost_types::Struct {
            fields: [(SERVING_FIELD.to_owned(), prost_types::Value { kind: Some(kind(value)) })].into(),
        });
        let mut request =
            tonic::Request::new(IstioCertificateRequest { csr, validity_duration: 0, metadata });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    fn last_line(&self) -> Value {
        let text = std::fs::read_to_string(self.directory.join("audit.log")).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    async fn stop(self) {
        assert_eq!(self.drain.run(Duration::from_secs(10)).await, 0, "nothing had to be cut");
        std::fs::remove_dir_all(self.directory).unwrap();
    }
}

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

/// What the ConfigMap says.
fn trust(api: &Double) -> Arc<Trust> {
    let trust = Trust::new(domain());
    let pem = api.get(MAP).unwrap()["data"]["bundle.pem"].as_str().unwrap().to_owned();
    trust.offer(TrustBundle::from_pem(pem.as_bytes()).unwrap());
    trust
}

fn api() -> Double {
    let api = Double::default();
    api.namespace("shop", &json!({ "signet.dev/inject": "enabled" }));
    api.answer_reviews(accepted("system:serviceaccount:shop:api"));
    let spec = json!({ "serviceAccountName": "api", "containers": [] });
    api.put(POD, json!({ "metadata": { "uid": "uid-1" }, "spec": spec }));
    api
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_share_a_root_each_issues_and_an_order_to_either_reaches_both() {
    let api = api();
    let (a, b) = (Replica::start("a", &api).await, Replica::start("b", &api).await);
    eventually("published", || api.get(SHOP).is_some()).await;
    for replica in [&a, &b] {
        let chain = replica.ask(&api, None).await.unwrap();
        assert_eq!(chain.len(), 3);
        let line = replica.last_line();
        assert_eq!(
            (&line["decision"], &line["id"], &line["pod"], &line["podUid"]),
            (
                &json!("issued"),
                &json!("spiffe://cluster.local/ns/shop/sa/api"),
                &json!("shop/api-1"),
                &json!("uid-1")
            )
        );
        assert_eq!(replica.admin("POST /v1/tokens").await.0, 404, "join tokens are directory mode's");
    }
    let (_, of_a) = a.admin("GET /v1/status").await;
    let (_, of_b) = b.admin("GET /v1/status").await;
    assert_eq!(of_a["roots"], of_b["roots"]);
    assert_ne!(of_a["intermediate"]["serial"], of_b["intermediate"]["serial"]);
    let (code, _) = b.admin("POST /v1/rotate").await;
    assert_eq!(code, 200);
    eventually("the new root is published", || {
        let pem = api.get(SHOP).unwrap()["data"]["bundle.pem"].clone();
        TrustBundle::from_pem(pem.as_str().unwrap().as_bytes()).unwrap().roots.len() == 2
    })
    .await;
    assert_eq!(a.admin("POST /v1/rotate").await.0, 409, "one is under way, whoever is asked");
    assert_eq!(b.admin("POST /v1/rotate").await.0, 409);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_alone_renews_nothing_so_a_stolen_one_ends_with_its_life() {
    let api = api();
    let ca = Replica::start("stolen", &api).await;
    eventually("published", || api.get(MAP).is_some()).await;
    let (trust, provider) = (trust(&api), mesh_provider(tls::default_provider()));
    let config = anonymous_client(&provider, &trust).unwrap();
    let exp = signet_core::clock::unix_now() + 3600;
    let token = token(&json!({ "aud": ["signet-ca"], "exp": exp }));
    let key = KeyPair::generate().unwrap();
    let granted = ca.ask_with(config, Some(token), &key, None).await.unwrap();
    let chain: Vec<_> =
        granted[..2].iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let stolen = Generation::new(1, chain, der, &provider, &trust).unwrap();
    let refused = ca.ask_with(Arc::clone(&stolen.grpc.client), None, &key, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("token"), "{refused}");
    let line = ca.last_line();
    assert_eq!((&line["decision"], &line["reason"]), (&json!("refused"), &json!("no_credentials")));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_injector_alone_gets_a_serving_certificate_and_for_its_name_alone() {
    let api = api();
    let ca = Replica::start("serving", &api).await;
    eventually("published", || api.get(MAP).is_some()).await;
    let name = json!("injector.signet-system.svc");
    let denied = ca.ask(&api, Some(name.clone())).await.unwrap_err();
    assert_eq!(
        (denied.code(), &ca.last_line()["reason"]),
        (Code::PermissionDenied, &json!("serving_denied"))
    );
    api.answer_reviews(accepted("system:serviceaccount:signet-system:injector"));
    let spec = json!({ "serviceAccountName": "injector", "containers": [] });
    api.put(
        "/api/v1/namespaces/signet-system/pods/api-1",
        json!({ "metadata": { "uid": "uid-1" }, "spec": spec }),
    );
    for other in [json!("kubernetes.default.svc"), json!(""), json!(true)] {
        assert_eq!(
            ca.ask(&api, Some(other.clone())).await.unwrap_err().code(),
            Code::PermissionDenied,
            "{other}"
        );
    }
    ca.ask(&api, Some(name.clone())).await.unwrap();
    let line = ca.last_line();
    assert_eq!((&line["decision"], &line["serving"]), (&json!("issued"), &name));
    api.answer_reviews(accepted("system:serviceaccount:signet-system:ca"));
    let spec = json!({ "serviceAccountName": "ca", "containers": [] });
    api.put(
        "/api/v1/namespaces/signet-system/pods/api-1",
        json!({ "metadata": { "uid": "uid-1" }, "spec": spec }),
    );
    assert_eq!(ca.ask(&api, None).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(ca.last_line()["reason"], "name_reserved");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_waits_for_the_api_server_and_asks_for_no_right_that_the_table_does_not_give() {
    let api = api();
    api.fault("", SECRET, Fault::Status(503));
    let (starting, mending) = (Replica::start("waits", &api), async {
        eventually("it asked", || api.requests().contains(&format!("GET {SECRET}"))).await;
        api.mend();
    });
    let (ca, ()) = tokio::join!(starting, mending);
    eventually("published", || api.get(SHOP).is_some()).await;
    ca.ask(&api, None).await.unwrap();
    ca.stop().await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/signet-system/leases/signet-ca";
    assert_eq!(api.get(lease).unwrap()["spec"]["holderIdentity"], "", "given back");
    let asked: BTreeSet<String> = api.requests().into_iter().collect();
    let allowed = [
        format!("GET {SECRET}"),
        "POST /api/v1/namespaces/signet-system/secrets".into(),
        format!("PUT {SECRET}"),
        format!("GET {SECRET}-intermediate"),
        format!("GET {lease}"),
        "POST /apis/coordination.k8s.io/v1/namespaces/signet-system/leases".into(),
        format!("PUT {lease}"),
        format!("GET {MAP}"),
        "POST /api/v1/namespaces/signet-system/configmaps".into(),
        format!("GET {SHOP}"),
        "POST /api/v1/namespaces/shop/configmaps".into(),
        "GET /api/v1/namespaces".into(),
        "GET /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/signet-injector".into(),
        "POST /apis/authentication.k8s.io/v1/tokenreviews".into(),
        format!("GET {POD}"),
    ];
    let more: Vec<_> = asked.iter().filter(|request| !allowed.contains(request)).collect();
    assert!(more.is_empty(), "{more:?}");
}
