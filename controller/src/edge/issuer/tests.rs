//! A leaf's life, and the CA's.

use super::*;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn ca() -> Known {
    Known::Here(Arc::new(EdgeCa::generate(&[], NOW).unwrap().0))
}

fn hosts(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|host| (*host).to_owned()).collect()
}

fn leaf(issuer: &LocalIssuer, host: &str, now: i64) -> Arc<Checked> {
    issuer.pick(&HostPattern::ingress(Some(host)).unwrap(), now).unwrap()
}

#[test]
fn a_leaf_stays_until_two_thirds_of_its_life_and_the_next_is_there_before_it_ends() {
    let mut issuer = LocalIssuer::new(&[], "there");
    issuer.learn(ca(), NOW);
    issuer.prepare(&hosts(&["a.test"]), NOW);
    let first = leaf(&issuer, "a.test", NOW);
    assert_eq!(issuer.due(NOW), Some(NOW + 60 * DAY));
    issuer.prepare(&hosts(&["a.test", "b.test"]), NOW + 60 * DAY - 1);
    assert_eq!(leaf(&issuer, "a.test", NOW), first, "another host changes nothing");
    issuer.prepare(&hosts(&["a.test"]), NOW + 60 * DAY);
    let second = leaf(&issuer, "a.test", NOW + 60 * DAY);
    assert!(second != first && second.not_after == NOW + 150 * DAY);
    assert!(
        issuer.pick(&HostPattern::ingress(Some("b.test")).unwrap(), NOW).is_err(),
        "nobody wants it any more"
    );
}

#[test]
fn where_the_root_ends_the_last_leaf_stays_and_it_is_not_tried_without_pause() {
    let mut issuer = LocalIssuer::new(&[], "there");
    issuer.learn(ca(), NOW);
    let end = NOW + 3650 * DAY;
    issuer.prepare(&hosts(&["a.test"]), end - 10);
    let last = leaf(&issuer, "a.test", end - 10);
    assert_eq!(issuer.due(end - 10), Some(end + 1), "it is said that it ended");
    issuer.prepare(&hosts(&["a.test"]), end + 50);
    let why = issuer.pick(&HostPattern::ingress(Some("a.test")).unwrap(), end + 50).unwrap_err();
    assert!(why.contains("expired") && why.contains("signet trust install"), "{why}");
    assert_eq!(leaf(&issuer, "a.test", end), last);
    assert_eq!(issuer.due(end + 50), Some(end + 110));
}

#[test]
fn a_ca_that_can_no_longer_be_read_stays_and_another_one_certifies_all_anew() {
    let mut issuer = LocalIssuer::new(&[], "there");
    issuer.learn(ca(), NOW);
    issuer.prepare(&hosts(&["a.test"]), NOW);
    let first = leaf(&issuer, "a.test", NOW);
    issuer.learn(Known::Not("the API server is away".into()), NOW);
    issuer.prepare(&hosts(&["a.test"]), NOW);
    assert_eq!(leaf(&issuer, "a.test", NOW), first);
    issuer.learn(ca(), NOW);
    issuer.prepare(&hosts(&["a.test"]), NOW);
    assert_ne!(leaf(&issuer, "a.test", NOW), first);
}

#[test]
fn where_the_clock_is_set_back_a_leaf_of_the_future_is_made_anew() {
    let mut issuer = LocalIssuer::new(&[], "there");
    issuer.learn(ca(), NOW);
    issuer.prepare(&hosts(&["a.test"]), NOW + DAY);
    let future = leaf(&issuer, "a.test", NOW + DAY);
    assert_eq!(leaf(&issuer, "a.test", NOW + DAY - 60), future, "seconds do not matter");
    issuer.prepare(&hosts(&["a.test"]), NOW);
    assert_ne!(leaf(&issuer, "a.test", NOW), future);
}

#[test]
fn a_ca_that_ended_or_is_about_to_is_a_fault_with_what_to_do_and_told_at_its_time() {
    let mut issuer = LocalIssuer::new(&[], "the Secret");
    issuer.learn(ca(), NOW);
    let end = NOW + 3650 * DAY;
    assert_eq!((issuer.fault(NOW), issuer.due(NOW)), (None, Some(end - 30 * DAY)));
    assert_eq!(issuer.fault(end - 30 * DAY), None);
    assert_eq!(issuer.due(end - 30 * DAY), Some(end + 1));
    for (now, says) in
        [(end - 30 * DAY + 1, "the edge CA ends at"), (end, "ends at"), (end + 1, "expired at")]
    {
        let why = issuer.fault(now).unwrap();
        assert!(
            why.contains(says) && why.contains("remove the Secret") && why.contains("trust install"),
            "{why}"
        );
    }
    assert_eq!(issuer.due(end + 1), None);
}
