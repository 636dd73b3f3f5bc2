//! The trust bundle, published: ConfigMap `signet-trust` in our namespace and in every labelled one, and the caBundle of the
//! injector's webhook. Only the holder of the Lease writes; a task does, so that a slow API server holds up no signing.
//!
//! A namespace that loses its label keeps its ConfigMap: pods that mount it restart there. It goes with the namespace.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{ConfigMap, Namespace},
    },
};
use kube::{
    Api, Client,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use signet_core::{
    bundle::{TrustBundle, certificate_pem},
    identity::SYSTEM_NAMESPACE,
    pod::{INJECT, TRUST, TRUST_BUNDLE_KEY, TRUST_CONFIG_MAP},
};
use signet_lease::{Lease, NoAnswer, call, clock::Clock};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tracing::{info, warn};

use super::{MANAGER, labels};
use crate::publication::{CannotPublish, Publication};

/// Publishes what [`Publication::publish`] was last told to, while the Lease is ours.
pub(crate) struct TrustMaps {
    client: Client,
    runtime: Handle,
    lease: Arc<Lease>,
    running: Clock,
    wanted: watch::Sender<Option<Arc<TrustBundle>>>,
    /// Sequence of the bundle that was written and read back wherever it should be; 0: of none.
    confirmed: AtomicU64,
    /// Namespaces that do not let us write, and why.
    skipped: Mutex<BTreeMap<String, String>>,
}

/// When (running clock) each namespace was last seen to hold which sequence.
type Known = HashMap<String, (u64, i64)>;

impl TrustMaps {
    pub(crate) fn new(client: Client, runtime: Handle, lease: Arc<Lease>, running: Clock) -> Arc<Self> {
        let wanted = watch::Sender::new(None);
        let (confirmed, skipped) = (AtomicU64::new(0), Mutex::default());
        Arc::new(Self { client, runtime, lease, running, wanted, confirmed, skipped })
    }

    /// Namespaces without the bundle, for the status.
    pub(crate) fn skipped(&self) -> BTreeMap<String, String> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes and mends, until it is dropped.
    pub(crate) async fn run(&self) {
        let (mut known, mut told, mut wanted) = (Known::new(), None, self.wanted.subscribe());
        loop {
            let _ = timeout(EVERY, wanted.changed()).await;
            let bundle = wanted.borrow_and_update().clone();
            let Some(bundle) = bundle.filter(|_| self.lease.is_held()) else {
                known.clear();
                // Once the Lease is ours again, what we wanted is old: the authority says anew.
                self.wanted.send_if_modified(|wanted| {
                    *wanted = None;
                    false
                });
                continue;
            };
            match self.pass(&bundle, &mut known).await {
                Ok(()) => {
                    if self.confirmed.swap(bundle.sequence, Ordering::SeqCst) != bundle.sequence
                        || told.is_some()
                    {
                        info!(sequence = bundle.sequence, namespaces = known.len(), "trust bundle published");
                    }
                    told = None;
                }
                Err(error) if told.as_ref() != Some(&error) => {
                    warn!(%error, "the trust bundle is not published everywhere; trying again, a rotation waits for it");
                    told = Some(error);
                }
                Err(_) => {}
            }
        }
    }

    /// Once over everything that should hold `bundle`. The first error, after all were tried.
    async fn pass(&self, bundle: &TrustBundle, known: &mut Known) -> Result<(), NoAnswer> {
        let now = (self.running)();
        // Never over what a later leader wrote, however long we were held up.
        if self.published().await?.is_some_and(|published| published.sequence > bundle.sequence) {
            return Err(NoAnswer::of(
                "ConfigMap signet-system/signet-trust holds a newer bundle than the state's",
            ));
        }
        let namespaces = self.namespaces().await?;
        known.retain(|namespace, _| namespaces.contains(namespace));
        let is_due = |namespace: &String| {
            known
                .get(namespace)
                .is_none_or(|(sequence, at)| *sequence != bundle.sequence || now - at >= CHECK)
        };
        let due: Vec<String> = namespaces.iter().filter(|namespace| is_due(namespace)).cloned().collect();
        let pem = bundle.to_pem();
        let written = stream::iter(due)
            .map(|namespace| async {
                let first = self.write_map(&namespace, &pem).await;
                let again = namespace != SYSTEM_NAMESPACE && first.as_ref().is_err_and(NoAnswer::is_conflict);
                (if again { self.write_map(&namespace, &pem).await } else { first }, namespace)
            })
            .buffer_unordered(TOGETHER);
        let mut first_error = None;
        for (result, namespace) in written.collect::<Vec<_>>().await {
            match result {
                Ok(()) => self.unskip(&namespace),
                Err(error) if error.is_forbidden() && namespace != SYSTEM_NAMESPACE => {
                    self.skip(&namespace, &error)
                }
                // Somebody there writes faster than we do: looked at again in the next pass, and nobody waits for it.
                Err(error) if error.is_conflict() && namespace != SYSTEM_NAMESPACE => {
                    self.skip(&namespace, &error);
                    known.remove(&namespace);
                    continue;
                }
                Err(error) => {
                    first_error = first_error.or(Some(error));
                    continue;
                }
            }
            known.insert(namespace, (bundle.sequence, now));
        }
        self.skipped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| namespaces.contains(name));
        // Neither hides the other: they have different causes, and one operator.
        match (first_error, self.write_webhook(bundle).await) {
            (Some(error), Err(webhook)) => Err(NoAnswer::of(&format!("{error}; {webhook}"))),
            (Some(error), Ok(())) => Err(error),
            (None, webhook) => webhook,
        }
    }

    /// What stands in our own namespace, if that is whole.
    async fn published(&self) -> Result<Option<TrustBundle>, NoAnswer> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let map = call(api.get_opt(TRUST_CONFIG_MAP)).await?;
        let pem = map.and_then(|map| map.data).and_then(|mut data| data.remove(TRUST_BUNDLE_KEY));
        Ok(pem.and_then(|pem| TrustBundle::from_pem(pem.as_bytes()).ok()))
    }

    /// Ours, and every labelled one that is not on its way out: new objects are refused there.
    async fn namespaces(&self) -> Result<BTreeSet<String>, NoAnswer> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut all = BTreeSet::from([SYSTEM_NAMESPACE.to_owned()]);
        for label in [format!("{INJECT}=enabled"), format!("{TRUST}=enabled")] {
            // From the API server's memory: a label is seen a moment later, and etcd is spared.
            let chosen = ListParams::default().labels(&label).match_any();
            let found = call(api.list_metadata(&chosen)).await?;
            let alive = found.items.into_iter().filter(|found| found.metadata.deletion_timestamp.is_none());
            all.extend(alive.filter_map(|found| found.metadata.name));
        }
        Ok(all)
    }

    /// The answer to a write is the object as it is stored: that is the reading back.
    async fn write_map(&self, namespace: &str, pem: &str) -> Result<(), NoAnswer> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let holds = |map: &ConfigMap| {
            map.data.as_ref().and_then(|data| data.get(TRUST_BUNDLE_KEY)).is_some_and(|held| held == pem)
        };
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let content = (TRUST_BUNDLE_KEY.to_owned(), pem.to_owned());
        let written = match call(api.get_opt(TRUST_CONFIG_MAP)).await? {
            Some(map) if holds(&map) => return Ok(()),
            _ if !self.lease.is_held() => return Err(NoAnswer::of("the Lease is another replica's by now")),
            Some(mut map) => {
                (map.data, map.binary_data) = (Some([content].into()), None); // a key may not stand in both
                call(api.replace(TRUST_CONFIG_MAP, &params, &map)).await?
            }
            None => {
                let name = Some(TRUST_CONFIG_MAP.to_owned());
                let metadata = ObjectMeta { name, labels: Some(labels()), ..ObjectMeta::default() };
                let map = ConfigMap { metadata, data: Some([content].into()), ..ConfigMap::default() };
                call(api.create(&params, &map)).await?
            }
        };
        if holds(&written) { Ok(()) } else { Err(NoAnswer::of("a ConfigMap does not hold what was written")) }
    }

    /// Every entry's caBundle is all believed roots. No such webhook is fine; one that others wrote since is looked at again.
    async fn write_webhook(&self, bundle: &TrustBundle) -> Result<(), NoAnswer> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let Some(found) = call(api.get_opt(WEBHOOK)).await? else { return Ok(()) };
        let roots =
            ByteString(bundle.believed().map(|root| certificate_pem(root)).collect::<String>().into_bytes());
        let entries = found.webhooks.unwrap_or_default();
        let wrong: Vec<_> =
            entries.iter().filter(|entry| entry.client_config.ca_bundle.as_ref() != Some(&roots)).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        if !self.lease.is_held() {
            return Err(NoAnswer::of("the Lease is another replica's by now"));
        }
        let patch = json!({
            "metadata": { "resourceVersion": found.metadata.resource_version },
            "webhooks": wrong
                .iter()
                .map(|entry| json!({ "name": entry.name, "clientConfig": { "caBundle": roots } }))
                .collect::<Vec<_>>(),
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        call(api.patch(WEBHOOK, &params, &Patch::Strategic(patch))).await?;
        info!(webhook = WEBHOOK, entries = wrong.len(), sequence = bundle.sequence, "caBundle put right");
        Ok(())
    }

    fn skip(&self, namespace: &str, why: &NoAnswer) {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        if skipped.insert(namespace.to_owned(), why.to_string()).is_none() {
            warn!(namespace, %why, "no trust bundle for this namespace; its new pods cannot join");
        }
    }

    fn unskip(&self, namespace: &str) {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace);
    }
}

impl Publication for Arc<TrustMaps> {
    fn found(&self) -> Result<Option<TrustBundle>, CannotPublish> {
        self.runtime.block_on(self.published()).map_err(|why| CannotPublish::Api(why.to_string()))
    }

    /// Tells the task; true once it has written and read back everywhere.
    fn publish(&self, bundle: &TrustBundle) -> Result<bool, CannotPublish> {
        self.wanted.send_if_modified(|wanted| {
            let is_new = wanted.as_deref() != Some(bundle);
            if is_new {
                *wanted = Some(Arc::new(bundle.clone()));
            }
            is_new
        });
        Ok(self.confirmed.load(Ordering::SeqCst) == bundle.sequence)
    }
}

/// The injector's, of deploy/.
const WEBHOOK: &str = "signet-injector";
/// Two lists of labelled namespaces and one GET of the webhook: pods that wait for their bundle wait no longer, and a wrong
/// caBundle is right again within 10 s.
const EVERY: Duration = Duration::from_secs(2);
/// Seconds between looks at a ConfigMap that was right.
const CHECK: i64 = 60;
/// Namespaces written at once: a thousand take seconds, and the API server has 400 places.
const TOGETHER: usize = 8;

#[cfg(test)]
mod tests;
