//! The way into a cluster: the user's own kubeconfig, our pods in it, and questions to all of them at once. Reading only, but for
//! [`Cluster::exec_in_ca`].

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::join_all;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{AttachParams, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};
use signet_core::{
    identity::{GATEWAY_NAMESPACE, SYSTEM_NAMESPACE},
    pod::ADMIN_PORT,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::ask::{NoAnswer, Place, PodPort};

/// Which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Which {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// A cluster that the user's kubeconfig names.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) name: ClusterName,
}

/// What messages and `-o json` call it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterName {
    pub(crate) context: String,
    pub(crate) server: String,
}

/// The parts of the control plane, as their pods are labelled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Ca,
    Controller,
    Injector,
    Edge,
    Gateway,
}

/// The answers of all pods of a part that gave one, and why the others did not.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    /// By pod.
    pub(crate) given: Vec<(String, T)>,
    /// Sentences.
    pub(crate) missing: Vec<String>,
}

impl Which {
    /// The user named a cluster, so it is the one that is meant.
    pub(crate) fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// Reads the kubeconfig; asks nobody yet. `None`: none is named and there is none in the usual places.
    pub(crate) async fn connect_if_there(&self) -> Result<Option<Cluster>> {
        let kubeconfig = match &self.kubeconfig {
            Some(path) => {
                Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?
            }
            None if !self.is_named() && nowhere() => return Ok(None),
            None => Kubeconfig::read().context("kubeconfig; name another with --kubeconfig")?,
        };
        let context = self.context.clone().or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
        if context.is_empty() {
            bail!("the kubeconfig has no current context; name one with --context");
        }
        if !kubeconfig.contexts.iter().any(|named| named.name == context) {
            let names: Vec<&str> = kubeconfig.contexts.iter().map(|named| named.name.as_str()).collect();
            bail!("the kubeconfig has no context {context:?}; it has {}", names.join(", "));
        }
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| format!("context {context:?} of the kubeconfig"))?;
        config.connect_timeout = Some(CONNECT);
        let name = ClusterName { context, server: config.cluster_url.to_string() };
        let client = Client::try_from(config).with_context(|| format!("{name}"))?;
        Ok(Some(Cluster { client, name }))
    }

    /// [`Which::connect_if_there`], for commands that need one.
    pub(crate) async fn connect(&self) -> Result<Cluster> {
        let found = self.connect_if_there().await?;
        found.context("there is no kubeconfig; name one with --kubeconfig or KUBECONFIG")
    }
}

/// No kubeconfig where kubectl looks for one.
fn nowhere() -> bool {
    let named = std::env::var_os("KUBECONFIG").is_some_and(|paths| !paths.is_empty());
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    !named && !home.is_some_and(|path| path.exists())
}

impl Cluster {
    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Adds which cluster it was, and what to do about it.
    pub(crate) fn explain(&self, what: &str, error: kube::Error) -> anyhow::Error {
        let (next, error) = match error {
            // Its own words are all of it; kube's Display adds the whole object.
            kube::Error::Api(status) if status.code == 403 => {
                ("; your account may not, see docs/install.md, \"Who may ask\"", anyhow!(status.message))
            }
            kube::Error::Api(status) => ("", anyhow!(status.message)),
            other => ("; is it the cluster that you mean? Name another with --context", anyhow!(other)),
        };
        error.context(format!("{what} of {}{next}", self.name))
    }

    /// Every pod of a part that is not on its way out, by name.
    pub(crate) async fn pods_of(&self, part: Part) -> Result<Vec<Pod>> {
        let labelled = ListParams::default().labels(&part.labels());
        let what = format!("asking for the pods of the {part}");
        let pods = self.pods(part.namespace()).list(&labelled).await.map_err(|e| self.explain(&what, e))?;
        let mut pods: Vec<Pod> =
            pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// The loopback pages of a pod.
    pub(crate) fn pages(&self, namespace: &str, pod: &str) -> Place {
        Place::Pod(Box::new(PodPort {
            client: self.client.clone(),
            namespace: namespace.into(),
            name: pod.into(),
            port: ADMIN_PORT,
        }))
    }

    /// Asks every running pod of a part, all at once. An error: there is none, or the cluster cannot be asked.
    pub(crate) async fn ask_all<T: DeserializeOwned>(&self, part: Part, path: &str) -> Result<Answers<T>> {
        self.each_pod(part, async |place| place.get::<T>(path).await).await
    }

    /// The first answer of any pod of a part, in words.
    pub(crate) async fn ask_any_text(&self, part: Part, path: &str) -> Result<String> {
        let answers = self.each_pod(part, async |place| place.get_text(path).await).await?;
        self.first(part, answers)
    }

    /// Asks every pod of a part, all at once.
    pub(crate) async fn each_pod<T>(
        &self,
        part: Part,
        ask: impl AsyncFn(Place) -> Result<T, NoAnswer>,
    ) -> Result<Answers<T>> {
        self.each_of(part, ask).await?.with_context(|| {
            format!(
                "no pod of the {part} runs in namespace {} of {}; install it with: signet install | kubectl apply --server-side -f -",
                part.namespace(),
                self.name
            )
        })
    }

    /// The same of a part that need not be there: `None` where no pod of it runs.
    pub(crate) async fn ask_any_of<T: DeserializeOwned>(
        &self,
        part: Part,
        path: &str,
    ) -> Result<Option<Answers<T>>> {
        self.each_of(part, async |place| place.get::<T>(path).await).await
    }

    async fn each_of<T>(
        &self,
        part: Part,
        ask: impl AsyncFn(Place) -> Result<T, NoAnswer>,
    ) -> Result<Option<Answers<T>>> {
        let (namespace, pods) = (part.namespace(), self.pods_of(part).await?);
        if pods.is_empty() {
            return Ok(None);
        }
        let ask = &ask;
        let asked = pods.iter().map(async |pod| {
            let name = pod.name_any();
            let answer = ask(self.pages(namespace, &name)).await;
            (name, answer)
        });
        let mut answers = Answers { given: Vec::new(), missing: Vec::new() };
        for (pod, answer) in Box::pin(join_all(asked)).await {
            match answer {
                Ok(answer) => answers.given.push((pod, answer)),
                Err(e) => answers
                    .missing
                    .push(format!("{:#}; see: kubectl -n {namespace} describe pod {pod}", anyhow!(e))),
            }
        }
        Ok(Some(answers))
    }

    /// At least one answer, or an error with the words of all.
    pub(crate) fn some<T>(&self, part: Part, answers: Answers<T>) -> Result<Answers<T>> {
        if answers.given.is_empty() {
            bail!("no pod of the {part} in {} answers: {}", self.name, answers.missing.join("; "));
        }
        Ok(answers)
    }

    /// The answer of any pod.
    pub(crate) fn first<T>(&self, part: Part, answers: Answers<T>) -> Result<T> {
        let mut answers = self.some(part, answers)?;
        Ok(answers.given.swap_remove(0).1)
    }

    /// Runs `signet ARGUMENTS` in a running pod of the CA, where its Unix socket is: what it printed on stdout and stderr, and its
    /// exit status.
    pub(crate) async fn exec_in_ca(&self, arguments: &[&str]) -> Result<Ran> {
        let pods = self.pods_of(Part::Ca).await?;
        let pod = pods.iter().find(|pod| is_ready(pod)).map(ResourceExt::name_any);
        let pod = pod.with_context(|| {
            format!("no pod of the ca is Ready in namespace {SYSTEM_NAMESPACE} of {}", self.name)
        })?;
        let command = std::iter::once("/signet").chain(arguments.iter().copied());
        let attach = AttachParams::default().container("ca").stdin(false).stdout(true).stderr(true);
        let run = async {
            let mut process = self
                .pods(SYSTEM_NAMESPACE)
                .exec(&pod, command, &attach)
                .await
                .map_err(|e| self.explain(&format!("exec in pod {pod}"), e))?;
            let status = process.take_status().context("exec without a status")?;
            let (stdout, stderr) = (process.stdout(), process.stderr());
            let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), status);
            let status = status.with_context(|| format!("the exec in pod {pod} was cut"))?;
            Ok(Ran { stdout: stdout?, stderr: stderr?, status: exit_status(&status)? })
        };
        timeout(EXEC, Box::pin(run))
            .await
            .with_context(|| format!("the exec in pod {pod} did not end within {EXEC:?}"))?
    }
}

/// What an exec did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: i32,
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Result<String> {
    let mut bytes = Vec::new();
    stream.context("exec without its streams")?.take(LARGEST_OUTPUT).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The kubelet says `Success`, or the exit status as a cause.
fn exit_status(status: &Status) -> Result<i32> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse().ok())
        .with_context(|| status.message.clone().unwrap_or_else(|| "exec ended without a reason".into()))
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Part {
    /// Those of every installation ...
    pub(crate) const MESH: [Self; 3] = [Self::Ca, Self::Controller, Self::Injector];
    /// ... and of one that serves public hosts.
    pub(crate) const EDGE: [Self; 2] = [Self::Edge, Self::Gateway];

    pub(crate) fn namespace(self) -> &'static str {
        if self == Self::Gateway { GATEWAY_NAMESPACE } else { SYSTEM_NAMESPACE }
    }

    fn labels(self) -> String {
        format!("app.kubernetes.io/part-of=signet,app.kubernetes.io/name={self}")
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "ca",
            Self::Controller => "controller",
            Self::Injector => "injector",
            Self::Edge => "edge",
            Self::Gateway => "gateway",
        })
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {} ({})", self.context, self.server.trim_end_matches('/'))
    }
}

/// Of the TCP connection and TLS; then the command says which cluster does not answer.
const CONNECT: Duration = Duration::from_secs(5);
/// A rotation begins with one write to the API server.
const EXEC: Duration = Duration::from_secs(30);
/// Bytes; a status is 2 kB.
const LARGEST_OUTPUT: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443', insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: secret-token}}]
contexts: [{name: one, context: {cluster: c, user: u}}, {name: two, context: {cluster: c, user: u}}]
";

    async fn connect(text: &str, context: Option<&str>) -> Result<Cluster> {
        let _ = signet_core::tls::default_provider().install_default();
        let path = std::env::temp_dir().join(format!(
            "signet-kubeconfig-{}-{}",
            std::process::id(),
            fastrand::u64(..)
        ));
        std::fs::write(&path, text).unwrap();
        let which = Which { kubeconfig: Some(path.clone()), context: context.map(Into::into) };
        let cluster = which.connect().await;
        std::fs::remove_file(path).unwrap();
        cluster
    }

    #[tokio::test]
    async fn a_cluster_is_called_by_its_context_and_server_and_never_shows_credentials() {
        for (context, want) in [(None, "one"), (Some("two"), "two")] {
            let cluster = connect(KUBECONFIG, context).await.unwrap();
            assert_eq!(cluster.name.to_string(), format!("cluster {want} (https://192.0.2.1:6443)"));
            let place = cluster.pages("shop", "web-0");
            assert_eq!(place.to_string(), "port 15021 of pod shop/web-0");
            assert!(!format!("{place:?}").contains("secret-token"));
        }
    }

    #[tokio::test]
    async fn a_context_that_is_missing_is_named_beside_those_that_are_there() {
        let error = connect(KUBECONFIG, Some("three")).await.err().unwrap().to_string();
        assert_eq!(error, r#"the kubeconfig has no context "three"; it has one, two"#);
        let none = KUBECONFIG.replace("current-context: one", "");
        let error = connect(&none, None).await.err().unwrap().to_string();
        assert!(error.contains("--context"), "{error}");
    }

    #[test]
    fn an_exec_ends_with_its_exit_status_or_with_the_reason_why_there_is_none() {
        let failed = json!({ "status": "Failure", "details": { "causes": [{ "reason": "ExitCode", "message": "1" }] } });
        for (status, want) in [
            (json!({ "status": "Success" }), Ok(0)),
            (failed, Ok(1)),
            (json!({ "status": "Failure", "message": "no such container" }), Err("no such container")),
            (json!({}), Err("exec ended without a reason")),
        ] {
            let status: Status = serde_json::from_value(status).unwrap();
            assert_eq!(exit_status(&status).map_err(|e| e.to_string()), want.map_err(str::to_owned));
        }
    }
}
