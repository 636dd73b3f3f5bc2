use signet_acme::{
    names::NameSet,
    plan::{Because, Plan},
    record::Record,
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

#[test]
fn nothing_is_ordered_before_dns_was_looked_at_and_nothing_ends_an_order_under_way() {
    let (_, asked) = asked(Kind::Http01);
    assert!(hold(&asked, None, false).is_some());
    assert_eq!(hold(&asked, None, true), None);
    assert_eq!(hold(&asked, Some(&verdict(&asked, 5, &[])), false), None);
    let held = verdict(&asked, 5, &["NXDOMAIN", "CAA"]);
    assert_eq!(hold(&asked, Some(&held), false).unwrap(), "NXDOMAIN; CAA");
    assert_eq!(hold(&asked, Some(&held), true), None);
    let other = Asked { kind: Kind::Dns01, ..asked };
    assert!(
        hold(&other, Some(&verdict(&self::asked(Kind::Http01).1, 5, &[])), false).is_some(),
        "of another challenge"
    );
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
