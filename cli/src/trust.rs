//! `signet trust`: whether this machine's programs believe the edge CA, and making them do so or stop. Everything that is changed is
//! said before, and found again by the certificate itself where we put it, so that it can be undone by whoever comes later.

mod nss;
mod store;
mod system;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use signet_core::{clock, svid::hex};
use signet_edge_ca::{Root, Suffix};

use self::store::{Held, Kind, State, Store, nickname};
use crate::{
    Exit,
    cluster::Part,
    human,
    output::{self, Output},
    shapes::EdgeCaAnswer,
    state::StateDir,
    whom::{Asking, Whom},
};

/// Make this machine's browsers believe the hosts of signet local, or stop it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Show(Show),
    Install(Install),
    Uninstall(Uninstall),
}

/// Show the edge CA's root, and which stores have it
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
/// Exactly that certificate goes, from every place where signet puts it. It says what it will do, and asks.
///
/// Examples:
///   signet trust uninstall
///   signet trust uninstall 0123456789abcdef      # an older one, as signet trust show lists it
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 no store that may be changed has it, 1 one could not be changed, or was not to be"
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

/// Whose root.
#[derive(Debug, clap::Args)]
struct WhoseRoot {
    /// PEM file of the root, instead of asking for it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["state", "kubeconfig", "context"])]
    root: Option<PathBuf>,
    #[command(flatten)]
    asking: Asking,
}

/// A root, and the file that it is in, if it is in one.
struct Found {
    root: Root,
    file: Option<PathBuf>,
    /// The options that find it again, where it is in no file: " --context NAME".
    flags: String,
}

/// `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    root: RootAnswer,
    stores: Vec<StoreAnswer>,
    /// Roots of other edge CAs that the stores have.
    others: Vec<OtherAnswer>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RootAnswer {
    id: String,
    name: String,
    sha256: String,
    suffixes: Vec<String>,
    not_after: String,
    file: Option<PathBuf>,
    pem: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreAnswer {
    kind: Kind,
    store: String,
    /// "here", "absent", "half", "unusable": after what was done.
    state: &'static str,
    /// Why it is neither here nor absent, or was not changed; and what to do.
    why: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OtherAnswer {
    id: String,
    store: String,
    name: String,
}

pub(crate) async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Show(args) => Box::pin(show(args)).await,
        Command::Install(args) => {
            let found = Box::pin(args.change.which.find()).await?;
            is_meant(&found.root, &args.suffix)?;
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

async fn show(args: Show) -> Result<Exit> {
    let found = args.which.find().await?;
    let out = Output::to_stdout(args.which.asking.output);
    if args.pem {
        out.print(&found.root.pem())?;
        return Ok(Exit::Fine);
    }
    let answer = Answer::of(&found, &stores(&[]), &[]);
    out.show(&answer, text)?;
    Ok(Exit::Fine)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    In,
    Out,
}

/// Says what it will do, asks, does it, and says what became of it.
fn change(args: &Change, found: &Found, way: Way) -> Result<Exit> {
    let stores = args.stores();
    let (mut wrong, mut to_do, mut refused) = (false, Vec::new(), Vec::new());
    for store in &stores {
        match may_change(store, found, way) {
            Ok(true) => to_do.push(store),
            Ok(false) => {}
            Err(why) => {
                // Who asked for all stores has those that they may change.
                wrong |= !args.store.is_empty() || store.kind() == Kind::Nss;
                refused.push((store.to_string(), why));
            }
        }
    }
    for (store, why) in &refused {
        output::note(&format!("Not changed: {store}: {why}"));
    }
    if let Err(why) = system_store(&args.store) {
        output::note(&why);
        wrong |= args.store.contains(&Kind::System);
    }
    if !to_do.is_empty() {
        output::note(&plan(&to_do, &found.root, way));
        if !args.yes && !is_wanted()? {
            output::note("Nothing was changed.");
            return Ok(Exit::Fix);
        }
    }
    for store in to_do {
        let done = match way {
            Way::In => store.install(&found.root),
            Way::Out => store.remove(&found.root),
        };
        if let Err(why) = done {
            wrong = true;
            output::note(&format!("Failed: {store}: {why}"));
            refused.push((store.to_string(), why.to_string()));
        }
    }
    let answer = Answer::of(found, &stores, &refused);
    Output::to_stdout(args.which.asking.output).show(&answer, text)?;
    Ok(if wrong { Exit::Fix } else { Exit::Fine })
}

/// Whether there is something to do. Errors: why it cannot be done, and what to do.
fn may_change(store: &Store, found: &Found, way: Way) -> Result<bool, String> {
    match (store.state(&found.root), way) {
        (State::Here, Way::In) | (State::Absent, Way::Out) => return Ok(false),
        (State::Unusable(why), _) => return Err(why),
        _ => {}
    }
    if store.kind() == Kind::System && !nix::unistd::geteuid().is_root() {
        return Err(format!("this needs root: {}", as_root(found, way)));
    }
    Ok(true)
}

/// What to type.
fn as_root(found: &Found, way: Way) -> String {
    let us = std::env::current_exe().map_or_else(|_| "signet".to_owned(), |path| path.display().to_string());
    match (way, &found.file) {
        (Way::Out, _) => format!("sudo {us} trust uninstall --store system {}", found.root.id()),
        (Way::In, Some(file)) => {
            format!(
                "sudo {us} trust install --store system --root '{}'{}",
                file.display(),
                suffixes(&found.root)
            )
        }
        (Way::In, None) => format!(
            "signet trust show --pem{} > edge-ca.pem; sudo {us} trust install --store system --root edge-ca.pem{}",
            found.flags,
            suffixes(&found.root)
        ),
    }
}

fn suffixes(root: &Root) -> String {
    root.further_suffixes().map(|suffix| format!(" --suffix {}", suffix.as_str())).collect()
}

fn plan(stores: &[&Store], root: &Root, way: Way) -> String {
    let suffixes: Vec<&str> = root.suffixes().iter().map(Suffix::as_str).collect();
    let mut text = match way {
        Way::In => format!(
            "{} (id {}, SHA-256 {}) will be believed for hosts below {}, and no others. This will:\n",
            nickname(root),
            root.id(),
            sha256(root),
            suffixes.join(", ")
        ),
        Way::Out => format!("{} (id {}) will no longer be believed. This will:\n", nickname(root), root.id()),
    };
    for store in stores {
        let step = match way {
            Way::In => store.would_install(root),
            Way::Out => store.would_remove(root),
        };
        let _ = writeln!(text, "  {step}"); // a String takes everything
    }
    text
}

/// Asks at the keyboard.
fn is_wanted() -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nobody is there to ask; say --yes if this is meant");
    }
    output::note("Go on? [y/N]");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
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

impl WhoseRoot {
    /// In this order: the file that --root names; the cluster that is named; the state directory, whether a mesh runs there or not; the
    /// current context of the kubeconfig.
    async fn find(&self) -> Result<Found> {
        if let Some(file) = &self.root {
            return read(file);
        }
        if let Some(state) = self.asking.state_dir()? {
            let file = state.edge_ca_root();
            if file.is_file() {
                return read(&file);
            }
        }
        match self.asking.whom().await? {
            Whom::Local(state) => bail!(
                "there is no edge CA in {}; signet local makes one when DIR has an Ingress that asks for a certificate",
                state.root().display()
            ),
            whom @ Whom::Cluster(_) => of_cluster(&whom, self.asking.cluster_flags()).await,
        }
    }
}

fn read(file: &Path) -> Result<Found> {
    let pem = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let root = Root::from_pem(&pem).map_err(|why| no_root(&file.display().to_string(), &why.to_string()))?;
    Ok(Found { root, file: Some(std::path::absolute(file)?), flags: String::new() })
}

async fn of_cluster(whom: &Whom, flags: String) -> Result<Found> {
    let answers = whom.ask::<EdgeCaAnswer>(Part::Edge, StateDir::edge_socket, "/v1/edge-ca").await?;
    let Some(answer) = answers.given.into_iter().find_map(|(_, answer)| answer) else {
        bail!("the cluster has no edge CA: no Ingress asks for one (docs/edge-ca.md)");
    };
    let root = Root::from_pem(answer.pem.as_bytes())
        .map_err(|why| no_root("what edge answered", &why.to_string()))?;
    Ok(Found { root, file: None, flags })
}

fn no_root(place: &str, why: &str) -> anyhow::Error {
    anyhow!("{place} is not an edge CA's root, and is installed nowhere: {why}")
}

/// One that a store has.
fn of_id(id: &str, stores: &[Store]) -> Result<Found> {
    let held = stores.iter().flat_map(Store::held).find(|held| held.root.id() == id);
    let held = held.ok_or_else(|| {
        anyhow!("no store has an edge CA's root with id {id}; signet trust show lists them")
    })?;
    Ok(Found { root: held.root, file: None, flags: String::new() })
}

impl Answer {
    /// As it is now; `refused`: stores that were to be changed and were not, and why.
    fn of(found: &Found, stores: &[Store], refused: &[(String, String)]) -> Self {
        let root = &found.root;
        let answer = |store: &Store| {
            let (state, why) = match store.state(root) {
                State::Here => ("here", None),
                State::Absent => ("absent", None),
                State::Half(why) => ("half", Some(why)),
                State::Unusable(why) => ("unusable", Some(why)),
            };
            let name = store.to_string();
            let refused = refused.iter().find(|(of, _)| *of == name).map(|(_, why)| why.clone());
            StoreAnswer { kind: store.kind(), store: name, state, why: refused.or(why) }
        };
        let other = |store: &Store| {
            let name = store.to_string();
            let others = store.held().into_iter().filter(|held| held.root != *root);
            others
                .map(move |Held { root, name: held }| OtherAnswer {
                    id: root.id(),
                    store: name.clone(),
                    name: held,
                })
                .collect::<Vec<_>>()
        };
        Self {
            root: RootAnswer {
                id: root.id(),
                name: nickname(root),
                sha256: sha256(root),
                suffixes: root.suffixes().iter().map(ToString::to_string).collect(),
                not_after: clock::rfc3339(root.not_after()).unwrap_or_default(),
                file: found.file.clone(),
                pem: root.pem(),
            },
            stores: stores.iter().map(answer).collect(),
            others: stores.iter().flat_map(other).collect(),
        }
    }
}

fn text(answer: &Answer) -> String {
    let root = &answer.root;
    let left = human::left_until(&root.not_after, clock::now());
    let mut rows = vec![
        ("Root", format!("{}, id {}", root.name, root.id)),
        ("SHA-256", root.sha256.clone()),
        ("For", format!("hosts below {}", root.suffixes.join(", "))),
        ("Until", format!("{} ({left} left)", root.not_after)),
    ];
    rows.extend(root.file.as_ref().map(|file| ("File", file.display().to_string())));
    let mut text: String = rows.iter().map(|(label, value)| format!("{label:<8} {value}\n")).collect();
    text.push('\n');
    let row = |store: &StoreAnswer| {
        [store.state.to_owned(), store.store.clone(), store.why.clone().unwrap_or_else(|| "-".into())]
    };
    text += &output::table(["ROOT IS", "STORE", "WHY"], answer.stores.iter().map(row));
    if !answer.others.is_empty() {
        text += "\nRoots of other edge CAs, which signet trust uninstall ID takes out:\n";
        let row = |other: &OtherAnswer| [other.id.clone(), other.store.clone(), other.name.clone()];
        text += &output::table(["ID", "STORE", "NAME"], answer.others.iter().map(row));
    }
    text
}

/// As browsers and OpenSSL show it: "AB:CD:...".
fn sha256(root: &Root) -> String {
    let digest = hex(&root.sha256()).to_uppercase();
    let pairs: Vec<&str> = (0..digest.len()).step_by(2).filter_map(|at| digest.get(at..at + 2)).collect();
    pairs.join(":")
}
