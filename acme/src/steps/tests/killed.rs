//! Killed at any point of an order, and started again with what is stored.

use super::*;

/// Runs until there is a certificate, or until something dies; whether it died.
async fn until_death(world: &World) -> bool {
    let memory = Arc::clone(&world.hands.store);
    tokio::select! {
        biased;
        () = memory.died.notified() => true,
        () = world.ca.died.notified() => true,
        _ = world.run(120) => false,
    }
}

/// The process is another one: it knows what is stored, and nothing else.
fn restarted(world: World) -> World {
    *world.hands.store.dies_at.lock().unwrap() = None;
    world.ca.honest();
    let hands = Hands { store: world.hands.store, solver: world.hands.solver, web: web(&world.clock) };
    World { hands, ..world }
}

async fn arrives_with_one_finalize(world: World, when: &str) {
    let world = restarted(world);
    world.run(300).await;
    let record = world.record();
    assert!(record.served(world.now()).is_some(), "{when}: {record:?}");
    assert_eq!(world.ca.count("+finalize"), 1, "{when}: exactly one");
    assert!(
        world.ca.count("+order") <= 2,
        "{when}: a second order where the first one's URL was lost, never more"
    );
    assert_eq!(world.ca.accounts(), 1, "{when}");
    for name in ["a.example.com", "b.example.com"] {
        assert_eq!(world.ca.count(&format!("+challenge {name}")), 1, "{when}: {name} is shown once");
    }
    assert!(world.hands.solver.shown.lock().unwrap().is_empty(), "{when}: challenges are taken back");
}

#[tokio::test]
async fn killed_before_or_after_any_store_an_order_arrives_with_one_finalize() {
    for after in [false, true] {
        let mut killed = 0;
        for write in 1.. {
            let world = World::new().await;
            *world.hands.store.dies_at.lock().unwrap() = Some((write, after));
            if !until_death(&world).await {
                break;
            }
            killed += 1;
            arrives_with_one_finalize(world, &format!("write {write}, after it: {after}")).await;
        }
        assert!(killed >= 12, "{killed} stores in an order");
    }
}

#[tokio::test]
async fn killed_before_or_after_the_ca_heard_any_request_an_order_arrives_with_one_finalize() {
    for after in [false, true] {
        let mut killed = 0;
        for request in 1.. {
            let world = World::new().await;
            world.ca.hang_at(request, after);
            if !until_death(&world).await {
                break;
            }
            killed += 1;
            arrives_with_one_finalize(world, &format!("request {request}, after it: {after}")).await;
        }
        assert!(killed >= 20, "{killed} requests in an order");
    }
}
