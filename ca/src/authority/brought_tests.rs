//! A user brings intermediates of roots of his own, to two replicas on one stored state, in virtual time.

use super::{
    replica_tests::{DOMAIN, World},
    *,
};
use crate::{
    admin::status::RootState,
    brought::tests::{Signing, at, ca, offer, path_length, with},
    state::Offer,
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use signet_core::{tls, verifier::MeshVerifier};
use std::sync::atomic::Ordering;

impl World {
    fn brings(&self, offer: Option<Offer>) {
        *self.secret.lock().unwrap() = offer;
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    /// Whether whoever reads the trust file now believes `leaf`.
    fn believes(&self, leaf: &Granted) -> bool {
        let trust = Trust::new(TrustDomain::new(DOMAIN).unwrap());
        trust.offer(TrustBundle::read(&self.directory.join("trust.pem")).unwrap());
        let verifier = MeshVerifier::new(trust, tls::default_provider().signature_verification_algorithms);
        let (_bundle, chain) = leaf.chain.split_last().unwrap();
        let chain: Vec<_> =
            chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.now().unsigned_abs()));
        verifier.check_chain(&chain, now).is_ok()
    }

    fn signing_root(&self) -> String {
        self.replicas[0].signing_root().to_string()
    }

    fn keys_in_the_state(&self) -> usize {
        let json = serde_json::to_string(&self.shared.state().unwrap()).unwrap();
        json.matches("BEGIN PRIVATE KEY").count()
    }

    /// Beats for `seconds`; both issue all the time, and every leaf that is valid is believed. Which phases were passed.
    fn live(&self, seconds: i64) -> Vec<Phase> {
        let (mut phases, mut leaves) = (vec![self.phase()], Vec::new());
        for _ in 0..seconds {
            leaves.extend((0..2).map(|index| self.leaf(index).unwrap()));
            leaves.retain(|leaf: &Granted| leaf.not_after >= self.now());
            if self.now() % 10 == 0 {
                for leaf in leaves.iter().step_by(7) {
                    assert!(self.believes(leaf), "{:?}", self.shared.state().unwrap().rotation);
                }
            }
            self.beat();
            if phases.last() != Some(&self.phase()) {
                phases.push(self.phase());
            }
            self.pass(1);
        }
        phases
    }
}

const ROTATION: [Phase; 6] =
    [Phase::Steady, Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire, Phase::Steady];
/// Seconds in which a rotation of these short lives is over, begun up to a minute late.
const ROTATES: i64 = 450;

/// Two replicas under the first of two roots.
fn brought(name: &str) -> (World, Signing, Signing) {
    let (root, other) = (Signing::root("one"), Signing::root("two"));
    let mut world = World::empty(name);
    world.brings(Some(root.offer(ca("mesh"))));
    world.try_start().unwrap();
    world.try_start().unwrap();
    (world, root, other)
}

#[test]
fn a_ca_that_begins_where_an_intermediate_is_brought_makes_no_root_and_holds_no_key_of_it() {
    let (world, root, _) = brought("begins");
    let (a, b) = (world.leaf(0).unwrap(), world.leaf(1).unwrap());
    assert_eq!(a.chain.len(), 4, "leaf, an intermediate of ours, the user's, bundle");
    assert_ne!(a.chain[1], b.chain[1], "each its own");
    assert_eq!(a.chain[2..], b.chain[2..]);
    assert!(world.believes(&a) && world.believes(&b));
    let state = world.shared.state().unwrap();
    assert_eq!((state.roots.len(), &*state.roots[0].id), (1, &*root.id()));
    assert_eq!(world.keys_in_the_state(), 0);
    let status = world.replicas[0].status();
    assert!(status.roots[0].brought && status.rotation.next_step_at.is_none() && status.fault.is_none());
    assert_eq!(
        status.intermediate.brought.unwrap().not_after,
        crate::ledger::rfc3339(1_800_000_000 + 365 * 86_400)
    );
    assert_eq!(world.live(ROTATES), [Phase::Steady], "and none is made later");
}

#[test]
fn where_the_intermediate_leaves_no_room_it_signs_leaves_itself_and_is_recorded_once() {
    let root = Signing::root("one");
    let mut world = World::empty("direct");
    world.brings(Some(root.offer(with("mesh", path_length(0)))));
    world.try_start().unwrap();
    world.try_start().unwrap();
    world.restart(1).unwrap();
    let leaf = world.leaf(0).unwrap();
    assert_eq!(leaf.chain.len(), 3);
    assert_eq!(leaf.chain[1..], world.leaf(1).unwrap().chain[1..]);
    assert!(world.believes(&leaf));
    assert_eq!(world.shared.state().unwrap().intermediates.len(), 1);
}

#[test]
fn while_what_is_brought_is_refused_a_ca_without_state_waits_and_makes_nothing() {
    let (one, two) = (Signing::root("one"), Signing::root("two"));
    let mut world = World::empty("waits");
    world.brings(Some(offer(&[&one.below(ca("mesh"))], &two)));
    let error = world.try_start().unwrap_err();
    assert!(matches!(error, CaError::Refused(_)) && error.is_passing(), "{error}");
    assert!(world.shared.state().is_none());
    world.brings(Some(one.offer(ca("mesh"))));
    world.try_start().unwrap();
}

#[test]
fn a_root_of_ours_gives_way_to_the_users_in_a_rotation_in_which_every_leaf_is_believed() {
    let root = Signing::root("one");
    let mut world = World::empty("gives-way");
    world.try_start().unwrap();
    world.try_start().unwrap();
    assert_eq!(world.live(30), [Phase::Steady]);
    world.brings(Some(root.offer(ca("mesh"))));
    assert_eq!(world.live(ROTATES), ROTATION);
    assert_eq!(world.signing_root(), root.id());
    assert_eq!(world.keys_in_the_state(), 0, "ours went with its root");
    for index in 0..2 {
        world.restart(index).unwrap();
    }
    assert_eq!(world.live(100), [Phase::Steady]);
}

#[test]
fn another_intermediate_of_the_same_root_is_used_within_a_minute_without_a_rotation() {
    let (world, root, _) = brought("renewed");
    let before = world.leaf(0).unwrap();
    world.brings(Some(root.offer(ca("mesh"))));
    assert_eq!(world.live(70), [Phase::Steady]);
    let after = world.leaf(0).unwrap();
    assert_ne!(before.chain[2], after.chain[2]);
    assert_eq!(after.chain[2], world.leaf(1).unwrap().chain[2]);
    assert_eq!(before.chain[3], after.chain[3], "the same bundle");
    assert!(world.believes(&before) || before.not_after < world.now());
}

#[test]
fn an_intermediate_of_another_root_is_rotated_to_and_replicas_may_begin_again_in_each_phase() {
    for dies_in in [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
        let (mut world, one, two) = brought("rotates");
        world.brings(Some(two.offer(ca("mesh"))));
        for _ in 0..ROTATES {
            world.beat();
            if world.phase() == dies_in {
                break;
            }
            world.pass(1);
        }
        assert_eq!(world.phase(), dies_in);
        let signs = if matches!(dies_in, Phase::Prepare | Phase::Converge) { &one } else { &two };
        for index in 0..2 {
            world.restart(index).unwrap();
            assert_eq!(*world.replicas[index].signing_root(), signs.id(), "{dies_in}");
        }
        let phases = world.live(ROTATES);
        assert!(ROTATION.ends_with(&phases), "{dies_in}: {phases:?}");
        assert_eq!(world.signing_root(), two.id());
        assert_eq!(world.keys_in_the_state(), 0, "nothing of the user's is kept in the end");
    }
}

#[test]
fn a_rotation_to_what_is_taken_away_or_put_back_before_it_signs_is_taken_back() {
    let (world, one, two) = brought("taken-back");
    let first = one.offer(ca("mesh"));
    world.brings(Some(first.clone()));
    assert_eq!(world.live(70), [Phase::Steady]);
    world.brings(Some(two.offer(ca("mesh"))));
    assert_eq!(world.live(110), ROTATION[..3]);
    world.brings(Some(first));
    assert_eq!(world.live(ROTATES), [Phase::Converge, Phase::Steady]);
    assert_eq!(world.signing_root(), one.id());
    let bundle = TrustBundle::read(&world.directory.join("trust.pem")).unwrap();
    assert_eq!((bundle.roots.len(), bundle.sequence), (1, 3));
}

#[test]
fn what_is_refused_is_told_and_changes_nothing_and_once_it_is_mended_it_is_used() {
    let (world, one, two) = brought("refused");
    let state = world.shared.state();
    let before = world.leaf(0).unwrap();
    world.brings(Some(offer(&[&one.below(ca("mesh"))], &two)));
    world.pass(60);
    let error = world.replicas[0].tick().unwrap_err();
    assert!(matches!(error, CaError::Refused(_)), "{error}");
    assert_eq!(world.replicas[0].status().fault, Some(error.to_string()));
    world.replicas[0].tick().unwrap(); // told once a minute
    world.replicas[1].tick().unwrap_err();
    assert_eq!(world.live(100), [Phase::Steady]);
    assert_eq!(world.leaf(0).unwrap().chain[1..], before.chain[1..]);
    assert_eq!(world.shared.state(), state);
    world.brings(Some(two.offer(ca("mesh"))));
    assert_eq!(world.live(ROTATES), ROTATION);
    assert_eq!(world.replicas[0].status().fault, None);
}

#[test]
fn beside_what_is_refused_a_root_of_ours_stays_and_none_is_made_at_half_of_its_life() {
    let mut world = World::empty("beside");
    world.try_start().unwrap();
    world.try_start().unwrap();
    let ours = world.signing_root();
    world.brings(Some(offer(&[&Signing::root("one").below(ca("mesh"))], &Signing::root("two"))));
    assert_eq!(world.live(70), [Phase::Steady]);
    assert!(matches!(world.replicas[0].rotate(), Err(CaError::Refused(_))), "an order says why not");
    world.pass(60_000);
    for _ in 0..50 {
        world.beat();
        world.pass(2);
    }
    assert_eq!((world.phase(), world.signing_root()), (Phase::Steady, ours.clone()));
    world.brings(None);
    for _ in 0..100 {
        world.beat();
        world.pass(2);
    }
    assert_ne!(world.phase(), Phase::Steady, "with the Secret gone, ours is replaced as ever");
}

#[test]
fn once_it_is_taken_away_what_is_in_memory_signs_on_and_who_begins_again_waits_and_makes_no_root() {
    let (mut world, root, _) = brought("withdrawn");
    world.brings(None);
    world.pass(60);
    for replica in &world.replicas {
        let error = replica.tick().unwrap_err();
        assert!(matches!(error, CaError::Withdrawn { .. }), "{error}");
        assert_eq!(replica.status().fault, Some(error.to_string()));
    }
    assert_eq!(world.live(200), [Phase::Steady]);
    let error = world.restart(1).unwrap_err();
    assert!(matches!(error, CaError::NoIntermediate { .. }) && error.is_passing(), "{error}");
    assert!(error.to_string().contains("signet-ca-intermediate") && error.to_string().contains(&root.id()));
    assert_eq!(world.shared.state().unwrap().roots.len(), 1);
    world.brings(Some(root.offer(ca("mesh"))));
    world.restart(1).unwrap();
    assert_eq!(world.live(70), [Phase::Steady]);
    assert_eq!(world.replicas[0].status().fault, None);
}

#[test]
fn orders_on_the_users_root_are_refused_with_words_until_he_brings_another() {
    let (world, one, two) = brought("orders");
    for error in [world.replicas[0].rotate().unwrap_err(), world.replicas[1].distrust(&one.id()).unwrap_err()]
    {
        assert!(matches!(error, CaError::Order(_)), "{error}");
        assert!(error.to_string().contains("Secret signet-system/signet-ca-intermediate"), "{error}");
    }
    world.brings(Some(two.offer(ca("mesh"))));
    world.replicas[1].rotate().unwrap();
    assert_eq!(world.phase(), Phase::Prepare, "at once, without waiting for the next look");
    let leaf = world.leaf(0).unwrap();
    world.replicas[1].distrust(&one.id()).unwrap();
    world.beat();
    world.beat();
    assert_eq!((world.phase(), world.signing_root()), (Phase::Steady, two.id()));
    assert!(!world.believes(&leaf) && world.believes(&world.leaf(0).unwrap()));
    assert_eq!(world.keys_in_the_state(), 0);
    world.brings(Some(one.offer(ca("mesh"))));
    world.pass(60);
    assert!(matches!(world.replicas[0].tick(), Err(CaError::Refused(_))), "it stays distrusted");
    let roots = world.replicas[0].status().roots;
    assert!(roots.iter().any(|root| root.state == RootState::Distrusted && root.id == one.id()));
}

#[test]
fn a_distrusted_root_of_ours_is_replaced_by_the_users_and_by_another_of_ours_where_his_is_refused() {
    let one = Signing::root("one");
    for (offered, brought) in
        [(one.offer(ca("mesh")), true), (offer(&[&one.below(ca("mesh"))], &Signing::root("two")), false)]
    {
        let mut world = World::empty("distrusts-ours");
        world.try_start().unwrap();
        let ours = world.signing_root();
        world.brings(Some(offered));
        world.replicas[0].distrust(&ours).unwrap();
        assert_ne!(world.signing_root(), ours);
        assert_eq!(world.signing_root() == one.id(), brought);
        assert!(world.believes(&world.leaf(0).unwrap()));
    }
}

#[test]
fn a_next_root_that_is_distrusted_is_not_brought_in_again_by_who_has_not_looked_since() {
    let (world, one, two) = brought("distrusts-next");
    world.brings(Some(two.offer(ca("mesh"))));
    world.replicas[0].rotate().unwrap();
    world.replicas[0].distrust(&two.id()).unwrap();
    assert_eq!(world.live(100), [Phase::Steady]);
    assert_eq!(world.signing_root(), one.id());
    assert_eq!(world.shared.state().unwrap().roots.len(), 1);
}

#[test]
fn a_root_does_not_become_the_one_that_signs_when_what_was_brought_for_it_has_expired() {
    let mut world = World::empty("expired");
    world.try_start().unwrap();
    world.try_start().unwrap();
    let ours = world.signing_root();
    let two = Signing::root("two");
    let ends = world.now() + 100;
    world.brings(Some(two.offer(with("mesh", |params| params.not_after = at(ends)))));
    world.replicas[0].rotate().unwrap();
    assert_eq!(world.live(400), [Phase::Prepare, Phase::Converge]);
    assert_eq!(world.signing_root(), ours);
    let error = world.replicas[0].tick().unwrap_err();
    assert!(matches!(error, CaError::NoIntermediate { .. } | CaError::Refused(_)), "{error}");
    world.brings(Some(two.offer(ca("mesh"))));
    assert_eq!(world.live(ROTATES), ROTATION[2..]);
    assert_eq!(world.signing_root(), two.id());
}

#[test]
fn what_was_given_to_another_root_before_anyone_looked_leaves_a_way_back() {
    let (mut world, one, two) = brought("all-began-again");
    world.brings(Some(two.offer(ca("mesh"))));
    for index in 0..2 {
        let error = world.restart(index).unwrap_err();
        assert!(error.is_passing() && error.to_string().contains(&two.id()), "{error}");
    }
    world.brings(Some(one.offer(ca("mesh"))));
    for index in 0..2 {
        world.restart(index).unwrap();
    }
    world.brings(Some(two.offer(ca("mesh"))));
    assert_eq!(world.live(ROTATES), ROTATION);
}
