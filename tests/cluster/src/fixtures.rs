//! Counterparts that stories need: what a user of Kubernetes would have beside Signet.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::Subcommand;

pub mod grpc;
pub mod load;
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
    /// An open-loop HTTP client; prints its outcome as JSON
    Load(load::Load),
    /// A gRPC server that repeats what it is told
    GrpcServe {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Tells a gRPC server some words and prints its answer
    GrpcCall { to: String, words: String },
}

impl Fixture {
    /// Until the process ends.
    pub async fn run(self) -> Result<()> {
        match self {
            Self::Webhook { listen, certificate, key } => webhook::serve(listen, &certificate, &key).await,
            Self::Load(load) => say(&serde_json::to_string(&load.run().await?)?),
            Self::GrpcServe { listen } => grpc::serve(listen).await,
            Self::GrpcCall { to, words } => say(&grpc::call(to, words).await?),
        }
    }
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("stdout")
}
