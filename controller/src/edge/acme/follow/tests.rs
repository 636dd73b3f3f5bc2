use serde_json::{Value, json};
use signet_acme::{account, names::NameSet, record::Record, secret, store::Store as _};
use signet_lease::double::Double;

use super::{super::secret_store::SecretStore, *};

const PLACE: &str = "/api/v1/namespaces/signet-edge/secrets/";

fn new() -> Followed {
    Followed::new(&BuiltIn::default(), watch::Sender::default())
}

/// Secrets as the API server has them.
fn stored(api: &Double, names: &[&str]) -> Vec<Secret> {
    names
        .iter()
        .map(|name| serde_json::from_value(api.get(&format!("{PLACE}{name}")).unwrap()).unwrap())
        .collect()
}

#[tokio::test]
async fn what_one_replica_stores_all_know_by_what_the_watch_tells_them() {
    let api = Double::default();
    let (store, provider) = (SecretStore::new(api.client()), tls::default_provider());
    let record = Record::new(NameSet::new(["a.example"]).unwrap());
    store.put(&record, None).await.unwrap();
    let key = secret::Secret::new(zeroize::Zeroizing::new("KEY".to_owned()));
    let mut of_ca = account::AccountRecord::new("https://ca.example/dir", None, key);
    of_ca.url = Some("https://ca.example/acct/1".into());
    store.put_account("account-1", &of_ca, None).await.unwrap();
    let challenge = json!({"kind": "http-01", "host": "a.example", "token": "t", "keyAuthorization": "t.x"});
    let challenge: Secret = serde_json::from_value(json!({
        "metadata": {"name": "signet-edge-challenges", "labels": {"signet.dev/acme": "challenges"}},
        "stringData": {}, "data": {"x": base64::Engine::encode(&BASE64, challenge.to_string())},
    }))
    .unwrap();

    let (followed, mut names) = (new(), BTreeMap::new());
    let mut all = stored(&api, &[&record.id(), "account-1"]);
    all.push(challenge.clone());
    followed.ours(Told::All(all), &mut names, &provider);
    assert!(followed.known.borrow().read.records);
    assert_eq!(followed.known.borrow().records.get(&record.id()), Some(&record));
    assert_eq!(followed.accounts.borrow()["account-1"], "https://ca.example/acct/1");
    let shown = |followed: &Followed| followed.challenges.borrow().keys().cloned().collect::<Vec<_>>();
    assert_eq!(shown(&followed), ["http-01/a.example/t"]);

    followed.ours(Told::Gone(challenge), &mut names, &provider);
    assert_eq!(shown(&followed), [""; 0]);
    followed.ours(Told::All(stored(&api, &["account-1"])), &mut names, &provider);
    assert_eq!(followed.known.borrow().records.ids(), [""; 0], "what a new list lacks is gone");
    assert_eq!(followed.accounts.borrow().len(), 1);
}

#[test]
fn credentials_are_those_that_are_labelled_now() {
    let (followed, mut held) = (new(), BTreeMap::new());
    let secret = |name: &str, zones: Option<&str>| -> Secret {
        let mut secret = json!({
            "metadata": {"name": name, "labels": {"signet.dev/dns-provider": "rfc2136"},
                "annotations": {"signet.dev/namespaces": "shop"}},
            "data": {"nameserver": "bnMxLmV4YW1wbGU=", "tsig-key-name": "YWNtZQ==", "tsig-secret": "YTJWNQ=="},
        });
        if let Some(zones) = zones {
            secret["metadata"]["annotations"]["signet.dev/zones"] = Value::from(zones);
        }
        serde_json::from_value(secret).unwrap()
    };
    let may = |namespace: &str, name: &str| {
        followed
            .credentials
            .borrow()
            .choose(namespace, name)
            .map(|by| by.secret().to_owned())
            .map_err(|e| e.to_string())
    };
    followed.credentials(Told::All(vec![secret("one", Some("a.example")), secret("two", None)]), &mut held);
    assert_eq!(may("shop", "*.a.example").as_deref(), Ok("signet-edge/one"));
    assert!(may("bank", "a.example").unwrap_err().contains("signet.dev/namespaces"));
    assert!(may("shop", "b.example").is_err());
    followed.credentials(Told::Set(secret("two", Some("b.example"))), &mut held);
    assert_eq!(may("shop", "b.example").as_deref(), Ok("signet-edge/two"));
    followed.credentials(Told::Gone(secret("one", None)), &mut held);
    assert!(may("shop", "a.example").is_err());
}

#[test]
fn issuers_are_kept_by_name_with_their_specification_and_nothing_else() {
    let object = |name: &str| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"acme": {"server": "https://ca.example/dir"}}, "status": {"acme": {"uri": "x"}},
        }))
        .unwrap()
    };
    let mut held = BTreeMap::new();
    take(Told::All(vec![object("a"), object("b")]), &mut held);
    take(Told::Gone(object("a")), &mut held);
    take(Told::Set(object("c")), &mut held);
    let names: Vec<&str> = held.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    let issuers = Issuers::new(&BuiltIn::default(), Some(&held.into_values().collect::<Vec<_>>()));
    let shown: Vec<String> = issuers.all().map(|entry| entry.name.clone()).collect();
    assert_eq!(shown, ["Issuer shop/b", "Issuer shop/c"]);
}

const BASE64: base64::engine::GeneralPurpose = base64::prelude::BASE64_STANDARD;
