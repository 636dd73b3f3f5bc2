//! The webhook is away, or the API server does not believe it: who did not ask for a mesh never notices, and who did waits and
//! loses nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    core::v1::{Event, Pod},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use signet_cluster::{Namespace, is_ready};

use crate::{
    installed::{Mesh, mesh, mesh_with},
    outage::scale,
    pods::nginx,
    traffic::{STARTS, late},
};

#[tokio::test]
async fn with_the_webhook_down_pods_of_labelled_namespaces_wait_and_all_others_start_kube_systems_too()
-> Result<()> {
    mesh_with(&["--expose", "none"], async |mesh| {
        mesh.label().await?;
        // Labels that must do nothing, as an admin sets them who labels every namespace.
        for name in SYSTEM {
            mesh.kubectl(&["label", "namespace", name, "signet.dev/inject=enabled"], "").await?;
        }
        let told = Box::pin(while_it_is_down(mesh)).await;
        mesh.kubectl(&["label", "namespace", SYSTEM[0], "signet.dev/inject-"], "").await?; // the other one goes with Signet
        mesh.kubectl(&["-n", SYSTEM[0], "delete", "configmap", "signet-trust", "--ignore-not-found"], "")
            .await?;
        told
    })
    .await
}

async fn while_it_is_down(mesh: &Mesh) -> Result<()> {
    let team = mesh.namespace.within(STARTS);
    scale(mesh, "injector", 0).await?;
    mesh.system.wait_ready_pods("app.kubernetes.io/name=injector", 0).await?;

    team.apply(&late("waits")).await?;
    let refused = team.apply(&nginx("bare", "bare", "node1")).await;
    let why = format!("{:#}", refused.err().context("a bare pod was created without a proxy")?);
    ensure!(why.contains("namespace.injector.signet.dev"), "it does not say who refuses: {why}");
    let told = |events: &[&Event]| {
        let message = |event: &&&Event| {
            event.message.as_ref().is_some_and(|words| words.contains("injector.signet.dev"))
        };
        events.iter().find(message).map(|_| ())
    };
    team.wait_among::<Event, ()>("", "an Event that says why no pod is made", told).await?;

    let office = Namespace::create(&team.cluster, "office").await?;
    office.apply(&(nginx("plain", "plain", "node1") + "---" + &late("plain"))).await?;
    office.wait_ready("plain").await?;
    office.wait_deployment_available("plain").await?;
    office.delete().await?;
    for (namespace, labels) in
        [(SYSTEM[0], "k8s-app=kube-dns"), (SYSTEM[1], "app.kubernetes.io/name=controller")]
    {
        starts_anew(&Namespace::of_others(&team.cluster, namespace).within(STARTS), labels).await?;
    }

    let pods = team.api::<Pod>().list(&ListParams::default()).await?;
    ensure!(pods.items.is_empty(), "there are pods without a webhook: {:?}", pods.items);
    scale(mesh, "injector", 2).await?;
    let deployment: Deployment = team.wait_deployment_available("waits").await?;
    ensure!(deployment.metadata.name.as_deref() == Some("waits"));
    for pod in team.api::<Pod>().list(&ListParams::default()).await? {
        let first = pod.spec.context("a spec")?.init_containers.unwrap_or_default();
        ensure!(first.iter().any(|container| container.name == "signet-proxy"), "it came without a proxy");
    }
    Ok(())
}

/// Deletes one of the pods; as many are Ready again, and none was given a proxy.
async fn starts_anew(namespace: &Namespace, labels: &str) -> Result<()> {
    let pods = namespace.api::<Pod>().list(&ListParams::default().labels(labels)).await?.items;
    let name = pods
        .first()
        .and_then(|pod| pod.metadata.name.clone())
        .with_context(|| format!("{labels} in {namespace}"))?;
    namespace.api::<Pod>().delete(&name, &Default::default()).await?;
    let again = |now: &[&Pod]| {
        let ready =
            now.iter().filter(|pod| is_ready(pod) && pod.metadata.name.as_ref() != Some(&name)).count();
        (now.len() == pods.len() && ready == pods.len()).then_some(())
    };
    namespace.wait_among(labels, &format!("{labels} in {namespace} to be Ready again"), again).await?;
    for pod in namespace.api::<Pod>().list(&ListParams::default().labels(labels)).await? {
        ensure!(
            pod.spec.context("a spec")?.init_containers.unwrap_or_default().is_empty(),
            "{labels} was injected"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_ca_bundle_that_is_wrong_is_right_again_within_15_s_and_pods_are_made_again() -> Result<()> {
    mesh(async |mesh| {
        mesh.label().await?;
        let api = Api::<MutatingWebhookConfiguration>::all(mesh.namespace.cluster.client.clone());
        let right = bundles(&api).await?;
        ensure!(right.len() == 2 && right.iter().all(|bundle| !bundle.is_empty()), "caBundle is missing");
        let foreign = rcgen::generate_simple_self_signed(["stranger".to_owned()])?.cert.pem();
        let foreign = k8s_openapi::ByteString(foreign.into_bytes());
        let wrong: Vec<_> = (0..2)
            .map(|n| json!({ "op": "replace", "path": format!("/webhooks/{n}/clientConfig/caBundle"), "value": foreign }))
            .collect();
        for patch in [json!(wrong), json!([{ "op": "remove", "path": "/webhooks/0/clientConfig/caBundle" }])] {
            let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
            api.patch("signet-injector", &PatchParams::default(), &patch).await?;
            let begun = Instant::now();
            mesh.namespace
                .eventually("caBundle to be right", async || {
                    let now = bundles(&api).await?;
                    ensure!(now == right, "{now:?}");
                    Ok(())
                })
                .await?;
            eprintln!("caBundle was right again after {:.1?}", begun.elapsed());
            ensure!(begun.elapsed() < HEALS, "only after {:?}", begun.elapsed());
        }
        mesh.namespace.within(STARTS).apply(&nginx("web", "web", "node1")).await?;
        let pod = mesh.namespace.within(STARTS).wait_ready("web").await?;
        let first = pod.spec.context("a spec")?.init_containers.unwrap_or_default();
        ensure!(first.iter().any(|container| container.name == "signet-proxy"), "it came without a proxy");
        Ok(())
    })
    .await
}

/// The caBundle of each entry.
async fn bundles(api: &Api<MutatingWebhookConfiguration>) -> Result<Vec<Vec<u8>>> {
    let entries = api.get("signet-injector").await?.webhooks.unwrap_or_default();
    Ok(entries.into_iter().map(|entry| entry.client_config.ca_bundle.unwrap_or_default().0).collect())
}

/// Which no label brings into the mesh.
const SYSTEM: [&str; 2] = ["kube-system", "signet-system"];
const HEALS: Duration = Duration::from_secs(15);
