//! `signet demo`: a mesh on this machine that proves what it promises. The same as `signet local` on manifests that we bring
//! ([`story`]), plus apps ([`apps`]), wiretaps ([`tap`], [`reading`]) and a verdict ([`promises`], [`report`]).

mod apps;
mod network;
mod promises;
mod public;
mod reading;
mod report;
mod story;
mod tap;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use signet_core::{
    drain::Drain,
    files,
    signals::Signals,
    telemetry::{self, LogFormat},
};
use tokio::time::{Instant, sleep, timeout_at};

use self::{network::Network, promises::judge, report::Report, story::Stage};
use crate::{
    Exit,
    ask::Place,
    local::{
        Local, LocalConfig,
        command::{start, tell_progress},
    },
    output::{self, Format, Output},
    shapes::EdgeList,
    state::StateDir,
};

/// See Signet work, on this machine, in two seconds
///
/// Starts a CA, a controller, apps that speak plain TCP and a proxy beside each, and a gateway for a public host, on addresses
/// 127.X.0.0/16: no root, no cluster, no ports that others use. A wiretap stands between the proxies. Then shows who is encrypted,
/// who is not and why, what the wiretap sees, and whether each promise of Signet was held.
///
/// Runs until Ctrl-C, with traffic flowing; --once checks the promises and ends. Leaves nothing behind, but the logs when a
/// promise was broken.
///
/// Examples:
///   signet demo
///   signet demo --once
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 every promise was held, 1 one was not, or it could not start"
)]
pub(crate) struct Args {
    /// Check the promises and end
    #[arg(long)]
    once: bool,
    /// Make the demo's scratch directory in DIR [default: $XDG_STATE_HOME/signet, else ~/.local/state/signet, else /tmp]
    #[arg(long, value_name = "DIR", env = "SIGNET_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let begin = Instant::now();
    let deadline = begin + PATIENCE;
    telemetry::init(LogFormat::Text, "warn").map_err(|e| anyhow!(e))?;
    let mut signals = Signals::listen().context("listening for signals")?;
    let network = Network::claim(fastrand::u8(..))?;
    let state = scratch(args.state.as_deref(), &network)?;
    let out = Output::to_stdout(args.output);
    if args.output == Format::Table {
        out.text("Starting a CA, a controller, a gateway, and a proxy beside each meshed app ...\n")?;
    }
    let secret = format!("secret-{:016x}", fastrand::u64(..)); // only has to be unlike anything else on the wire
    let (tasks, curtain) = (Drain::new(), Drain::new());
    let mut local = None;
    let show = async {
        let stage = Stage::build(&network, &secret, &state.edge_ca_root(), &curtain).await?;
        let mesh = local.insert(start(config(&network, &state)?).await?);
        ready(mesh, deadline).await?;
        stage.play(&tasks);
        let first = timeout_at(deadline, stage.first_answer()).await;
        let report = verdict(mesh, &stage, first.ok().map(|first| first - begin), deadline).await;
        stage.save_recordings(&state.root().join("wiretap")).context("saving what the wiretaps recorded")?;
        anyhow::Ok(report)
    };
    let end = tokio::select! {
        report = show => report.map(Some),
        () = signals.next() => Ok(None),
    };
    let held = match &end {
        Ok(Some(report)) => {
            out.show(report, |report| report::text(report, out, &state))?;
            report.held()
        }
        Ok(None) | Err(_) => false,
    };
    if matches!(end, Ok(Some(_))) && !args.once {
        if args.output == Format::Table {
            out.text(&report::what_next(&state))?;
        }
        signals.next().await;
        output::note("Stopping.");
    }
    tasks.run(Duration::ZERO).await; // nobody calls any more, ...
    if let Some(local) = local {
        local.shutdown().await; // ... so the proxies have nothing to wait for
    }
    curtain.run(Duration::ZERO).await;
    if held {
        let _ = fs::remove_dir_all(state.root()); // scratch; what stays is used again by the next demo
    } else {
        output::note(&format!("Logs and recordings are kept in {}", state.root().display()));
    }
    end?;
    Ok(if held { Exit::Fine } else { Exit::Fix })
}

fn config(network: &Network, state: &StateDir) -> Result<LocalConfig> {
    let mut config = LocalConfig::new(&manifests(state), state.clone())?;
    config.control_address = network.control();
    config.edge_at = Stage::edge_at(network);
    config.inbound_at = Stage::inbound_at(network).into_iter().collect();
    config.drain = DRAIN;
    Ok(config)
}

/// The demo's own directory, with manifests that fit its network.
fn scratch(base: Option<&std::path::Path>, network: &Network) -> Result<StateDir> {
    let name = format!("demo-{}", network.name());
    let mut root = StateDir::resolve(base)?.root().join(&name);
    if base.is_none() && files::create_private_dir(&root).is_err() {
        root = std::env::temp_dir().join(format!("signet-{}", nix::unistd::geteuid())).join(&name); // a home that is not writable
    }
    let state = StateDir::at(&root)?;
    for directory in [manifests(&state), root.join("wiretap")] {
        files::create_private_dir(&directory)
            .with_context(|| format!("making {}; choose another place with --state", directory.display()))?;
    }
    for (name, manifest) in story::MANIFESTS {
        let path = manifests(&state).join(name);
        fs::write(&path, network.place(manifest)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(state)
}

fn manifests(state: &StateDir) -> PathBuf {
    state.root().join("manifests")
}

async fn ready(mesh: &Local, end: Instant) -> Result<()> {
    tokio::select! {
        ready = mesh.wait_ready(end.saturating_duration_since(Instant::now())) => ready,
        () = async { tell_progress(mesh).await; std::future::pending().await } => Ok(()),
    }
}

/// Waits until every promise is held, or no more time should be given.
async fn verdict(mesh: &Local, stage: &Arc<Stage>, first_byte: Option<Duration>, end: Instant) -> Report {
    let controller = Place::Socket(mesh.state_dir().controller_socket());
    loop {
        let mut evidence = stage.evidence();
        if let Ok(list) = controller.get::<EdgeList>("/v1/edges").await {
            evidence.edges = list.edges;
        }
        let promises = judge(&evidence);
        if promises.iter().all(|promise| promise.held) || Instant::now() >= end {
            return Report::new(first_byte, promises, evidence);
        }
        sleep(LOOK).await;
    }
}

/// From the start to the verdict: far more than a slow machine needs, and below the 30 s that --once may take.
const PATIENCE: Duration = Duration::from_secs(25);
/// Between looks at the evidence; proxies report twice a second.
const LOOK: Duration = Duration::from_millis(20);
/// The apps are gone by then: there is nothing to drain.
const DRAIN: Duration = Duration::from_secs(1);
