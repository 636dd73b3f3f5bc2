//! A mutating webhook behind a Service: how Signet's injector will be reached.

use anyhow::{Context as _, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::PostParams};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use signet_cluster::{fixtures::webhook::LABEL, test};

const HOOK: &str = "
apiVersion: v1
kind: Pod
metadata: {name: hook, labels: {app: hook}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: hook
    image: signet.test/cluster:dev
    imagePullPolicy: IfNotPresent
    command: [/signet-cluster, fixture, webhook, --listen, '[::]:8443', --certificate, /tls/tls.crt, --key, /tls/tls.key]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: tls, mountPath: /tls}]
  volumes: [{name: tls, secret: {secretName: hook}}]
---
apiVersion: v1
kind: Service
metadata: {name: hook}
spec: {selector: {app: hook}, ports: [{port: 443, targetPort: 8443}]}
---
apiVersion: v1
kind: Secret
metadata: {name: hook}
type: kubernetes.io/tls
data: {tls.crt: CERTIFICATE, tls.key: KEY}
";

const CONFIGURATION: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: NAMESPACE}
webhooks:
- name: hook.signet.test
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 10
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  clientConfig: {caBundle: ROOT, service: {namespace: NAMESPACE, name: hook, path: /mutate}}
";

#[tokio::test]
async fn a_mutating_webhook_behind_a_service_changes_pods_as_they_are_created() -> Result<()> {
    test(async |namespace| {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new([format!("hook.{namespace}.svc")])?.signed_by(&key, &root)?;
        let base64 = |pem: String| BASE64_STANDARD.encode(pem);
        let hook =
            HOOK.replace("CERTIFICATE", &base64(leaf.pem())).replace("KEY", &base64(key.serialize_pem()));
        namespace.apply(&hook).await?;
        namespace.wait_endpoints("hook", 1).await?;
        let configuration = CONFIGURATION.replace("NAMESPACE", &namespace.name);
        namespace.apply(&configuration.replace("ROOT", &base64(root.pem()))).await?;

        let pod = json!({
            "metadata": { "name": "pod", "labels": { "app": "web" } },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "pause", "image": "signet.test/pause:1" }],
            },
        });
        let pod: Pod = serde_json::from_value(pod)?;
        let api = namespace.api::<Pod>();
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        namespace
            .eventually("the API server to ask the webhook", async || {
                let labelled = api.create(&dry, &pod).await?;
                ensure!(labelled.labels().contains_key(LABEL.0), "not labelled");
                Ok(())
            })
            .await?;
        let created = api.create(&PostParams::default(), &pod).await.context("create a pod")?;
        assert_eq!(created.labels().get(LABEL.0).map(String::as_str), Some(LABEL.1));
        assert_eq!(created.labels().get("app").map(String::as_str), Some("web"));
        namespace.wait_ready("pod").await?;
        Ok(())
    })
    .await
}
