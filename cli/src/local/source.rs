//! The manifests, read with the controller's own eyes, down to what a supervisor needs.

use anyhow::{Result, bail};
use signet_controller::{
    index::{Index, Mesh},
    local::{self, LocalWorkload},
    source::directory::Directory,
};

use super::{
    LocalConfig,
    plan::{self, Plan, Workload},
};

/// A directory of manifests, followed.
pub(super) struct Source {
    directory: Directory,
    mesh: Mesh,
}

impl Source {
    /// Reads a directory for the first time.
    pub(super) fn open(config: &LocalConfig) -> Result<Self> {
        if !config.directory.is_dir() {
            bail!("{} is not a directory of manifests; name one that is", config.directory.display());
        }
        let mut directory = Directory::new(&config.directory);
        directory.poll();
        Ok(Self { directory, mesh: Mesh::new(config.trust_domain.clone()) })
    }

    /// True when the directory says something else than before. Blocking.
    pub(super) fn poll(&mut self) -> bool {
        self.directory.poll()
    }

    /// What should run now; `before` is the plan that runs.
    pub(super) fn plan(&self, config: &LocalConfig, before: &Plan) -> Plan {
        let contents = self.directory.contents();
        let index = Index::build(&self.mesh, &contents.objects);
        let workloads: Vec<Workload> = local::workloads(&index).into_iter().map(workload).collect();
        let ranges = if config.mesh_ranges.is_empty() {
            let addresses = local::addresses(&index).into_iter().map(|range| range.addr());
            plan::ranges_around(addresses, &before.mesh_ranges)
        } else {
            config.mesh_ranges.clone()
        };
        let mut plan = plan::plan(&workloads, &config.settings(ranges));
        let errors = contents.errors.iter().chain(&index.errors).map(ToString::to_string);
        plan.problems.splice(0..0, errors);
        plan.ingresses = local::has_ingresses(&contents.objects);
        plan
    }
}

fn workload(local: LocalWorkload) -> Workload {
    Workload {
        namespace: local.namespace,
        pod: local.pod,
        account: local.service_account,
        address: local.address,
        inbound: local.inbound.iter().map(|inbound| (inbound.port, inbound.target)).collect(),
        upstreams: local.upstreams.into_iter().map(|upstream| (upstream.listen, upstream.to)).collect(),
    }
}
