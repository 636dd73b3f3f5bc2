//! What a team runs, unchanged, in a namespace with the label: all of it works, and nothing that it says is on a wire in plain sight.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{ResourceExt as _, api::ListParams};
use serde_json::Value;
use signet_cluster::{Capture, Cluster, Namespace, Packets, disturb};

use crate::{
    installed::{Mesh, mesh},
    pods::toolbox,
};

const TEAM: &str = include_str!("everyday.yaml");

/// What each app says when it is asked, for who looks at the wires.
const MARKERS: [&str; 9] = [
    "MARKER-blog-4",
    "MARKER-blog-6",
    "MARKER-postgres",
    "MARKER-redis",
    "MARKER-grpc",
    "MARKER-store",
    "MARKER-early",
    "MARKER-report",
    "MARKER-nightly",
];
const OUTSIDE: &str = "MARKER-outside";

/// Servers by their label `app`.
const SERVERS: [&str; 5] = ["blog", "postgres", "redis", "grpc", "store"];

#[tokio::test]
async fn a_teams_unchanged_apps_all_work_in_the_mesh_and_no_wire_holds_a_word_of_them() -> Result<()> {
    mesh(async |mesh| {
        mesh.label().await?;
        let team = &mesh.namespace;
        let captures = on_both_nodes(&team.cluster).await?;
        Box::pin(run(team)).await?;
        is_injected(team).await?;
        let office = Namespace::create(&team.cluster, "office").await?;
        let told = Box::pin(ask_from(&office, team)).await;
        team.eventually("edges to prove all of it", async || proven(mesh, &office).await).await?;
        let edges = mesh.edges(&team.name).await?; // while the wires are watched: each had its handshake by now
        let packets = stop(captures).await?;
        for marker in MARKERS {
            ensure!(!holds(&packets, marker), "{marker} is in plain sight");
        }
        ensure!(
            holds(&packets, OUTSIDE),
            "the outside client's words are not there: is this the right wire?"
        );
        each_has_a_handshake(team, &edges, &packets).await?;
        office.delete().await?;
        told
    })
    .await
}

#[tokio::test]
async fn without_the_mesh_the_same_apps_words_are_on_the_wire() -> Result<()> {
    disturb(async |team| {
        let captures = on_both_nodes(&team.cluster).await?;
        Box::pin(run(team)).await?;
        let packets = stop(captures).await?;
        for marker in MARKERS {
            ensure!(holds(&packets, marker), "{marker} is not on the wire: then its absence proves nothing");
        }
        Ok(())
    })
    .await
}

/// Deploys everything, waits until it is well, and asks each app.
async fn run(team: &Namespace) -> Result<()> {
    team.apply(TEAM).await?;
    for app in ["blog", "postgres", "redis", "grpc"] {
        team.within(STARTS).wait_deployment_available(app).await?;
    }
    let team = team.within(STARTS);
    team.wait_endpoints("blog", 2).await?;
    team.wait_endpoints("store", 2).await?;
    for pod in ["early", "mirror", "guaranteed", "client"] {
        team.wait_ready(pod).await?;
    }
    let client = async |argv: &[&str]| ask(&team, "client", "toolbox", argv).await;
    for (family, marker) in [("-4", "MARKER-blog-4"), ("-6", "MARKER-blog-6")] {
        let url = format!("http://blog/{marker}");
        let answer = client(&["curl", "-sS", "-m", "20", family, &url]).await?;
        ensure!(answer.starts_with("nginx on blog-"), "{answer}");
    }
    let select = ["psql", "-h", "postgres", "-U", "postgres", "-tAc", "select 'MARKER-postgres'"];
    ensure!(client(&select).await? == "MARKER-postgres");
    client(&["redis-cli", "-h", "redis", "set", "word", "MARKER-redis"]).await?;
    ensure!(client(&["redis-cli", "-h", "redis", "get", "word"]).await? == "MARKER-redis");
    let call = ["/signet-cluster", "fixture", "grpc-call", "http://grpc:9000", "MARKER-grpc"];
    ensure!(ask(&team, "client", "caller", &call).await? == "MARKER-grpc");
    for store in ["store-0", "store-1"] {
        let url = format!("http://{store}.store:8080/MARKER-store");
        let answer = client(&["curl", "-sS", "-m", "20", &url]).await?;
        ensure!(answer.starts_with(&format!("nginx on {store} ")), "{answer}");
    }
    let own = ask(&team, "mirror", "toolbox", &["curl", "-sS", "-m", "20", "http://self/"]).await?;
    ensure!(own.starts_with("nginx on mirror "), "{own}");
    let guaranteed = team.api::<Pod>().get("guaranteed").await?;
    let class = guaranteed.status.and_then(|status| status.qos_class);
    ensure!(class.as_deref() == Some("Guaranteed"), "its class is {class:?}");
    let completed = |job: &Job| job.status.as_ref().is_some_and(|status| status.succeeded == Some(1));
    team.wait_for::<Job>("report", "to complete", completed).await?;
    let of_the_cron_job =
        |jobs: &[&Job]| jobs.iter().find(|job| is_of_nightly(job) && completed(job)).map(|_| ());
    team.wait_among::<Job, ()>("", "a Job of the CronJob to complete", of_the_cron_job).await
}

fn is_of_nightly(job: &Job) -> bool {
    job.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "CronJob")
}

/// Again until DNS knows the name.
async fn ask(team: &Namespace, pod: &str, container: &str, argv: &[&str]) -> Result<String> {
    let what = format!("an answer to {argv:?}");
    team.eventually(&what, async || team.exec(pod, container, argv).await?.ok()).await
}

/// A client whose namespace has no label: served in plaintext, by the mesh's default.
async fn ask_from(office: &Namespace, team: &Namespace) -> Result<()> {
    office.apply(&toolbox("stranger", "node1")).await?;
    office.wait_ready("stranger").await?;
    let url = format!("http://blog.{}/{OUTSIDE}", team.name);
    let answer = ask(office, "stranger", "toolbox", &["curl", "-4", "-sS", "-m", "20", &url]).await?;
    ensure!(answer.starts_with("nginx on blog-"), "{answer}");
    Ok(())
}

async fn is_injected(team: &Namespace) -> Result<()> {
    for pod in team.api::<Pod>().list(&ListParams::default()).await? {
        let spec = pod.spec.context("a pod has a spec")?;
        let first: Vec<&str> =
            spec.init_containers.iter().flatten().map(|c| c.name.as_str()).take(2).collect();
        ensure!(first == ["signet-capture", "signet-proxy"], "{:?} begins with {first:?}", pod.metadata.name);
    }
    Ok(())
}

/// Every pair that talked is proven by both ends with both identities, and the outside client is plaintext with its reason.
async fn proven(mesh: &Mesh, office: &Namespace) -> Result<()> {
    let name = &mesh.namespace.name;
    let edges = mesh.edges(name).await?;
    let id = |account: &str| format!("spiffe://cluster.local/ns/{name}/sa/{account}");
    for app in SERVERS {
        let is_it = |edge: &&Value| {
            edge["client"]["pod"] == "client"
                && edge["server"]["pod"].as_str().is_some_and(|pod| pod.starts_with(app))
                && edge["secured"] == true
                && edge["proof"] == "both"
                && edge["client"]["id"] == id("reader").as_str()
                && edge["server"]["id"] == id("default").as_str()
        };
        ensure!(edges.iter().any(|edge| is_it(&edge)), "no proven edge to {app} in {edges:#?}");
    }
    let plain = edges.iter().filter(|edge| edge["secured"] != true && edge["refused"] != true);
    let plain: Vec<&Value> = plain.collect();
    let (inside, outside): (Vec<&Value>, Vec<&Value>) =
        plain.into_iter().partition(|edge| edge["client"]["namespace"] == name.as_str());
    ensure!(!outside.is_empty(), "the outside client is not shown");
    for edge in outside {
        ensure!(edge["client"]["namespace"] == office.name.as_str(), "not of the outside client: {edge:#}");
        ensure!(edge["reason"] == "namespace_not_labelled", "another reason: {edge:#}");
    }
    // A pod that calls itself does not leave its own network.
    for edge in inside {
        let same = edge["client"]["pod"] == "mirror" && edge["server"]["pod"] == "mirror";
        ensure!(same && edge["reason"] == "own_pod", "plaintext in the mesh: {edge:#}");
    }
    Ok(())
}

/// Of every edge that is shown as secured a TLS handshake passed, from its client to its server's port.
async fn each_has_a_handshake(team: &Namespace, edges: &[Value], packets: &[Packets]) -> Result<()> {
    let mut addresses = BTreeMap::<String, BTreeSet<IpAddr>>::new();
    for pod in team.api::<Pod>().list(&ListParams::default()).await? {
        let name = pod.name_any();
        let ips = pod.status.unwrap_or_default().pod_ips.unwrap_or_default();
        addresses.insert(name, ips.iter().map(|ip| ip.ip.parse()).collect::<Result<_, _>>()?);
    }
    for edge in edges.iter().filter(|edge| edge["secured"] == true) {
        let of = |end: &Value| addresses.get(end["pod"].as_str()?);
        let (client, server) = of(&edge["client"]).zip(of(&edge["server"])).context("a pod of the team")?;
        let port = edge["server"]["port"].as_u64();
        let passed = packets.iter().flat_map(Packets::streams).any(|((from, to), said)| {
            client.contains(&from.ip())
                && server.contains(&to.ip())
                && port == Some(to.port().into())
                && said.starts_with(&HANDSHAKE)
        });
        ensure!(passed, "no TLS handshake passed for {edge:#}");
    }
    Ok(())
}

async fn on_both_nodes(cluster: &Cluster) -> Result<Vec<Capture>> {
    let mut captures = Vec::new();
    for node in cluster.nodes() {
        captures.push(node.capture().await?);
    }
    Ok(captures)
}

async fn stop(captures: Vec<Capture>) -> Result<Vec<Packets>> {
    let mut packets = Vec::new();
    for capture in captures {
        packets.push(capture.stop().await?);
    }
    Ok(packets)
}

fn holds(packets: &[Packets], words: &str) -> bool {
    packets.iter().any(|packets| packets.contains(words.as_bytes()))
}

/// How a TLS handshake record begins (RFC 9846 5.1).
const HANDSHAKE: [u8; 2] = [22, 3];
/// A CronJob needs up to a minute to begin.
const STARTS: std::time::Duration = std::time::Duration::from_secs(180);
