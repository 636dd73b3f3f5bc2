//! Events on Pods that their labels want in the mesh and that have no proxy: why, and what to do. Where `kubectl describe pod`
//! and `kubectl get events` show it, to who never heard of us.
//!
//! Written once per Pod, by whichever replica comes first ([`events`]). The API server forgets events after an hour; so that a
//! controller that starts then does not tell again what is old, it begins with the Pods that are younger. Of the older ones
//! `signet explain` and `signet status` speak.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use signet_core::{clock, drain::Drain};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use crate::{
    events::{self, Warning},
    index::{Index, Obstacle, Pod},
    metrics::Metrics,
    resources::Snapshot,
};

/// Writes them until `drain` stops.
pub(crate) fn start(
    client: Client,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    drain: &Drain,
) {
    drain.keep(async move { Box::pin(run(&client, snapshots, &metrics)).await });
}

async fn run(client: &Client, mut snapshots: watch::Receiver<Arc<Snapshot>>, metrics: &Metrics) {
    let mut told = Told::default();
    told.begin(&snapshots.borrow_and_update().index, clock::unix_now());
    loop {
        let index = Arc::clone(&snapshots.borrow_and_update().index);
        let (next, wait) = match told.next(&index, Instant::now()) {
            Next::Tell(pod, obstacle) => (Some((pod, obstacle)), None),
            Next::Wait(until) => (None, until),
        };
        let Some((pod, obstacle)) = next else {
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = sleep_until(wait.unwrap_or_else(far)), if wait.is_some() => {}
            }
            continue;
        };
        match events::write(client, &warning(pod, &obstacle), clock::unix_now()).await {
            Ok(written) => {
                if written {
                    metrics.events.inc();
                    let (namespace, name) = (&pod.namespace, &pod.name);
                    info!(
                        namespace,
                        pod = name,
                        reason = obstacle.word(),
                        "a labelled pod has no proxy; its event is written"
                    );
                }
                told.told(pod);
                sleep(PACE).await;
            }
            Err(why) => {
                warn!(%why, "events about pods that were not injected cannot be written; trying again in {RETRY:?}");
                sleep(RETRY).await;
            }
        }
    }
}

fn far() -> Instant {
    Instant::now() + RETRY
}

/// Whom we told, and whom we are about to.
#[derive(Default)]
struct Told {
    /// UIDs; of Pods that exist.
    done: HashSet<String>,
    /// UIDs, and since when they are seen without a proxy.
    seen: HashMap<String, Instant>,
}

enum Next<'a> {
    Tell(&'a Pod, Obstacle),
    /// Nobody before then, or before something changes.
    Wait(Option<Instant>),
}

impl Told {
    /// Counts as told: every Pod whose event may have been forgotten.
    fn begin(&mut self, index: &Index, now: i64) {
        let old = |pod: &&Arc<Pod>| now - seconds(pod.created) >= EVENT_LIFE && index.obstacle(pod).is_some();
        self.done = index.pods.values().filter(old).map(|pod| pod.uid.clone()).collect();
    }

    fn told(&mut self, pod: &Pod) {
        self.done.insert(pod.uid.clone());
        self.seen.remove(&pod.uid);
    }

    /// Whose turn it is: one that has been without a proxy for [`SETTLE`].
    fn next<'a>(&mut self, index: &'a Index, now: Instant) -> Next<'a> {
        let there: HashSet<&str> = index.pods.values().map(|pod| pod.uid.as_str()).collect();
        self.done.retain(|uid| there.contains(uid.as_str()));
        let mut waiting = HashMap::new();
        let (mut next, mut until) = (None, None::<Instant>);
        for pod in index.pods.values().filter(|pod| !pod.ended && !pod.terminating && !pod.uid.is_empty()) {
            let Some(obstacle) = index.obstacle(pod).filter(|_| !self.done.contains(&pod.uid)) else {
                continue;
            };
            let since = self.seen.get(&pod.uid).copied().unwrap_or(now);
            waiting.insert(pod.uid.clone(), since);
            if now >= since + SETTLE {
                next.get_or_insert((pod.as_ref(), obstacle));
            } else {
                until = Some(until.map_or(since + SETTLE, |until| until.min(since + SETTLE)));
            }
        }
        self.seen = waiting;
        match next {
            Some((pod, obstacle)) => Next::Tell(pod, obstacle),
            None => Next::Wait(until),
        }
    }
}

fn warning(pod: &Pod, obstacle: &Obstacle) -> Warning {
    let step = obstacle.next_step(&pod.namespace, &pod.name, pod.injection.owner.as_ref());
    Warning {
        about: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        reason: REASON,
        key: obstacle.word().into(),
        message: format!("no mesh proxy, so its traffic is plaintext: {}. Next: {step}", obstacle.why()),
        component: "signet-controller",
    }
}

fn seconds(nanoseconds: i128) -> i64 {
    i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0)
}

const REASON: &str = "NotInjected";
/// Seconds; kube-apiserver's default --event-ttl.
const EVENT_LIFE: i64 = 3600;
/// Labelled, then restarted: the Pods that go anyway are not spoken of.
const SETTLE: Duration = Duration::from_secs(10);
/// Five a second of one replica: a thousand Pods in a namespace that was just labelled take three minutes and no API server
/// notices.
const PACE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "not_injected/tests.rs"]
mod tests;
