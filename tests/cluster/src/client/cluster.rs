//! Attaching to the cluster that `make cluster` holds.

use std::{env, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use signet_core::tls;

use super::{
    namespace,
    node::Node,
    output::{self, Output},
    wait::{self, Selection},
};
use crate::{harness, paths, state::State};

/// A running cluster. Clones share the connection to its API server.
#[derive(Clone)]
pub struct Cluster {
    pub state: State,
    /// As cluster-admin.
    pub client: Client,
}

impl Cluster {
    /// Attaches to the cluster named by `$SIGNET_CLUSTER`, or "shared".
    pub async fn shared() -> Result<Self> {
        let name = env::var("SIGNET_CLUSTER").unwrap_or_else(|_| "shared".into());
        // A harness that was killed leaves its state behind.
        let state = if harness::is_running(&name)? { State::read(&paths::state(&name)?)? } else { None };
        let state = state.context("no cluster is running; start one with: make cluster")?;
        Self::attach(state).await
    }

    pub(crate) async fn attach(state: State) -> Result<Self> {
        let _ = tls::default_provider().install_default(); // an error says that there is one already
        let kubeconfig = Kubeconfig::read_from(&state.kubeconfig)
            .with_context(|| format!("read {}", state.kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)?, state })
    }

    /// "node1" or "node2".
    pub fn node(&self, name: &str) -> Result<Node> {
        Ok(Node { inner: self.state.node(name)?.clone() })
    }

    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.state.nodes.iter().map(|node| Node { inner: node.clone() })
    }

    /// The addresses of a node, IPv4 first.
    pub async fn node_addresses(&self, node: &str) -> Result<Vec<IpAddr>> {
        let node = Api::<v1::Node>::all(self.client.clone()).get(node).await?;
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let mut addresses: Vec<IpAddr> = addresses
            .iter()
            .filter(|address| address.type_ == "InternalIP")
            .map(|address| address.address.parse())
            .collect::<Result<_, _>>()?;
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Runs a program of this machine, e.g. curl, in the network outside of the cluster.
    pub async fn outside(&self, argv: &[&str]) -> Result<Output> {
        let network = format!("--net={}", self.state.fabric.display());
        output::run(&[&["nsenter", &network], argv].concat()).await
    }

    /// Waits until the API server answers; for after it was stopped.
    pub async fn wait_api_ready(&self) -> Result<()> {
        wait::eventually("the API server to be ready", wait::DEADLINE, async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            // A connection to an API server that is gone has to end within the test's patience.
            tokio::time::timeout(ANSWER, self.client.request_text(request)).await??;
            Ok(())
        })
        .await
    }

    /// Waits until CoreDNS can be asked.
    pub(crate) async fn wait_dns_ready(&self) -> Result<()> {
        let pods = Api::<v1::Pod>::namespaced(self.client.clone(), "kube-system");
        let selection = Selection::Labelled("k8s-app=kube-dns");
        wait::until(&pods, selection, "CoreDNS to be Ready", RECOVERY, |pods| {
            pods.iter().any(|pod| namespace::is_ready(pod)).then_some(())
        })
        .await
    }

    /// Waits until every component runs, the API server answers and every node is Ready.
    pub async fn wait_healthy(&self) -> Result<()> {
        for node in self.nodes() {
            node.wait_running().await?;
        }
        self.wait_api_ready().await?;
        for node in self.nodes() {
            self.wait_node_ready(node.name()).await?;
        }
        Ok(())
    }

    pub async fn wait_node_ready(&self, name: &str) -> Result<()> {
        self.wait_node(name, "to be Ready", is_ready).await
    }

    /// Waits until the kubelet says that its node cannot run pods, or has said nothing for too long.
    pub async fn wait_node_not_ready(&self, name: &str) -> Result<()> {
        self.wait_node(name, "to be not Ready", |node| !is_ready(node)).await
    }

    async fn wait_node(&self, name: &str, what: &str, holds: impl Fn(&v1::Node) -> bool) -> Result<()> {
        let nodes = Api::<v1::Node>::all(self.client.clone());
        let what = format!("{name} {what}");
        wait::until(&nodes, Selection::Named(name), &what, RECOVERY, |nodes| {
            nodes.iter().any(|node| holds(node)).then_some(())
        })
        .await
    }

    /// Stops the API server, starts it again and waits until it answers. Disturbs everybody: within [`super::disturb`].
    pub async fn restart_api_server(&self) -> Result<()> {
        self.node("node1")?.stop("kube-apiserver").await?.end().await?;
        self.wait_api_ready().await
    }
}

fn is_ready(node: &v1::Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

/// One answer of an API server that is there takes milliseconds.
const ANSWER: Duration = Duration::from_secs(5);
/// A kubelet that asks a paused containerd gives up after 2 min (its runtimeRequestTimeout) and reports then; of one that
/// has gone, the controller-manager says so after 50 s; Ready comes with the next report, within 10 s.
const RECOVERY: Duration = Duration::from_secs(240);
