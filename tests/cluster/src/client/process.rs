//! A pod's processes, their memory and its network, from the machine beneath: for images without a shell, and for what a pod may not do to itself.

use std::fs;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Namespace,
    node::{process_in_cgroup, process_of_pod},
    output::{self, Output},
};

impl Namespace {
    /// Sends a signal to the process of a container that has one.
    pub async fn signal(&self, pod: &str, container: &str, signal: Signal) -> Result<()> {
        let process = self.process(pod, container).await?;
        kill(Pid::from_raw(process.try_into()?), signal)
            .with_context(|| format!("{signal} to container {container} of pod {pod} in {self}"))
    }

    /// The proportional set size of a container's process, bytes (proc_pid_smaps_rollup(5)).
    pub async fn memory(&self, pod: &str, container: &str) -> Result<u64> {
        let process = self.process(pod, container).await?;
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("a line Pss")?;
        let kib: u64 = pss.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    async fn process(&self, pod: &str, container: &str) -> Result<u32> {
        let object = self.api::<Pod>().get(pod).await?;
        let id = container_id(&object, container)
            .with_context(|| format!("container {container} of pod {pod} in {self} does not run"))?;
        tokio::task::spawn_blocking(move || process_in_cgroup(&id)).await?
    }

    /// Runs a program of this machine in the network of a running pod, with every right there.
    pub async fn in_network_of(&self, pod: &str, argv: &[&str]) -> Result<Output> {
        let uid = self.api::<Pod>().get(pod).await?.metadata.uid.context("a pod has a UID")?;
        let process = tokio::task::spawn_blocking(move || process_of_pod(&uid)).await??;
        let network = format!("--net=/proc/{process}/ns/net");
        output::run(&[&["nsenter", &network, "--"], argv].concat()).await
    }
}

/// As in the path of its cgroup: "containerd://<id>" without the scheme.
fn container_id(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses].into_iter().flatten().flatten();
    let found: &ContainerStatus = all.into_iter().find(|one| one.name == container)?;
    found.state.as_ref()?.running.as_ref()?;
    Some(found.container_id.as_ref()?.rsplit('/').next()?.to_owned())
}
