//! Whose host it is. Pure: stored claims, what Ingresses ask for, pins and the time in; owners and the next claims to store out.
//!
//! The law, first that applies:
//! 1. A pin (`signet.dev/hosts` on a Namespace) gives hosts to a namespace, whatever the age of anything; the most specific pin
//!    counts, and nobody else gets the host, even while its namespace does not ask for it.
//! 2. A namespace that claimed a host keeps it as long as it has an Ingress for it. So an Ingress that is older, and was changed
//!    to name the host, takes nothing away: only claims that nobody has yet go by age.
//! 3. After that for another [`KEPT`]: deleting an Ingress, or its namespace, does not hand its host to whoever is quickest.
//! 4. A host below a wildcard that another namespace claimed before is that one's.
//! 5. Else the oldest Ingress decides: creationTimestamp, then namespace and name.
//!
//! The other way round, a wildcard takes no host away that somebody else has: the more specific host wins.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use signet_http::model::HostPattern;

use super::objects::Pin;

/// What is stored, by host as it stands in a manifest.
pub(crate) type Claims = BTreeMap<String, Claim>;

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Claim {
    pub(crate) namespace: String,
    /// Unix seconds.
    pub(crate) since: i64,
    /// Unix seconds: since when its namespace has no Ingress for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<i64>,
}

/// An Ingress that asks for a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Wish<'a> {
    pub(crate) host: &'a HostPattern,
    pub(crate) namespace: &'a str,
    pub(crate) ingress: &'a str,
    /// Unix seconds; 0: unknown.
    pub(crate) created: i64,
}

/// Who has a host, and by which rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    pub(crate) namespace: String,
    pub(crate) by: By,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum By {
    Pin,
    /// Unix seconds.
    Claim {
        since: i64,
    },
    /// Its Ingress is gone; it is free from then on, Unix seconds.
    Kept {
        until: i64,
    },
    /// It has this wildcard.
    Wildcard(String),
    /// The oldest Ingress; not stored yet.
    Age,
}

/// What follows from one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Settled {
    /// Of every host that is asked for.
    pub(crate) owners: BTreeMap<String, Owner>,
    /// What is to be stored.
    pub(crate) claims: Claims,
    /// When something changes by itself, Unix seconds.
    pub(crate) due: Option<i64>,
}

/// `stored`: `None` where nothing is (a directory): then claims last as long as their Ingress, and go by age alone.
pub(crate) fn settle(stored: Option<&Claims>, wishes: &[Wish<'_>], pins: &[Pin], now: i64) -> Settled {
    let mut asked: BTreeMap<String, Asked<'_>> = BTreeMap::new();
    for wish in wishes {
        let of_host = asked.entry(wish.host.to_string());
        of_host.or_insert_with(|| Asked { host: wish.host, by: BTreeMap::new() }).take(wish);
    }
    let nothing = Claims::new();
    let mut law = Law {
        stored: stored.unwrap_or(&nothing),
        pins,
        now,
        ages: BTreeMap::new(),
        settled: Settled::default(),
    };
    // Wildcards first: hosts below them ask who has them.
    let (wide, narrow): (Vec<_>, Vec<_>) =
        asked.iter().partition(|(_, asked)| matches!(asked.host, HostPattern::Wildcard(..)));
    for (host, asked) in wide.into_iter().chain(narrow) {
        law.judge(host, asked);
    }
    law.keep(&asked);
    if stored.is_none() {
        (law.settled.claims, law.settled.due) = (Claims::new(), None);
    }
    law.settled
}

/// Who asks for one host.
struct Asked<'a> {
    host: &'a HostPattern,
    /// By namespace: its oldest Ingress.
    by: BTreeMap<&'a str, (i64, &'a str)>,
}

impl<'a> Asked<'a> {
    fn take(&mut self, wish: &Wish<'a>) {
        let age = (wish.created, wish.ingress);
        let oldest = self.by.entry(wish.namespace).or_insert(age);
        *oldest = age.min(*oldest);
    }

    /// The namespace with the oldest Ingress, and its age.
    fn oldest(&self, among: impl Fn(&str) -> bool) -> Option<(&'a str, i64)> {
        let candidates = self.by.iter().filter(|(namespace, _)| among(namespace));
        let oldest = candidates.min_by_key(|(namespace, (created, name))| (*created, **namespace, *name));
        oldest.map(|(namespace, (created, _))| (*namespace, *created))
    }
}

struct Law<'a> {
    stored: &'a Claims,
    pins: &'a [Pin],
    now: i64,
    /// Of wildcards that go by age: when the oldest Ingress was made.
    ages: BTreeMap<String, i64>,
    settled: Settled,
}

impl Law<'_> {
    fn judge(&mut self, host: &str, asked: &Asked<'_>) {
        let claim = self.stored.get(host);
        let pinned = pinned(self.pins, asked.host);
        let owner = match (claim, pinned.first()) {
            (claim, Some(first)) => {
                let among = |namespace: &str| pinned.contains(namespace);
                let holder =
                    claim.filter(|claim| among(&claim.namespace) && asked.by.contains_key(&*claim.namespace));
                let namespace = match holder {
                    Some(claim) => claim.namespace.as_str(),
                    None => asked.oldest(among).map_or(*first, |(namespace, _)| namespace),
                };
                Owner { namespace: namespace.to_owned(), by: By::Pin }
            }
            (Some(claim), None) if asked.by.contains_key(&*claim.namespace) => {
                Owner { namespace: claim.namespace.clone(), by: By::Claim { since: claim.since } }
            }
            (Some(claim), None) if self.end_of(host, claim) > self.now => {
                let until = self.end_of(host, claim);
                Owner { namespace: claim.namespace.clone(), by: By::Kept { until } }
            }
            (_, None) => {
                let Some((namespace, created)) = asked.oldest(|_| true) else { return };
                match self.above(asked.host, namespace, created) {
                    Some(owner) => owner,
                    None => {
                        self.ages.insert(host.to_owned(), created);
                        Owner { namespace: namespace.to_owned(), by: By::Age }
                    }
                }
            }
        };
        // What it does not ask for itself it need not claim; what it has by a wildcard, it has by that.
        if asked.by.contains_key(&*owner.namespace) && !matches!(owner.by, By::Wildcard(_)) {
            let since =
                claim.filter(|claim| claim.namespace == owner.namespace).map_or(self.now, |c| c.since);
            let claim = Claim { namespace: owner.namespace.clone(), since, lost: None };
            self.settled.claims.insert(host.to_owned(), claim);
        }
        self.settled.owners.insert(host.to_owned(), owner);
    }

    /// The other namespace that has the wildcard above a host, and had it before this Ingress came. Both by age: a host that
    /// nobody has claimed yet.
    fn above(&self, host: &HostPattern, namespace: &str, created: i64) -> Option<Owner> {
        let HostPattern::Exact(name) = host else { return None };
        let wildcard = format!("*.{}", name.as_str().split_once('.')?.1);
        let owner = self.settled.owners.get(&wildcard).cloned().or_else(|| {
            // Nobody asks for it any more, but it is kept.
            let claim =
                self.stored.get(&wildcard).filter(|claim| self.end_of(&wildcard, claim) > self.now)?;
            let until = self.end_of(&wildcard, claim);
            Some(Owner { namespace: claim.namespace.clone(), by: By::Kept { until } })
        })?;
        let is_before = match &owner.by {
            By::Pin | By::Claim { .. } | By::Kept { .. } => true,
            By::Age => self.ages.get(&wildcard).is_some_and(|age| *age < created),
            By::Wildcard(_) => false,
        };
        (owner.namespace != namespace && is_before)
            .then_some(Owner { namespace: owner.namespace, by: By::Wildcard(wildcard) })
    }

    /// When a claim whose Ingress is gone ends. "Every host" is nobody's name, and is not kept.
    fn end_of(&self, host: &str, claim: &Claim) -> i64 {
        match host {
            ANY => self.now,
            _ => claim.lost.unwrap_or(self.now) + KEPT,
        }
    }

    /// Claims of hosts that their namespace does not ask for now.
    fn keep(&mut self, asked: &BTreeMap<String, Asked<'_>>) {
        for (host, claim) in self.stored {
            if self.settled.claims.contains_key(host) {
                continue;
            }
            let holds = asked.get(host).is_some_and(|asked| asked.by.contains_key(&*claim.namespace));
            let claim = match holds {
                true => Claim { lost: None, ..claim.clone() }, // a pin gave it to another for now
                false => Claim { lost: Some(claim.lost.unwrap_or(self.now)), ..claim.clone() },
            };
            let end = (!holds).then(|| self.end_of(host, &claim));
            if end.is_some_and(|end| end <= self.now) {
                continue;
            }
            let due = [self.settled.due, end].into_iter().flatten().min();
            self.settled.due = due;
            self.settled.claims.insert(host.clone(), claim);
        }
    }
}

/// The namespaces that the most specific pin of `host` names; two only if both were given it.
pub(crate) fn pinned<'a>(pins: &'a [Pin], host: &HostPattern) -> BTreeSet<&'a str> {
    let covers = |pattern: &HostPattern| match (pattern, host) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => false,
        (HostPattern::Exact(_), _) => pattern == host,
        (HostPattern::Wildcard(..), HostPattern::Exact(name)) => pattern.matches(name.as_str()),
        // "*.a.b" of an Ingress is below "*.a.b" and "*.b" of a pin.
        (HostPattern::Wildcard(above, _), HostPattern::Wildcard(suffix, _)) => {
            above == suffix || pattern.matches(suffix.as_str())
        }
    };
    let weight = |pattern: &HostPattern| match pattern {
        HostPattern::Any => (0, 0),
        HostPattern::Wildcard(suffix, _) => (1, suffix.as_str().len()),
        HostPattern::Exact(_) => (2, 0),
    };
    let of_host = || pins.iter().filter(|pin| covers(&pin.pattern));
    let Some(most) = of_host().map(|pin| weight(&pin.pattern)).max() else { return BTreeSet::new() };
    of_host().filter(|pin| weight(&pin.pattern) == most).map(|pin| pin.namespace.as_str()).collect()
}

/// [`HostPattern::Any`], as it stands in a claim.
const ANY: &str = "*";
/// Seconds: a day. Long enough that a person sees that an Ingress went by mistake, short enough to give a host on.
pub(crate) const KEPT: i64 = 24 * 3600;

#[cfg(test)]
#[path = "claims/tests.rs"]
mod tests;
