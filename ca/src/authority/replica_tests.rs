//! Two replicas on one stored state, in virtual time: what each does when the other was faster, or when it hears nothing.

use super::*;
use crate::{
    admin::status::RootState,
    publication::TrustFile,
    state::{Offer, State},
    store::next_version,
};
use rcgen::KeyPair;
use signet_core::{bundle::root_id, identity, telemetry::Metrics, tls};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

pub(super) const DOMAIN: &str = "prod.example";

/// The stored state, for all of them.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Option<State>>>);

impl Shared {
    pub(super) fn state(&self) -> Option<State> {
        self.0.lock().unwrap().clone()
    }
}

/// One replica's way to it.
struct Way {
    shared: Shared,
    cut: Arc<AtomicBool>,
}

impl Way {
    fn held(&self) -> Result<MutexGuard<'_, Option<State>>, StoreError> {
        match self.cut.load(Ordering::SeqCst) {
            true => Err(StoreError::Api { place: "test".into(), why: "cut off".into() }),
            false => Ok(self.shared.0.lock().unwrap()),
        }
    }
}

impl Store for Way {
    fn load(&self) -> Result<Option<State>, StoreError> {
        Ok(self.held()?.clone())
    }
    fn replace(&self, next: &State) -> Result<State, StoreError> {
        let mut held = self.held()?;
        let (next, _) = next_version(next, held.as_ref(), &"test")?;
        *held = Some(next.clone());
        Ok(next)
    }
}

pub(super) struct World {
    pub(super) directory: PathBuf,
    pub(super) shared: Shared,
    /// Seconds, of both clocks.
    pub(super) now: Arc<AtomicI64>,
    /// Index of who has the Lease.
    leader: Arc<AtomicUsize>,
    cut: Vec<Arc<AtomicBool>>,
    pub(super) replicas: Vec<Authority>,
    /// What the user brings.
    pub(super) secret: Arc<Mutex<Option<Offer>>>,
}

impl World {
    fn new(name: &str) -> Self {
        let mut world = Self::empty(name);
        world.start(100);
        world.start(100);
        world
    }

    pub(super) fn empty(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("signet-replicas-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        Self {
            directory,
            shared: Shared::default(),
            now: Arc::new(AtomicI64::new(1_800_000_000)),
            leader: Arc::default(),
            cut: vec![],
            replicas: vec![],
            secret: Arc::default(),
        }
    }

    fn start(&mut self, leaf_life: i64) {
        let (replica, cut) = self.open(self.replicas.len(), leaf_life).unwrap();
        self.replicas.push(replica);
        self.cut.push(cut);
    }

    /// kill -9, and another process with the same name.
    pub(super) fn restart(&mut self, index: usize) -> Result<(), CaError> {
        let (replica, cut) = self.open(index, 100)?;
        (self.replicas[index], self.cut[index]) = (replica, cut);
        Ok(())
    }

    pub(super) fn try_start(&mut self) -> Result<(), CaError> {
        let (replica, cut) = self.open(self.replicas.len(), 100)?;
        self.replicas.push(replica);
        self.cut.push(cut);
        Ok(())
    }

    fn open(&self, index: usize, leaf_life: i64) -> Result<(Authority, Arc<AtomicBool>), CaError> {
        let cut = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&self.now);
        let clock: Clock = Arc::new(move || now.load(Ordering::SeqCst));
        let leader = Arc::clone(&self.leader);
        let leads = Box::new(move || leader.load(Ordering::SeqCst) == index);
        let domain = TrustDomain::new(DOMAIN).unwrap();
        let (secret, is_cut) = (Arc::clone(&self.secret), Arc::clone(&cut));
        let offers: Offers = Box::new(move || match is_cut.load(Ordering::SeqCst) {
            true => Err(StoreError::Api { place: "test".into(), why: "cut off".into() }),
            false => Ok(secret.lock().unwrap().clone()),
        });
        let ground = Ground {
            store: Box::new(Way { shared: self.shared.clone(), cut: Arc::clone(&cut) }),
            publication: Box::new(TrustFile(self.directory.join("trust.pem"))),
            offers: Some(offers),
            replicas: Some(Replicas { running: Arc::clone(&clock), leads }),
            provider: tls::mesh_provider(tls::default_provider()),
            trust: Trust::new(domain.clone()),
            clock,
            metrics: Arc::new(CaMetrics::new(&mut Metrics::new())),
        };
        let settings = Settings { domain, root_life: 100_000, intermediate_life: 4_000, leaf_life };
        Ok((Authority::open(ground, settings)?, cut))
    }

    pub(super) fn pass(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    /// The last one first: what the first one then stores, the others have not seen.
    pub(super) fn beat(&self) {
        for replica in self.replicas.iter().rev() {
            let _ = replica.tick();
        }
    }

    fn cut(&self, index: usize, cut: bool) {
        self.cut[index].store(cut, Ordering::SeqCst);
    }

    pub(super) fn leaf(&self, index: usize) -> Result<Granted, CannotIssue> {
        let id = identity::of(&TrustDomain::new(DOMAIN).unwrap(), "shop", "api").unwrap();
        let key = PublicKey::of(&KeyPair::generate().unwrap()).unwrap();
        self.replicas[index].issue(&id, &key, None)
    }

    pub(super) fn phase(&self) -> Phase {
        self.shared.0.lock().unwrap().as_ref().unwrap().rotation.phase
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn both_sign_each_with_an_intermediate_of_its_own_under_one_root() {
    let world = World::new("both");
    let (a, b) = (world.leaf(0).unwrap(), world.leaf(1).unwrap());
    assert_eq!(a.chain[2], b.chain[2]);
    assert_ne!(a.chain[1], b.chain[1]);
    let recorded = world.shared.0.lock().unwrap().as_ref().unwrap().intermediates.len();
    assert_eq!(recorded, 2);
}

#[test]
fn who_cannot_read_the_state_signs_for_half_a_minute_and_says_why_not_after_that() {
    let world = World::new("cut");
    world.cut(1, true);
    world.pass(FOLLOWS);
    world.beat();
    assert!(world.leaf(0).is_ok() && world.leaf(1).is_ok() && world.replicas[1].is_ready());
    world.pass(1);
    world.beat();
    assert!(matches!(world.leaf(1), Err(CannotIssue::Behind)));
    assert!(world.leaf(0).is_ok() && !world.replicas[1].is_ready());
    world.cut(1, false);
    world.beat();
    assert!(world.leaf(1).is_ok());
}

/// The old root's last leaf is dated from when nobody can make one any more.
#[test]
fn a_rotation_goes_on_past_a_replica_that_is_cut_off_and_no_step_is_dated_while_it_signs() {
    for cut_in in [Phase::Prepare, Phase::Converge, Phase::Activate] {
        let world = World::new("partition");
        let old = world.replicas[0].signing_root();
        world.replicas[1].rotate().unwrap(); // an order may go to any of them
        let (mut phases, mut last_of_old, mut since) = (vec![], 0, None);
        for second in 0..600 {
            let phase = world.phase();
            if phases.last() != Some(&phase) {
                phases.push(phase);
            }
            if phase == cut_in {
                since = since.or(Some(second));
            }
            world.cut(1, since.is_some_and(|since| second - since < 3 * FOLLOWS));
            world.beat();
            for index in 0..2 {
                if let Ok(leaf) = world.leaf(index)
                    && world.replicas[index].signing_root() == old
                {
                    let over = matches!(world.phase(), Phase::Retire | Phase::Steady);
                    assert!(!over, "signed by the old root after that was dated");
                    last_of_old = last_of_old.max(leaf.not_after);
                }
            }
            if world.replicas[0].bundle_pem().matches("BEGIN").count() == 1 && phases.len() > 2 {
                assert!(world.now.load(Ordering::SeqCst) > last_of_old, "dropped while leaves are valid");
            }
            world.pass(1);
        }
        let all = [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire, Phase::Steady];
        assert_eq!(phases, all, "each once, cut in {cut_in}");
        world.beat();
        assert_eq!(world.replicas[0].signing_root(), world.replicas[1].signing_root());
        assert_eq!(world.replicas[0].bundle_pem(), world.replicas[1].bundle_pem());
    }
}

#[test]
fn who_does_not_lead_takes_no_step_and_a_change_of_leader_takes_none_twice() {
    let world = World::new("leader");
    world.replicas[0].rotate().unwrap();
    world.leader.store(7, Ordering::SeqCst);
    for _ in 0..100 {
        world.pass(1);
        world.beat();
    }
    assert_eq!(world.phase(), Phase::Prepare, "nobody leads");
    world.leader.store(1, Ordering::SeqCst);
    world.beat();
    assert_eq!(world.phase(), Phase::Converge);
    world.leader.store(0, Ordering::SeqCst);
    world.beat();
    assert_eq!(world.phase(), Phase::Converge);
}

#[test]
fn a_root_distrusted_at_one_is_distrusted_and_replaced_at_the_other_with_its_next_looks() {
    let world = World::new("distrust");
    let bad = world.replicas[0].signing_root();
    world.replicas[1].distrust(&bad).unwrap();
    world.beat(); // a new intermediate first
    world.beat();
    for replica in &world.replicas {
        assert_ne!(replica.signing_root(), bad);
        assert!(replica.status().roots.iter().any(|root| root.state == RootState::Distrusted));
    }
    let published = TrustBundle::read(&world.directory.join("trust.pem")).unwrap();
    assert_eq!(published.distrusted, [Arc::clone(&bad)]);
    assert!(published.roots.iter().all(|root| *root_id(root) != *bad));
}

#[test]
fn a_state_that_vanished_or_was_exchanged_is_never_written_over_by_who_runs() {
    let world = World::new("gone");
    world.beat();
    let held = world.shared.0.lock().unwrap().take();
    assert!(matches!(world.replicas[0].tick(), Err(CaError::Gone)));
    assert!(matches!(world.replicas[0].rotate(), Err(CaError::Gone)));
    *world.shared.0.lock().unwrap() = held.map(|state| State { version: 1, ..state });
    assert!(matches!(world.replicas[0].tick(), Err(CaError::Replaced { found: 1, .. })));
    assert_eq!(world.shared.0.lock().unwrap().as_ref().unwrap().version, 1);
}

/// While a new setting is rolled out, old and new replicas run side by side.
#[test]
fn nobody_issues_for_longer_than_the_state_says() {
    let mut world = World::new("lives");
    world.start(40);
    let now = world.now.load(Ordering::SeqCst);
    assert_eq!(world.leaf(2).unwrap().not_after, now + 40);
    world.beat();
    assert_eq!(world.leaf(0).unwrap().not_after, now + 40, "its own setting is 100");
    let state = world.shared.0.lock().unwrap().clone().unwrap();
    assert_eq!(state.earlier_leaves_until, now + 100 + FOLLOWS + MARGIN);
}
