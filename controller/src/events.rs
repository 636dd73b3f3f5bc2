//! Events about objects of others: where `kubectl describe` and `kubectl get events` show them, to who never heard of us.
//!
//! An event's name is made of its object's, its UID and what it says, so that the API server refuses the second: replicas, and a
//! process that starts again, need not know of each other. It forgets events after an hour.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest as _, Sha256};
use signet_core::svid::hex;
use tokio::time::timeout;

/// What is said of one object, to people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Warning {
    /// Its namespace, name and UID are set, too.
    pub(crate) about: ObjectReference,
    /// "NotInjected"
    pub(crate) reason: &'static str,
    /// Two warnings about one object are two events if this differs.
    pub(crate) key: String,
    pub(crate) message: String,
    /// "signet-controller"
    pub(crate) component: &'static str,
}

/// True when it is new; false when somebody wrote it before, or its namespace takes none any more. `now`: Unix seconds.
pub(crate) async fn write(client: &Client, warning: &Warning, now: i64) -> Result<bool, String> {
    let namespace = warning.about.namespace.as_deref().unwrap_or_default();
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    match timeout(ANSWER, api.create(&PostParams::default(), &event(warning, now))).await {
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

fn event(warning: &Warning, now: i64) -> Event {
    let time = Timestamp::from_second(now).ok().map(Time);
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    Event {
        metadata: ObjectMeta {
            name: Some(name(warning)),
            namespace: warning.about.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: warning.about.clone(),
        reason: Some(warning.reason.into()),
        message: Some(warning.message.chars().map(shown).take(MAX_MESSAGE).collect()),
        type_: Some("Warning".into()),
        count: Some(1),
        first_timestamp: time.clone(),
        last_timestamp: time,
        source: Some(EventSource { component: Some(warning.component.into()), ..EventSource::default() }),
        ..Event::default()
    }
}

/// The same on every replica. An object's name is a DNS subdomain of at most 253 bytes; so must be ours, with 17 more.
pub(crate) fn name(warning: &Warning) -> String {
    let uid = warning.about.uid.as_deref().unwrap_or_default();
    let hash = Sha256::digest(format!("{uid} {}", warning.key));
    let kept: String = warning.about.name.iter().flat_map(|name| name.chars()).take(MAX_NAME).collect();
    format!("{}.{}", kept.trim_end_matches(['.', '-']), hex(&hash[..8]))
}

/// RBAC's own words in a 403; whatever else refuses an event, refuses this one.
const NO_RIGHT: &str = "cannot create resource";
const ANSWER: Duration = Duration::from_secs(10);
/// Characters; the API takes 1 024 bytes, and most of it is ASCII.
const MAX_MESSAGE: usize = 1000;
const MAX_NAME: usize = 230;
