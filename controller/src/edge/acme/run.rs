//! Orders certificates, while it is this replica's turn: what is wanted, with what DNS and credentials say of it, becomes wishes;
//! [`signet_acme::drive`] does the rest. When the turn ends everything is dropped where it is, as by kill -9, and the next one goes on from
//! what is stored.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_acme::{
    challenge::Challenge,
    dns::{Lookups, credentials::Registry},
    drive::{self, Happened, drive},
    order::{Kind, Pending},
    outcome::Outcome,
    solver::Solver,
    steps::Hands,
    store::{Store, StoreError},
};
use signet_core::{clock, drain::Drain};
use signet_lease::Lease;
use tokio::{
    sync::watch,
    time::{interval, sleep},
};
use tracing::{error, info, warn};

use super::{
    super::{metrics::AcmeMetrics, snapshot::EdgeSnapshot},
    follow::Followed,
    preflight::{self, Verdicts},
    records::Read,
    wanted::{self, Wanted},
};

/// All that orders are made with.
pub(crate) struct Orders<S, V> {
    pub(crate) hands: Hands<S, V>,
    pub(crate) snapshots: watch::Receiver<Arc<EdgeSnapshot>>,
    pub(crate) followed: Followed,
    /// `None`: there is no resolver, and nothing is looked at.
    pub(crate) lookups: Option<Lookups>,
    pub(crate) desk: Desk,
    pub(crate) metrics: AcmeMetrics,
}

/// What pages show of it, and what they may ask for. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Desk {
    /// `None`: another replica's turn.
    pub(crate) driven: watch::Sender<Option<Arc<drive::Snapshot>>>,
    pub(crate) verdicts: watch::Sender<Arc<Verdicts>>,
    /// By id: when a person asked for a new one last.
    renew: Arc<Mutex<BTreeMap<String, i64>>>,
    asked: Arc<tokio::sync::Notify>,
}

impl Desk {
    /// A person wants a new one.
    pub(crate) fn renew(&self, id: &str, now: i64) {
        self.renew.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), now);
        self.asked.notify_one();
    }

    fn renewals(&self) -> BTreeMap<String, i64> {
        self.renew.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Store + 'static, V: Solver + 'static> Orders<S, V> {
    /// Until `drain` stops. `lease`: `None` in a directory, where it is always our turn.
    pub(crate) fn start(self, lease: Option<Arc<Lease>>, drain: &Drain) {
        drain.keep(async move {
            loop {
                turn(lease.as_deref(), true).await;
                info!("certificates are ordered by this replica");
                tokio::select! {
                    biased;
                    () = turn(lease.as_deref(), false) => info!("certificates are ordered by another replica"),
                    ended = Box::pin(self.work()) => {
                        let Err(why) = ended;
                        error!(%why, "certificates cannot be ordered; trying again");
                        sleep(AGAIN).await;
                    }
                }
                self.rest();
            }
        });
    }

    /// Nothing is known here of what another replica does.
    fn rest(&self) {
        self.desk.driven.send_replace(None);
        self.metrics.count(&drive::Snapshot::default(), clock::unix_now());
        self.followed.known.send_if_modified(|known| !std::mem::take(&mut known.held_back).is_empty());
    }

    /// Errors: the store could not be read.
    async fn work(&self) -> Result<Infallible, StoreError> {
        // What is wanted must come of all of it: another issuer ends an order.
        let mut snapshots = self.snapshots.clone();
        if snapshots.wait_for(|snapshot| snapshot.translated.acme.read == Read::ALL).await.is_err() {
            std::future::pending::<()>().await; // we are stopping
        }
        // Which orders are under way is known before anything may be held back.
        let loaded = self.hands.store.load().await?;
        let orders = loaded.records.iter().flat_map(|stored| &stored.value.order);
        let pending: Vec<Pending> = orders.flat_map(|order| &order.challenges).cloned().collect();
        let entries = loaded.records.into_iter().map(|stored| {
            let record = Arc::new(stored.value);
            let next = signet_acme::plan::Plan {
                at: i64::MAX,
                step: signet_acme::plan::Step::Wait,
                because: signet_acme::plan::Because::Housekeeping,
            };
            (record.id(), drive::Entry { record, wish: None, next, is_busy: false })
        });
        self.present_again(&pending).await;
        let first = drive::Snapshot { entries: entries.collect(), broken: loaded.broken };
        let published = watch::Sender::new(Arc::new(first));
        let wishes = watch::Sender::new(Arc::new(self.wishes(&published.borrow().entries)));
        let driving = drive(&self.hands, wishes.subscribe(), &published, |happened| self.happened(happened));
        tokio::select! {
            ended = driving => ended,
            never = self.wish(&wishes, published.subscribe()) => match never {},
            never = self.look(published.subscribe()) => match never {},
        }
    }

    /// What gateways are to answer for orders that are under way: of a directory nobody but the process that ended knew, and in a cluster it
    /// is there already.
    async fn present_again(&self, pending: &[Pending]) {
        let of_gateways = pending.iter().filter(|pending| !pending.proven && pending.kind != Kind::Dns01);
        let challenges: Vec<Challenge> =
            of_gateways.filter_map(|pending| Challenge::of(pending).ok()).collect();
        if !challenges.is_empty()
            && let Err(problem) = self.hands.solver.present(&challenges).await
        {
            warn!(%problem, "challenges of orders that are under way cannot be presented again");
        }
    }

    /// Wishes follow what is wanted, what DNS says, credentials and orders that begin or end.
    async fn wish(
        &self,
        wishes: &watch::Sender<Arc<drive::Wishes>>,
        mut published: watch::Receiver<Arc<drive::Snapshot>>,
    ) -> Infallible {
        let (mut snapshots, mut verdicts) = (self.snapshots.clone(), self.desk.verdicts.subscribe());
        let mut credentials = self.followed.credentials.subscribe();
        loop {
            let snapshot = Arc::clone(&published.borrow_and_update());
            verdicts.mark_unchanged();
            snapshots.mark_unchanged();
            credentials.mark_unchanged();
            let now = Arc::new(self.wishes(&snapshot.entries));
            wishes.send_if_modified(|held| {
                let is_new = *held != now;
                if is_new {
                    *held = now;
                }
                is_new
            });
            self.metrics.count(&snapshot, clock::unix_now());
            self.desk.driven.send_replace(Some(snapshot));
            // An error is that nobody says anything any more: we are stopping.
            let ended = tokio::select! {
                changed = published.changed() => changed.is_err(),
                changed = snapshots.changed() => changed.is_err(),
                changed = verdicts.changed() => changed.is_err(),
                changed = credentials.changed() => changed.is_err(),
                () = self.desk.asked.notified() => false,
            };
            if ended {
                std::future::pending::<()>().await;
            }
        }
    }

    fn wishes(&self, entries: &BTreeMap<String, drive::Entry>) -> drive::Wishes {
        let wanted = self.wanted();
        let (credentials, verdicts) =
            (Arc::clone(&self.followed.credentials.borrow()), Arc::clone(&self.desk.verdicts.borrow()));
        let held_back = self.held_back(&wanted, &credentials, &verdicts, entries);
        let renewals = self.desk.renewals();
        let wishes = wanted::wishes(&wanted, &held_back, &renewals);
        let mut told = held_back;
        told.retain(|_, why| why != preflight::LOOKING);
        self.followed.known.send_if_modified(|known| {
            let is_new = known.held_back != told;
            if is_new {
                known.held_back = told;
            }
            is_new
        });
        wishes
    }

    fn held_back(
        &self,
        wanted: &Wanted,
        credentials: &Registry,
        verdicts: &Verdicts,
        entries: &BTreeMap<String, drive::Entry>,
    ) -> BTreeMap<String, String> {
        let now = clock::unix_now();
        let why = |(id, asked): (&String, &wanted::Asked)| {
            let hold = || match self.lookups {
                Some(_) => preflight::hold(asked, verdicts.get(id), entries.get(id), now),
                None => None,
            };
            Some((id.clone(), wanted::refusal(asked, credentials).or_else(hold)?))
        };
        wanted.certificates.iter().filter_map(why).collect()
    }

    fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.snapshots.borrow().translated.acme)
    }

    /// Looks at DNS for those that are to be ordered.
    async fn look(&self, published: watch::Receiver<Arc<drive::Snapshot>>) -> Infallible {
        let Some(lookups) = &self.lookups else { return std::future::pending().await };
        let mut snapshots = self.snapshots.clone();
        let mut tick = interval(Duration::from_secs(preflight::AGAIN));
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let wanted = Arc::clone(&snapshot.translated.acme);
            let (verdicts, now) = (Arc::clone(&self.desk.verdicts.borrow()), clock::unix_now());
            let due = preflight::due(&wanted, &verdicts, &published.borrow().entries, now);
            let due: Vec<_> = due.into_iter().map(|(id, asked)| (id.clone(), asked.clone())).collect();
            if !due.is_empty() {
                let accounts = self.followed.accounts.borrow().clone();
                let addresses = &snapshot.translated.addresses;
                self.desk.verdicts.send_modify(|all| {
                    Arc::make_mut(all).retain(|id, _| wanted.certificates.contains_key(id));
                });
                let told = |id, verdict| {
                    self.desk.verdicts.send_modify(|all| drop(Arc::make_mut(all).insert(id, verdict)));
                };
                preflight::look(lookups, &self.hands.web, due, &accounts, addresses, now, told).await;
            }
            tokio::select! {
                _ = tick.tick() => {}
                changed = snapshots.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    fn happened(&self, happened: &Happened<'_>) {
        let names = happened.record.map(|record| record.names.to_string()).unwrap_or_default();
        let (id, step) = (happened.id, happened.step);
        match happened.outcome {
            Outcome::Refused { problem, .. } => {
                self.metrics.failures.inc();
                warn!(id, names, ?step, %problem, "an order of a certificate failed");
            }
            Outcome::Trouble { problem, .. } => {
                self.metrics.troubles.inc();
                warn!(id, names, ?step, %problem, "a step of an order came to nothing; it is taken again");
            }
            _ => info!(id, names, ?step, "a step of an order"),
        }
    }
}

/// Returns when it is (or is not) our turn.
async fn turn(lease: Option<&Lease>, ours: bool) {
    match (lease, ours) {
        (None, true) => {}
        (None, false) => std::future::pending().await,
        (Some(lease), ours) => {
            while lease.is_held() != ours {
                sleep(TICK).await;
            }
        }
    }
}

/// Between two looks at the Lease; it is free for others 5 s after it stops being ours.
const TICK: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(5);
