//! Certificates as every replica knows them: what the one that orders has stored, followed. Pure.
//!
//! The last good certificate stays: whatever becomes of its record, it is presented until it ends, or a newer one of the same names is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls::crypto::CryptoProvider;
use signet_acme::{
    issuer::Issuer,
    record::{Held, Record},
};
use signet_http::model::HostPattern;
use zeroize::Zeroizing;

use super::{
    super::{
        certificate::{self, Checked},
        claims::Owner,
    },
    issuers::Issuers,
    wanted::Asked,
};
use crate::source::tls_secret::TlsSecret;

/// What is known beside objects and Secrets of users.
#[derive(Clone, Debug, Default)]
pub(crate) struct Authorities {
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) records: Records,
    pub(crate) read: Read,
    /// Why nothing is ordered, by id; only the replica that orders knows.
    pub(crate) held_back: BTreeMap<String, String>,
}

/// What was read once. Before all of it was, nothing is ordered: another issuer, or credentials that are not there, end an order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Read {
    pub(crate) records: bool,
    pub(crate) issuers: bool,
    pub(crate) credentials: bool,
}

impl Read {
    pub(crate) const ALL: Self = Self { records: true, issuers: true, credentials: true };
}

/// By id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    kept: BTreeMap<String, Kept>,
    broken: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// `None`: it is gone, and what it held is presented on.
    pub(crate) record: Option<Arc<Record>>,
    pub(crate) certificate: Option<Arc<Checked>>,
    /// The one before it, until that one is valid: an authority's clock may be ahead of ours.
    before: Option<Arc<Checked>>,
}

impl Kept {
    /// The best of those that are valid.
    fn valid(&self, now: i64) -> Option<&Arc<Checked>> {
        [&self.certificate, &self.before].into_iter().flatten().find(|held| held.is_valid(now))
    }
}

impl Records {
    /// A record as it is now. True when something is new.
    pub(crate) fn take(&mut self, record: Arc<Record>, provider: &CryptoProvider) -> bool {
        let id = record.id();
        let was_broken = self.broken.remove(&id).is_some();
        let before = self.kept.get(&id);
        if before.and_then(|kept| kept.record.as_ref()) == Some(&record) {
            return was_broken;
        }
        let chain = |kept: &Kept| Some(kept.record.as_ref()?.held.as_ref()?.chain.clone());
        let is_same = before.and_then(chain) == record.held.as_ref().map(|held| held.chain.clone());
        let (held, older) =
            before.map(|kept| (kept.certificate.clone(), kept.before.clone())).unwrap_or_default();
        let new = record.held.as_ref().filter(|_| !(is_same && held.is_some()));
        let (certificate, before) = match new.and_then(|new| check(&id, new, provider)) {
            Some(new) => (Some(new), held),
            None => (held, older),
        };
        self.kept.insert(id, Kept { record: Some(record), certificate, before });
        true
    }

    /// These are all that there are, and those that are not understood, with why. True when something is new.
    pub(crate) fn are<'r>(
        &mut self,
        records: impl Iterator<Item = &'r Arc<Record>> + Clone,
        broken: &[(String, String)],
        provider: &CryptoProvider,
    ) -> bool {
        let mut is_new = false;
        let there: BTreeSet<String> = records
            .clone()
            .map(|record| record.id())
            .chain(broken.iter().map(|(id, _)| id.clone()))
            .collect();
        for id in self.ids().iter().filter(|id| !there.contains(*id)) {
            is_new |= self.gone(id);
        }
        for record in records {
            is_new |= self.take(Arc::clone(record), provider);
        }
        for (id, why) in broken {
            is_new |= self.broke(id, why);
        }
        is_new
    }

    /// There is no such record any more.
    pub(crate) fn gone(&mut self, id: &str) -> bool {
        let was_broken = self.broken.remove(id).is_some();
        let Some(kept) = self.kept.get_mut(id) else { return was_broken };
        let had_record = kept.record.take().is_some();
        if kept.certificate.is_none() {
            self.kept.remove(id);
        }
        had_record || was_broken
    }

    /// It is there, and not understood.
    pub(crate) fn broke(&mut self, id: &str, why: &str) -> bool {
        self.broken.insert(id.to_owned(), why.to_owned()).as_deref() != Some(why)
    }

    /// Ids of records, whatever their state.
    pub(crate) fn ids(&self) -> Vec<String> {
        let of_record = self.kept.iter().filter(|(_, kept)| kept.record.is_some()).map(|(id, _)| id);
        let mut ids: Vec<String> = of_record.chain(self.broken.keys()).cloned().collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Forgets what is gone and has ended, and what was replaced; keys are wiped. `now`: Unix seconds.
    pub(crate) fn forget(&mut self, now: i64) {
        for kept in self.kept.values_mut() {
            if kept.certificate.as_ref().is_some_and(|held| held.not_before <= now) {
                kept.before = None;
            }
        }
        let is_over = |kept: &Kept| {
            kept.record.is_none() && kept.certificate.as_ref().is_none_or(|held| held.not_after < now)
        };
        self.kept.retain(|_, kept| !is_over(kept));
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Record> {
        self.kept.get(id)?.record.as_deref()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, &Arc<Record>)> {
        self.kept.iter().filter_map(|(id, kept)| Some((id, kept.record.as_ref()?)))
    }

    pub(crate) fn broken(&self) -> &BTreeMap<String, String> {
        &self.broken
    }

    /// The one of this id, if it is for the host and valid.
    pub(crate) fn of(&self, id: &str, host: &HostPattern, now: i64) -> Option<Arc<Checked>> {
        let held = self.kept.get(id)?.valid(now)?;
        Some(Arc::clone(held)).filter(|held| held.covers(host))
    }

    /// Any that is for the host, the one that ends last: what was ordered with other hosts in the same entry is good until it ends. Never
    /// one that has the name of a host of another namespace in it.
    pub(crate) fn any(
        &self,
        host: &HostPattern,
        namespace: &str,
        owners: &BTreeMap<String, Owner>,
        now: i64,
    ) -> Option<(String, Arc<Checked>)> {
        let is_foreign = |name: &HostPattern| {
            owners.get(&name.to_string()).is_some_and(|owner| owner.namespace != namespace)
        };
        let fits = |held: &&Arc<Checked>| held.covers(host) && !held.names.iter().any(is_foreign);
        let all = self.kept.iter().filter_map(|(id, kept)| Some((id, kept.valid(now)?)));
        let best = all.filter(|(_, held)| fits(held)).max_by_key(|(_, held)| held.not_after);
        best.map(|(id, held)| (id.clone(), Arc::clone(held)))
    }

    /// When one of them begins, ends or becomes overdue next, Unix seconds.
    pub(crate) fn due(&self, now: i64) -> Option<i64> {
        let of_certificates = self.kept.values().filter_map(|kept| kept.certificate.as_ref());
        let times = of_certificates.flat_map(|held| {
            let life = held.not_after - held.not_before;
            [
                held.not_before,
                held.not_after + 1,
                held.not_after - life / 3 + 1,
                held.not_after - life / 2 + 1,
            ]
        });
        times.filter(|at| *at > now).min()
    }
}

impl Authorities {
    /// Whether what this directory certifies is believed by no browser.
    pub(crate) fn is_staging(&self, directory: &str) -> bool {
        let is_of = |issuer: &Issuer| issuer.directory == directory;
        let mut known = self.issuers.all().filter(|entry| entry.issuer.as_ref().is_ok_and(is_of)).peekable();
        let is_named = known.peek().is_some() && known.all(|entry| entry.is_staging());
        directory == signet_acme::issuer::LETS_ENCRYPT_STAGING || is_named
    }

    /// Why a certificate is not there, or not renewed, as far as this replica knows; `None`: it is under way.
    pub(crate) fn trouble(&self, id: &str, asked: &Asked) -> Option<String> {
        if let Some(why) = self.records.broken.get(id) {
            return Some(format!("Secret signet-edge/{id}, which holds it, cannot be used: {why}"));
        }
        if let Some(why) = self.held_back.get(id) {
            return Some(format!("nothing is ordered of {}: {why}", asked.entry.name));
        }
        let record = self.records.get(id)?;
        if let Some(failure) = record.failures.last() {
            return Some(format!("the last order of {} failed: {}", asked.entry.name, failure.problem));
        }
        let trouble = record.trouble.as_ref()?;
        Some(format!("ordering of {} does not go on: {}", asked.entry.name, trouble.problem))
    }
}

/// What is presented of a record. What the authority returned was looked at before it was stored; whoever wrote into the Secret since then
/// may have broken it.
fn check(id: &str, held: &Held, provider: &CryptoProvider) -> Option<Arc<Checked>> {
    let secret = TlsSecret {
        namespace: String::new(),
        name: id.to_owned(),
        r#type: "kubernetes.io/tls".into(),
        chain: held.chain.clone().into_bytes(),
        key: Zeroizing::new(held.key.expose().as_bytes().to_vec()),
    };
    match certificate::check(&secret, provider) {
        Ok(checked) => Some(checked),
        Err(why) => {
            tracing::error!(record = id, %why, "a stored certificate cannot be served; the last good one is");
            None
        }
    }
}

#[cfg(test)]
#[path = "records/tests.rs"]
mod tests;
