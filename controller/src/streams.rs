//! Who is connected: counted, limited, and what each last rejected.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::resources::{Subscriber, Type};

/// The discovery streams that are open now.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<Subscriber, Open>>);

#[derive(Debug, Default)]
struct Open {
    streams: usize,
    nacks: BTreeMap<Type, String>,
}

impl Streams {
    /// A place for one more stream; `None` when this subscriber has [`MAX_STREAMS`].
    pub(crate) fn open(self: &Arc<Self>, who: &Subscriber) -> Option<Seat> {
        let mut all = self.lock();
        let open = all.entry(who.clone()).or_default();
        if open.streams >= MAX_STREAMS {
            return None;
        }
        open.streams += 1;
        Some(Seat { streams: Arc::clone(self), who: who.clone() })
    }

    pub(crate) fn is_connected(&self, who: &Subscriber) -> bool {
        self.lock().contains_key(who)
    }

    /// What `who` last rejected and has not accepted since.
    pub(crate) fn nacks(&self, who: &Subscriber) -> Vec<String> {
        self.lock().get(who).map(|open| open.nacks.values().cloned().collect()).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Subscriber, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Seat {
    streams: Arc<Streams>,
    who: Subscriber,
}

impl Seat {
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
            Some(open) if open.streams > 1 => open.streams -= 1,
            _ => drop(all.remove(&self.who)),
        }
    }
}

/// Of one identity at one address: its stream, the one before it that is not yet seen to be dead, and two to spare.
const MAX_STREAMS: usize = 4;
