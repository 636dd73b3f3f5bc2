//! One kind of object as a watch tells it: a complete list, then changes, then perhaps a new list. Pure, and right whatever the
//! order: an event that is older than what is known changes nothing.

use std::{collections::BTreeMap, sync::Arc};

use crate::source::Object;

/// (namespace, name); no namespace for cluster-scoped kinds.
pub(super) type Name = (String, String);

/// What a watch said of one object.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: Name,
    pub(super) uid: String,
    /// resourceVersion, which orders the objects of a kind (KEP-5504). `None` for one that is no number: taken as it comes.
    pub(super) version: Option<u64>,
    pub(super) object: Arc<Object>,
}

/// What a watch says.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// All there is, and nothing else, as of a version.
    List(Vec<Seen>, Option<u64>),
    /// New, or changed.
    Set(Seen),
    Deleted(Seen),
}

/// All objects of one kind.
#[derive(Debug, Default)]
pub(super) struct Store {
    known: BTreeMap<Name, Seen>,
    /// The versions at which objects were deleted since the last list, so that a late event raises none of them.
    gone: BTreeMap<Name, u64>,
    /// The last list's version: whatever is older is in it.
    listed: Option<u64>,
    synced: bool,
}

impl Store {
    /// Takes one event in; true when what is known has changed.
    pub(super) fn take(&mut self, event: Event) -> bool {
        match event {
            Event::List(all, version) => self.replace(all, version),
            Event::Set(seen) => self.set(seen),
            Event::Deleted(seen) => self.delete(&seen),
        }
    }

    /// Whether there was a list ever.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.known.values().map(|seen| &seen.object)
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// The new list is true even where it is older: the API server may have been restored from a backup.
    fn replace(&mut self, all: Vec<Seen>, version: Option<u64>) -> bool {
        let mut new: BTreeMap<Name, Seen> = all.into_iter().map(|seen| (seen.name.clone(), seen)).collect();
        let mut changed = !self.synced || new.len() != self.known.len();
        for (name, seen) in &mut new {
            match self.known.get(name) {
                Some(known) if known.object == seen.object => seen.object = Arc::clone(&known.object),
                _ => changed = true,
            }
        }
        self.gone.clear();
        (self.known, self.listed) = (new, version);
        self.synced = true;
        changed
    }

    fn set(&mut self, seen: Seen) -> bool {
        let known = self.known.get(&seen.name);
        let newest = known
            .and_then(|known| known.version)
            .or_else(|| self.gone.get(&seen.name).copied())
            .max(self.listed);
        if let (Some(version), Some(newest)) = (seen.version, newest)
            && version <= newest
        {
            return false;
        }
        self.gone.remove(&seen.name);
        let changed = known.is_none_or(|known| known.object != seen.object);
        self.known.insert(seen.name.clone(), seen);
        changed
    }

    fn delete(&mut self, seen: &Seen) -> bool {
        if seen.version.is_some() && seen.version <= self.listed {
            return false;
        }
        if let Some(known) = self.known.get(&seen.name) {
            let is_late = matches!((seen.version, known.version), (Some(seen), Some(known)) if seen < known);
            if is_late && known.uid != seen.uid {
                return false; // of an object that had the name before
            }
        }
        let known = self.known.remove(&seen.name);
        let newest = seen.version.max(known.as_ref().and_then(|known| known.version));
        if let Some(version) = newest {
            let gone = self.gone.entry(seen.name.clone()).or_default();
            *gone = version.max(*gone);
        }
        if self.gone.len() > MAX_GONE {
            let mut versions: Vec<u64> = self.gone.values().copied().collect();
            let (_, median, _) = versions.select_nth_unstable(MAX_GONE / 2);
            let median = *median;
            self.gone.retain(|_, version| *version > median);
        }
        known.is_some()
    }
}

/// Deleted objects whose late events are still known as late: some minutes of a busy cluster, and less than 1 MB.
const MAX_GONE: usize = 4096;

#[cfg(test)]
#[path = "store/tests.rs"]
mod tests;
