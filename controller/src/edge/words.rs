//! Sentences about owners and certificates, for Events, pages and the CLI. Pure.

use std::fmt;

use signet_core::{clock, pod::HOSTS};
use signet_http::model::HostPattern;

use super::{
    claims::{By, Owner},
    known::{Trouble, Why},
    objects::{Address, Name},
};

/// RFC 3339, of Unix seconds.
pub(crate) fn time(at: i64) -> String {
    clock::rfc3339(at).unwrap_or_else(|| "?".into())
}

/// A host as it is typed into a shell: one with a wildcard in quotes.
pub(crate) fn typed(host: &str) -> String {
    if host.contains('*') { format!("'{host}'") } else { host.to_owned() }
}

pub(crate) fn by(by: &By) -> &'static str {
    match by {
        By::Pin => "pin",
        By::Claim { .. } => "claim",
        By::Kept { .. } => "kept",
        By::Wildcard(_) => "wildcard",
        By::Age => "age",
    }
}

pub(crate) fn why_owner(owner: &Owner) -> String {
    let namespace = &owner.namespace;
    match &owner.by {
        By::Pin => format!("{HOSTS} gives it to namespace {namespace}"),
        By::Claim { since } => format!("namespace {namespace} has it since {}", time(*since)),
        By::Kept { until } => {
            format!(
                "namespace {namespace} had it and no Ingress of it does; kept for it until {}",
                time(*until)
            )
        }
        By::Wildcard(wildcard) => format!("namespace {namespace} has {wildcard}"),
        By::Age => format!("the oldest Ingress for it is of namespace {namespace}"),
    }
}

/// Why `namespace` does not get a host, and what to do.
pub(crate) fn why_taken(host: &HostPattern, owner: &Owner, namespace: &str) -> String {
    let what = match host {
        HostPattern::Any => "every host that no rule names".to_owned(),
        host => host.to_string(),
    };
    let next = match host {
        // No pin can say "every host".
        HostPattern::Any => "name hosts in this Ingress".to_owned(),
        host => format!(
            "if it is to be this namespace's, an administrator can say so: kubectl annotate namespace {namespace} {HOSTS}={host}"
        ),
    };
    format!(
        "{what} is not this namespace's: {}. No route and no certificate is served for it; {next}",
        why_owner(owner)
    )
}

/// Why a host has no certificate, or not the Secret's newest one.
pub(crate) fn why_certificate((namespace, secret): &Name, host: &HostPattern, why: &Why) -> String {
    let place = format!("Secret {namespace}/{secret}");
    match why {
        Why::NotRead => format!("{place} is being read"),
        Why::Trouble(Trouble::Absent) => format!("there is no {place}"),
        Why::Trouble(Trouble::NoRight) => format!(
            "{place} may not be read; whoever administers namespace {namespace} can allow it: signet allow {namespace} | kubectl apply -f -"
        ),
        Why::Trouble(Trouble::Unanswered(words)) => format!("{place} cannot be read: {words}"),
        Why::Trouble(Trouble::Unusable(why)) => format!("{place}: {why}"),
        Why::OtherNames(names) => {
            let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
            format!("the certificate in {place} is for {}, not for {host}", shown.join(", "))
        }
        Why::Expired(at) => format!("the certificate in {place} expired at {}", time(*at)),
        Why::NotYet(at) => format!("the certificate in {place} is valid from {} on", time(*at)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Hostname(name) => f.write_str(name),
        }
    }
}

/// Names that a sentence repeats.
const SHOWN: usize = 5;
