//! A directory that is followed, with time that the test owns.

use std::fs;

use signet_core::{identity, identity::TrustDomain, telemetry, tls};

use super::*;
use crate::{
    edge::{issuer::EdgeIssuer, translate::tests::options},
    index::Membership,
};

const BLOG: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: blog, namespace: home }
spec:
  ingressClassName: signet
  tls: [{ hosts: [blog.test] }]
  rules:
  - host: blog.test
    http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: blog, port: { number: 80 } } } }] }
"#;

fn builder() -> Builder {
    let (domain, mut registry) = (TrustDomain::new("cluster.local").unwrap(), telemetry::Metrics::new());
    Builder {
        mesh: Mesh { membership: Membership::Labelled, ..Mesh::new(domain.clone()) },
        options: Options { issuer: EdgeIssuer::Local, ..options() },
        suffixes: Vec::new(),
        gateway: identity::gateway(&domain),
        challenges: watch::Sender::default(),
        acme: watch::Sender::default(),
        provider: Arc::new(tls::default_provider()),
        metrics: Arc::new(Metrics::new(&mut registry)),
        edge_metrics: EdgeMetrics::new(&mut registry),
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_ca_that_is_mended_is_used_though_no_manifest_changes() {
    let root = std::env::temp_dir().join(format!("signet-follow-{}", std::process::id()));
    let (manifests, ca) = (root.join("manifests"), root.join("ca"));
    fs::create_dir_all(&manifests).unwrap();
    fs::create_dir_all(&ca).unwrap();
    fs::write(manifests.join("blog.yaml"), BLOG).unwrap();
    fs::write(ca.join("edge-ca.pem"), "half").unwrap();
    let drain = Drain::new();
    let mut followed = directory(manifests, Some(ca.clone()), builder(), &drain).await.unwrap();
    let fault = followed.snapshots.borrow().translated.edge_ca_fault.clone();
    assert!(fault.is_some_and(|fault| fault.contains("remove it")));
    fs::remove_file(ca.join("edge-ca.pem")).unwrap();
    let served = followed.snapshots.wait_for(|snapshot| snapshot.translated.first_expiry.is_some());
    let served = tokio::time::timeout(AGAIN * 3, served).await.expect("it looks again by itself").unwrap();
    assert_eq!((served.translated.edge_ca_fault.clone(), served.translated.edge_ca.is_some()), (None, true));
    drop(served);
    drain.run(Duration::ZERO).await;
    fs::remove_dir_all(root).unwrap();
}
