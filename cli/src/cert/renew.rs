//! `signet cert renew`: the one command of `cert` that changes something, told to the replica that orders.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper::StatusCode;
use serde::Serialize;
use signet_ca::Life;
use signet_core::identity::SYSTEM_NAMESPACE;
use tokio::time::sleep;

use super::{Said, answer::is_ordering};
use crate::{
    Exit,
    ask::{NoAnswer, Place},
    output::{self, Output},
    shapes::{AcmeAnswer, AcmeCertificate, AcmeRenew, AcmeRenewing},
    whom::{Asking, Whom},
};

/// Order a new certificate for HOST now, before its time
///
/// For a certificate whose key may be in other hands, and for a host whose last order failed: it passes our own pauses, never the CA's
/// limits. The one that is served stays until the new one is there. For all names of the certificate at once.
///
/// Examples:
///   signet cert renew app.example.com
///   signet cert renew app.example.com --wait --timeout 5m
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 asked (with --wait: the new certificate is there), 1 refused (with --wait: it failed, or was too slow), 2 could not ask"
)]
pub(crate) struct Args {
    /// Host name as a browser would type it
    #[arg(value_name = "HOST", value_parser = super::host)]
    host: String,
    /// Wait until the new certificate is there, and say what happens meanwhile
    #[arg(long)]
    wait: bool,
    /// How long, with --wait
    #[arg(long, value_name = "DURATION", default_value = "10m", requires = "wait")]
    timeout: Life,
    #[command(flatten)]
    asking: Asking,
}

/// `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Renewed {
    /// Of the certificate's record.
    id: String,
    /// With --wait: the new one, or what became of it.
    certificate: Option<AcmeCertificate>,
    /// With --wait: why there is none.
    why: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<Exit> {
    let whom = args.asking.whom().await?;
    let said = super::ask(&whom).await?;
    let place = leader(&whom, &said)?;
    let body = AcmeRenew { host: args.host.clone() };
    let id = match place.post::<AcmeRenewing>(RENEW, &body).await {
        Ok(renewing) => renewing.id,
        Err(NoAnswer::Refused { status: StatusCode::NOT_FOUND | StatusCode::CONFLICT, words, .. }) => {
            output::note(&format!("{}: {words}. What is known: signet cert why '{}'", args.host, args.host));
            return Ok(Exit::Fix);
        }
        Err(e) => return Err(e).with_context(|| format!("asking {} to renew {}", said.pod, args.host)),
    };
    let out = Output::to_stdout(args.asking.output);
    if !args.wait {
        let renewed = Renewed { id, certificate: None, why: None };
        out.show(&renewed, |_| {
            format!("A new certificate is being ordered; watch it with: signet cert why '{}'", args.host)
        })?;
        return Ok(Exit::Fine);
    }
    let limit = Duration::from_secs(u64::try_from(args.timeout.0).unwrap_or(0));
    let before = of_id(&said.answer, &id); // of the very certificate, which the host alone may not tell
    let renewed = wait(&whom, &args.host, id, before, limit).await?;
    out.show(&renewed, |renewed| text(&args.host, renewed))?;
    Ok(if renewed.why.is_none() { Exit::Fine } else { Exit::Fix })
}

/// Where the replica that orders takes questions.
fn leader(whom: &Whom, said: &Said) -> Result<Place> {
    match whom {
        Whom::Local(state) => Ok(Place::Socket(state.edge_socket())),
        Whom::Cluster(cluster) if said.answer.leads => Ok(cluster.pages(SYSTEM_NAMESPACE, &said.pod)),
        Whom::Cluster(cluster) => bail!(
            "no replica of edge in {} orders now: one takes over within half a minute, so try again. If none does: kubectl -n \
             {SYSTEM_NAMESPACE} logs deployment/edge",
            cluster.name
        ),
    }
}

/// Asks until the certificate is another one, its order failed, or `limit` is over. An outage of edge is waited out.
async fn wait(
    whom: &Whom,
    host: &str,
    id: String,
    before: Option<&AcmeCertificate>,
    limit: Duration,
) -> Result<Renewed> {
    let begun = Instant::now();
    let (mut told, mut last) = (String::new(), before.cloned());
    loop {
        let answer = match super::ask(whom).await {
            Ok(said) => Some(said.answer),
            Err(e) if begun.elapsed() >= limit => return Err(e),
            Err(_) => None, // the next replica takes over
        };
        let now = answer.as_ref().and_then(|answer| of_id(answer, &id));
        if let Some(now) = now {
            match progress(before, now) {
                Progress::There => return Ok(Renewed { id, certificate: Some(now.clone()), why: None }),
                Progress::Failed(why) => {
                    return Ok(Renewed { id, certificate: Some(now.clone()), why: Some(why) });
                }
                Progress::UnderWay(words) if begun.elapsed() >= SILENCE && words != told => {
                    output::note(&format!("{host}: {words}"));
                    told = words;
                }
                Progress::UnderWay(_) => {}
            }
            last = Some(now.clone());
        }
        if begun.elapsed() >= limit {
            let why = format!("it is not there after {limit:?}; it goes on by itself");
            return Ok(Renewed { id, certificate: last, why: Some(why) });
        }
        sleep(AGAIN).await; // nothing tells when a step was taken
    }
}

fn of_id<'a>(answer: &'a AcmeAnswer, id: &str) -> Option<&'a AcmeCertificate> {
    answer.certificates.iter().find(|certificate| certificate.id == id)
}

#[derive(Debug, Eq, PartialEq)]
enum Progress {
    There,
    Failed(String),
    /// In words.
    UnderWay(String),
}

/// What became of what was asked for. Pure.
fn progress(before: Option<&AcmeCertificate>, now: &AcmeCertificate) -> Progress {
    let dates = |of: &AcmeCertificate| (of.not_before.clone(), of.not_after.clone());
    if now.served && before.is_none_or(|before| !before.served || dates(before) != dates(now)) {
        return Progress::There;
    }
    if let Some(held) = &now.held_back {
        return Progress::Failed(format!("nothing is ordered: {held}"));
    }
    let newest = |of: &AcmeCertificate| of.failures.last().map(|failure| failure.at.clone());
    if newest(now) != before.and_then(newest)
        && let Some(failure) = now.failures.last()
    {
        return Progress::Failed(failure.text.clone());
    }
    let words = match (&now.trouble, &now.next) {
        (Some(trouble), _) => format!("{trouble}; it is tried again"),
        (None, _) if is_ordering(now) => stage(&now.stage).to_owned(),
        (None, Some(next)) => format!("waiting: {}", next.because),
        (None, None) => "waiting".into(),
    };
    Progress::UnderWay(words)
}

/// Of an order, in words.
fn stage(stage: &str) -> &str {
    match stage {
        "asking" => "asking the CA for an order",
        "reading" => "reading what the CA wants to see",
        "presenting" => "putting the challenge where the CA looks",
        "presented" => "the challenge is in place",
        "telling" | "validating" => "the CA looks at the challenge",
        "ready" | "finalizing" => "the CA believes the names; asking for the certificate",
        "issuing" => "the CA makes the certificate",
        other => other,
    }
}

fn text(host: &str, renewed: &Renewed) -> String {
    let served = renewed.certificate.as_ref().filter(|certificate| certificate.served);
    let end = served.and_then(|certificate| certificate.not_after.as_deref());
    match (&renewed.why, end) {
        (None, Some(end)) => format!("{host} has a new certificate, until {end}\n"),
        (None, None) => format!("{host} has a new certificate\n"),
        (Some(why), Some(end)) => {
            format!(
                "No new certificate: {why}\nThe one that is served is good until {end}; more: signet cert why '{host}'\n"
            )
        }
        (Some(why), None) => format!("No certificate: {why}\nMore: signet cert why '{host}'\n"),
    }
}

const RENEW: &str = "/v1/acme/renew";
/// Who waits longer wants to know what for.
const SILENCE: Duration = Duration::from_secs(2);
/// Steps take about a second; each question opens a port-forward.
const AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cert::answer::{certificate as made, failure};

    fn certificate(fields: serde_json::Value) -> AcmeCertificate {
        made(&fields)
    }

    #[test]
    fn a_new_certificate_is_one_with_other_dates_or_the_first() {
        let old = certificate(json!({"served": true, "notBefore": "a", "notAfter": "b"}));
        let new = certificate(json!({"served": true, "notBefore": "c", "notAfter": "d"}));
        let none = certificate(json!({"served": false}));
        assert_eq!(progress(Some(&old), &new), Progress::There);
        assert_eq!(progress(None, &new), Progress::There);
        assert_eq!(progress(Some(&none), &new), Progress::There);
        assert_ne!(progress(Some(&old), &old), Progress::There);
        assert_ne!(progress(Some(&old), &none), Progress::There);
    }

    #[test]
    fn a_failure_counts_when_it_is_newer_than_the_question() {
        let failed = |at: &str| {
            let failures = json!([failure(at, "the CA said no", &json!([]))]);
            certificate(json!({"served": true, "notAfter": "b", "failures": failures}))
        };
        assert!(matches!(progress(Some(&failed("1")), &failed("1")), Progress::UnderWay(_)));
        assert_eq!(progress(Some(&failed("1")), &failed("2")), Progress::Failed("the CA said no".into()));
        let held = certificate(json!({"served": true, "notAfter": "b", "heldBack": "CAA forbids it"}));
        assert_eq!(
            progress(Some(&failed("1")), &held),
            Progress::Failed("nothing is ordered: CAA forbids it".into())
        );
    }

    #[test]
    fn an_end_is_told_of_what_is_served_and_of_nothing_else() {
        let said = |served: bool, why: Option<&str>| {
            let certificate = certificate(json!({"served": served, "notAfter": "1970-04-12T13:46:40Z"}));
            let (id, why) = ("0123".to_owned(), why.map(str::to_owned));
            text("app.example.com", &Renewed { id, certificate: Some(certificate), why })
        };
        assert!(said(true, None).contains("has a new certificate, until 1970-04-12T13:46:40Z"));
        assert!(said(true, Some("no")).contains("The one that is served is good until 1970-04-12T13:46:40Z"));
        let ended = said(false, Some("no"));
        assert!(ended.starts_with("No certificate: no\n") && !ended.contains("1970"), "{ended}");
    }

    #[test]
    fn what_was_there_before_is_found_by_the_id_that_edge_answered() {
        let of = |id: &str, host: &str| certificate(json!({"id": id, "names": [host]}));
        let certificates = vec![of("1", "app.example.com"), of("2", "*.example.com")];
        let answer = AcmeAnswer { certificates, ..AcmeAnswer::default() };
        assert_eq!(
            of_id(&answer, "2").map(|found| found.names.clone()),
            Some(vec!["*.example.com".to_owned()])
        );
        assert!(of_id(&answer, "3").is_none());
    }

    #[test]
    fn what_happens_is_said_in_words() {
        let words = |value: serde_json::Value| match progress(None, &certificate(value)) {
            Progress::UnderWay(words) => words,
            other => panic!("{other:?}"),
        };
        assert_eq!(words(json!({"stage": "validating"})), "the CA looks at the challenge");
        assert_eq!(words(json!({"trouble": "no route"})), "no route; it is tried again");
        assert_eq!(
            words(json!({"next": {"at": null, "step": "order", "because": "the CA's Retry-After"}})),
            "waiting: the CA's Retry-After"
        );
    }
}
