//! `signet run`: the parts of the control plane, each in the foreground. `signet local` runs them for you.

use anyhow::Result;

use crate::Exit;

/// Run one part of the control plane in the foreground
///
/// What `signet local` supervises, and what a Deployment will run. Logs to stderr; SIGTERM stops it.
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Command {
    /// The mesh's certificate authority
    Ca(signet_ca::Args),
    /// Reads manifests, tells data planes, keeps their reports
    Controller(signet_controller::Args),
}

pub(crate) async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Ca(args) => signet_ca::run(args).await?,
        Command::Controller(args) => signet_controller::run(args).await?,
    }
    Ok(Exit::Fine)
}
