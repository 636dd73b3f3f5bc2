use std::sync::atomic::Ordering;

use super::*;
use crate::steps::tests::{START, World};

/// Drives `world`'s store with these wishes until `until` holds of a snapshot; the snapshot, and the steps that were taken.
async fn drive_until(
    world: &World,
    wishes: Wishes,
    mut until: impl FnMut(&Snapshot) -> bool,
) -> (Arc<Snapshot>, Vec<(String, Step)>) {
    let (wishing, wishes) = watch::channel(Arc::new(wishes));
    let (publish, mut published) = watch::channel(Arc::default());
    let mut taken = Vec::new();
    let driving = drive(&world.hands, wishes, &publish, |of| taken.push((of.id.to_owned(), of.step)));
    let watching = async {
        loop {
            // The world's clock is not tokio's: it is woken to look at it.
            let _ = tokio::time::timeout(Duration::from_millis(20), published.changed()).await;
            wishing.send_modify(|_| {});
            let snapshot = Arc::clone(&published.borrow());
            if until(&snapshot) {
                break snapshot;
            }
        }
    };
    let snapshot = tokio::select! {
        error = driving => panic!("{error:?}"),
        snapshot = tokio::time::timeout(Duration::from_secs(60), watching) => snapshot.expect("within a minute"),
    };
    (snapshot, taken)
}

/// The world's clock goes as fast as steps are waited for: a second of it is a hundredth of ours.
async fn hurried<T>(world: &World, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => drop(world.clock.fetch_add(1, Ordering::SeqCst)),
        }
    }
}

fn is_held(snapshot: &Snapshot, names: &NameSet) -> bool {
    snapshot
        .entries
        .get(&names.id())
        .is_some_and(|entry| entry.record.held.is_some() && entry.record.order.is_none())
}

#[tokio::test]
async fn thirty_certificates_are_ordered_side_by_side_with_one_account_and_one_finalize_each() {
    let world = World::new().await;
    let sets: Vec<NameSet> = (0..30).map(|n| NameSet::new([format!("h{n}.example.com")]).unwrap()).collect();
    let wishes: Wishes = sets.iter().map(|names| (names.clone(), world.wish.clone())).collect();
    let all = |snapshot: &Snapshot| sets.iter().all(|names| is_held(snapshot, names));
    let (snapshot, taken) = Box::pin(hurried(&world, drive_until(&world, wishes, all))).await;
    assert_eq!((world.ca.count("+order"), world.ca.count("+finalize"), world.ca.accounts()), (30, 30, 1));
    assert_eq!(taken.iter().filter(|(_, step)| *step == Step::Finalize).count(), 30);
    // The world's own record, which nobody wishes for, is gone.
    assert_eq!(snapshot.entries.len(), 30);
}

#[tokio::test]
async fn a_name_of_two_certificates_is_shown_four_times_an_hour_in_all() {
    let world = World::new().await;
    world.ca.believe(false);
    let sets: Vec<NameSet> = ["x", "y", "z"]
        .map(|n| NameSet::new(["shared.example.com", &format!("{n}.example.com")]).unwrap())
        .into();
    let mut wish = world.wish.clone();
    wish.renew = Some(START + 1_000_000); // a person who never stops asking
    let wishes: Wishes = sets.iter().map(|names| (names.clone(), wish.clone())).collect();
    let clock = Arc::clone(&world.clock);
    let enough = move |_: &Snapshot| clock.load(Ordering::SeqCst) > START + 400;
    Box::pin(hurried(&world, drive_until(&world, wishes, enough))).await;
    assert_eq!(world.ca.count("+challenge shared.example.com"), 4);
}

#[tokio::test]
async fn what_cannot_be_read_is_left_alone_and_said() {
    let world = World::new().await;
    let broken = NameSet::new(["broken.example.com"]).unwrap();
    world.hands.store.break_record(&broken.id());
    let other = NameSet::new(["other.example.com"]).unwrap();
    let wishes: Wishes = [&broken, &other].map(|names| (names.clone(), world.wish.clone())).into();
    let until = |snapshot: &Snapshot| is_held(snapshot, &other);
    let (snapshot, _) = Box::pin(hurried(&world, drive_until(&world, wishes, until))).await;
    assert_eq!(snapshot.broken[0].0, broken.id());
    assert!(!snapshot.entries.contains_key(&broken.id()));
    assert_eq!(world.ca.count("+order"), 1);
}
