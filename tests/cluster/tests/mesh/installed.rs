//! How a story gets Signet: `signet install --dev | kubectl apply`, and afterwards `signet uninstall | kubectl delete`, with the programs
//! that users have.

use std::{
    ffi::OsStr,
    net::IpAddr,
    panic::AssertUnwindSafe,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use serde_json::{Value, json};
use signet_cluster::{
    Cluster, Namespace, disturb,
    images::SIGNET_DEV,
    network::{PODS, SERVICES},
    programs::Programs,
};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Signet in the cluster, and a namespace for the story.
pub(crate) struct Mesh {
    pub(crate) namespace: Namespace,
    pub(crate) system: Namespace,
    /// Where gateways run.
    pub(crate) gateways: Namespace,
    /// Where edge keeps what it must not lose.
    pub(crate) edge: Namespace,
    pub(crate) trust_domain: String,
}

/// Installs Signet (one replica of each part, and no edge), runs `story`, uninstalls it. Of a story that fails, the control plane's logs are
/// printed.
pub(crate) async fn mesh(story: impl AsyncFnOnce(&Mesh) -> Result<()>) -> Result<()> {
    mesh_with(&["--dev", "--expose", "none"], story).await
}

/// [`mesh`], installed with these options: none is what a user of a real cluster has, two replicas of each part, edge and gateways.
pub(crate) async fn mesh_with(options: &[&str], story: impl AsyncFnOnce(&Mesh) -> Result<()>) -> Result<()> {
    mesh_after(async |_| Ok(()), options, story).await
}

/// [`mesh_with`], over what `prepare` has made in the cluster before.
pub(crate) async fn mesh_after(
    prepare: impl AsyncFnOnce(&Mesh) -> Result<()>,
    options: &[&str],
    story: impl AsyncFnOnce(&Mesh) -> Result<()>,
) -> Result<()> {
    disturb(async |namespace| {
        let mut mesh = Mesh::of(namespace);
        if let Some(named) = options.windows(2).find(|two| two[0] == "--trust-domain") {
            named[1].clone_into(&mut mesh.trust_domain);
        }
        mesh.uninstall().await?; // of a test that was killed
        let ended = AssertUnwindSafe(Box::pin(async {
            prepare(&mesh).await?;
            mesh.install(options).await?;
            story(&mesh).await
        }))
        .catch_unwind()
        .await;
        if !matches!(ended, Ok(Ok(()))) {
            eprintln!("{}", mesh.words().await);
        }
        let gone = mesh.uninstall().await;
        match ended {
            Ok(ended) => ended.and(gone),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
    .await
}

impl Mesh {
    pub(crate) fn of(namespace: &Namespace) -> Self {
        let [system, gateways, edge] =
            [SYSTEM, GATEWAYS, EDGE].map(|name| Namespace::of_others(&namespace.cluster, name));
        let trust_domain = "cluster.local".into();
        Self { namespace: namespace.clone(), system, gateways, edge, trust_domain }
    }

    /// Applies what `signet install` prints and waits until every part is available.
    pub(crate) async fn install(&self, options: &[&str]) -> Result<()> {
        let manifests = self.signet(&[&["install"], &settings()[..], options].concat()).await?;
        self.kubectl(&["apply", "--server-side", "-f", "-"], &manifests).await?;
        self.available().await?;
        self.webhook_answers().await
    }

    /// A pod that is Ready is behind its Service once kube-proxy has heard of it, a moment later; until then who makes a meshed pod is
    /// told to try again.
    async fn webhook_answers(&self) -> Result<()> {
        let meshed = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "asks", "labels": { "signet.dev/inject": "enabled" } },
            "spec": { "containers": [{ "name": "app", "image": "none" }] },
        })
        .to_string();
        let create = ["-n", &self.namespace.name, "create", "--dry-run=server", "-f", "-"];
        let ask = async || self.kubectl(&create, &meshed).await.map(drop);
        self.namespace.within(STARTS).eventually("the webhook to answer", ask).await
    }

    pub(crate) async fn available(&self) -> Result<()> {
        for part in ["ca", "controller", "injector"] {
            self.system.within(STARTS).wait_deployment_available(part).await?;
        }
        Ok(())
    }

    /// Plays the cloud: waits until edge and gateways are available, and gives their Service an address of each family, which leads to a
    /// node with a gateway. Clients of [`Cluster::outside`] reach the public hosts there.
    pub(crate) async fn edge_available(&self) -> Result<Vec<IpAddr>> {
        self.system.within(STARTS).wait_deployment_available("edge").await?;
        self.gateways.within(STARTS).wait_deployment_available("gateway").await?;
        let pods = self.gateways.api::<Pod>().list(&ListParams::default()).await?;
        let node = pods.items.iter().find_map(|pod| pod.spec.as_ref()?.node_name.clone());
        self.gateways.assign_address("gateway", &node.context("a gateway on a node")?).await
    }

    /// Gives edge the right to read the TLS Secrets of a namespace, as `signet allow` prints it.
    pub(crate) async fn allow(&self, namespace: &Namespace) -> Result<()> {
        let right = self.signet(&["allow", &namespace.name]).await?;
        self.kubectl(&["apply", "-f", "-"], &right).await.map(drop)
    }

    /// Pods with a proxy are the story's own and go with its namespace.
    pub(crate) async fn uninstall(&self) -> Result<()> {
        let objects = self.signet(&["uninstall", "--force"]).await?;
        if !objects.is_empty() {
            self.kubectl(&["delete", "--ignore-not-found", "-f", "-"], &objects).await?;
        }
        Ok(())
    }

    /// Labels the story's namespace for the mesh; pods made after this get a proxy and find the trust bundle.
    pub(crate) async fn label(&self) -> Result<()> {
        let name = &self.namespace.name;
        self.kubectl(&["label", "namespace", name, "signet.dev/inject=enabled"], "").await?;
        self.namespace.wait_for::<ConfigMap>("signet-trust", "to hold the trust bundle", |_| true).await?;
        Ok(())
    }

    /// Runs our CLI as a user does; an error, with what it said, unless it ends with 0.
    pub(crate) async fn signet(&self, arguments: &[&str]) -> Result<String> {
        run(&self.namespace.cluster, binary("signet")?, arguments, "").await
    }

    /// [`Mesh::signet`] with something to read, and with its exit status: what it printed, on which it may have found something.
    pub(crate) async fn signet_said(&self, arguments: &[&str], stdin: &str) -> Result<(i32, String)> {
        let output = end_of(&self.namespace.cluster, binary("signet")?, arguments, stdin).await?;
        let status = output.status.code().context("it was killed")?;
        Ok((status, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// What `signet edges` shows to and from a namespace.
    pub(crate) async fn edges(&self, namespace: &str) -> Result<Vec<Value>> {
        let mut answer: Value =
            serde_json::from_str(&self.signet(&["edges", namespace, "-o", "json"]).await?)?;
        serde_json::from_value(answer["edges"].take()).context("a list of edges")
    }

    pub(crate) async fn kubectl(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        run(&self.namespace.cluster, Programs::open()?.path("kubectl")?, arguments, stdin).await
    }

    pub(crate) async fn helm(&self, arguments: &[&str]) -> Result<String> {
        run(&self.namespace.cluster, Programs::open()?.path("helm")?, arguments, "").await
    }

    async fn words(&self) -> String {
        let logs_of = |namespace, part| ["-n", namespace, "logs", "--prefix", "--tail=50", "-l", part];
        let asks: [&[&str]; 7] = [
            &["-n", SYSTEM, "get", "pods", "-o", "wide"],
            &logs_of(SYSTEM, "app.kubernetes.io/name=ca"),
            &logs_of(SYSTEM, "app.kubernetes.io/name=controller"),
            &logs_of(SYSTEM, "app.kubernetes.io/name=injector"),
            &["-n", GATEWAYS, "get", "pods", "-o", "wide"],
            &logs_of(SYSTEM, "app.kubernetes.io/name=edge"),
            &logs_of(GATEWAYS, "app.kubernetes.io/name=gateway"),
        ];
        let mut words = String::new();
        for ask in asks {
            let said = self.kubectl(ask, "").await.unwrap_or_else(|e| format!("{e:#}"));
            words += &format!("--- kubectl {}\n{said}\n", ask.join(" "));
        }
        words
    }
}

/// The image under test and the cluster's ranges.
pub(crate) fn settings() -> Vec<&'static str> {
    let ranges = PODS.iter().chain(&SERVICES).flat_map(|range| ["--mesh-range", *range]);
    ["--image", SIGNET_DEV].into_iter().chain(ranges).collect()
}

/// Where cargo left it: `$SIGNET_BIN_DIR`, or beside the directory of this test.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("SIGNET_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => std::env::current_exe()?.ancestors().nth(2).context("target/debug/deps/mesh")?.to_owned(),
    };
    let path = directory.join(name);
    ensure!(path.is_file(), "{} is not built: cargo build --workspace --all-targets", path.display());
    Ok(path)
}

async fn run(cluster: &Cluster, program: PathBuf, arguments: &[&str], stdin: &str) -> Result<String> {
    let words = format!("{} {}", program.display(), arguments.join(" "));
    let output = end_of(cluster, program, arguments, stdin).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("`{words}`: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

async fn end_of(cluster: &Cluster, program: PathBuf, arguments: &[&str], stdin: &str) -> Result<Output> {
    let mut child = Command::new(&program)
        .args(arguments.iter().map(OsStr::new))
        .env("KUBECONFIG", &cluster.state.kubeconfig)
        .env_remove("SIGNET_STATE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| program.display().to_string())?;
    let mut input = child.stdin.take().context("it is piped")?;
    let write = async {
        let _ = input.write_all(stdin.as_bytes()).await; // one that does not read ends with an error of its own
        drop(input);
    };
    let ended = async { tokio::join!(write, child.wait_with_output()).1 };
    let words = format!("{} {}", program.display(), arguments.join(" "));
    timeout(STARTS, ended)
        .await
        .with_context(|| format!("`{words}` did not end within {STARTS:?}"))?
        .context(words)
}

const SYSTEM: &str = "signet-system";
const GATEWAYS: &str = "signet-gateway";
const EDGE: &str = "signet-edge";
/// Images are pulled, and the kubelet tries a ConfigMap that is not there yet again after up to a minute.
const STARTS: Duration = Duration::from_secs(180);
