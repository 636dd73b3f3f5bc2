//! `signet completion`.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    Cli, Exit,
    output::{Format, Output},
};

/// Print a script that completes signet's commands in your shell
///
/// Changes nothing.
///
/// Examples:
///   signet completion bash > ~/.local/share/bash-completion/completions/signet
///   signet completion zsh > "${fpath[1]}/_signet"
///   signet completion fish > ~/.config/fish/completions/signet.fish
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0")]
pub(crate) struct Args {
    /// Your shell
    shell: Known,
}

/// Those that we test.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &Args) -> Result<Exit> {
    let shell = match args.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "signet", &mut script);
    Output::to_stdout(Format::Table).print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Fine)
}
