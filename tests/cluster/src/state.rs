//! What a running cluster leaves for others to find it: `<state>/cluster.json`, written when it is ready, removed when it stops.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use signet_core::files;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub directory: PathBuf,
    /// The harness, in the first PID namespace.
    pub harness: u32,
    /// Network namespace of the fabric: the router between the nodes, where clients from outside the cluster live.
    pub fabric: PathBuf,
    /// For a client in the machine's own network namespace: it leads to 127.0.0.1, and from there to the API server.
    pub kubeconfig: PathBuf,
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    /// Process 1 of the node, as seen from the first PID namespace; `/proc/<pid>/ns/*` are the node's namespaces.
    pub pid: u32,
    /// Unix socket of its init; what it answers is in [`crate::control`].
    pub socket: PathBuf,
}

const FILE: &str = "cluster.json";

impl State {
    pub fn write(&self) -> Result<()> {
        let path = self.directory.join(FILE);
        files::write_atomic(&path, &serde_json::to_vec_pretty(self)?, files::PRIVATE)
            .with_context(|| format!("write {}", path.display()))
    }

    /// None when no cluster is ready there.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("the cluster has no {name}"))
    }
}
