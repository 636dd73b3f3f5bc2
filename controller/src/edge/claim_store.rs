//! Claims of hosts in ConfigMap `signet-claims` of namespace `signet-edge`: read by every replica, written by the one that holds the
//! Lease, with the resourceVersion of what it read.
//!
//! Nobody is answered before they were read: without them a host might be another's for a moment. One that does not parse is not
//! the same as none: who starts waits until somebody mends or deletes it, who runs goes on with what it knows.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use signet_core::identity::EDGE_NAMESPACE;
use signet_lease::{NoAnswer, call, labels};
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use super::{PART, claims::Claims};

/// Clones share it.
#[derive(Clone)]
pub(crate) struct ClaimStore {
    api: Api<ConfigMap>,
    known: watch::Sender<Option<Arc<Stored>>>,
    fault: Arc<Mutex<Option<String>>>,
}

/// What was read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Stored {
    pub(crate) claims: Claims,
    /// `None`: there is no such ConfigMap yet.
    version: Option<String>,
}

impl ClaimStore {
    pub(crate) fn new(client: Client) -> Self {
        let api = Api::namespaced(client, EDGE_NAMESPACE);
        Self { api, known: watch::Sender::new(None), fault: Arc::default() }
    }

    /// `None`: not read yet.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Stored>>> {
        self.known.subscribe()
    }

    /// Why they cannot be read or written now.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nobody can be answered yet.
    pub(crate) fn missing(&self) -> Option<String> {
        let unread = self.known.borrow().is_none();
        unread.then(|| self.fault().unwrap_or_else(|| format!("{PLACE} not read yet")))
    }

    /// Reads them again and again, until it is dropped.
    pub(crate) async fn run(&self) {
        loop {
            let read = self.read().await;
            self.set_fault(read.err());
            sleep(EVERY).await;
        }
    }

    /// What is stored now.
    pub(crate) async fn read(&self) -> Result<(), String> {
        let found = call(self.api.get_opt(NAME)).await.map_err(|e| format!("{PLACE} cannot be read: {e}"))?;
        let stored = match found {
            None => Stored::default(),
            Some(map) => parse(map)?,
        };
        self.know(stored);
        Ok(())
    }

    /// Stores `claims` in place of `read`, from which they follow. True when that is done; false when another replica was first, or there is
    /// no room: then they are read again.
    pub(crate) async fn write(&self, read: &Stored, claims: &Claims) -> Result<bool, NoAnswer> {
        let version = read.version.clone();
        let (mut claims, mut text) = (claims.clone(), written(claims)?);
        if text.len() > MAX_BYTES {
            warn!(bytes = text.len(), "{PLACE} is full: hosts that are new are not claimed, and go by age");
            claims.retain(|host, _| read.claims.contains_key(host)); // what ends is still written, so that there is room again
            if claims == read.claims {
                return Ok(false);
            }
            text = written(&claims)?;
        }
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                resource_version: version.clone(),
                labels: Some(labels(PART)),
                ..ObjectMeta::default()
            },
            data: Some([(KEY.to_owned(), text)].into()),
            ..ConfigMap::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match version {
            None => call(self.api.create(&params, &map)).await,
            Some(_) => call(self.api.replace(NAME, &params, &map)).await,
        };
        match written {
            Ok(map) => {
                let version = map.metadata.resource_version;
                info!(claims = claims.len(), "claims of hosts stored");
                self.know(Stored { claims, version });
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_absent() => {
                self.set_fault(self.read().await.err());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn know(&self, stored: Stored) {
        self.known.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(&stored);
            if is_new {
                *known = Some(Arc::new(stored));
            }
            is_new
        });
    }

    fn set_fault(&self, fault: Option<String>) {
        let mut held = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = fault.as_ref().filter(|fault| held.as_ref() != Some(fault)) {
            error!("{fault}");
        }
        *held = fault;
    }
}

fn parse(map: ConfigMap) -> Result<Stored, String> {
    let text = map.data.as_ref().and_then(|data| data.get(KEY)).map_or("{}", String::as_str);
    let claims = serde_json::from_str(text).map_err(|why| {
        format!(
            "{PLACE} does not parse ({why}): mend its {KEY}, or give all hosts to their oldest Ingresses with: \
             kubectl -n {EDGE_NAMESPACE} delete configmap {NAME}"
        )
    })?;
    Ok(Stored { claims, version: map.metadata.resource_version })
}

const NAME: &str = "signet-claims";
const KEY: &str = "claims.json";
const PLACE: &str = "ConfigMap signet-edge/signet-claims";
/// How the API server's logs and `managedFields` name us.
const MANAGER: &str = "signet-edge";
fn written(claims: &Claims) -> Result<String, NoAnswer> {
    serde_json::to_string(claims).map_err(|e| NoAnswer::of(&e.to_string()))
}

/// What another replica stored is known here after this; meanwhile both decide by the same law.
const EVERY: Duration = Duration::from_secs(2);
/// An object of the API server ends at 1 MiB. A claim has about 100 bytes, 20 more once it is lost: 8 000 hosts.
const MAX_BYTES: usize = 800 << 10;

#[cfg(test)]
mod tests {
    use serde_json::json;
    use signet_lease::double::{Double, Fault};

    use super::{super::claims::Claim, *};

    const PATH: &str = "/api/v1/namespaces/signet-edge/configmaps/signet-claims";

    fn claims(namespace: &str) -> Claims {
        [("app.example".to_owned(), Claim { namespace: namespace.into(), since: 1, lost: None })].into()
    }

    fn known(store: &ClaimStore) -> Option<Claims> {
        store.watch().borrow().as_ref().map(|stored| stored.claims.clone())
    }

    async fn write(store: &ClaimStore, namespace: &str) -> Result<bool, NoAnswer> {
        let read = store.watch().borrow().clone().unwrap();
        store.write(&read, &claims(namespace)).await
    }

    #[tokio::test]
    async fn what_one_replica_stores_another_reads_and_of_two_that_write_one_is_told_to_look_again() {
        let api = Double::default();
        let (a, b) = (ClaimStore::new(api.client()), ClaimStore::new(api.client()));
        a.read().await.unwrap();
        b.read().await.unwrap();
        assert_eq!(known(&a), Some(Claims::new()));
        assert!(write(&a, "shop").await.unwrap());
        assert!(!write(&b, "thief").await.unwrap(), "it had read nothing");
        assert_eq!(known(&b), Some(claims("shop")), "and now it knows");
        assert!(write(&b, "team").await.unwrap());
        assert!(!write(&a, "shop").await.unwrap());
        assert_eq!(known(&a), Some(claims("team")));
        let text = api.get(PATH).unwrap()["data"]["claims.json"].as_str().unwrap().to_owned();
        assert_eq!(text, r#"{"app.example":{"namespace":"team","since":1}}"#);
    }

    #[tokio::test]
    async fn where_there_is_no_room_nothing_new_is_claimed_and_what_ends_makes_room() {
        let many = |range: std::ops::Range<usize>| -> Claims {
            let claim = || Claim { namespace: "n".repeat(60), since: 1, lost: None };
            range.map(|n| (format!("{n}.{}.example", "h".repeat(60)), claim())).collect()
        };
        let api = Double::default();
        let store = ClaimStore::new(api.client());
        let of = |store: &ClaimStore| store.watch().borrow().clone().unwrap();
        store.read().await.unwrap();
        assert!(store.write(&of(&store), &many(0..4000)).await.unwrap());
        assert!(
            !store.write(&of(&store), &many(0..6000)).await.unwrap(),
            "there is no room, and nothing else to write"
        );
        let mut lost = many(0..6000);
        let first = lost.keys().next().unwrap().clone();
        lost.get_mut(&first).unwrap().lost = Some(7);
        assert!(store.write(&of(&store), &lost).await.unwrap());
        let known = known(&store).unwrap();
        assert_eq!((known.len(), known[&first].lost), (4000, Some(7)));
    }

    #[tokio::test]
    async fn what_does_not_parse_or_answer_is_not_nothing() {
        let api = Double::default();
        api.put(PATH, json!({"metadata": {"namespace": "signet-edge"}, "data": {"claims.json": "{\"app"}}));
        let store = ClaimStore::new(api.client());
        let why = store.read().await.unwrap_err();
        assert!(why.contains("kubectl -n signet-edge delete configmap signet-claims"), "{why}");
        assert_eq!(known(&store), None, "nobody is answered");
        api.delete(PATH);
        store.read().await.unwrap();
        assert!(write(&store, "shop").await.unwrap());
        api.fault("", PATH, Fault::Status(500));
        store.read().await.unwrap_err();
        assert_eq!(known(&store), Some(claims("shop")), "what is known stays");
        assert!(write(&store, "team").await.is_err());
        assert_eq!(known(&store), Some(claims("shop")));
    }
}
