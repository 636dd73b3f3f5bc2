//! signet: what people type. One file per command; each asks a running part one question ([`ask`]) and shows the answer as
//! text or JSON from one struct ([`output`]). `whom` decides between a mesh on this machine and one in a cluster (`cluster`).
//! [`local`] runs a mesh on this machine, `demo` proves one, `install` prints what makes one in a cluster, `check` looks for
//! what is wrong with it.
//!
//! A library too, because the tests run meshes with [`local::Local`].

mod allow;
pub mod ask;
mod ca;
mod cert;
mod check;
mod cluster;
mod completion;
mod demo;
mod edges;
mod explain;
mod hosts;
mod human;
mod identity;
mod inject;
mod install;
pub mod local;
mod named;
pub mod output;
mod proc;
mod replicas;
mod run;
mod shapes;
pub mod state;
mod status;
mod trust;
mod uninstall;
mod version;
mod whom;

use std::{ffi::OsString, path::Path};

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _};

/// Signet: mutual TLS between services, without changing them
///
/// Start here:
///   signet demo                 see it work, on this machine, in two seconds
///   signet local ./manifests    run a mesh of your own Kubernetes manifests
/// In a cluster:
///   signet check --pre && signet install | kubectl apply --server-side -f -
/// Then, for either:
///   signet status               is it well
///   signet edges                who talks to whom, and is it encrypted
///   signet hosts                which public hosts are served, and with which certificate
///   signet cert why HOST        why a host has no certificate of Let's Encrypt, and what happens next
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
    Explain(explain::Args),
    Endpoints(explain::EndpointsArgs),
    Hosts(hosts::Args),
    #[command(subcommand)]
    Cert(cert::Command),
    Allow(allow::Args),
    #[command(subcommand)]
    Trust(trust::Command),
    Identity(identity::Args),
    Inject(inject::Inject),
    Uninject(inject::Uninject),
    Install(Box<install::Args>),
    Uninstall(uninstall::Args),
    #[command(subcommand)]
    Ca(ca::Command),
    Check(check::Args),
    #[command(subcommand)]
    Run(Box<run::Command>),
    Version(version::Args),
    Completion(completion::Args),
}

impl Cli {
    /// Parses a command line. Called as `kubectl-signet` it is a plugin of kubectl, and its help says `kubectl signet`.
    pub fn called_as(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let line: Vec<OsString> = line.into_iter().collect();
        let name = line.first().and_then(|program| Path::new(program).file_name());
        let plugin = name.is_some_and(|name| name.to_string_lossy().starts_with("kubectl-signet"));
        let command = if plugin { Self::command().bin_name("kubectl signet") } else { Self::command() };
        let mut matches = command.try_get_matches_from(line)?;
        Self::from_arg_matches_mut(&mut matches)
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
            Self::Edges(args) => Box::pin(edges::run(args)).await,
            Self::Explain(args) => Box::pin(explain::run(args)).await,
            Self::Endpoints(args) => Box::pin(explain::endpoints(args)).await,
            Self::Allow(args) => allow::run(&args),
            Self::Trust(command) => Box::pin(trust::run(command)).await,
            Self::Hosts(args) => Box::pin(hosts::run(args)).await,
            Self::Cert(command) => Box::pin(cert::run(command)).await,
            Self::Inject(args) => inject::run(args),
            Self::Uninject(args) => inject::run_uninject(args),
            Self::Identity(args) => Box::pin(identity::run(args)).await,
            Self::Install(args) => Box::pin(install::run(*args)).await,
            Self::Uninstall(args) => Box::pin(uninstall::run(args)).await,
            Self::Ca(command) => Box::pin(ca::run(command)).await,
            Self::Check(args) => Box::pin(check::run(args)).await,
            Self::Run(command) => Box::pin(run::run(*command)).await,
            Self::Version(args) => version::run(&args),
            Self::Completion(args) => completion::run(&args),
        }
    }

    /// The exit status of an error: 2 where the command was a question, 1 where it was to run something.
    fn failure(&self) -> u8 {
        match self {
            Self::Demo(_) | Self::Local(_) | Self::Run(_) | Self::Install(_) | Self::Trust(_) => 1,
            _ => 2,
        }
    }
}

/// Exit status of a command line that does not parse (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Clap looks at a command only when somebody types it.
    #[test]
    fn every_command_line_is_whole() {
        Cli::command().debug_assert();
    }
}
