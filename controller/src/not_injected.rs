//! Events on Pods that their labels want in the mesh and that have no proxy: why, and what to do. Where `kubectl describe pod`
//! and `kubectl get events` show it, to who never heard of us.
//!
//! Written once per Pod, by whichever replica comes first: an event's name is made of its Pod's, its UID and the reason, so the
//! API server refuses the second. It forgets events after an hour; so that a controller that starts then does not tell again
//! what is old, it begins with the Pods that are younger. Of the older ones `signet explain` and `signet status` speak.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest as _, Sha256};
use signet_core::{clock, drain::Drain, svid::hex};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
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
        match write(client, pod, &obstacle).await {
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

/// True when it is new; false when somebody wrote it before, or its namespace takes none any more.
async fn write(client: &Client, pod: &Pod, obstacle: &Obstacle) -> Result<bool, String> {
    let api = Api::<Event>::namespaced(client.clone(), &pod.namespace);
    let event = event(pod, obstacle, clock::unix_now());
    match timeout(ANSWER, api.create(&PostParams::default(), &event)).await {
        Ok(Ok(_)) => Ok(true),
        // There already; or the namespace is gone (404), or it takes none: terminating, a quota, an admission policy (403); or the
        // object is one that it will never take. Without the right to write any, each of them is tried again.
        Ok(Err(kube::Error::Api(status))) if [400, 404, 409, 422].contains(&status.code) => Ok(false),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 && !status.message.contains(NO_RIGHT) => {
            Ok(false)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {ANSWER:?}")),
    }
}

fn event(pod: &Pod, obstacle: &Obstacle, now: i64) -> Event {
    let time = Timestamp::from_second(now).ok().map(Time);
    let step = obstacle.next_step(&pod.namespace, &pod.name, pod.injection.owner.as_ref());
    let message = format!("no mesh proxy, so its traffic is plaintext: {}. Next: {step}", obstacle.why());
    Event {
        metadata: ObjectMeta {
            name: Some(name(pod, obstacle)),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(REASON.into()),
        message: Some(message.chars().take(MAX_MESSAGE).collect()),
        type_: Some("Warning".into()),
        count: Some(1),
        first_timestamp: time.clone(),
        last_timestamp: time,
        source: Some(EventSource { component: Some("signet-controller".into()), ..EventSource::default() }),
        ..Event::default()
    }
}

/// The same on every replica. A Pod's name is a DNS subdomain of at most 253 bytes; so must be ours, with 17 more.
fn name(pod: &Pod, obstacle: &Obstacle) -> String {
    let hash = Sha256::digest(format!("{} {}", pod.uid, obstacle.word()));
    let kept: String = pod.name.chars().take(MAX_NAME).collect();
    format!("{}.{}", kept.trim_end_matches(['.', '-']), hex(&hash[..8]))
}

fn seconds(nanoseconds: i128) -> i64 {
    i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0)
}

const REASON: &str = "NotInjected";
/// RBAC's own words in a 403; whatever else refuses an event, refuses this one.
const NO_RIGHT: &str = "cannot create resource";
/// Seconds; kube-apiserver's default --event-ttl.
const EVENT_LIFE: i64 = 3600;
/// Labelled, then restarted: the Pods that go anyway are not spoken of.
const SETTLE: Duration = Duration::from_secs(10);
/// Five a second of one replica: a thousand Pods in a namespace that was just labelled take three minutes and no API server
/// notices.
const PACE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(10);
/// Characters; the API takes 1 024 bytes, and container names are ASCII.
const MAX_MESSAGE: usize = 1000;
const MAX_NAME: usize = 230;

#[cfg(test)]
#[path = "not_injected/tests.rs"]
mod tests;
