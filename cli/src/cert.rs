//! `signet cert`: certificates that edge orders of an ACME CA, why a host has none, and a new one at once. The replica of edge that holds
//! the Lease orders and knows the most; the others know what is stored.

pub(crate) mod answer;
mod hint;
mod list;
mod renew;
mod why;

use anyhow::{Result, bail};

use crate::{Exit, cluster::Part, output, replicas, shapes::AcmeAnswer, state::StateDir, whom::Whom};

/// Look at the certificates of ACME CAs (Let's Encrypt), say why a host has none, renew one
///
/// Edge orders them by itself for every Ingress that asks (docs/acme.md); these commands show what it does.
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Command {
    List(list::Args),
    Why(why::Args),
    Renew(renew::Args),
}

pub(crate) async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::List(args) => Box::pin(list::run(args)).await,
        Command::Why(args) => Box::pin(why::run(args)).await,
        Command::Renew(args) => Box::pin(renew::run(args)).await,
    }
}

/// What edge says: the answer of the replica that orders, or of another where none does.
struct Said {
    /// Its pod; "edge" on this machine.
    pod: String,
    answer: AcmeAnswer,
}

/// An error: nobody answers, or edge orders no certificates.
async fn ask(whom: &Whom) -> Result<Said> {
    let answers = whom.ask::<AcmeAnswer>(Part::Edge, StateDir::edge_socket, PAGE).await?;
    let given = answers.given.into_iter().filter_map(|(pod, answer)| Some(Said { pod, answer: answer? }));
    let is_here = matches!(whom, Whom::Local(_));
    let Some(said) = best(given).filter(|said| !is_here || !is_empty(&said.answer)) else {
        bail!("{}", nobody(whom))
    };
    for missing in answers.missing {
        output::note(&format!("Not all of it: {missing}"));
    }
    Ok(said)
}

/// The one that orders, else the first.
fn best(given: impl IntoIterator<Item = Said>) -> Option<Said> {
    replicas::leading(given, |said| said.answer.leads)
}

fn nobody(whom: &Whom) -> &'static str {
    match whom {
        Whom::Local(_) => {
            "on this machine nobody orders certificates: its hosts have those of the edge CA (docs/edge-ca.md). For a cluster, name it \
             with --context"
        }
        Whom::Cluster(_) => {
            "edge orders no certificates: it is older than this signet; compare signet version on both sides"
        }
    }
}

/// The same for commands that can do without it; `None`: there is nothing, or nobody says.
pub(crate) async fn known(whom: &Whom) -> Option<AcmeAnswer> {
    let answers = whom.ask::<AcmeAnswer>(Part::Edge, StateDir::edge_socket, PAGE).await.ok()?;
    let given = answers.given.into_iter().filter_map(|(pod, answer)| Some(Said { pod, answer: answer? }));
    best(given).map(|said| said.answer).filter(|answer| !is_empty(answer))
}

fn is_empty(answer: &AcmeAnswer) -> bool {
    answer.certificates.is_empty() && answer.issuers.is_empty() && answer.broken.is_empty()
}

/// A host as people paste it, "https://App.example.com/", as certificates have it.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let host = text.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split(['/', ':']).next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let labels = host.strip_prefix("*.").unwrap_or(&host);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if labels.split('.').all(is_label) && host.len() <= LONGEST {
        Ok(host)
    } else {
        Err("it is no host; write it as a browser does: app.example.com, or *.example.com".into())
    }
}

const PAGE: &str = "/v1/acme";
/// Of a name in DNS, as text (RFC 1035 2.3.4).
const LONGEST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replica_that_orders_is_believed_before_the_others() {
        let said = |pod: &str, leads| Said {
            pod: pod.into(),
            answer: AcmeAnswer { leads, ..AcmeAnswer::default() },
        };
        let pod = |given: Vec<Said>| best(given).map(|said| said.pod);
        assert_eq!(pod(vec![said("a", false), said("b", true)]).as_deref(), Some("b"));
        assert_eq!(pod(vec![said("a", false), said("b", false)]).as_deref(), Some("a"));
        assert_eq!(pod(vec![]), None);
    }

    #[test]
    fn a_host_is_taken_as_it_is_pasted_and_what_is_none_is_refused() {
        for (text, want) in [
            ("app.example.com", "app.example.com"),
            ("https://App.Example.com/login?x", "app.example.com"),
            ("http://app.example.com:8443", "app.example.com"),
            ("app.example.com.", "app.example.com"),
            ("*.example.com", "*.example.com"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(want), "{text}");
        }
        for text in ["", "a..b", "app example", "a.*.b", "&x", "https://"] {
            assert!(host(text).is_err(), "{text}");
        }
    }
}
