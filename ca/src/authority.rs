//! The living CA. Issuing reads one snapshot ([`Live`]) and takes no lock; everything else is one writer behind a mutex,
//! which stores each new state before it takes effect.
//!
//! The intermediate's key is made in memory at each start, signed by the active root and recorded before its first use.
//! A step that fails changes nothing: what is valid stays in use, and the next [`Authority::tick`] tries again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, SecureRandom};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use signet_core::{
    bundle::TrustBundle,
    files::{self, PUBLIC},
    identity::{SpiffeId, TrustDomain},
    schedule,
    trust::Trust,
};
use tracing::{info, warn};

use crate::{
    admin::status::{self, Status},
    clock::Clock,
    issue::{CannotIssue, Issuer, PublicKey},
    metrics::CaMetrics,
    rotation::{self, Change, OutOfOrder, Phase, Step},
    state::{Intermediate, Role, Root, Secret, State},
    store::{Store, StoreError},
};

/// How long things live, in seconds, and where the trust bundle goes. Checked by `Args`.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub domain: TrustDomain,
    pub root_life: i64,
    pub intermediate_life: i64,
    pub leaf_life: i64,
    pub trust_file: PathBuf,
}

/// The CA of one trust domain.
pub(crate) struct Authority {
    settings: Settings,
    store: Store,
    provider: Arc<CryptoProvider>,
    /// Our own, for callers that renew: always the bundle that we publish.
    trust: Arc<Trust>,
    clock: Clock,
    metrics: Arc<CaMetrics>,
    live: ArcSwap<Live>,
    writer: Mutex<Writer>,
}

/// What issuing needs: replaced whole, so that one certificate never mixes two.
struct Live {
    intermediate: Arc<Intermediary>,
    bundle: Arc<TrustBundle>,
    bundle_pem: String,
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
    /// Whether the trust file is known to hold the bundle of `state`, and since when.
    published: Option<i64>,
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
    /// Opens the CA in `store`: resumes its state, or begins with a new root where there is none.
    pub(crate) fn open(
        store: Store,
        settings: Settings,
        provider: Arc<CryptoProvider>,
        trust: Arc<Trust>,
        clock: Clock,
        metrics: Arc<CaMetrics>,
    ) -> Result<Self, CaError> {
        let now = clock();
        let random = provider.secure_random;
        let published = TrustBundle::read(&settings.trust_file).ok();
        let state = match store.load()? {
            Some(state) if state.trust_domain != settings.domain.as_str() => {
                return Err(CaError::TrustDomain { stored: state.trust_domain, wanted: settings.domain });
            }
            Some(state) => state.with_leaf_life(settings.leaf_life, now),
            None => first_state(&settings, random, now)?,
        };
        let state = newer_than(state, published, || fresh_root(&settings, random, now), now)?;
        let (state, intermediate) = sign_intermediate(&state, &settings, random, now)?;
        let state = store.replace(&state)?;
        let bundle = bundle_of(&state)?;
        let live = Live {
            intermediate: Arc::new(intermediate),
            bundle_pem: bundle.to_pem(),
            bundle: Arc::new(bundle),
        };
        trust.offer(TrustBundle::clone(&live.bundle));
        let authority = Self {
            live: ArcSwap::from_pointee(live),
            writer: Mutex::new(Writer { state, published: None }),
            settings,
            store,
            provider,
            trust,
            clock,
            metrics,
        };
        let mut writer = authority.writer();
        if let Err(error) = authority.publish(&mut writer) {
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
        // The time first: no leaf lives longer than one life from the moment that its issuer was still in use (rotation's law).
        let now = (self.clock)();
        let live = self.live.load();
        let life = life.map_or(self.settings.leaf_life, |life| life.min(self.settings.leaf_life));
        let issuer = &live.intermediate.issuer;
        let leaf = issuer.leaf(id, key, life, now, self.provider.secure_random)?;
        Ok(Granted {
            serial: leaf.serial,
            not_after: leaf.not_after,
            chain: [leaf.certificate, issuer.pem.to_string(), live.bundle_pem.clone()],
        })
    }

    /// At most one step: a new intermediate, a publication, or a step of the rotation. Writes files: not for async code.
    pub(crate) fn tick(&self) -> Result<(), CaError> {
        let mut writer = self.writer();
        let result = self.step(&mut writer);
        self.measure(&writer);
        result.inspect_err(|_| self.metrics.step_failed())
    }

    fn step(&self, writer: &mut Writer) -> Result<(), CaError> {
        let now = (self.clock)();
        if self.is_intermediate_due(&writer.state, now) {
            return self.renew_intermediate(writer, now);
        }
        let Some(step) = rotation::next(&writer.state, now) else {
            return self.keep_published(writer, now);
        };
        match step {
            Step::MakeRoot => self.start_rotation(writer, now),
            Step::Publish => {
                self.publish(writer)?;
                self.change(writer, Change::Published, (self.clock)()) // dated after the file was read back
            }
            Step::Activate => {
                self.change(writer, Change::Activate, now)?;
                self.renew_intermediate(writer, now)
            }
            Step::Retire => self.change(writer, Change::Activated, (self.clock)()),
            Step::Drop => {
                self.change(writer, Change::Drop, now)?;
                self.publish(writer)
            }
        }
    }

    /// Starts a rotation now. Refused while one is under way.
    pub(crate) fn rotate(&self) -> Result<(), CaError> {
        let mut writer = self.writer();
        if writer.state.rotation.phase != Phase::Steady {
            return Err(OutOfOrder::UnderWay { phase: writer.state.rotation.phase }.into());
        }
        let result = self.start_rotation(&mut writer, (self.clock)());
        self.measure(&writer);
        result
    }

    /// The emergency act: nobody believes this root any more, from the moment that they hold the new bundle.
    pub(crate) fn distrust(&self, root: &str) -> Result<(), CaError> {
        let mut writer = self.writer();
        let now = (self.clock)();
        let fresh = match writer.state.root(root) {
            Some(Root { role: Role::Active, .. }) => {
                Some(fresh_root(&self.settings, self.provider.secure_random, now)?)
            }
            _ => None,
        };
        self.change(&mut writer, Change::Distrust { id: root.into(), fresh }, now)?;
        warn!(root, "root distrusted: certificates under it are refused from now on");
        // Both are tried, and tried again by `tick`: the order is in the state already.
        let renewed = match self.is_intermediate_due(&writer.state, now) {
            true => self.renew_intermediate(&mut writer, now),
            false => Ok(()),
        };
        let published = self.publish(&mut writer);
        self.measure(&writer);
        renewed.and(published)
    }

    pub(crate) fn status(&self) -> Status {
        let writer = self.writer();
        let live = self.live.load();
        let (issued, refused) = self.metrics.totals();
        let intermediate = status::Intermediate::new(&live.intermediate.issuer, &live.intermediate.issued_by);
        Status::new(&writer.state, intermediate, self.settings.leaf_life, issued, refused)
    }

    /// PEM, as it is published.
    pub(crate) fn bundle_pem(&self) -> String {
        self.live.load().bundle_pem.clone()
    }

    /// Id of the root that leaves chain to now.
    pub(crate) fn signing_root(&self) -> Arc<str> {
        Arc::clone(&self.live.load().intermediate.issued_by)
    }

    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.settings.domain
    }

    pub(crate) fn now(&self) -> i64 {
        (self.clock)()
    }

    /// How often [`Authority::tick`] is called: each state of a rotation can be seen, and a day's leaves cost nothing.
    pub(crate) fn pace(&self) -> Duration {
        (Duration::from_secs(self.settings.leaf_life.unsigned_abs()) / 20).clamp(FASTEST, SLOWEST)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_rotation(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        let root = fresh_root(&self.settings, self.provider.secure_random, now)?;
        self.change(writer, Change::Prepare(root), now)
    }

    /// Stores the changed state, then lets it take effect on what issuance answers carry.
    fn change(&self, writer: &mut Writer, change: Change, now: i64) -> Result<(), CaError> {
        let state = self.store.replace(&rotation::apply(&writer.state, change, now)?)?;
        let (before, after) = (writer.state.rotation.phase, state.rotation.phase);
        if before != after {
            info!(%before, %after, "rotation of the root");
        }
        if writer.state.bundle_sequence != state.bundle_sequence {
            writer.published = None;
        }
        writer.state = state;
        self.announce(writer)
    }

    /// Puts the state's bundle into answers and into our own trust.
    fn announce(&self, writer: &Writer) -> Result<(), CaError> {
        let bundle = Arc::new(bundle_of(&writer.state)?);
        let live = self.live.load();
        if live.bundle.sequence < bundle.sequence {
            self.trust.offer(TrustBundle::clone(&bundle));
            let intermediate = Arc::clone(&live.intermediate);
            self.live.store(Arc::new(Live { intermediate, bundle_pem: bundle.to_pem(), bundle }));
        }
        Ok(())
    }

    /// Writes the trust file and reads it back.
    fn publish(&self, writer: &mut Writer) -> Result<(), CaError> {
        let path = &self.settings.trust_file;
        let failed = |source| CaError::Publish { path: path.clone(), source };
        let bundle = bundle_of(&writer.state)?;
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        files::write_atomic(path, bundle.to_pem().as_bytes(), PUBLIC).map_err(failed)?;
        if !holds(path, &bundle) {
            return Err(failed(io::Error::other("it does not hold what was written")));
        }
        writer.published = Some((self.clock)());
        Ok(())
    }

    /// Publishes what is not yet published, and mends a trust file that someone else damaged.
    fn keep_published(&self, writer: &mut Writer, now: i64) -> Result<(), CaError> {
        match writer.published {
            Some(since) if now - since < CHECK_FILE => Ok(()),
            Some(_) if holds(&self.settings.trust_file, &bundle_of(&writer.state)?) => {
                writer.published = Some(now);
                Ok(())
            }
            _ => self.publish(writer),
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
        let (state, intermediate) =
            sign_intermediate(&writer.state, &self.settings, self.provider.secure_random, now)?;
        writer.state = self.store.replace(&state)?;
        info!(serial = %intermediate.issuer.serial, root = %intermediate.issued_by, "new intermediate");
        let live = self.live.load();
        let (bundle, bundle_pem) = (Arc::clone(&live.bundle), live.bundle_pem.clone());
        self.live.store(Arc::new(Live { intermediate: Arc::new(intermediate), bundle, bundle_pem }));
        Ok(())
    }

    fn measure(&self, writer: &Writer) {
        let now = (self.clock)();
        let live = self.live.load();
        self.metrics.left("intermediate", live.intermediate.issuer.not_after - now);
        if let Some(root) = writer.state.root_as(Role::Active) {
            self.metrics.left("root", root.not_after - now);
        }
        self.metrics.phase(writer.state.rotation.phase);
    }
}

fn fresh_root(settings: &Settings, random: &dyn SecureRandom, now: i64) -> Result<Root, CaError> {
    let (root, key) = Issuer::new_root(&settings.domain, settings.root_life, now, random)?;
    info!(root = %root.id(), "new root");
    Ok(Root {
        id: root.id(),
        role: Role::Next, // `rotation::apply` gives it its role
        made: now,
        not_after: root.not_after,
        certificate: Arc::clone(&root.pem),
        key: Secret::new(key),
    })
}

fn first_state(settings: &Settings, random: &dyn SecureRandom, now: i64) -> Result<State, CaError> {
    let root = fresh_root(settings, random, now)?;
    Ok(State::new(settings.domain.as_str().to_owned(), root, 1, settings.leaf_life, now))
}

/// Holders of a bundle ignore older ones. Where the trust file is ahead of the state (restored from a backup, or lost), the
/// state's bundle gets a sequence beyond it; a root that was distrusted meanwhile stays so.
fn newer_than(
    mut state: State,
    published: Option<TrustBundle>,
    fresh: impl Fn() -> Result<Root, CaError>,
    now: i64,
) -> Result<State, CaError> {
    let Some(published) = published else { return Ok(state) };
    for id in &published.distrusted {
        if let Some(root) = state.root(id) {
            warn!(root = %id, "the trust file says that this root was distrusted after the state was saved");
            let fresh = if root.role == Role::Active { Some(fresh()?) } else { None };
            state = rotation::apply(&state, Change::Distrust { id: Arc::clone(id), fresh }, now)?;
        }
    }
    let ours = bundle_of(&state)?;
    let behind = published.sequence > ours.sequence;
    if behind || (published.sequence == ours.sequence && published != ours) {
        warn!(
            file = published.sequence,
            state = ours.sequence,
            "the trust file is not this state's; publishing a newer one"
        );
        state.bundle_sequence = published.sequence.saturating_add(1);
    }
    Ok(state)
}

/// A new intermediate under the active root, and the state in which it is recorded; the caller stores that before use.
fn sign_intermediate(
    state: &State,
    settings: &Settings,
    random: &dyn SecureRandom,
    now: i64,
) -> Result<(State, Intermediary), CaError> {
    let root = state.root_as(Role::Active).ok_or(CaError::NoRoot)?;
    let signer = Issuer::load(&root.certificate, root.key.expose())?;
    let issuer = signer.intermediate(&settings.domain, settings.intermediate_life, now, random)?;
    let record = Intermediate {
        serial: Arc::clone(&issuer.serial),
        issued_by: Arc::clone(&root.id),
        not_after: issuer.not_after,
        certificate: Arc::clone(&issuer.pem),
    };
    let life = Duration::from_secs((issuer.not_after - now).max(0).unsigned_abs());
    let after = schedule::renew_after(life, fastrand::f64()).as_secs();
    let renew_at = now.saturating_add_unsigned(after);
    let issued_by = Arc::clone(&root.id);
    Ok((state.with_intermediate(record, now), Intermediary { issuer, issued_by, renew_at }))
}

/// The bundle that a state stands for, oldest root first: the same sequence is always the same bytes.
fn bundle_of(state: &State) -> Result<TrustBundle, CaError> {
    let certificates = state.roots.iter().map(|root| {
        CertificateDer::from_pem_slice(root.certificate.as_bytes())
            .map_err(|e| format!("root {}: {e:?}", root.id))
    });
    let distrusted = state.distrusted.iter().map(|root| Arc::clone(&root.id)).collect();
    certificates
        .collect::<Result<_, _>>()
        .and_then(|roots| TrustBundle::new(state.bundle_sequence, roots, distrusted))
        .map_err(CaError::Bundle)
}

fn holds(path: &Path, bundle: &TrustBundle) -> bool {
    TrustBundle::read(path).is_ok_and(|read| read == *bundle)
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
    #[error("the trust bundle cannot be written to {}: {source}", path.display())]
    Publish { path: PathBuf, source: io::Error },
    #[error(
        "the state is of trust domain {stored}, not {wanted}; a trust domain cannot be renamed, use another --state"
    )]
    TrustDomain { stored: String, wanted: TrustDomain },
    #[error("the state's roots make no bundle: {0}; restore the state file from a backup")]
    Bundle(String),
    #[error("the state has no active root; restore the state file from a backup")]
    NoRoot,
}

/// A test's leaves of seconds: four looks a second are enough for anyone who watches.
const FASTEST: Duration = Duration::from_millis(250);
/// A step of a rotation may be a minute late; a day's leaves do not notice.
const SLOWEST: Duration = Duration::from_secs(60);
/// Seconds between looks at the trust file: its readers refuse everyone while it is broken.
const CHECK_FILE: i64 = 60;

#[cfg(test)]
mod tests;
