//! From one plan to the next: proxies started, restarted and stopped, with the files that they read.

use std::fs;

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use signet_core::files;
use tracing::{info, warn};

use super::{
    Shared,
    child::{Child, Order},
    plan::{self, Plan, Sidecar},
    write,
};
use crate::state::StateDir;

impl Shared {
    /// Stops first, since a new workload may take a removed one's address.
    pub(super) async fn apply(&self, next: Plan) {
        let changes = plan::changes(&self.plan(), &next);
        let known = self.plan().problems.clone();
        for problem in next.problems.iter().filter(|problem| !known.contains(problem)) {
            warn!("{problem}");
        }
        join_all(changes.stop.iter().map(|name| self.remove(name))).await;
        join_all(changes.restart.iter().map(|name| self.take_down(name))).await;
        {
            let mut plan = self.plan();
            plan.sidecars.retain(|name, _| !changes.stop.contains(name));
            plan.sidecars.extend(next.sidecars.clone());
            (plan.problems, plan.mesh_ranges) = (next.problems, next.mesh_ranges);
            plan.ingresses = next.ingresses;
        }
        for name in changes.restart.iter().chain(&changes.start) {
            let Some(sidecar) = next.sidecars.get(name) else { continue };
            if let Err(e) = self.launch(name, sidecar) {
                warn!("{name} has no proxy: {e:#}");
                self.plan().problems.push(format!("{name} has no proxy: {e:#}"));
            }
        }
        if let Err(e) = self.follow_ingresses(next.ingresses).await {
            let problem = format!("Ingresses are not served: {e:#}");
            if !known.contains(&problem) {
                warn!("{problem}");
            }
            self.plan().problems.push(problem);
        }
        if !changes.is_empty() {
            info!(start = ?changes.start, restart = ?changes.restart, stop = ?changes.stop, "the directory was applied");
        }
    }

    fn launch(&self, name: &str, sidecar: &Sidecar) -> Result<()> {
        let directory = self.config.state.workload(name);
        files::create_private_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        write(&directory.join("bootstrap.json"), &serde_json::to_vec_pretty(&sidecar.bootstrap)?)?;
        let spec = self.config.proxy(sidecar);
        let tokens = Some(self.tokens.clone());
        self.adopt(Child::supervise(spec, tokens, self.changed.clone(), &self.nursery));
        Ok(())
    }

    pub(super) async fn take_down(&self, name: &str) {
        let child = self.children().remove(name);
        if let Some(child) = child {
            child.order(Order::Stop).await;
            if let Some(bearer) = &child.spec.bearer {
                self.tokens.forget(bearer).await;
            }
        }
        self.changed.send_replace(());
    }

    async fn remove(&self, name: &str) {
        self.take_down(name).await;
        let _ = fs::remove_dir_all(self.config.state.workload(name)); // what stays is swept at the next start
    }
}

/// Removes what workloads of an earlier run left: their tokens are dead, their bootstraps name what is gone.
pub(super) fn sweep(state: &StateDir, plan: &Plan) {
    let keep: Vec<_> = plan.sidecars.keys().map(|name| state.workload(name)).collect();
    for entry in fs::read_dir(state.workloads()).into_iter().flatten().flatten() {
        if !keep.contains(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path()); // not ours to remove: then it is not in the way either
        }
    }
}
