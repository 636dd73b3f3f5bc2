//! Who is connected: counted, limited, what each asked for and last rejected.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    resources::{Subscriber, Type},
    subscriptions::{Held, Subscriptions},
};

/// The discovery streams that are open now.
#[derive(Debug)]
pub(crate) struct Streams {
    served: &'static [Type],
    open: Mutex<HashMap<Subscriber, Open>>,
}

#[derive(Debug, Default)]
struct Open {
    streams: Vec<Arc<Mutex<Subscriptions>>>,
    nacks: BTreeMap<Type, String>,
}

impl Streams {
    /// Of a process that serves these types.
    pub(crate) fn new(served: &'static [Type]) -> Self {
        Self { served, open: Mutex::default() }
    }

    /// A place for one more stream; `None` when this subscriber has [`MAX_STREAMS`].
    pub(crate) fn open(self: &Arc<Self>, who: &Subscriber) -> Option<Seat> {
        let mut all = self.lock();
        let open = all.entry(who.clone()).or_default();
        if open.streams.len() >= MAX_STREAMS {
            return None;
        }
        let subscriptions = Arc::new(Mutex::new(Subscriptions::new(self.served)));
        open.streams.push(Arc::clone(&subscriptions));
        Some(Seat { streams: Arc::clone(self), who: who.clone(), subscriptions })
    }

    /// The names of `kind` that `who` asks for, and what it was sent of each; of its newest stream.
    pub(crate) fn held(&self, who: &Subscriber, kind: Type) -> BTreeMap<Arc<str>, Held> {
        let newest = self.lock().get(who).and_then(|open| open.streams.last().cloned());
        let Some(newest) = newest else { return BTreeMap::new() };
        let subscriptions = newest.lock().unwrap_or_else(PoisonError::into_inner);
        subscriptions.held(kind).map(|(name, held)| (Arc::clone(name), held.clone())).collect()
    }

    pub(crate) fn is_connected(&self, who: &Subscriber) -> bool {
        self.lock().contains_key(who)
    }

    /// What `who` last rejected and has not accepted since.
    pub(crate) fn nacks(&self, who: &Subscriber) -> Vec<String> {
        self.lock().get(who).map(|open| open.nacks.values().cloned().collect()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subscriber, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Seat {
    streams: Arc<Streams>,
    who: Subscriber,
    subscriptions: Arc<Mutex<Subscriptions>>,
}

impl Seat {
    /// What this stream asks for. Its task alone changes it; the lock is for who looks.
    pub(crate) fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps (`Some`) or forgets (`None`) what was rejected of a type.
    pub(crate) fn nack(&self, kind: Type, words: Option<String>) {
        if let Some(open) = self.streams.lock().get_mut(&self.who) {
            match words {
                Some(words) => drop(open.nacks.insert(kind, words)),
                None => drop(open.nacks.remove(&kind)),
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.streams.lock();
        match all.get_mut(&self.who) {
            Some(open) if open.streams.len() > 1 => {
                open.streams.retain(|held| !Arc::ptr_eq(held, &self.subscriptions));
            }
            _ => drop(all.remove(&self.who)),
        }
    }
}

/// Of one identity at one address: its stream, the one before it that is not yet seen to be dead, and two to spare.
const MAX_STREAMS: usize = 4;
