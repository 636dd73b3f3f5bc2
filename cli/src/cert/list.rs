//! `signet cert list`.

use anyhow::Result;
use signet_core::clock;
use time::OffsetDateTime;

use super::answer::{AcmeAnswer, AcmeCertificate};
use crate::{
    Exit,
    human,
    named::Scope,
    output::{self, Mark, Output},
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
    after_help = "Exit status: 0 all are served and renewed in time, 1 one is not, or its last order failed, 2 could not ask"
)]
pub(crate) struct Args {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(args: Args) -> Result<Exit> {
    let mut answer = super::ask(&args.asking.whom().await?).await?.answer;
    if let Some(namespace) = args.scope.namespace() {
        answer.certificates.retain(|certificate| certificate.namespace == namespace);
    }
    let out = Output::to_stdout(args.asking.output);
    out.show(&answer, |answer| text(out, answer, args.scope.namespace(), clock::now()))?;
    Ok(if is_wrong(&answer) { Exit::Fix } else { Exit::Fine })
}

fn is_wrong(answer: &AcmeAnswer) -> bool {
    answer.certificates.iter().any(AcmeCertificate::is_wrong)
        || !answer.broken.is_empty()
        || answer.issuers.iter().any(|issuer| issuer.fault.is_some())
}

fn text(out: Output, answer: &AcmeAnswer, namespace: Option<&str>, now: OffsetDateTime) -> String {
    let mut text = match (answer.certificates.is_empty(), namespace) {
        (true, Some(namespace)) => format!("No Ingress of namespace {namespace} asks for a certificate.\n"),
        (true, None) if answer.issuers.is_empty() => NO_CA.into(),
        (true, None) => NOBODY_ASKS.into(),
        (false, _) => {
            let header = [
                "HOSTS", "NAMESPACE", "ISSUER", "CHALLENGE", "STATE", "LEFT", "SERVED UNTIL", "RENEWAL", "FAILURES",
            ];
            output::table(header, answer.certificates.iter().map(|one| row(out, one, now)))
        }
    };
    let waiting = answer.certificates.iter().filter(|certificate| certificate.is_wrong());
    let waiting: String = waiting
        .filter_map(|certificate| {
            let host = certificate.names.first()?;
            let why = certificate.waits_for().unwrap_or_else(|| "nobody says why".into());
            Some(format!("{host}: {why}; more: signet cert why '{host}'\n"))
        })
        .collect();
    if !waiting.is_empty() {
        text += &format!("\nTo look at:\n{waiting}");
    }
    let faults = answer.issuers.iter().filter_map(|issuer| Some((&issuer.name, issuer.fault.as_ref()?)));
    let faults: String = faults.map(|(name, fault)| format!("{name}: {fault}\n")).collect();
    if !faults.is_empty() {
        text += &format!("\nIssuers:\n{faults}");
    }
    let broken: String = answer.broken.iter().map(|one| format!("{}: {}\n", one.id, one.why)).collect();
    if !broken.is_empty() {
        text += &format!("\nRecords that cannot be read:\n{broken}");
    }
    text
}

fn row(out: Output, certificate: &AcmeCertificate, now: OffsetDateTime) -> [String; 9] {
    let none = || "-".to_owned();
    let (mark, state) = certificate.state();
    let end = certificate.not_after.as_deref().filter(|_| certificate.served);
    let staging = certificate.staging && mark == Mark::Bad && state != "staging";
    [
        certificate.hosts(),
        certificate.namespace.clone(),
        // What the state says already is not said twice.
        if staging { out.marked(Mark::Bad, &format!("{}, staging", certificate.issuer)) } else { certificate.issuer.clone() },
        certificate.challenge.clone(),
        out.marked(mark, &state),
        end.map_or_else(none, |end| human::left_until(end, now)),
        end.map_or_else(none, str::to_owned),
        certificate.renew_at.as_deref().filter(|_| certificate.served).map_or_else(none, |at| human::when(at, now)),
        if certificate.failures.is_empty() { none() } else { certificate.failures.len().to_string() },
    ]
}

const NO_CA: &str = "No CA is known: name one with signet install --acme-email YOU@EXAMPLE.COM (Let's Encrypt), or by an Issuer or \
                     ClusterIssuer object. Then annotate an Ingress with kubernetes.io/tls-acme: \"true\" (docs/acme.md).\n";
const NOBODY_ASKS: &str = "No Ingress asks for a certificate: annotate one with kubernetes.io/tls-acme: \"true\", and give it a tls \
                           section (docs/acme.md).\n";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Format;

    fn shown(certificates: serde_json::Value) -> String {
        let answer: AcmeAnswer = serde_json::from_value(json!({
            "issuers": [{"name": "letsencrypt", "directory": "https://acme.example/d", "staging": false}],
            "certificates": certificates, "leads": true, "replica": "edge-0",
        }))
        .unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap(); // 1970-01-12T13:46:40Z
        text(Output::to_stdout(Format::Table), &answer, None, now)
    }

    #[test]
    fn a_certificate_is_shown_with_its_end_and_its_renewal() {
        let text = shown(json!([{"names": ["a.example.com", "b.example.com"], "namespace": "shop", "issuer": "letsencrypt",
            "challenge": "http-01", "served": true, "notAfter": "1970-04-12T13:46:40Z", "renewAt": "1970-03-13T13:46:40Z"}]));
        for part in ["a.example.com, b.example.com", "shop", "letsencrypt", "http-01", "served", "90d", "in 60d"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("To look at"), "{text}");
    }

    #[test]
    fn what_stands_in_the_way_is_said_below_with_the_command_that_says_more() {
        let text = shown(json!([{"names": ["a.example.com"], "issuer": "letsencrypt", "served": false,
            "failures": [{"at": "1970-01-12T13:00:00Z", "text": "the CA said no"}]}]));
        assert!(text.contains("a.example.com: the CA said no; more: signet cert why 'a.example.com'"), "{text}");
        let staging = shown(json!([{"names": ["a.example.com"], "issuer": "letsencrypt-staging", "served": true, "staging": true}]));
        assert!(staging.contains("staging") && !staging.contains("To look at"), "{staging}");
    }

    #[test]
    fn without_a_ca_it_is_said_how_to_name_one() {
        let text = text(
            Output::to_stdout(Format::Table),
            &AcmeAnswer::default(),
            None,
            OffsetDateTime::UNIX_EPOCH,
        );
        assert!(text.contains("--acme-email"), "{text}");
        assert!(shown(json!([])).contains("kubernetes.io/tls-acme"));
    }
}
