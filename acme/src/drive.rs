//! Plans for all records and takes their steps, side by side, while it is this process's turn (the holder of a Lease, or of a directory's
//! lock). Dropped anywhere it leaves what a kill -9 would, which is what stores and [`crate::plan`] are made for.
//!
//! Steps, new records and reading the store anew are all futures side by side: none waits for another's store or CA. Where not all steps
//! can be taken at once, those go first that have a certificate to lose, by its end; and no CA, and no namespace's zones, take all hands.
//! What is stored is read again each minute, because people change it too.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::watch, time::sleep};

use crate::{
    names::NameSet,
    order::{Kind, Pending},
    outcome::Outcome,
    plan::{Because, Plan, Step, Tellings, Wish, plan},
    record::Record,
    solver::Solver,
    steps::{Hands, advance},
    store::{Loaded, Store, StoreError, Stored, Version},
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
        let wake = desk.start(hands, &wanted);
        running.extend(wake.due);
        published.send_replace(Arc::new(desk.snapshot(hands, &wanted)));
        tokio::select! {
            Some(done) = running.next() => {
                let now = hands.web.now();
                desk.end(done, now, &mut happened);
                while let Some(Some(done)) = running.next().now_or_never() {
                    desk.end(done, now, &mut happened);
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

/// What was done.
enum Done {
    Step(Box<Taken>),
    /// A record of what is wanted for the first time.
    Created {
        id: String,
        came: Box<Result<Stored<Record>, StoreError>>,
    },
    /// The store was read again.
    Read(Result<Loaded, StoreError>),
}

/// A step that was taken.
struct Taken {
    id: String,
    step: Step,
    wish: Option<Wish>,
    came: Result<(Option<Stored<Record>>, Outcome), StoreError>,
}

/// What is done about a record now.
enum Work {
    Creation,
    Step(Option<Place>),
}

/// Who is waited for in a step.
#[derive(Eq, PartialEq)]
enum Place {
    /// The CA of this directory.
    Ca(String),
    /// The zones of this namespace's credentials.
    Zones(String),
}

struct Wake<'h> {
    due: Vec<BoxFuture<'h, Done>>,
    after: Duration,
}

/// All records, and which of them are being worked on. Times are Unix seconds.
struct Desk {
    records: HashMap<String, Known>,
    broken: Vec<(String, String)>,
    busy: HashMap<String, Work>,
    /// Names that the steps under way are about.
    names: HashSet<String>,
    /// Records that the store failed with, and until when they are let alone.
    resting: HashMap<String, i64>,
    /// Records with an order that nobody wishes for, and since when.
    absent: HashMap<String, i64>,
    /// When the store was read last.
    read: i64,
    /// What is known of a record is not what is stored.
    is_stale: bool,
    /// While the store is read: the records that were worked on meanwhile, of which we know more than it says.
    reading: Option<HashSet<String>>,
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
        say_broken(&loaded.broken, &[]);
        let records = loaded.records.into_iter().map(|stored| (stored.value.id(), stored.into())).collect();
        Ok(Self {
            records,
            broken: loaded.broken,
            busy: HashMap::new(),
            names: HashSet::new(),
            resting: HashMap::new(),
            absent: HashMap::new(),
            read: hands.web.now(),
            is_stale: false,
            reading: None,
        })
    }

    /// What is due, and when to look again.
    fn start<'h, S: Store, V: Solver>(&mut self, hands: &'h Hands<S, V>, wanted: &Wishes) -> Wake<'h> {
        let now = hands.web.now();
        let mut wake = Wake { due: Vec::new(), after: LONGEST_SLEEP };
        self.resting.retain(|_, until| now < *until);
        self.read_again(hands, now, &mut wake);
        self.create(hands, wanted, now, &mut wake);
        self.step(hands, wanted, now, &mut wake);
        wake
    }

    /// One read at a time, each minute, or as soon as something cannot be as we know it.
    fn read_again<'h, S: Store, V: Sync>(&mut self, hands: &'h Hands<S, V>, now: i64, wake: &mut Wake<'h>) {
        let is_time = self.is_stale || !(self.read..self.read + READ_AGAIN).contains(&now);
        if is_time && self.reading.is_none() {
            (self.is_stale, self.read, self.reading) = (false, now, Some(HashSet::new()));
            wake.due.push(async move { Done::Read(hands.store.load().await) }.boxed());
        }
        wake.until(self.read + READ_AGAIN, now);
    }

    /// Records for what is wanted for the first time.
    fn create<'h, S: Store, V: Sync>(
        &mut self,
        hands: &'h Hands<S, V>,
        wanted: &Wishes,
        now: i64,
        wake: &mut Wake<'h>,
    ) {
        let under_way = self.busy.values().filter(|work| matches!(work, Work::Creation)).count();
        let mut left = MOST_CREATED.saturating_sub(under_way);
        for names in wanted.keys() {
            let id = names.id();
            let is_known = self.records.contains_key(&id)
                || self.busy.contains_key(&id)
                || self.broken.iter().any(|(broken, _)| *broken == id);
            if is_known {
                continue;
            }
            if let Some(until) = self.resting.get(&id) {
                wake.until(*until, now);
                continue;
            }
            if left == 0 {
                return; // one of those under way wakes us
            }
            left -= 1;
            self.busy.insert(id.clone(), Work::Creation);
            let value = Record::new(names.clone());
            wake.due.push(
                async move {
                    let version = hands.store.put(&value, None).await;
                    let came = Box::new(version.map(|version| Stored { value, version }));
                    Done::Created { id, came }
                }
                .boxed(),
            );
        }
    }

    /// The steps that are due.
    fn step<'h, S: Store, V: Solver>(
        &mut self,
        hands: &'h Hands<S, V>,
        wanted: &Wishes,
        now: i64,
        wake: &mut Wake<'h>,
    ) {
        let all = Tellings::of(self.records.values().map(|known| &*known.record));
        let mut planned: Vec<((i64, i64, String), Plan)> = Vec::new();
        let mut absent = HashMap::new();
        for (id, known) in &self.records {
            if self.busy.contains_key(id) {
                continue;
            }
            let wish = wanted.get(&known.record.names);
            let mut next = plan(&known.record, wish, &all, now);
            next.at = next.at.max(self.resting.get(id).copied().unwrap_or(0));
            if next.because == Because::Unwanted && matches!(next.step, Step::Abandon { .. }) {
                let since = self.absent.get(id).copied().unwrap_or(now).min(now);
                next.at = next.at.max(since + ABSENT);
                absent.insert(id.clone(), since);
            }
            if next.is_due(now) {
                planned.push(((stake(&known.record, next.step), next.at, id.clone()), next));
            } else {
                wake.until(next.at, now);
            }
        }
        self.absent = absent;
        planned.sort_by(|(a, _), (b, _)| a.cmp(b));
        for ((.., id), next) in planned {
            let Some(known) = self.records.get(&id) else { continue };
            let wish = wanted.get(&known.record.names).cloned();
            let place = place(&known.record, wish.as_ref(), next.step);
            // Two orders for one name would count its looks apart.
            let is_shared = known.record.names.iter().any(|name| self.names.contains(name));
            if is_shared || !self.has_room(place.as_ref()) {
                continue; // one of those under way wakes us
            }
            self.names.extend(known.record.names.iter().map(str::to_owned));
            self.busy.insert(id.clone(), Work::Step(place));
            let stored = Stored { value: (*known.record).clone(), version: known.version.clone() };
            wake.due.push(
                async move {
                    let came = advance(hands, stored, wish.as_ref(), &next).await;
                    Done::Step(Box::new(Taken { id, step: next.step, wish, came }))
                }
                .boxed(),
            );
        }
    }

    fn has_room(&self, place: Option<&Place>) -> bool {
        let steps = || {
            self.busy.values().filter_map(|work| match work {
                Work::Step(at) => Some(at.as_ref()),
                Work::Creation => None,
            })
        };
        let most_there = match place {
            None => MOST_AT_ONCE,
            Some(Place::Ca(_)) => MOST_AT_A_CA,
            Some(Place::Zones(_)) => MOST_OF_ZONES,
        };
        steps().count() < MOST_AT_ONCE
            && (place.is_none() || steps().filter(|at| *at == place).count() < most_there)
    }

    fn end(&mut self, done: Done, now: i64, happened: &mut impl FnMut(&Happened<'_>)) {
        match done {
            Done::Read(Ok(loaded)) => self.reread(loaded),
            Done::Read(Err(error)) => {
                self.reading = None;
                tracing::warn!(%error, "the store cannot be read; going on with what is known");
            }
            Done::Created { id, came } => {
                self.free(&id);
                match *came {
                    Ok(stored) => drop(self.records.insert(id, stored.into())),
                    Err(error) => self.failed(id, &error, now),
                }
            }
            Done::Step(taken) => {
                let Taken { id, step, wish, came } = *taken;
                self.free(&id);
                match came {
                    Ok((stored, outcome)) => {
                        let record = stored.as_ref().map(|stored| &stored.value);
                        happened(&Happened { id: &id, step, outcome: &outcome, record, wish: wish.as_ref() });
                        match stored {
                            Some(stored) => drop(self.records.insert(id, stored.into())),
                            None => drop(self.records.remove(&id)),
                        }
                    }
                    Err(error) => self.failed(id, &error, now),
                }
            }
        }
    }

    /// Nothing is done about it any more.
    fn free(&mut self, id: &str) {
        if let Some(Work::Step(_)) = self.busy.remove(id)
            && let Some(known) = self.records.get(id)
        {
            for name in known.record.names.iter() {
                self.names.remove(name);
            }
        }
        if let Some(touched) = &mut self.reading {
            touched.insert(id.to_owned());
        }
    }

    /// The store said no: what it has of this record is read again, after a pause.
    fn failed(&mut self, id: String, error: &StoreError, now: i64) {
        tracing::warn!(record = id, %error, "a certificate's record cannot be stored; trying again");
        self.resting.insert(id, now + STORE_REST);
        self.is_stale = true;
    }

    /// Takes over what others wrote, mended or deleted, but for what we work on or did meanwhile.
    fn reread(&mut self, loaded: Loaded) {
        let touched = self.reading.take().unwrap_or_default();
        let mut stored: HashMap<String, Stored<Record>> =
            loaded.records.into_iter().map(|stored| (stored.value.id(), stored)).collect();
        let busy = &self.busy;
        let is_ours = |id: &String| busy.contains_key(id) || touched.contains(id);
        self.records.retain(|id, _| is_ours(id) || stored.contains_key(id));
        stored.retain(|id, stored| {
            !is_ours(id) && self.records.get(id).is_none_or(|known| known.version != stored.version)
        });
        for (id, stored) in stored {
            tracing::info!(record = id, "a certificate's record was changed from outside");
            self.records.insert(id, stored.into());
        }
        say_broken(&loaded.broken, &self.broken);
        self.broken = loaded.broken;
    }

    fn snapshot<S, V>(&self, hands: &Hands<S, V>, wanted: &Wishes) -> Snapshot {
        let now = hands.web.now();
        let all = Tellings::of(self.records.values().map(|known| &*known.record));
        let entry = |(id, known): (&String, &Known)| {
            let wish = wanted.get(&known.record.names);
            let next = plan(&known.record, wish, &all, now);
            let (record, is_busy) = (Arc::clone(&known.record), self.busy.contains_key(id));
            (id.clone(), Entry { record, wish: wish.cloned(), next, is_busy })
        };
        Snapshot { entries: self.records.iter().map(entry).collect(), broken: self.broken.clone() }
    }
}

impl Wake<'_> {
    fn until(&mut self, at: i64, now: i64) {
        let seconds = u64::try_from(at.saturating_sub(now)).unwrap_or(0);
        self.after = self.after.min(Duration::from_secs(seconds));
    }
}

fn say_broken(broken: &[(String, String)], said: &[(String, String)]) {
    for (id, why) in broken.iter().filter(|one| !said.contains(one)) {
        tracing::error!(
            record = id,
            why,
            "a stored certificate cannot be read; its names get none until it is mended"
        );
    }
}

/// What goes first: steps for a certificate that is to be renewed, by its end; then orders that are under way, and all else.
fn stake(record: &Record, step: Step) -> i64 {
    match (step, &record.held, &record.order) {
        (Step::AskWindow | Step::Clear | Step::Forget | Step::Wait, ..) => i64::MAX,
        (_, Some(held), _) => held.not_after,
        (_, None, Some(_)) => i64::MAX - 1,
        (_, None, None) => i64::MAX,
    }
}

/// Who is waited for in a step. Gateways answer within seconds.
fn place(record: &Record, wish: Option<&Wish>, step: Step) -> Option<Place> {
    let zones =
        |pending: &Pending| (pending.kind == Kind::Dns01).then(|| Place::Zones(pending.namespace.clone()));
    match step {
        Step::Wait | Step::Abandon { .. } | Step::Promote | Step::Notice | Step::Forget => None,
        Step::Clear => record.leftover.challenges.iter().find_map(zones),
        Step::Present => record.order.iter().flat_map(|order| &order.challenges).find_map(zones),
        Step::AskWindow => record.held.as_ref().map(|held| Place::Ca(held.directory.clone())),
        Step::Ask { .. } | Step::Read | Step::Tell | Step::Poll | Step::Finalize | Step::Collect => {
            let of_wish = |rehearsal| wish.and_then(|wish| wish.issuer.directory_of(rehearsal));
            let directory = match (&record.order, step) {
                (Some(order), _) => Some(order.directory.as_str()),
                (None, Step::Ask { rehearsal, .. }) => of_wish(rehearsal),
                (None, _) => None,
            };
            directory.map(|directory| Place::Ca(directory.to_owned()))
        }
    }
}

/// Steps under way.
const MOST_AT_ONCE: usize = 32;
/// Of them at one CA: a fleet of hosts that is set up at once is below Let's Encrypt's 20 requests a second with it, and a CA that hangs
/// holds up its own.
const MOST_AT_A_CA: usize = 8;
/// Of them for DNS challenges of one namespace, whose zones may take minutes.
const MOST_OF_ZONES: usize = 16;
/// New records that are stored at once.
const MOST_CREATED: usize = 8;
/// Seconds after which what is stored is read again: a person who deletes or mends a Secret waits so long. A list of all of them is some
/// 10 KiB for each.
const READ_AGAIN: i64 = 60;
/// Seconds that nobody must want an order before it is given up: an Ingress that is replaced is gone for a moment.
const ABSENT: i64 = 60;
/// Seconds without a try after the store failed with a record.
const STORE_REST: i64 = 5;
/// A clock that is set is noticed so soon.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
