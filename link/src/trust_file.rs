//! The trust bundle as a file: what a process believes before it reached anyone, and its way back after a long absence.
//! Read at start and polled since: a mounted ConfigMap changes by a symlink that inotify on the file does not see.

use std::{path::PathBuf, sync::Arc, time::Duration};

use signet_core::{
    bundle::{BadBundle, TrustBundle},
    drain::Drain,
    trust::Trust,
};
use tokio::time::sleep;
use tracing::{error, info};

/// Reads `path` now and again every second: a good bundle is offered to `trust`, a broken one makes it refuse everyone
/// until the file is mended (design 10).
pub fn watch(path: PathBuf, trust: Arc<Trust>, drain: &Drain) {
    let mut last = Seen::Nothing;
    look(&path, &trust, &mut last);
    let stop = drain.clone();
    drain.spawn(async move {
        loop {
            let pause = if trust.bundle().is_some() { POLL } else { FIRST_POLL };
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                () = sleep(pause) => look(&path, &trust, &mut last),
            }
        }
    });
}

#[derive(Eq, PartialEq)]
enum Seen {
    Nothing,
    Good(u64),
    Fault(String),
}

fn look(path: &std::path::Path, trust: &Trust, last: &mut Seen) {
    let seen = match TrustBundle::read(path) {
        Ok(bundle) => {
            let sequence = bundle.sequence;
            trust.offer(bundle);
            trust.set_fault(None);
            Seen::Good(sequence)
        }
        // At start the CA may not have written it yet: nothing is believed anyway, and an error would cry wolf.
        Err(BadBundle::Unreadable { .. }) if trust.bundle().is_none() => return,
        Err(fault) => {
            trust.set_fault(Some(fault.to_string()));
            Seen::Fault(fault.to_string())
        }
    };
    if seen != *last {
        match &seen {
            Seen::Good(sequence) => info!(sequence, file = %path.display(), "trust bundle read"),
            Seen::Fault(why) => error!("{why}"),
            Seen::Nothing => {}
        }
        *last = seen;
    }
}

const POLL: Duration = Duration::from_secs(1);
/// Until there is a bundle nothing works: a CA that starts beside us is not waited for longer than it takes.
const FIRST_POLL: Duration = Duration::from_millis(20);
