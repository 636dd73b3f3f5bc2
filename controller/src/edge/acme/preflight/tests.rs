use signet_acme::{
    names::NameSet,
    order::{Order, Stage},
    plan::{Because, Plan},
    record::{Held, Record},
    secret::Secret,
};

use super::{
    super::issuers::{BuiltIn, Issuers},
    *,
};
use crate::edge::acme::annotation::Named;

const NOW: i64 = 1_780_000_000;

fn asked(kind: Kind) -> (String, Asked) {
    let built_in = BuiltIn::new(Some("a@b.example"), None, None, None, None).unwrap();
    let entry = Issuers::new(&built_in, None).find("shop", &Named::Default).unwrap().entry;
    let names = NameSet::new(["a.example"]).unwrap();
    let issuer = entry.issuer.clone().unwrap();
    (names.id(), Asked { names, namespace: "shop".into(), ingresses: Vec::new(), entry, issuer, kind })
}

fn wanted(kind: Kind) -> Wanted {
    Wanted { certificates: [asked(kind)].into(), ..Wanted::default() }
}

fn verdict(asked: &Asked, age: i64, holds: &[&str]) -> Verdict {
    let holds = holds.iter().map(|hold| (*hold).to_owned()).collect();
    Verdict { at: NOW - age, of: Some((asked.issuer.clone(), asked.kind)), holds, warnings: Vec::new() }
}

/// The next order is due in so many seconds.
fn entry(seconds: i64) -> drive::Entry {
    let step = Step::Ask { rehearsal: false, replaces: false };
    let next = Plan { at: NOW + seconds, step, because: Because::Renewal };
    let record = Arc::new(Record::new(NameSet::new(["a.example"]).unwrap()));
    drive::Entry { record, wish: None, next, is_busy: false }
}

fn order() -> Order {
    Order {
        rehearsal: false,
        directory: "https://ca.example/dir".into(),
        email: None,
        profile: None,
        kind: Kind::Http01,
        namespace: "shop".into(),
        begun: NOW,
        told: 0,
        replaces: false,
        url: None,
        stage: Stage::Asking,
        challenges: Vec::new(),
        key: None,
    }
}

fn certificate() -> Held {
    Held {
        directory: "https://ca.example/dir".into(),
        chain: String::new(),
        key: Secret::new(String::new().into()),
        not_before: NOW - 10,
        not_after: NOW + 10,
        since: NOW - 10,
        ari_id: None,
        replaced: false,
        window: None,
        ask_window: None,
    }
}

#[test]
fn nothing_is_ordered_before_dns_was_looked_at_and_nothing_ends_an_order_under_way() {
    let (_, asked) = asked(Kind::Http01);
    let hold = |asked: &Asked, verdict: Option<&Verdict>, entry: &drive::Entry| {
        hold(asked, verdict, Some(entry), NOW)
    };
    let (idle, mut ordered, mut held) = (entry(0), entry(0), entry(0));
    Arc::make_mut(&mut ordered.record).order = Some(order());
    Arc::make_mut(&mut held.record).held = Some(certificate());
    assert!(hold(&asked, None, &idle).is_some());
    assert_eq!(hold(&asked, None, &ordered), None);
    assert_eq!(hold(&asked, None, &held), None, "a renewal waits for no look");
    assert_eq!(hold(&asked, Some(&verdict(&asked, 5, &[])), &idle), None);
    let bad = verdict(&asked, 5, &["NXDOMAIN", "CAA"]);
    for entry in [&idle, &held] {
        assert_eq!(hold(&asked, Some(&bad), entry).unwrap(), "NXDOMAIN; CAA");
    }
    assert_eq!(hold(&asked, Some(&bad), &ordered), None);
    let (other, of_another) = (Asked { kind: Kind::Dns01, ..asked.clone() }, verdict(&asked, 5, &[]));
    assert!(hold(&other, Some(&of_another), &idle).is_some(), "of another challenge");
}

#[test]
fn who_was_never_looked_at_or_waited_longest_is_looked_at_first() {
    let mut all = Wanted::default();
    for name in ["a.example", "b.example", "c.example"] {
        let (_, mut asked) = asked(Kind::Http01);
        asked.names = NameSet::new([name]).unwrap();
        all.certificates.insert(asked.names.id(), asked);
    }
    let ids: Vec<&String> = all.certificates.keys().collect();
    let seen = |id: &str, age| (id.to_owned(), verdict(&all.certificates[id], age, &["x"]));
    let verdicts = Verdicts::from([seen(ids[0], 70), seen(ids[1], 90)]);
    let first: Vec<&String> =
        due(&all, &verdicts, &BTreeMap::new(), NOW).into_iter().map(|(id, _)| id).collect();
    assert_eq!(first, [ids[2], ids[1], ids[0]]);
}

#[test]
fn it_is_looked_at_again_soon_where_somebody_waits_and_seldom_where_not() {
    let wanted = wanted(Kind::Http01);
    let (id, asked) = wanted.certificates.first_key_value().unwrap();
    let is_due = |age, holds: &[&str], next: i64| {
        let verdicts = Verdicts::from([(id.clone(), verdict(asked, age, holds))]);
        !due(&wanted, &verdicts, &[(id.clone(), entry(next))].into(), NOW).is_empty()
    };
    assert!(!due(&wanted, &Verdicts::new(), &BTreeMap::new(), NOW).is_empty(), "never looked at");
    let far = 30 * 86_400;
    for (age, holds, next, want) in [
        (59, &["x"][..], far, false),
        (60, &["x"], far, true),
        (599, &[], 10, false),
        (600, &[], 10, true),
        (600, &[], far, false),
        (12 * 3600, &[], far, true),
    ] {
        assert_eq!(is_due(age, holds, next), want, "{age} s old, {holds:?}, next in {next} s");
    }
}
