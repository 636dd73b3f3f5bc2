//! `signet ca`: look at the mesh's CA, rotate its root, distrust one.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use signet_core::{
    bundle::{TrustBundle, certificate_pem, root_id},
    clock,
};

use crate::{
    Exit,
    ask::{NoAnswer, Place},
    cluster::{Cluster, Part},
    human,
    output::{self, Format, Output},
    shapes::{CaStatus, Intermediate, Phase, RootState},
    state::StateDir,
    whom::{Asking, Whom},
};

/// Look at the CA, rotate its root, take trust away from one
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Status(Status),
    Rotate(Rotate),
    Bundle(Bundle),
    Distrust(Distrust),
}

/// Show roots, intermediate, rotation and what was issued
///
/// Changes nothing. Example: signet ca status -o json
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 fine, 1 a certificate of the CA has expired, 2 could not ask")]
pub(crate) struct Status {
    #[command(flatten)]
    at: At,
}

/// Begin to replace the root; no connection is cut, nothing restarts
///
/// The new root is published beside the old one; once every leaf has been renewed, new certificates come from it; then the
/// old one is dropped. That takes about two leaf lives and goes on by itself, whatever is killed meanwhile. Where the root is
/// your own, bring an intermediate of another one instead (docs/ca.md).
/// In a cluster it needs the right to exec in the CA's pods. Watch it with: signet ca status
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 begun, 1 refused (one is under way, or the root is your own), 2 could not ask"
)]
pub(crate) struct Rotate {
    #[command(flatten)]
    at: At,
}

/// Print the roots that this mesh believes, as PEM
///
/// Changes nothing. Example: signet ca bundle > mesh.pem && openssl storeutl -noout -text -certs mesh.pem
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 fine, 2 could not ask")]
pub(crate) struct Bundle {
    #[command(flatten)]
    at: At,
}

/// Stop believing ROOT at once: connections that rest on it are cut
///
/// For a root whose key is in other hands. Everything that rests on it is closed and fetches a new certificate; to
/// replace a healthy root without that, use: signet ca rotate
///
/// Example: signet ca distrust 0123456789abcdef
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 distrusted, 1 refused (no such root), 2 could not ask")]
pub(crate) struct Distrust {
    /// Its id, as signet ca status shows it
    root: String,
    #[command(flatten)]
    at: At,
}

/// Which CA.
#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    asking: Asking,
    /// Admin socket of the CA to ask, as in its pod: /run/signet/admin.sock
    #[arg(long, value_name = "FILE", conflicts_with_all = ["state", "kubeconfig", "context"])]
    socket: Option<PathBuf>,
}

/// [`At`], found.
enum Found {
    /// A socket of this machine, in this state directory unless the user named the socket itself.
    Here(Place, Option<StateDir>),
    Cluster(Cluster),
}

impl At {
    async fn find(&self) -> Result<Found> {
        if let Some(socket) = &self.socket {
            return Ok(Found::Here(Place::socket(socket), None));
        }
        Ok(match self.asking.whom().await? {
            Whom::Local(state) => Found::Here(Place::Socket(state.ca_socket()), Some(state)),
            Whom::Cluster(cluster) => Found::Cluster(cluster),
        })
    }
}

/// Why a socket gave no answer, and what to do.
fn unanswered(state: Option<&StateDir>, why: NoAnswer) -> anyhow::Error {
    match state {
        Some(state) => state.explain("ca", why),
        None => why.into(),
    }
}

pub(crate) async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Status(args) => status(args.at).await,
        Command::Bundle(args) => bundle(args.at).await,
        Command::Rotate(args) => {
            let done = "Rotation has begun. It goes on by itself; watch it with: signet ca status";
            change(args.at, &["rotate"], "/v1/rotate", json!({}), done).await
        }
        Command::Distrust(args) => {
            let done =
                format!("{} is no longer believed; what rested on it fetches new certificates.", args.root);
            let body = json!({ "root": args.root });
            change(args.at, &["distrust", &args.root], "/v1/distrust", body, &done).await
        }
    }
}

/// `-o json`: the fields of the CA; in a cluster those of one replica, with the sums of all in `issued` and `refused`.
#[derive(Serialize)]
pub(crate) struct Answer {
    #[serde(flatten)]
    pub(crate) status: CaStatus,
    /// In a cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) replicas: Vec<Replica>,
    /// Replicas that did not answer, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
}

/// Each signs with an intermediate of its own.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replica {
    pub(crate) pod: String,
    pub(crate) version: String,
    pub(crate) intermediate: Intermediate,
    issued: u64,
    refused: u64,
}

impl Answer {
    #[cfg(test)]
    pub(crate) fn of_one(pod: &str, status: CaStatus) -> Self {
        let replicas = vec![Replica::new(pod, &status)];
        Self { status, replicas, missing: Vec::new() }
    }
}

impl Replica {
    fn new(pod: &str, status: &CaStatus) -> Self {
        Self {
            pod: pod.to_owned(),
            version: status.version.clone(),
            intermediate: status.intermediate.clone(),
            issued: status.issued,
            refused: status.refused,
        }
    }
}

pub(crate) async fn ask_cluster(cluster: &Cluster) -> Result<Answer> {
    let answers = cluster.ask_all::<CaStatus>(Part::Ca, "/v1/status").await?;
    let answers = cluster.some(Part::Ca, answers)?;
    let replicas: Vec<Replica> =
        answers.given.iter().map(|(pod, status)| Replica::new(pod, status)).collect();
    let fault = answers.given.iter().find_map(|(_, status)| status.fault.clone());
    // The newest: a replica may not have seen the last step of a rotation yet.
    let newest =
        answers.given.into_iter().map(|(_, status)| status).max_by_key(|status| status.bundle_sequence);
    let mut status = newest.context("some answered")?;
    status.fault = status.fault.or(fault);
    status.issued = replicas.iter().map(|replica| replica.issued).sum();
    status.refused = replicas.iter().map(|replica| replica.refused).sum();
    Ok(Answer { status, replicas, missing: answers.missing })
}

async fn status(at: At) -> Result<Exit> {
    let answer = match at.find().await? {
        Found::Here(place, state) => {
            let status = place.get("/v1/status").await.map_err(|e| unanswered(state.as_ref(), e))?;
            Answer { status, replicas: Vec::new(), missing: Vec::new() }
        }
        Found::Cluster(cluster) => ask_cluster(&cluster).await?,
    };
    Output::to_stdout(at.asking.output).show(&answer, status_text)?;
    for missing in &answer.missing {
        output::note(&format!("Not all of it: {missing}"));
    }
    Ok(if expired(&answer).is_empty() { Exit::Fine } else { Exit::Fix })
}

fn status_text(answer: &Answer) -> String {
    let (now, status) = (clock::now(), &answer.status);
    let mut text = format!(
        "Trust domain  {}\nLeaf life     {}\nIssued        {}, refused {}\n",
        status.trust_domain,
        human::left(status.leaf_life_seconds),
        status.issued,
        status.refused
    );
    text += &match &answer.replicas[..] {
        [] => intermediate_line(&status.intermediate, ""),
        replicas => replicas.iter().map(|one| intermediate_line(&one.intermediate, &one.pod)).collect(),
    };
    text += &format!("Rotation      {}\n\n", rotation_words(status));
    text += &output::table(
        ["ROOT", "STATE", "LEFT", "NOT AFTER"],
        status.roots.iter().map(|root| {
            let left = human::left_until(&root.not_after, now);
            let yours = if root.brought { ", yours" } else { "" };
            [root.id.clone(), format!("{}{yours}", state_word(root.state)), left, root.not_after.clone()]
        }),
    );
    if let Some(fault) = &status.fault {
        text += &format!("\n{fault}\n");
    }
    for what in expired(answer) {
        text += &format!("\n{what} has expired; see the CA's log, or restart it");
    }
    text
}

fn intermediate_line(intermediate: &Intermediate, of: &str) -> String {
    let left = human::left_until(&intermediate.not_after, clock::now());
    let of = if of.is_empty() { String::new() } else { format!(" of {of}") };
    let yours = intermediate.brought.as_ref().map_or_else(String::new, |yours| {
        let (left, until) = (human::left_until(&yours.not_after, clock::now()), &yours.not_after);
        match yours.serial == intermediate.serial {
            true => format!("; it is yours, until {until}"),
            false => format!("; under yours, {}, {left} left, until {until}", yours.serial),
        }
    });
    format!("Intermediate  {}{of}, {left} left{yours}\n", intermediate.serial)
}

/// "steady", or "converge, next step in 23h 10m".
pub(crate) fn rotation_words(status: &CaStatus) -> String {
    let phase = phase_word(status.rotation.state);
    let Some(next) = &status.rotation.next_step_at else {
        return format!("{phase}, the next one begins when you bring another root");
    };
    let next = human::left_until(next, clock::now());
    match status.rotation.state {
        Phase::Steady => format!("{phase}, the next one begins in {next}"),
        _ => format!("{phase}, next step in {next}"),
    }
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Steady => "steady",
        Phase::Prepare => "prepare",
        Phase::Converge => "converge",
        Phase::Activate => "activate",
        Phase::Retire => "retire",
    }
}

fn state_word(state: RootState) -> &'static str {
    match state {
        RootState::Active => "active",
        RootState::Next => "next",
        RootState::Retiring => "retiring",
        RootState::Distrusted => "distrusted",
    }
}

/// Certificates that the CA should long have renewed.
pub(crate) fn expired(answer: &Answer) -> Vec<String> {
    let now = clock::now();
    let past = |end: &str| human::seconds_until(end, now).is_some_and(|left| left <= 0);
    let roots = answer.status.roots.iter();
    let active = roots.filter(|root| root.state == RootState::Active && past(&root.not_after));
    let mut expired: Vec<String> = active.map(|root| format!("root {}", root.id)).collect();
    let own = [("", &answer.status.intermediate)];
    let replicas = answer.replicas.iter().map(|replica| (replica.pod.as_str(), &replica.intermediate));
    let all: Vec<_> = if answer.replicas.is_empty() { own.into() } else { replicas.collect() };
    for (pod, intermediate) in all.into_iter().filter(|(_, intermediate)| past(&intermediate.not_after)) {
        let of = if pod.is_empty() { String::new() } else { format!(" of {pod}") };
        expired.push(format!("intermediate {}{of}", intermediate.serial));
    }
    expired
}

#[derive(Serialize)]
struct BundleJson {
    sequence: u64,
    distrusted: Vec<String>,
    roots: Vec<BundleRoot>,
}

#[derive(Serialize)]
struct BundleRoot {
    id: String,
    pem: String,
}

async fn bundle(at: At) -> Result<Exit> {
    let pem = match at.find().await? {
        Found::Cluster(cluster) => cluster.ask_any_text(Part::Ca, "/v1/bundle").await?,
        Found::Here(place, state) => {
            place.get_text("/v1/bundle").await.map_err(|e| unanswered(state.as_ref(), e))?
        }
    };
    let bundle = match TrustBundle::from_pem(pem.as_bytes()) {
        Ok(bundle) => bundle,
        Err(why) => bail!("the CA's bundle {why}; see its log"),
    };
    let json = BundleJson {
        sequence: bundle.sequence,
        distrusted: bundle.distrusted.iter().map(ToString::to_string).collect(),
        roots: bundle
            .roots
            .iter()
            .map(|der| BundleRoot { id: root_id(der), pem: certificate_pem(der) })
            .collect(),
    };
    Output::to_stdout(at.asking.output).show(&json, |_| pem)?;
    Ok(Exit::Fine)
}

/// A question that changes something; the CA's own "no" is exit status 1, not 2.
async fn change(at: At, words: &[&str], path: &str, body: Value, done: &str) -> Result<Exit> {
    let format = at.asking.output;
    let (place, state) = match at.find().await? {
        Found::Here(place, state) => (place, state),
        Found::Cluster(cluster) => return change_in_cluster(&cluster, words, format, done).await,
    };
    match place.post::<Value>(path, &body).await {
        Ok(answer) => {
            Output::to_stdout(format).show(&answer, |_| done.to_owned())?;
            Ok(Exit::Fine)
        }
        Err(NoAnswer::Refused { status, words, .. }) if status.is_client_error() => {
            output::note(&format!("The CA refused: {words}"));
            Ok(Exit::Fix)
        }
        Err(e) => Err(unanswered(state.as_ref(), e)),
    }
}

/// The same command, run beside the CA: its socket is on no network, so whoever changes the CA needs the right to exec.
async fn change_in_cluster(cluster: &Cluster, words: &[&str], format: Format, done: &str) -> Result<Exit> {
    let arguments = [&["ca"], words, &["--socket", CA_SOCKET, "-o", "json"]].concat();
    let ran = cluster.exec_in_ca(&arguments).await?;
    match ran.status {
        0 => {
            let answer: Value = serde_json::from_str(&ran.stdout).context("the CA answered no JSON")?;
            Output::to_stdout(format).show(&answer, |_| done.to_owned())?;
            Ok(Exit::Fine)
        }
        1 => {
            output::note(ran.stderr.trim());
            Ok(Exit::Fix)
        }
        _ => bail!("the CA in {} says: {}", cluster.name, ran.stderr.trim()),
    }
}

/// In the CA's pods (deploy/ca.yaml).
const CA_SOCKET: &str = "/run/signet/admin.sock";
