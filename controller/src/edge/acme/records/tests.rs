use rcgen::{CertificateParams, KeyPair};
use signet_acme::{names::NameSet, secret::Secret};
use signet_core::tls;

use super::*;

const NOW: i64 = 1_780_000_000;

/// Valid from 500 s ago, for 2000 s from `since`.
fn record(names: &[&str], since: i64) -> Record {
    let names = NameSet::new(names).unwrap();
    let mut params = CertificateParams::new(names.iter().map(str::to_owned).collect::<Vec<_>>()).unwrap();
    let (not_before, not_after) = (since - 500, since + 1500);
    params.not_before = time::OffsetDateTime::from_unix_timestamp(not_before).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(not_after).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut record = Record::new(names);
    record.held = Some(Held {
        directory: "https://ca.example/dir".into(),
        chain: params.self_signed(&key).unwrap().pem(),
        key: Secret::new(Zeroizing::new(key.serialize_pem())),
        not_before,
        not_after,
        since,
        ari_id: None,
        replaced: false,
        window: None,
        ask_window: None,
    });
    record
}

fn take(records: &mut Records, record: Record) -> bool {
    records.take(Arc::new(record), &tls::default_provider())
}

fn host(name: &str) -> HostPattern {
    HostPattern::ingress(Some(name)).unwrap()
}

#[test]
fn the_last_good_certificate_is_presented_until_it_ends_whatever_becomes_of_its_record() {
    let (mut records, first) = (Records::default(), record(&["a.example"], NOW));
    let id = first.id();
    let end = |records: &Records, now| records.of(&id, &host("a.example"), now).map(|held| held.not_after);
    assert!(take(&mut records, first.clone()));
    assert!(!take(&mut records, first.clone()), "nothing new");
    let mut broken = first.clone();
    broken.held.as_mut().unwrap().chain = "no certificate".into();
    for change in [
        (|records: &mut Records, broken: &Record| take(records, broken.clone()))
            as fn(&mut Records, &Record) -> bool,
        |records, broken| records.broke(&broken.id(), "no JSON"),
        |records, broken| records.gone(&broken.id()),
    ] {
        assert!(change(&mut records, &broken));
        assert_eq!(end(&records, NOW), Some(NOW + 1500));
    }
    assert_eq!(end(&records, NOW + 1501), None);
    records.forget(NOW + 1500);
    assert!(end(&records, NOW).is_some());
    records.forget(NOW + 1501);
    assert!(end(&records, NOW).is_none(), "forgotten");
    assert!(take(&mut records, record(&["a.example"], NOW + 100)));
    assert_eq!(end(&records, NOW), Some(NOW + 1600), "a newer one takes its place");
}

#[test]
fn a_certificate_that_is_not_valid_yet_takes_nothing_away() {
    let mut records = Records::default();
    take(&mut records, record(&["a.example"], NOW));
    let next = record(&["a.example"], NOW + 600); // valid in 100 s
    let id = next.id();
    take(&mut records, next.clone());
    let mut renewed = next;
    renewed.tried += 1; // something else of the record changes meanwhile
    take(&mut records, renewed);
    let end = |records: &Records, now| records.of(&id, &host("a.example"), now).map(|held| held.not_after);
    let any = |records: &Records, now| {
        records.any(&host("a.example"), "shop", &BTreeMap::new(), now).map(|(_, held)| held.not_after)
    };
    records.forget(NOW + 99);
    for (now, until) in [(NOW + 99, NOW + 1500), (NOW + 100, NOW + 2100)] {
        assert_eq!((end(&records, now), any(&records, now)), (Some(until), Some(until)));
    }
    records.forget(NOW + 100);
    assert!(records.kept[&id].before.is_none(), "its key is wiped");
}

#[test]
fn a_broken_record_is_named_until_it_is_mended() {
    let (mut records, good) = (Records::default(), record(&["a.example"], NOW));
    assert!(records.broke(&good.id(), "no JSON") && !records.broke(&good.id(), "no JSON"));
    assert_eq!(records.broken().len(), 1);
    assert_eq!(records.ids(), [good.id()]);
    assert!(take(&mut records, good));
    assert!(records.broken().is_empty());
}

#[test]
fn when_something_changes_by_itself_is_known() {
    let mut records = Records::default();
    take(&mut records, record(&["a.example"], NOW));
    for (now, due) in [
        (NOW, Some(NOW + 501)), // half of its life is left, as it is short
        (NOW + 501, Some(NOW + 835)),
        (NOW + 835, Some(NOW + 1501)),
        (NOW + 1501, None),
    ] {
        assert_eq!(records.due(now), due, "{}", now - NOW);
    }
}
