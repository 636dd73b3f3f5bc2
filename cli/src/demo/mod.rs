//! `signet demo`. (stub of the lead, to be replaced)

/// stub
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_: Args) -> anyhow::Result<crate::Exit> {
    Ok(crate::Exit::Fix)
}
