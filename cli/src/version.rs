//! `signet version`.

use anyhow::Result;
use serde::Serialize;
use signet_core::VERSION;

use crate::{
    Exit,
    output::{Format, Output},
};

/// Print the version
///
/// Of this program; what runs shows its own in signet status -o json. Example: signet version -o json
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0")]
pub(crate) struct Args {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub(crate) fn run(args: &Args) -> Result<Exit> {
    let version = Version { version: VERSION };
    Output::to_stdout(args.output).show(&version, |version| format!("signet {}", version.version))?;
    Ok(Exit::Fine)
}
