//! When a cluster is ready: the API server answers, every node is Ready, and so is CoreDNS, the first pod.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{Cluster, harness::Steps, network, programs::Programs, state::State};

pub(crate) async fn wait(state: &State, programs: &Programs, steps: &Steps) -> Result<()> {
    let cluster = Cluster::attach(state.clone()).await?;
    cluster.wait_api_ready().await?;
    steps.say("API server ready");
    apply_coredns(state, programs)?;
    for node in cluster.nodes() {
        cluster.wait_node_ready(node.name()).await?;
    }
    steps.say("nodes Ready");
    cluster.wait_dns_ready().await?;
    steps.say("first pod (CoreDNS) Ready");
    Ok(())
}

fn apply_coredns(state: &State, programs: &Programs) -> Result<()> {
    let manifest = include_str!("../manifests/coredns.yaml")
        .replace("@DNS_IP@", &network::DNS_SERVICE.to_string())
        .replace("@DOMAIN@", network::DOMAIN);
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
