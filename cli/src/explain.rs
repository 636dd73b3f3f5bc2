//! `signet explain` and `signet endpoints`: why a pod is or is not in the mesh, who is behind a Service, what a proxy is told. The
//! controller knows; every replica is asked, and the one that the proxy is connected to knows best. Of an Ingress edge knows
//! ([`hosts`]).

use std::net::IpAddr;

use anyhow::{Result, bail};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Exit,
    cluster::Part,
    edges::edges_table,
    hosts,
    named::{InNamespace, Kind, is_name},
    output::{self, Output},
    replicas,
    shapes::{Edge, EndpointAnswer, Endpoints, PodExplanation, ServiceExplanation},
    state::StateDir,
    whom::{Asking, Whom},
};

/// Show why a pod or Service is (not) in the mesh, or what becomes of an Ingress
///
/// A pod: whether it should have a proxy and has one, and if not why and what to do; its mode, Services and policies. A Service: its
/// endpoints, and for each whether it is reached by mutual TLS. Where a pod and a Service have that name, both are shown. An Ingress:
/// its hosts and whose they are, its rules with their endpoints, its certificates, and all that is wrong with it.
///
/// Changes nothing.
///
/// Examples:
///   signet explain shop/web-0
///   signet explain -n shop service/api
///   signet explain -n shop ingress/web
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 shown, 1 it should be in the mesh and is not, or something of the Ingress is not served, 2 could not ask"
)]
pub(crate) struct Args {
    /// "namespace/pod" or "namespace/service"; with -n also "ingress/NAME"
    name: String,
    #[command(flatten)]
    namespace: InNamespace,
    #[command(flatten)]
    asking: Asking,
}

/// Show what a pod's proxy is told about the addresses that it dials
///
/// For each host or address: the endpoints, the identity that each must prove or why it is plaintext, and whether the proxy has the
/// newest answer. Without HOST everything that it has asked for.
///
/// Changes nothing.
///
/// Examples:
///   signet endpoints --from shop/web-0
///   signet endpoints api.shop --from web-0 -n shop
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 shown, 2 could not ask")]
pub(crate) struct EndpointsArgs {
    /// "api.shop" or an address [default: all that it asked for]
    host: Option<String>,
    /// "namespace/pod" whose proxy it is
    #[arg(long, value_name = "POD")]
    from: String,
    #[command(flatten)]
    namespace: InNamespace,
    #[command(flatten)]
    asking: Asking,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let named = args.namespace.read(&args.name)?;
    let (namespace, name) = named.in_full()?;
    let whom = args.asking.whom().await?;
    let out = Output::to_stdout(args.asking.output);
    if named.kind == Some(Kind::Ingress) {
        let Some((ingress, text)) = hosts::ingress(out, &whom, namespace, name).await? else {
            bail!(
                "edge knows no Ingress {namespace}/{name}: there is none, or it is of another class (spec.ingressClassName: signet)"
            );
        };
        let wrong = hosts::is_ingress_wrong(&ingress);
        out.show(&json!({ "ingress": ingress }), |_| text)?;
        return Ok(if wrong { Exit::Fix } else { Exit::Fine });
    }
    let (mut pod, mut service) = (Vec::new(), Vec::new());
    if named.may_be(Kind::Pod) {
        pod = ask(&whom, &format!("/v1/explain?namespace={namespace}&pod={name}")).await?;
    }
    if named.may_be(Kind::Service) {
        service = ask(&whom, &format!("/v1/explain?namespace={namespace}&service={name}")).await?;
    }
    let pod = best(pod, |pod| pod["workload"]["proxy"]["connected"] == true)?;
    let service = best(service, |_| false)?;
    if pod.is_none() && service.is_none() {
        match named.kind {
            Some(Kind::Pod) => bail!("there is no Pod {namespace}/{name}"),
            Some(Kind::Service) => bail!("there is no Service {namespace}/{name}"),
            _ => bail!(
                "there is no Pod and no Service {namespace}/{name}; an Ingress is named -n {namespace} ingress/{name}"
            ),
        }
    }
    let wanting = pod.as_ref().is_some_and(|pod| pod["wanted"] == true && pod["injected"] != true);
    let text = match (&pod, &service) {
        (Some(pod), None) => pod_text(out, &read(pod)?),
        (None, Some(service)) => service_text(out, &read(service)?),
        (Some(pod), Some(service)) => {
            format!("{}\n{}", pod_text(out, &read(pod)?), service_text(out, &read(service)?))
        }
        (None, None) => String::new(),
    };
    out.show(&json!({ "pod": pod, "service": service }), |_| text)?;
    Ok(if wanting { Exit::Fix } else { Exit::Fine })
}

pub(crate) async fn endpoints(args: EndpointsArgs) -> Result<Exit> {
    let from = args.namespace.read(&args.from)?;
    let (namespace, pod) = from.in_full()?;
    if !from.may_be(Kind::Pod) || !args.host.as_deref().is_none_or(is_host) {
        bail!("write it like: signet endpoints api.shop --from shop/web-0");
    }
    let host = args.host.iter().map(|host| format!("&host={host}")).collect::<String>();
    let answers =
        ask(&args.asking.whom().await?, &format!("/v1/endpoints?from={namespace}/{pod}{host}")).await?;
    let Some(answer) = best(answers, |answer| answer["connected"] == true)? else {
        bail!("there is no Pod {namespace}/{pod}");
    };
    let seen: Endpoints = read(&answer)?;
    Output::to_stdout(args.asking.output).show(&answer, |_| endpoints_text(&seen))?;
    Ok(Exit::Fine)
}

/// The answer of each replica that knows such a thing.
async fn ask(whom: &Whom, path: &str) -> Result<Vec<Value>> {
    let answers = whom.ask(Part::Controller, StateDir::controller_socket, path).await?;
    for missing in &answers.missing {
        output::note(&format!("Not all of it: {missing}"));
    }
    Ok(answers.given.into_iter().filter_map(|(_, answer)| answer).collect())
}

/// The answer that `knows`, else the first; its plaintext edges are those of all.
fn best(answers: Vec<Value>, knows: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
    let edges = answers.iter().filter_map(|answer| answer.get("plaintext"));
    let edges: Vec<Vec<Edge>> = edges.map(read).collect::<Result<_>>()?;
    let at = answers.iter().position(knows).unwrap_or(0);
    let mut best = answers.into_iter().nth(at);
    if let Some(plaintext) = best.as_mut().and_then(|best| best.get_mut("plaintext")) {
        *plaintext = serde_json::to_value(replicas::edges(edges))?;
    }
    Ok(best)
}

fn read<T: DeserializeOwned>(answer: &Value) -> Result<T> {
    match T::deserialize(answer) {
        Ok(read) => Ok(read),
        Err(why) => bail!(
            "the controller answered what this signet cannot read ({why}): compare signet version on both sides"
        ),
    }
}

fn pod_text(out: Output, pod: &PodExplanation) -> String {
    let workload = &pod.workload;
    let list = |words: &[String]| if words.is_empty() { "-".to_owned() } else { words.join(", ") };
    let meshed = match (workload.meshed, &workload.why) {
        (true, _) => format!("yes, {}", workload.mode.as_deref().unwrap_or("permissive")),
        (false, Some(why)) => format!("no: {why} (docs/reasons/{why}.md)"),
        (false, None) => "no".to_owned(),
    };
    let proxy = match (&workload.proxy, pod.injected) {
        (Some(proxy), _) if proxy.connected && proxy.ready => format!("ready, {}", proxy.version),
        (Some(proxy), _) => {
            format!("not ready: {}", proxy.not_ready.as_deref().unwrap_or("it does not say why"))
        }
        (None, true) => "has not reported yet".to_owned(),
        (None, false) if pod.wanted => "missing".to_owned(),
        (None, false) => "-".to_owned(),
    };
    let mut rows = vec![
        ("Pod", format!("{}/{}", workload.namespace, workload.pod)),
        ("In the mesh", meshed),
        ("Identity", workload.identity.clone().unwrap_or_else(|| "-".into())),
        ("Proxy", proxy),
        ("Services", list(&pod.services)),
        ("Policies", list(&pod.policies)),
    ];
    if !pod.permissive_ports.is_empty() {
        let ports: Vec<String> = pod.permissive_ports.iter().map(u16::to_string).collect();
        rows.push(("Plaintext ok", format!("on port {}", ports.join(", "))));
    }
    if let Some(obstacle) = &pod.obstacle {
        rows.push(("Not injected", obstacle.why.clone()));
        rows.push(("To do", obstacle.next_step.clone()));
    }
    let mut text: String = rows.iter().map(|(label, value)| format!("{label:<12} {value}\n")).collect();
    text += &plaintext_text(out, &pod.plaintext);
    text
}

fn service_text(out: Output, service: &ServiceExplanation) -> String {
    let addresses = match &service.cluster_ips[..] {
        [] => "headless".into(),
        all => all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut text =
        format!("Service      {}/{}\nAddresses    {addresses}\n\n", service.namespace, service.service);
    text += &match service.endpoints.is_empty() {
        true => "It has no endpoint that new connections may use.\n".into(),
        false => {
            let rows = service.endpoints.iter().map(endpoint_row);
            output::table(["ENDPOINT", "POD", "PORTS", "REACHED BY", "IDENTITY"], rows)
        }
    };
    text + &plaintext_text(out, &service.plaintext)
}

fn endpoints_text(answer: &Endpoints) -> String {
    let mut text = match answer.connected {
        true => String::new(),
        false => format!(
            "The proxy of {} is not connected to the controller; this is what it would be told.\n\n",
            answer.from
        ),
    };
    if answer.hosts.is_empty() {
        text += &format!("The proxy of {} has asked for nothing yet.\n", answer.from);
    }
    for host in &answer.hosts {
        let newest = match host.sent.as_deref() {
            Some("older") => ", the proxy has an older answer",
            Some("nothing") => ", the proxy has no answer yet",
            _ => "",
        };
        text += &format!("{}: {}{newest}\n", host.host, host.answer);
        if !host.endpoints.is_empty() {
            let rows = host.endpoints.iter().map(endpoint_row);
            text += &output::table(["ENDPOINT", "POD", "PORTS", "REACHED BY", "IDENTITY"], rows);
        }
        text.push('\n');
    }
    text
}

fn endpoint_row(endpoint: &EndpointAnswer) -> [String; 5] {
    let pod =
        if endpoint.pod.is_empty() { "-".into() } else { format!("{}/{}", endpoint.namespace, endpoint.pod) };
    let ports: Vec<String> = endpoint.ports.iter().map(|(from, to)| format!("{from}->{to}")).collect();
    let way = match (&endpoint.identity, &endpoint.plain_reason) {
        (Some(_), _) => "mTLS".into(),
        (None, Some(reason)) => format!("plaintext: {reason}"),
        (None, None) => "plaintext".into(),
    };
    [
        endpoint.address.clone(),
        pod,
        ports.join(","),
        way,
        endpoint.identity.clone().unwrap_or_else(|| "-".into()),
    ]
}

fn plaintext_text(out: Output, edges: &[Edge]) -> String {
    if edges.is_empty() { String::new() } else { format!("\nNot encrypted:\n{}", edges_table(out, edges)) }
}

/// A name or an address.
fn is_host(text: &str) -> bool {
    is_name(text) || text.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn pod(connected: bool, obstacle: Value) -> Value {
        json!({
            "workload": { "namespace": "shop", "pod": "web-0", "serviceAccount": "web", "address": "10.0.0.1", "meshed": connected,
                "why": if connected { Value::Null } else { "not_injected".into() }, "mode": "strict", "identity": "spiffe://td/ns/shop/sa/web",
                "proxy": { "connected": connected, "version": "1", "ready": connected, "notReady": null, "leafNotAfter": null,
                    "bundleSequence": 1, "rejected": [] } },
            "addresses": ["10.0.0.1"], "node": "node1", "ended": false, "terminating": false, "wanted": true, "injected": connected,
            "obstacle": obstacle, "permissivePorts": [], "services": ["shop/web"], "policies": [], "plaintext": [],
        })
    }

    #[test]
    fn the_replica_that_the_proxy_is_connected_to_knows_best() {
        let answers = vec![pod(false, Value::Null), pod(true, Value::Null)];
        let best = best(answers, |pod| pod["workload"]["proxy"]["connected"] == true).unwrap().unwrap();
        assert_eq!(best["injected"], true);
        let text = pod_text(Output::to_stdout(Format::Table), &read(&best).unwrap());
        assert!(
            text.contains("In the mesh  yes, strict") && text.contains("Services     shop/web"),
            "{text}"
        );
    }

    #[test]
    fn a_pod_that_was_not_injected_is_explained_with_the_next_step() {
        let obstacle = json!({ "word": "pod_security", "why": "its namespace enforces baseline", "nextStep": "kubectl label ..." });
        let text = pod_text(Output::to_stdout(Format::Table), &read(&pod(false, obstacle)).unwrap());
        assert!(text.contains("no: not_injected (docs/reasons/not_injected.md)"), "{text}");
        assert!(text.contains("To do        kubectl label ..."), "{text}");
    }

    #[test]
    fn only_names_and_addresses_go_into_a_question() {
        for (host, fine) in [
            ("api.shop", true),
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("a&b", false),
            ("a?b", false),
            ("", false),
        ] {
            assert_eq!(is_host(host), fine, "{host}");
        }
    }
}
