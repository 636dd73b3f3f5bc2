//! Counterparts that stories need: what a user of Kubernetes would have beside Signet.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Subcommand;

pub mod signer;
pub mod webhook;

/// What the image `signet.test/cluster:dev` can be in a pod.
#[derive(Debug, Subcommand)]
pub enum Fixture {
    /// A mutating admission webhook that labels what it sees, on https://<LISTEN>/mutate
    Webhook {
        #[arg(long)]
        listen: SocketAddr,
        /// PEM, with its chain
        #[arg(long)]
        certificate: PathBuf,
        /// PEM
        #[arg(long)]
        key: PathBuf,
    },
}

impl Fixture {
    /// Until the process ends.
    pub async fn run(self) -> Result<()> {
        match self {
            Self::Webhook { listen, certificate, key } => webhook::serve(listen, &certificate, &key).await,
        }
    }
}
