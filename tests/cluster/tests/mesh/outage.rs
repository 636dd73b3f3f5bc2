//! Parts of Signet, and the API server, are away for a while: what runs goes on, what is created meanwhile comes up afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::json;
use signet_cluster::is_ready;
use tokio::time::sleep;

use crate::{
    installed::{Mesh, mesh_with},
    record::Record,
    traffic::{STARTS, late, only_the_service_was_reached, serve, under_load},
};

#[tokio::test]
async fn without_controller_ca_or_injector_for_30_s_no_request_fails_and_pods_made_meanwhile_come_up()
-> Result<()> {
    mesh_with(&["--expose", "none"], async |mesh| {
        serve(mesh).await?;
        under_load(mesh, async || {
            for part in ["controller", "ca", "injector"] {
                without(mesh, part, SHORT).await?;
            }
            Ok(())
        })
        .await?;
        only_the_service_was_reached(mesh).await
    })
    .await
}

#[tokio::test]
async fn without_an_api_server_for_30_s_no_request_fails_and_pods_made_afterwards_come_up() -> Result<()> {
    mesh_with(&["--expose", "none"], async |mesh| {
        serve(mesh).await?;
        under_load(mesh, async || without_api_server(mesh, SHORT).await).await?;
        only_the_service_was_reached(mesh).await
    })
    .await
}

/// The same for minutes, one after the other.
#[tokio::test]
#[ignore = "soak: make soak"]
async fn without_controller_ca_injector_and_api_server_for_5_minutes_each_no_request_fails() -> Result<()> {
    let record = Record::begin("soak", "6.3f")?;
    mesh_with(&["--expose", "none"], async |mesh| {
        serve(mesh).await?;
        let outcome = under_load(mesh, async || {
            for part in ["controller", "ca", "injector"] {
                without(mesh, part, LONG).await?;
            }
            without_api_server(mesh, LONG).await
        })
        .await?;
        only_the_service_was_reached(mesh).await?;
        let outage = LONG.as_secs();
        record.held(&json!({ "load": outcome, "secondsOfEachOutage": outage })).context("write the record")
    })
    .await
}

/// Scales `part` to nothing for `outage`, and creates a pod meanwhile.
async fn without(mesh: &Mesh, part: &str, outage: Duration) -> Result<()> {
    scale(mesh, part, 0).await?;
    let label = format!("app.kubernetes.io/name={part}");
    mesh.system.wait_ready_pods(&label, 0).await?;
    let name = format!("late-{part}");
    mesh.namespace.apply(&late(&name)).await?;
    sleep(outage).await; // the outage itself, not a wait for something
    let pods = ListParams::default().labels(&format!("app={name}"));
    for pod in mesh.namespace.api::<Pod>().list(&pods).await? {
        ensure!(!is_ready(&pod), "{name} was Ready without the {part}: then this proves nothing");
    }
    scale(mesh, part, 2).await?;
    mesh.available().await?;
    // The pauses of the ReplicaSet controller, which was refused all the time, have grown to as long as that.
    mesh.namespace.within(STARTS + 2 * outage).wait_deployment_available(&name).await.map(drop)
}

async fn without_api_server(mesh: &Mesh, outage: Duration) -> Result<()> {
    let cluster = &mesh.namespace.cluster;
    let stopped = cluster.node("node1")?.stop("kube-apiserver").await?;
    sleep(outage).await; // the outage itself
    stopped.end().await?;
    cluster.wait_api_ready().await?;
    mesh.namespace.apply(&late("late")).await?;
    mesh.namespace.within(STARTS).wait_deployment_available("late").await?;
    mesh.available().await
}

pub(crate) async fn scale(mesh: &Mesh, part: &str, replicas: u32) -> Result<()> {
    let (whom, count) = (format!("deployment/{part}"), format!("--replicas={replicas}"));
    mesh.kubectl(&["-n", &mesh.system.name, "scale", &whom, &count], "").await.map(drop)
}

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);
