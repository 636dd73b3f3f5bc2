//! What every replica knows of ACME: a watch of our Secrets in `signet-edge` (records, accounts, challenges), one of the Secrets with DNS
//! credentials there, and one each of cert-manager's kinds, where they are. Whoever orders writes there, and learns it like everybody else.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, Resource, WatchEvent, WatchParams},
};
use rustls::crypto::CryptoProvider;
use serde::de::DeserializeOwned;
use serde_json::Value;
use signet_acme::{
    account::AccountRecord,
    dns::credentials::{self, Raw, Registry},
    drive,
    record::Record,
    store::Loaded,
};
use signet_core::{clock, drain::Drain, identity::EDGE_NAMESPACE, tls};
use signet_lease::{NoAnswer, call};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Challenges,
    annotation::GROUP,
    challenge_secret,
    issuers::{BuiltIn, Issuers},
    records::{Authorities, Read},
    secret_store::{self, ACCOUNT, CERTIFICATE, CHALLENGES, LABEL, PAGE},
};

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Followed {
    pub(crate) known: watch::Sender<Authorities>,
    /// Of accounts, by id: their URLs at the authority.
    pub(crate) accounts: watch::Sender<BTreeMap<String, String>>,
    pub(crate) credentials: watch::Sender<Arc<Registry>>,
    /// What is there to be answered; gateways are told.
    pub(crate) challenges: watch::Sender<Arc<Challenges>>,
}

impl Followed {
    pub(crate) fn new(built_in: &BuiltIn, challenges: watch::Sender<Arc<Challenges>>) -> Self {
        let issuers = Arc::new(Issuers::new(built_in, None));
        Self {
            known: watch::Sender::new(Authorities { issuers, ..Authorities::default() }),
            accounts: watch::Sender::default(),
            credentials: watch::Sender::default(),
            challenges,
        }
    }

    /// Follows the cluster until `drain` stops.
    pub(crate) fn start(
        &self,
        client: &Client,
        built_in: BuiltIn,
        provider: Arc<CryptoProvider>,
        drain: &Drain,
    ) {
        let secrets = Api::<Secret>::namespaced(client.clone(), EDGE_NAMESPACE);
        let (ours, of_ours) = (self.clone(), secrets.clone());
        drain.keep(async move {
            let mut names = BTreeMap::new();
            let told = |told| ours.ours(told, &mut names, &provider);
            Box::pin(follow(of_ours, Some(LABEL), "Secrets with certificates", told)).await;
        });
        let credentials = self.clone();
        drain.keep(async move {
            let mut held = BTreeMap::new();
            let told = |told| credentials.credentials(told, &mut held);
            Box::pin(follow(secrets, Some(credentials::LABEL), "Secrets with DNS credentials", told)).await;
        });
        let (issuers, client) = (self.clone(), client.clone());
        drain.keep(async move { Box::pin(issuers.issuers(&client, &built_in)).await });
    }

    /// Of a directory: all that is stored there.
    pub(crate) fn stored(&self, loaded: Loaded) {
        let records: Vec<Arc<Record>> =
            loaded.records.into_iter().map(|stored| Arc::new(stored.value)).collect();
        self.known.send_modify(|known| {
            known.read = Read::ALL; // there is nothing else to read
            known.records.are(records.iter(), &loaded.broken, &tls::default_provider());
        });
    }

    /// Of a directory: whoever orders says what becomes of it.
    pub(crate) fn driven(&self, mut driven: watch::Receiver<Option<Arc<drive::Snapshot>>>, drain: &Drain) {
        let this = self.clone();
        let provider = tls::default_provider();
        drain.keep(async move {
            while driven.changed().await.is_ok() {
                let Some(snapshot) = driven.borrow_and_update().clone() else { continue };
                let records = snapshot.entries.values().map(|entry| &entry.record);
                this.known.send_if_modified(|known| {
                    let is_new = known.records.are(records, &snapshot.broken, &provider);
                    known.records.forget(clock::unix_now());
                    is_new
                });
            }
        });
    }

    /// Returns when the records were read once, or [`FIRST`] has passed: an edge that starts anew takes no certificate away.
    pub(crate) async fn first(&self) {
        let mut known = self.known.subscribe();
        if timeout(FIRST, known.wait_for(|known| known.read.records)).await.is_err() {
            warn!(
                "certificates in namespace {EDGE_NAMESPACE} could not be read in {FIRST:?}; their hosts go without until they are"
            );
        }
    }

    /// `names`: what each of our Secrets is.
    fn ours(&self, told: Told<Secret>, names: &mut BTreeMap<String, String>, provider: &CryptoProvider) {
        match told {
            Told::All(all) => {
                let before = std::mem::take(names);
                for secret in all {
                    self.one(secret, names, provider);
                }
                for (name, what) in before.iter().filter(|(name, _)| !names.contains_key(*name)) {
                    self.gone(name, what);
                }
                self.known.send_if_modified(|known| !std::mem::replace(&mut known.read.records, true));
            }
            Told::Absent => {}
            Told::Set(secret) => self.one(secret, names, provider),
            Told::Gone(secret) => {
                let name = secret.metadata.name.clone().unwrap_or_default();
                secret_store::wipe(secret);
                if let Some(what) = names.remove(&name) {
                    self.gone(&name, &what);
                }
            }
        }
    }

    fn one(&self, secret: Secret, names: &mut BTreeMap<String, String>, provider: &CryptoProvider) {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let what = secret.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL)).cloned();
        let what = what.unwrap_or_default();
        names.insert(name.clone(), what.clone());
        match what.as_str() {
            CERTIFICATE => {
                let (json, _) = secret_store::content(secret);
                let record = secret_store::record(&name, &json);
                self.known.send_if_modified(|known| {
                    known.records.forget(clock::unix_now());
                    match record {
                        Ok(record) => known.records.take(Arc::new(record), provider),
                        Err(why) => known.records.broke(&name, &why),
                    }
                });
            }
            ACCOUNT => {
                let (json, _) = secret_store::content(secret);
                let url = AccountRecord::parse(&json).ok().and_then(|account| account.url);
                self.accounts.send_if_modified(|all| match url {
                    Some(url) => all.insert(name, url.clone()) != Some(url),
                    None => all.remove(&name).is_some(),
                });
            }
            CHALLENGES => self.answer(challenge_secret::parse(secret)),
            _ => secret_store::wipe(secret),
        }
    }

    fn gone(&self, name: &str, what: &str) {
        match what {
            CERTIFICATE => {
                self.known.send_if_modified(|known| known.records.gone(name));
            }
            ACCOUNT => {
                self.accounts.send_if_modified(|all| all.remove(name).is_some());
            }
            CHALLENGES => self.answer(Challenges::new()),
            _ => {}
        }
    }

    fn answer(&self, challenges: Challenges) {
        self.challenges.send_if_modified(|held| {
            let is_new = **held != challenges;
            if is_new {
                *held = Arc::new(challenges);
            }
            is_new
        });
    }

    fn credentials(&self, told: Told<Secret>, held: &mut BTreeMap<String, Secret>) {
        let name = |secret: &Secret| secret.metadata.name.clone().unwrap_or_default();
        let before = match told {
            Told::All(all) => {
                let all = all.into_iter().map(|secret| (name(&secret), secret)).collect();
                std::mem::replace(held, all).into_values().collect()
            }
            Told::Absent => return,
            Told::Set(secret) => held.insert(name(&secret), secret).into_iter().collect::<Vec<_>>(),
            Told::Gone(secret) => {
                let before = held.remove(&name(&secret));
                [Some(secret), before].into_iter().flatten().collect()
            }
        };
        before.into_iter().for_each(secret_store::wipe);
        let registry = registry(held.values());
        for unusable in registry.unusable() {
            warn!(%unusable, "DNS credentials cannot be used");
        }
        self.credentials.send_replace(Arc::new(registry));
        self.known.send_if_modified(|known| !std::mem::replace(&mut known.read.credentials, true));
    }

    /// Both kinds, and whether they are there at all. Without the right to see them, or without them, the built-in authority is all.
    async fn issuers(&self, client: &Client, built_in: &BuiltIn) {
        let all = watch::Sender::new([Kind::Unread, Kind::Unread]);
        let kind = |n: usize, kind: &'static str, plural: &'static str| {
            let resource = ApiResource {
                group: GROUP.into(),
                version: "v1".into(),
                api_version: format!("{GROUP}/v1"),
                kind: kind.into(),
                plural: plural.into(),
            };
            let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
            let (this, all) = (self, &all);
            let mut held: BTreeMap<(String, String), Value> = BTreeMap::new();
            async move {
                let told = |told: Told<DynamicObject>| {
                    let is_absent = matches!(told, Told::Absent);
                    take(told, &mut held);
                    all.send_modify(|all| match is_absent {
                        true if matches!(all[n], Kind::There(_)) => {} // what was known stays
                        true => all[n] = Kind::Absent,
                        false => all[n] = Kind::There(held.values().cloned().collect()),
                    });
                    this.issuers_changed(&all.borrow(), built_in);
                };
                follow(api, None, plural, told).await;
            }
        };
        tokio::join!(kind(0, "Issuer", "issuers"), kind(1, "ClusterIssuer", "clusterissuers"));
    }

    fn issuers_changed(&self, all: &[Kind; 2], built_in: &BuiltIn) {
        if all.iter().any(|kind| matches!(kind, Kind::Unread)) {
            return;
        }
        let of_kind = |kind: &Kind| match kind {
            Kind::There(objects) => Some(objects.clone()),
            Kind::Unread | Kind::Absent => None,
        };
        let objects: Vec<Vec<Value>> = all.iter().filter_map(of_kind).collect();
        let is_there = !objects.is_empty();
        let objects = objects.concat();
        let issuers = Issuers::new(built_in, is_there.then_some(&*objects));
        self.known.send_if_modified(|known| {
            let is_new = *known.issuers != issuers || !known.read.issuers;
            if is_new {
                known.issuers = Arc::new(issuers);
                known.read.issuers = true;
                info!(objects = objects.len(), "issuers of {GROUP} read");
            }
            is_new
        });
    }
}

/// Of cert-manager's objects.
enum Kind {
    Unread,
    /// No such kind, or not ours to see.
    Absent,
    There(Vec<Value>),
}

/// What is kept of an issuer: its name and its specification.
fn take(told: Told<DynamicObject>, held: &mut BTreeMap<(String, String), Value>) {
    let key = |object: &DynamicObject| {
        let meta = &object.metadata;
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    };
    let kept = |object: DynamicObject| {
        let (namespace, name) = key(&object);
        let mut kept = serde_json::json!({ "metadata": { "name": name, "namespace": namespace } });
        kept["spec"] = object.data.get("spec").cloned().unwrap_or_default();
        ((namespace, name), kept)
    };
    match told {
        Told::All(all) => *held = all.into_iter().map(kept).collect(),
        Told::Absent => {}
        Told::Set(object) => held.extend([kept(object)]),
        Told::Gone(object) => drop(held.remove(&key(&object))),
    }
}

/// Of labelled Secrets.
fn registry<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Registry {
    let named: Vec<(String, &Secret)> = secrets
        .map(|secret| {
            (format!("{EDGE_NAMESPACE}/{}", secret.metadata.name.as_deref().unwrap_or_default()), secret)
        })
        .collect();
    let raw = named.iter().map(|(name, secret)| {
        let annotation = |key: &str| {
            let all = secret.metadata.annotations.as_ref()?;
            all.get(key).map(String::as_str)
        };
        let label = secret.metadata.labels.as_ref().and_then(|labels| labels.get(credentials::LABEL));
        let data = secret.data.iter().flatten();
        Raw {
            secret: name,
            provider: label.map_or("", String::as_str),
            zones: annotation(credentials::ZONES),
            namespaces: annotation(credentials::NAMESPACES),
            data: data.map(|(field, bytes)| (field.as_str(), &bytes.0[..])).collect(),
        }
    });
    Registry::new(raw)
}

/// What a watch says.
enum Told<K> {
    /// All there is, and nothing else.
    All(Vec<K>),
    /// There is no such kind, or none that we may see.
    Absent,
    Set(K),
    Gone(K),
}

/// List, then watch, for ever. `labels`: which; `None`: all. Kinds that are not there (404), or that we may not see, are looked for again.
async fn follow<K>(
    api: Api<K>,
    labels: Option<&'static str>,
    what: &'static str,
    mut told: impl FnMut(Told<K>) + Send,
) where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let mut fault: Option<String> = None;
    loop {
        let (pause, now) = match round(&api, labels, &mut told).await {
            Ok(()) => (AGAIN, None),
            Err(error) if error.is_absent() => {
                told(Told::Absent);
                (ABSENT, None)
            }
            Err(error) => {
                if error.is_no_right() {
                    told(Told::Absent);
                }
                (TROUBLED, Some(error.to_string()))
            }
        };
        if let Some(why) = now.as_ref().filter(|_| now != fault) {
            warn!(what, why, "cannot be followed; what is known stays in use");
        }
        fault = now;
        sleep(pause).await;
    }
}

/// One watch's life.
async fn round<K>(
    api: &Api<K>,
    labels: Option<&'static str>,
    told: &mut (impl FnMut(Told<K>) + Send),
) -> Result<(), NoAnswer>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let of = |params: ListParams| labels.map_or(params.clone(), |labels| params.labels(labels));
    let (mut all, mut params) = (Vec::new(), of(ListParams::default().limit(PAGE)));
    let version = loop {
        let page = call(api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = of(ListParams::default().limit(PAGE).continue_token(&token)),
            None => break page.metadata.resource_version.unwrap_or_default(),
        }
    };
    told(Told::All(all));
    let params = WatchParams::default().timeout(SILENCE);
    let params = labels.map_or(params.clone(), |labels| params.labels(labels));
    let mut events = pin!(call(api.watch(&params, &version)).await?);
    let silence = Duration::from_secs(u64::from(SILENCE)) + MARGIN;
    loop {
        match timeout(silence, events.next()).await {
            Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => told(Told::Set(object)),
            Ok(Some(Ok(WatchEvent::Deleted(object)))) => told(Told::Gone(object)),
            Ok(Some(Ok(WatchEvent::Bookmark(_)))) => {}
            Ok(Some(Ok(WatchEvent::Error(_)))) | Ok(None) | Err(_) => return Ok(()), // listed anew
            Ok(Some(Err(error))) => return Err(error.into()),
        }
    }
}

/// Seconds; the API server ends a watch then, and everything is listed anew: there is little of it.
const SILENCE: u32 = 60;
const MARGIN: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);
const TROUBLED: Duration = Duration::from_secs(5);
/// A kind that is not there: somebody may install cert-manager.
const ABSENT: Duration = Duration::from_secs(60);
/// Of the first answer.
const FIRST: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "follow/tests.rs"]
mod tests;
