//! A cluster that starts from cold: of everything that was, there is only what etcd and the nodes' disks keep. Nobody gives a command.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::Value;
use signet_cluster::{Disturbance, Namespace, Node};
use signet_core::clock;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    installed::{Mesh, mesh, mesh_with},
    pods::{nginx, service, toolbox},
};

#[tokio::test]
async fn a_cluster_that_was_off_for_longer_than_certificates_live_is_ready_again_by_itself_in_3_minutes()
-> Result<()> {
    mesh_with(&["--dev", "--expose", "none", "--leaf-life", "20s", "--allow-short-leaves"], async |mesh| {
        deploy(mesh).await?;
        for order in ORDERS {
            let off = off(mesh).await.context("stop everything")?;
            // The outage itself: twice the life of a leaf; no renewal can have been in time.
            sleep(Duration::from_secs(40)).await;
            let began = (Instant::now(), clock::unix_now());
            timeout(LIMIT, on(mesh, off, order)).await.context("start everything")??;
            Box::pin(is_back(mesh, began.0, began.1))
                .await
                .with_context(|| format!("started in the order {order:?}"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn with_all_pods_of_ours_deleted_at_once_the_mesh_goes_on_and_the_control_plane_is_ready_again_in_3_minutes()
-> Result<()> {
    mesh(async |mesh| {
        deploy(mesh).await?;
        for how in [&[][..], &["--force", "--grace-period=0"]] {
            let began = (Instant::now(), clock::unix_now());
            let delete = ["-n", "signet-system", "delete", "pods", "--all", "--wait=false"];
            mesh.kubectl(&[&delete, how].concat(), "").await?;
            asks(&mesh.namespace, "client").await.context("while nobody of ours is there")?;
            timeout(LIMIT, ours_are_ready(mesh, began.1))
                .await
                .context("the control plane is not back")??;
            newcomer_joins(mesh).await.with_context(|| format!("after delete {how:?}"))?;
            eprintln!("deleted with {how:?}, all well after {:?}", began.0.elapsed());
        }
        Ok(())
    })
    .await
}

async fn deploy(mesh: &Mesh) -> Result<()> {
    mesh.label().await?;
    let team = mesh.namespace.within(LIMIT);
    team.apply(&(nginx("web", "web", "node2") + &toolbox("client", "node1") + &service("web", ""))).await?;
    for pod in ["web", "client"] {
        team.wait_ready(pod).await?;
    }
    team.wait_endpoints("web", 1).await?;
    asks(&team, "client").await
}

/// What is stopped, by its name.
type Off = Vec<(String, Disturbance)>;

/// Everything but etcd, and then every process of a pod. The components first, so that nobody starts anything again.
async fn off(mesh: &Mesh) -> Result<Off> {
    let nodes: Vec<Node> = mesh.namespace.cluster.nodes().collect();
    let stops = nodes.iter().map(async |node| {
        let components = node.components().await?.into_iter().map(|component| component.name);
        let stops = components.filter(|name| name != "etcd").map(async |name| {
            let stopped = node.stop(&name).await?;
            anyhow::Ok((name, stopped))
        });
        try_join_all(stops).await
    });
    let off: Vec<Off> = try_join_all(stops).await?;
    for node in &nodes {
        node.kill_pods().await?;
    }
    Ok(off.into_iter().flatten().collect())
}

/// In this order, those that it does not name last; with a pause in between, as long as machines take to differ.
async fn on(mesh: &Mesh, mut off: Off, order: &[&str]) -> Result<()> {
    off.sort_by_key(|(name, _)| order.iter().position(|one| one == name).unwrap_or(order.len()));
    let mut last = String::new();
    for (name, stopped) in off {
        if name != last {
            sleep(Duration::from_secs(2)).await;
        }
        stopped.end().await.with_context(|| format!("start {name}"))?;
        last = name;
    }
    mesh.namespace.cluster.wait_api_ready().await
}

/// Within [`LIMIT`] of `began`: our pods and the team's run anew and are Ready, talk, and prove it; a new pod joins.
async fn is_back(mesh: &Mesh, began: Instant, since: i64) -> Result<()> {
    let all = async {
        ours_are_ready(mesh, since).await?;
        let team = mesh.namespace.within(LIMIT);
        for pod in ["web", "client"] {
            team.wait_for(pod, "to run anew and be Ready", |pod: &Pod| is_new_and_ready(pod, since)).await?;
        }
        eprintln!("Ready after {:?}", began.elapsed());
        let asked = async || asks(&team, "client").await;
        team.eventually("the client to be answered", asked).await
    };
    timeout(LIMIT.saturating_sub(began.elapsed()), all)
        .await
        .with_context(|| format!("not within {LIMIT:?}"))??;
    newcomer_joins(mesh).await?;
    let proven = async || proven(mesh, "client").await;
    mesh.namespace.eventually("edges to prove it", proven).await
}

async fn ours_are_ready(mesh: &Mesh, since: i64) -> Result<()> {
    for part in ["ca", "controller", "injector"] {
        let labels = format!("app.kubernetes.io/name={part}");
        let what = format!("the {part} to run anew and be Ready");
        let ready = |pods: &[&Pod]| pods.iter().any(|pod| is_new_and_ready(pod, since)).then_some(());
        mesh.system.within(LIMIT).wait_among(&labels, &what, ready).await?;
    }
    Ok(())
}

/// Every container that is to run was started since (Unix seconds): the API server's word from before the outage says nothing.
fn is_new_and_ready(pod: &Pod, since: i64) -> bool {
    let Some(status) = &pod.status else { return false };
    let is_new = |container: &ContainerStatus| {
        let running = container.state.as_ref().and_then(|state| state.running.as_ref());
        let started = running.and_then(|running| running.started_at.as_ref());
        started.is_some_and(|started| started.0.as_second() >= since)
    };
    let proxies = status.init_container_statuses.iter().flatten().filter(|one| one.name == "signet-proxy");
    let mut all = status.container_statuses.iter().flatten().chain(proxies).peekable();
    let conditions = status.conditions.iter().flatten();
    let ready = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none() && all.peek().is_some() && all.all(is_new)
}

/// By name, in both families.
async fn asks(team: &Namespace, client: &str) -> Result<()> {
    for family in ["-4", "-6"] {
        let argv = ["curl", "-sS", "-m", "10", family, "http://web/"];
        let answer = team.exec(client, "toolbox", &argv).await?.ok()?;
        ensure!(answer.starts_with("nginx on web for "), "{answer}");
    }
    Ok(())
}

/// A pod that is made now: the API server believes the webhook, the kubelet mints a token, the CA takes it.
async fn newcomer_joins(mesh: &Mesh) -> Result<()> {
    let team = mesh.namespace.within(LIMIT);
    let name = format!("newcomer-{:08x}", fastrand::u32(..));
    // A webhook whose Service has no endpoint yet refuses pods of a labelled namespace; who makes them tries again.
    let apply = async || team.apply(&toolbox(&name, "node2")).await.map(drop);
    team.eventually("a new pod to be admitted", apply).await?;
    team.wait_ready(&name).await?;
    let asked = async || asks(&team, &name).await;
    team.eventually("the new pod to be answered", asked).await?;
    let proven = async || proven(mesh, &name).await;
    team.eventually("edges to prove it of the new pod", proven).await
}

async fn proven(mesh: &Mesh, client: &str) -> Result<()> {
    let edges = mesh.edges(&mesh.namespace.name).await?;
    let is_it = |edge: &&Value| {
        edge["client"]["pod"] == client
            && edge["server"]["pod"] == "web"
            && edge["secured"] == true
            && edge["proof"] == "both"
    };
    ensure!(edges.iter().any(|edge| is_it(&edge)), "no proven edge from {client} in {edges:#?}");
    Ok(())
}

/// From "who starts pods is there long before who could tell it which", to the other end.
const ORDERS: [&[&str]; 2] = [
    &[
        "containerd",
        "kubelet",
        "kube-proxy",
        "registry",
        "kube-scheduler",
        "kube-controller-manager",
        "kube-apiserver",
    ],
    &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "registry",
        "kube-proxy",
        "kubelet",
        "containerd",
    ],
];
/// The issue's.
const LIMIT: Duration = Duration::from_secs(180);
