//! `signet cert list`.

use anyhow::Result;
use signet_core::clock;
use time::OffsetDateTime;

use super::answer::{hosts, is_wrong, state, waits_for};
use crate::{
    Exit, human,
    named::Scope,
    output::{self, Mark, Output},
    shapes::{AcmeAnswer, AcmeCertificate},
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
    Ok(if is_any_wrong(&answer) { Exit::Fix } else { Exit::Fine })
}

fn is_any_wrong(answer: &AcmeAnswer) -> bool {
    answer.certificates.iter().any(is_wrong)
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
    let said = answer.issuers.iter().flat_map(|issuer| {
        issuer.fault.iter().chain(&issuer.notes).map(move |words| format!("{}: {words}\n", issuer.name))
    });
    let said: String = said.collect();
    if !said.is_empty() {
        text += &format!("\nIssuers:\n{said}");
    }
    let broken: String = answer.broken.iter().map(|one| format!("{}: {}\n", one.id, one.why)).collect();
    if !broken.is_empty() {
        text += &format!("\nRecords that cannot be read:\n{broken}");
    }
    text
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
        shapes::AcmeIssuer,
    };

    fn shown(certificates: Vec<AcmeCertificate>) -> String {
        let issuer = AcmeIssuer { name: "letsencrypt".into(), ..AcmeIssuer::default() };
        let answer = AcmeAnswer { issuers: vec![issuer], certificates, leads: true, ..AcmeAnswer::default() };
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap(); // 1970-01-12T13:46:40Z
        text(Output::to_stdout(Format::Table), &answer, None, now)
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
        let text =
            text(Output::to_stdout(Format::Table), &AcmeAnswer::default(), None, OffsetDateTime::UNIX_EPOCH);
        assert!(text.contains("--acme-email"), "{text}");
        assert!(shown(vec![]).contains("kubernetes.io/tls-acme"));
    }
}
