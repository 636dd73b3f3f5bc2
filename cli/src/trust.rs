//! `signet trust`: whether this machine's programs believe the edge CA, and making them do so or stop. Everything that is changed is
//! said before, and found again by the certificate itself under whatever name it stands, so that it can be undone by whoever comes
//! later. What is not that root alone is left, and said.

mod answer;
mod change;
mod nss;
mod store;
mod system;
#[cfg(test)]
mod tests;
mod whose;

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Result, anyhow, bail};
use signet_core::clock;
use signet_edge_ca::{Root, Suffix};

use self::{
    answer::{Answer, text},
    change::{Way, change},
    store::{Kind, Store, nickname},
    whose::{WhoseRoot, of_id},
};
use crate::{Exit, output::Output};

/// Make this machine's browsers believe the hosts of signet local, or stop it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Show(Show),
    Install(Install),
    Uninstall(Uninstall),
}

/// Show the edge CA's root, and which stores have it, under which names
///
/// Changes nothing.
///
/// Examples:
///   signet trust show
///   signet trust show --pem > edge-ca.pem
///   signet trust show --context minikube     # the edge CA of a cluster
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 shown, 1 there is no edge CA, or no way to it")]
pub(crate) struct Show {
    /// Print the root itself and nothing else
    #[arg(long)]
    pem: bool,
    #[command(flatten)]
    which: WhoseRoot,
}

/// Put the edge CA's root into the stores that browsers and programs read
///
/// That is the system's own, which needs root, and the NSS databases of Chromium, Chrome and Firefox in your home. It says what it will
/// do, and asks. The root vouches for names below .localhost, .test and suffixes of yours only: whoever steals its key cannot be any
/// host of the Internet for you. Restart browsers that run.
///
/// Undone by: signet trust uninstall
///
/// Examples:
///   signet trust install
///   signet trust install --store nss --yes
///   signet trust install --context minikube --suffix home.example.com
///   sudo signet trust install --store system --root ~/.local/state/signet/edge/ca/root.pem
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 every store that may be changed has it, 1 one could not be changed, or was not to be"
)]
pub(crate) struct Install {
    /// A name of yours: needed for each that the root vouches for beside .localhost and .test; may be repeated
    #[arg(long, value_name = "NAME")]
    suffix: Vec<Suffix>,
    #[command(flatten)]
    change: Change,
}

/// Take the edge CA's root out of every store again
///
/// Exactly that certificate goes, by whatever name it stands there and whoever put it there. It says what it will do, and asks. What it
/// cannot take out alone it leaves, and names: a file that holds more, one of a package, a name that several certificates share.
///
/// Examples:
///   signet trust uninstall
///   signet trust uninstall 0123456789abcdef      # an older one, as signet trust show lists it
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 no store that may be changed has it, 1 one still has it, could not be changed, or was not to be"
)]
pub(crate) struct Uninstall {
    /// Its id, where there is no file of it any more
    #[arg(value_name = "ID", conflicts_with_all = ["root", "state", "kubeconfig", "context"])]
    id: Option<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Only these stores; may be repeated [default: all]
    #[arg(long, value_enum)]
    store: Vec<Kind>,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    which: WhoseRoot,
}

pub(crate) async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Show(args) => Box::pin(show(args)).await,
        Command::Install(args) => {
            let found = Box::pin(args.change.which.find()).await?;
            is_meant(&found.root, &args.suffix)?;
            is_timely(&found.root, clock::unix_now())?;
            change(&args.change, &found, Way::In)
        }
        Command::Uninstall(args) => {
            let found = match &args.id {
                Some(id) => of_id(id, &args.change.stores())?,
                None => Box::pin(args.change.which.find()).await?,
            };
            change(&args.change, &found, Way::Out)
        }
    }
}

/// Whoever keeps the root chose its suffixes; whoever believes it says that they are theirs.
fn is_meant(root: &Root, suffixes: &[Suffix]) -> Result<()> {
    let further: Vec<&str> =
        root.further_suffixes().filter(|suffix| !suffixes.contains(suffix)).map(Suffix::as_str).collect();
    if further.is_empty() {
        return Ok(());
    }
    let flags: String = further.iter().map(|suffix| format!(" --suffix {suffix}")).collect();
    bail!(
        "{} vouches for names below {}, too. Whoever has its key can be any of them for you: install it only if they are yours, with{flags}",
        nickname(root),
        further.join(" and ")
    )
}

/// One of another time would be believed by nobody, and shown as installed. `now`: Unix seconds.
fn is_timely(root: &Root, now: i64) -> Result<()> {
    root.is_timely(now).map_err(|why| anyhow!("{} is installed nowhere: {why}", nickname(root)))
}

async fn show(args: Show) -> Result<Exit> {
    let found = args.which.find().await?;
    let out = Output::to_stdout(args.which.asking.output);
    if args.pem {
        out.print(&found.root.pem())?;
        return Ok(Exit::Fine);
    }
    let answer = Answer::of(&found, &stores(&[]), &[], clock::unix_now());
    out.show(&answer, text)?;
    Ok(Exit::Fine)
}

impl Change {
    fn stores(&self) -> Vec<Store> {
        stores(&self.store)
    }
}

/// Those of this machine and user, or some kinds of them.
fn stores(kinds: &[Kind]) -> Vec<Store> {
    let wanted = |kind: &Kind| kinds.is_empty() || kinds.contains(kind);
    let mut stores: Vec<Store> = Vec::new();
    if wanted(&Kind::System) {
        stores.extend(system::find().ok().map(Store::System));
    }
    if wanted(&Kind::Nss)
        && let Some(home) = absolute(std::env::var_os("HOME"))
    {
        let data = absolute(std::env::var_os("XDG_DATA_HOME")).unwrap_or_else(|| home.join(".local/share"));
        stores.extend(nss::find(&home, &data).into_iter().map(Store::Nss));
    }
    stores
}

/// Errors: why this machine has none, where it is asked for.
fn system_store(kinds: &[Kind]) -> Result<(), String> {
    let wanted = kinds.is_empty() || kinds.contains(&Kind::System);
    if wanted { system::find().map(drop) } else { Ok(()) }
}

fn absolute(path: Option<OsString>) -> Option<PathBuf> {
    path.map(PathBuf::from).filter(|path| path.is_absolute())
}
