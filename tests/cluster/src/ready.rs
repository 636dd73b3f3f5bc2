//! When a cluster is ready: the API server answers, every node is Ready, and CoreDNS, the first pod, answers.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::time::timeout;

use crate::{harness::Steps, network, programs::Programs, state::State};

const LIMIT: Duration = Duration::from_secs(180);

pub(crate) async fn client(state: &State) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&state.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

pub(crate) async fn wait(state: &State, steps: &Steps) -> Result<()> {
    let client = client(state).await?;
    timeout(LIMIT, async {
        while client.apiserver_version().await.is_err() || client.request_text(readyz()?).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await; // it does not listen yet: nothing to wait on
        }
        Ok::<_, anyhow::Error>(())
    })
    .await
    .context("the API server is not ready")??;
    steps.say("API server ready");
    apply_coredns(state)?;
    let nodes = Api::<Node>::all(client.clone());
    wait_for(nodes, watcher::Config::default(), state.nodes.len(), |node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    })
    .await
    .context("the nodes are not Ready")?;
    steps.say("nodes Ready");
    let pods = Api::<Pod>::namespaced(client, "kube-system");
    wait_for(pods, watcher::Config::default().labels("k8s-app=kube-dns"), 1, |pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    })
    .await
    .context("CoreDNS is not Ready")?;
    steps.say("first pod (CoreDNS) Ready");
    Ok(())
}

fn readyz() -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get("/readyz").body(Vec::new())?)
}

/// Watches until `count` objects are as wanted.
async fn wait_for<K>(
    api: Api<K>,
    which: watcher::Config,
    count: usize,
    wanted: impl Fn(&K) -> bool,
) -> Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    use futures_util::TryStreamExt as _;
    let watched = async {
        let mut fine = std::collections::BTreeSet::new();
        let objects = watcher(api, which).default_backoff().applied_objects();
        futures_util::pin_mut!(objects);
        while let Some(object) = objects.try_next().await? {
            let name = object.meta().name.clone();
            if wanted(&object) {
                fine.insert(name)
            } else {
                fine.remove(&name)
            };
            if fine.len() >= count {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended")
    };
    timeout(LIMIT, watched).await.with_context(|| format!("after {} s", LIMIT.as_secs()))?
}

fn apply_coredns(state: &State) -> Result<()> {
    let manifest = include_str!("../manifests/coredns.yaml")
        .replace("@DNS_IP@", &network::DNS_SERVICE.to_string())
        .replace("@DOMAIN@", network::DOMAIN);
    let mut kubectl = Command::new(Programs::open()?.path("kubectl")?)
        .args(["apply", "--server-side", "-f", "-"])
        .env("KUBECONFIG", &state.kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    kubectl.stdin.take().context("no pipe")?.write_all(manifest.as_bytes())?;
    let output = kubectl.wait_with_output()?;
    ensure!(output.status.success(), "apply CoreDNS: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
