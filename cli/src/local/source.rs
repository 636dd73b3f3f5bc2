//! The manifests, as the controller reads them, down to what a supervisor needs.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Result;
use ipnet::IpNet;

use super::{
    LocalConfig,
    plan::{self, Plan, Workload},
};

/// What a directory holds.
pub(super) struct Source {
    /// Meshed pods.
    pub(super) workloads: Vec<Workload>,
    /// Of every pod and Service, meshed or not.
    pub(super) addresses: Vec<IpAddr>,
    /// Manifests that cannot be used: file, line and field, in words.
    pub(super) errors: Vec<String>,
}

/// Reads a directory. An error is a directory that cannot be read at all.
pub(super) fn read(directory: &Path) -> Result<Source> {
    anyhow::bail!("TODO {}", directory.display())
}

impl Source {
    /// `ranges`: those of the plan before.
    pub(super) fn plan(&self, config: &LocalConfig, ranges: &[IpNet]) -> Plan {
        let ranges = if config.mesh_ranges.is_empty() {
            plan::ranges_around(self.addresses.iter().copied(), ranges)
        } else {
            config.mesh_ranges.clone()
        };
        let mut plan = plan::plan(&self.workloads, &config.settings(ranges));
        plan.problems.splice(0..0, self.errors.iter().cloned());
        plan
    }
}

/// Differs when a file came, went or was written. Reads no content.
pub(super) fn fingerprint(directory: &Path) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files
        .filter_map(|entry| {
            let metadata = fs::metadata(entry.path()).ok()?; // through symlinks: a mounted ConfigMap is made of them
            Some((entry.path(), (metadata.len(), metadata.modified().ok())))
        })
        .collect()
}
