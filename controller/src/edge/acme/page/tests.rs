use signet_acme::{names::NameSet, plan::Because, record::RetryAfter, solver::Missing};

use super::{
    super::{
        annotation::Named,
        issuers::{BuiltIn, Issuers},
        preflight::Verdict,
    },
    *,
};

const NOW: i64 = 1_780_000_000;

fn world() -> (Wanted, Authorities, String) {
    let built_in = BuiltIn::new(Some("a@b.example"), None, None, None, None).unwrap();
    let issuers = Arc::new(Issuers::new(&built_in, None));
    let entry = issuers.find("shop", &Named::Default).unwrap().entry;
    let (names, issuer) = (NameSet::new(["a.example", "b.example"]).unwrap(), entry.issuer.clone().unwrap());
    let id = names.id();
    let ingresses = vec![("shop".to_owned(), "web".to_owned())];
    let asked = Asked { names, namespace: "shop".into(), ingresses, entry, issuer, kind: Kind::Http01 };
    let wanted = Wanted { certificates: [(id.clone(), asked)].into(), ..Wanted::default() };
    (wanted, Authorities { issuers, ..Authorities::default() }, id)
}

fn answer(
    wanted: &Wanted,
    known: &Authorities,
    driven: Option<&drive::Snapshot>,
    verdicts: &Verdicts,
) -> AcmeAnswer {
    let (accounts, credentials) = (BTreeMap::new(), Registry::default());
    View { wanted, known, driven, verdicts, accounts: &accounts, credentials: &credentials, now: NOW }
        .answer()
}

#[test]
fn what_is_wanted_is_shown_before_anything_is_stored_and_on_replicas_that_do_not_order() {
    let (wanted, known, id) = world();
    let answer = answer(&wanted, &known, None, &Verdicts::new());
    let [one] = &answer.certificates[..] else { panic!("{answer:?}") };
    assert_eq!((one.id.as_str(), one.names.join(" ").as_str()), (id.as_str(), "a.example b.example"));
    assert_eq!((one.namespace.as_str(), one.ingresses.join(" ").as_str()), ("shop", "shop/web"));
    assert_eq!(
        (one.issuer.as_str(), one.challenge.as_str(), one.stage.as_str()),
        ("letsencrypt", "http-01", "none")
    );
    assert!(!answer.leads && one.next.is_none() && one.preflight.is_none() && !one.served);
    let names: Vec<&str> = answer.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    assert_eq!(names, ["letsencrypt", "letsencrypt-staging"]);
    assert!(answer.issuers[1].staging && !answer.issuers[0].staging);
}

#[test]
fn who_orders_shows_what_failed_what_was_seen_what_holds_and_what_is_next() {
    let (wanted, mut known, id) = world();
    let directory = wanted.certificates[&id].issuer.directory.clone();
    let mut record = Record::new(wanted.certificates[&id].names.clone());
    let problem = Problem { kind: Some("dns".into()), ..Problem::ours("no such host") };
    record.failures.push(Failure { at: NOW - 10, rehearsal: true, directory: directory.clone(), problem });
    record.retry_after.push(RetryAfter { directory, until: NOW + 60 });
    let missing = vec![Missing { who: "gateway-2".into(), why: "silent".into() }];
    record.seen = Some(Seen { at: NOW - 20, by: vec!["gateway-1".into()], missing });
    let next = Plan {
        at: NOW + 60,
        step: Step::Ask { rehearsal: true, replaces: false },
        because: Because::BackOff,
    };
    let entry = drive::Entry { record: Arc::new(record), wish: None, next, is_busy: false };
    let broken = vec![("acme-x".to_owned(), "no JSON".to_owned())];
    let driven = drive::Snapshot { entries: [(id.clone(), entry)].into(), broken };
    known.held_back.insert(id.clone(), "CAA".into());
    let verdict = Verdict { at: NOW - 5, holds: vec!["CAA".into()], ..Verdict::default() };
    let answer = answer(&wanted, &known, Some(&driven), &[(id, verdict)].into());
    let one = &answer.certificates[0];
    assert!(answer.leads && answer.broken[0].id == "acme-x");
    assert_eq!(one.failures[0].problem.r#type.as_deref(), Some("dns"));
    assert!(one.failures[0].rehearsal && one.failures[0].text.contains("no such host"));
    assert_eq!(one.failures[0].retry_after, one.retry_after);
    assert_eq!(one.retry_after, Some(time(NOW + 60)));
    assert_eq!((one.held_back.as_deref(), one.preflight.as_ref().unwrap().holds.len()), (Some("CAA"), 1));
    let seen: Vec<(&str, bool)> = one.seen.iter().map(|sight| (sight.by.as_str(), sight.saw)).collect();
    assert_eq!(seen, [("gateway-1", true), ("gateway-2", false)]);
    let next = one.next.as_ref().unwrap();
    assert_eq!(
        (next.at.clone(), next.step.as_str()),
        (Some(time(NOW + 60)), "ask the staging environment for an order")
    );
    assert!(next.because.contains("failures"), "{}", next.because);
}

#[test]
fn what_nobody_wants_any_more_is_shown_until_it_is_forgotten() {
    let (_, mut known, _) = world();
    let record = Record::new(NameSet::new(["old.example"]).unwrap());
    known.records.take(Arc::new(record), &signet_core::tls::default_provider());
    let answer = answer(&Wanted::default(), &known, None, &Verdicts::new());
    assert_eq!((answer.certificates[0].namespace.as_str(), answer.certificates.len()), ("", 1));
}
