//! Rolling restarts, of a service and of every part of Signet: nobody's request fails for one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::{Value, json};
use signet_cluster::Namespace;
use tokio::time::sleep;

use crate::{
    installed::{Mesh, mesh_with},
    traffic::{STARTS, only_the_service_was_reached, serve, under_load},
};

#[tokio::test]
async fn a_service_restarted_three_times_loses_no_request_of_its_meshed_client() -> Result<()> {
    mesh_with(&["--expose", "none"], async |mesh| {
        serve(mesh).await?;
        under_load(mesh, async || {
            for _ in 0..TIMES {
                restart(mesh, &mesh.namespace, "web").await?;
            }
            mesh.namespace.within(STARTS).wait_ready_pods("app=web", 2).await.map(drop) // the last of the old ones has gone
        })
        .await?;
        only_the_service_was_reached(mesh).await
    })
    .await
}

/// And whoever creates a pod meanwhile need not try twice.
#[tokio::test]
async fn every_part_of_signet_restarted_three_times_costs_no_request_and_no_pod_its_proxy() -> Result<()> {
    mesh_with(&["--expose", "none"], async |mesh| {
        serve(mesh).await?;
        under_load(mesh, async || {
            let restarts = async {
                for part in ["controller", "ca", "injector"] {
                    for _ in 0..TIMES {
                        restart(mesh, &mesh.system, part).await?;
                    }
                }
                Ok(())
            };
            tokio::select! {
                ended = restarts => ended,
                failed = every_new_pod_is_injected(&mesh.namespace) => failed,
            }
        })
        .await?;
        only_the_service_was_reached(mesh).await
    })
    .await
}

/// Until it is dropped; an error for the first pod that is refused, or comes without a proxy.
async fn every_new_pod_is_injected(namespace: &Namespace) -> Result<()> {
    let container = json!({ "name": "app", "image": "signet.test/nginx:1" });
    let pod = json!({ "metadata": { "name": "trial" }, "spec": { "containers": [container] } });
    let pod: Pod = serde_json::from_value(pod)?;
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    loop {
        let made = namespace.api::<Pod>().create(&trial, &pod).await.context("create a pod")?;
        let spec: Value = serde_json::to_value(made.spec)?;
        ensure!(spec["initContainers"][1]["name"] == "signet-proxy", "it has no proxy: {spec:#}");
        sleep(Duration::from_millis(100)).await; // a rate, not a wait for something
    }
}

async fn restart(mesh: &Mesh, namespace: &Namespace, deployment: &str) -> Result<()> {
    let whom = format!("deployment/{deployment}");
    mesh.kubectl(&["-n", &namespace.name, "rollout", "restart", &whom], "").await?;
    namespace.within(STARTS).wait_deployment_available(deployment).await.map(drop)
}

const TIMES: usize = 3;
