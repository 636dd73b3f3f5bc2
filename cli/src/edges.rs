//! `signet edges`: who talks to whom, and how. The proof that a connection was encrypted comes from the proxies at its ends.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{
    Exit,
    ask::Place,
    cluster::Part,
    human,
    named::Scope,
    output::{self, Mark, Output},
    replicas,
    shapes::{Edge, EdgeList, End},
    whom::{Asking, Whom},
};

/// Show who talks to whom, and whether it is encrypted
///
/// One line for each client, server and port that were seen since the controller started. A secured line means mutual TLS
/// with both identities verified; PROOF says who reported it. Plaintext and refusals say why.
/// In a cluster, every replica of the controller is asked, and what they say is put together.
///
/// Changes nothing.
///
/// Examples:
///   signet edges
///   signet edges shop               # to and from one namespace
///   signet edges --plaintext        # what is not encrypted
///   signet edges -o json | jq '.edges[] | select(.refused)'
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 fine, 1 with --plaintext: there are such edges, 2 could not ask"
)]
pub(crate) struct Args {
    #[command(flatten)]
    scope: Scope,
    /// Only connections that carried plaintext
    #[arg(long)]
    plaintext: bool,
    #[command(flatten)]
    asking: Asking,
}

/// `-o json`.
#[derive(Serialize)]
struct Edges {
    edges: Vec<Edge>,
    /// Replicas that did not answer, in words: what only they know is not in `edges`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let mut edges = ask(&args.asking.whom().await?).await?;
    if let Some(namespace) = args.scope.namespace() {
        let ends = |edge: &Edge| [edge.client.namespace.clone(), edge.server.namespace.clone()];
        edges.edges.retain(|edge| ends(edge).iter().flatten().any(|of| of == namespace));
    }
    if args.plaintext {
        edges.edges.retain(is_plaintext);
    }
    let found = !edges.edges.is_empty();
    if args.plaintext && !found && !edges.missing.is_empty() {
        bail!("nobody who answers saw plaintext, but not all do: {}", edges.missing.join("; "));
    }
    let out = Output::to_stdout(args.asking.output);
    out.show(&edges, |edges| match (found, args.plaintext) {
        (true, _) => edges_table(out, &edges.edges),
        (false, true) => "No plaintext was seen.".into(),
        (false, false) => match args.scope.namespace() {
            Some(namespace) => format!("Nobody has talked to or from namespace {namespace} yet."),
            None => "Nobody has talked to anybody yet.".into(),
        },
    })?;
    for missing in &edges.missing {
        output::note(&format!("Not all of it: {missing}"));
    }
    Ok(if args.plaintext && found { Exit::Fix } else { Exit::Fine })
}

async fn ask(whom: &Whom) -> Result<Edges> {
    match whom {
        Whom::Local(state) => {
            let controller = Place::Socket(state.controller_socket());
            let answer = controller.get::<EdgeList>("/v1/edges").await;
            Ok(Edges {
                edges: answer.map_err(|e| state.explain("controller", e))?.edges,
                missing: Vec::new(),
            })
        }
        Whom::Cluster(cluster) => {
            let answers = cluster.ask_all::<EdgeList>(Part::Controller, "/v1/edges").await?;
            let answers = cluster.some(Part::Controller, answers)?;
            let edges = replicas::edges(answers.given.into_iter().map(|(_, answer)| answer.edges));
            Ok(Edges { edges, missing: answers.missing })
        }
    }
}

/// What a pod says to itself is on no wire.
pub(crate) fn is_plaintext(edge: &Edge) -> bool {
    !edge.secured && !edge.refused && edge.reason.as_deref() != Some("own_pod")
}

/// IDs last: they are long, and a narrow terminal wraps only them.
pub(crate) fn edges_table(out: Output, edges: &[Edge]) -> String {
    let header = [
        "CLIENT",
        "SERVER",
        "PORT",
        "SECURED",
        "TLS",
        "KEY EXCHANGE",
        "CERT LEFT",
        "OPEN",
        "TOTAL",
        "SENT",
        "RECEIVED",
        "PROOF",
        "REASON",
        "CLIENT ID",
        "SERVER ID",
    ];
    output::table(header, edges.iter().map(|edge| row(out, edge)))
}

fn row(out: Output, edge: &Edge) -> [String; 15] {
    let none = || "-".to_owned();
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(none);
    let secured = match (edge.secured, edge.refused) {
        (_, true) => out.marked(Mark::Aside, "refused"),
        (true, false) => out.marked(Mark::Good, "mTLS"),
        (false, false) => out.marked(Mark::Bad, "plaintext"),
    };
    [
        name(&edge.client),
        name(&edge.server),
        edge.server.port.map_or_else(none, |port| port.to_string()),
        secured,
        edge.tls.as_ref().map_or_else(none, |tls| tls.version.clone()),
        edge.tls.as_ref().map_or_else(none, |tls| tls.key_exchange.clone()),
        edge.cert_left_seconds.map_or_else(none, human::left),
        edge.open.to_string(),
        edge.total.to_string(),
        human::bytes(edge.sent),
        human::bytes(edge.received),
        edge.proof.clone(),
        or_none(&edge.reason),
        or_none(&edge.client.id),
        or_none(&edge.server.id),
    ]
}

/// "shop/web-0", or the bare address.
pub(crate) fn name(end: &End) -> String {
    match (&end.namespace, &end.pod, &end.address) {
        (Some(namespace), Some(pod), _) => format!("{namespace}/{pod}"),
        (.., Some(address)) => address.clone(),
        _ => "unknown".into(),
    }
}
