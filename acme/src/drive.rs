//! Plans for all records and takes their steps, side by side, while it is this process's turn (the holder of a Lease, or of a directory's
//! lock). Dropped anywhere it leaves what a kill -9 would, which is what stores and [`crate::plan`] are made for.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::watch, time::sleep};

use crate::{
    names::NameSet,
    outcome::Outcome,
    plan::{Plan, Step, Tellings, Wish, plan},
    record::Record,
    solver::Solver,
    steps::{Hands, advance},
    store::{Store, StoreError, Stored, Version},
};

/// What is wanted now, whole.
pub type Wishes = BTreeMap<NameSet, Wish>;

/// Everything that is known, whole: what is served, and what `signet cert` shows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By the record's id.
    pub entries: BTreeMap<String, Entry>,
    /// Records that cannot be read, by id, and why: their names get no certificate.
    pub broken: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub record: Arc<Record>,
    pub wish: Option<Wish>,
    /// What is done next, and when.
    pub next: Plan,
    /// A step is being taken.
    pub is_busy: bool,
}

/// A step was taken: for logs, metrics and Events.
#[derive(Debug)]
pub struct Happened<'a> {
    pub id: &'a str,
    pub step: Step,
    pub outcome: &'a Outcome,
    /// As it is now stored; `None`: deleted.
    pub record: Option<&'a Record>,
    pub wish: Option<&'a Wish>,
}

/// Drives until it is dropped. `published` has the newest snapshot after every change; `happened` is told of every step.
/// Errors: the store could not be read at the start.
pub async fn drive<S: Store, V: Solver>(
    hands: &Hands<S, V>,
    mut wishes: watch::Receiver<Arc<Wishes>>,
    published: &watch::Sender<Arc<Snapshot>>,
    mut happened: impl FnMut(&Happened<'_>) + Send,
) -> Result<std::convert::Infallible, StoreError> {
    let mut desk = Desk::load(hands).await?;
    let mut running: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
    loop {
        let wanted = Arc::clone(&wishes.borrow_and_update());
        desk.create(hands, &wanted).await;
        let wake = desk.start(hands, &wanted, running.len());
        for step in wake.due {
            running.push(step);
        }
        published.send_replace(Arc::new(desk.snapshot(hands, &wanted)));
        tokio::select! {
            Some(done) = running.next() => {
                desk.end(hands, done, &mut happened).await;
                while let Some(Some(done)) = running.next().now_or_never() {
                    desk.end(hands, done, &mut happened).await;
                }
            }
            changed = wishes.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await; // nobody will wish for anything again
                }
            }
            () = sleep(wake.after) => {}
        }
    }
}

/// A step that was taken.
struct Done {
    id: String,
    step: Step,
    wish: Option<Wish>,
    came: Result<(Option<Stored<Record>>, Outcome), StoreError>,
}

struct Wake<'h> {
    due: Vec<BoxFuture<'h, Done>>,
    after: Duration,
}

/// All records, and which of them are being worked on.
struct Desk {
    records: HashMap<String, Known>,
    broken: Vec<(String, String)>,
    busy: HashSet<String>,
    /// Names that the steps under way are about.
    names: HashSet<String>,
    /// Records that the store failed with, and until when they are let alone. Unix seconds.
    resting: HashMap<String, i64>,
}

/// As it is stored; snapshots share it.
struct Known {
    record: Arc<Record>,
    version: Version,
}

impl From<Stored<Record>> for Known {
    fn from(Stored { value, version }: Stored<Record>) -> Self {
        Self { record: Arc::new(value), version }
    }
}

impl Desk {
    async fn load<S: Store, V>(hands: &Hands<S, V>) -> Result<Self, StoreError> {
        let loaded = hands.store.load().await?;
        for (id, why) in &loaded.broken {
            tracing::error!(
                record = id,
                why,
                "a stored certificate cannot be read; its names get none until it is mended"
            );
        }
        let records = loaded.records.into_iter().map(|stored| (stored.value.id(), stored.into())).collect();
        let (busy, names, resting) = (HashSet::new(), HashSet::new(), HashMap::new());
        Ok(Self { records, broken: loaded.broken, busy, names, resting })
    }

    /// Records for what is wanted for the first time.
    async fn create<S: Store, V>(&mut self, hands: &Hands<S, V>, wanted: &Wishes) {
        let now = hands.web.now();
        for names in wanted.keys() {
            let id = names.id();
            let is_known =
                self.records.contains_key(&id) || self.broken.iter().any(|(broken, _)| *broken == id);
            if is_known || self.rests(&id, now) {
                continue;
            }
            let value = Record::new(names.clone());
            match hands.store.put(&value, None).await {
                Ok(version) => drop(self.records.insert(id, Stored { value, version }.into())),
                Err(error) => self.failed(hands, &id, &error).await,
            }
        }
    }

    /// The steps that are due, and when to look again.
    fn start<'h, S: Store, V: Solver>(
        &mut self,
        hands: &'h Hands<S, V>,
        wanted: &Wishes,
        running: usize,
    ) -> Wake<'h> {
        let now = hands.web.now();
        let all = Tellings::of(self.records.values().map(|known| &*known.record));
        let mut wake = Wake { due: Vec::new(), after: LONGEST_SLEEP };
        let mut planned: Vec<(Plan, String)> = Vec::new();
        for (id, known) in &self.records {
            if self.busy.contains(id) {
                continue;
            }
            let mut next = plan(&known.record, wanted.get(&known.record.names), &all, now);
            next.at = next.at.max(self.resting.get(id).copied().unwrap_or(0));
            if !next.is_due(now) {
                let seconds = u64::try_from(next.at.saturating_sub(now)).unwrap_or(0);
                wake.after = wake.after.min(Duration::from_secs(seconds));
                continue;
            }
            planned.push((next, id.clone()));
        }
        planned.sort_by(|(a, x), (b, y)| (a.at, x).cmp(&(b.at, y)));
        for (next, id) in planned {
            let Some(known) = self.records.get(&id) else { continue };
            // Two orders for one name would count its looks apart.
            let is_shared = known.record.names.iter().any(|name| self.names.contains(name));
            if running + wake.due.len() >= MOST_AT_ONCE || is_shared {
                continue; // one of those under way wakes us
            }
            self.names.extend(known.record.names.iter().map(str::to_owned));
            self.busy.insert(id.clone());
            let wish = wanted.get(&known.record.names).cloned();
            let stored = Stored { value: (*known.record).clone(), version: known.version.clone() };
            wake.due.push(
                async move {
                    let came = advance(hands, stored, wish.as_ref(), &next).await;
                    Done { id, step: next.step, wish, came }
                }
                .boxed(),
            );
        }
        wake
    }

    async fn end<S: Store, V>(
        &mut self,
        hands: &Hands<S, V>,
        done: Done,
        happened: &mut (impl FnMut(&Happened<'_>) + Send),
    ) {
        let Done { id, step, wish, came } = done;
        self.busy.remove(&id);
        if let Some(known) = self.records.get(&id) {
            for name in known.record.names.iter() {
                self.names.remove(name);
            }
        }
        match came {
            Ok((stored, outcome)) => {
                let record = stored.as_ref().map(|stored| &stored.value);
                happened(&Happened { id: &id, step, outcome: &outcome, record, wish: wish.as_ref() });
                match stored {
                    Some(stored) => drop(self.records.insert(id, stored.into())),
                    None => drop(self.records.remove(&id)),
                }
            }
            Err(error) => self.failed(hands, &id, &error).await,
        }
    }

    /// The store said no: what it has of this record is read again, after a pause.
    async fn failed<S: Store, V>(&mut self, hands: &Hands<S, V>, id: &str, error: &StoreError) {
        tracing::warn!(record = id, %error, "a certificate's record cannot be stored; trying again");
        self.resting.insert(id.to_owned(), hands.web.now() + STORE_REST);
        let loaded = match hands.store.load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(%error, "the store cannot be read; going on with what is known");
                return;
            }
        };
        self.broken = loaded.broken;
        match loaded.records.into_iter().find(|stored| stored.value.id() == id) {
            Some(stored) => drop(self.records.insert(id.to_owned(), stored.into())),
            None => drop(self.records.remove(id)),
        }
    }

    fn rests(&self, id: &str, now: i64) -> bool {
        self.resting.get(id).is_some_and(|until| now < *until)
    }

    fn snapshot<S, V>(&self, hands: &Hands<S, V>, wanted: &Wishes) -> Snapshot {
        let now = hands.web.now();
        let all = Tellings::of(self.records.values().map(|known| &*known.record));
        let entry = |(id, known): (&String, &Known)| {
            let wish = wanted.get(&known.record.names);
            let next = plan(&known.record, wish, &all, now);
            let (record, is_busy) = (Arc::clone(&known.record), self.busy.contains(id));
            (id.clone(), Entry { record, wish: wish.cloned(), next, is_busy })
        };
        Snapshot { entries: self.records.iter().map(entry).collect(), broken: self.broken.clone() }
    }
}

/// Steps under way: a fleet of hosts that is set up at once is below Let's Encrypt's 20 requests a second with it.
const MOST_AT_ONCE: usize = 16;
/// Seconds without a try after the store failed with a record.
const STORE_REST: i64 = 5;
/// A clock that is set is noticed so soon.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
