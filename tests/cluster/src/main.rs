//! `signet-cluster`: what `make cluster` and the other targets call, and the processes of a cluster themselves.
#![expect(clippy::print_stdout, reason = "a command's result")]

use std::{
    io, net::SocketAddr, os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode, thread,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use signet_cluster::{
    commands,
    fixtures::Fixture,
    harness::{self, Plan},
    node, paths,
    programs::Programs,
    registry, start,
    state::State,
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// A real Kubernetes on this machine, for tests: two nodes in network namespaces of their own.
#[derive(Parser)]
#[command(name = "signet-cluster", version)]
struct Arguments {
    /// Which cluster; several can run at once, each with the same addresses in its own namespaces.
    #[arg(long, env = "SIGNET_CLUSTER", default_value = "shared", global = true)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build what the cluster is made of, as far as it is not there: programs from Go modules, and images
    Build,
    /// Build the image that ships, from release binaries, also as an OCI archive
    Image {
        /// amd64=DIRECTORY, arm64=DIRECTORY: where cargo left signet and signet-proxy for each
        #[arg(required = true)]
        binaries: Vec<String>,
    },
    /// Build our images for the tests, signet.test/signet:dev and signet.test/cluster:dev
    ImageDev {
        /// Where cargo left signet, signet-proxy and signet-cluster
        binaries: PathBuf,
        /// The mutant proxy, for signet.test/signet:mutant; none is built where there is no such file
        #[arg(long, env = "SIGNET_MUTANT_PROXY")]
        mutant: Option<PathBuf>,
    },
    /// Build the conformance suite of the Gateway API and print where it is
    ConformanceBuild,
    /// Start the cluster, leave it running, and print how to reach it
    Up {
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
        nodes: u8,
    },
    /// Start the cluster and hold it in the foreground, until Ctrl-C
    Hold {
        /// Give up when stdin ends before the cluster is ready: whoever waited for it has gone
        #[arg(long, hide = true)]
        abandon: bool,
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
        nodes: u8,
    },
    /// Stop the cluster and remove everything that it left
    Down,
    /// Run kubectl on the running cluster
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Process 0 of a node: makes its namespaces (the harness calls it)
    #[command(hide = true)]
    NodeEnter { directory: PathBuf },
    /// Process 1 of a node (NodeEnter calls it)
    #[command(hide = true)]
    NodeInit { directory: PathBuf },
    /// A server of the tests, in a pod
    #[command(hide = true, subcommand)]
    Fixture(Fixture),
    /// The image registry of the cluster (a component of node1)
    #[command(hide = true)]
    Registry {
        #[arg(long)]
        listen: SocketAddr,
        images: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("signet-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let name = arguments.name;
    let progress = |line: &str| eprintln!("{line}");
    match arguments.command {
        Command::Build => commands::build(&progress)?,
        Command::Image { binaries } => commands::image(&binaries, &progress)?,
        Command::ImageDev { binaries, mutant } => {
            commands::image_dev(&binaries, mutant.as_deref(), &progress)?;
        }
        Command::ConformanceBuild => println!("{}", commands::conformance_build(&progress)?.display()),
        Command::Up { nodes } => {
            let state = start::up(&Plan { name, nodes })?;
            println!("export KUBECONFIG={}", state.kubeconfig.display());
            println!("export PATH={}:$PATH", programs_of_users()?);
        }
        Command::Hold { abandon, nodes } => hold(&Plan { name, nodes }, abandon)?,
        Command::Down => harness::stop(&name)?,
        Command::Kubectl { arguments } => {
            let state = State::read(&paths::state(&name)?)?.context(NOT_RUNNING)?;
            let mut kubectl = std::process::Command::new(Programs::open()?.path("kubectl")?);
            kubectl.args(arguments).env("KUBECONFIG", state.kubeconfig);
            return Err(kubectl.exec().into());
        }
        Command::NodeEnter { directory } => {
            let status = node::enter(&directory)?;
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into());
        }
        Command::NodeInit { directory } => node::init(&directory)?,
        Command::Fixture(fixture) => Runtime::new()?.block_on(fixture.run())?,
        Command::Registry { listen, images } => {
            Runtime::new()?
                .block_on(async { registry::serve(images, TcpListener::bind(listen).await?).await })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where signet and kubectl are.
fn programs_of_users() -> Result<String> {
    let (own, kubectl) = (std::env::current_exe()?, Programs::open()?.path("kubectl")?);
    let directories = [own, kubectl].map(|program| program.parent().map(|path| path.display().to_string()));
    Ok(directories.into_iter().flatten().collect::<Vec<_>>().join(":"))
}

const NOT_RUNNING: &str = "no cluster is running; start one with: make cluster";

fn hold(plan: &Plan, abandon: bool) -> Result<()> {
    telemetry();
    Runtime::new()?.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let end = async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        let (gone, starter) = oneshot::channel();
        if abandon {
            thread::spawn(move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink()); // an error says the same as the end
                gone.send(())
            });
        }
        let abandoned = async {
            if !abandon || starter.await.is_err() {
                std::future::pending().await
            }
        };
        Box::pin(harness::run(plan, abandoned, end)).await
    })
}

fn telemetry() {
    // kube logs each refused connection as an error, and waiting for the API server is a row of them.
    let filter = tracing_subscriber::EnvFilter::new("info,kube_client=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
