//! A cluster's objects: a watch for each kind that this process follows -> what each holds -> one change at a time for who
//! builds the index.
//!
//! Stale beats empty, and half is worse than nothing: nobody is answered before each of the kinds was listed whole, and from
//! then on everything known stays in use, through broken watches, API servers that are down and lists that take their
//! time, until something newer is there as a whole.

mod store;
mod trim;

#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use signet_core::drain::Drain;
use store::{Event, Seen, Store};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{info, warn};

use super::Object;
use crate::metrics::Metrics;

/// The kinds that are watched; nobody is answered before all those of its process are known.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Watched {
    Namespaces,
    ServiceAccounts,
    Services,
    EndpointSlices,
    Pods,
    Ingresses,
    IngressClasses,
    Nodes,
}

impl Watched {
    /// The controller's.
    pub(crate) const MESH: &[Self] =
        &[Self::Namespaces, Self::ServiceAccounts, Self::Services, Self::EndpointSlices, Self::Pods];
    /// Edge's. Secrets are not among them: they are asked for by name (`edge::secrets`).
    pub(crate) const EDGE: &[Self] = &[
        Self::Namespaces,
        Self::Services,
        Self::EndpointSlices,
        Self::Pods,
        Self::Ingresses,
        Self::IngressClasses,
        Self::Nodes,
    ];

    /// As in RBAC rules.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::ServiceAccounts => "serviceaccounts",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Pods => "pods",
            Self::Ingresses => "ingresses",
            Self::IngressClasses => "ingressclasses",
            Self::Nodes => "nodes",
        }
    }
}

/// What the watches know. One task owns it.
pub(crate) struct Cluster {
    events: mpsc::Receiver<(Watched, Event)>,
    stores: BTreeMap<Watched, Store>,
    health: Health,
    /// Something changed since [`Cluster::changed`] last returned.
    dirty: bool,
}

impl Cluster {
    /// Begins to watch these kinds, until `drain` stops.
    pub(crate) fn watch(
        client: &Client,
        kinds: &'static [Watched],
        metrics: &Arc<Metrics>,
        drain: &Drain,
    ) -> Self {
        let (to, events) = mpsc::channel(QUEUE);
        let health = Health::of(kinds);
        let watch =
            Watch { client: client.clone(), to, health: health.clone(), metrics: Arc::clone(metrics) };
        for kind in kinds {
            watch.clone().start_one(*kind, drain);
        }
        let stores = kinds.iter().map(|kind| (*kind, Store::default())).collect();
        Self { events, stores, health, dirty: false }
    }

    /// What goes wrong, for who asks.
    pub(crate) fn health(&self) -> Health {
        self.health.clone()
    }

    /// Returns when every kind is known and something has changed since the last time (the first time: once they are known).
    /// Changes that come within [`WINDOW`] of each other are one. Dropped before it returns, it loses nothing.
    pub(crate) async fn changed(&mut self) {
        while !(self.dirty && self.is_synced()) {
            self.take_one().await;
        }
        let end = Instant::now() + WINDOW;
        while timeout_at(end, self.take_one()).await.is_ok() {}
        self.dirty = false;
    }

    /// Everything known, in no order.
    pub(crate) fn objects(&self) -> Vec<Arc<Object>> {
        let mut objects = Vec::with_capacity(self.stores.values().map(Store::len).sum());
        objects.extend(self.stores.values().flat_map(Store::objects).cloned());
        objects
    }

    fn is_synced(&self) -> bool {
        self.stores.values().all(Store::is_synced)
    }

    async fn take_one(&mut self) {
        let Some((kind, event)) = self.events.recv().await else {
            return future::pending().await; // the watches have stopped, and soon we are
        };
        let store = self.stores.entry(kind).or_default();
        self.dirty |= store.take(event);
        if store.is_synced() {
            self.health.synced(kind);
        }
    }
}

/// How the watches are.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Mutex<BTreeMap<Watched, KindHealth>>>);

#[derive(Clone, Debug, Default)]
struct KindHealth {
    /// It was asked for.
    asked: bool,
    synced: bool,
    /// The API server's words, while it does not serve this kind.
    fault: Option<String>,
}

impl Health {
    pub(crate) fn of(kinds: &[Watched]) -> Self {
        Self(Arc::new(Mutex::new(kinds.iter().map(|kind| (*kind, KindHealth::default())).collect())))
    }

    /// The kinds that were never listed whole, each with the reason where there is one: "pods: forbidden ...".
    pub(crate) fn missing(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = all.iter().filter_map(|(kind, health)| match health {
            KindHealth { synced: true, .. } => None,
            KindHealth { asked: false, .. } => Some(format!("{} not listed yet", kind.word())),
            KindHealth { fault, .. } => Some(format!(
                "{} not listed yet: {}",
                kind.word(),
                fault.as_deref().unwrap_or("no error so far")
            )),
        });
        missing.collect()
    }

    /// The kinds of which we hear nothing new now, each with the reason. What we know of them stays in use.
    pub(crate) fn faults(&self) -> Vec<(Watched, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(|(kind, health)| Some((*kind, health.fault.clone()?))).collect()
    }

    fn synced(&self, kind: Watched) {
        self.change(kind, |health| health.synced = true);
    }

    /// True when it is another one than before.
    fn fault(&self, kind: Watched, fault: Option<&str>) -> bool {
        self.change(kind, |health| {
            health.asked = true;
            let is_new = health.fault.as_deref() != fault;
            if is_new {
                health.fault = fault.map(str::to_owned);
            }
            is_new
        })
    }

    fn change<T>(&self, kind: Watched, change: impl FnOnce(&mut KindHealth) -> T) -> T {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default())
    }
}

/// The watch of one kind.
#[derive(Clone)]
struct Watch {
    client: Client,
    to: mpsc::Sender<(Watched, Event)>,
    health: Health,
    metrics: Arc<Metrics>,
}

impl Watch {
    fn start_one(self, kind: Watched, drain: &Drain) {
        match kind {
            Watched::Namespaces => self.start::<Namespace>(kind, trim::namespace, drain),
            Watched::ServiceAccounts => self.start::<ServiceAccount>(kind, trim::service_account, drain),
            Watched::Services => self.start::<Service>(kind, trim::service, drain),
            Watched::EndpointSlices => self.start::<EndpointSlice>(kind, trim::endpoint_slice, drain),
            Watched::Pods => self.start::<Pod>(kind, trim::pod, drain),
            Watched::Ingresses => self.start::<Ingress>(kind, trim::ingress, drain),
            Watched::IngressClasses => self.start::<IngressClass>(kind, trim::ingress_class, drain),
            Watched::Nodes => self.start::<Node>(kind, trim::node, drain),
        }
    }

    fn start<K>(self, kind: Watched, trim: fn(K) -> Seen, drain: &Drain)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api = Api::<K>::all(self.client.clone());
        drain.keep(async move { Box::pin(self.run(&api, kind, trim)).await });
    }

    /// List, then watch, for ever. We do not use kube's `watcher`: it does not tell that a watch works again before its next
    /// event, waits without end for a list that never answers, and resumes for ever from a version that the API server
    /// refuses.
    async fn run<K>(&self, api: &Api<K>, kind: Watched, trim: fn(K) -> Seen)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (mut failures, mut at) = (0, None);
        loop {
            let began = Instant::now();
            let end = self.follow(api, kind, trim, &mut at).await;
            if self.to.is_closed() {
                return;
            }
            failures = if began.elapsed() > LONGEST_PAUSE { 0 } else { failures };
            match end {
                // An ordinary end, unless it came at once.
                Ok(()) if began.elapsed() > FIRST_PAUSE => {
                    failures = 0;
                    continue;
                }
                Ok(()) => {}
                Err(error) => {
                    if cannot_resume(&error) {
                        at = None;
                    }
                    self.failed(kind, &error);
                }
            }
            failures += 1;
            sleep(pause(failures, fastrand::f64())).await;
        }
    }

    /// One watch's life, from version `at`, which is kept up to date; without one it lists first.
    async fn follow<K>(
        &self,
        api: &Api<K>,
        kind: Watched,
        trim: fn(K) -> Seen,
        at: &mut Option<String>,
    ) -> Result<(), Broken>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let from = match at.clone() {
            Some(version) => version,
            None => {
                let (all, version) = list(api, trim).await?;
                self.metrics.listed(kind.word());
                self.tell(kind, Event::List(all, version.parse().ok())).await;
                at.insert(version).clone()
            }
        };
        let params = WatchParams::default().timeout(SILENCE); // with bookmarks
        let events = timeout(ANSWER, api.watch(&params, &from)).await.map_err(|_| Broken::Late)??;
        let mut events = pin!(events);
        self.heard(kind);
        loop {
            let event = match timeout(Duration::from_secs(u64::from(SILENCE)) + MARGIN, events.next()).await {
                Ok(Some(event)) => event?,
                Ok(None) | Err(_) => return Ok(()), // it ended, or says nothing: the next one goes on where it stopped
            };
            let (version, event) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    (object.meta().resource_version.clone(), Some(Event::Set(trim(object))))
                }
                WatchEvent::Deleted(object) => {
                    (object.meta().resource_version.clone(), Some(Event::Deleted(trim(object))))
                }
                WatchEvent::Bookmark(mark) => (Some(mark.metadata.resource_version), None),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            };
            if let Some(version) = version.filter(|version| !version.is_empty()) {
                *at = Some(version);
            }
            if let Some(event) = event {
                self.tell(kind, event).await;
            }
        }
    }

    /// Fails only when nobody listens any more; [`Watch::run`] sees that.
    async fn tell(&self, kind: Watched, event: Event) {
        let _ = self.to.send((kind, event)).await;
    }

    fn heard(&self, kind: Watched) {
        if self.health.fault(kind, None) {
            info!(kind = kind.word(), "the API server serves it again");
        }
    }

    fn failed(&self, kind: Watched, error: &Broken) {
        self.metrics.watch_failed(kind.word());
        let words = words(error);
        if self.health.fault(kind, Some(&words)) {
            warn!(kind = kind.word(), error = %words, "cannot watch; what is known stays in use");
        }
    }
}

/// Everything there is, page by page, and its version.
async fn list<K>(api: &Api<K>, trim: fn(K) -> Seen) -> Result<(Vec<Seen>, String), Broken>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let (mut all, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let page = timeout(ANSWER, api.list(&params)).await.map_err(|_| Broken::Late)??;
        all.extend(page.items.into_iter().map(trim));
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        match (next, page.metadata.resource_version.filter(|version| !version.is_empty())) {
            (Some(token), _) => params = ListParams::default().limit(PAGE).continue_token(&token),
            (None, Some(version)) => return Ok((all, version)),
            (None, None) => return Err(Broken::NoVersion),
        }
    }
}

/// Why a watch does not go on.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("no answer in {ANSWER:?}")]
    Late,
    #[error("a list without a resourceVersion")]
    NoVersion,
}

/// The version that a watch would resume from is one that the API server no longer (410) or not yet (504: its store was
/// restored from a backup) has, or that it cannot read (400): only a new list helps.
fn cannot_resume(error: &Broken) -> bool {
    matches!(error, Broken::Api(kube::Error::Api(status)) if [400, 410, 504].contains(&status.code))
}

/// An error's whole chain, in one line.
fn words(error: &Broken) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        source = error.source();
    }
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

/// Doubles from a quarter of a second: an API server that restarts is back within seconds, and five kinds of a few replicas
/// asking every [`LONGEST_PAUSE`] are no load. `jitter` is uniform in 0..1.
fn pause(failures: u32, jitter: f64) -> Duration {
    let step = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10));
    step.min(LONGEST_PAUSE).mul_f64(0.5 + 0.5 * jitter)
}

/// Events that wait to be taken in; when it is full the watches wait, and the API server keeps their events.
const QUEUE: usize = 256;
/// Changes are collected for this long: a rollout's burst of events is one new index, and 20 ms are little beside the time that
/// a Pod takes to become ready.
const WINDOW: Duration = Duration::from_millis(20);
/// Seconds. The API server is asked to end a watch after it; one that has said nothing for that long and [`MARGIN`] is renewed,
/// so what a dead connection hides is seen after 65 s.
const SILENCE: u32 = 60;
const MARGIN: Duration = Duration::from_secs(5);
/// Objects of one page of a list. A page is held decoded and as JSON before it is trimmed, a third of a MB for each pod of 60
/// variables a container, and malloc keeps what it once had: pages of 500, client-go's, left a controller of 1 000 pods at 183 MB.
const PAGE: u32 = 50;
/// For a page, or the head of a watch's answer; an API server that starts may need a while.
const ANSWER: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Characters of an error that we repeat.
const MAX_WORDS: usize = 300;
