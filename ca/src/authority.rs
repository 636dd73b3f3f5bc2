//! The living CA. Issuing reads one snapshot ([`Live`]) and takes no lock; everything else is one writer behind a mutex,
//! which stores each new state before it takes effect.
//!
//! The intermediate's key is made in memory at each start, signed by the active root and recorded before its first use.
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
use tracing::{info, warn};

use crate::{
    admin::status::{self, Status},
    clock::Clock,
    issue::{CannotIssue, Issued, Issuer, PublicKey},
    metrics::CaMetrics,
    publication::{CannotPublish, Publication},
    rotation::{self, Change, OutOfOrder, Phase, Step},
    serving::ServingName,
    state::{Role, Root, State},
    store::{Store, StoreError},
};

mod make;
mod shared;
use make::{bundle_of, first_state, fresh_root, newer_than, sign_intermediate};

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
    issuer: Issuer,
    /// Id of the root that signed it.
    issued_by: Arc<str>,
    /// Unix seconds.
    renew_at: i64,
}

struct Writer {
    state: State,
    /// Whether the bundle of `state` is known to be published, and since when.
    published: Option<i64>,
    /// By the running clock: when the state was last read or written (began), and since when its phase and bundle are
    /// known to be stored.
    followed: i64,
    stood: i64,
}

/// A certificate on its way to its owner.
pub(crate) struct Granted {
    /// Lower-case hex.
    pub serial: String,
    /// Unix seconds.
    pub not_after: i64,
    /// PEM: leaf, intermediate, trust bundle (with its sequence line).
    pub chain: [String; 3],
}

impl Authority {
    /// Opens the CA: resumes the stored state, or begins with a new root where there is none. Blocks.
    pub(crate) fn open(ground: Ground, settings: Settings) -> Result<Self, CaError> {
        let random = ground.provider.secure_random;
        let running = || ground.replicas.as_ref().map_or(0, |replicas| (replicas.running)());
        let lag = if ground.replicas.is_some() { FOLLOWS + MARGIN } else { 0 };
        for _ in 0..TRIES {
            let now = (ground.clock)();
            let published = ground.publication.found()?; // before the state: it is never ahead of that, unless a backup was restored
            let state = match ground.store.load()? {
                Some(state) if state.trust_domain != settings.domain.as_str() => {
                    return Err(CaError::TrustDomain { stored: state.trust_domain, wanted: settings.domain });
                }
                Some(state) => state.with_leaf_life(settings.leaf_life, now, lag),
                None => first_state(&settings, random, now)?,
            };
            let state = newer_than(state, published, || fresh_root(&settings, random, now), now)?;
            let (state, intermediate) = sign_intermediate(&state, &settings, random, now)?;
            let followed = running();
            let state = match ground.store.replace(&state) {
                Err(StoreError::Moved { .. }) if ground.replicas.is_some() => continue, // they start together
                stored => stored?,
            };
            return Self::begin(ground, settings, state, intermediate, followed);
        }
        Err(CaError::Contended)
    }

    fn begin(
        ground: Ground,
        settings: Settings,
        state: State,
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
            writer: Mutex::new(Writer { state, published: None, followed, stood: 0 }),
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
        let issuer = &live.intermediate.issuer;
        let leaf = sign(issuer, life, now)?;
        Ok(Granted {
            serial: leaf.serial,
            not_after: leaf.not_after,
            chain: [leaf.certificate, issuer.pem.to_string(), live.bundle_pem.to_string()],
        })
    }

    /// Whether a certificate could be issued now.
    pub(crate) fn is_ready(&self) -> bool {
        let live = self.live.load();
        self.running() <= live.good_until && (self.ground.clock)() <= live.intermediate.issuer.not_after
    }

    /// Reads what other replicas wrote; then at most one step: a new intermediate, a publication, or a step of the rotation.
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
        if self.is_intermediate_due(&writer.state, now) {
            return self.renew_intermediate(writer, now);
        }
        if !self.leads() {
            writer.published = None; // once we lead again, we look
            return Ok(());
        }
        let Some(step) = rotation::next(&writer.state, now).filter(|_| self.is_settled(writer)) else {
            return self.keep_published(writer, now);
        };
        match step {
            Step::MakeRoot => {
                let root = self.fresh_root(now)?;
                self.take_step(writer, Change::Prepare(root), now)
            }
            Step::Publish => match self.publish(writer)? {
                // Dated after it was read back.
                true => self.take_step(writer, Change::Published, (self.ground.clock)()),
                false => Ok(()),
            },
            Step::Activate => {
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

    /// Starts a rotation now. Refused while one is under way.
    pub(crate) fn rotate(&self) -> Result<(), CaError> {
        let mut writer = self.writer();
        self.follow(&mut writer)?;
        if writer.state.rotation.phase != Phase::Steady {
            return Err(OutOfOrder::UnderWay { phase: writer.state.rotation.phase }.into());
        }
        let now = (self.ground.clock)();
        let root = self.fresh_root(now)?;
        let result = self.store(&mut writer, |state| {
            Ok((rotation::apply(state, Change::Prepare(root.clone()), now)?, ()))
        });
        self.measure(&writer);
        result
    }

    /// The emergency act: nobody believes this root any more, from the moment that they hold the new bundle.
    pub(crate) fn distrust(&self, root: &str) -> Result<(), CaError> {
        let mut writer = self.writer();
        self.follow(&mut writer)?;
        let now = (self.ground.clock)();
        self.store(&mut writer, |state| {
            let fresh = match state.root(root) {
                Some(Root { role: Role::Active, .. }) => Some(self.fresh_root(now)?),
                _ => None,
            };
            Ok((rotation::apply(state, Change::Distrust { id: root.into(), fresh }, now)?, ()))
        })?;
        warn!(root, "root distrusted: certificates under it are refused from now on");
        // Both are tried, and tried again by `tick`: the order is in the state already.
        let renewed = match self.is_intermediate_due(&writer.state, now) {
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
        let intermediate = status::Intermediate::new(&live.intermediate.issuer, &live.intermediate.issued_by);
        Status::new(&self.shown.load(), intermediate, live.leaf_life, issued, refused)
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

    /// Half of its life is gone and a new one would last longer, or it is not the active root's.
    fn is_intermediate_due(&self, state: &State, now: i64) -> bool {
        let live = self.live.load();
        let Some(root) = state.root_as(Role::Active) else { return false };
        let longer =
            root.not_after.min(now + self.settings.intermediate_life) > live.intermediate.issuer.not_after;
        live.intermediate.issued_by != root.id || (now >= live.intermediate.renew_at && longer)
    }

    fn renew_intermediate(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        let random = self.ground.provider.secure_random;
        let intermediate =
            self.store(writer, |state| sign_intermediate(state, &self.settings, random, now))?;
        info!(serial = %intermediate.issuer.serial, root = %intermediate.issued_by, "new intermediate");
        let live = self.live.load_full();
        self.live.store(Arc::new(Live {
            intermediate: Arc::new(intermediate),
            bundle: Arc::clone(&live.bundle),
            bundle_pem: Arc::clone(&live.bundle_pem),
            leaf_life: live.leaf_life,
            good_until: if self.is_alone() { i64::MAX } else { writer.followed + FOLLOWS },
        }));
        Ok(())
    }

    fn measure(&self, writer: &Writer) {
        let now = (self.ground.clock)();
        let live = self.live.load();
        self.ground.metrics.left("intermediate", live.intermediate.issuer.not_after - now);
        if let Some(root) = writer.state.root_as(Role::Active) {
            self.ground.metrics.left("root", root.not_after - now);
        }
        self.ground.metrics.phase(writer.state.rotation.phase);
    }
}

/// What went wrong with a step or an order. What was valid before it still is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Order(#[from] OutOfOrder),
    #[error(transparent)]
    Issue(#[from] CannotIssue),
    #[error(transparent)]
    Publish(#[from] CannotPublish),
    #[error(
        "the state is of trust domain {stored}, not {wanted}; a trust domain cannot be renamed, use another state"
    )]
    TrustDomain { stored: String, wanted: TrustDomain },
    #[error("the state's roots make no bundle: {0}; restore the state from a backup")]
    Bundle(String),
    #[error("the state has no active root; restore the state from a backup")]
    NoRoot,
    #[error("the stored state is gone; restore it, or restart every replica to begin with a new root")]
    Gone,
    #[error("the stored state is another one (version {found}, ours is {held}); restart every replica")]
    Replaced { found: u64, held: u64 },
    /// Of a step; nobody is told.
    #[error("another replica was faster")]
    Overtaken,
    #[error("other replicas wrote the state {TRIES} times while this one tried; try again")]
    Contended,
}

impl CaError {
    /// Whether it may pass by itself, so that a CA that starts tries again.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::Publish(CannotPublish::Api(_)) | Self::Contended => true,
            _ => false,
        }
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
mod replica_tests;
#[cfg(test)]
mod tests;
