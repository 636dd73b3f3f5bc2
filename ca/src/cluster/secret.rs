//! The state in a Secret, shared by all replicas: every write carries the resourceVersion of what it replaces, so of two that
//! decide on the same state one is told to look again.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use signet_core::identity::SYSTEM_NAMESPACE;
use signet_lease::{NoAnswer, call};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::{MANAGER, labels};
use crate::{
    state::State,
    store::{Store, StoreError, next_version, parse},
};

/// Secret [`NAME`] in our namespace, key [`KEY`].
pub(crate) struct SecretStore {
    api: Api<Secret>,
    /// The store's calls block; this runtime drives them meanwhile.
    runtime: Handle,
}

impl SecretStore {
    pub(crate) fn new(client: Client, runtime: Handle) -> Self {
        Self { api: Api::namespaced(client, SYSTEM_NAMESPACE), runtime }
    }

    /// The state and the object that it lies in. A Secret that holds no state of ours is an error: it is never overwritten.
    async fn read(&self) -> Result<Option<(State, Secret)>, StoreError> {
        let Some(mut secret) = call(self.api.get_opt(NAME)).await.map_err(failed)? else { return Ok(None) };
        let held = secret.data.as_mut().and_then(|data| data.remove(KEY));
        let text = Zeroizing::new(held.map(|ByteString(text)| text).unwrap_or_default());
        if text.is_empty() {
            let why = format!("it has no key {KEY}");
            return Err(StoreError::Broken { place: PLACE.into(), why });
        }
        Ok(Some((parse(&text, &PLACE)?, secret)))
    }

    async fn write(&self, next: &State) -> Result<State, StoreError> {
        let (found, secret) =
            self.read().await?.map_or((None, None), |(state, secret)| (Some(state), Some(secret)));
        let (next, json) = next_version(next, found.as_ref(), &PLACE)?;
        let content = ByteString(json.to_vec());
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match secret {
            Some(mut secret) => {
                secret.data.get_or_insert_default().insert(KEY.into(), content);
                call(self.api.replace(NAME, &params, &secret)).await // with the resourceVersion that was read
            }
            None => call(self.api.create(&params, &first(content))).await,
        };
        match written {
            Ok(_) => Ok(next),
            Err(error) if error.is_conflict() => {
                let found = self.read().await?.map_or(0, |(state, _)| state.version);
                Err(StoreError::Moved { place: PLACE.into(), expected: next.version - 1, found })
            }
            Err(error) => Err(failed(error)),
        }
    }
}

impl Store for SecretStore {
    fn load(&self) -> Result<Option<State>, StoreError> {
        Ok(self.runtime.block_on(self.read())?.map(|(state, _)| state))
    }

    fn replace(&self, next: &State) -> Result<State, StoreError> {
        self.runtime.block_on(self.write(next))
    }
}

fn first(content: ByteString) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(NAME.into()), labels: Some(labels()), ..ObjectMeta::default() },
        data: Some([(KEY.to_owned(), content)].into()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

fn failed(error: NoAnswer) -> StoreError {
    StoreError::Api { place: PLACE.into(), why: error.to_string() }
}

pub(crate) const NAME: &str = "signet-ca";
const KEY: &str = "state.json";
const PLACE: &str = "Secret signet-system/signet-ca";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Role, Root, Secret as Key};
    use serde_json::json;
    use signet_lease::double::{Double, Fault};

    fn state() -> State {
        let root = Root {
            id: "aa".into(),
            role: Role::Active,
            made: 0,
            not_after: 1,
            certificate: "c".into(),
            key: Some(Key::new("k".to_owned().into())),
            kept: None,
        };
        State::new("cluster.local".into(), root, 1, 10, 0)
    }

    fn store(api: &Double) -> SecretStore {
        SecretStore::new(api.client(), Handle::current())
    }

    const PATH: &str = "/api/v1/namespaces/signet-system/secrets/signet-ca";

    #[tokio::test]
    async fn a_state_is_created_once_and_then_replaced_by_who_knows_it() {
        let api = Double::default();
        let store = store(&api);
        assert!(store.read().await.unwrap().is_none());
        let first = store.write(&state()).await.unwrap();
        let second = store.write(&first).await.unwrap();
        assert_eq!((first.version, second.version), (1, 2));
        assert!(matches!(store.write(&first).await, Err(StoreError::Moved { expected: 1, found: 2, .. })));
        assert!(matches!(store.write(&state()).await, Err(StoreError::Moved { expected: 0, found: 2, .. })));
        assert_eq!(store.read().await.unwrap().unwrap().0, second);
    }

    #[tokio::test]
    async fn of_two_that_write_between_each_others_read_and_write_one_is_told_so() {
        let api = Double::default();
        let store = store(&api);
        let first = store.write(&state()).await.unwrap();
        api.touch_before_next_write(PATH);
        assert!(matches!(store.write(&first).await, Err(StoreError::Moved { .. })), "resourceVersion");
        store.write(&first).await.unwrap();
    }

    #[tokio::test]
    async fn what_it_cannot_read_is_never_overwritten() {
        for (case, data) in [
            ("no key of ours", json!({ "other": "eA==" })),
            ("not JSON", json!({ "state.json": "eA==" })),
            ("empty", json!({})),
        ] {
            let api = Double::default();
            api.put(PATH, json!({ "data": data }));
            let before = api.get(PATH);
            assert!(matches!(store(&api).write(&state()).await, Err(StoreError::Broken { .. })), "{case}");
            assert!(matches!(store(&api).read().await, Err(StoreError::Broken { .. })), "{case}");
            assert_eq!(api.get(PATH), before, "{case}");
        }
        let api = Double::default();
        let newer = store(&api).write(&State { schema: 99, ..state() }).await.unwrap();
        assert!(matches!(store(&api).write(&newer).await, Err(StoreError::Newer { schema: 99, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_fails_or_hangs_is_an_error_that_passes() {
        for fault in [Fault::Status(500), Fault::Status(403), Fault::Hang] {
            let api = Double::default();
            api.fault("GET", PATH, fault);
            let error = store(&api).write(&state()).await.unwrap_err();
            assert!(error.is_passing(), "{error}");
            assert!(api.get(PATH).is_none());
        }
    }
}
