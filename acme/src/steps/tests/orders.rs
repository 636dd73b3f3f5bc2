//! Orders at a CA that does what it should.

use super::*;
use crate::challenge::Answer;

#[tokio::test]
async fn an_order_by_http_01_brings_a_certificate_for_our_key_and_takes_its_challenges_back() {
    let world = World::new().await;
    let came = world.run(60).await;
    let record = world.record();
    let held = record.held.as_ref().unwrap();
    assert!(record.served(world.now()).is_some(), "{came:?}");
    assert_eq!((world.ca.count("+order"), world.ca.count("+finalize"), world.ca.accounts()), (1, 1, 1));
    assert_eq!(world.ca.count("GET /directory"), 1, "it is read once an hour");
    assert!(world.hands.solver.shown.lock().unwrap().is_empty(), "cleared");
    assert_eq!(record.seen.unwrap().by, ["gateway-0", "gateway-1"]);
    assert!(record.tellings.is_empty() && record.order.is_none() && held.ari_id.is_some());
}

#[tokio::test]
async fn challenges_are_presented_with_the_accounts_thumbprint_before_the_ca_is_told() {
    let world = World::new().await;
    while world.plan().step != Step::Tell {
        let next = world.plan();
        advance(&world.hands, world.stored(), Some(&world.wish), &next).await.unwrap();
    }
    assert_eq!(world.ca.count("+challenge"), 0);
    let shown = world.hands.solver.shown.lock().unwrap().clone();
    assert_eq!(shown.iter().map(|c| c.host.as_str()).collect::<Vec<_>>(), ["a.example.com", "b.example.com"]);
    for (n, challenge) in shown.iter().enumerate() {
        let Answer::Http01 { token, key_authorization } = &challenge.answer else { panic!() };
        assert_eq!(*token, format!("token-0-{n}"));
        let thumbprint = key_authorization.strip_prefix(&format!("{token}.")).unwrap();
        assert_eq!(thumbprint.len(), 43, "SHA-256 in base64url");
        assert_eq!(challenge.namespace, "shop");
    }
}

#[tokio::test]
async fn a_wildcard_and_its_parent_are_proven_by_two_txt_records_of_one_name() {
    let mut world = World::of(&["*.example.com", "example.com"]).await;
    world.wish.kind = Kind::Dns01;
    while world.plan().step != Step::Tell {
        let next = world.plan();
        advance(&world.hands, world.stored(), Some(&world.wish), &next).await.unwrap();
    }
    let pending = world.record().order.unwrap().challenges;
    assert_eq!(
        pending.iter().map(crate::order::Pending::name).collect::<Vec<_>>(),
        ["*.example.com", "example.com"]
    );
    let records: Vec<(String, String)> = pending
        .iter()
        .map(|pending| match Challenge::of(pending).unwrap().answer {
            Answer::Dns01 { name, value } => (name, value),
            _ => panic!(),
        })
        .collect();
    assert!(records.iter().all(|(name, _)| name == "_acme-challenge.example.com"));
    assert_ne!(records[0].1, records[1].1);
    world.run(60).await;
    assert!(world.record().held.is_some());
}

#[tokio::test]
async fn nobody_who_answers_means_that_the_ca_is_not_told() {
    let world = World::new().await;
    world.hands.solver.silent.store(2, Ordering::SeqCst);
    world.run(600).await;
    assert_eq!(world.ca.count("+challenge"), 0);
    let record = world.record();
    assert_eq!(record.trouble.as_ref().unwrap().with, With::Solver);
    assert!(record.trouble.unwrap().problem.detail.contains("gateway-1: no answer within 5 s"));
    world.hands.solver.silent.store(1, Ordering::SeqCst);
    world.run(3600).await;
    let record = world.record();
    assert!(record.held.is_some(), "one that answers is enough");
    assert_eq!(record.seen.unwrap().missing[0].who, "gateway-0", "the other is reported");
}

#[tokio::test]
async fn a_renewal_is_in_the_cas_window_and_says_what_it_replaces() {
    let world = World::new().await;
    world.ca.window((START + 5 * 86400, START + 6 * 86400));
    world.run(60).await;
    let first = world.record().held.unwrap();
    let window = first.window.clone().unwrap();
    assert_eq!(
        (window.start, window.explanation.as_deref()),
        (START + 5 * 86400, Some("https://ca.example/why"))
    );
    while world.ca.replaced().len() < 2 {
        world.run(600).await;
    }
    world.run(60).await;
    let second = world.record().held.unwrap();
    assert!((START + 5 * 86400..START + 6 * 86400 + 60).contains(&second.since), "{}", second.since - START);
    assert_eq!(world.ca.replaced(), [None, first.ari_id]);
    let asked = world.ca.count("GET /window");
    assert!(
        (20..=27).contains(&asked),
        "asked {asked} times in five to six days, which the CA wants every six hours"
    );
}

#[tokio::test]
async fn half_of_the_nonces_refused_or_nine_of_ten_cost_nothing_but_calls() {
    for percent in [50, 90] {
        let world = World::new().await;
        world.ca.refuse_nonces(percent);
        let came = world.run(600).await;
        assert!(world.record().held.is_some(), "{percent} %: {came:?}");
        assert_eq!((world.ca.count("+order"), world.ca.count("+finalize")), (1, 1));
    }
}

#[tokio::test]
async fn a_key_that_is_moved_into_a_fresh_store_goes_on_as_the_same_account() {
    let world = World::new().await;
    world.run(60).await;
    let id = account::id(&world.ca.directory, Some("me@example.com"));
    let stored = world.hands.store.account(&id).await.unwrap().unwrap().value;
    let url = stored.url.clone().unwrap();

    let fresh = Arc::<Memory>::default();
    let moved = serde_json::json!({ "schema": 1, "directory": stored.directory, "email": "me@example.com", "key": stored.key });
    fresh.accounts.lock().unwrap().insert(id.clone(), moved.to_string().into_bytes());
    let record = Record::new(NameSet::new(["c.example.com"]).unwrap());
    fresh.put(&record, None).await.unwrap();
    let hands = Hands { store: fresh, solver: Arc::default(), web: web(&world.clock) };
    let world = World { hands, id: record.id(), ..world };
    world.run(60).await;
    assert!(world.record().held.is_some());
    assert_eq!(world.ca.accounts(), 1);
    assert_eq!(world.hands.store.account(&id).await.unwrap().unwrap().value.url, Some(url));
}

#[tokio::test]
async fn two_first_orders_at_once_make_one_account() {
    let world = World::new().await;
    let email = world.wish.issuer.email.as_deref();
    let who = who(&world.wish.issuer, &world.ca.directory, email, WHOLE);
    let open = || account::open(&world.hands.store, &world.hands.web, &who);
    let (one, two) = tokio::join!(open(), open());
    // The slower one's store may say that it moved; the account is the same.
    assert!(one.is_ok() || two.is_ok());
    assert_eq!(world.ca.accounts(), 1);
    assert!(open().await.is_ok());
}

#[tokio::test]
async fn a_ca_that_lost_its_memory_gets_the_account_anew_with_the_same_key() {
    let world = World::new().await;
    let chain = world.renewing().await;
    world.ca.lose_its_memory();
    world.run(3600).await;
    assert_ne!(world.record().held.unwrap().chain, chain);
    assert_eq!(world.ca.accounts(), 1);
}

#[tokio::test]
async fn the_cas_server_is_believed_by_the_issuers_roots_only() {
    let mut world = World::new().await;
    world.wish.issuer.roots = None;
    world.run(10).await;
    let trouble = world.record().trouble.unwrap();
    assert!(trouble.problem.detail.contains("certificate"), "{}", trouble.problem);
    assert_eq!(world.ca.count(""), 0, "nothing was asked");
}

#[tokio::test]
async fn a_rehearsal_ends_at_the_twin_without_a_certificate_and_the_ca_is_asked_at_once() {
    let mut world = World::new().await;
    let twin = FakeCa::start(START).await;
    world.wish.issuer.twin = Some(twin.directory.clone());
    world.wish.issuer.roots = Some(format!("{}{}", world.ca.roots, twin.roots));
    let key = b"0123456789abcdef0123456789abcdef".to_vec().into();
    world.wish.issuer.eab = Some(crate::issuer::Eab { kid: "kid-1".into(), key });
    world.run(60).await;
    assert_eq!((twin.count("+order"), twin.count("+challenge"), twin.count("+finalize")), (1, 2, 0));
    assert_eq!((world.ca.count("+order"), world.ca.count("+finalize")), (1, 1));
    assert_eq!(world.record().held.unwrap().directory, world.ca.directory);
    // The external account is the CA's own; its key is the stored one from then on.
    assert_eq!((world.ca.count("+binding kid-1"), twin.count("+binding")), (1, 0));
    world.wish.renew = Some(world.now());
    world.run(3600).await;
    assert_eq!((world.ca.count("+finalize"), world.ca.accounts(), twin.count("+order")), (2, 1, 1));
}

#[tokio::test]
async fn a_twin_that_is_out_for_ten_minutes_is_gone_on_without_over_the_wire_too() {
    let mut world = World::new().await;
    let twin = FakeCa::start(START).await;
    world.wish.issuer.twin = Some(twin.directory.clone());
    world.wish.issuer.roots = Some(format!("{}{}", world.ca.roots, twin.roots));
    let body = said("serverInternal", "maintenance");
    twin.trick("/", Trick::Answer { status: 503, retry_after: Some("86400"), body });
    world.run(599).await;
    assert_eq!(world.ca.count(""), 0, "not yet");
    assert!(world.record().trouble.unwrap().problem.detail.contains("maintenance"));
    world.run(60).await;
    let record = world.record();
    assert!(record.held.is_some() && twin.count("+order") == 0);
}
