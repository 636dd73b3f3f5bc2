//! `signet status`: is the mesh well, and if not, what to do.

use anyhow::Result;
use serde::Serialize;
use signet_core::clock;

use crate::{
    Exit,
    ask::Place,
    ca, cert,
    cluster::{Cluster, ClusterName, Part},
    human,
    named::Scope,
    output::{self, Mark, Output},
    replicas,
    shapes::{
        AcmeAnswer, AcmeCertificate, CaStatus, ControllerStatus, EdgeStatus, RootState, WorkloadStatus,
    },
    state::{Kind, Running, StateDir},
    whom::{Asking, Whom},
};

/// Show whether the mesh is well, and what to fix if not
///
/// CA, controller, every pod (meshed or not, and why), its proxy and how long its certificate lives. Of a mesh on this
/// machine, manifests that cannot be used are listed with file, line and field. For a cluster's set-up, see: signet check
///
/// Changes nothing.
///
/// Examples:
///   signet status
///   signet status shop              # the pods of one namespace
///   signet status -o json | jq '.problems'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 all well, 1 something to fix, 2 could not ask")]
pub(crate) struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    asking: Asking,
}

/// `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    /// Of a mesh on this machine ...
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Running>,
    /// ... or in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterName>,
    ca: Option<ca::Answer>,
    controller: Option<ControllerStatus>,
    /// `None`: none runs here, or it does not answer.
    edge: Option<EdgeStatus>,
    /// Certificates of ACME CAs; left out where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    acme: Option<AcmeAnswer>,
    /// What to fix, in words. Empty: all is well.
    problems: Vec<String>,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let whom = args.asking.whom().await?;
    let status = async {
        match &whom {
            Whom::Local(state) => local(state).await,
            Whom::Cluster(cluster) => in_cluster(cluster).await,
        }
    };
    let (status, acme) = tokio::join!(Box::pin(status), Box::pin(cert::known(&whom)));
    let mut status = Status { acme, ..status? };
    if let (Some(namespace), Some(controller)) = (args.scope.namespace(), &mut status.controller) {
        controller.workloads.retain(|workload| workload.namespace == namespace);
    }
    status.problems.extend(status.controller.iter().flat_map(controller_problems));
    status.problems.extend(status.acme.iter().flat_map(acme_problems));
    let out = Output::to_stdout(args.asking.output);
    out.show(&status, |status| text(out, status, args.scope.namespace()))?;
    Ok(if status.problems.is_empty() { Exit::Fine } else { Exit::Fix })
}

async fn local(state: &StateDir) -> Result<Status> {
    let running = state.read_running()?;
    let (ca, controller) = (Place::Socket(state.ca_socket()), Place::Socket(state.controller_socket()));
    let edge = Place::Socket(state.edge_socket());
    let edge = async {
        let runs = running.children.iter().any(|child| child.kind == Kind::Edge);
        if runs { Some(edge.get::<EdgeStatus>("/v1/status").await) } else { None }
    };
    let (ca, controller, edge) =
        tokio::join!(ca.get::<CaStatus>("/v1/status"), controller.get("/v1/status"), edge);
    let (ca, controller) = match (ca, controller) {
        (Err(_), Err(e)) => return Err(state.explain("controller", e)),
        answers => answers,
    };
    let mut problems = Vec::new();
    let mut answered = |part: &str, e| problems.push(format!("{:#}", state.explain(part, e)));
    let ca = ca.map_err(|e| answered("ca", e)).ok();
    let ca = ca.map(|status| ca::Answer { status, replicas: Vec::new(), missing: Vec::new() });
    let controller: Option<ControllerStatus> = controller.map_err(|e| answered("controller", e)).ok();
    let edge = edge.and_then(|edge| edge.map_err(|e| answered("edge", e)).ok());
    let log = state.log("ca");
    let expired = ca.iter().flat_map(ca::expired);
    problems.extend(expired.map(|what| format!("{what} has expired; see {}", log.display())));
    if let Some(edge) = &edge {
        // What does not parse for both is told once.
        let known = controller.iter().flat_map(|controller| &controller.manifests.errors).collect::<Vec<_>>();
        problems.extend(edge.errors.iter().filter(|error| !known.contains(error)).map(ToString::to_string));
        problems.extend(edge_problems(edge));
    }
    Ok(Status { running: Some(running), cluster: None, ca, controller, edge, acme: None, problems })
}

async fn in_cluster(cluster: &Cluster) -> Result<Status> {
    let controller = async {
        let answers = cluster.ask_all::<ControllerStatus>(Part::Controller, "/v1/status").await?;
        cluster.some(Part::Controller, answers)
    };
    // `None`: a mesh alone.
    let edge = async { cluster.ask_any_of::<EdgeStatus>(Part::Edge, "/v1/status").await.transpose() };
    let (ca, controller, edge) =
        tokio::join!(Box::pin(ca::ask_cluster(cluster)), Box::pin(controller), Box::pin(edge));
    let (ca, controller) = match (ca, controller) {
        (Err(_), Err(e)) => return Err(e),
        answers => answers,
    };
    let mut problems = Vec::new();
    let ca = ca.map_err(|e| problems.push(format!("{e:#}"))).ok();
    problems.extend(ca.iter().flat_map(|ca| ca.missing.iter().cloned()));
    let expired = ca.iter().flat_map(ca::expired);
    problems.extend(
        expired.map(|what| format!("{what} has expired; see: kubectl -n signet-system logs deployment/ca")),
    );
    let answers = controller.map_err(|e| problems.push(format!("{e:#}"))).ok();
    let controller = answers.and_then(|answers| {
        problems.extend(answers.missing);
        replicas::status(answers.given.into_iter().map(|(_, status)| status))
    });
    let edge = edge.and_then(|answers| {
        let edge = answers.and_then(|answers| cluster.first(Part::Edge, answers)); // replicas know the same
        edge.map_err(|e| problems.push(format!("{e:#}"))).ok()
    });
    problems.extend(edge.iter().flat_map(edge_problems));
    Ok(Status {
        running: None,
        cluster: Some(cluster.name.clone()),
        ca,
        controller,
        edge,
        acme: None,
        problems,
    })
}

/// What edge hears nothing new of.
fn edge_problems(edge: &EdgeStatus) -> Vec<String> {
    edge.faults.iter().map(|(what, fault)| format!("edge, {what}: {fault}")).collect()
}

/// Certificates that somebody has to look at. Of a first order that goes its way nobody has to.
fn acme_problems(acme: &AcmeAnswer) -> Vec<String> {
    let is_wrong = |one: &&AcmeCertificate| cert::answer::is_wrong(one) && !cert::answer::is_first_order(one);
    let wrong = acme.certificates.iter().filter(is_wrong);
    let certificates = wrong.map(|certificate| {
        let (_, state) = cert::answer::state(certificate);
        let host = certificate.names.first().map_or("?", String::as_str);
        format!(
            "the certificate of {}: {state}; see: signet cert why '{host}'",
            cert::answer::hosts(certificate)
        )
    });
    let broken = acme.broken.iter().map(|one| format!("the stored certificate {}: {}", one.id, one.why));
    certificates.chain(broken).collect()
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
            _ => problems.push(format!("{name}: its proxy is not connected to the controller; see its log")),
        }
    }
    problems
}

fn text(out: Output, status: &Status, namespace: Option<&str>) -> String {
    let mut text = match (&status.running, &status.cluster) {
        (Some(running), _) => {
            format!("Mesh of {}, trust domain {}\n", running.directory.display(), running.trust_domain)
        }
        (None, Some(cluster)) => format!("Mesh in {cluster}\n"),
        (None, None) => String::new(),
    };
    let mark = |up: bool| out.mark(if up { Mark::Good } else { Mark::Bad });
    text += &match &status.ca {
        Some(ca) => format!("{} CA          {}\n", mark(true), ca_line(ca)),
        None => format!("{} CA          does not answer\n", mark(false)),
    };
    text += &match &status.controller {
        Some(controller) => {
            let objects = human::count(controller.manifests.objects as u64, "object");
            let well = mark(controller.manifests.errors.is_empty());
            match status.running {
                Some(_) => {
                    let files = human::count(controller.manifests.files as u64, "file");
                    format!("{well} Controller  {files} with {objects}\n")
                }
                None => format!("{well} Controller  {objects}\n"),
            }
        }
        None => format!("{} Controller  does not answer\n", mark(false)),
    };
    if let Some(edge) = &status.edge {
        let hosts = human::count(edge.hosts as u64, "host");
        let well = mark(edge.errors.is_empty() && edge.faults.is_empty());
        text +=
            &format!("{well} Edge        {hosts}, Ingresses: {}; signet hosts shows them\n", edge.ingresses);
    }
    if let Some(acme) = &status.acme {
        text += &acme_line(out, acme);
    }
    if let Some(controller) = &status.controller {
        let header = ["WORKLOAD", "MESHED", "MODE", "PROXY", "CERT LEFT", "ADDRESS", "IDENTITY"];
        text += "\n";
        if let (true, Some(namespace)) = (controller.workloads.is_empty(), namespace) {
            text += &format!("There are no pods in namespace {namespace}.\n");
            return text + &problems_text(&status.problems);
        }
        text += &output::table(header, controller.workloads.iter().map(|workload| row(out, workload)));
    }
    text + &problems_text(&status.problems)
}

fn problems_text(problems: &[String]) -> String {
    let lines: String = problems.iter().map(|problem| format!("  {problem}\n")).collect();
    if lines.is_empty() { lines } else { format!("\nTo fix:\n{lines}") }
}

fn ca_line(ca: &ca::Answer) -> String {
    let (now, ca) = (clock::now(), &ca.status);
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

fn acme_line(out: Output, acme: &AcmeAnswer) -> String {
    let (now, all) = (clock::now(), &acme.certificates);
    let served: Vec<&AcmeCertificate> = all.iter().filter(|certificate| certificate.served).collect();
    let staging = served.iter().filter(|certificate| certificate.staging).count();
    let well = acme_problems(acme).is_empty() && staging == 0;
    let mut text = format!(
        "{} ACME        {}, {} served",
        out.mark(if well { Mark::Good } else { Mark::Bad }),
        human::count(all.len() as u64, "certificate"),
        served.len()
    );
    if staging > 0 {
        text += &format!(", {staging} of a staging environment");
    }
    // RFC 3339 in UTC: the first in time is the first by letter.
    if let Some(first) = served.iter().filter_map(|certificate| certificate.not_after.as_deref()).min() {
        text += &format!(", the first ends in {}", human::left_until(first, now));
    }
    text + "; signet cert list shows them\n"
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cert::answer::{certificate, failure};

    #[test]
    fn a_first_order_that_goes_its_way_is_no_problem_and_one_that_does_not_is() {
        let failed = json!([failure("1", "the CA said no", &json!([]))]);
        for (fields, said) in [
            (json!({"served": true}), None),
            (json!({"stage": "validating"}), None),
            (json!({"stage": "validating", "failures": failed}), Some("failed: validating")),
            (json!({"heldBack": "CAA"}), Some("held back")),
            (json!({"served": true, "overdue": true, "stage": "asking"}), Some("overdue: asking")),
            (json!({}), Some("none")),
        ] {
            let certificates = vec![certificate(&fields)];
            let problems = acme_problems(&AcmeAnswer { certificates, ..AcmeAnswer::default() });
            let want = said.map(|state| {
                format!("the certificate of app.example.com: {state}; see: signet cert why 'app.example.com'")
            });
            assert_eq!(problems, want.into_iter().collect::<Vec<_>>(), "{fields}");
        }
    }
}
