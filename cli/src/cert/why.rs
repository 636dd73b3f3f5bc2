//! `signet cert why`: everything that is known of a host's certificate, in the order in which it comes about.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;
use signet_core::clock;
use time::OffsetDateTime;
use tokio::{net::lookup_host, time::timeout};

use super::{
    answer::{self, waits_for},
    hint::hint,
};
use crate::{
    Exit,
    cluster::Part,
    hosts, human,
    output::{Mark, Output},
    shapes::{
        AcmeCertificate, AcmeFailure, AcmeIssuer, AcmePreflight, CertificateAnswer, HostAnswer, IngressAnswer,
    },
    state::StateDir,
    whom::{Asking, Whom},
};

/// Say why HOST has the certificate that it has, or none
///
/// In the order in which one comes about: who owns the host and which Ingress asks, what DNS says beside where the edge is, CAA, whether
/// each gateway (or each server of the zone) answers the challenge, what the CA said in its own words, its limits, and what happens
/// next, when and why.
/// Addresses are looked up on this machine too, because the CA, like it, sees DNS from outside.
///
/// Changes nothing.
///
/// Examples:
///   signet cert why app.example.com
///   signet cert why '*.example.com'
///   signet cert why app.example.com -o json | jq '.certificate.failures[].problem'
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 it is served, and renewed in time, 1 something is wrong, 2 could not ask"
)]
pub(crate) struct Args {
    /// Host name as a browser would type it
    #[arg(value_name = "HOST", value_parser = super::host)]
    host: String,
    #[command(flatten)]
    asking: Asking,
}

/// `-o json`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Why {
    host: String,
    /// What is wrong, in words. Empty: all is well.
    problems: Vec<String>,
    /// As in `signet hosts`; `None`: no Ingress asks for it.
    served: Option<HostAnswer>,
    /// As in `signet cert list`; `None`: none is ordered.
    certificate: Option<AcmeCertificate>,
    issuer: Option<AcmeIssuer>,
    addresses: Addresses,
    /// The replica that answered, and whether it is the one that orders.
    replica: String,
    leads: bool,
}

/// Where the host is, and where the edge is.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Addresses {
    /// As this machine's resolver says; `None`: a wildcard is not looked up.
    here: Option<Vec<IpAddr>>,
    /// Why it says nothing.
    here_fault: Option<String>,
    /// In the status of its Ingress: addresses, or a load balancer's name.
    edge: Vec<String>,
}

pub(super) async fn run(args: Args) -> Result<Exit> {
    let whom = args.asking.whom().await?;
    let said = super::ask(&whom).await?;
    let served = served(&whom, &args.host).await?;
    let certificate = answer::of(&said.answer, &args.host).cloned();
    let issuer = certificate.as_ref().and_then(|one| answer::issuer(&said.answer, &one.issuer)).cloned();
    let mut why = Why {
        addresses: addresses(&whom, &args.host, served.as_ref()).await?,
        host: args.host,
        problems: Vec::new(),
        served,
        certificate,
        issuer,
        replica: said.pod,
        leads: said.answer.leads,
    };
    why.problems = problems(&why);
    let out = Output::to_stdout(args.asking.output);
    out.show(&why, |why| text(out, why, clock::now()))?;
    Ok(if why.problems.is_empty() { Exit::Fine } else { Exit::Fix })
}

/// What edge does with the host now; the rule that names it before a wildcard's.
async fn served(whom: &Whom, host: &str) -> Result<Option<HostAnswer>> {
    let list = Box::pin(hosts::all(whom)).await?;
    let mut hosts = list.context("edge has no page of hosts: compare signet version on both sides")?.hosts;
    let wildcard = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let is = |of: &HostAnswer, name: &str| of.host == name;
    let found = hosts
        .iter()
        .position(|of| is(of, host))
        .or_else(|| hosts.iter().position(|of| wildcard.as_deref().is_some_and(|name| is(of, name))));
    Ok(found.map(|at| hosts.swap_remove(at)))
}

async fn addresses(whom: &Whom, host: &str, served: Option<&HostAnswer>) -> Result<Addresses> {
    let mut addresses = Addresses::default();
    if let Some(ingress) = served.and_then(|served| served.ingresses.first()) {
        let page = format!("/v1/ingress/{ingress}");
        let answers = whom.ask::<IngressAnswer>(Part::Edge, StateDir::edge_socket, &page).await?;
        let answer = answers.given.into_iter().find_map(|(_, answer)| answer);
        addresses.edge = answer.map(|answer| answer.addresses).unwrap_or_default();
    }
    if host.starts_with("*.") {
        return Ok(addresses);
    }
    match timeout(PATIENCE, lookup_host((host, 443))).await {
        Ok(Ok(found)) => {
            let found: BTreeSet<IpAddr> = found.map(|at| at.ip()).collect();
            addresses.here = Some(found.into_iter().collect());
        }
        Ok(Err(error)) => {
            (addresses.here, addresses.here_fault) = (Some(Vec::new()), Some(error.to_string()));
        }
        Err(_) => {
            let fault = format!("its resolver does not answer in {PATIENCE:?}");
            (addresses.here, addresses.here_fault) = (Some(Vec::new()), Some(fault));
        }
    }
    Ok(addresses)
}

/// What is wrong, each with what to do. A certificate of a Secret, or of the edge CA, is as good as one that is ordered.
fn problems(why: &Why) -> Vec<String> {
    let host = &why.host;
    let Some(served) = &why.served else {
        return vec![format!(
            "no Ingress of class signet asks for {host}: write a rule for it (docs/ingress.md)"
        )];
    };
    let current = current(why);
    if current.is_some_and(is_own) {
        return Vec::new();
    }
    // Of a Secret that is not served as it is now.
    let refused = current.and_then(|current| current.why.as_ref().map(|words| (current, words)));
    let Some(certificate) = &why.certificate else {
        if let Some((current, words)) = refused {
            return vec![format!("{words}; {}", meanwhile(current))];
        }
        return match &served.certificate {
            Some(certificate) if certificate.served => Vec::new(),
            Some(certificate) => {
                let reason = certificate.why.clone().unwrap_or_else(|| "there is none".into());
                vec![format!("{reason}; a CA is asked where its Ingress is annotated {ASK}")]
            }
            None => vec![format!(
                "no Ingress asks for a certificate for {host}: give it a tls section, and annotate it {ASK}"
            )],
        };
    };
    let mut problems: Vec<String> = refused.map(|(_, words)| words.clone()).into_iter().collect();
    let waits = waits_for(certificate);
    if !certificate.served {
        let reason = waits.clone().unwrap_or_else(|| "the first order has not ended".into());
        problems.push(match current {
            Some(current) => {
                format!("{host} has not the one yet that is ordered: {reason}; {}", meanwhile(current))
            }
            None => format!("{host} has no certificate yet: {reason}"),
        });
    } else if certificate.overdue {
        let reason = waits.clone().unwrap_or_else(|| "nobody says why".into());
        problems.push(format!("its renewal is overdue: {reason}"));
    } else if let Some(held) = &certificate.held_back {
        problems.push(format!("it will not be renewed: {held}"));
    } else if let Some(failure) = certificate.failures.last() {
        problems.push(format!("its renewal fails: {}", failure.text));
    }
    if let Some(fault) = why.issuer.as_ref().and_then(|issuer| issuer.fault.as_ref()) {
        problems.push(format!("issuer {}: {fault}", certificate.issuer));
    }
    if !why.leads {
        problems.push(NO_LEADER.into());
    }
    problems
}

/// What clients of the host get now, from wherever it is.
fn current(why: &Why) -> Option<&CertificateAnswer> {
    why.served.as_ref()?.certificate.as_ref().filter(|certificate| certificate.served)
}

/// That of its own Secret, as the Secret is now. One that is served on while its Secret is gone or broken says why, and beside the
/// installation's default stands what is ordered.
fn is_own(current: &CertificateAnswer) -> bool {
    current.secret.is_some() && current.why.is_none() && current.acme.is_none()
}

/// What is served in the place of what should be.
fn meanwhile(current: &CertificateAnswer) -> String {
    let from = current
        .secret
        .as_ref()
        .map_or_else(|| "another".to_owned(), |secret| format!("that of Secret {secret}"));
    let end = current.not_after.as_ref().map_or_else(String::new, |end| format!(" until {end}"));
    format!("meanwhile {from} is served{end}")
}

fn text(out: Output, why: &Why, now: OffsetDateTime) -> String {
    let mut text = line("Host", &why.host);
    if let Some(served) = &why.served {
        text += &owner(served);
    }
    if let Some(certificate) = &why.certificate {
        text += &state(out, why, certificate, now);
        text += &line("Issuer", &issuer(out, why, certificate));
        let rehearsed =
            if certificate.rehearsed { ", rehearsed with the CA's staging environment" } else { "" };
        let provider = certificate.dns_provider.as_ref();
        let provider = provider.map_or(String::new(), |secret| format!(", by Secret {secret}"));
        text += &line("Challenge", &format!("{}{provider}{rehearsed}", certificate.challenge));
    } else {
        text += &line("Certificate", &without(why));
    }
    text += &where_it_is(out, &why.addresses);
    if let Some(certificate) = &why.certificate {
        text += &looked_at(out, certificate.preflight.as_ref(), now);
        text += &seen(out, certificate, now);
        text += &failures(certificate, now);
        if let Some(trouble) = &certificate.trouble {
            text += &line("Trouble", &format!("{trouble}; it is tried again"));
        }
        text += &next(certificate, now);
    }
    let problems: String = why.problems.iter().map(|problem| format!("  {problem}\n")).collect();
    if problems.is_empty() { text } else { format!("{text}\nTo fix:\n{problems}") }
}

fn owner(served: &HostAnswer) -> String {
    let mut text = line("Owner", &format!("namespace {}: {}", served.owner, served.why));
    let ingresses = if served.ingresses.is_empty() { "none".into() } else { served.ingresses.join(", ") };
    text += &line("Ingress", &ingresses);
    for refused in &served.refused {
        text += &line("Refused", &format!("{}: {}", refused.ingress, refused.why));
    }
    text
}

fn state(out: Output, why: &Why, certificate: &AcmeCertificate, now: OffsetDateTime) -> String {
    let (mark, state) = answer::state(certificate);
    let mut words = out.marked(mark, &state);
    let current = current(why);
    match (certificate.not_after.as_deref().filter(|_| certificate.served), current) {
        (Some(end), _) => words += &format!(", until {end} ({} left)", human::left_until(end, now)),
        (None, Some(current)) => words += &format!("; {}", meanwhile(current)),
        (None, None) => words += "; until there is one, HTTPS fails and plaintext gets 503",
    }
    let mut text = line("Certificate", &words);
    text += &line("", &format!("for {}", certificate.names.join(", ")));
    if certificate.staging && certificate.served {
        text += &line("", "of a staging environment, which no browser believes: name the CA's own directory");
    }
    if let Some(secret) = current.filter(|current| is_own(current)).and_then(|own| own.secret.as_ref()) {
        text += &line("", &format!("Secret {secret} comes before it: what users bring always wins"));
    }
    text
}

fn issuer(out: Output, why: &Why, certificate: &AcmeCertificate) -> String {
    let Some(issuer) = &why.issuer else { return format!("{}, which nobody knows now", certificate.issuer) };
    let mut words = format!("{}, {}", issuer.name, issuer.directory);
    if issuer.staging {
        words = format!("{}, {words}", out.marked(Mark::Bad, "staging"));
    }
    words += &match &issuer.account {
        Some(account) => format!(", account {account}"),
        None => ", no account yet".into(),
    };
    issuer.email.as_ref().map_or(words.clone(), |email| format!("{words} of {email}"))
}

/// Where it is from, when no CA is asked.
fn without(why: &Why) -> String {
    let certificate = why.served.as_ref().and_then(|served| served.certificate.as_ref());
    match certificate {
        Some(certificate) if certificate.served => {
            let from = certificate
                .secret
                .as_ref()
                .map_or_else(|| "made by edge".to_owned(), |secret| format!("of Secret {secret}"));
            let end = certificate.not_after.as_deref().unwrap_or("?");
            format!("{from}, until {end}; no CA is asked for one")
        }
        _ => "none, and no CA is asked for one".into(),
    }
}

/// A difference is worth a look and no fault: a CDN, NAT or load balancer may be in between.
fn where_it_is(out: Output, addresses: &Addresses) -> String {
    let edge = if addresses.edge.is_empty() { "nowhere yet".to_owned() } else { addresses.edge.join(", ") };
    let Some(here) = &addresses.here else { return line("Addresses", &format!("the edge is at {edge}")) };
    let found = here.iter().map(ToString::to_string).collect::<Vec<_>>();
    let words = match (&addresses.here_fault, found.is_empty()) {
        (Some(fault), _) => format!("{} ({fault})", out.marked(Mark::Aside, "not found from this machine")),
        (None, true) => out.marked(Mark::Aside, "no address, seen from this machine"),
        (None, false) => {
            let ours = found.iter().filter(|address| addresses.edge.contains(address)).count();
            let mark = if ours == found.len() { Mark::Good } else { Mark::Aside };
            format!("{}, seen from this machine", out.marked(mark, &found.join(", ")))
        }
    };
    line("Addresses", &format!("{words}; the edge is at {edge}"))
}

/// What the cluster's DNS said, addresses and CAA apart.
fn looked_at(out: Output, preflight: Option<&AcmePreflight>, now: OffsetDateTime) -> String {
    let Some(preflight) = preflight else {
        return line("DNS", "not looked at yet") + &line("CAA", "not looked at yet");
    };
    let asked = format!(" (asked {})", human::when(&preflight.at, now));
    let mut text = String::new();
    for (label, is_caa) in [("DNS", false), ("CAA", true)] {
        let of = |words: &&String| words.starts_with("CAA") == is_caa;
        let holds = preflight.holds.iter().filter(of).map(|words| out.marked(Mark::Bad, words));
        let warnings = preflight.warnings.iter().filter(of).map(|words| out.marked(Mark::Aside, words));
        let said: Vec<String> = holds.chain(warnings).collect();
        match said.split_first() {
            None => {
                text +=
                    &line(label, &format!("{}{asked}", out.marked(Mark::Good, "nothing against an order")));
            }
            Some((first, more)) => {
                text += &line(label, &format!("{first}{asked}"));
                text += &more.iter().map(|words| line("", words)).collect::<String>();
            }
        }
    }
    text
}

fn seen(out: Output, certificate: &AcmeCertificate, now: OffsetDateTime) -> String {
    if certificate.seen.is_empty() {
        return line("Seen by", "nobody was asked for the challenge yet");
    }
    let mut label = "Seen by";
    let mut text = String::new();
    for seen in &certificate.seen {
        let mark = out.mark(if seen.saw { Mark::Good } else { Mark::Bad });
        let why = if seen.why.is_empty() { String::new() } else { format!(": {}", seen.why) };
        text += &line(label, &format!("{mark} {}{why}, {}", seen.by, human::when(&seen.at, now)));
        label = "";
    }
    text
}

/// The newest first, each with the CA's own words and what they mean.
fn failures(certificate: &AcmeCertificate, now: OffsetDateTime) -> String {
    let Some(newest) = certificate.failures.last() else {
        return line("Failures", "none since the last certificate");
    };
    let mut text = line("Failures", &format!("{} since the last certificate", certificate.failures.len()));
    for failure in certificate.failures.iter().rev() {
        let rehearsal = if failure.rehearsal { ", in the rehearsal" } else { "" };
        text += &line("", &format!("{}{rehearsal}: {}", human::when(&failure.at, now), failure.text));
        text += &own_words(failure);
    }
    let names = newest.problem.names.iter().filter_map(|of| of.r#type.as_deref());
    let kinds = names.chain(newest.problem.r#type.as_deref());
    let mut told = BTreeSet::new();
    for words in kinds.filter_map(|kind| hint(kind, &certificate.challenge)) {
        if told.insert(words) {
            text += &line(if told.len() == 1 { "To do" } else { "" }, words);
        }
    }
    text
}

/// What the sentence of edge does not hold already.
fn own_words(failure: &AcmeFailure) -> String {
    let problem = &failure.problem;
    let with = |kind: &Option<String>| kind.as_ref().map_or(String::new(), |kind| format!(" ({kind})"));
    let mut text = String::new();
    if !problem.detail.is_empty() && !failure.text.contains(&problem.detail) {
        text += &line("", &format!("  \"{}\"{}", problem.detail, with(&problem.r#type)));
    }
    for of in problem.names.iter().filter(|of| !failure.text.contains(&of.detail)) {
        text += &line("", &format!("  {}: \"{}\"{}", of.name, of.detail, with(&of.r#type)));
    }
    text
}

/// Limits, and what is done next.
fn next(certificate: &AcmeCertificate, now: OffsetDateTime) -> String {
    let newest = certificate.failures.last().and_then(|failure| failure.retry_after.as_deref());
    let limits = match certificate.retry_after.as_deref().or(newest) {
        Some(until) => format!(
            "the CA wants to be let alone until {until} ({}); nothing passes that",
            human::when(until, now)
        ),
        None => "the CA said none; we show a name to it at most 4 times an hour in vain".into(),
    };
    let mut text = line("Limits", &limits);
    if let Some(at) = certificate.renew_at.as_deref().filter(|_| certificate.served) {
        text += &line("Renewal", &human::when(at, now));
    }
    let words = match (&certificate.held_back, &certificate.next) {
        (Some(held), _) => format!("nothing is ordered: {held}"),
        (None, Some(next)) => {
            let at = next.at.as_deref().map_or_else(|| "not by itself".to_owned(), |at| human::when(at, now));
            format!("{at}: {}, {}", next.step, next.because)
        }
        (None, None) => "nobody says".into(),
    };
    text + &line("Next", &words)
}

fn line(label: &str, words: &str) -> String {
    format!("{label:<12} {words}\n")
}

const ASK: &str = "kubernetes.io/tls-acme: \"true\" (docs/acme.md)";
pub(super) const NO_LEADER: &str = "no replica of edge orders now, so nothing is renewed; one takes over within half a minute. If none \
                                    does: kubectl -n signet-system logs deployment/edge";
/// The resolver's own is 10 s and more, and this is the lesser half of the answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
