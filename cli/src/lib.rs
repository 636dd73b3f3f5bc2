//! signet: what people type. One file per command; each asks a running part one question ([`ask`]) and shows the answer as
//! text or JSON from one struct ([`output`]). [`local`] runs a mesh on this machine, `demo` proves one.
//!
//! A library too, because the tests run meshes with [`local::Local`].

pub mod ask;
mod ca;
mod completion;
mod demo;
mod edges;
mod human;
mod identity;
mod inject;
pub mod local;
pub mod output;
mod proc;
mod run;
mod shapes;
pub mod state;
mod status;
mod version;

use std::path::PathBuf;

use anyhow::Result;

use crate::{output::Format, state::StateDir};

/// Signet: mutual TLS between services, without changing them
///
/// Start here:
///   signet demo                 see it work, on this machine, in two seconds
///   signet local ./manifests    run a mesh of your own Kubernetes manifests
/// Then, beside it:
///   signet status               is it well
///   signet edges                who talks to whom, and is it encrypted
#[derive(Debug, clap::Parser)]
#[command(
    name = "signet",
    version,
    verbatim_doc_comment,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit status: 0 fine, 1 something to fix, 2 could not ask, 64 wrong usage. Each command's --help says what it means there."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Demo(demo::Args),
    Local(local::command::Args),
    Status(status::Args),
    Edges(edges::Args),
    Identity(identity::Args),
    Inject(inject::Inject),
    Uninject(inject::Uninject),
    #[command(subcommand)]
    Ca(ca::Command),
    #[command(subcommand)]
    Run(Box<run::Command>),
    Version(version::Args),
    Completion(completion::Args),
}

/// The two options that every question has.
#[derive(Clone, Debug, clap::Args)]
struct Asking {
    /// State directory of the mesh [default: $XDG_STATE_HOME/signet, else ~/.local/state/signet]
    #[arg(long, value_name = "DIR", env = "SIGNET_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Asking {
    fn state(&self) -> Result<StateDir> {
        StateDir::resolve(self.state.as_deref())
    }
}

/// How a command ended, when it could do its work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// 0
    Fine,
    /// 1
    Fix,
}

/// Runs a parsed command; the exit status, with an error already told.
pub async fn run(cli: Cli) -> u8 {
    let failed = cli.command.failure();
    match Box::pin(cli.command.run()).await {
        Ok(Exit::Fine) => 0,
        Ok(Exit::Fix) => 1,
        Err(e) => {
            output::note(&format!("signet: {e:#}"));
            failed
        }
    }
}

impl Command {
    async fn run(self) -> Result<Exit> {
        match self {
            Self::Demo(args) => Box::pin(demo::run(args)).await,
            Self::Local(args) => Box::pin(local::command::run(args)).await,
            Self::Status(args) => Box::pin(status::run(args)).await,
            Self::Edges(args) => edges::run(args).await,
            Self::Identity(args) => identity::run(args).await,
            Self::Inject(args) => inject::run(args),
            Self::Uninject(args) => inject::run_uninject(args),
            Self::Ca(command) => ca::run(command).await,
            Self::Run(command) => Box::pin(run::run(*command)).await,
            Self::Version(args) => version::run(&args),
            Self::Completion(args) => completion::run(&args),
        }
    }

    /// The exit status of an error: 2 where the command was a question, 1 where it was to run something.
    fn failure(&self) -> u8 {
        match self {
            Self::Demo(_) | Self::Local(_) | Self::Run(_) => 1,
            _ => 2,
        }
    }
}

/// Exit status of a command line that does not parse (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;
