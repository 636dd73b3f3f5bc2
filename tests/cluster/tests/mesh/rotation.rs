//! The root is replaced under load, while the replica that leads is cut off from the API server: no request fails, and no step is
//! taken twice.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Pod, Secret, Service},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::Value;
use signet_cluster::Namespace;
use tokio::time::sleep;

use crate::{
    installed::{Mesh, mesh_with},
    traffic::{only_the_service_was_reached, restarts, serve, under_load},
};

#[tokio::test]
async fn a_root_is_replaced_under_load_with_the_leader_cut_off_and_no_request_fails_nor_pod_restarts()
-> Result<()> {
    mesh_with(&["--expose", "none", "--leaf-life", "30s", "--allow-short-leaves"], async |mesh| {
        serve(mesh).await?;
        let old = root(mesh).await?;
        let pods = restarts(&mesh.system).await?;
        let served = restarts(&mesh.namespace).await?;
        let mut history = Vec::new();
        under_load(mesh, async || {
            let rotation = rotate_and_cut_off_the_leader(mesh);
            tokio::select! {
                ended = rotation => ended,
                failed = record(&mesh.system, &mut history) => failed,
            }
        })
        .await?;
        steps_were_taken_once(&history)?;
        ensure!(root(mesh).await? != old, "it is the old root still");
        let (of_the_system, mut of_the_team) =
            (restarts(&mesh.system).await?, restarts(&mesh.namespace).await?);
        of_the_team.retain(|pod, _| !pod.starts_with("load "));
        ensure!(of_the_system == pods, "{of_the_system:?} were {pods:?}");
        ensure!(of_the_team == served, "{of_the_team:?} were {served:?}");
        Box::pin(one_root_was_made(&mesh.system)).await?;
        only_the_service_was_reached(mesh).await
    })
    .await
}

/// Returns when the root has been replaced, and every replica knows.
async fn rotate_and_cut_off_the_leader(mesh: &Mesh) -> Result<()> {
    let system = mesh.system.within(ROTATES);
    let leader = leader(&system).await?;
    mesh.signet(&["ca", "rotate"]).await?;
    cut_off(&system, &leader).await?;
    let other = |lease: &Lease| holder(lease).is_some_and(|holder| !holder.is_empty() && holder != leader);
    system.wait_for::<Lease>("signet-ca", "to have another holder", other).await?;
    // The first step that only the new leader can take; by then the old one has stopped signing.
    system.eventually("the rotation to go on", async || is_in(&system, "converge").await).await?;
    reconnect(&system, &leader).await?;
    system.eventually("the rotation to end", async || is_in(&system, "steady").await).await?;
    let agree = async || {
        let status = mesh.signet(&["ca", "status", "-o", "json"]).await?;
        let status: Value = serde_json::from_str(&status)?;
        let replicas = status["replicas"].as_array().context("replicas")?;
        ensure!(replicas.len() == 2 && status["roots"].as_array().context("roots")?.len() == 1, "{status:#}");
        let issued_by: BTreeSet<_> =
            replicas.iter().map(|one| one["intermediate"]["issuedBy"].to_string()).collect();
        ensure!(issued_by == BTreeSet::from([status["roots"][0]["id"].to_string()]), "{status:#}");
        Ok(())
    };
    mesh.namespace.eventually("both replicas to sign under the new root", agree).await
}

/// What the CA stored, each time that it stored something else: where the rotation stands, and the bundle's sequence. An answer that
/// is missing is a look that is missing: each phase is seen many times.
pub(crate) async fn record(system: &Namespace, history: &mut Vec<(String, u64)>) -> Result<()> {
    loop {
        let state = match state(system).await {
            Ok(state) => state,
            Err(e) => {
                eprintln!("the CA's state was not read: {e:#}");
                sleep(Duration::from_millis(100)).await; // a rate, as below
                continue;
            }
        };
        let phase = state["rotation"]["phase"].as_str().context("a phase")?.to_owned();
        let now = (phase, state["bundleSequence"].as_u64().context("a sequence")?);
        if history.last() != Some(&now) {
            history.push(now);
        }
        sleep(Duration::from_millis(100)).await; // a rate; each phase lasts for seconds
    }
}

pub(crate) fn steps_were_taken_once(history: &[(String, u64)]) -> Result<()> {
    let first = history.first().context("a history")?.1;
    let expected = [
        ("steady", first),
        ("prepare", first + 1),
        ("converge", first + 1),
        ("activate", first + 1),
        ("retire", first + 1),
        ("steady", first + 2),
    ];
    let expected = expected.map(|(phase, sequence)| (phase.to_owned(), sequence));
    ensure!(history == expected, "the steps were {history:?}");
    Ok(())
}

/// In the words of both replicas: the root of the installation, and the one of this rotation.
async fn one_root_was_made(system: &Namespace) -> Result<()> {
    let mut made = Vec::new();
    for pod in system.api::<Pod>().list(&ListParams::default().labels("app.kubernetes.io/name=ca")).await? {
        let log = system.logs(&pod.name_any(), "ca").await?;
        made.extend(log.lines().filter(|line| line.contains("\"new root\"")).map(str::to_owned));
    }
    ensure!(made.len() == 2, "roots were made: {made:#?}");
    Ok(())
}

pub(crate) async fn root(mesh: &Mesh) -> Result<String> {
    let state = state(&mesh.system).await?;
    let roots = state["roots"].as_array().context("roots")?;
    ensure!(roots.len() == 1, "{} roots", roots.len());
    Ok(roots[0]["id"].as_str().context("an id")?.to_owned())
}

pub(crate) async fn is_in(system: &Namespace, phase: &str) -> Result<()> {
    let rotation = state(system).await?["rotation"].clone();
    ensure!(rotation["phase"] == phase, "it is in {rotation}");
    Ok(())
}

pub(crate) async fn state(system: &Namespace) -> Result<Value> {
    let secret = system.api::<Secret>().get("signet-ca").await?;
    let data = secret.data.unwrap_or_default();
    Ok(serde_json::from_slice(&data.get("state.json").context("state.json")?.0)?)
}

async fn leader(system: &Namespace) -> Result<String> {
    let lease = system.wait_for::<Lease>("signet-ca", "to have a holder", |lease| {
        holder(lease).is_some_and(|holder| !holder.is_empty())
    });
    Ok(holder(&lease.await?).context("a holder")?.to_owned())
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// Packets of the pod to the API server disappear; everyone else reaches it as before.
async fn cut_off(system: &Namespace, pod: &str) -> Result<()> {
    let api = Api::<Service>::namespaced(system.cluster.client.clone(), "default").get("kubernetes").await?;
    let mut rules =
        "add table inet cut; add chain inet cut out { type filter hook output priority 0 ; }".to_owned();
    for address in api.spec.unwrap_or_default().cluster_ips.unwrap_or_default() {
        let family = if address.contains(':') { "ip6" } else { "ip" };
        rules += &format!("; add rule inet cut out {family} daddr {address} drop");
    }
    system.in_network_of(pod, &["nft", &rules]).await?.ok().map(drop)
}

async fn reconnect(system: &Namespace, pod: &str) -> Result<()> {
    system.in_network_of(pod, &["nft", "delete table inet cut"]).await?.ok().map(drop)
}

/// Two leaf lives of 30 s, twice 33 s until a step is dated, and a Lease that has to run out. Shorter lives end unrenewed on a machine that
/// is busy with more than this story.
const ROTATES: Duration = Duration::from_secs(170);
