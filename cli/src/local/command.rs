//! `signet local`: a mesh of the manifests in a directory, until Ctrl-C.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::pin,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use ipnet::IpNet;
use signet_core::{
    identity::TrustDomain,
    signals::Signals,
    telemetry::{self, LogFormat},
};
use signet_edge_ca::Suffix;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{EdgeAt, Local, LocalConfig, edge::urls, plan::Sidecar};
use crate::{
    Exit,
    output::{self, Format, Output},
    state::StateDir,
};

/// Run a mesh of the Kubernetes manifests in DIR, on this machine
///
/// CA, controller and one proxy per meshed pod, on loopback addresses, without root and without a cluster. Your apps are
/// yours to start: each listens where the summary says and dials its upstreams there. DIR is followed: edit a manifest and
/// the mesh changes. What a manifest may hold: docs/manifests.md
///
/// Where DIR has Ingresses, a gateway serves them: https://app.localhost:8443, and app.example.com as
/// https://app.example.com.localhost:8443. Browsers believe that after: signet trust install
///
/// Runs until Ctrl-C, then stops everything that it started. Keeps keys, certificates and logs in the state directory.
///
/// Examples:
///   signet local ./manifests
///   signet local ./manifests --state /tmp/mesh --control-address 127.80.0.1 --https-port 9443 --http-port 9080   # beside another mesh
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 stopped as asked, 1 could not start")]
pub(crate) struct Args {
    /// Directory of manifests (*.yaml, *.yml, *.json)
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Where the mesh keeps its state [default: $XDG_STATE_HOME/signet, else ~/.local/state/signet]
    #[arg(long, value_name = "DIR", env = "SIGNET_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    /// Where CA (port 15012) and controller (15010) listen
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    control_address: IpAddr,
    /// Where public hosts are served, over HTTPS ...
    #[arg(long, value_name = "PORT", default_value_t = EdgeAt::default().https)]
    https_port: u16,
    /// ... and in plaintext, ...
    #[arg(long, value_name = "PORT", default_value_t = EdgeAt::default().http)]
    http_port: u16,
    /// ... on this address
    #[arg(long, value_name = "IP", default_value_t = EdgeAt::default().address)]
    edge_address: IpAddr,
    /// The edge CA, when it is made, is for names below this one, too, beside .localhost and .test; may be repeated
    #[arg(long, value_name = "SUFFIX")]
    edge_suffix: Vec<Suffix>,
    /// First part of every identity
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// How long a workload's certificate lives; renewed at half of it
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    leaf_life: String,
    /// Allow a --leaf-life below 1h, for tests
    #[arg(long, hide = true)]
    allow_short_leaves: bool,
    /// Address range of the mesh, where nothing is reached in plaintext unless the controller says so; may be repeated
    /// [default: the /16 around each address in DIR]
    #[arg(long, value_name = "CIDR")]
    mesh_range: Vec<IpNet>,
    /// What to log, of the supervisor to stderr and of its children to STATE/logs ("info", "info,signet_proxy=debug")
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let filter = args.log.as_deref().unwrap_or("warn"); // what people must know; the children log at info all the same
    telemetry::init(LogFormat::Text, filter).map_err(|e| anyhow!(e))?;
    let mut signals = Signals::listen().context("listening for signals")?;
    let mut config = LocalConfig::new(&args.directory, StateDir::resolve(args.state.as_deref())?)?;
    config.control_address = args.control_address;
    config.trust_domain = TrustDomain::new(&args.trust_domain)
        .with_context(|| format!("--trust-domain {:?}; use a name like cluster.local", args.trust_domain))?;
    config.leaf_life = args.leaf_life;
    config.allow_short_leaves = args.allow_short_leaves;
    config.mesh_ranges = args.mesh_range;
    config.edge_at = EdgeAt { address: args.edge_address, http: args.http_port, https: args.https_port };
    config.edge_suffixes = args.edge_suffix.iter().map(ToString::to_string).collect();
    if let Some(log) = args.log {
        config.log = log;
    }
    let local = tokio::select! {
        local = start(config) => local?,
        () = signals.next() => return Ok(Exit::Fine), // the drop of what was started kills it
    };
    let out = Output::to_stdout(Format::Table);
    tokio::select! {
        end = serve(&local, out) => end?,
        () = signals.next() => {}
    }
    output::note("Stopping: gateway and proxies first, then the control plane.");
    local.shutdown().await;
    Ok(Exit::Fine)
}

async fn serve(local: &Local, out: Output) -> Result<()> {
    out.text(&summary(local))?;
    tell_progress(local).await;
    out.text(&hosts(local).await)?;
    out.text("Ready. Ctrl-C stops it.\n")?;
    std::future::pending().await
}

/// Starts a mesh; says so when that takes long.
pub(crate) async fn start(config: LocalConfig) -> Result<Local> {
    let waits = format!("Still waiting for the CA; its log is {}", config.state.log("ca").display());
    let mut start = pin!(Local::start(config));
    loop {
        match timeout(PROGRESS, &mut start).await {
            Ok(local) => return local,
            Err(_) => output::note(&waits),
        }
    }
}

/// Waits until all is ready; says every two seconds what for.
pub(crate) async fn tell_progress(local: &Local) {
    let mut ticks = interval_at(Instant::now() + PROGRESS, PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while local.wait_ready(Duration::ZERO).await.is_err() {
        tokio::select! {
            _ = local.wait_ready(PROGRESS) => {}
            _ = ticks.tick() => {}
        }
        let pending = local.pending().await;
        if !pending.is_empty() {
            output::note(&format!("Waiting for {}", pending.join("\n            ")));
        }
    }
}

/// What runs, where to send traffic, where the apps listen, and how to see proof.
fn summary(local: &Local) -> String {
    let (state, config) = (local.state_dir(), local.config());
    let mut text = format!(
        "Mesh of {}: CA and controller on {}, state and logs in {}\n\n",
        config.directory.display(),
        config.control_address,
        state.root().display()
    );
    let sidecars = local.sidecars();
    for (name, sidecar) in &sidecars {
        text += &workload(name, sidecar);
    }
    if sidecars.is_empty() {
        text += "No pod of the directory is meshed: label its Namespace `signet.dev/inject: enabled`.\n\n";
    }
    for problem in local.problems() {
        text += &format!("To fix: {problem}\n");
    }
    let root = state.root().display();
    text += &format!("Proof: signet edges --state {root}\nWell?   signet status --state {root}\n\n");
    text
}

/// Where public hosts open, and how a browser comes to believe them.
async fn hosts(local: &Local) -> String {
    let urls = urls(&local.hosts().await, local.config().edge_at);
    if urls.is_empty() {
        return String::new();
    }
    let root = local.state_dir().root().display();
    format!("{}\n\nBrowsers believe these after: signet trust install --state {root}\n\n", urls.join("\n"))
}

fn workload(name: &str, sidecar: &Sidecar) -> String {
    let mut text = format!("{name}  {}  {}\n", sidecar.workload.address, sidecar.identity);
    for inbound in &sidecar.bootstrap.inbound {
        let (app, address) =
            (inbound.target.to_string(), SocketAddr::new(sidecar.workload.address, inbound.port));
        text += &format!("    its app listens on {app:<22} others call {address}\n");
    }
    for upstream in &sidecar.bootstrap.upstreams {
        text +=
            &format!("    its app dials      {:<22} to reach {}\n", upstream.listen.to_string(), upstream.to);
    }
    text + "\n"
}

/// A wait that is longer says what for.
const PROGRESS: Duration = Duration::from_secs(2);
