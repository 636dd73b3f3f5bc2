//! Waiting for a condition with a deadline: the one loop in the tests that looks again and again.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// What `look` finds, as soon as it finds something. `what` ends the sentence "waited for ..." of the panic.
pub async fn eventually<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(AGAIN).await;
        }
    };
    match timeout(deadline, search).await {
        Ok(found) => found,
        Err(_) => panic!("waited {:?} for {what}", begun.elapsed()),
    }
}

/// `holds` stays true for all of `span`: for promises that something does not happen.
pub async fn throughout(what: &str, span: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        assert!(holds().await, "no longer true: {what}");
        sleep(AGAIN).await;
    }
}

/// What anything on one machine may take, with room for a machine that does much else.
pub const SOON: Duration = Duration::from_secs(20);
/// Short beside every deadline, long beside the cost of a look.
const AGAIN: Duration = Duration::from_millis(10);
