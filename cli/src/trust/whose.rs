//! Which root is meant, and where it is found.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use signet_edge_ca::Root;

use super::store::Store;
use crate::{
    cluster::Part,
    shapes::EdgeCaAnswer,
    state::StateDir,
    whom::{Asking, Whom},
};

/// Whose root.
#[derive(Debug, clap::Args)]
pub(super) struct WhoseRoot {
    /// PEM file of the root, instead of asking for it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["state", "kubeconfig", "context"])]
    root: Option<PathBuf>,
    #[command(flatten)]
    pub(super) asking: Asking,
}

/// A root, and the file that it is in, if it is in one.
pub(super) struct Found {
    pub(super) root: Root,
    pub(super) file: Option<PathBuf>,
    /// The options that find it again, where it is in no file: " --context NAME".
    pub(super) flags: String,
}

impl WhoseRoot {
    /// In this order: the file that --root names; the cluster that is named; the state directory, whether a mesh runs there or not; the
    /// current context of the kubeconfig.
    pub(super) async fn find(&self) -> Result<Found> {
        if let Some(file) = &self.root {
            return read(file);
        }
        if let Some(state) = self.asking.state_dir()? {
            let file = state.edge_ca_root();
            if file.is_file() {
                return read(&file);
            }
        }
        match self.asking.whom().await? {
            Whom::Local(state) => bail!(
                "there is no edge CA in {}; signet local makes one when DIR has an Ingress that asks for a certificate",
                state.root().display()
            ),
            whom @ Whom::Cluster(_) => of_cluster(&whom, self.asking.cluster_flags()).await,
        }
    }
}

fn read(file: &Path) -> Result<Found> {
    let pem = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let root = Root::from_pem(&pem).map_err(|why| no_root(&file.display().to_string(), &why.to_string()))?;
    Ok(Found { root, file: Some(std::path::absolute(file)?), flags: String::new() })
}

async fn of_cluster(whom: &Whom, flags: String) -> Result<Found> {
    let answers = whom.ask::<EdgeCaAnswer>(Part::Edge, StateDir::edge_socket, "/v1/edge-ca").await?;
    let Some(answer) = answers.given.into_iter().find_map(|(_, answer)| answer) else {
        bail!("the cluster has no edge CA: no Ingress asks for one (docs/edge-ca.md)");
    };
    let root = Root::from_pem(answer.pem.as_bytes())
        .map_err(|why| no_root("what edge answered", &why.to_string()))?;
    Ok(Found { root, file: None, flags })
}

fn no_root(place: &str, why: &str) -> anyhow::Error {
    anyhow!("{place} is not an edge CA's root, and is installed nowhere: {why}")
}

/// One that a store has.
pub(super) fn of_id(id: &str, stores: &[Store]) -> Result<Found> {
    let held = stores.iter().flat_map(Store::held).find(|held| held.root.id() == id);
    let held = held.ok_or_else(|| {
        anyhow!("no store has an edge CA's root with id {id}; signet trust show lists them")
    })?;
    Ok(Found { root: held.root, file: None, flags: String::new() })
}
