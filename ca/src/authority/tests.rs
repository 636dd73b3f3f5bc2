//! The living CA, on virtual time and a real directory: steps, restarts, failures.

use super::*;
use crate::admin::status::RootState;
use crate::{publication::TrustFile, store::directory::Directory};
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use signet_core::{bundle::root_id, identity, telemetry::Metrics, tls, verifier::MeshVerifier};
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
};

const LEAF: i64 = 100;

/// A CA that can be killed and started again, in a world with one clock.
struct World {
    directory: PathBuf,
    now: Arc<AtomicI64>,
    ca: Option<Authority>,
    leaf_life: i64,
}

impl World {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("signet-authority-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let now = Arc::new(AtomicI64::new(1_800_000_000));
        let mut world = Self { directory, now, ca: None, leaf_life: LEAF };
        world.start();
        world
    }

    fn settings(&self) -> Settings {
        Settings {
            domain: TrustDomain::new("cluster.local").unwrap(),
            root_life: 100_000,
            intermediate_life: 4_000,
            leaf_life: self.leaf_life,
        }
    }

    fn trust_file(&self) -> PathBuf {
        self.directory.join("trust.pem")
    }

    fn try_start(&mut self) -> Result<(), CaError> {
        self.ca = None;
        let store = Directory::open(&self.directory.join("ca"))?;
        let settings = self.settings();
        let trust = Trust::new(settings.domain.clone());
        let now = Arc::clone(&self.now);
        let clock: Clock = Arc::new(move || now.load(Ordering::SeqCst));
        let metrics = Arc::new(CaMetrics::new(&mut Metrics::new()));
        let provider = tls::mesh_provider(tls::default_provider());
        let publication = Box::new(TrustFile(self.trust_file()));
        let ground = Ground {
            store: Box::new(store),
            publication,
            offers: None,
            replicas: None,
            provider,
            trust,
            clock,
            metrics,
        };
        self.ca = Some(Authority::open(ground, settings)?);
        Ok(())
    }

    /// Also a restart: what was in memory is gone.
    fn start(&mut self) {
        self.try_start().unwrap();
    }

    fn ca(&self) -> &Authority {
        self.ca.as_ref().unwrap()
    }

    fn pass(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    fn phase(&self) -> Phase {
        self.ca().status().rotation.state
    }

    fn leaf(&self) -> Granted {
        let id = identity::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap();
        let key = PublicKey::of(&KeyPair::generate().unwrap()).unwrap();
        self.ca().issue(&id, &key, None).unwrap()
    }

    /// Whether whoever reads the trust file now believes `leaf`.
    fn believes(&self, leaf: &Granted) -> bool {
        let trust = Trust::new(TrustDomain::new("cluster.local").unwrap());
        trust.offer(TrustBundle::read(&self.trust_file()).unwrap());
        let verifier = MeshVerifier::new(trust, tls::default_provider().signature_verification_algorithms);
        let chain: Vec<_> = leaf.chain[..2]
            .iter()
            .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .collect();
        let now = self.now.load(Ordering::SeqCst).unsigned_abs();
        verifier.check_chain(&chain, UnixTime::since_unix_epoch(Duration::from_secs(now))).is_ok()
    }

    fn published(&self) -> TrustBundle {
        TrustBundle::read(&self.trust_file()).unwrap()
    }

    fn root(&self, state: RootState) -> Option<String> {
        self.ca().status().roots.into_iter().find(|root| root.state == state).map(|root| root.id)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn an_answer_is_leaf_intermediate_and_the_bundle_that_is_in_the_trust_file() {
    let world = World::new("answer");
    let leaf = world.leaf();
    assert!(world.believes(&leaf));
    assert_eq!(leaf.chain[2], fs::read_to_string(world.trust_file()).unwrap());
    assert_eq!(TrustBundle::from_pem(leaf.chain[2].as_bytes()).unwrap().sequence, 1);
}

#[test]
fn a_wish_shortens_a_life_and_never_lengthens_it() {
    let world = World::new("wish");
    let id = identity::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap();
    let key = PublicKey::of(&KeyPair::generate().unwrap()).unwrap();
    let now = world.now.load(Ordering::SeqCst);
    for (wish, life) in [(None, LEAF), (Some(7), 7), (Some(LEAF + 1), LEAF), (Some(i64::MAX), LEAF)] {
        assert_eq!(world.ca().issue(&id, &key, wish).unwrap().not_after, now + life, "{wish:?}");
    }
}

#[test]
fn a_restart_keeps_the_root_and_records_another_intermediate() {
    let mut world = World::new("restart");
    let (root, leaf) = (world.root(RootState::Active), world.leaf());
    let before = world.ca().status().intermediate;
    world.start();
    assert_eq!(world.root(RootState::Active), root);
    assert_ne!(world.ca().status().intermediate.serial, before.serial);
    assert!(world.believes(&leaf), "leaves of before the restart are still good");
    let recorded = world.ca().writer().state.intermediates.clone();
    let serials: Vec<&str> = recorded.iter().map(|intermediate| &*intermediate.serial).collect();
    assert_eq!(serials, [&*before.serial, &*world.ca().status().intermediate.serial]);
    let text = fs::read_to_string(world.directory.join("ca/state.json")).unwrap();
    assert_eq!(text.matches("PRIVATE KEY").count(), 2, "the root's, begin and end; no intermediate's");
}

/// Each state is entered by one tick, survives a kill, and lets every leaf of before and after be believed.
#[test]
fn a_rotation_goes_through_its_states_and_survives_a_kill_in_each() {
    let mut world = World::new("rotation");
    let old = world.root(RootState::Active).unwrap();
    world.ca().rotate().unwrap();
    let mut leaves = vec![];
    let mut phases = vec![world.phase()];
    for _ in 0..200 {
        leaves.push(world.leaf());
        let now = world.now.load(Ordering::SeqCst);
        leaves.retain(|leaf| leaf.not_after >= now);
        for leaf in &leaves {
            assert!(world.believes(leaf), "{:?}", world.ca().status().rotation);
        }
        world.ca().tick().unwrap();
        if phases.last() != Some(&world.phase()) {
            phases.push(world.phase());
            world.start(); // kill -9: nothing is flushed or told
            assert_eq!(phases.last(), Some(&world.phase()), "resumed");
        }
        world.pass(LEAF / 20);
    }
    assert_eq!(phases, [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire, Phase::Steady]);
    let bundle = world.published();
    assert_eq!((bundle.sequence, bundle.roots.len()), (3, 1));
    assert_ne!(root_id(&bundle.roots[0]), old);
    assert_eq!(world.ca().status().intermediate.issued_by, root_id(&bundle.roots[0]));
}

#[test]
fn a_second_rotation_is_refused_with_words_while_one_is_under_way() {
    let world = World::new("twice");
    world.ca().rotate().unwrap();
    let error = world.ca().rotate().unwrap_err().to_string();
    assert!(error.contains("under way (prepare)"), "{error}");
    assert_eq!(world.ca().status().roots.len(), 2);
}

#[test]
fn a_root_is_rotated_by_itself_at_half_of_its_life() {
    let world = World::new("automatic");
    world.ca().tick().unwrap();
    assert_eq!(world.phase(), Phase::Steady);
    world.pass(56_000);
    for _ in 0..3 {
        world.ca().tick().unwrap(); // one step each: the overdue intermediate comes first
    }
    assert_ne!(world.phase(), Phase::Steady);
}

#[test]
fn an_intermediate_is_renewed_at_half_of_its_life_and_never_later_than_leaves_need() {
    let world = World::new("intermediate");
    let first = world.ca().status().intermediate.serial;
    world.pass(1_700);
    world.ca().tick().unwrap();
    assert_eq!(world.ca().status().intermediate.serial, first);
    world.pass(600);
    world.ca().tick().unwrap();
    assert_ne!(world.ca().status().intermediate.serial, first);
    assert_eq!(world.leaf().not_after, world.now.load(Ordering::SeqCst) + LEAF);
}

#[test]
fn distrusting_the_active_root_replaces_it_at_once() {
    let mut world = World::new("distrust");
    let (bad, leaf) = (world.root(RootState::Active).unwrap(), world.leaf());
    world.ca().distrust(&bad).unwrap();
    assert!(!world.believes(&leaf));
    assert!(world.believes(&world.leaf()), "the next leaf is good");
    let bundle = world.published();
    assert_eq!((bundle.sequence, bundle.distrusted.len(), bundle.roots.len()), (2, 1, 1));
    assert_eq!(world.root(RootState::Distrusted), Some(bad.clone()));
    world.start();
    assert_eq!(world.root(RootState::Distrusted), Some(bad.clone()));
    for id in [&*bad, "0123456789abcdef", "", "x\ny"] {
        let error = world.ca().distrust(id).unwrap_err();
        assert!(matches!(error, CaError::Order(_)) && !error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn distrust_in_the_middle_of_a_rotation_leaves_a_ca_that_issues_and_settles() {
    for state in [RootState::Active, RootState::Next, RootState::Retiring] {
        for phase in [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
            let world = World::new("distrust-rotation");
            world.ca().rotate().unwrap();
            while world.phase() != phase {
                world.ca().tick().unwrap();
                world.pass(LEAF / 20);
            }
            let Some(bad) = world.root(state) else { continue };
            world.ca().distrust(&bad).unwrap();
            assert!(world.believes(&world.leaf()), "{state:?} in {phase}");
            for _ in 0..60 {
                world.ca().tick().unwrap();
                world.pass(LEAF / 20);
            }
            assert!(world.believes(&world.leaf()), "{state:?} in {phase}, later");
            assert_eq!(
                (world.phase(), world.published().roots.len()),
                (Phase::Steady, 1),
                "{state:?} in {phase}"
            );
        }
    }
}

#[test]
fn a_trust_file_that_cannot_be_written_holds_the_rotation_and_nothing_else() {
    let world = World::new("unpublished");
    world.ca().rotate().unwrap();
    let file = world.trust_file();
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for _ in 0..5 {
        let error = world.ca().tick().unwrap_err();
        assert!(matches!(error, CaError::Publish { .. }), "{error}");
        world.pass(LEAF);
    }
    assert_eq!(world.phase(), Phase::Prepare, "nothing is dated that is not published");
    world.leaf();
    fs::remove_dir(&file).unwrap();
    world.ca().tick().unwrap();
    assert_eq!((world.phase(), world.published().roots.len()), (Phase::Converge, 2));
}

#[test]
fn a_trust_file_that_someone_damaged_is_mended() {
    let world = World::new("mended");
    fs::write(world.trust_file(), "oops").unwrap();
    world.pass(60);
    world.ca().tick().unwrap();
    assert_eq!(world.published().sequence, 1);
}

#[test]
fn a_state_from_a_backup_is_published_as_newer_and_what_was_distrusted_stays_so() {
    let mut world = World::new("backup");
    let state = world.directory.join("ca/state.json");
    let backup = fs::read(&state).unwrap();
    let bad = world.root(RootState::Active).unwrap();
    world.ca().distrust(&bad).unwrap();
    let sequence = world.published().sequence;
    fs::write(&state, backup).unwrap();
    world.start();
    assert!(world.published().sequence > sequence);
    assert_eq!(world.root(RootState::Distrusted), Some(bad));
    assert!(world.believes(&world.leaf()));
}

#[test]
fn a_ca_that_lost_its_state_begins_anew_and_is_believed() {
    let mut world = World::new("lost");
    world.ca().rotate().unwrap();
    world.ca().tick().unwrap();
    let sequence = world.published().sequence;
    world.ca = None;
    fs::remove_dir_all(world.directory.join("ca")).unwrap();
    world.start();
    assert_eq!(world.published().sequence, sequence + 1);
    assert!(world.believes(&world.leaf()));
}

#[test]
fn a_shorter_leaf_life_does_not_hurry_leaves_of_before() {
    let mut world = World::new("shorter");
    let leaf = world.leaf();
    world.leaf_life = 10;
    world.start();
    world.ca().rotate().unwrap();
    while world.phase() != Phase::Steady {
        assert!(world.believes(&leaf) || world.now.load(Ordering::SeqCst) > leaf.not_after);
        world.ca().tick().unwrap();
        world.pass(1);
    }
    assert!(world.now.load(Ordering::SeqCst) > leaf.not_after);
}

#[test]
fn a_trust_domain_is_not_renamed_by_a_flag() {
    let mut world = World::new("renamed");
    world.ca = None;
    let path = world.directory.join("ca/state.json");
    let text = fs::read_to_string(&path).unwrap().replace("cluster.local", "other.local");
    fs::write(&path, text).unwrap();
    assert!(matches!(world.try_start(), Err(CaError::TrustDomain { .. })));
}
