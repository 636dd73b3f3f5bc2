//! The living CA. Issuing reads one snapshot ([`Live`]) and takes no lock; everything else is one writer behind a mutex,
//! which stores each new state before it takes effect.
//!
//! The intermediate's key is made in memory at each start, signed by the active root (or by an intermediate that the user
//! brings, [`crate::brought`]) and recorded before its first use.
//! A step that fails changes nothing: what is valid stays in use, and the next [`Authority::tick`] tries again.
//!
//! Replicas share the stored state. Each reads it every few seconds, and signs and answers by what it read for at most
//! [`FOLLOWS`]; the one that has the Lease takes the next step of a rotation only when every other has seen the last one or
//! has fallen silent. What makes a step happen once is not the Lease but the store's compare-and-swap.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use signet_core::{
    bundle::TrustBundle,
    identity::{SpiffeId, TrustDomain},
    trust::Trust,
};
use tracing::warn;

use crate::{
    admin::status::{self, Status},
    brought::Brought,
    clock::Clock,
    issue::{CannotIssue, Issued, Issuer, PublicKey},
    metrics::CaMetrics,
    publication::Publication,
    rotation::{self, Change, OutOfOrder, Phase, Step},
    serving::ServingName,
    state::{Role, Root, State},
    store::{Store, StoreError},
};

mod error;
mod make;
mod offered;
mod renewal;
mod shared;
pub(crate) use error::CaError;
use make::{bundle_of, first_state, fresh_root, newer_than, replacement, sign_intermediate};
use offered::Offered;
pub(crate) use offered::Offers;

/// How long things live, in seconds. Checked by `Args`.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub domain: TrustDomain,
    pub root_life: i64,
    pub intermediate_life: i64,
    pub leaf_life: i64,
}

/// What the CA stands on.
pub(crate) struct Ground {
    pub store: Box<dyn Store>,
    pub publication: Box<dyn Publication>,
    /// `None`: nobody brings an intermediate (directory mode).
    pub offers: Option<Offers>,
    /// `None`: nobody else writes the state (directory mode).
    pub replicas: Option<Replicas>,
    pub provider: Arc<CryptoProvider>,
    /// Our own, for callers that renew: always the bundle that we publish.
    pub trust: Arc<Trust>,
    pub clock: Clock,
    pub metrics: Arc<CaMetrics>,
}

/// That others write the same state.
pub(crate) struct Replicas {
    /// `clock::running`.
    pub running: Clock,
    /// Whether the Lease is ours, so that the steps of a rotation are.
    pub leads: Box<dyn Fn() -> bool + Send + Sync>,
}

/// The CA of one trust domain.
pub(crate) struct Authority {
    settings: Settings,
    ground: Ground,
    live: ArcSwap<Live>,
    /// The state as it was last read or written, for the status: the writer's lock is held while the store is slow.
    shown: ArcSwap<State>,
    /// What is wrong with what the user offers, for the status.
    fault: ArcSwap<Option<String>>,
    writer: Mutex<Writer>,
}

/// What issuing needs: replaced whole, so that one certificate never mixes two.
struct Live {
    intermediate: Arc<Intermediary>,
    bundle: Arc<TrustBundle>,
    bundle_pem: Arc<str>,
    /// Longest life of leaves, seconds: ours, or the state's where another replica was told a shorter one.
    leaf_life: i64,
    /// By the running clock; the last second at which the state may be relied on.
    good_until: i64,
}

/// The intermediate in use, with its key.
struct Intermediary {
    issuer: Arc<Issuer>,
    /// PEM of what follows the leaf in an answer, each: its own certificate, and those of the user's above it.
    above: Vec<Arc<str>>,
    /// Id of the root at the end of that.
    issued_by: Arc<str>,
    /// Unix seconds.
    renew_at: i64,
    /// What it rests on, where the root is the user's.
    brought: Option<Arc<Brought>>,
}

struct Writer {
    state: State,
    /// Whether the bundle of `state` is known to be published, and since when.
    published: Option<i64>,
    /// By the running clock: when the state was last read or written (began), and since when its phase and bundle are
    /// known to be stored.
    followed: i64,
    stood: i64,
    /// What the user's Secret held, and when it was asked (Unix seconds).
    offered: Offered,
    looked: i64,
}

/// A certificate on its way to its owner.
pub(crate) struct Granted {
    /// Lower-case hex.
    pub serial: String,
    /// Unix seconds.
    pub not_after: i64,
    /// PEM: leaf, intermediates up to below the root, trust bundle (with its sequence line).
    pub chain: Vec<String>,
}

impl Authority {
    /// Opens the CA: resumes the stored state, or begins where there is none, with the root that the user brings or else a new
    /// one. Blocks.
    pub(crate) fn open(ground: Ground, settings: Settings) -> Result<Self, CaError> {
        let random = ground.provider.secure_random;
        let running = || ground.replicas.as_ref().map_or(0, |replicas| (replicas.running)());
        let lag = if ground.replicas.is_some() { FOLLOWS + MARGIN } else { 0 };
        for _ in 0..TRIES {
            let now = (ground.clock)();
            let published = ground.publication.found()?; // before the state: it is never ahead of that, unless a backup was restored
            let stored = match ground.store.load()? {
                Some(state) if state.trust_domain != settings.domain.as_str() => {
                    return Err(CaError::TrustDomain { stored: state.trust_domain, wanted: settings.domain });
                }
                stored => stored.map(|state| state.with_leaf_life(settings.leaf_life, now, lag)),
            };
            let distrusted = published.iter().flat_map(|bundle| bundle.distrusted.iter().map(Arc::clone));
            let distrusted = distrusted.chain(stored.iter().flat_map(State::distrusted_ids)).collect();
            let offered = Offered::read(&ground, &settings, distrusted, now)?;
            let state = match stored {
                Some(state) => state,
                None => first_state(&settings, &offered, random, now)?,
            };
            let fresh = |bad: &Root, state: &State| replacement(bad, state, &offered, &settings, random, now);
            let state = newer_than(state, published, fresh, now)?;
            let (state, intermediate) =
                sign_intermediate(&state, &offered, &settings, &ground.provider, now)?;
            let followed = running();
            let state = match ground.store.replace(&state) {
                Err(StoreError::Moved { .. }) if ground.replicas.is_some() => continue, // they start together
                stored => stored?,
            };
            return Self::begin(ground, settings, state, offered, intermediate, followed);
        }
        Err(CaError::Contended)
    }

    fn begin(
        ground: Ground,
        settings: Settings,
        state: State,
        offered: Offered,
        intermediate: Intermediary,
        followed: i64,
    ) -> Result<Self, CaError> {
        let bundle = bundle_of(&state)?;
        ground.trust.offer(bundle.clone());
        let live = Live {
            intermediate: Arc::new(intermediate),
            bundle_pem: bundle.to_pem().into(),
            bundle: Arc::new(bundle),
            leaf_life: settings.leaf_life.min(state.leaf_life),
            good_until: ground.replicas.as_ref().map_or(i64::MAX, |_| followed + FOLLOWS),
        };
        let authority = Self {
            live: ArcSwap::from_pointee(live),
            shown: ArcSwap::from_pointee(state.clone()),
            fault: ArcSwap::default(),
            // The first tick asks again, and tells what is wrong with it.
            writer: Mutex::new(Writer { state, published: None, followed, stood: 0, offered, looked: 0 }),
            settings,
            ground,
        };
        let mut writer = authority.writer();
        writer.stood = authority.running();
        if authority.leads()
            && let Err(error) = authority.publish(&mut writer)
        {
            warn!(%error, "trust bundle not published; trying again");
        }
        authority.measure(&writer);
        drop(writer);
        Ok(authority)
    }

    /// A leaf for `id`, with its chain and the bundle. `life` is a wish, in seconds: it is shortened to ours.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        life: Option<i64>,
    ) -> Result<Granted, CannotIssue> {
        let random = self.ground.provider.secure_random;
        self.sign(life, |issuer, life, now| issuer.leaf(id, key, life, now, random))
    }

    /// A certificate with which one of our own parts serves strangers under `name`; no workload's.
    pub(crate) fn issue_serving(
        &self,
        name: ServingName,
        key: &PublicKey,
        life: Option<i64>,
    ) -> Result<Granted, CannotIssue> {
        let random = self.ground.provider.secure_random;
        self.sign(life, |issuer, life, now| issuer.serving(name, key, life, now, random))
    }

    fn sign(
        &self,
        life: Option<i64>,
        sign: impl FnOnce(&Issuer, i64, i64) -> Result<Issued, CannotIssue>,
    ) -> Result<Granted, CannotIssue> {
        // The time first: no leaf lives longer than one life from the moment that its issuer was still in use (rotation's law).
        let now = (self.ground.clock)();
        let live = self.live.load();
        if self.running() > live.good_until {
            return Err(CannotIssue::Behind);
        }
        let life = life.map_or(live.leaf_life, |life| life.min(live.leaf_life));
        let leaf = sign(&live.intermediate.issuer, life, now)?;
        let above = live.intermediate.above.iter().chain([&live.bundle_pem]).map(ToString::to_string);
        let chain = std::iter::once(leaf.certificate).chain(above).collect();
        Ok(Granted { serial: leaf.serial, not_after: leaf.not_after, chain })
    }

    /// Whether a certificate could be issued now.
    pub(crate) fn is_ready(&self) -> bool {
        let live = self.live.load();
        self.running() <= live.good_until && (self.ground.clock)() <= live.intermediate.issuer.not_after
    }

    /// Reads what other replicas wrote and what the user offers; then at most one step: a new intermediate, a publication, or a
    /// step of the rotation.
    /// Blocks on the store: not for async code.
    pub(crate) fn tick(&self) -> Result<(), CaError> {
        let mut writer = self.writer();
        let result = match self.step(&mut writer) {
            Err(CaError::Overtaken) => Ok(()), // the next tick looks at what the other one made of it
            result => result,
        };
        self.measure(&writer);
        result.inspect_err(|_| self.ground.metrics.step_failed())
    }

    fn step(&self, writer: &mut Writer) -> Result<(), CaError> {
        self.follow(writer)?;
        let now = (self.ground.clock)();
        let looked = self.look_in_time(writer, now); // what is wrong with it holds up nothing else
        self.act(writer, now)?;
        looked
    }

    fn act(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        let renewed = match self.is_intermediate_due(writer, now) {
            true => self.renew_intermediate(writer, now).map(|()| true),
            false => Ok(false),
        };
        match renewed {
            Ok(false) => self.lead(writer, now),
            // Nobody but the user can help, and the way out may be the next step of a rotation.
            Err(why @ CaError::NoIntermediate { .. }) => self.lead(writer, now).and(Err(why)),
            renewed => renewed.map(drop),
        }
    }

    /// The steps that only one replica takes, and the publication.
    fn lead(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        if !self.leads() {
            writer.published = None; // once we lead again, we look
            return Ok(());
        }
        let step = rotation::next(&writer.state, writer.offered.root(&writer.state), now);
        let Some(step) = step.filter(|_| self.is_settled(writer)) else {
            return self.keep_published(writer, now);
        };
        match step {
            Step::MakeRoot => {
                let root = self.fresh_root(now)?;
                self.take_step(writer, Change::Prepare(root), now)
            }
            Step::Bring => {
                let change = self.bring(writer, now)?;
                self.take_step(writer, change, now)
            }
            Step::Abandon => self.abandon(writer, now),
            Step::Publish => match self.publish(writer)? {
                // Dated after it was read back.
                true => self.take_step(writer, Change::Published, (self.ground.clock)()),
                false => Ok(()),
            },
            Step::Activate => {
                self.can_sign_next(writer, now)?;
                self.take_step(writer, Change::Activate, now)?;
                self.renew_intermediate(writer, now)
            }
            Step::Retire => self.take_step(writer, Change::Activated, (self.ground.clock)()),
            Step::Drop => {
                self.take_step(writer, Change::Drop, now)?;
                self.publish(writer).map(drop)
            }
        }
    }

    /// Starts a rotation now: to the root that the user brings, or to a new one of ours. Refused while one is under way, and
    /// where a root is for the user to bring.
    pub(crate) fn rotate(&self) -> Result<(), CaError> {
        let mut writer = self.writer();
        self.follow(&mut writer)?;
        if writer.state.rotation.phase != Phase::Steady {
            return Err(OutOfOrder::UnderWay { phase: writer.state.rotation.phase }.into());
        }
        let now = (self.ground.clock)();
        let looked = self.look(&mut writer, now);
        let is_users = writer.state.root_as(Role::Active).is_some_and(|root| root.key.is_none());
        let change = match rotation::next(&writer.state, writer.offered.root(&writer.state), now) {
            Some(Step::Bring) => self.bring(&writer, now)?,
            _ if is_users => return Err(OutOfOrder::Brought.into()),
            _ => looked.and_then(|()| self.fresh_root(now)).map(Change::Prepare)?,
        };
        let result = self.store(&mut writer, |state| Ok((rotation::apply(state, change.clone(), now)?, ())));
        self.measure(&writer);
        result
    }

    /// The emergency act: nobody believes this root any more, from the moment that they hold the new bundle.
    pub(crate) fn distrust(&self, root: &str) -> Result<(), CaError> {
        let mut writer = self.writer();
        self.follow(&mut writer)?;
        let now = (self.ground.clock)();
        if let Err(why) = self.look(&mut writer, now) {
            warn!(%why, "what is offered is not known; going on"); // a root of ours is replaced all the same
        }
        let offered = writer.offered.clone();
        self.store(&mut writer, |state| {
            let fresh = match state.root(root) {
                Some(bad) if bad.role == Role::Active => Some(self.replacement(bad, state, &offered, now)?),
                _ => None,
            };
            Ok((rotation::apply(state, Change::Distrust { id: root.into(), fresh }, now)?, ()))
        })?;
        warn!(root, "root distrusted: certificates under it are refused from now on");
        // Both are tried, and tried again by `tick`: the order is in the state already.
        let renewed = match self.is_intermediate_due(&writer, now) {
            true => self.renew_intermediate(&mut writer, now),
            false => Ok(()),
        };
        let published = if self.leads() { self.publish(&mut writer).map(drop) } else { Ok(()) };
        self.measure(&writer);
        renewed.and(published)
    }

    pub(crate) fn status(&self) -> Status {
        let live = self.live.load();
        let (issued, refused) = self.ground.metrics.totals();
        let held = &live.intermediate;
        let intermediate = status::Intermediate::new(&held.issuer, &held.issued_by, held.brought.as_deref());
        let status = Status::new(&self.shown.load(), intermediate, live.leaf_life, issued, refused);
        Status { fault: (**self.fault.load()).clone(), ..status }
    }

    /// PEM, as it is published.
    pub(crate) fn bundle_pem(&self) -> String {
        self.live.load().bundle_pem.to_string()
    }

    /// Id of the root that leaves chain to now.
    pub(crate) fn signing_root(&self) -> Arc<str> {
        Arc::clone(&self.live.load().intermediate.issued_by)
    }

    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.ground.trust
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.ground.provider
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.settings.domain
    }

    pub(crate) fn now(&self) -> i64 {
        (self.ground.clock)()
    }

    /// How often [`Authority::tick`] is called: each state of a rotation can be seen, and a day's leaves cost nothing. A
    /// replica must hear of the others' steps in time.
    pub(crate) fn pace(&self) -> Duration {
        let pace = (Duration::from_secs(self.settings.leaf_life.unsigned_abs()) / 20).clamp(FASTEST, SLOWEST);
        if self.is_alone() { pace } else { pace.min(FOLLOW_EVERY) }
    }

    /// Whether nobody else writes the state.
    pub(crate) fn is_alone(&self) -> bool {
        self.ground.replicas.is_none()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> i64 {
        self.ground.replicas.as_ref().map_or(0, |replicas| (replicas.running)())
    }

    fn leads(&self) -> bool {
        self.ground.replicas.as_ref().is_none_or(|replicas| (replicas.leads)())
    }

    fn fresh_root(&self, now: i64) -> Result<Root, CaError> {
        fresh_root(&self.settings, self.ground.provider.secure_random, now)
    }

    fn replacement(&self, bad: &Root, state: &State, offered: &Offered, now: i64) -> Result<Root, CaError> {
        replacement(bad, state, offered, &self.settings, self.ground.provider.secure_random, now)
    }

    /// True when the bundle is where it should be.
    fn publish(&self, writer: &mut Writer) -> Result<bool, CaError> {
        let done = self.ground.publication.publish(&bundle_of(&writer.state)?)?;
        writer.published = done.then(|| (self.ground.clock)());
        Ok(done)
    }

    /// Publishes what is not yet published, and mends what someone else damaged.
    fn keep_published(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        match writer.published {
            Some(since) if now - since < CHECK_PUBLISHED => Ok(()),
            _ => self.publish(writer).map(drop),
        }
    }

    fn measure(&self, writer: &Writer) {
        let now = (self.ground.clock)();
        let live = self.live.load();
        self.ground.metrics.left("intermediate", live.intermediate.issuer.not_after - now);
        if let Some(brought) = &live.intermediate.brought {
            self.ground.metrics.left("brought", brought.issuer.not_after - now);
        }
        if let Some(root) = writer.state.root_as(Role::Active) {
            self.ground.metrics.left("root", root.not_after - now);
        }
        self.ground.metrics.phase(writer.state.rotation.phase);
    }
}

/// A test's leaves of seconds: four looks a second are enough for anyone who watches.
const FASTEST: Duration = Duration::from_millis(250);
/// A step of a rotation may be a minute late; a day's leaves do not notice.
const SLOWEST: Duration = Duration::from_secs(60);
/// Seconds between looks at what is published: its readers refuse everyone while it is broken.
const CHECK_PUBLISHED: i64 = 60;
/// How often a replica reads the shared state: one small GET each.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);
/// Seconds that a replica signs and answers by the state that it read: several failed reads of 5 s fit. Each step of a rotation
/// that all must have seen waits for so long. The same in every release: an old replica may run beside a new one.
pub(crate) const FOLLOWS: i64 = 30;
/// Seconds beyond that: the clocks tick in whole seconds at both ends, and a certificate is signed in much less.
const MARGIN: i64 = 3;
/// Replicas start together and each records an intermediate: as many as there may be, twice over.
const TRIES: u32 = 10;

#[cfg(test)]
mod brought_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod tests;
