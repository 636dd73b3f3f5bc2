//! When DNS is looked at for the names of a certificate, and what came of it. Before an order: what would have to fail costs none of the
//! authority's limits, and is told. Nothing here ends an order that is under way: a resolver's bad minute must not.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use signet_acme::{
    account,
    dns::Lookups,
    drive,
    issuer::Issuer,
    order::Kind,
    plan::Step,
    preflight::{self, Ca, Method, Published, Wanted as Question},
    transport::Web,
};
use tokio::time::timeout;

use super::{
    super::objects::Address,
    wanted::{Asked, Wanted},
};

/// What was seen for one certificate. Times are Unix seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) at: i64,
    /// Whom and how it was judged for.
    pub(super) of: Option<(Issuer, Kind)>,
    /// Why no order is made.
    pub(crate) holds: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// By id.
pub(crate) type Verdicts = BTreeMap<String, Verdict>;

/// Why one is held back by what was seen, or was not yet. `entry`: what is planned. An order that is under way goes on, and a renewal waits for
/// no look.
pub(crate) fn hold(
    asked: &Asked,
    verdict: Option<&Verdict>,
    entry: Option<&drive::Entry>,
    now: i64,
) -> Option<String> {
    let record = entry.map(|entry| &entry.record);
    if record.is_some_and(|record| record.order.is_some()) {
        return None;
    }
    match verdict.filter(|verdict| verdict.is_of(asked)) {
        None if record.is_some_and(|record| record.served(now).is_some()) => None,
        None => Some(LOOKING.into()),
        Some(verdict) if verdict.holds.is_empty() => None,
        Some(verdict) => Some(verdict.holds.join("; ")),
    }
}

impl Verdict {
    /// Nothing is known against it.
    fn new(asked: &Asked, at: i64) -> Self {
        Self { at, of: Some((asked.issuer.clone(), asked.kind)), ..Self::default() }
    }

    fn is_of(&self, asked: &Asked) -> bool {
        self.of.as_ref() == Some(&(asked.issuer.clone(), asked.kind))
    }
}

/// Those that are to be looked at now, who waited longest first. `entries`: what is planned.
pub(crate) fn due<'a>(
    wanted: &'a Wanted,
    verdicts: &Verdicts,
    entries: &BTreeMap<String, drive::Entry>,
    now: i64,
) -> Vec<(&'a String, &'a Asked)> {
    let is_due = |(id, asked): &(&String, &Asked)| {
        let Some(verdict) = verdicts.get(*id).filter(|verdict| verdict.is_of(asked)) else { return true };
        let entry = entries.get(*id);
        if entry.is_some_and(|entry| entry.record.order.is_some()) {
            return false;
        }
        let is_soon = entry
            .is_some_and(|entry| matches!(entry.next.step, Step::Ask { .. }) && entry.next.at - now < SOON);
        let age = match (verdict.holds.is_empty(), is_soon) {
            (false, _) => HELD,
            (true, true) => FRESH,
            (true, false) => STALE,
        };
        now - verdict.at >= age
    };
    let mut due: Vec<(&String, &Asked)> = wanted.certificates.iter().filter(is_due).collect();
    due.sort_by_key(|(id, _)| verdicts.get(*id).map(|verdict| verdict.at));
    due.truncate(MOST);
    due
}

/// Of those that wait for their first look, some seconds: nothing that anybody has to mend.
pub(crate) const LOOKING: &str = "DNS is being looked at first";

/// When [`due`] may say more, seconds from now at most.
pub(crate) const AGAIN: u64 = 10;

/// What DNS says of each, side by side and in bounded time; `told` hears of each as it comes.
pub(crate) async fn look(
    lookups: &Lookups,
    web: &Arc<Web>,
    asked: Vec<(String, Asked)>,
    accounts: &BTreeMap<String, String>,
    addresses: &[Address],
    now: i64,
    mut told: impl FnMut(String, Verdict),
) {
    let published = published(addresses);
    let each = |(id, asked): (String, Asked)| {
        let published = &published;
        async move {
            let looked = timeout(LONGEST, one(lookups, web, &asked, accounts, published, now)).await;
            let verdict = looked.unwrap_or_else(|_| Verdict {
                warnings: vec![format!("DNS could not be looked at within {LONGEST:?}")],
                ..Verdict::new(&asked, now)
            });
            (id, verdict)
        }
    };
    // Collected first: of a stream that makes them, rustc does not see that it is Send.
    let each: Vec<_> = asked.into_iter().map(each).collect();
    let mut each = stream::iter(each).buffer_unordered(AT_ONCE);
    while let Some((id, verdict)) = each.next().await {
        told(id, verdict);
    }
}

async fn one(
    lookups: &Lookups,
    web: &Arc<Web>,
    asked: &Asked,
    accounts: &BTreeMap<String, String>,
    published: &Published,
    now: i64,
) -> Verdict {
    let issuer = &asked.issuer;
    // One that cannot be asked now says so when it is ordered of.
    let identities = timeout(IDENTITIES, web.identities(issuer)).await.ok();
    let identities = identities.and_then(Result::ok).unwrap_or_default();
    let account = accounts.get(&account::id(&issuer.directory, issuer.email.as_deref()));
    let ca = || Ca {
        public: issuer.roots.is_none(),
        identities: &identities,
        account: account.map(String::as_str),
    };
    let mut verdict = Verdict::new(asked, now);
    let ask = |name| {
        let question = Question { name, method: method(asked.kind), ca: ca(), published };
        async move { preflight::judge(&question, &preflight::look(lookups, &question).await) }
    };
    let asked_for: Vec<_> = asked.names.iter().map(ask).collect();
    let mut answered = stream::iter(asked_for).buffered(NAMES_AT_ONCE);
    while let Some(judged) = answered.next().await {
        verdict.holds.extend(judged.holds.iter().map(ToString::to_string));
        verdict.warnings.extend(judged.warnings.iter().map(ToString::to_string));
    }
    verdict
}

fn method(kind: Kind) -> Method {
    match kind {
        Kind::Http01 => Method::Http01,
        Kind::TlsAlpn01 => Method::TlsAlpn01,
        Kind::Dns01 => Method::Dns01,
    }
}

fn published(addresses: &[Address]) -> Published {
    let ip = |address: &Address| match address {
        Address::Ip(ip) => Some(*ip),
        Address::Hostname(_) => None,
    };
    let name = |address: &Address| match address {
        Address::Ip(_) => None,
        Address::Hostname(name) => Some(name.clone()),
    };
    let all: Vec<IpAddr> = addresses.iter().filter_map(ip).collect();
    Published { addresses: all, names: addresses.iter().filter_map(name).collect() }
}

/// Seconds. Somebody mends DNS, and waits.
const HELD: i64 = 60;
/// Before an order that is so near, an older look than [`FRESH`] is repeated.
const SOON: i64 = 300;
const FRESH: i64 = 600;
/// For `cert why`, of those that have a certificate.
const STALE: i64 = 12 * 3600;
/// Certificates of one round, those side by side, and names of one.
const MOST: usize = 64;
const AT_ONCE: usize = 8;
const NAMES_AT_ONCE: usize = 4;
/// Of one certificate: a resolver that drops questions holds others back no longer, and no order.
const LONGEST: Duration = Duration::from_secs(30);
/// For an authority's name in CAA records.
const IDENTITIES: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "preflight/tests.rs"]
mod tests;
