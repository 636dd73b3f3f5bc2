//! Whom a question goes to: a mesh on this machine, or one in a cluster.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use hyper::StatusCode;
use serde::de::DeserializeOwned;

use crate::{
    ask::{NoAnswer, Place},
    cluster::{Answers, Cluster, Part, Which},
    output::Format,
    proc,
    state::StateDir,
};

/// The options that every question has.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asking {
    /// State directory of a mesh on this machine [default: $XDG_STATE_HOME/signet, else ~/.local/state/signet]
    #[arg(long, value_name = "DIR", env = "SIGNET_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    #[command(flatten)]
    cluster: Which,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

pub(crate) enum Whom {
    Local(StateDir),
    Cluster(Cluster),
}

impl Whom {
    /// What the process `part` says at `path`, each replica of it in a cluster; `None` of one that knows no such thing (404).
    /// `socket`: the part's, in a directory.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        part: Part,
        socket: fn(&StateDir) -> PathBuf,
        path: &str,
    ) -> Result<Answers<Option<T>>> {
        let known = |answer: Result<T, NoAnswer>| match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(NoAnswer::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(e) => Err(e),
        };
        match self {
            Self::Local(state) => {
                let answer = known(Place::Socket(socket(state)).get::<T>(path).await);
                let answer = answer.map_err(|e| state.explain(&part.to_string(), e))?;
                Ok(Answers { given: vec![(part.to_string(), answer)], missing: Vec::new() })
            }
            Self::Cluster(cluster) => {
                let answers = cluster.each_pod(part, async |place| known(place.get::<T>(path).await)).await?;
                cluster.some(part, answers)
            }
        }
    }
}

impl Asking {
    /// The options that name the cluster again: " --kubeconfig '/a/file' --context 'name'".
    pub(crate) fn cluster_flags(&self) -> String {
        let file = self.cluster.kubeconfig.as_ref().map(|file| format!(" --kubeconfig '{}'", file.display()));
        let context = self.cluster.context.as_ref().map(|name| format!(" --context '{name}'"));
        file.into_iter().chain(context).collect()
    }

    /// The state directory that is meant where no cluster is, whether a mesh runs there or not.
    pub(crate) fn state_dir(&self) -> Result<Option<StateDir>> {
        if self.cluster.is_named() {
            return Ok(None);
        }
        StateDir::resolve(self.state.as_deref()).map(Some)
    }

    /// In this order: the cluster that --context or --kubeconfig names; the directory that --state or SIGNET_STATE names; the mesh
    /// that runs in the default directory; the current context of the kubeconfig.
    pub(crate) async fn whom(&self) -> Result<Whom> {
        if self.cluster.is_named() {
            return Ok(Whom::Cluster(self.cluster.connect().await?));
        }
        let state = StateDir::resolve(self.state.as_deref())?;
        if self.state.is_some() || runs(&state) {
            return Ok(Whom::Local(state));
        }
        match self.cluster.connect_if_there().await? {
            Some(cluster) => Ok(Whom::Cluster(cluster)),
            None => Err(anyhow!(
                "no mesh runs in {}, and there is no kubeconfig. Start a mesh here with `signet demo` or `signet local DIR`, or name \
                 its directory with --state, or a cluster with --kubeconfig",
                state.root().display()
            )),
        }
    }
}

fn runs(state: &StateDir) -> bool {
    state.read_running().is_ok_and(|running| proc::start_time(running.pid).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        asking: Asking,
    }

    async fn whom(flags: &str) -> String {
        let _ = signet_core::tls::default_provider().install_default();
        let cli = Cli::try_parse_from(format!("signet {flags}").split_whitespace()).unwrap();
        match cli.asking.whom().await {
            Ok(Whom::Local(state)) => format!("local {}", state.root().display()),
            Ok(Whom::Cluster(cluster)) => cluster.name.to_string(),
            Err(e) => format!("{e:#}"),
        }
    }

    #[tokio::test]
    async fn a_named_cluster_wins_over_a_named_directory_and_that_over_everything_else() {
        assert_eq!(whom("--state /nonexistent/state").await, "local /nonexistent/state");
        let both = whom("--state /nonexistent/state --kubeconfig /nonexistent/config").await;
        assert!(both.starts_with("kubeconfig /nonexistent/config"), "{both}");
    }
}
