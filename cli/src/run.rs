//! `signet run`: the long-running parts, each in its own process. Supervisors and manifests start them; people seldom do.

use anyhow::Result;

use crate::Exit;

/// Run one part of Signet in the foreground
///
/// What signet local, and a cluster's manifests, start. Logs to stderr.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run the mesh's CA
    ///
    /// Example: signet run ca --state /var/lib/signet/ca --trust-bundle /var/lib/signet/bundle.pem
    #[command(after_help = STATUS)]
    Ca(signet_ca::Args),
    /// Run the controller, on a cluster or on a directory of manifests
    ///
    /// Example: signet run controller --source-dir ./manifests --token-file ./token --trust-bundle ./bundle.pem
    /// --admin-socket ./admin.sock
    #[command(after_help = STATUS)]
    Controller(signet_controller::Args),
    /// Run edge, which tells gateways what to serve, on a cluster's Ingresses or on a directory of manifests
    ///
    /// Example: signet run edge --source-dir ./manifests --token-file ./token --trust-bundle ./bundle.pem
    /// --admin-socket ./admin.sock
    #[command(after_help = STATUS)]
    Edge(Box<signet_controller::edge::Args>),
    /// Run the webhook that puts the proxy into pods
    ///
    /// Example: signet run injector --image registry.example.com/signet:0.1.0 --mesh-range 10.244.0.0/16,10.96.0.0/12
    #[command(after_help = "Exit status: 0 stopped by SIGTERM or SIGINT, 1 could not start")]
    Injector(signet_injector::Args),
}

pub(crate) async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Ca(args) => Box::pin(signet_ca::run(args)).await?,
        Command::Controller(args) => Box::pin(signet_controller::run(args)).await?,
        Command::Edge(args) => Box::pin(signet_controller::edge::run(*args)).await?,
        Command::Injector(args) => Box::pin(signet_injector::run(args)).await?,
    }
    Ok(Exit::Fine)
}

const STATUS: &str =
    "Exit status: 0 stopped by SIGTERM or SIGINT, 1 could not start, 3 the supervisor is gone";
