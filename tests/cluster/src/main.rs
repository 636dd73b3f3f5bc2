//! `signet-cluster`: builds what the cluster is made of. (The rest of its commands come with the harness.)

use anyhow::Result;
use clap::Parser;
use signet_cluster::{images, programs};

#[derive(Parser)]
enum Arguments {
    /// Programs and images, whatever is missing of them
    Build,
    /// The Gateway API conformance suite
    ConformanceBuild,
}

fn main() -> Result<()> {
    let progress = |line: &str| eprintln!("{line}");
    match Arguments::parse() {
        Arguments::Build => {
            let programs = programs::build_all(&progress)?;
            images::build_all(&programs, &progress).map(drop)
        }
        Arguments::ConformanceBuild => programs::build_conformance(&progress).map(drop),
    }
}
