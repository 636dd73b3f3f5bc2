//! `signet ca`: look at the mesh's CA, rotate its root, distrust one.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use signet_core::{
    bundle::{TrustBundle, certificate_pem, root_id},
    clock,
};

use crate::{
    Asking, Exit,
    ask::{NoAnswer, Place},
    human,
    output::{self, Format, Output},
    shapes::{CaStatus, Phase, RootState},
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
/// old one is dropped. That takes about two leaf lives and goes on by itself, whatever is killed meanwhile.
/// Watch it with: signet ca status
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 begun, 1 refused (a rotation is under way), 2 could not ask")]
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

/// Which CA to ask.
#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    asking: Asking,
    /// Admin socket of the CA to ask, as in its pod: /run/signet/admin.sock
    #[arg(long, value_name = "FILE", conflicts_with = "state")]
    socket: Option<PathBuf>,
}

impl At {
    fn format(&self) -> Format {
        self.asking.output
    }

    fn place(&self) -> Result<Place> {
        match &self.socket {
            Some(socket) => Ok(Place::socket(socket)),
            None => Ok(Place::Socket(self.asking.state()?.ca_socket())),
        }
    }

    /// Why there is no answer, and what to do.
    fn explain(&self, why: NoAnswer) -> anyhow::Error {
        match (&self.socket, self.asking.state()) {
            (None, Ok(state)) => state.explain("ca", why),
            _ => why.into(),
        }
    }
}

pub(crate) async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Status(args) => status(args.at).await,
        Command::Bundle(args) => bundle(args.at).await,
        Command::Rotate(args) => {
            let done = "Rotation has begun. It goes on by itself; watch it with: signet ca status";
            change(args.at, "/v1/rotate", json!({}), done).await
        }
        Command::Distrust(args) => {
            let done =
                format!("{} is no longer believed; what rested on it fetches new certificates.", args.root);
            change(args.at, "/v1/distrust", json!({ "root": args.root }), &done).await
        }
    }
}

async fn status(at: At) -> Result<Exit> {
    let status: CaStatus = at.place()?.get("/v1/status").await.map_err(|e| at.explain(e))?;
    Output::to_stdout(at.format()).show(&status, status_text)?;
    Ok(if expired(&status).is_empty() { Exit::Fine } else { Exit::Fix })
}

fn status_text(status: &CaStatus) -> String {
    let now = clock::now();
    let mut text = format!(
        "Trust domain  {}\nLeaf life     {}\nIssued        {}, refused {}\nIntermediate  {}, {} left\nRotation      {}\n\n",
        status.trust_domain,
        human::left(status.leaf_life_seconds),
        status.issued,
        status.refused,
        status.intermediate.serial,
        human::left_until(&status.intermediate.not_after, now),
        rotation_words(status),
    );
    text += &output::table(
        ["ROOT", "STATE", "LEFT", "NOT AFTER"],
        status.roots.iter().map(|root| {
            let left = human::left_until(&root.not_after, now);
            [root.id.clone(), state_word(root.state).into(), left, root.not_after.clone()]
        }),
    );
    if let Some(replica) = &status.replica {
        let leader = if replica.leader.is_empty() { "nobody" } else { &replica.leader };
        text +=
            &format!("\nAnswered by {}; {leader} takes the steps of a rotation and publishes", replica.name);
        for (namespace, why) in &replica.without_bundle {
            text += &format!("\nNamespace {namespace} has no trust bundle: {why}");
        }
    }
    for what in expired(status) {
        text += &format!("\n{what} has expired; see the CA's log, or restart it");
    }
    text
}

/// "steady", or "converge, next step in 23h 10m".
pub(crate) fn rotation_words(status: &CaStatus) -> String {
    let phase = phase_word(status.rotation.state);
    let next = human::left_until(&status.rotation.next_step_at, clock::now());
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
pub(crate) fn expired(status: &CaStatus) -> Vec<String> {
    let now = clock::now();
    let past = |end: &str| human::seconds_until(end, now).is_some_and(|left| left <= 0);
    let active = status.roots.iter().filter(|root| root.state == RootState::Active && past(&root.not_after));
    let mut expired: Vec<String> = active.map(|root| format!("root {}", root.id)).collect();
    if past(&status.intermediate.not_after) {
        expired.push(format!("intermediate {}", status.intermediate.serial));
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
    let pem = at.place()?.get_text("/v1/bundle").await.map_err(|e| at.explain(e))?;
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
    Output::to_stdout(at.format()).show(&json, |_| pem)?;
    Ok(Exit::Fine)
}

/// A question that changes something; the CA's own "no" is exit status 1, not 2.
async fn change(at: At, path: &str, body: Value, done: &str) -> Result<Exit> {
    match at.place()?.post::<Value>(path, &body).await {
        Ok(answer) => {
            Output::to_stdout(at.format()).show(&answer, |_| done.to_owned())?;
            Ok(Exit::Fine)
        }
        Err(NoAnswer::Refused { status, words, .. }) if status.is_client_error() => {
            output::note(&format!("The CA refused: {words}"));
            Ok(Exit::Fix)
        }
        Err(e) => Err(at.explain(e)),
    }
}
