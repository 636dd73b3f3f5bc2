//! Whoever is killed in the middle of an order, the certificate arrives, and the CA was asked for it once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::DeleteParams};
use nix::sys::signal::Signal;
use serde_json::Value;
use signet_cluster::Namespace;
use tokio::time::sleep;

use super::{ASKS, STARTS, Setting, certified, gateways, ingress, list, of, opens};
use crate::installed::Mesh;

#[tokio::test]
async fn leaders_and_gateways_killed_at_twenty_moments_of_orders_cost_no_certificate_and_no_second_finalize()
-> Result<()> {
    certified(Setting { gateways: 3, ..Setting::default() }, async |mesh, outside, addresses| {
        let seed = std::env::var("SIGNET_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        eprintln!("SIGNET_SEED={seed}");
        let mut random = Rng::with_seed(seed);
        let names: Vec<String> = (0..KILLS).map(|n| format!("h{n}")).collect();
        for name in &names {
            let (wait, leader) = (random.u64(..LONGEST_MS), random.bool());
            mesh.namespace.apply(&ingress(name, &host(name), ASKS)).await?;
            sleep(Duration::from_millis(wait)).await; // the moment itself, not a wait for something
            let stage = stage(mesh, &host(name)).await;
            let killed =
                if leader { kill_leader(mesh).await? } else { kill_gateway(mesh, &mut random).await? };
            eprintln!("{name}: {killed} killed after {wait} ms, at {stage}");
        }
        mesh.system.within(STARTS).wait_deployment_available("edge").await?;
        mesh.gateways.within(STARTS).wait_deployment_available("gateway").await?;
        let web = outside.web(mesh, *addresses.first().context("an address")?).await?;
        for name in &names {
            opens(&mesh.namespace, &web, &host(name)).await?;
        }
        let (status, certificates) = list(mesh).await?;
        ensure!(status == 0 && certificates.len() == KILLS, "{status}: {certificates:#?}");
        let (orders, finalized) = outside.orders()?;
        eprintln!("{orders} orders, {finalized} of them finalized, for {KILLS} sets of names");
        ensure!(finalized == KILLS, "{finalized} certificates were asked for, {KILLS} are wanted");
        Ok(())
    })
    .await
}

/// Where the order is, if somebody says; for who reads the story's words.
async fn stage(mesh: &Mesh, host: &str) -> String {
    let of_host = async { of(&list(mesh).await?.1, host).map(|one| one["stage"].to_string()) };
    of_host.await.unwrap_or_else(|_| "nobody knows where".into())
}

/// SIGKILL to the replica that orders; another takes over when its Lease has run out.
async fn kill_leader(mesh: &Mesh) -> Result<String> {
    let leader = async || {
        let (_, said) = mesh.signet_said(&["cert", "list", "-o", "json"], "").await?;
        let said: Value = serde_json::from_str(&said)?;
        ensure!(said["leads"] == true, "nobody leads: {}", said["leader"]);
        Ok(said["replica"].as_str().context("its name")?.to_owned())
    };
    let pod = mesh.system.within(STARTS).eventually("a replica of edge to lead", leader).await?;
    kill(&mesh.system, &pod, "edge").await?;
    Ok(format!("leader {pod}"))
}

async fn kill_gateway(mesh: &Mesh, random: &mut Rng) -> Result<String> {
    let gateways = gateways(mesh).await?;
    let pod = random.choice(&gateways).context("a gateway")?.name_any();
    kill(&mesh.gateways, &pod, "gateway").await?;
    Ok(format!("gateway {pod}"))
}

/// With -9; then the pod goes too, so that no back-off of the kubelet makes later kills meet nobody.
async fn kill(namespace: &Namespace, pod: &str, container: &str) -> Result<()> {
    namespace.signal(pod, container, Signal::SIGKILL).await?;
    namespace.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

fn host(name: &str) -> String {
    format!("{name}.acme.test")
}

const KILLS: usize = 20;
/// An order takes three to five seconds with half of all nonces refused; some are killed before it and some after.
const LONGEST_MS: u64 = 6000;
