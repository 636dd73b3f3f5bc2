//! `signet cert list`.

use std::collections::BTreeSet;

use anyhow::Result;
use signet_core::clock;
use time::OffsetDateTime;

use super::{
    answer::{hosts, is_wrong, state, waits_for},
    why::NO_LEADER,
};
use crate::{
    Exit, human,
    named::Scope,
    output::{self, Mark, Output},
    shapes::{AcmeAnswer, AcmeCertificate, AcmeIssuer, HostAnswer},
    whom::Asking,
};

/// Show the certificates that edge orders: for which hosts, of whom, until when, and what stands in their way
///
/// One line for each certificate that an Ingress asks for (docs/acme.md). Red is what somebody has to look at, and what comes from a
/// staging environment: that is served, and no browser believes it.
///
/// Changes nothing.
///
/// Examples:
///   signet cert list
///   signet cert list shop           # those of one namespace
///   signet cert list -o json | jq '.certificates[] | select(.served | not) | .names'
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 all are served and renewed in time, 1 one is not, its last order failed, its issuer cannot be asked, or no \
                  replica orders, 2 could not ask"
)]
pub(crate) struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(args: Args) -> Result<Exit> {
    let whom = args.asking.whom().await?;
    let mut answer = super::ask(&whom).await?.answer;
    let mut hosts = Box::pin(crate::hosts::all(&whom)).await?.unwrap_or_default().hosts;
    if let Some(namespace) = args.scope.namespace() {
        answer.certificates.retain(|certificate| certificate.namespace == namespace);
        hosts.retain(|host| host.owner == namespace);
    }
    let asked = asked(&answer, &hosts);
    let out = Output::to_stdout(args.asking.output);
    out.show(&answer, |answer| text(out, answer, &asked, args.scope.namespace(), clock::now()))?;
    Ok(if is_any_wrong(&answer, &asked) { Exit::Fix } else { Exit::Fine })
}

/// Names of the issuers that the certificates shown are to come from. Of one that cannot be asked there is no certificate: the hosts that
/// ask for it repeat its fault. One without an acme block is meant for somebody else, who makes its Secrets.
fn asked(answer: &AcmeAnswer, hosts: &[HostAnswer]) -> BTreeSet<String> {
    let whys = || hosts.iter().filter_map(|host| host.certificate.as_ref()?.why.as_deref());
    let names = |issuer: &&AcmeIssuer| {
        let is_named = answer.certificates.iter().any(|certificate| certificate.issuer == issuer.name);
        let fault = issuer.fault.as_deref().filter(|fault| !fault.contains(NO_ACME));
        is_named || fault.is_some_and(|fault| whys().any(|why| why.contains(fault)))
    };
    answer.issuers.iter().filter(names).map(|issuer| issuer.name.clone()).collect()
}

fn is_any_wrong(answer: &AcmeAnswer, asked: &BTreeSet<String>) -> bool {
    let is_faulty = |issuer: &AcmeIssuer| issuer.fault.is_some() && asked.contains(&issuer.name);
    answer.certificates.iter().any(is_wrong)
        || !answer.broken.is_empty()
        || answer.issuers.iter().any(is_faulty)
        || !answer.leads
}

fn text(
    out: Output,
    answer: &AcmeAnswer,
    asked: &BTreeSet<String>,
    namespace: Option<&str>,
    now: OffsetDateTime,
) -> String {
    let mut text = match (answer.certificates.is_empty(), namespace) {
        (true, Some(namespace)) => format!("No Ingress of namespace {namespace} asks for a certificate.\n"),
        (true, None) if answer.issuers.is_empty() => NO_CA.into(),
        (true, None) => NOBODY_ASKS.into(),
        (false, _) => {
            let header = [
                "HOSTS",
                "NAMESPACE",
                "ISSUER",
                "CHALLENGE",
                "STATE",
                "LEFT",
                "SERVED UNTIL",
                "RENEWAL",
                "FAILURES",
            ];
            output::table(header, answer.certificates.iter().map(|one| row(out, one, now)))
        }
    };
    let waiting = answer.certificates.iter().filter(|certificate| is_wrong(certificate));
    let waiting: String = waiting
        .filter_map(|certificate| {
            let host = certificate.names.first()?;
            let why = waits_for(certificate).unwrap_or_else(|| "nobody says why".into());
            Some(format!("{host}: {why}; more: signet cert why '{host}'\n"))
        })
        .collect();
    if !waiting.is_empty() {
        text += &format!("\nTo look at:\n{waiting}");
    }
    let issuers = answer.issuers.iter().filter(|issuer| asked.contains(&issuer.name));
    let said = issuers.flat_map(|issuer| {
        issuer.fault.iter().chain(&issuer.notes).map(move |words| of_issuer(&issuer.name, words))
    });
    let said: String = said.collect();
    if !said.is_empty() {
        text += &format!("\nIssuers:\n{said}");
    }
    let broken: String = answer.broken.iter().map(|one| format!("{}: {}\n", one.id, one.why)).collect();
    if !broken.is_empty() {
        text += &format!("\nRecords that cannot be read:\n{broken}");
    }
    if !answer.leads {
        text += &format!("\n{NO_LEADER}\n");
    }
    text
}

/// Some of edge's words begin with the name.
fn of_issuer(name: &str, words: &str) -> String {
    if words.starts_with(name) { format!("{words}\n") } else { format!("{name}: {words}\n") }
}

fn row(out: Output, certificate: &AcmeCertificate, now: OffsetDateTime) -> [String; 9] {
    let none = || "-".to_owned();
    let (mark, state) = state(certificate);
    let end = certificate.not_after.as_deref().filter(|_| certificate.served);
    let staging = certificate.staging && mark == Mark::Bad && state != "staging";
    [
        hosts(certificate),
        certificate.namespace.clone(),
        // What the state says already is not said twice.
        if staging {
            out.marked(Mark::Bad, &format!("{}, staging", certificate.issuer))
        } else {
            certificate.issuer.clone()
        },
        certificate.challenge.clone(),
        out.marked(mark, &state),
        end.map_or_else(none, |end| human::left_until(end, now)),
        end.map_or_else(none, str::to_owned),
        certificate
            .renew_at
            .as_deref()
            .filter(|_| certificate.served)
            .map_or_else(none, |at| human::when(at, now)),
        if certificate.failures.is_empty() { none() } else { certificate.failures.len().to_string() },
    ]
}

/// In the fault of an Issuer object of another kind.
const NO_ACME: &str = "has no acme block";
const NO_CA: &str = "No CA is known: name one with signet install --acme-email YOU@EXAMPLE.COM (Let's Encrypt), or by an Issuer or \
                     ClusterIssuer object. Then annotate an Ingress with kubernetes.io/tls-acme: \"true\" (docs/acme.md).\n";
const NOBODY_ASKS: &str = "No Ingress asks for a certificate: annotate one with kubernetes.io/tls-acme: \"true\", and give it a tls \
                           section (docs/acme.md).\n";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        cert::answer::{certificate, failure},
        output::Format,
        shapes::CertificateAnswer,
    };

    fn shown(certificates: Vec<AcmeCertificate>) -> String {
        let issuer = AcmeIssuer { name: "letsencrypt".into(), ..AcmeIssuer::default() };
        let answer = AcmeAnswer { issuers: vec![issuer], certificates, leads: true, ..AcmeAnswer::default() };
        text_of(&answer, &asked(&answer, &[]))
    }

    fn text_of(answer: &AcmeAnswer, asked: &BTreeSet<String>) -> String {
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap(); // 1970-01-12T13:46:40Z
        text(Output::to_stdout(Format::Table), answer, asked, None, now)
    }

    #[test]
    fn a_certificate_is_shown_with_its_end_and_its_renewal() {
        let fields = json!({"names": ["a.example.com", "b.example.com"], "served": true,
            "notAfter": "1970-04-12T13:46:40Z", "renewAt": "1970-03-13T13:46:40Z"});
        let text = shown(vec![certificate(&fields)]);
        for part in
            ["a.example.com, b.example.com", "shop", "letsencrypt", "http-01", "served", "90d", "in 60d"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("To look at"), "{text}");
    }

    #[test]
    fn what_stands_in_the_way_is_said_below_with_the_command_that_says_more() {
        let failures = json!([failure("1970-01-12T13:00:00Z", "the CA said no", &json!([]))]);
        let text = shown(vec![certificate(&json!({ "failures": failures }))]);
        assert!(
            text.contains("app.example.com: the CA said no; more: signet cert why 'app.example.com'"),
            "{text}"
        );
        let staging = shown(vec![certificate(&json!({"served": true, "staging": true}))]);
        assert!(staging.contains("staging") && !staging.contains("To look at"), "{staging}");
    }

    #[test]
    fn without_a_ca_it_is_said_how_to_name_one() {
        let text = text_of(&AcmeAnswer { leads: true, ..AcmeAnswer::default() }, &BTreeSet::new());
        assert!(text.contains("--acme-email"), "{text}");
        assert!(shown(vec![]).contains("kubernetes.io/tls-acme"));
    }

    #[test]
    fn of_issuers_only_those_are_judged_that_somebody_asks_for_a_certificate() {
        let issuer = |name: &str, fault: Option<&str>| AcmeIssuer {
            name: name.into(),
            fault: fault.map(str::to_owned),
            notes: vec!["spec.acme.preferredChain is not honoured".into()],
            ..AcmeIssuer::default()
        };
        let (fault, own) =
            ("ClusterIssuer le: spec.acme.server is missing", "Issuer shop/own has no acme block: it");
        let issuers = vec![
            issuer("letsencrypt", None),
            issuer("ClusterIssuer le", Some(fault)),
            issuer("Issuer shop/own", Some(own)),
        ];
        let served = certificate(&json!({"served": true}));
        let answer = AcmeAnswer { issuers, certificates: vec![served], leads: true, ..AcmeAnswer::default() };
        let host = |fault: &str| HostAnswer {
            certificate: Some(CertificateAnswer {
                why: Some(format!("an annotation asks for one, and {fault}; a Secret of yours does without")),
                ..CertificateAnswer::default()
            }),
            ..HostAnswer::default()
        };

        let of_one = asked(&answer, &[]);
        assert!(!is_any_wrong(&answer, &of_one), "{of_one:?}");
        let text = text_of(&answer, &of_one);
        assert!(text.contains("Issuers:\nletsencrypt: spec.acme.preferredChain"), "{text}");
        assert!(!text.contains("ClusterIssuer le") && !text.contains("Issuer shop/own"), "{text}");

        let of_both = asked(&answer, &[host(fault), host(own)]);
        assert!(is_any_wrong(&answer, &of_both), "{of_both:?}");
        let text = text_of(&answer, &of_both);
        assert!(text.contains(&format!("\n{fault}\n")) && !text.contains("Issuer shop/own"), "{text}");
    }

    #[test]
    fn without_a_replica_that_orders_it_is_said_and_something_is_wrong() {
        let certificates = vec![certificate(&json!({"served": true}))];
        let mut answer = AcmeAnswer { certificates, leads: true, ..AcmeAnswer::default() };
        let nobody = BTreeSet::new();
        assert!(!is_any_wrong(&answer, &nobody) && !text_of(&answer, &nobody).contains(NO_LEADER));
        answer.leads = false;
        assert!(is_any_wrong(&answer, &nobody) && text_of(&answer, &nobody).contains(NO_LEADER));
    }
}
