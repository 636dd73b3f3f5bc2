//! What neither a CA nor a person's change of mind can make of a record.

use super::*;
use crate::{problem::OfName, record::Telling};

fn without_twin() -> World {
    let mut world = World::new();
    world.wish.as_mut().unwrap().issuer.twin = None;
    world
}

/// All that a CA may say, in characters that take four bytes each.
fn long_words() -> Problem {
    let text = || "\u{10ffff}".repeat(1000);
    let names = (0..100).map(|_| OfName { name: text(), kind: Some(text()), detail: text() });
    Problem { kind: Some(text()), detail: text(), status: Some(400), names: names.collect() }
}

#[test]
fn a_record_fits_a_secret_whatever_the_ca_says() {
    let mut world = without_twin();
    world.record = Record::new(NameSet::new((0..100).map(|n| format!("h{n}.{}", LONG_NAME))).unwrap());
    let chain = "-----\n".repeat((128 << 10) / 6);
    world.record.held = Some(Held { chain, ..held(START, 90 * DAY) });
    let mut ca = honest(90 * DAY);
    for _ in 0..12 {
        world.wish.as_mut().unwrap().renew = Some(world.now + 1);
        world.run(HOUR, |world, step| match step {
            Step::Clear => Outcome::NotCleared,
            Step::Poll => Outcome::Refused { problem: long_words(), after: None },
            other => ca(world, other),
        });
    }
    assert_eq!(world.record.failures.len(), 10);
    assert!(
        !world.record.failures[9].problem.names.is_empty()
            && world.record.failures[0].problem.names.is_empty()
    );
    world.record.tellings.clear();
    world.wish.as_mut().unwrap().renew = Some(world.now + 1);
    world.run(30, |world, step| match step {
        Step::Clear => Outcome::NotCleared,
        Step::Tell | Step::Poll => {
            Outcome::Trouble { with: With::Ca, problem: long_words(), after: None, seen: None, unsure: false }
        }
        other => ca(world, other),
    });
    let trouble = world.record.trouble.as_ref().expect("the CA does not listen");
    assert!((1..100).contains(&trouble.problem.names.len()));
    assert!(world.record.leftover.challenges.len() >= 100 && world.record.order.is_some());
    let size = world.record.to_json().len();
    assert!((512 << 10..1 << 20).contains(&size), "{size} bytes");
}

#[test]
fn a_name_that_is_not_the_records_own_counts_for_nobody() {
    let mut record = Record::new(NameSet::new(["mine.example.com"]).unwrap());
    let told = |name: &str| Telling { name: name.into(), at: START };
    record.tellings = vec![told("victim.example.com"), told("mine.example.com")];
    let all = Tellings::of([&record]);
    assert_eq!(all.of_others("victim.example.com", "acme-1").count(), 0);
    assert_eq!(all.of_others("mine.example.com", "acme-1").count(), 1);
}

#[test]
fn after_the_end_of_a_short_certificate_the_limit_of_orders_is_what_holds_back() {
    for life in [60, 300] {
        let mut world = without_twin();
        world.record.held = Some(held(START - life, life));
        let mut ca = honest(life);
        world.run(
            6 * HOUR,
            |world, step| if step == Step::Finalize { refused(None) } else { ca(world, step) },
        );
        let asks = world.asks();
        assert!((55..=61).contains(&asks.len()), "{life}: {} orders in six hours", asks.len());
        world.run(HOUR, &mut ca);
        assert!(world.record.served(world.now).is_some() || world.count(Step::Finalize) > 0, "{life}");
    }
}

#[test]
fn calls_that_the_ca_surely_did_not_take_are_no_orders() {
    let ask = |outcome: Outcome| {
        let mut world = without_twin();
        world.record.held = Some(held(START - 250, 300));
        world.run(HOUR - 1, |_, step| match step {
            Step::Ask { .. } => outcome.clone(),
            Step::Abandon { failed } => Outcome::Abandoned { failed },
            _ => Outcome::Cleared,
        });
        (world.count(Step::Ask { rehearsal: false, replaces: false }), world.record.in_vain.len())
    };
    let (asks, in_vain) = ask(trouble(None));
    assert!(asks > MAX_ORDERS && in_vain == 0, "a connection that is refused: {asks}, {in_vain}");
    let (asks, in_vain) = ask(refused(Some(60)));
    assert!(asks > MAX_ORDERS && in_vain == 0, "429 with an answer: {asks}, {in_vain}");
    assert_eq!(ask(refused(None)), (MAX_ORDERS, MAX_ORDERS), "a no");
    let mut lost = trouble(None);
    if let Outcome::Trouble { unsure, .. } = &mut lost {
        *unsure = true;
    }
    assert_eq!(ask(lost), (MAX_ORDERS, MAX_ORDERS), "each may be an order that nobody knows of");
}

#[test]
fn where_a_short_certificate_is_held_a_slow_ca_is_given_up_in_time_for_another_try() {
    for (life, patience) in [(60, 60), (300, 75), (4 * HOUR, HOUR), (6 * DAY, 3 * HOUR), (90 * DAY, 3 * HOUR)]
    {
        let mut world = without_twin();
        let mut ca = honest(life);
        world.run(100.min(life / 3), &mut ca);
        let since = world.record.held.as_ref().expect("a first one").since;
        world.taken.clear();
        world.run(2 * life, |world, step| match step {
            Step::Poll => Outcome::NotYet { after: Some(5) },
            other => ca(world, other),
        });
        let told = world.taken.iter().find(|(_, step, _)| *step == Step::Tell).unwrap().0;
        let gone = world.taken.iter().find(|(_, step, _)| *step == Step::Abandon { failed: true }).unwrap().0;
        assert!((patience - 10..=patience + 1).contains(&(gone - told)), "{life}: {} s", gone - told);
        assert!(told - since < life, "{life}");
    }
}

#[test]
fn gateways_and_limits_that_take_long_are_not_the_cas_slowness() {
    let mut world = without_twin();
    world.record.held = Some(held(START - 200, 300));
    world.record.tellings =
        (0..4).map(|n| Telling { name: "a.example.com".into(), at: START - 2000 + n }).collect();
    let mut ca = honest(300);
    world.run(2000, |world, step| {
        if step == Step::Present {
            world.now += 500; // a zone
        }
        ca(world, step)
    });
    assert_eq!(world.count(Step::Abandon { failed: true }), 0, "{:?}", world.taken);
    assert!(world.record.held.as_ref().unwrap().since > START);
}

#[test]
fn after_a_lost_answer_the_ca_is_asked_ever_more_seldom() {
    for (lost, poll) in [(Step::Tell, Step::Poll), (Step::Finalize, Step::Collect)] {
        let mut world = without_twin();
        let mut ca = honest(90 * DAY);
        world.run(HOUR, |world, step| match step {
            step if step == lost => trouble(None),
            step if step == poll => Outcome::NotYet { after: None },
            other => ca(world, other),
        });
        let polls = world.count(poll);
        assert!((100..150).contains(&polls), "{polls} questions in an hour");
    }
}

/// As long as names of a certificate may be, but for the number in front.
const LONG_NAME: &str = concat!(
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff.",
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff.",
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff.",
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee.example",
);
