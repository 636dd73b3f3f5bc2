//! Secrets of a cluster, as far as Ingresses name them and a RoleBinding lets us: one task for each namespace, which reads each of
//! them by name and then follows the namespace's TLS Secrets. Others of the namespace pass by and are not kept.
//!
//! By name, because only that says "there is none" and "no right" apart; followed, because a certificate that is renewed should be
//! served at once. A Role that allows `get` of some names alone is enough: then they are looked at every [`POLL`].

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{WatchEvent, WatchParams},
};
use rustls::crypto::CryptoProvider;
use signet_core::drain::Drain;
use signet_lease::{NoAnswer, call};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    known::{Secrets, Trouble},
    objects::Name,
};
use crate::source::tls_secret::TlsSecret;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct SecretFollower {
    client: Client,
    provider: Arc<CryptoProvider>,
    wanted: watch::Sender<BTreeSet<Name>>,
    known: watch::Sender<Secrets>,
    /// Namespaces that have a task.
    followed: Arc<Mutex<BTreeSet<String>>>,
    drain: Drain,
}

impl SecretFollower {
    pub(crate) fn new(client: Client, provider: Arc<CryptoProvider>, drain: &Drain) -> Self {
        Self {
            client,
            provider,
            wanted: watch::Sender::default(),
            known: watch::Sender::default(),
            followed: Arc::default(),
            drain: drain.clone(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Secrets> {
        self.known.subscribe()
    }

    /// Follows these from now on, and forgets all others.
    pub(crate) fn want(&self, wanted: &BTreeSet<Name>) {
        let is_new = self.wanted.send_if_modified(|held| {
            let is_new = held != wanted;
            if is_new {
                held.clone_from(wanted);
            }
            is_new
        });
        if !is_new {
            return;
        }
        self.known.send_if_modified(|known| known.retain(|name| wanted.contains(name)));
        for (namespace, _) in wanted {
            if self.followed().insert(namespace.clone()) {
                let (follower, namespace) = (self.clone(), namespace.clone());
                self.drain.keep(async move { Box::pin(follower.follow(&namespace)).await });
            }
        }
    }

    /// Returns when each of `wanted` has been asked for, or [`FIRST`] has passed: until then "no certificate" would take away from
    /// gateways what they have.
    pub(crate) async fn first(&self, wanted: &BTreeSet<Name>) {
        let mut known = self.known.subscribe();
        let all = known.wait_for(|known| wanted.iter().all(|name| known.is_answered(name)));
        if timeout(FIRST, all).await.is_err() {
            warn!(
                "not every Secret could be read in {FIRST:?}; hosts of the others are without a certificate"
            );
        }
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until no Ingress names a Secret of the namespace.
    async fn follow(&self, namespace: &str) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let names = of(&wanted.borrow_and_update(), namespace);
            {
                let mut followed = self.followed();
                // Under the lock that `want` takes: what is wanted from here on finds no task, and starts one.
                if names.is_empty() && of(&self.wanted.borrow(), namespace).is_empty() {
                    followed.remove(namespace);
                    return;
                }
            }
            self.round(namespace, names, &mut wanted).await;
        }
    }

    /// One watch's life, and all of them read once.
    async fn round(
        &self,
        namespace: &str,
        mut names: BTreeSet<String>,
        wanted: &mut watch::Receiver<BTreeSet<Name>>,
    ) {
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let mut versions = BTreeMap::new();
        let params = WatchParams::default().fields(TLS_ONLY).timeout(SILENCE);
        let began = timeout(ANSWER, api.watch(&params, "0")).await; // "0": what there is, then what changes
        let watching = match began {
            Ok(Ok(events)) => Some(events),
            Ok(Err(error)) => {
                debug!(namespace, %error, "its TLS Secrets cannot be followed; they are looked at");
                None
            }
            Err(_) => None,
        };
        let is_watched = watching.is_some();
        let mut events = pin!(maybe(watching));
        let mut in_trouble = self.read(&api, namespace, &names, &mut versions).await;
        let mut until = Instant::now() + pause(in_trouble, is_watched);
        loop {
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = of(&wanted.borrow_and_update(), namespace);
                    let new: BTreeSet<String> = now.difference(&names).cloned().collect();
                    names = now;
                    if names.is_empty() {
                        return;
                    }
                    in_trouble |= self.read(&api, namespace, &new, &mut versions).await;
                    until = until.min(Instant::now() + pause(in_trouble, is_watched));
                }
                event = events.next() => match event {
                    Some(Ok(WatchEvent::Added(secret) | WatchEvent::Modified(secret))) => {
                        self.take(namespace, secret, &names, &mut versions);
                    }
                    Some(Ok(WatchEvent::Deleted(secret))) => {
                        let name = secret.metadata.name.clone().unwrap_or_default();
                        if names.contains(&name) && is_newer(&secret, &name, &mut versions) {
                            self.trouble(namespace, &name, Trouble::Absent);
                        }
                    }
                    Some(Ok(WatchEvent::Bookmark(_))) => {}
                    Some(Ok(WatchEvent::Error(_)) | Err(_)) | None => {
                        sleep(AGAIN).await; // an end at once must not become a storm
                        return;
                    }
                },
                () = sleep_until(until) => return,
            }
        }
    }

    /// Each of `names` as it is now. True when one of them could not be read.
    async fn read(
        &self,
        api: &Api<Secret>,
        namespace: &str,
        names: &BTreeSet<String>,
        versions: &mut Versions,
    ) -> bool {
        let asked = stream::iter(names.iter().cloned()).map(async |name| {
            let answer = call(api.get_opt(&name)).await;
            (name, answer)
        });
        let mut answers = pin!(asked.buffer_unordered(AT_ONCE));
        let mut in_trouble = false;
        while let Some((name, answer)) = answers.next().await {
            match answer {
                Ok(Some(secret)) => self.take(namespace, secret, names, versions),
                Ok(None) => self.trouble(namespace, &name, Trouble::Absent),
                Err(error) if error.is_absent() => self.trouble(namespace, &name, Trouble::Absent),
                Err(error) => {
                    in_trouble = true;
                    self.trouble(namespace, &name, trouble(&error));
                }
            }
        }
        in_trouble
    }

    fn take(&self, namespace: &str, secret: Secret, names: &BTreeSet<String>, versions: &mut Versions) {
        let name = secret.metadata.name.clone().unwrap_or_default();
        if !names.contains(&name) || !is_newer(&secret, &name, versions) {
            return drop(TlsSecret::new(secret)); // wiped
        }
        let (key, secret) = ((namespace.to_owned(), name), TlsSecret::new(secret));
        if self.known.send_if_modified(|known| known.found(&key, &secret, &self.provider)) {
            info!(namespace, secret = key.1, "a TLS Secret was read");
        }
    }

    fn trouble(&self, namespace: &str, name: &str, trouble: Trouble) {
        let key = (namespace.to_owned(), name.to_owned());
        let said = format!("{trouble:?}");
        if self.known.send_if_modified(|known| known.trouble(&key, trouble)) {
            warn!(
                namespace,
                secret = name,
                trouble = said,
                "a TLS Secret that an Ingress names cannot be used"
            );
        }
    }
}

/// resourceVersions, by name.
type Versions = BTreeMap<String, u64>;

/// What a cache tells late, after it was read, changes nothing.
fn is_newer(secret: &Secret, name: &str, versions: &mut Versions) -> bool {
    let version = secret.metadata.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok());
    let held = versions.get(name).copied();
    if let (Some(version), Some(held)) = (version, held)
        && version <= held
    {
        return false;
    }
    if let Some(version) = version {
        versions.insert(name.to_owned(), version);
    }
    true
}

fn trouble(error: &NoAnswer) -> Trouble {
    match error.is_no_right() {
        true => Trouble::NoRight,
        false => Trouble::Unanswered(error.to_string().chars().take(MAX_WORDS).collect()),
    }
}

fn of(wanted: &BTreeSet<Name>, namespace: &str) -> BTreeSet<String> {
    let of_namespace = wanted.range((namespace.to_owned(), String::new())..);
    of_namespace.take_while(|(of, _)| of == namespace).map(|(_, name)| name.clone()).collect()
}

/// The events of a watch, or none for ever.
fn maybe<S: Stream>(stream: Option<S>) -> impl Stream<Item = S::Item> {
    match stream {
        Some(stream) => stream.left_stream(),
        None => stream::pending().right_stream(),
    }
}

fn pause(in_trouble: bool, is_watched: bool) -> Duration {
    match (in_trouble, is_watched) {
        (true, _) => TROUBLED,
        (false, false) => POLL,
        (false, true) => REREAD,
    }
}

/// What a watch of a namespace tells; the rest of its Secrets never comes near us.
const TLS_ONLY: &str = "type=kubernetes.io/tls";
/// Seconds; the API server ends a watch then.
const SILENCE: u32 = 280;
/// Everything is read again then: a watch that a dead connection hides is missed for so long.
const REREAD: Duration = Duration::from_secs(285);
/// Without the right to follow them.
const POLL: Duration = Duration::from_secs(30);
/// A right that was just given is used within this.
const TROUBLED: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_secs(10);
/// Of the first answer.
const FIRST: Duration = Duration::from_secs(30);
/// Reads of one namespace.
const AT_ONCE: usize = 8;
/// Characters of an error that we repeat.
const MAX_WORDS: usize = 300;

#[cfg(test)]
#[path = "secrets/tests.rs"]
mod tests;
