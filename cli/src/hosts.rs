//! `signet hosts`, and the Ingresses of `signet explain`: who has a public host, what it is served with, and why not. Edge knows:
//! every replica of it decides alike, and what holds an order back only the one knows that orders, so its answer comes first.

use anyhow::{Result, bail};
use serde::de::DeserializeOwned;

use crate::{
    Exit,
    cluster::Part,
    human,
    local::{EdgeAt, edge::url},
    named::Scope,
    output::{self, Mark, Output},
    replicas,
    shapes::{CertificateAnswer, HostAnswer, HostList, IngressAnswer, RuleAnswer},
    state::StateDir,
    whom::{Asking, Whom},
};

/// Show the public hosts: whose each is, where its requests go, and which certificate it has
///
/// One line for each host that an Ingress of class signet asks for. A host belongs to one namespace; Ingresses elsewhere that ask
/// for it are listed below, with the reason. MESH counts the endpoints that are reached by mutual TLS.
///
/// Changes nothing.
///
/// Examples:
///   signet hosts
///   signet hosts shop               # those that a namespace has or asks for
///   signet hosts -o json | jq '.hosts[] | select(.certificate.served | not)'
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 fine, 1 a host has no certificate that it is to have, or an Ingress does not get a host, 2 could not ask"
)]
pub(crate) struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    asking: Asking,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let whom = args.asking.whom().await?;
    let Some(mut list) = all(&whom).await? else {
        bail!("edge has no such page: compare signet version on both sides");
    };
    if let Some(namespace) = args.scope.namespace() {
        let asks = |ingress: &str| ingress.split('/').next() == Some(namespace);
        list.hosts.retain(|host| {
            host.owner == namespace || host.refused.iter().any(|refused| asks(&refused.ingress))
        });
    }
    let out = Output::to_stdout(args.asking.output);
    let wrong = list.hosts.iter().any(is_wrong);
    out.show(&list, |list| hosts_text(out, list))?;
    Ok(if wrong { Exit::Fix } else { Exit::Fine })
}

/// Every host that an Ingress asks for; `None`: edge has no such page.
pub(crate) async fn all(whom: &Whom) -> Result<Option<HostList>> {
    ask::<HostList>(whom, "/v1/hosts", |list| list.leads).await
}

/// What edge says of an Ingress, and its text; `None`: it knows no such Ingress.
pub(crate) async fn ingress(
    out: Output,
    whom: &Whom,
    namespace: &str,
    name: &str,
) -> Result<Option<(IngressAnswer, String)>> {
    let page = format!("/v1/ingress/{namespace}/{name}");
    let answer = ask::<IngressAnswer>(whom, &page, |ingress| ingress.leads).await?;
    let at = match whom {
        Whom::Local(state) => Place::Here(state.read_running()?.edge_at.unwrap_or_default()),
        Whom::Cluster(_) => Place::Cluster,
    };
    Ok(answer.map(|answer| {
        let text = ingress_text(out, &answer, at);
        (answer, text)
    }))
}

/// Where an Ingress is served.
#[derive(Clone, Copy)]
enum Place {
    /// At the addresses in its status.
    Cluster,
    /// On this machine, where a status has no meaning.
    Here(EdgeAt),
}

pub(crate) fn is_ingress_wrong(ingress: &IngressAnswer) -> bool {
    ingress.refused || ingress.findings.iter().any(|finding| !WARNINGS.contains(&finding.word.as_str()))
}

fn is_wrong(host: &HostAnswer) -> bool {
    !host.refused.is_empty() || host.certificate.as_ref().is_some_and(|certificate| !certificate.served)
}

/// What the replica says that orders, else any; `None`: they say that there is no such thing.
async fn ask<T: DeserializeOwned>(whom: &Whom, path: &str, leads: fn(&T) -> bool) -> Result<Option<T>> {
    let answers = whom.ask::<T>(Part::Edge, StateDir::edge_socket, path).await?;
    Ok(replicas::leading(answers.given.into_iter().filter_map(|(_, answer)| answer), leads))
}

fn hosts_text(out: Output, list: &HostList) -> String {
    if list.hosts.is_empty() {
        return "No Ingress of class signet asks for a host.\n".into();
    }
    let header = ["HOST", "OWNER", "HTTP", "CERTIFICATE", "ISSUER", "LEFT", "BACKENDS", "MESH", "INGRESSES"];
    let mut text = output::table(header, list.hosts.iter().map(|host| host_row(out, host)));
    let waiting = list.hosts.iter().filter_map(|host| Some((host, host.certificate.as_ref()?.why.as_ref()?)));
    let waiting: Vec<String> =
        waiting.map(|(host, why)| format!("{}: {why}{}\n", host.host, more(host))).collect();
    if !waiting.is_empty() {
        text += &format!("\nCertificates:\n{}", waiting.concat());
    }
    let refused = list.hosts.iter().flat_map(|host| host.refused.iter().map(move |refused| (host, refused)));
    let refused: Vec<String> = refused
        .map(|(host, refused)| format!("{} for {}: {}\n", refused.ingress, host.host, refused.why))
        .collect();
    if !refused.is_empty() {
        text += &format!("\nNot served:\n{}", refused.concat());
    }
    text
}

/// Which command says more.
fn more(host: &HostAnswer) -> String {
    let is_ordered = host.certificate.as_ref().is_some_and(|certificate| certificate.acme.is_some());
    if is_ordered { format!("; more: signet cert why '{}'", host.host) } else { String::new() }
}

fn host_row(out: Output, host: &HostAnswer) -> [String; 9] {
    let none = || "-".to_owned();
    let certificate = host.certificate.as_ref();
    let secret = match certificate {
        None => none(),
        Some(certificate @ CertificateAnswer { served: true, .. }) => from(certificate).into(),
        Some(_) => out.marked(Mark::Bad, "none"),
    };
    let served = certificate.filter(|certificate| certificate.served);
    let mut backends: Vec<&str> = host.rules.iter().filter_map(|rule| rule.backend.as_deref()).collect();
    backends.sort_unstable();
    backends.dedup();
    [
        names(host),
        host.owner.clone(),
        host.plaintext.clone(),
        secret,
        served.and_then(|served| issuer(out, served)).unwrap_or_else(none),
        served.and_then(|served| served.left_seconds).map_or_else(none, human::left),
        if backends.is_empty() { none() } else { backends.join(", ") },
        mesh(out, host),
        if host.ingresses.is_empty() { none() } else { host.ingresses.join(", ") },
    ]
}

/// Where a certificate is from.
fn from(certificate: &CertificateAnswer) -> &str {
    let made = if certificate.acme.is_some() { ORDERED } else { MADE };
    certificate.secret.as_deref().unwrap_or(made)
}

/// As the certificate says; red where no browser believes it.
fn issuer(out: Output, certificate: &CertificateAnswer) -> Option<String> {
    let issuer = certificate.issuer.clone()?;
    Some(if certificate.staging { out.marked(Mark::Bad, &format!("{issuer}, staging")) } else { issuer })
}

/// "3/3" endpoints by mutual TLS; each once, however many rules lead to it.
fn mesh(out: Output, host: &HostAnswer) -> String {
    let mut all: Vec<(&str, &str)> = host
        .rules
        .iter()
        .flat_map(|rule| rule.endpoints.iter().map(|way| (way.address.as_str(), way.transport.as_str())))
        .collect();
    all.sort_unstable();
    all.dedup();
    let meshed = all.iter().filter(|(_, transport)| *transport == "mesh").count();
    match (meshed, all.len()) {
        (_, 0) => "-".into(),
        (meshed, all) if meshed == all => out.marked(Mark::Good, &format!("{meshed}/{all}")),
        (meshed, all) => out.marked(Mark::Bad, &format!("{meshed}/{all}")),
    }
}

fn ingress_text(out: Output, ingress: &IngressAnswer, at: Place) -> String {
    let mut text = format!("Ingress      {}/{}\n", ingress.namespace, ingress.name);
    match at {
        Place::Cluster if ingress.addresses.is_empty() => text += "Addresses    none yet\n",
        Place::Cluster => text += &format!("Addresses    {}\n", ingress.addresses.join(", ")),
        Place::Here(at) => {
            // Those that it gets, and of these only what is served.
            let served = ingress.hosts.iter().filter(|host| !host.ingresses.is_empty());
            text += &served.map(|host| format!("Opens at     {}\n", url(host, at))).collect::<String>();
        }
    }
    if ingress.refused {
        text += "Served       no, nothing of it\n";
    }
    for finding in &ingress.findings {
        text += &format!("{:<12} {}\n", finding.word, finding.message);
    }
    let name = format!("{}/{}", ingress.namespace, ingress.name);
    for host in &ingress.hosts {
        text += &format!("\n{}: {}\n", names(host), host.why);
        if host.plaintext == "refused" {
            continue;
        }
        text += &format!("HTTP         {}\n", plaintext(&host.plaintext));
        if let Some(certificate) = &host.certificate {
            text += &certificate_text(out, &host.host, certificate);
        }
        let rows: Vec<[String; 5]> = host
            .rules
            .iter()
            .filter(|rule| rule.ingress == name)
            .flat_map(|rule| rule_rows(out, rule))
            .collect();
        if !rows.is_empty() {
            text += &output::table(["PATH", "MATCH", "BACKEND", "ENDPOINT", "REACHED BY"], rows);
        }
    }
    text
}

/// The host, and its second name.
fn names(host: &HostAnswer) -> String {
    host.alias.as_ref().map_or_else(|| host.host.clone(), |alias| format!("{}, {alias}", host.host))
}

fn plaintext(word: &str) -> &str {
    match word {
        "redirect" => "sent to HTTPS (308), but for rules that say otherwise",
        "waiting" => "503 until there is a certificate",
        "served" => "served",
        other => other,
    }
}

fn certificate_text(out: Output, host: &str, certificate: &CertificateAnswer) -> String {
    let mut text = match &certificate.not_after {
        Some(not_after) if certificate.served => format!(
            "Certificate  {}, by {}, until {not_after}, for {}\n",
            from(certificate),
            issuer(out, certificate).as_deref().unwrap_or("?"),
            certificate.names.join(", ")
        ),
        _ => "Certificate  none\n".to_owned(),
    };
    if let Some(why) = &certificate.why {
        text += &format!("             {why}\n");
    }
    if certificate.acme.is_some() && (certificate.why.is_some() || !certificate.served) {
        text += &format!("             more: signet cert why '{host}'\n");
    }
    text
}

/// One row for each endpoint.
fn rule_rows(out: Output, rule: &RuleAnswer) -> Vec<[String; 5]> {
    let backend = match (&rule.backend, rule.answers) {
        (Some(backend), _) => backend.clone(),
        (None, Some(status)) => format!("answers {status}"),
        (None, None) => "-".into(),
    };
    let row = |endpoint: String, way: String| {
        [rule.path.clone(), rule.kind.clone(), backend.clone(), endpoint, way]
    };
    if rule.endpoints.is_empty() {
        return vec![row("-".into(), "-".into())];
    }
    let way = |way: &crate::shapes::WayAnswer| match way.transport.as_str() {
        "mesh" => out.marked(Mark::Good, "mTLS"),
        "tls" => "the app's TLS, not verified".into(),
        "plain" => out.marked(Mark::Bad, &format!("plaintext: {}", way.detail)),
        _ => format!("never: {}", way.detail),
    };
    rule.endpoints
        .iter()
        .map(|at| {
            row(
                if at.pod.is_empty() { at.address.clone() } else { format!("{} ({})", at.address, at.pod) },
                way(at),
            )
        })
        .collect()
}

/// Words of findings with which everything is served all the same.
const WARNINGS: [&str; 3] = ["NotHonoured", "SecretFirst", "StagingCertificate"];
/// Where a certificate is from that no Secret of the user's holds: the edge CA, or a CA that edge asked.
const MADE: &str = "made by edge";
const ORDERED: &str = "ordered by edge";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Format;

    fn host(value: serde_json::Value) -> HostAnswer {
        let mut whole = json!({"host": "app.example", "owner": "shop", "by": "claim", "why": "namespace shop has it",
            "ingresses": ["shop/web"], "plaintext": "redirect", "certificate": null, "refused": [],
            "rules": [{"ingress": "shop/web", "kind": "prefix", "path": "/", "backend": "shop/web:80", "answers": null, "endpoints": [
                {"address": "10.0.0.1:80", "pod": "shop/web-0", "transport": "mesh", "detail": "spiffe://td/ns/shop/sa/web"},
                {"address": "10.0.0.2:80", "pod": "shop/web-1", "transport": "plain", "detail": "not_injected"}]}]});
        for (key, value) in value.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn text(hosts: Vec<HostAnswer>) -> String {
        hosts_text(Output::to_stdout(Format::Table), &HostList { hosts, ..HostList::default() })
    }

    #[test]
    fn a_host_is_shown_with_its_certificate_and_how_its_endpoints_are_reached() {
        let certificate = json!({"served": true, "secret": "shop/web-tls", "names": ["app.example"], "issuer": "R11",
            "notAfter": "2027-01-01T00:00:00Z", "leftSeconds": 864_000, "why": null});
        let good = host(json!({ "certificate": certificate }));
        assert!(!is_wrong(&good));
        let text = text(vec![good]);
        for part in ["app.example", "shop/web-tls", "R11", "10d", "1/2"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_certificate_that_edge_ordered_says_so_and_one_of_a_staging_environment_is_marked() {
        let ordered = |staging: bool| {
            host(
                json!({"certificate": {"served": true, "secret": null, "acme": "0123", "staging": staging, "names": ["app.example"],
                "issuer": "Fake LE R11", "notAfter": "2027-01-01T00:00:00Z", "leftSeconds": 864_000, "why": null}}),
            )
        };
        let (staged, fine) = (text(vec![ordered(true)]), text(vec![ordered(false)]));
        assert!(staged.contains("ordered by edge") && staged.contains("Fake LE R11, staging"), "{staged}");
        assert!(!fine.contains("staging"), "{fine}");
    }

    #[test]
    fn what_is_missing_or_refused_is_said_with_the_reason_and_is_something_to_fix() {
        let none = json!({"served": false, "secret": "shop/web-tls", "names": [], "issuer": null, "notAfter": null,
            "leftSeconds": null, "why": "there is no Secret shop/web-tls"});
        let waiting = host(json!({ "certificate": none }));
        let stolen = host(json!({"refused": [{"ingress": "bank/web", "why": "it is not this namespace's"}]}));
        assert!(is_wrong(&waiting) && is_wrong(&stolen));
        let text = text(vec![waiting, stolen]);
        assert!(text.contains("app.example: there is no Secret shop/web-tls"), "{text}");
        assert!(text.contains("bank/web for app.example: it is not this namespace's"), "{text}");
    }

    #[test]
    fn an_ingress_is_explained_with_what_was_found_and_with_its_own_paths_only() {
        let answer = IngressAnswer {
            namespace: "shop".into(),
            name: "web".into(),
            hosts: vec![host(json!({}))],
            findings: vec![],
            ..IngressAnswer::default()
        };
        let text = ingress_text(Output::to_stdout(Format::Table), &answer, Place::Cluster);
        assert!(
            text.contains("plaintext: not_injected") && text.contains("10.0.0.1:80 (shop/web-0)"),
            "{text}"
        );
        let other = IngressAnswer { name: "other".into(), ..answer };
        assert!(!ingress_text(Output::to_stdout(Format::Table), &other, Place::Cluster).contains("10.0.0.1"));
    }

    #[test]
    fn on_this_machine_an_ingress_says_where_it_opens_and_in_a_cluster_its_addresses() {
        let refused = host(json!({"host": "taken.example", "ingresses": [], "plaintext": "refused"}));
        let alias = host(json!({"alias": "app.example.localhost"}));
        let mut answer = IngressAnswer { hosts: vec![alias, refused], ..IngressAnswer::default() };
        let text = |answer: &IngressAnswer, at| ingress_text(Output::to_stdout(Format::Table), answer, at);
        let here = text(&answer, Place::Here(EdgeAt::default()));
        assert!(here.contains("Opens at     http://app.example.localhost:8080\n"), "{here}");
        assert!(!here.contains("Addresses") && here.matches("Opens at").count() == 1, "{here}");
        assert!(text(&answer, Place::Cluster).contains("Addresses    none yet\n"));
        answer.addresses = vec!["192.0.2.1".into(), "192.0.2.2".into()];
        assert!(text(&answer, Place::Cluster).contains("Addresses    192.0.2.1, 192.0.2.2\n"));
    }
}
