//! The ways through a rotation that a random walk may miss.

use super::*;

/// One of two hears nothing from the start of each phase on, and goes on being asked for certificates.
#[test]
fn a_rotation_passes_a_replica_that_is_cut_off_in_any_phase() {
    for cut_in in [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
        let (mut world, mut since) = (World::new(2), None);
        world.event(Event::Rotate(0));
        for second in 0..500 {
            if world.disk.rotation.phase == cut_in {
                since = since.or(Some(second));
            }
            world.event(Event::Cut(1, since.is_some_and(|since| second - since < 3 * FOLLOWS)));
            world.event(Event::Tick(0, Crash::No));
            world.event(Event::Follow(1));
            world.event(Event::Issue(0));
            world.event(Event::Issue(1));
            world.event(Event::Pass(1));
        }
        assert_eq!(world.disk.rotation.phase, Phase::Steady, "{cut_in}");
        assert_eq!(&*active(&world.disk), "0000000000000001", "{cut_in}");
        assert_eq!(world.steps.len(), 5, "each step once: {cut_in}");
    }
}

#[test]
fn a_crash_at_each_step_of_a_rotation_is_resumed() {
    for crash in [Crash::BeforeStore, Crash::AfterStore, Crash::AfterEffect] {
        let mut world = World::new(1);
        world.event(Event::Rotate(0));
        let mut seen = vec![];
        for _ in 0..200 {
            world.event(Event::Tick(0, Crash::No)); // starts the dead one
            world.event(Event::Issue(0));
            let before = world.disk.rotation.phase;
            if !seen.contains(&before) && next(&world.disk, Offered::Nothing, world.now).is_some() {
                seen.push(before);
                world.event(Event::Tick(0, crash));
            }
            world.event(Event::Pass(LEAF / 20));
        }
        assert_eq!(world.disk.rotation.phase, Phase::Steady, "{crash:?}");
        assert_eq!(&*active(&world.disk), "0000000000000001", "{crash:?}");
    }
}

/// The user replaces the Secret, and each replica is restarted in each phase: those that begin again sign under what the state keeps.
#[test]
fn a_rotation_from_one_root_of_the_users_to_another_passes_restarts_of_all_in_any_phase() {
    for dies_in in [Phase::Prepare, Phase::Converge, Phase::Activate, Phase::Retire] {
        let mut world = World::new(2);
        world.event(Event::Put(Some(0)));
        let (mut killed, mut idle) = (false, 0);
        for second in 0..900 {
            if second == 450 {
                assert_eq!(&*active(&world.disk), "yours0");
                world.event(Event::Put(Some(1)));
            }
            if second > 450 && world.disk.rotation.phase == dies_in && !killed {
                killed = true;
                world.event(Event::Kill(0));
                world.event(Event::Kill(1));
            }
            if second % 7 == 0 {
                world.event(Event::Look(0));
                world.event(Event::Look(1));
            }
            world.event(Event::Tick(0, Crash::No));
            world.event(if world.replicas[1].memory.is_some() {
                Event::Follow(1)
            } else {
                Event::Tick(1, Crash::No)
            });
            world.event(Event::Issue(0));
            world.event(Event::Issue(1));
            idle += usize::from(world.replicas.iter().any(|replica| replica.memory.is_none()));
            world.event(Event::Pass(1));
        }
        assert!(killed && idle <= 1, "{dies_in}: {idle} seconds with nothing to sign with");
        assert_eq!(
            (world.disk.rotation.phase, &*active(&world.disk)),
            (Phase::Steady, "yours1"),
            "{dies_in}"
        );
    }
}
