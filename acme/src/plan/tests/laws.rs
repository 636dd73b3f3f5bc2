//! What holds whatever the CA says.

use super::*;

/// A CA, a solver and a network that do anything.
fn chaos(world: &mut World, step: Step) -> Outcome {
    let slow = [0, 1, 5, 60, 5000][world.random.usize(0..5)];
    world.now += slow;
    let after = [None, None, Some(0), Some(90), Some(7200), Some(10_000_000)][world.random.usize(0..6)];
    let life = [60, 300, 6 * DAY, 90 * DAY][world.random.usize(0..4)];
    let well = honest(life)(world, step);
    let is_of_order = !matches!(
        step,
        Step::Clear | Step::Promote | Step::Notice | Step::AskWindow | Step::Abandon { .. } | Step::Forget
    );
    match (world.random.u8(0..10), step) {
        (0..=4, _) => well,
        (5, Step::Clear) => Outcome::NotCleared,
        (5..=6, Step::AskWindow) => Outcome::WindowTrouble,
        (7..=9, Step::AskWindow) => {
            let start = world.now + world.random.i64(-100_000..10_000_000);
            let window = Window { start, end: start + world.random.i64(0..1_000_000), explanation: None };
            Outcome::Window { window, after: world.random.i64(-5..1_000_000) }
        }
        (5..=6, _) if is_of_order => trouble(after),
        (7, _) if is_of_order => refused(after),
        (8, Step::Poll) => {
            let proven = if world.random.bool() { vec!["a.example.com".into()] } else { Vec::new() };
            Outcome::NotTold { proven }
        }
        (8, Step::Collect) => Outcome::NotFinalized,
        (9, Step::Poll | Step::Collect) => Outcome::NotYet { after },
        (9, Step::Ask { replaces: true, .. }) => Outcome::NoReplacement,
        _ => well,
    }
}

/// What the world itself keeps of the CA's looks and words, to judge the record by.
#[derive(Default)]
struct Books {
    /// Name, when, order, and whether the CA believed.
    looks: Vec<(String, i64, i64, bool)>,
    told_until: BTreeMap<String, i64>,
}

impl Books {
    fn check(&mut self, world: &World, step: Step, outcome: &Outcome) {
        let (at, _, directory) = world.taken.last().unwrap().clone();
        let begun = world.record.order.as_ref().map_or(0, |order| order.begun);
        let is_call = matches!(
            step,
            Step::Ask { .. } | Step::Read | Step::Tell | Step::Poll | Step::Finalize | Step::Collect
        );
        if is_call {
            let until = self.told_until.get(&directory).copied().unwrap_or(0);
            assert!(at >= until, "{step:?} before the CA's Retry-After");
        }
        if step == Step::Tell {
            for name in world.record.order.as_ref().unwrap().unproven() {
                self.looks.push((name, at, begun, false));
            }
            for name in world.record.names.iter() {
                let recent =
                    self.looks.iter().filter(|(of, when, _, good)| of == name && !good && *when > at - HOUR);
                assert!(recent.count() <= MAX_LOOKS, "{name} was shown a fifth time within an hour");
            }
        }
        for (name, _, of, good) in &mut self.looks {
            let is_proven = match outcome {
                Outcome::Proven => true,
                Outcome::NotTold { proven } => proven.contains(name),
                _ => false,
            };
            *good |= *of == begun && is_proven;
        }
        if is_call
            && let Outcome::Refused { after: Some(after), .. } | Outcome::Trouble { after: Some(after), .. } =
                outcome
        {
            self.told_until.insert(directory, world.now + (*after).min(7 * DAY));
        }
    }
}

fn change_wish(world: &mut World) {
    let random = world.random.u8(0..40);
    let Some(wanted) = &mut world.wish else {
        world.wish = (random < 20).then(wish);
        return;
    };
    match random {
        0 => world.wish = None,
        1 => wanted.held_back = if wanted.held_back.is_some() { None } else { Some("CAA forbids it".into()) },
        2 => wanted.renew = Some(world.now),
        3 => wanted.kind = if wanted.kind == Kind::Http01 { Kind::TlsAlpn01 } else { Kind::Http01 },
        4 => wanted.issuer = Issuer::new("other", "https://other.example/directory").unwrap(),
        5 => wanted.issuer = Issuer::lets_encrypt(None),
        _ => {}
    }
}

/// Some steps of chaos with every law looked at; the world as it then is.
fn chaotic(seed: u64, steps: usize) -> World {
    let mut world = World::new();
    world.random = fastrand::Rng::with_seed(seed);
    let mut books = Books::default();
    for _ in 0..steps {
        change_wish(&mut world);
        let before = world.record.clone();
        let mut came = None;
        let until = world.now + 400 * DAY;
        let went = world.step(until, |world, step| {
            let at = world.taken.last().unwrap().0;
            match (step, &world.wish) {
                (Step::Ask { rehearsal: true, .. }, Some(wish)) => {
                    assert!(wish.issuer.twin.is_some(), "a rehearsal where there is no twin");
                    let is_renewal = held_of(&world.record, &wish.issuer, at).is_some();
                    assert!(!is_renewal || before.order.is_some(), "a renewal is rehearsed");
                }
                (Step::Forget, wish) => {
                    assert!(
                        wish.is_none() && world.record.held.as_ref().is_none_or(|held| held.not_after < at)
                    );
                }
                _ => {}
            }
            let outcome = chaos(world, step);
            books.check(world, step, &outcome);
            came = Some(outcome.clone());
            outcome
        });
        if !went {
            world.now = world.now - 400 * DAY + 60; // it waits for a wish
        }
        let since = |record: &Record| record.held.as_ref().map(|held| (held.since, held.not_after));
        let is_forgotten = world.taken.last().is_some_and(|(_, step, _)| *step == Step::Forget);
        if since(&world.record) != since(&before) && !is_forgotten {
            assert!(
                matches!(came, Some(Outcome::Certificate(_))),
                "only a new one takes its place: {came:?}"
            );
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_law_is_broken(seed: u64) {
        chaotic(seed, 150);
    }

    #[test]
    fn wherever_chaos_left_it_an_honest_ca_brings_a_certificate(seed: u64, steps in 0usize..80) {
        let mut world = chaotic(seed, steps);
        (world.wish, world.record.held) = (Some(wish()), None);
        world.run(9 * DAY, honest(90 * DAY)); // the longest Retry-After is a week
        prop_assert!(world.record.served(world.now).is_some(), "{:?} {:?}", world.plan(), world.record);
    }

    #[test]
    fn a_renewal_is_planned_before_a_third_of_a_life_is_left_or_half_of_a_short_one(
        seed: u64,
        life in 60i64..400 * DAY,
        back in 0f64..0.02,
        window in proptest::option::of((-2f64..2.0, 0f64..2.0)),
    ) {
        let mut record = Record::new(names());
        record.seed = seed;
        let mut held = held(START, life);
        held.since += part(life, back); // dated back by the CA
        held.window = window.map(|(start, wide)| {
            let start = START + part(life, start);
            Window { start, end: start + part(life, wide), explanation: None }
        });
        record.held = Some(held.clone());
        let next = plan(&record, Some(&wish()), &Tellings::default(), held.since);
        let left = held.not_after - next.at;
        let share = if life < 10 * DAY { 2 } else { 3 };
        prop_assert!(left * share >= life, "{:?}: {} s of {} are left", next, left, life);
        prop_assert!(next.at > held.since, "it is not renewed in a circle");
        let is_renewal = matches!(next.step, Step::Ask { rehearsal: false, .. });
        prop_assert!(is_renewal);
    }

    #[test]
    fn a_renewal_is_at_a_random_instant_of_the_cas_window(
        seed: u64,
        start in HOUR..50 * DAY,
        wide in 1i64..4 * DAY,
    ) {
        let mut held = held(START, 90 * DAY);
        held.window = Some(Window { start: START + start, end: START + start + wide, explanation: None });
        let (at, because) = renewal(&held, seed);
        prop_assert!((start..=start + wide).contains(&(at - START)));
        prop_assert_eq!(because, Because::Window);
        prop_assert_eq!(renewal(&held, seed).0, at);
    }

    #[test]
    fn back_off_is_that_of_lets_encrypt_and_leaves_short_certificates_several_tries(
        failed in 1u32..50,
        left in 1i64..400 * DAY,
        seed: u64,
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let alone = back_off(failed, i64::MAX, &mut random);
        let base = [60, 600, 6000, DAY][(failed as usize - 1).min(3)];
        prop_assert!((base * 9 / 10..=base * 11 / 10).contains(&alone));
        let mut record = Record::new(names());
        record.held = Some(held(START, left));
        let left = longest_pause(&record, START);
        let shortened = back_off(failed, left, &mut random);
        prop_assert!((1..=left.max(pauses::SHORTEST) * 11 / 10 + 1).contains(&shortened));
        prop_assert!(left <= (record.held.as_ref().unwrap().not_after - START).max(4 * pauses::SHORTEST) / 4);
        let again = call_again(failed, left, &mut random);
        prop_assert!((1..=990).contains(&again));
    }
}

#[test]
fn the_limit_of_a_name_counts_over_all_records() {
    let mut world = World::new();
    world.wish.as_mut().unwrap().issuer.twin = None;
    for _ in 0..3 {
        world.step(START + 60, honest(90 * DAY));
    }
    let mut other = Record::new(NameSet::new(["b.example.com", "c.example.com"]).unwrap());
    let told = |at| crate::record::Telling { name: "b.example.com".into(), at };
    other.tellings = (0..4).map(|n| told(START - 100 * n)).collect();
    let next = plan(&world.record, world.wish.as_ref(), &Tellings::of([&other]), world.now);
    assert_eq!((next.step, next.at), (Step::Tell, START - 300 + HOUR));
    assert_eq!(next.because, Because::Looks { name: "b.example.com".into() });
    other.tellings.pop();
    assert!(plan(&world.record, world.wish.as_ref(), &Tellings::of([&other]), world.now).is_due(world.now));
}
