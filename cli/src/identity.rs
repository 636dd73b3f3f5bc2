//! `signet identity WORKLOAD`: who a workload proves to be, asked from its own proxy.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use signet_core::clock;

use crate::{
    Asking, Exit,
    ask::Place,
    human,
    output::Output,
    state::{Kind, RunningChild},
};

/// Show who WORKLOAD proves to be, and until when
///
/// Its proxy is asked: SPIFFE ID, serial, life and chain of the certificate that it uses now, and the roots that it trusts.
/// The key never leaves the proxy.
///
/// Examples:
///   signet identity shop/api-0
///   signet identity api-0 -o json | jq -r .chain | openssl x509 -noout -text
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 a valid certificate, 1 none, 2 could not ask")]
pub(crate) struct Args {
    /// "<namespace>/<pod>", or the pod alone where only one has that name
    workload: String,
    #[command(flatten)]
    asking: Asking,
}

/// What the proxy answers, and `-o json` prints.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    spiffe_id: String,
    /// `null`: no valid certificate now.
    serial: Option<String>,
    /// RFC 3339.
    not_before: Option<String>,
    not_after: Option<String>,
    left_seconds: Option<i64>,
    /// "ECDSA P-256"
    key: Option<String>,
    /// Counts the leaves of this process.
    generation: Option<u64>,
    /// PEM: leaf, then intermediates.
    chain: Option<String>,
    bundle_sequence: Option<u64>,
    roots: Vec<String>,
    distrusted: Option<Vec<String>>,
    /// Set: the proxy trusts nobody, and why.
    trust_fault: Option<String>,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let state = args.asking.state()?;
    let running = state.read_running()?;
    let child = find(&running.children, &args.workload)?;
    let Some(admin) = child.admin_address else { bail!("{} has no admin address in {}", child.name, state.running().display()) };
    let identity: Identity = Place::Tcp(admin).get("/identity").await.map_err(|e| state.explain(&child.name, e))?;
    let out = Output::to_stdout(args.asking.output);
    out.show(&identity, text)?;
    Ok(if identity.serial.is_some() { Exit::Fine } else { Exit::Fix })
}

fn find<'a>(children: &'a [RunningChild], workload: &str) -> Result<&'a RunningChild> {
    let is_it = |name: &str| name == workload || name.split_once('/').is_some_and(|(_, pod)| pod == workload);
    let found: Vec<&RunningChild> =
        children.iter().filter(|child| child.kind == Kind::Proxy && is_it(&child.name)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => bail!("no meshed workload {workload:?} runs here; signet status lists them"),
        _ => {
            let names: Vec<&str> = found.iter().map(|child| child.name.as_str()).collect();
            bail!("{workload:?} could be {}; say which", names.join(" or "))
        }
    }
}

fn text(identity: &Identity) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let left = identity.not_after.as_ref().map_or_else(|| "-".into(), |end| human::left_until(end, clock::now()));
    let mut lines = vec![
        ("SPIFFE ID", identity.spiffe_id.clone()),
        ("serial", or_none(&identity.serial)),
        ("valid from", or_none(&identity.not_before)),
        ("valid until", format!("{} ({left})", or_none(&identity.not_after))),
        ("key", or_none(&identity.key)),
        ("trusts", identity.roots.join(", ")),
    ];
    if identity.serial.is_none() {
        lines.push(("problem", "no valid certificate: all mesh traffic of this workload is closed; see signet ca status".into()));
    }
    if let Some(fault) = &identity.trust_fault {
        lines.push(("problem", format!("trusts nobody: {fault}")));
    }
    lines.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}
