//! `signet check`: what is wrong with an installation, or would be. `facts` asks the cluster and our parts, `judge` finds (pure),
//! `strict` does both for a namespace that shall go strict, `known` is the list of everything that can be found; each has a page in
//! docs/checks/.

mod facts;
mod judge;
mod known;
mod strict;

use anyhow::{Result, bail};
use serde::Serialize;
use signet_ca::Life;
use signet_core::pod::MTLS;

use crate::{
    Exit,
    check::{
        facts::Facts,
        known::{Id, Severity},
    },
    cluster::{ClusterName, Which},
    output::{Format, Mark, Output},
};

/// Find what is wrong with Signet in a cluster, and say what to do about it
///
/// Looks at versions, rights, namespaces, the control plane, the webhook, proxies and certificates. Each finding has an ID, and a page
/// docs/checks/ID.md that says why it matters. Without findings it says so, and what it looked at.
///
/// Changes nothing.
///
/// Examples:
///   signet check --pre                       # before signet install
///   signet check
///   signet check --strict-ready shop         # before its label signet.dev/mtls=strict
///   signet check --fail-on warn -o json      # in CI
///   signet check --list                      # everything that it knows
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 no error was found, 1 an error was (with --fail-on warn: or a warning), 2 could not look at everything"
)]
pub(crate) struct Args {
    /// Only what must be true before the installation
    #[arg(long)]
    pre: bool,
    /// Only what would break, or stay open, once this namespace takes no plaintext
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "pre")]
    strict_ready: Option<String>,
    /// From which severity on the exit status is 1
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = Severity::Error)]
    fail_on: Severity,
    /// Roots that end sooner are a finding
    #[arg(long, value_name = "DURATION", default_value = "30d")]
    expiry_within: Life,
    /// Print every finding that there can be, and ask nobody
    #[arg(long, conflicts_with_all = ["pre", "strict_ready"])]
    list: bool,
    #[command(flatten)]
    cluster: Which,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// `-o json`.
#[derive(Serialize)]
struct Report {
    cluster: ClusterName,
    findings: Vec<Finding>,
    /// What could not be looked at, in words.
    unchecked: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    pub(crate) id: Id,
    severity: Severity,
    /// What is wrong, with names.
    pub(crate) what: String,
    why: &'static str,
    /// What to do.
    next: String,
    page: String,
}

impl Finding {
    fn new(id: Id, what: String, next: String) -> Self {
        Self { id, severity: id.severity(), what, why: id.why(), next, page: id.page() }
    }
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let out = Output::to_stdout(args.output);
    if args.list {
        out.show(&known::list(), |list| known::table(list))?;
        return Ok(Exit::Fine);
    }
    let cluster = args.cluster.connect().await?;
    let (findings, unchecked) = match &args.strict_ready {
        Some(namespace) => {
            let facts = Box::pin(strict::Facts::ask(&cluster, namespace)).await?;
            (strict::findings(&facts), facts.unchecked)
        }
        None => {
            let facts = Box::pin(Facts::ask(&cluster, args.pre)).await?;
            (judge::findings(&facts, args.expiry_within.0), facts.unchecked)
        }
    };
    let report = Report { cluster: cluster.name, findings, unchecked };
    out.show(&report, |report| text(out, report, &args))?;
    if report.findings.iter().any(|finding| finding.severity >= args.fail_on) {
        return Ok(Exit::Fix);
    }
    if !report.unchecked.is_empty() {
        bail!("not everything could be looked at");
    }
    Ok(Exit::Fine)
}

fn text(out: Output, report: &Report, args: &Args) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let mark = match finding.severity {
            Severity::Error => out.marked(Mark::Bad, "error"),
            Severity::Warn => out.marked(Mark::Aside, "warning"),
        };
        text += &format!(
            "{mark} {}: {}\n    {}\n    To do: {}\n    {}\n",
            finding.id.word(),
            finding.what,
            finding.why,
            finding.next,
            finding.page
        );
    }
    for unchecked in &report.unchecked {
        text += &format!("{} not looked at: {unchecked}\n", out.mark(Mark::Bad));
    }
    if report.findings.is_empty() && report.unchecked.is_empty() {
        let fine = match &args.strict_ready {
            Some(namespace) => format!(
                "nobody seen in the last 15 minutes would break in {namespace}; next: kubectl label --overwrite namespace \
                 {namespace} {MTLS}=strict"
            ),
            None if args.pre => {
                format!("{} is fine; next: signet install | kubectl apply --server-side -f -", report.cluster)
            }
            None => format!("{} is fine", report.cluster),
        };
        text += &format!("{} {fine}\n", out.mark(Mark::Good));
    }
    text
}

/// "a, b, c and 7 more".
fn some(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Names in one finding.
const SHOWN: usize = 5;
