//! Records and accounts in Secrets of namespace `signet-edge`, each whole in one field, replaced by compare-and-swap on the resourceVersion.
//! Keys are in no other namespace; what passes through here is wiped.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions},
};
use signet_acme::{
    account::AccountRecord,
    record::Record,
    store::{Loaded, Store, StoreError, Stored, Version},
};
use signet_core::identity::EDGE_NAMESPACE;
use signet_lease::{NoAnswer, call, labels};
use zeroize::{Zeroize as _, Zeroizing};

use super::super::PART;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct SecretStore {
    api: Api<Secret>,
}

impl SecretStore {
    pub(crate) fn new(client: Client) -> Self {
        Self { api: Api::namespaced(client, EDGE_NAMESPACE) }
    }

    async fn write(
        &self,
        name: &str,
        what: &'static str,
        names: Option<String>,
        json: &[u8],
        over: Option<&Version>,
    ) -> Result<Version, StoreError> {
        let mut all = labels(PART);
        all.insert(LABEL.to_owned(), what.to_owned());
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: over.map(|version| version.0.clone()),
                labels: Some(all),
                annotations: names.map(|names| BTreeMap::from([(NAMES.to_owned(), names)])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(FIELD.to_owned(), ByteString(json.to_vec()))])),
            ..Secret::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match over {
            None => call(self.api.create(&params, &secret)).await,
            Some(_) => call(self.api.replace(name, &params, &secret)).await,
        };
        wipe(secret);
        let written = written.map_err(|error| moved(name, &error))?;
        let version = written.metadata.resource_version.clone();
        wipe(written);
        version.map(Version).ok_or_else(|| StoreError::Api {
            place: place(name),
            why: "the API server gave it no resourceVersion".into(),
        })
    }

    /// What is stored under a name; `None`: there is no such Secret.
    async fn read(&self, name: &str) -> Result<Option<(Zeroizing<Vec<u8>>, Version)>, StoreError> {
        let found = call(self.api.get_opt(name)).await;
        let found = found.map_err(|error| StoreError::Api { place: place(name), why: error.to_string() })?;
        Ok(found.map(content))
    }
}

impl Store for SecretStore {
    async fn load(&self) -> Result<Loaded, StoreError> {
        let selector = format!("{LABEL}={CERTIFICATE}");
        let (mut loaded, mut params) =
            (Loaded::default(), ListParams::default().labels(&selector).limit(PAGE));
        loop {
            let page = call(self.api.list(&params)).await.map_err(|error| StoreError::Api {
                place: format!("Secrets of namespace {EDGE_NAMESPACE}"),
                why: error.to_string(),
            })?;
            for secret in page.items {
                let name = secret.metadata.name.clone().unwrap_or_default();
                let (bytes, version) = content(secret);
                match record(&name, &bytes) {
                    Ok(value) => loaded.records.push(Stored { value, version }),
                    Err(why) => loaded.broken.push((name, why)),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => {
                    params = ListParams::default().labels(&selector).limit(PAGE).continue_token(&token);
                }
                None => return Ok(loaded),
            }
        }
    }

    async fn put(&self, record: &Record, over: Option<&Version>) -> Result<Version, StoreError> {
        let names = record.names.to_string();
        self.write(&record.id(), CERTIFICATE, Some(names), &record.to_json(), over).await
    }

    async fn delete(&self, id: &str, version: &Version) -> Result<(), StoreError> {
        let preconditions = Preconditions { resource_version: Some(version.0.clone()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match call(self.api.delete(id, &params)).await {
            Ok(either) => {
                if let Some(secret) = either.left() {
                    wipe(secret);
                }
                Ok(())
            }
            Err(error) if error.is_absent() => Ok(()),
            Err(error) => Err(moved(id, &error)),
        }
    }

    async fn account(&self, id: &str) -> Result<Option<Stored<AccountRecord>>, StoreError> {
        let Some((bytes, version)) = self.read(id).await? else { return Ok(None) };
        let value = AccountRecord::parse(&bytes)
            .map_err(|error| StoreError::Broken { place: place(id), why: error.to_string() })?;
        Ok(Some(Stored { value, version }))
    }

    async fn put_account(
        &self,
        id: &str,
        account: &AccountRecord,
        over: Option<&Version>,
    ) -> Result<Version, StoreError> {
        self.write(id, ACCOUNT, None, &account.to_json(), over).await
    }
}

/// The record of a Secret of this name. Errors: why it is none, in words.
pub(crate) fn record(name: &str, json: &[u8]) -> Result<Record, String> {
    let record = Record::parse(json).map_err(|error| error.to_string())?;
    if record.id() != name {
        return Err(format!("it is the record of {}, under another's name", record.names));
    }
    Ok(record)
}

/// What it holds, and its version; the rest is wiped.
pub(crate) fn content(mut secret: Secret) -> (Zeroizing<Vec<u8>>, Version) {
    let version = Version(secret.metadata.resource_version.clone().unwrap_or_default());
    let held = secret.data.as_mut().and_then(|data| data.remove(FIELD)).map(|bytes| bytes.0);
    wipe(secret);
    (Zeroizing::new(held.unwrap_or_default()), version)
}

pub(crate) fn wipe(mut secret: Secret) {
    secret.data.iter_mut().flat_map(BTreeMap::values_mut).for_each(|bytes| bytes.0.zeroize());
    secret.string_data.iter_mut().flat_map(BTreeMap::values_mut).for_each(|text| text.zeroize());
}

/// 409, and 404 of what was to be replaced: somebody else was there.
fn moved(name: &str, error: &NoAnswer) -> StoreError {
    match error.is_conflict() || error.is_absent() {
        true => StoreError::Moved { place: place(name) },
        false => StoreError::Api { place: place(name), why: error.to_string() },
    }
}

fn place(name: &str) -> String {
    format!("Secret {EDGE_NAMESPACE}/{name}")
}

/// On every Secret of ours that is about ACME, with what it is.
pub(crate) const LABEL: &str = "signet.dev/acme";
pub(crate) const CERTIFICATE: &str = "certificate";
pub(crate) const ACCOUNT: &str = "account";
pub(crate) const CHALLENGES: &str = "challenges";
/// For who looks with kubectl: the names of a certificate.
const NAMES: &str = "signet.dev/names";
/// The one that holds it all.
const FIELD: &str = "record.json";
/// How the API server's logs and `managedFields` name us.
pub(crate) const MANAGER: &str = "signet-edge";
/// Records of one page: each is some 10 kB.
pub(crate) const PAGE: u32 = 100;

#[cfg(test)]
#[path = "secret_store/tests.rs"]
mod tests;
