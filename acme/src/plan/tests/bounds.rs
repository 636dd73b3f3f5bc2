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
fn an_order_that_is_given_up_keeps_what_went_wrong_last() {
    let mut world = without_twin();
    world.record.held = Some(held(START - 200, 300));
    let mut ca = honest(300);
    world.run(100, |world, step| if step == Step::Poll { trouble(None) } else { ca(world, step) });
    let failure = &world.record.failures[0].problem;
    assert_eq!(failure.detail, "the CA did not finish the order in time: no route");

    // Where there is no order yet, there is nothing to give up.
    let mut world = without_twin();
    world.record.held = Some(held(START - 200, 300));
    world.run(HOUR, |_, _| trouble(None));
    assert!(world.record.failures.is_empty() && world.record.trouble.is_some());
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

fn other() -> Issuer {
    Issuer::new("other", "https://other.example/directory").unwrap()
}

#[test]
fn another_issuer_must_be_wanted_for_five_minutes_where_a_valid_certificate_is_held() {
    let mut world = without_twin();
    world.record.held = Some(held(START - DAY, 90 * DAY));
    let mine = world.wish.clone();
    // It is gone for a moment, four times.
    for _ in 0..4 {
        world.wish.as_mut().unwrap().issuer = other();
        world.run(299, honest(90 * DAY));
        world.wish = mine.clone();
        world.run(10, honest(90 * DAY));
    }
    assert!(world.asks().is_empty(), "{:?}", world.taken);
    assert_eq!(world.count(Step::Notice), 8, "one store when it goes, and one when it comes back");
    let began = world.now;
    world.wish.as_mut().unwrap().issuer = other();
    world.run(1, honest(90 * DAY));
    assert_eq!((world.plan().at, world.plan().because), (began + 300, Because::Settling));
    world.run(HOUR, honest(90 * DAY));
    assert_eq!(world.asks(), [(began + 300 - START, false)]);
    assert_eq!(world.record.held.as_ref().unwrap().directory, "https://other.example/directory");
    assert_eq!(world.record.moving, None, "it is there");
}

#[test]
fn whoever_asks_means_another_issuer_and_whoever_has_nothing_valid_waits_for_nothing() {
    let mut world = without_twin();
    world.record.held = Some(held(START - DAY, 90 * DAY));
    world.wish.as_mut().unwrap().issuer = other();
    world.run(10, honest(90 * DAY));
    world.wish.as_mut().unwrap().renew = Some(world.now);
    world.run(1, honest(90 * DAY));
    assert_eq!(world.asks(), [(10, false)]);
    for held in [None, Some(held(START - DAY, DAY - 1)), Some(held(START - DAY, DAY + 100))] {
        let mut world = without_twin();
        let end = held.as_ref().map_or(START, |held| (held.not_after + 1).max(START));
        world.record.held = held;
        world.wish.as_mut().unwrap().issuer = other();
        world.run(200, honest(90 * DAY));
        assert_eq!(world.asks(), [(end - START, false)]);
    }
}

#[test]
fn a_renewal_that_is_under_way_outlasts_an_issuer_that_is_gone_for_a_moment() {
    for stops_before in [Step::Tell, Step::Collect] {
        let mut world = without_twin();
        world.record.held = Some(held(START - 60 * DAY, 90 * DAY));
        let (mine, mut ca) = (world.wish.clone(), honest(90 * DAY));
        while world.plan().step != stops_before {
            assert!(world.step(START + 60, &mut ca));
        }
        world.wish.as_mut().unwrap().issuer = other();
        world.run(200, &mut ca);
        assert!(world.record.order.is_some(), "{stops_before:?}");
        world.wish = mine;
        world.run(60, &mut ca);
        assert!(world.record.held.as_ref().unwrap().since > START, "{stops_before:?}");
        assert_eq!(world.asks().len(), 1);
    }
}

#[test]
fn a_certificate_that_was_asked_for_is_fetched_when_its_wish_comes_back() {
    let mut world = without_twin();
    let (mine, mut ca) = (world.wish.clone(), honest(90 * DAY));
    while world.plan().step != Step::Collect {
        assert!(world.step(START + 60, &mut ca));
    }
    world.wish = None;
    world.run(DAY - 100, &mut ca);
    world.wish = mine.clone();
    world.run(10, &mut ca);
    assert_eq!((world.count(Step::Finalize), world.asks().len()), (1, 1));
    assert!(world.record.held.is_some());

    world.record = Record::new(names());
    while world.plan().step != Step::Collect {
        assert!(world.step(world.now + 60, &mut ca));
    }
    world.wish = None;
    world.run(DAY + 100, &mut ca);
    assert_eq!(world.count(Step::Abandon { failed: false }), 1, "not for ever");
}

#[test]
fn who_mends_his_issuer_or_his_kind_of_challenge_does_not_wait_for_what_failed_before() {
    let mend = |mend: fn(&mut Wish)| {
        let mut world = without_twin();
        let mut ca = honest(90 * DAY);
        world.run(3 * DAY, |world, step| if step == Step::Read { refused(None) } else { ca(world, step) });
        assert!(world.record.failed > 4 && world.plan().because == Because::BackOff);
        mend(world.wish.as_mut().unwrap());
        world.run(1, |world, step| if step == Step::Read { refused(None) } else { ca(world, step) });
        (world.record.failed, world.plan().at - world.now)
    };
    for of in [(|wish| wish.kind = Kind::TlsAlpn01) as fn(&mut Wish), |wish| wish.issuer = other()] {
        let (failed, wait) = mend(of);
        assert!(failed == 1 && wait < 70, "at once, and then anew after a minute: {failed}, {wait}");
    }
    assert!(mend(|wish| wish.namespace = "mail".into()).0 > 4);
}

#[test]
fn nothing_is_forgotten_while_challenges_are_to_be_taken_back() {
    let mut world = without_twin();
    let mut ca = honest(90 * DAY);
    for _ in 0..3 {
        world.step(START + 60, &mut ca);
    }
    world.wish = None;
    world
        .run(30 * DAY, |world, step| if step == Step::Clear { Outcome::NotCleared } else { ca(world, step) });
    assert_eq!((world.count(Step::Clear), world.count(Step::Forget)), (12, 1), "{:?}", world.taken);
}

/// As long as names of a certificate may be, but for the number in front.
const LONG_NAME: &str = concat!(
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff.",
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff.",
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff.",
    "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee.example",
);
