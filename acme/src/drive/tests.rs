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
    is_send(&driving);
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

/// The controller's tasks are any thread's.
fn is_send(_: &impl Send) {}

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

/// A CA, and nobody to take steps with: `Desk` alone.
fn desk(records: impl IntoIterator<Item = Record>) -> Desk {
    let known = |record: Record| {
        let known = Known { record: Arc::new(record), version: Version("1".into()) };
        (known.record.id(), known)
    };
    Desk {
        records: records.into_iter().map(known).collect(),
        broken: Vec::new(),
        busy: HashMap::new(),
        names: HashSet::new(),
        resting: HashMap::new(),
        absent: HashMap::new(),
        read: START,
        is_stale: false,
        reading: None,
    }
}

fn names(n: usize) -> NameSet {
    NameSet::new([format!("h{n}.example.com")]).unwrap()
}

fn held(directory: &str, not_after: i64) -> crate::record::Held {
    crate::record::Held {
        directory: directory.into(),
        chain: String::new(),
        key: crate::secret::Secret::new(String::new().into()),
        not_before: not_after - 1000,
        not_after,
        since: not_after - 1000,
        ari_id: None,
        replaced: false,
        window: None,
        ask_window: None,
    }
}

#[tokio::test]
async fn one_ca_does_not_take_all_hands_and_who_loses_a_certificate_first_goes_first() {
    let world = World::new().await;
    let hanging = |n: usize| {
        let mut wish = world.wish.clone();
        wish.issuer.directory = format!("https://hangs{}.example/directory", n % 3);
        wish
    };
    let mut wishes: Wishes = (0..60).map(|n| (names(n), hanging(n))).collect();
    wishes.extend((60..80).map(|n| (names(n), world.wish.clone())));
    let mut desk = desk(wishes.keys().map(|names| {
        let mut record = Record::new(names.clone());
        if let Some(n) = (70..80).find(|n| *names == self::names(*n)) {
            record.held = Some(held(&world.ca.directory, START + 100 + i64::try_from(n % 70).unwrap()));
        }
        record
    }));
    desk.start(&world.hands, &wishes);
    let at = |desk: &Desk, directory: &str| {
        let is_there = |work: &&Work| matches!(work, Work::Step(Some(Place::Ca(at))) if at == directory);
        desk.busy.values().filter(is_there).count()
    };
    for n in 0..3 {
        assert_eq!(at(&desk, &format!("https://hangs{n}.example/directory")), MOST_AT_A_CA);
    }
    assert_eq!((at(&desk, &world.ca.directory), desk.busy.len()), (MOST_AT_A_CA, MOST_AT_ONCE));
    let renewed: Vec<bool> = (70..80).map(|n| desk.busy.contains_key(&names(n).id())).collect();
    assert_eq!(renewed, [true, true, true, true, true, true, true, true, false, false], "by their end");
    assert!((60..70).all(|n| !desk.busy.contains_key(&names(n).id())), "first orders wait");
}

#[tokio::test]
async fn an_order_that_nobody_wants_for_a_moment_goes_on_after_it() {
    let mut world = World::new().await;
    let mut record = Record::new(names(0));
    record.order = crate::order::Order::new(&world.wish.issuer, &world.wish, false, false, START);
    let wishes: Wishes = [(names(0), world.wish.clone())].into();
    let none = Wishes::new();
    let mut desk = desk([record]);
    let mut starts = |world: &mut World, seconds: i64, wishes: &Wishes| {
        world.clock.store(START + seconds, Ordering::SeqCst);
        desk.busy.clear();
        desk.names.clear();
        desk.start(&world.hands, wishes);
        desk.busy.values().any(|work| matches!(work, Work::Step(_)))
    };
    assert!(!starts(&mut world, 0, &none) && !starts(&mut world, 59, &none), "it is left alone");
    assert!(starts(&mut world, 59, &wishes), "and gone on with");
    assert!(!starts(&mut world, 61, &none), "from then on");
    assert!(!starts(&mut world, 120, &none) && starts(&mut world, 121, &none), "nobody wants it");
}

#[tokio::test]
async fn a_store_that_hangs_with_one_record_holds_up_no_other() {
    let world = World::new().await;
    // The first write is that of a record that is wanted for the first time.
    world.hands.store.hang_at(1);
    let sets: Vec<NameSet> = (0..4).map(names).collect();
    let wishes: Wishes = sets.iter().map(|names| (names.clone(), world.wish.clone())).collect();
    let three = |snapshot: &Snapshot| sets.iter().filter(|names| is_held(snapshot, names)).count() == 3;
    let (snapshot, _) = Box::pin(hurried(&world, drive_until(&world, wishes, three))).await;
    assert!(!snapshot.entries.contains_key(&sets[0].id()));
}

#[tokio::test]
async fn what_a_person_deletes_or_mends_is_seen_within_a_minute() {
    let world = World::new().await;
    let (deleted, mended) = (names(0), names(1));
    world.hands.store.break_record(&mended.id());
    let wishes: Wishes = [&deleted, &mended].map(|names| (names.clone(), world.wish.clone())).into();
    let mut seen = Vec::new();
    let clock = Arc::clone(&world.clock);
    let store = Arc::clone(&world.hands.store);
    let until = |snapshot: &Snapshot| {
        let now = clock.load(Ordering::SeqCst);
        // Nothing is to be done for it for long, that would find it gone.
        let rests = |entry: &Entry| !entry.is_busy && entry.next.at > now + 2000;
        if seen.is_empty() && is_held(snapshot, &deleted) && rests(&snapshot.entries[&deleted.id()]) {
            assert!(!snapshot.entries.contains_key(&mended.id()));
            store.remove(&deleted.id());
            store.remove(&mended.id());
            seen.push((now, snapshot.entries[&deleted.id()].record.held.clone().unwrap().chain));
        }
        let Some((at, chain)) = seen.last() else { return false };
        let is_new = |entry: &Entry| entry.record.held.as_ref().is_some_and(|held| held.chain != *chain);
        assert!(now < at + 2000, "{:?}", snapshot.broken);
        snapshot.entries.get(&deleted.id()).is_some_and(is_new) && is_held(snapshot, &mended)
    };
    let (snapshot, _) = Box::pin(hurried(&world, drive_until(&world, wishes, until))).await;
    assert!(snapshot.broken.is_empty());
    assert_eq!(world.ca.count("+order"), 3);
}
