//! CAs that do something else: the old certificate stays, and the record has the CA's words.

use super::*;

fn answer(status: u16, retry_after: Option<&'static str>, body: &str) -> Trick {
    Trick::Answer { status, retry_after, body: body.to_owned() }
}

/// What the record says went wrong last, of an order or of a call.
fn words(record: &Record) -> String {
    let failure = record.failures.last().map(|failure| failure.problem.to_string());
    let trouble = record.trouble.as_ref().map(|trouble| trouble.problem.to_string());
    failure.or(trouble).unwrap_or_default()
}

#[tokio::test]
async fn whatever_a_ca_answers_the_old_certificate_stays_and_its_words_are_kept() {
    let limited = said("rateLimited", "too many certificates already issued for example.com");
    let broken = "<html>502 Bad Gateway</html>";
    let cases: Vec<(&str, &str, Trick, &str)> = vec![
        (
            "a limit on orders",
            "/order",
            answer(429, Some("7200"), &limited),
            "too many certificates already issued",
        ),
        ("a limit on all", "/nonce", answer(503, Some("60"), ""), "the CA answered 503"),
        (
            "500",
            "/order",
            answer(500, None, &said("serverInternal", "our database is down")),
            "our database is down",
        ),
        ("no ACME at all", "/order", answer(502, None, broken), "502"),
        ("a directory that is none", "/directory", answer(200, None, broken), "not what RFC 8555 says"),
        ("a redirect", "/order", answer(302, None, ""), "302"),
        ("hangs", "/order/", Trick::Hang { after: false }, "did not answer within"),
        ("hangs at the last step", "/finalize", Trick::Hang { after: false }, "did not answer within"),
        ("a cut order", "/order", Trick::Truncate, "not what RFC 8555 says"),
        ("a cut authorization", "/authz", Trick::Truncate, "not what RFC 8555 says"),
        ("a huge order", "/order", Trick::Huge, "longer than 1048576 bytes"),
        ("a huge certificate", "/cert", Trick::Huge, "longer than 131072 bytes"),
        ("a cut certificate", "/cert", Trick::Truncate, "no chain of 1 to 10 certificates"),
        (
            "a refusal",
            "/order",
            answer(400, None, &said("rejectedIdentifier", "policy forbids it")),
            "policy forbids it",
        ),
        (
            "no finalizing",
            "/finalize",
            answer(403, None, &said("badCSR", "I do not like the key")),
            "do not like the key",
        ),
    ];
    for (case, path, trick, want) in cases {
        let world = World::new().await;
        let chain = world.renewing().await;
        world.ca.trick(path, trick);
        world.run(60).await;
        let record = world.record();
        assert_eq!(record.served(world.now()).unwrap().chain, chain, "{case}");
        assert!(words(&record).contains(want), "{case}: {:?}", words(&record));
        // It comes to itself.
        world.ca.honest();
        world.run(2 * 86400).await;
        let record = world.record();
        assert_ne!(record.held.as_ref().unwrap().chain, chain, "{case}: {:?}", words(&record));
    }
}

#[tokio::test]
async fn certificates_that_were_not_asked_for_are_never_held() {
    for (wrong, want) in
        [(Wrong::Key, "another key"), (Wrong::Name, "more.example.com"), (Wrong::Expired, "is valid from")]
    {
        let world = World::new().await;
        let chain = world.renewing().await;
        world.ca.wrong(wrong);
        world.run(60).await;
        let record = world.record();
        assert_eq!(record.served(world.now()).unwrap().chain, chain, "{wrong:?}");
        assert!(words(&record).contains(want), "{wrong:?}: {}", words(&record));
        world.ca.honest();
        world.run(86400).await;
        assert_ne!(world.record().held.unwrap().chain, chain, "{wrong:?}");
    }
}

#[tokio::test]
async fn names_that_were_not_ordered_are_not_answered_for_and_cost_nobody_a_look() {
    for (wrong, want) in [
        (Wrong::Foreign, "\"victim.example.com\" proven, which was not ordered"),
        (Wrong::Twice, "\"a.example.com\" proven twice"),
        (Wrong::Many, "1000 authorizations for an order of 2"),
    ] {
        let world = World::new().await;
        world.ca.wrong(wrong);
        world.run(30).await;
        let record = world.record();
        assert!(words(&record).contains(want), "{wrong:?}: {}", words(&record));
        assert!(record.tellings.is_empty() && record.leftover.challenges.is_empty(), "{wrong:?}");
        assert_eq!(world.hands.solver.presented.load(Ordering::SeqCst), 0, "{wrong:?}");
        assert_eq!(world.ca.count("+challenge"), 0, "{wrong:?}");
        let read = world.ca.count("POST /authz");
        assert_eq!(read, if wrong == Wrong::Many { 0 } else { 2 }, "{wrong:?}");
    }
}

#[tokio::test]
async fn names_are_looked_at_again_when_the_ca_is_told() {
    let world = World::new().await;
    while world.plan().step != Step::Tell {
        let next = world.plan();
        advance(&world.hands, world.stored(), Some(&world.wish), &next).await.unwrap();
    }
    world.ca.wrong(Wrong::Foreign);
    world.run(0).await;
    assert_eq!(world.ca.count("+challenge"), 0);
    assert!(words(&world.record()).contains("victim.example.com"));
}

#[tokio::test]
async fn a_name_that_is_not_believed_is_told_in_the_cas_words_and_shown_four_times_an_hour_at_most() {
    let mut world = World::new().await;
    world.ca.believe(false);
    world.run(1).await;
    for _ in 0..20 {
        world.wish.renew = Some(world.now()); // a person who is impatient
        world.run(60).await;
    }
    let failure = &world.record().failures[0];
    let names: Vec<&str> = failure.problem.names.iter().map(|of| of.name.as_str()).collect();
    assert!(names.contains(&"a.example.com"), "{failure:?}");
    assert_eq!(failure.problem.names[0].kind.as_deref(), Some("connection"));
    assert!(failure.problem.names[0].detail.contains("Connection refused"));
    assert_eq!(world.ca.count("+challenge a.example.com"), 4);
}

#[tokio::test]
async fn retry_after_is_kept_in_seconds_and_as_a_date() {
    for (value, wait) in [("7200", 7200), ("Fri, 15 Jan 2027 10:00:00 GMT", 7200)] {
        let world = World::new().await;
        world.ca.trick("/order", answer(429, Some(value), &said("rateLimited", "later")));
        world.run(10).await;
        let next = world.plan();
        assert!((START + wait..START + wait + 10).contains(&next.at), "{value}: {}", next.at - START);
        world.run(wait / 2).await;
        assert_eq!(world.ca.count("POST /order"), 1, "{value}");
    }
}

#[tokio::test]
async fn a_call_that_fails_is_made_again_ever_more_slowly() {
    let world = World::new().await;
    world.ca.trick("/order", answer(500, None, &said("serverInternal", "no")));
    world.run(2 * 3600).await;
    let calls = world.ca.count("POST /order");
    assert!((8..=14).contains(&calls), "{calls} calls in two hours");
}

#[tokio::test]
async fn a_replacement_that_was_made_already_is_ordered_plainly() {
    let world = World::new().await;
    world.ca.window((START, START + 1)); // now
    world.run(60).await;
    world.set(START + 2 * 3600);
    world.ca.trick("/order", Trick::Lie); // the order is made, and we never hear of it
    world.run(1).await;
    assert_eq!(world.ca.replaced().len(), 2);
    world.ca.honest();
    world.run(60).await;
    let replaced = world.ca.replaced();
    assert_eq!(replaced.len(), 3, "{:?}", world.record().trouble);
    assert!(replaced[1].is_some() && replaced[2].is_none());
    assert!(world.record().held.unwrap().since > START + 3600);
}

#[tokio::test]
async fn a_ca_that_stumbles_over_what_is_replaced_is_asked_plainly_before_long() {
    let world = World::new().await;
    let chain = world.renewing().await;
    world.ca.stumble();
    world.run(60).await;
    let record = world.record();
    assert_ne!(record.held.as_ref().unwrap().chain, chain, "{:?}", record.trouble);
    assert!(world.ca.replaced().last().unwrap().is_none());
}

#[tokio::test]
async fn a_finalize_that_was_done_and_answered_500_is_not_done_again() {
    for trick in [Trick::Lie, Trick::Hang { after: true }, Trick::Truncate] {
        let world = World::new().await;
        world.ca.trick("/finalize", trick.clone());
        world.run(60).await;
        assert!(world.record().held.is_some(), "{trick:?}");
        assert_eq!((world.ca.count("+finalize"), world.ca.count("POST /finalize")), (1, 1), "{trick:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_answers_each_call_at_the_last_moment_fails_the_step_after_three_minutes() {
    let mut world = World::new().await;
    let (provider, clock) = (Arc::new(signet_core::tls::default_provider()), Arc::clone(&world.clock));
    world.hands.web = Web::new(provider, Arc::new(move || clock.load(Ordering::SeqCst)));
    world.ca.trick("/", Trick::Slow(Duration::from_secs(50)));
    let begun = tokio::time::Instant::now();
    world.run(1).await;
    assert_eq!(begun.elapsed().as_secs(), 186, "3 s more for each name");
    assert!(
        words(&world.record()).contains("did not get through with it in 186 s"),
        "{}",
        words(&world.record())
    );
}

#[tokio::test(start_paused = true)]
async fn the_less_life_is_left_the_less_a_call_takes() {
    let mut world = World::new().await;
    world.run(60).await;
    let (provider, clock) = (Arc::new(signet_core::tls::default_provider()), Arc::clone(&world.clock));
    world.hands.web = Web::new(provider, Arc::new(move || clock.load(Ordering::SeqCst)));
    let end = world.record().held.unwrap().not_after;
    world.ca.trick("/", Trick::Hang { after: false });
    for (left, seconds) in [(86400, 60), (100, 25), (8, 5)] {
        world.set(end - left);
        let record = world.record();
        let mut asked = record.clone();
        let step = Step::Ask { rehearsal: false, replaces: false };
        outcome::begin(&mut asked, step, Some(&world.wish), world.now()).unwrap();
        let begun = tokio::time::Instant::now();
        let came = take(&world.hands, &asked, Some(&world.wish), step).await;
        assert!(matches!(came, Outcome::Trouble { .. }), "{came:?}");
        assert_eq!(begun.elapsed().as_secs(), seconds, "{left} s left");
        let begun = tokio::time::Instant::now();
        assert_eq!(
            take(&world.hands, &record, Some(&world.wish), Step::AskWindow).await,
            Outcome::WindowTrouble
        );
        assert_eq!(begun.elapsed().as_secs(), 10, "{left} s left");
    }
}

#[tokio::test]
async fn a_proxy_that_says_no_in_front_of_the_ca_fails_a_call_and_no_order() {
    let world = World::new().await;
    world.ca.trick("/order", answer(403, None, "<html>Forbidden</html>"));
    world.run(60).await;
    let record = world.record();
    assert!(record.failures.is_empty() && record.in_vain.is_empty());
    assert!(words(&record).contains("the CA answered 403"), "{}", words(&record));
}
