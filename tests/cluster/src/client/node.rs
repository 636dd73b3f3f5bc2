//! A node from outside of it: its components, and programs in its namespaces.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    output::{self, Output},
    wait,
};
use crate::{
    control::{self, Component, Reply, Request},
    state,
};

/// A node of the cluster.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) inner: state::Node,
}

impl Node {
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its network namespace, as nsenter(1) takes it.
    pub fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.inner.pid).into()
    }

    /// Runs a program of this machine in the node: its network, mounts, processes and cgroups.
    pub async fn run(&self, argv: &[&str]) -> Result<Output> {
        let pid = self.inner.pid.to_string();
        let enter = ["nsenter", "--target", &pid, "--net", "--mount", "--pid", "--cgroup", "--wdns=/", "--"];
        output::run(&[&enter, argv].concat()).await
    }

    pub async fn components(&self) -> Result<Vec<Component>> {
        match self.ask(Request::Status).await? {
            Reply::Components(components) => Ok(components),
            reply => bail!("{} answered {reply:?} to a question for its components", self.name()),
        }
    }

    pub async fn status(&self, component: &str) -> Result<Component> {
        let mut components = self.components().await?.into_iter();
        components
            .find(|one| one.name == component)
            .with_context(|| format!("{} runs no {component}", self.name()))
    }

    /// Stops a component; it stays down until the returned [`Disturbance`] ends.
    pub async fn stop(&self, component: &str) -> Result<Disturbance> {
        self.disturb(Request::Stop(component.into()), Request::Start(component.into())).await
    }

    /// SIGSTOP, and SIGCONT when the returned [`Disturbance`] ends.
    pub async fn pause(&self, component: &str) -> Result<Disturbance> {
        let signal = |signal: nix::sys::signal::Signal| Request::Signal(component.into(), signal as i32);
        use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
        self.disturb(signal(SIGSTOP), signal(SIGCONT)).await
    }

    /// SIGKILL, and waits until it has been started again.
    pub async fn kill(&self, component: &str) -> Result<Component> {
        let before = self.status(component).await?;
        ensure!(before.pid.is_some(), "{component} of {} is down, it cannot be killed", self.name());
        self.ask(Request::Signal(component.into(), nix::sys::signal::Signal::SIGKILL as i32)).await?;
        self.wait_restarted(&before).await
    }

    /// The end of a boot, of a node whose kubelet and containerd are stopped: SIGKILL to all pods and their shims, and what the
    /// kernel keeps of them in memory is gone: the file systems of their projected volumes (tokens too) and their networks.
    /// Components that run go on.
    pub async fn kill_pods(&self) -> Result<()> {
        self.ask(Request::KillOthers).await?;
        self.run(&["sh", "-c", FORGET]).await?.ok()?;
        Ok(())
    }

    /// Waits until a component that ended after `before` runs again.
    pub async fn wait_restarted(&self, before: &Component) -> Result<Component> {
        let what = format!("{} of {} to be started again", before.name, self.name());
        wait::eventually(&what, wait::DEADLINE, async || {
            let now = self.status(&before.name).await?;
            ensure!(now.restarts > before.restarts && now.pid.is_some(), "it is {now:?}");
            Ok(now)
        })
        .await
    }

    /// Waits until no component is down.
    pub async fn wait_running(&self) -> Result<()> {
        let what = format!("every component of {} to run", self.name());
        wait::eventually(&what, wait::DEADLINE, async || {
            let down: Vec<_> = self.components().await?.into_iter().filter(|one| one.pid.is_none()).collect();
            ensure!(down.is_empty(), "down: {down:?}");
            Ok(())
        })
        .await
    }

    async fn disturb(&self, begin: Request, end: Request) -> Result<Disturbance> {
        self.ask(begin).await?;
        Ok(Disturbance { socket: self.inner.socket.clone(), end: Some(end) })
    }

    async fn ask(&self, request: Request) -> Result<Reply> {
        ask(self.inner.socket.clone(), request).await
    }
}

/// A component that does not run as it should, until this ends or is dropped: a failed test leaves no wreck.
#[must_use = "dropped, it ends at once"]
#[derive(Debug)]
pub struct Disturbance {
    socket: PathBuf,
    /// None once it has ended.
    end: Option<Request>,
}

impl Disturbance {
    /// Starts the component again, or lets it go on. It is not ready yet when this returns.
    pub async fn end(mut self) -> Result<()> {
        if let Some(end) = self.end.take() {
            ask(self.socket.clone(), end).await?;
        }
        Ok(())
    }
}

impl Drop for Disturbance {
    fn drop(&mut self) {
        if let Some(end) = self.end.take()
            && let Err(error) = control::ask(&self.socket, &end)
        {
            eprintln!("the cluster stays disturbed: {error:#}");
        }
    }
}

/// Mounts first: a network namespace lives as long as the mount that names it. /run is a tmpfs, so its files end with a boot too.
const FORGET: &str = "\
    awk '$2 ~ \"^/(var/lib/kubelet/pods|run/netns|run/containerd)/\" {print $2}' /proc/self/mounts | tac | xargs -r -n1 umount -l
    rm -rf /run/netns/* /run/containerd/*";

async fn ask(socket: PathBuf, request: Request) -> Result<Reply> {
    tokio::task::spawn_blocking(move || control::ask(&socket, &request)).await?
}

/// A process of the pod with this UID, as seen from this machine.
pub(super) fn process_of_pod(uid: &str) -> Result<u32> {
    process_in_cgroup(&format!("pod{uid}"))
}

/// A process with `marker` in the path of its cgroup: a pod's UID, or a container's id.
pub(super) fn process_in_cgroup(marker: &str) -> Result<u32> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        if in_cgroup(&path, marker) {
            return Ok(pid);
        }
    }
    bail!("no process is in the cgroup {marker}; has the pod ended?")
}

/// False, too, of a process that has ended meanwhile.
fn in_cgroup(process: &Path, marker: &str) -> bool {
    fs::read_to_string(process.join("cgroup")).is_ok_and(|cgroups| cgroups.contains(marker))
}
