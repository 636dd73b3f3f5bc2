use signet_acme::{names::NameSet, secret};
use signet_lease::double::{Double, Fault};

use super::*;

const ALL: &str = "/api/v1/namespaces/signet-edge/secrets";

fn new() -> Record {
    Record::new(NameSet::new(["app.example", "www.app.example"]).unwrap())
}

fn path(name: &str) -> String {
    format!("{ALL}/{name}")
}

#[tokio::test]
async fn a_record_is_read_back_as_it_was_stored_by_whoever_reads() {
    let api = Double::default();
    let (a, b) = (SecretStore::new(api.client()), SecretStore::new(api.client()));
    assert!(a.load().await.unwrap().records.is_empty());
    let version = a.put(&new(), None).await.unwrap();
    let loaded = b.load().await.unwrap();
    assert_eq!(loaded.records, [Stored { value: new(), version }]);
    let stored = api.get(&path(&new().id())).unwrap();
    assert_eq!(stored["metadata"]["labels"]["signet.dev/acme"], "certificate");
    assert_eq!(stored["metadata"]["labels"]["app.kubernetes.io/part-of"], "signet");
    assert_eq!(stored["metadata"]["annotations"]["signet.dev/names"], "app.example, www.app.example");
}

#[tokio::test]
async fn of_two_that_write_one_is_told_that_it_moved() {
    let api = Double::default();
    let store = SecretStore::new(api.client());
    let first = store.put(&new(), None).await.unwrap();
    assert!(matches!(store.put(&new(), None).await, Err(StoreError::Moved { .. })), "there is one already");
    let mut changed = new();
    changed.tried = 7;
    let second = store.put(&changed, Some(&first)).await.unwrap();
    assert!(matches!(store.put(&new(), Some(&first)).await, Err(StoreError::Moved { .. })));
    assert!(matches!(store.delete(&new().id(), &first).await, Err(StoreError::Moved { .. })));
    assert_eq!(store.load().await.unwrap().records[0].value, changed);
    store.delete(&new().id(), &second).await.unwrap();
    assert!(api.get(&path(&new().id())).is_none());
    store.delete(&new().id(), &second).await.unwrap();
    assert!(matches!(store.put(&new(), Some(&second)).await, Err(StoreError::Moved { .. })), "it is gone");
}

#[tokio::test]
async fn what_is_not_understood_is_told_and_never_taken_for_nothing() {
    let api = Double::default();
    let store = SecretStore::new(api.client());
    store.put(&new(), None).await.unwrap();
    let mut stored = api.get(&path(&new().id())).unwrap();
    api.put(&path("acme-other"), stored.clone());
    stored["data"]["record.json"] = serde_json::json!("e30="); // {}
    api.put(&path(&new().id()), stored);
    let loaded = store.load().await.unwrap();
    assert!(loaded.records.is_empty());
    let broken: Vec<&str> = loaded.broken.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(broken, [new().id().as_str(), "acme-other"]);
    api.fault("", ALL, Fault::Status(403));
    assert!(matches!(store.load().await, Err(StoreError::Api { .. })));
}

#[tokio::test]
async fn accounts_are_kept_beside_records_and_are_none_of_them() {
    let api = Double::default();
    let store = SecretStore::new(api.client());
    assert_eq!(store.account("account-1").await.unwrap(), None);
    let key = secret::Secret::new(Zeroizing::new("KEY".to_owned()));
    let account = AccountRecord::new("https://ca.example/dir", None, key);
    let version = store.put_account("account-1", &account, None).await.unwrap();
    assert_eq!(store.account("account-1").await.unwrap().unwrap(), Stored { value: account, version });
    assert!(store.load().await.unwrap().records.is_empty());
    let mut stored = api.get(&path("account-1")).unwrap();
    stored["data"]["record.json"] = serde_json::json!("e30=");
    api.put(&path("account-1"), stored);
    assert!(
        matches!(store.account("account-1").await, Err(StoreError::Broken { .. })),
        "never a new account"
    );
}
