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
async fn a_finalize_that_was_done_and_answered_500_is_not_done_again() {
    for trick in [Trick::Lie, Trick::Hang { after: true }, Trick::Truncate] {
        let world = World::new().await;
        world.ca.trick("/finalize", trick.clone());
        world.run(60).await;
        assert!(world.record().held.is_some(), "{trick:?}");
        assert_eq!((world.ca.count("+finalize"), world.ca.count("POST /finalize")), (1, 1), "{trick:?}");
    }
}
