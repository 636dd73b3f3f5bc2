//! What is kept by host pattern, found by host: one hash look-up for an exact one, and one for each label of the host.

use std::collections::HashMap;

use crate::model::{HostPattern, Hostname, Labels};

pub(super) struct Hosts<T> {
    exact: HashMap<Hostname, T>,
    /// By the suffix behind `*.`.
    one_label: HashMap<Hostname, T>,
    any_labels: HashMap<Hostname, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), one_label: HashMap::new(), any_labels: HashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    /// What is kept for `pattern`, made if there is nothing yet.
    pub(super) fn entry(&mut self, pattern: &HostPattern, make: impl FnOnce() -> T) -> &mut T {
        match pattern {
            HostPattern::Any => self.any.get_or_insert_with(make),
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_insert_with(make),
            HostPattern::Wildcard(suffix, Labels::One) => {
                self.one_label.entry(suffix.clone()).or_insert_with(make)
            }
            HostPattern::Wildcard(suffix, Labels::Any) => {
                self.any_labels.entry(suffix.clone()).or_insert_with(make)
            }
        }
    }

    /// What is kept for the most specific pattern that matches.
    pub(super) fn find(&self, host: &str) -> Option<&T> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if !self.one_label.is_empty() || !self.any_labels.is_empty() {
            let mut suffix = host;
            let mut is_first = true; // one label stands before the suffix
            // An empty first label is none: ".a.b" is not a host of "*.a.b".
            while let Some((label, rest)) = suffix.split_once('.') {
                if is_first && label.is_empty() {
                    break;
                }
                let found = self.one_label.get(rest).filter(|_| is_first);
                if let Some(found) = found.or_else(|| self.any_labels.get(rest)) {
                    return Some(found);
                }
                (suffix, is_first) = (rest, false);
            }
        }
        self.any.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let named = self.exact.values().chain(self.one_label.values()).chain(self.any_labels.values());
        named.chain(&self.any)
    }

    pub(super) fn for_each(&mut self, change: impl FnMut(&mut T)) {
        let named = self.exact.values_mut().chain(self.one_label.values_mut());
        named.chain(self.any_labels.values_mut()).chain(&mut self.any).for_each(change);
    }
}
