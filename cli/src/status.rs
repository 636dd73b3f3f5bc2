//! `signet status`: is the mesh well, and if not, what to do.

use anyhow::Result;
use serde::Serialize;
use signet_core::clock;

use crate::{
    Asking, Exit,
    ask::Place,
    ca, human,
    output::{self, Mark, Output},
    shapes::{CaStatus, ControllerStatus, RootState, WorkloadStatus},
    state::Running,
};

/// Show whether the mesh is well, and what to fix if not
///
/// CA, controller, every pod of the manifests (meshed or not, and why), its proxy and how long its certificate lives.
/// Manifests that cannot be used are listed with file, line and field.
///
/// Changes nothing.
///
/// Examples:
///   signet status
///   signet status -o json | jq '.problems'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 all well, 1 something to fix, 2 could not ask")]
pub(crate) struct Args {
    #[command(flatten)]
    asking: Asking,
}

/// `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    running: Running,
    ca: Option<CaStatus>,
    controller: Option<ControllerStatus>,
    /// What to fix, in words. Empty: all is well.
    problems: Vec<String>,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let state = args.asking.state()?;
    let running = state.read_running()?;
    let (ca, controller) = (Place::Socket(state.ca_socket()), Place::Socket(state.controller_socket()));
    let (ca, controller) = tokio::join!(ca.get("/v1/status"), controller.get("/v1/status"));
    let (ca, controller) = match (ca, controller) {
        (Err(_), Err(e)) => return Err(state.explain("controller", e)),
        answers => answers,
    };
    let mut problems = Vec::new();
    let mut answered = |part: &str, e| problems.push(format!("{:#}", state.explain(part, e)));
    let ca: Option<CaStatus> = ca.map_err(|e| answered("ca", e)).ok();
    let controller: Option<ControllerStatus> = controller.map_err(|e| answered("controller", e)).ok();
    let log = state.log("ca");
    let expired = ca.iter().flat_map(ca::expired);
    problems.extend(expired.map(|what| format!("{what} has expired; see {}", log.display())));
    problems.extend(controller.iter().flat_map(controller_problems));
    let status = Status { running, ca, controller, problems };
    let out = Output::to_stdout(args.asking.output);
    out.show(&status, |status| text(out, status))?;
    Ok(if status.problems.is_empty() { Exit::Fine } else { Exit::Fix })
}

/// Manifests that do not parse, and meshed pods whose proxy is missing or not ready.
fn controller_problems(status: &ControllerStatus) -> Vec<String> {
    let mut problems: Vec<String> = status.manifests.errors.iter().map(ToString::to_string).collect();
    for workload in status.workloads.iter().filter(|workload| workload.meshed) {
        let name = format!("{}/{}", workload.namespace, workload.pod);
        match &workload.proxy {
            Some(proxy) if proxy.connected && proxy.ready => {}
            Some(proxy) if proxy.connected => {
                let why = proxy.not_ready.as_deref().unwrap_or("it does not say why");
                problems.push(format!("{name}: its proxy is not ready: {why}"));
            }
            _ => problems.push(format!(
                "{name}: its proxy is not connected to the controller; see the log of {name} beside the CA's"
            )),
        }
    }
    problems
}

fn text(out: Output, status: &Status) -> String {
    let mut text = format!(
        "Mesh of {}, trust domain {}\n",
        status.running.directory.display(),
        status.running.trust_domain
    );
    let mark = |up: bool| out.mark(if up { Mark::Good } else { Mark::Bad });
    text += &match &status.ca {
        Some(ca) => format!("{} CA          {}\n", mark(true), ca_line(ca)),
        None => format!("{} CA          does not answer\n", mark(false)),
    };
    text += &match &status.controller {
        Some(controller) => format!(
            "{} Controller  {} with {}\n",
            mark(controller.manifests.errors.is_empty()),
            human::count(controller.manifests.files as u64, "file"),
            human::count(controller.manifests.objects as u64, "object"),
        ),
        None => format!("{} Controller  does not answer\n", mark(false)),
    };
    if let Some(controller) = &status.controller {
        let header = ["WORKLOAD", "MESHED", "MODE", "PROXY", "CERT LEFT", "ADDRESS", "IDENTITY"];
        text += "\n";
        text += &output::table(header, controller.workloads.iter().map(|workload| row(out, workload)));
    }
    if !status.problems.is_empty() {
        text += "\nTo fix:\n";
        for problem in &status.problems {
            text += &format!("  {problem}\n");
        }
    }
    text
}

fn ca_line(ca: &CaStatus) -> String {
    let now = clock::now();
    let root = ca.roots.iter().find(|root| root.state == RootState::Active);
    let root = root.map_or("no active root".into(), |root| {
        format!("root {} {} left", root.id, human::left_until(&root.not_after, now))
    });
    let intermediate = human::left_until(&ca.intermediate.not_after, now);
    let (rotation, issued) = (ca::rotation_words(ca), ca.issued);
    format!(
        "{root}, intermediate {intermediate} left, rotation {rotation}, {issued} issued, {} refused",
        ca.refused
    )
}

fn row(out: Output, workload: &WorkloadStatus) -> [String; 7] {
    let none = || "-".to_owned();
    let meshed = if workload.meshed {
        out.marked(Mark::Good, "yes")
    } else {
        out.marked(Mark::Aside, workload.why.as_deref().unwrap_or("no"))
    };
    let proxy = match &workload.proxy {
        Some(proxy) if proxy.connected && proxy.ready => "ready".into(),
        Some(proxy) if proxy.connected => "not ready".into(),
        Some(_) => "away".into(),
        None if workload.meshed => "missing".into(),
        None => none(),
    };
    let leaf = workload.proxy.as_ref().and_then(|proxy| proxy.leaf_not_after.as_deref());
    [
        format!("{}/{}", workload.namespace, workload.pod),
        meshed,
        workload.mode.clone().filter(|_| workload.meshed).unwrap_or_else(none),
        proxy,
        leaf.map_or_else(none, |end| human::left_until(end, clock::now())),
        workload.address.map_or_else(none, |address| address.to_string()),
        workload.identity.clone().filter(|_| workload.meshed).unwrap_or_else(none),
    ]
}
