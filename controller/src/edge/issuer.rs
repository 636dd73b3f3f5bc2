//! The edge CA, as edge uses it: which hosts it is to certify, and a leaf for each, made when a host first asks and made anew long
//! before it ends. No file and no API server: `ca_file` and `ca_secret` bring the CA itself.
//!
//! Chosen, never detected: by `--edge-issuer local` for all Ingresses, or by an Ingress's own `signet.dev/edge-issuer`. Leaves live in
//! memory: each replica has its own, and one that starts anew makes them again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use signet_edge_ca::{EdgeCa, Suffix};
use signet_http::model::HostPattern;
use tracing::{info, warn};

use super::{
    alias,
    answers::EdgeCaAnswer,
    certificate::Checked,
    objects::{Ingress, Objects},
    translate::Options,
    words,
};

/// Who certifies hosts that ask for a certificate and bring none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum EdgeIssuer {
    /// Nobody: they wait
    #[default]
    None,
    /// The edge CA, for names below its suffixes
    Local,
}

/// What is known of the edge CA.
#[derive(Clone)]
pub(crate) enum Known {
    Here(Arc<EdgeCa>),
    /// Why there is none, or none now.
    Not(String),
    /// Nobody said whether there is one, and why; what was known before stays true.
    Unanswered(String),
}

/// The CA, and a leaf for each host.
pub(crate) struct LocalIssuer {
    known: Known,
    leaves: BTreeMap<String, Leaf>,
    /// Of `--edge-suffix` and those that every edge CA has.
    asked: Vec<Suffix>,
    /// Where the CA is kept, and how it is removed.
    place: &'static str,
}

struct Leaf {
    certificate: Option<Arc<Checked>>,
    /// Why there is none, or no newer one.
    fault: Option<String>,
    /// When the next one is made, Unix seconds.
    next: i64,
}

/// Whether the edge CA is to certify what this Ingress asks for.
pub(crate) fn is_chosen(ingress: &Ingress, options: &Options) -> bool {
    ingress.settings.issuer.unwrap_or(options.issuer) == EdgeIssuer::Local
}

/// The hosts that it is to certify, other names for them included. Whose they are is not asked: a leaf that nobody may have is shown
/// to nobody.
pub(crate) fn wanted(objects: &Objects, options: &Options) -> BTreeSet<String> {
    let chosen = objects.ingresses.values().filter(|ingress| is_chosen(ingress, options));
    let served = chosen.filter(|ingress| ingress.settings.refused.is_none());
    let hosts = served.flat_map(Ingress::https_hosts);
    let both = |host: HostPattern| [alias::name(&host, options), Some(host)];
    hosts.flat_map(both).flatten().map(|host| host.to_string()).collect()
}

impl LocalIssuer {
    /// `place`: where the CA would be.
    pub(crate) fn new(more: &[Suffix], place: &'static str) -> Self {
        let asked = Suffix::always().into_iter().chain(more.iter().cloned()).collect();
        let known = Known::Not(format!("{place} is not read yet"));
        Self { known, leaves: BTreeMap::new(), asked, place }
    }

    /// A CA that was here stays, whatever becomes of the place where it is kept; only another one takes its place. `now`: Unix seconds.
    pub(crate) fn learn(&mut self, known: Known, now: i64) {
        match (&self.known, &known) {
            (Known::Here(held), Known::Here(new)) if held.certificate() == new.certificate() => return,
            (Known::Not(held), Known::Not(new)) if held == new => return, // asked again, and told already
            (Known::Here(_), Known::Not(why) | Known::Unanswered(why)) => {
                return warn!("{why}; the edge CA that was known stays in use");
            }
            (_, Known::Here(ca)) => {
                info!(id = ca.id(), "the edge CA is {}", self.place);
                self.leaves.clear();
            }
            (_, Known::Not(_) | Known::Unanswered(_)) => {}
        }
        self.known = known;
        if let Some(why) = self.fault(now) {
            warn!("{why}");
        }
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self.known, Known::Here(_))
    }

    /// Makes the leaves that are missing or due, and forgets those that nobody wants. `now`: Unix seconds.
    pub(crate) fn prepare(&mut self, wanted: &BTreeSet<String>, now: i64) {
        self.leaves.retain(|host, _| wanted.contains(host));
        let Known::Here(ca) = &self.known else { return };
        for host in wanted.iter().filter(|host| ca.covers(host)) {
            let held = self.leaves.remove(host).filter(|leaf| leaf.next > now || leaf.certificate.is_some());
            let leaf = match held {
                // A clock that was set back makes anew what is not valid yet.
                Some(leaf) if leaf.next > now && leaf.is_usable(now) => leaf,
                held => Leaf::make(ca, host, now, held.and_then(|leaf| leaf.certificate)),
            };
            self.leaves.insert(host.clone(), leaf);
        }
    }

    /// What a host is served with. Errors: why it has none, and what to do.
    pub(crate) fn pick(&self, host: &HostPattern, now: i64) -> Result<Arc<Checked>, String> {
        let ca = match &self.known {
            Known::Here(ca) => ca,
            Known::Not(why) | Known::Unanswered(why) => return Err(format!("there is no edge CA: {why}")),
        };
        let name = host.to_string();
        if !ca.covers(&name) {
            return Err(uncovered(ca, &name));
        }
        let leaf = self.leaves.get(&name);
        let certificate = leaf.and_then(|leaf| leaf.certificate.clone()).filter(|leaf| leaf.is_valid(now));
        certificate.ok_or_else(|| {
            let fault = leaf.and_then(|leaf| leaf.fault.as_deref());
            format!(
                "the edge CA has not certified it yet{}",
                fault.map(|f| format!(": {f}")).unwrap_or_default()
            )
        })
    }

    /// When a leaf is to be made anew next, or the CA begins to be about to end, or ends; Unix seconds.
    pub(crate) fn due(&self, now: i64) -> Option<i64> {
        let end = match &self.known {
            Known::Here(ca) => Some(ca.not_after()),
            Known::Not(_) | Known::Unanswered(_) => None,
        };
        let said = end.into_iter().flat_map(|end| [end - SOON, end + 1]).filter(|at| *at > now);
        self.leaves.values().map(|leaf| leaf.next).chain(said).min()
    }

    pub(crate) fn answer(&self) -> Option<EdgeCaAnswer> {
        let Known::Here(ca) = &self.known else { return None };
        Some(EdgeCaAnswer {
            id: ca.id(),
            pem: ca.pem(),
            suffixes: ca.suffixes().iter().map(ToString::to_string).collect(),
            not_after: words::time(ca.not_after()),
        })
    }

    /// What is wrong with it, though somebody wants it. `now`: Unix seconds.
    pub(crate) fn fault(&self, now: i64) -> Option<String> {
        let ca = match &self.known {
            Known::Here(ca) => ca,
            Known::Not(why) | Known::Unanswered(why) => return Some(why.clone()),
        };
        if ca.not_after() - now < SOON {
            let end = words::time(ca.not_after());
            let ends = if ca.not_after() < now { "expired" } else { "ends" };
            return Some(format!(
                "the edge CA {ends} at {end}, and certifies no host beyond that; for the next one remove {}, and install the new root \
                 with: signet trust install",
                self.place
            ));
        }
        let lacks =
            |suffix: &&Suffix| !ca.suffixes().iter().any(|has| has == *suffix || has.covers(suffix.as_str()));
        let lacking: Vec<&str> = self.asked.iter().filter(lacks).map(Suffix::as_str).collect();
        (!lacking.is_empty()).then(|| {
            format!(
                "the edge CA was made without {}; for one with it remove {}, and install the new root with: signet trust install",
                lacking.join(", "),
                self.place
            )
        })
    }
}

/// Two causes, and two things to do about them.
fn uncovered(ca: &EdgeCa, name: &str) -> String {
    let is_top = name.strip_prefix("*.").is_some_and(|rest| !rest.contains('.'));
    if is_top {
        return format!(
            "clients believe no wildcard directly below a top-level name such as {name}; name hosts instead"
        );
    }
    let suffixes: Vec<&str> = ca.suffixes().iter().map(Suffix::as_str).collect();
    format!(
        "{name} is below none of the edge CA's suffixes ({}): name a Secret with its certificate in spec.tls[].secretName, or, if it \
         is yours, make an edge CA for it with --edge-suffix",
        suffixes.join(", ")
    )
}

impl Leaf {
    /// Not so: it is for another time. One that could not be made is tried again when it is due.
    fn is_usable(&self, now: i64) -> bool {
        self.certificate.as_ref().is_none_or(|certificate| certificate.is_valid(now))
    }

    fn make(ca: &EdgeCa, host: &str, now: i64, held: Option<Arc<Checked>>) -> Self {
        match ca.issue(&[host], now) {
            Ok(issued) => {
                // At two thirds of its life; at the end of the root's own, not without pause.
                let next = now + ((issued.not_after - now) * 2 / 3).max(PAUSE);
                let checked = Checked::of_edge_ca(issued, host);
                info!(host, again = words::time(next), "the edge CA certified a host");
                Self { certificate: Some(Arc::new(checked)), fault: None, next }
            }
            Err(why) => {
                warn!(host, %why, "the edge CA cannot certify a host");
                Self { certificate: held, fault: Some(why.to_string()), next: now + PAUSE }
            }
        }
    }
}

/// Seconds between two tries.
const PAUSE: i64 = 60;
/// Seconds before its end from which a CA is about to end: who believes it has to install the next one by hand. As `signet check`.
const SOON: i64 = 30 * 86_400;

#[cfg(test)]
#[path = "issuer/tests.rs"]
mod tests;
