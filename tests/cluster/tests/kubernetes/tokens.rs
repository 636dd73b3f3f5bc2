//! Tokens of pods, as Signet's CA reviews them.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use kube::{Api, api::PostParams};
use serde_json::json;
use signet_cluster::{Namespace, test};

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
  terminationGracePeriodSeconds: 0
  containers:
  - name: toolbox
    image: signet.test/toolbox:1
    imagePullPolicy: IfNotPresent
    volumeMounts: [{name: token, mountPath: /token}]
  volumes:
  - name: token
    projected:
      sources: [{serviceAccountToken: {audience: signet-ca, expirationSeconds: 600, path: token}}]
";

#[tokio::test]
async fn a_token_for_our_audience_names_its_pod_and_is_refused_for_any_other() -> Result<()> {
    test(async |namespace| {
        namespace.apply(POD).await?;
        let pod = namespace.wait_ready("pod").await?;
        let token = namespace.exec("pod", "toolbox", &["cat", "/token/token"]).await?.ok()?;

        let ours = review(namespace, &token, "signet-ca").await?;
        assert_eq!(ours.authenticated, Some(true), "{:?}", ours.error);
        assert_eq!(ours.audiences, Some(vec!["signet-ca".to_owned()]));
        let user = ours.user.unwrap();
        assert_eq!(user.username, Some(format!("system:serviceaccount:{namespace}:web")));
        let extra = user.extra.unwrap();
        assert_eq!(extra["authentication.kubernetes.io/pod-name"], ["pod"]);
        assert_eq!(extra["authentication.kubernetes.io/pod-uid"], [pod.metadata.uid.unwrap()]);

        for other in ["signet", "https://kubernetes.default.svc.cluster.local"] {
            let refused = review(namespace, &token, other).await?;
            assert_ne!(refused.authenticated, Some(true), "for {other}");
            assert!(refused.user.is_none_or(|user| user.username.is_none()));
            assert!(refused.error.unwrap().contains("audience"));
        }
        Ok(())
    })
    .await
}

async fn review(namespace: &Namespace, token: &str, audience: &str) -> Result<TokenReviewStatus> {
    let review = json!({ "metadata": {}, "spec": { "token": token, "audiences": [audience] } });
    let api = Api::<TokenReview>::all(namespace.cluster.client.clone());
    let review = api.create(&PostParams::default(), &serde_json::from_value(review)?).await?;
    review.status.context("the API server answered without a status")
}
