//! `signet-cluster`: makes what the cluster is made of. (The rest of its commands come with the harness.)

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use signet_cluster::{commands, paths, registry};
use tokio::net::TcpListener;

#[derive(Parser)]
enum Arguments {
    /// Programs and images, whatever is missing of them
    Build,
    /// The image that ships, from release binaries: amd64=DIRECTORY [arm64=DIRECTORY]
    #[command(arg_required_else_help = true)]
    Image { binaries: Vec<String> },
    /// The same for the tests, as signet.test/signet:dev
    ImageDev { binaries: PathBuf },
    /// The Gateway API conformance suite
    ConformanceBuild,
    /// The images at ADDRESS, until killed
    Registry { address: String },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let progress = |line: &str| eprintln!("{line}");
    match Arguments::parse() {
        Arguments::Build => commands::build(&progress),
        Arguments::Image { binaries } => commands::image(&binaries, &progress),
        Arguments::ImageDev { binaries } => commands::image_dev(&binaries, &progress),
        Arguments::ConformanceBuild => commands::conformance_build(&progress).map(drop),
        Arguments::Registry { address } => {
            registry::serve(paths::images()?, TcpListener::bind(address).await?).await
        }
    }
}
