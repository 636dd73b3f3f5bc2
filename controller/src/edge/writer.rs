//! What edge writes into the cluster, by whichever replica holds the Lease: claims of hosts, addresses in the status of Ingresses, and
//! Events that say what is wrong with one. Each is decided from the newest snapshot, and written only where it differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::ObjectReference, networking::v1::Ingress};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use signet_core::{clock, drain::Drain};
use signet_lease::{Lease, NoAnswer, call};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    claim_store::ClaimStore,
    finding::Word,
    metrics::EdgeMetrics,
    objects::{Address, Name},
    snapshot::EdgeSnapshot,
    translate::Told,
};
use crate::{
    events::{self, Warning},
    metrics::Metrics,
};

pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) lease: Arc<Lease>,
    pub(crate) claims: ClaimStore,
    pub(crate) snapshots: watch::Receiver<Arc<EdgeSnapshot>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) edge_metrics: EdgeMetrics,
}

impl Writer {
    /// Until `drain` stops; the Lease is given back then.
    pub(crate) fn start(self, drain: &Drain) {
        let (lease, stop) = (Arc::clone(&self.lease), drain.clone());
        drain.spawn(async move {
            tokio::select! {
                biased;
                () = stop.stopping() => {}
                () = Box::pin(self.run()) => {}
                () = lease.run() => {}
            }
            lease.release().await;
        });
    }

    async fn run(mut self) {
        let mut memory = Memory::default();
        loop {
            let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
            let leads = self.lease.is_held();
            self.edge_metrics.leads.set(i64::from(leads));
            if leads {
                self.turn(&snapshot, &mut memory).await;
            } else {
                memory = Memory::default();
            }
            // Time brings turns too: the Lease, events that were not due yet, and what failed.
            let _ = timeout(TICK, self.snapshots.changed()).await;
        }
    }

    async fn turn(&self, snapshot: &EdgeSnapshot, memory: &mut Memory) {
        memory.written.retain(|name, _| snapshot.translated.ingresses.contains_key(name));
        self.store_claims(snapshot).await;
        let addresses = &snapshot.translated.addresses;
        for (name, told) in &snapshot.translated.ingresses {
            let Some(wanted) = wanted(told, addresses) else { continue };
            if !self.lease.is_held() {
                return;
            }
            if memory.may_write(name, wanted) {
                self.publish(name, told, wanted).await;
            }
        }
        for warning in memory.due(&snapshot.translated.ingresses, Instant::now()) {
            if !self.lease.is_held() {
                return;
            }
            match events::write(&self.client, &warning, clock::unix_now()).await {
                Ok(written) => {
                    self.metrics.events.inc_by(u64::from(written));
                    memory.told.insert(events::name(&warning));
                }
                Err(why) => {
                    warn!(%why, "an Event about an Ingress cannot be written; trying again");
                    memory.seen.insert(events::name(&warning), Instant::now()); // the others' turn comes first
                }
            }
        }
    }

    /// What this snapshot was settled from is what is replaced: another's claim in between is never written over.
    async fn store_claims(&self, snapshot: &EdgeSnapshot) {
        let Some(read) = &snapshot.stored else { return };
        if read.claims == snapshot.translated.claims {
            return;
        }
        match self.claims.write(read, &snapshot.translated.claims).await {
            Ok(written) => {
                self.edge_metrics.claims.inc_by(u64::from(written));
            }
            Err(error) => {
                warn!(%error, "claims of hosts cannot be stored; until they are, new hosts go by the age of their Ingresses");
            }
        }
    }

    async fn publish(&self, (namespace, name): &Name, told: &Told, addresses: &[Address]) {
        let api = Api::<Ingress>::namespaced(self.client.clone(), namespace);
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(patch(told, addresses));
        match call(api.patch_status(name, &params, &patch)).await {
            Ok(_) => {
                self.edge_metrics.statuses.inc();
                let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                info!(namespace, ingress = name, addresses = shown.join(", "), "status written");
            }
            Err(error) => self.unpublished(namespace, name, &error),
        }
    }

    fn unpublished(&self, namespace: &str, name: &str, error: &NoAnswer) {
        // Gone, or another one of its name: the next snapshot knows.
        if !error.is_absent() && !error.is_conflict() {
            warn!(namespace, ingress = name, %error, "the status of an Ingress cannot be written; trying again");
        }
    }
}

/// What the status should say, where it says something else. One that gets none of its hosts has no address, but only ours is taken away:
/// what another controller wrote is its own.
fn wanted<'a>(told: &Told, addresses: &'a [Address]) -> Option<&'a [Address]> {
    let is_ours = !addresses.is_empty() && told.published == addresses;
    match (told.served, is_ours) {
        (true, false) if !addresses.is_empty() => Some(addresses),
        (false, true) => Some(&[]),
        _ => None,
    }
}

/// A merge patch: of the status alone, and only of the object that was looked at.
fn patch(told: &Told, addresses: &[Address]) -> Value {
    let all: Vec<Value> = addresses
        .iter()
        .map(|address| match address {
            Address::Ip(ip) => json!({ "ip": ip.to_string() }),
            Address::Hostname(name) => json!({ "hostname": name }),
        })
        .collect();
    json!({ "metadata": { "uid": told.uid }, "status": { "loadBalancer": { "ingress": all } } })
}

/// What this replica wrote since it leads.
#[derive(Default)]
struct Memory {
    /// Statuses that the watch has not shown us yet, or that failed.
    written: BTreeMap<Name, (Vec<Address>, Instant)>,
    /// Names of events that are written.
    told: BTreeSet<String>,
    /// Names of events that are to be, and since when.
    seen: BTreeMap<String, Instant>,
}

impl Memory {
    /// Not the same again before the watch had time to show it.
    fn may_write(&mut self, name: &Name, addresses: &[Address]) -> bool {
        let now = Instant::now();
        if let Some((written, at)) = self.written.get(name)
            && written == addresses
            && now < *at + AGAIN
        {
            return false;
        }
        self.written.insert(name.clone(), (addresses.to_vec(), now));
        true
    }

    /// Warnings that have been true for [`SETTLE`] and were not told, at most [`AT_ONCE`].
    fn due(&mut self, ingresses: &BTreeMap<Name, Told>, now: Instant) -> Vec<Warning> {
        let all: Vec<(String, Warning)> = ingresses
            .iter()
            .flat_map(|(name, told)| warnings(name, told))
            .map(|warning| (events::name(&warning), warning))
            .collect();
        let names: BTreeSet<&String> = all.iter().map(|(name, _)| name).collect();
        self.seen.retain(|name, _| names.contains(name));
        self.told.retain(|name| names.contains(name));
        let mut due = Vec::new();
        for (name, warning) in all {
            let since = *self.seen.entry(name.clone()).or_insert(now);
            if now >= since + SETTLE && !self.told.contains(&name) && due.len() < AT_ONCE {
                due.push(warning);
            }
        }
        due
    }
}

/// One for each word, with all that it says.
fn warnings((namespace, name): &Name, told: &Told) -> Vec<Warning> {
    if told.uid.is_empty() {
        return Vec::new();
    }
    let mut words: BTreeMap<Word, Vec<&str>> = BTreeMap::new();
    // A backend that is being rolled out has no endpoint for a moment, and scaled to zero it has none for days; a first order takes some
    // seconds.
    let is_quiet = |word| matches!(word, Word::NoBackend | Word::BeingOrdered);
    for finding in told.findings.iter().filter(|finding| !is_quiet(finding.word)) {
        words.entry(finding.word).or_default().push(&finding.message);
    }
    let warnings = words.into_iter().map(|(word, messages)| Warning {
        about: ObjectReference {
            api_version: Some("networking.k8s.io/v1".into()),
            kind: Some("Ingress".into()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(told.uid.clone()),
            ..ObjectReference::default()
        },
        reason: word.text(),
        key: format!("{} {}", word.text(), messages.join("; ")),
        message: messages.join("; "),
        component: "signet-edge",
    });
    warnings.collect()
}

/// How the API server's logs and `managedFields` name us.
const MANAGER: &str = "signet-edge";
/// Between turns without news.
const TICK: Duration = Duration::from_secs(1);
/// A status that was written is seen again within milliseconds; one that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// An Ingress, its Service and its Secret are applied together, but not at once.
const SETTLE: Duration = Duration::from_secs(10);
/// Events of one turn.
const AT_ONCE: usize = 5;

#[cfg(test)]
#[path = "writer/tests.rs"]
mod tests;
