//! Secrets as they are known now: what each holds, what was good before, and why it is not. Pure.
//!
//! The last good certificate stays: one that is replaced by something that we cannot serve, deleted, or no longer readable, is
//! served until it expires. One that is replaced by a good one for fewer names stays for those that the new one lacks.

use std::{collections::BTreeMap, sync::Arc};

use rustls::crypto::CryptoProvider;
use signet_http::model::HostPattern;

use super::{
    certificate::{self, Checked, Unusable},
    objects::Name,
};
use crate::source::tls_secret::TlsSecret;

/// All Secrets that some Ingress of ours names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Secrets {
    known: BTreeMap<Name, Known>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    /// What is wrong with it now.
    trouble: Option<Trouble>,
    /// The newest first; the second is the last one with a name that the first lacks.
    good: Vec<Arc<Checked>>,
}

/// Why a Secret, as it is now, gives us no certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    Absent,
    /// 403.
    NoRight,
    /// The API server's words.
    Unanswered(String),
    Unusable(Unusable),
}

/// What to serve a host with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pick {
    pub(crate) certificate: Option<Arc<Checked>>,
    /// Why there is none, or why it is not what the Secret holds now.
    pub(crate) why: Option<Why>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Why {
    NotRead,
    Trouble(Trouble),
    /// It is for these names.
    OtherNames(Vec<HostPattern>),
    /// Unix seconds.
    Expired(i64),
    NotYet(i64),
}

impl Pick {
    /// It has a certificate, and nothing is known against it: who asked in vain knows nothing.
    pub(crate) fn is_current(&self) -> bool {
        let is_fine = matches!(self.why, None | Some(Why::Trouble(Trouble::Unanswered(_))));
        is_fine && self.certificate.is_some()
    }
}

impl Secrets {
    /// What a Secret holds now. True when something is new.
    pub(crate) fn found(&mut self, name: &Name, secret: &TlsSecret, provider: &CryptoProvider) -> bool {
        match certificate::check(secret, provider) {
            Ok(checked) => {
                let known = self.known.entry(name.clone()).or_default();
                let is_same = known.trouble.is_none() && known.good.first() == Some(&checked);
                known.trouble = None;
                known.take(checked);
                !is_same
            }
            Err(why) => self.trouble(name, Trouble::Unusable(why)),
        }
    }

    /// True when it is another trouble than before.
    pub(crate) fn trouble(&mut self, name: &Name, trouble: Trouble) -> bool {
        let known = self.known.entry(name.clone()).or_default();
        let is_new = known.trouble.as_ref() != Some(&trouble);
        known.trouble = Some(trouble);
        is_new
    }

    /// Whether something is known of it, even if only that there is none.
    pub(crate) fn is_answered(&self, name: &Name) -> bool {
        self.known.get(name).is_some_and(|known| !matches!(known.trouble, Some(Trouble::Unanswered(_))))
    }

    /// Not there, or not read yet.
    pub(crate) fn is_absent(&self, name: &Name) -> bool {
        self.known.get(name).is_none_or(|known| known.trouble == Some(Trouble::Absent))
    }

    /// Forgets those that no Ingress names any more, keys included. True when there were any.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&Name) -> bool) -> bool {
        let before = self.known.len();
        self.known.retain(|name, _| is_wanted(name));
        before != self.known.len()
    }

    pub(crate) fn pick(&self, name: &Name, host: &HostPattern, now: i64) -> Pick {
        let Some(known) = self.known.get(name) else {
            return Pick { certificate: None, why: Some(Why::NotRead) };
        };
        let fits = |checked: &&Arc<Checked>| checked.covers(host) && checked.is_valid(now);
        let certificate = known.good.iter().find(fits).cloned();
        Pick { why: known.why(host, now), certificate }
    }

    /// The newest one of a Secret, for whatever host.
    pub(crate) fn newest(&self, name: &Name, now: i64) -> Option<Arc<Checked>> {
        self.known.get(name)?.good.iter().find(|checked| checked.is_valid(now)).cloned()
    }

    /// When one of them begins or ends to be valid next, Unix seconds.
    pub(crate) fn due(&self, now: i64) -> Option<i64> {
        let all = self.known.values().flat_map(|known| &known.good);
        all.flat_map(|checked| [checked.not_before, checked.not_after + 1]).filter(|at| *at > now).min()
    }
}

impl Known {
    fn take(&mut self, new: Arc<Checked>) {
        let lacks = |old: &Arc<Checked>| old.names.iter().any(|name| !new.covers(name));
        let old = self.good.iter().find(|old| ***old != *new && lacks(old)).cloned();
        self.good = [Some(new), old].into_iter().flatten().collect();
    }

    /// Why what the Secret holds now is not what this host is served with.
    fn why(&self, host: &HostPattern, now: i64) -> Option<Why> {
        if let Some(trouble) = &self.trouble {
            return Some(Why::Trouble(trouble.clone()));
        }
        let newest = self.good.first()?;
        match newest {
            newest if !newest.covers(host) => Some(Why::OtherNames(newest.names.clone())),
            newest if now > newest.not_after => Some(Why::Expired(newest.not_after)),
            newest if now < newest.not_before => Some(Why::NotYet(newest.not_before)),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "known/tests.rs"]
mod tests;
