//! When a cluster is ready: the API server answers, every node is Ready, and so is CoreDNS, the first pod.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{Cluster, harness::Steps, network, programs::Programs, state::State};

pub(crate) async fn wait(state: &State, programs: &Programs, steps: &Steps) -> Result<()> {
    let cluster = Cluster::attach(state.clone()).await?;
    cluster.wait_api_ready().await?;
    steps.say("API server ready");
    apply_coredns(state, programs)?;
    for node in cluster.nodes() {
        cluster.wait_node_ready(node.name()).await?;
    }
    for (number, node) in (1..).zip(cluster.nodes()) {
        tell_pod_ranges(&cluster, number, node.name()).await?;
    }
    steps.say("nodes Ready");
    cluster.wait_dns_ready().await?;
    steps.say("first pod (CoreDNS) Ready");
    Ok(())
}

/// As the controller-manager does where it hands ranges out to nodes; here they are in the settings of the network plugin.
async fn tell_pod_ranges(cluster: &Cluster, number: u8, node: &str) -> Result<()> {
    let ranges = network::node_pods(number);
    let patch = Patch::Merge(json!({ "spec": { "podCIDR": ranges[0], "podCIDRs": ranges } }));
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes
        .patch(node, &PatchParams::default(), &patch)
        .await
        .with_context(|| format!("tell {node}'s pod ranges"))?;
    Ok(())
}

fn apply_coredns(state: &State, programs: &Programs) -> Result<()> {
    let manifest = include_str!("../manifests/coredns.yaml")
        .replace("@DNS_IP@", &network::DNS_SERVICE.to_string())
        .replace("@DOMAIN@", network::DOMAIN)
        .replace("@ABROAD@", network::ABROAD)
        .replace("@FABRIC@", &network::FABRIC_V4.to_string());
    let mut kubectl = Command::new(programs.path("kubectl")?)
        .args(["apply", "--server-side", "-f", "-"])
        .env("KUBECONFIG", &state.kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run kubectl")?;
    kubectl.stdin.take().context("no pipe to kubectl")?.write_all(manifest.as_bytes())?;
    let output = kubectl.wait_with_output()?;
    ensure!(output.status.success(), "apply CoreDNS: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
