//! Lives of certificates in virtual time.

use super::*;

fn without_twin() -> World {
    let mut world = World::new();
    world.wish.as_mut().unwrap().issuer.twin = None;
    world
}

/// The directories whose CA was told to look.
fn told(world: &World) -> Vec<&str> {
    world.taken.iter().filter(|(_, step, _)| *step == Step::Tell).map(|(_, _, at)| at.as_str()).collect()
}

fn is_rehearsal(world: &World) -> bool {
    world.record.order.as_ref().is_some_and(|order| order.rehearsal)
}

#[test]
fn a_first_certificate_is_rehearsed_then_made_then_renewed_without_rehearsal() {
    let mut world = World::new();
    world.run(100, honest(90 * DAY));
    assert_eq!(world.asks().iter().map(|(_, rehearsal)| *rehearsal).collect::<Vec<_>>(), [true, false]);
    assert_eq!(world.count(Step::Finalize), 1, "nothing is finalized in a rehearsal");
    assert_eq!(told(&world), [LETS_ENCRYPT_STAGING, LETS_ENCRYPT]);
    let since = world.record.held.as_ref().unwrap().since;
    assert!(since - START < 30, "promoted by itself, within seconds");
    assert!(world.record.leftover.challenges.is_empty() && world.record.tellings.is_empty());

    world.run(365 * DAY, honest(90 * DAY));
    let renewals: Vec<(i64, bool)> = world.asks().split_off(2);
    assert_eq!(renewals.len(), 6, "{renewals:?}");
    assert!(renewals.iter().all(|(_, rehearsal)| !rehearsal));
    let mut before = since - START;
    for (at, _) in renewals {
        assert!(
            (90 * DAY * 59 / 100..90 * DAY * 66 / 100).contains(&(at - before)),
            "after {} s",
            at - before
        );
        before = at;
    }
}

#[test]
fn six_days_and_a_minute_are_renewed_at_half_of_their_life() {
    for life in [60, 300, 6 * DAY + 16 * HOUR] {
        let mut world = without_twin();
        let mut was_valid = false;
        let end = START + 20 * life;
        let mut ca = honest(life);
        while world.step(end, &mut ca) {
            let is_valid = world.record.served(world.now).is_some();
            assert!(is_valid || !was_valid, "{life}: never without, once it had one");
            was_valid = is_valid;
        }
        let count = world.count(Step::Finalize);
        assert!((30..=50).contains(&count), "{life}: {count} certificates in 20 lives");
    }
}

#[test]
fn a_twin_that_does_not_answer_for_ten_minutes_is_gone_on_without() {
    let mut world = World::new();
    let mut ca = honest(90 * DAY);
    world.run(DAY, |world, step| {
        let is_out = is_rehearsal(world) && !matches!(step, Step::Promote | Step::Clear);
        if is_out { trouble(None) } else { ca(world, step) }
    });
    let promoted = world.taken.iter().find(|(_, step, _)| *step == Step::Promote).unwrap().0;
    assert!((600..=601).contains(&(promoted - START)), "after {} s", promoted - START);
    let tries = world.asks().iter().filter(|(_, rehearsal)| *rehearsal).count();
    assert!((4..=8).contains(&tries), "{tries} calls in ten minutes");
    assert!(world.record.served(world.now).is_some());
    assert_eq!(told(&world), [LETS_ENCRYPT]);
}

#[test]
fn a_twin_that_comes_back_after_nine_minutes_is_rehearsed_with_as_ever() {
    let mut world = World::new();
    let mut ca = honest(90 * DAY);
    world.run(DAY, |world, step| {
        let is_out = world.now < START + 240 && is_rehearsal(world) && step != Step::Clear;
        if is_out { trouble(None) } else { ca(world, step) }
    });
    assert_eq!(told(&world), [LETS_ENCRYPT_STAGING, LETS_ENCRYPT]);
}

#[test]
fn gateways_that_do_not_answer_are_no_silence_of_the_twin() {
    let mut world = World::new();
    let mut ca = honest(90 * DAY);
    world.run(2 * HOUR, |world, step| match step {
        Step::Present => Outcome::Trouble {
            with: With::Solver,
            problem: Problem::ours("nobody"),
            after: None,
            seen: None,
            unsure: false,
        },
        other => ca(world, other),
    });
    assert_eq!(world.count(Step::Promote), 0);
    assert_eq!(world.count(Step::Tell), 0, "a CA is not told what nobody answers");
}

#[test]
fn failed_validations_are_tried_after_1_10_and_100_minutes_then_daily_always_at_the_twin() {
    let mut world = World::new();
    let mut ca = honest(90 * DAY);
    world.run(4 * DAY, |world, step| if step == Step::Poll { refused(None) } else { ca(world, step) });
    let asks = world.asks();
    assert!(asks.iter().all(|(_, rehearsal)| *rehearsal), "{asks:?}");
    let waits: Vec<i64> = asks.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(waits.len() > 5);
    for (wait, base) in waits.iter().zip([60, 600, 6000, DAY, DAY, DAY]) {
        assert!((base * 9 / 10..=base * 11 / 10 + 20).contains(wait), "{waits:?}");
    }
    assert_eq!(world.record.failures.last().unwrap().problem.detail, "no");
    // The name points to us at last: the next rehearsal promotes itself.
    world.run(2 * DAY, &mut ca);
    assert!(world.record.served(world.now).is_some());
    assert!(world.record.failures.is_empty() && world.record.failed == 0);
}

#[test]
fn after_a_validation_that_failed_at_the_ca_itself_the_twin_is_asked_first_again() {
    let mut world = World::new();
    let (mut ca, mut failed) = (honest(90 * DAY), false);
    world.run(HOUR, |world, step| {
        if step == Step::Poll && !is_rehearsal(world) && !failed {
            failed = true;
            return refused(None);
        }
        ca(world, step)
    });
    assert_eq!(world.asks().iter().map(|(_, r)| *r).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn a_renewal_that_fails_keeps_what_is_held_and_is_never_rehearsed() {
    let mut world = World::new();
    world.record.held = Some(held(START - 60 * DAY, 90 * DAY));
    let mut ca = honest(90 * DAY);
    world.run(29 * DAY, |world, step| if step == Step::Poll { refused(None) } else { ca(world, step) });
    let asks = world.asks();
    assert!(asks.len() > 25 && asks.iter().all(|(_, rehearsal)| !rehearsal), "{asks:?}");
    assert!(world.record.served(world.now).is_some(), "the last good one stays to its end");
    world.run(3 * DAY, |world, step| if step == Step::Poll { refused(None) } else { ca(world, step) });
    assert!(world.record.served(world.now).is_none());
    assert!(world.asks().last().unwrap().1, "it has ended: that is a first issuance, so it is rehearsed");
}

#[test]
fn a_rate_limit_holds_orders_of_that_ca_and_of_no_other() {
    let mut world = without_twin();
    world.step(START, |_, _| refused(Some(34 * HOUR)));
    let next = world.plan();
    assert_eq!((next.at, next.because), (START + 34 * HOUR, Because::RetryAfter));
    world.now += 10;
    world.wish.as_mut().unwrap().renew = Some(world.now);
    assert_eq!(world.plan().at, START + 34 * HOUR, "nobody passes it");
    world.wish.as_mut().unwrap().issuer = Issuer::new("other", "https://other.example/directory").unwrap();
    assert!(world.plan().is_due(world.now));
    world.run(60, honest(90 * DAY));
    assert_eq!(world.record.held.as_ref().unwrap().directory, "https://other.example/directory");
}

#[test]
fn a_person_passes_our_back_off_once_and_never_the_limit_of_looks() {
    let mut world = World::new();
    let mut ca = honest(90 * DAY);
    for _ in 0..20 {
        world.wish.as_mut().unwrap().renew = Some(world.now);
        world.run(10, |world, step| if step == Step::Poll { refused(None) } else { ca(world, step) });
    }
    assert_eq!(told(&world).len(), MAX_LOOKS);
    assert!(matches!(world.plan().because, Because::Looks { .. }), "{:?}", world.plan());
}

#[test]
fn asked_for_by_a_person_a_valid_certificate_is_made_anew_once() {
    let mut world = World::new();
    world.record.held = Some(held(START - DAY, 90 * DAY));
    world.wish.as_mut().unwrap().renew = Some(START);
    world.run(HOUR, honest(90 * DAY));
    assert_eq!(world.asks(), [(0, false)]);
    assert!(world.record.held.as_ref().unwrap().since >= START);
}

#[test]
fn another_issuer_makes_it_anew_and_the_old_one_is_served_meanwhile() {
    let mut world = World::new();
    world.record.held = Some(Held { directory: LETS_ENCRYPT_STAGING.into(), ..held(START - DAY, 90 * DAY) });
    assert_eq!(world.plan().because, Because::OtherIssuer);
    let mut ca = honest(90 * DAY);
    world.run(60, |world, step| {
        assert!(world.record.served(world.now).is_some());
        ca(world, step)
    });
    assert_eq!(world.record.held.as_ref().unwrap().directory, LETS_ENCRYPT);
}

#[test]
fn a_ca_that_says_now_of_every_certificate_is_heard_once_in_a_quarter_of_a_life() {
    for (life, least) in [(60, 10), (300, 70), (90 * DAY, HOUR - 10)] {
        let mut world = without_twin();
        let mut ca = honest(life);
        world.run(20 * life.min(DAY), |world, step| {
            if step == Step::AskWindow {
                let window = Window { start: world.now - 100, end: world.now - 50, explanation: None };
                return Outcome::Window { window, after: 1 };
            }
            match ca(world, step) {
                Outcome::Certificate(held) => {
                    Outcome::Certificate(Box::new(Held { ask_window: Some(world.now), ..*held }))
                }
                other => other,
            }
        });
        let asks = world.asks();
        assert!(asks.len() > 10, "{life}: {asks:?}");
        assert!(asks.windows(2).all(|pair| pair[1].0 - pair[0].0 >= least), "{life}: {asks:?}");
        let replaces = |step: &Step| matches!(step, Step::Ask { replaces: true, .. });
        let replacing = world.taken.iter().filter(|(_, step, _)| replaces(step)).count();
        assert_eq!(replacing, asks.len() - 1, "each but the first replaces the one before");
    }
}

#[test]
fn what_a_ca_will_not_replace_is_ordered_plainly_at_once() {
    let mut world = World::new();
    world.record.held = Some(Held { ask_window: Some(START + DAY), ..held(START - 80 * DAY, 90 * DAY) });
    let mut ca = honest(90 * DAY);
    world.run(60, |world, step| match step {
        Step::Ask { replaces: true, .. } => Outcome::NoReplacement,
        other => ca(world, other),
    });
    assert_eq!(world.asks().len(), 2);
    assert!(world.record.held.as_ref().unwrap().since >= START);
}

#[test]
fn what_nobody_wants_is_not_renewed_and_forgotten_after_its_end() {
    let mut world = World::new();
    world.record.held = Some(held(START, 90 * DAY));
    world.wish = None;
    let next = world.plan();
    assert_eq!((next.step, next.at), (Step::Forget, START + 90 * DAY + 1));

    let mut world = World::new();
    for _ in 0..4 {
        world.step(START + 60, honest(90 * DAY)); // up to where the CA was told
    }
    assert_eq!(told(&world).len(), 1);
    world.wish = None;
    world.run(0, honest(90 * DAY));
    assert!(
        world.record.order.is_none() && world.record.leftover.challenges.is_empty(),
        "given up, and cleared"
    );
    assert_eq!(world.plan().step, Step::Forget);
    assert!(world.plan().at > START + HOUR, "its looks count for an hour");
}

#[test]
fn what_may_not_be_ordered_waits_and_says_why() {
    let mut world = World::new();
    world.wish.as_mut().unwrap().held_back = Some("CAA of example.com forbids letsencrypt.org".into());
    let next = world.plan();
    assert_eq!(next.step, Step::Wait);
    assert_eq!(next.because.to_string(), "CAA of example.com forbids letsencrypt.org");
    world.record = Record::new(NameSet::new(["*.example.com"]).unwrap());
    world.wish.as_mut().unwrap().held_back = None;
    assert!(world.plan().because.to_string().contains("dns-01 only"));
    world.wish.as_mut().unwrap().kind = Kind::Dns01;
    assert!(world.plan().is_due(START));
    world.record = Record::new(NameSet::new((0..26).map(|n| format!("h{n}.example.com"))).unwrap());
    world.wish.as_mut().unwrap().issuer.profile = Some("shortlived".into());
    assert!(world.plan().because.to_string().contains("at most 25"));
}

#[test]
fn an_order_that_the_ca_lets_lie_fails_after_three_hours() {
    let mut world = without_twin();
    let mut ca = honest(90 * DAY);
    world.run(3 * HOUR + 60, |world, step| {
        if step == Step::Poll { Outcome::NotYet { after: None } } else { ca(world, step) }
    });
    let slow = Step::Abandon { failed: true };
    let at = world.taken.iter().find(|(_, step, _)| *step == slow).unwrap().0;
    assert!((3 * HOUR..3 * HOUR + 60).contains(&(at - START)));
    assert_eq!(world.record.failures[0].problem.detail, "the CA did not finish the order in time");
}

#[test]
fn crashes_between_asking_and_storing_cost_orders_but_not_without_end() {
    let mut world = without_twin();
    // Dies each time before the order's URL is stored: the stage stays.
    while world.plan().is_due(world.now) {
        let next = world.plan();
        begin(&mut world.record, next.step, world.wish.as_ref(), world.now).unwrap();
        world.taken.push((world.now, next.step, String::new()));
        world.now += 1;
    }
    assert_eq!((world.asks().len(), world.plan().because), (MAX_ORDERS, Because::Orders));
    world.run(2 * HOUR, honest(90 * DAY));
    assert!(world.record.served(world.now).is_some());
}

#[test]
fn a_crash_around_telling_or_finalizing_is_gone_on_from_without_doing_it_twice() {
    // Dies between the store before the step and the one after it; the CA heard all of it or nothing.
    for (dies_at, heard) in
        [(Step::Tell, true), (Step::Tell, false), (Step::Finalize, true), (Step::Finalize, false)]
    {
        let mut world = without_twin();
        let mut ca = honest(90 * DAY);
        while world.plan().step != dies_at {
            assert!(world.step(START + 60, &mut ca));
        }
        begin(&mut world.record, dies_at, world.wish.as_ref(), world.now).unwrap();
        let key = world.record.order.as_ref().unwrap().key.clone();
        let died = world.now;
        world.run(120, |world, step| {
            let again = world.count(dies_at);
            match step {
                Step::Poll if dies_at == Step::Tell && !heard && again == 0 => {
                    Outcome::NotTold { proven: Vec::new() }
                }
                Step::Collect if dies_at == Step::Finalize && !heard && again == 0 => Outcome::NotFinalized,
                Step::Collect => {
                    let key = world.record.order.as_ref().unwrap().key.clone().unwrap();
                    let Outcome::Certificate(held) = ca(world, step) else { panic!() };
                    Outcome::Certificate(Box::new(Held { key, ..*held }))
                }
                other => {
                    assert!(other != dies_at || world.now >= died + IN_FLIGHT, "it may still be on its way");
                    ca(world, other)
                }
            }
        });
        let held = world.record.served(world.now).unwrap_or_else(|| panic!("{dies_at:?} {heard}"));
        assert_eq!(world.count(dies_at), usize::from(!heard), "{dies_at:?}, heard: {heard}");
        assert!(
            key.is_none() || key.as_ref() == Some(&held.key),
            "the key that was stored before is the one"
        );
    }
}
