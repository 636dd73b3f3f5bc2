//! `signet-cluster`: builds what the cluster is made of. (The rest of its commands come with the harness.)

use anyhow::Result;
use clap::Parser;
use signet_cluster::{images, paths, programs, registry};
use tokio::net::TcpListener;

#[derive(Parser)]
enum Arguments {
    /// Programs and images, whatever is missing of them
    Build,
    /// The images at ADDRESS, until killed
    Registry { address: String },
    /// The Gateway API conformance suite
    ConformanceBuild,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let progress = |line: &str| eprintln!("{line}");
    match Arguments::parse() {
        Arguments::Build => {
            let programs = programs::build_all(&progress)?;
            images::build_all(&programs, &progress).map(drop)
        }
        Arguments::Registry { address } => {
            registry::serve(paths::images()?, TcpListener::bind(address).await?).await
        }
        Arguments::ConformanceBuild => programs::build_conformance(&progress).map(drop),
    }
}
