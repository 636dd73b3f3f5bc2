use super::*;
use crate::build::{mesh, namespace, objects, pod};

#[test]
fn a_pod_that_is_the_very_same_object_is_shared_with_the_index_before() {
    let all = objects([namespace("shop"), pod("a").at("10.0.0.1"), pod("b").at("10.0.0.2")]);
    let before = Index::build(&mesh(), &all);
    let mut changed = all.clone();
    changed[2] = objects([pod("b").at("10.0.0.3")]).remove(0);
    let after = before.build_next(&changed);
    let shared = |name| Arc::ptr_eq(before.pod("shop", name).unwrap(), after.pod("shop", name).unwrap());
    assert!(shared("a") && !shared("b"));
    assert_eq!(after.pod_at("10.0.0.3".parse().unwrap()).unwrap().name, "b");
    assert!(after.pod_at("10.0.0.2".parse().unwrap()).is_none());
}

#[test]
fn a_namespace_that_changes_changes_the_pods_in_it() {
    let all = objects([namespace("shop"), pod("a").at("10.0.0.1")]);
    let before = Index::build(&mesh(), &all);
    assert!(before.pod("shop", "a").unwrap().identity().is_some());
    let mut left = all.clone();
    left[0] = objects([namespace("shop").label("signet.dev/inject", "disabled")]).remove(0);
    assert!(before.build_next(&left).pod("shop", "a").unwrap().identity().is_none());
    assert!(before.build_next(&all[1..]).pod("shop", "a").unwrap().identity().is_none());
}

#[test]
fn an_error_in_a_pod_stays_as_long_as_the_pod() {
    let all = objects([namespace("shop"), pod("a").at("no address")]);
    let before = Index::build(&mesh(), &all);
    assert_eq!(before.errors.len(), 1);
    assert_eq!(before.build_next(&all).errors, before.errors);
    assert!(before.build_next(&all[..1]).errors.is_empty());
}
