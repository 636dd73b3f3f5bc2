//! Certificates that the kubelet asks for and gives to pods, and the trust bundles beside them.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use signet_cluster::{Namespace, fixtures::signer::Signer, pod_certificate_requests, test};

/// Both sources in one directory; `SIGNER` is the test's own.
const POD: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  serviceAccountName: web
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: toolbox
    image: signet.test/toolbox:1
    imagePullPolicy: IfNotPresent
    volumeMounts: [{name: id, mountPath: /id}]
  volumes:
  - name: id
    projected:
      sources:
      - podCertificate: {signerName: SIGNER, keyType: ECDSAP256, credentialBundlePath: bundle.pem, maxExpirationSeconds: 3600}
      - clusterTrustBundle: {signerName: SIGNER, labelSelector: {}, path: roots.pem}
";

/// A ClusterTrustBundle belongs to a signer by its name's prefix.
fn trust_bundle(signer: &str, version: u8, pem: &str) -> String {
    let pem: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    let name = signer.replace('/', ":");
    format!(
        "---
apiVersion: certificates.k8s.io/v1
kind: ClusterTrustBundle
metadata: {{name: \"{name}:v{version}\"}}
spec:
  signerName: {signer}
  trustBundle: |
{pem}"
    )
}

fn signer_name(namespace: &Namespace) -> String {
    format!("signet.test/{namespace}")
}

#[tokio::test]
async fn a_pod_certificate_is_asked_for_signed_by_us_and_delivered_before_the_pod_starts() -> Result<()> {
    test(async |namespace| {
        let name = signer_name(namespace);
        let signer = Signer::new(&name)?;
        let bundle = trust_bundle(&name, 1, &signer.root_pem());
        namespace.apply(&(POD.replace("SIGNER", &name) + &bundle)).await?;

        let requests = pod_certificate_requests(namespace);
        let request = namespace
            .wait_in(&requests, "a PodCertificateRequest", |all| all.first().map(|one| (*one).clone()))
            .await?;
        let pod = namespace.api::<Pod>().get("pod").await?;
        assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
        let spec = &request.spec;
        assert_eq!((&*spec.signer_name, &*spec.service_account_name), (&*name, "web"));
        assert_eq!((&*spec.pod_name, Some(&spec.pod_uid)), ("pod", pod.metadata.uid.as_ref()));
        assert_eq!((&*spec.node_name, spec.max_expiration_seconds), ("node2", 3600));

        tokio::select! {
            ended = signer.serve(namespace) => bail!("the signer ended: {ended:?}"),
            ready = namespace.wait_ready("pod") => ready?,
        };
        let verified = openssl(namespace, &["verify", "-CAfile", "/id/roots.pem", "/id/bundle.pem"]).await?;
        assert_eq!(verified, "/id/bundle.pem: OK");
        let alt = openssl(namespace, &["x509", "-in", "/id/bundle.pem", "-noout", "-ext", "subjectAltName"])
            .await?;
        assert!(alt.contains(&format!("URI:spiffe://cluster.local/ns/{namespace}/sa/web")), "{alt}");
        // The key in the bundle is the certificate's: one signs, the other verifies.
        let key = openssl(namespace, &["pkey", "-in", "/id/bundle.pem", "-pubout"]).await?;
        let certified = openssl(namespace, &["x509", "-in", "/id/bundle.pem", "-noout", "-pubkey"]).await?;
        assert_eq!(key, certified);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_cluster_trust_bundle_is_projected_with_the_roots_of_all_its_versions() -> Result<()> {
    test(async |namespace| {
        let name = signer_name(namespace);
        let roots = [Signer::new(&name)?.root_pem(), Signer::new(&name)?.root_pem()];
        let bundles = trust_bundle(&name, 1, &roots[0]) + &trust_bundle(&name, 2, &roots[1]);
        let pod = POD.replace("SIGNER", &name);
        let pod: String = pod
            .lines()
            .filter(|line| !line.contains("podCertificate"))
            .map(|line| format!("{line}\n"))
            .collect();
        namespace.apply(&(bundles + "---" + &pod)).await?;
        namespace.wait_ready("pod").await?;
        let projected = namespace.exec("pod", "toolbox", &["cat", "/id/roots.pem"]).await?.ok()?;
        assert_eq!(projected.matches("BEGIN CERTIFICATE").count(), 2);
        for root in &roots {
            let body: Vec<_> = root.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
            assert!(body.iter().all(|line| projected.contains(line)), "{projected} has not {root}");
        }
        Ok(())
    })
    .await
}

async fn openssl(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    namespace.exec("pod", "toolbox", &[&["openssl"], arguments].concat()).await?.ok()
}
