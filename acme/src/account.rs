//! Accounts at CAs: one for each directory and e-mail address. The key is stored before the CA hears of it, so that no crash costs an
//! account: asked again with the same key, a CA answers with the account that it has (RFC 8555 7.3.1).
//!
//! A key that is moved into a fresh store goes on as the account that it was: `{"schema":1,"directory":"...","key":"<PEM>"}` is all that
//! it takes.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use instant_acme::{Account, ExternalAccountKey, Key, NewAccount};
use rcgen::KeyPair;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    fault::{Fault, patiently},
    issuer::Eab,
    record::BadRecord,
    secret::Secret,
    store::{Store, StoreError, Stored},
    transport::{Call, Web},
};

/// What is stored of an account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRecord {
    schema: u32,
    pub directory: String,
    #[serde(default)]
    pub email: Option<String>,
    /// P-256, PKCS#8 in PEM.
    pub key: Secret,
    /// URL of the account at the CA (`kid`); `None`: not asked for, or the CA's answer was not stored.
    #[serde(default)]
    pub url: Option<String>,
}

impl AccountRecord {
    pub fn new(directory: &str, email: Option<&str>, key: Secret) -> Self {
        let (directory, email) = (directory.to_owned(), email.map(str::to_owned));
        Self { schema: SCHEMA, directory, email, key, url: None }
    }

    /// Reads a stored one; see [`crate::record::Record::parse`].
    pub fn parse(json: &[u8]) -> Result<Self, BadRecord> {
        let account: Self = serde_json::from_slice(json).map_err(|e| BadRecord::Broken(e.to_string()))?;
        if account.schema > SCHEMA {
            return Err(BadRecord::Newer(account.schema));
        }
        Ok(account)
    }

    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).expect("no maps, and nothing else can fail"))
    }
}

/// Of the account of `email` at `directory`: `account-` and 32 hexadecimal digits.
pub fn id(directory: &str, email: Option<&str>) -> String {
    let hash = Sha256::digest(format!("{directory}\n{}", email.unwrap_or_default()).as_bytes());
    let mut id = String::from("account-");
    for byte in &hash[..16] {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// Whose account.
pub(crate) struct Who<'a> {
    pub(crate) directory: &'a str,
    pub(crate) email: Option<&'a str>,
    pub(crate) eab: Option<&'a Eab>,
    pub(crate) roots: Option<&'a str>,
    /// Of each call.
    pub(crate) limit: Duration,
}

/// An account that may be asked with, and what its calls hear.
pub(crate) struct Opened {
    pub(crate) account: Account,
    pub(crate) call: Call,
}

/// The account of `who`, made where there is none.
pub(crate) async fn open(store: &impl Store, web: &Arc<Web>, who: &Who<'_>) -> Result<Opened, Fault> {
    let id = id(who.directory, who.email);
    let call = web.call(who.directory, who.roots, who.limit)?;
    let Stored { value: mut stored, version } = keyed(store, &id, who).await?;
    if let Some(url) = &stored.url {
        let builder = Account::builder_with_http(Box::new(call.clone()));
        let key = pkcs8(&stored.key)?;
        let account = builder.from_parts(url.clone(), key.clone_key(), who.directory.to_owned()).await?;
        return Ok(Opened { account, call });
    }
    let account = match who.eab {
        None => register(&call, who, &stored.key).await?,
        Some(eab) => bind(&call, who, eab, &mut stored).await?,
    };
    stored.url = Some(account.id().to_owned());
    store.put_account(&id, &stored, Some(&version)).await?;
    Ok(Opened { account, call })
}

/// The CA no longer knows the account: it is asked for again, with the same key.
pub(crate) async fn forget_url(store: &impl Store, who: &Who<'_>) -> Result<(), StoreError> {
    let id = id(who.directory, who.email);
    let Some(Stored { mut value, version }) = store.account(&id).await? else { return Ok(()) };
    value.url = None;
    store.put_account(&id, &value, Some(&version)).await.map(drop)
}

/// The stored account; a new key is stored before anything is done with it.
async fn keyed(store: &impl Store, id: &str, who: &Who<'_>) -> Result<Stored<AccountRecord>, Fault> {
    if let Some(stored) = store.account(id).await? {
        return Ok(stored);
    }
    let key = Secret::new(Zeroizing::new(KeyPair::generate()?.serialize_pem()));
    let value = AccountRecord::new(who.directory, who.email, key);
    match store.put_account(id, &value, None).await {
        Ok(version) => Ok(Stored { value, version }),
        // Another order was faster; all use its key.
        Err(StoreError::Moved { place }) => {
            store.account(id).await?.ok_or_else(|| Fault::from(StoreError::Moved { place }))
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks for the account of this key: the CA makes it, or answers with the one that it has.
async fn register(call: &Call, who: &Who<'_>, key: &Secret) -> Result<Account, Fault> {
    let account = patiently!({
        let der = pkcs8(key)?;
        let pair = (Key::from_pkcs8_der(der.clone_key())?, PrivateKeyDer::Pkcs8(der.clone_key()));
        Account::builder_with_http(Box::new(call.clone())).create_from_key(pair, who.directory.to_owned())
    })
    .map(|(account, _)| account)?;
    if let Some(email) = who.email {
        let contact = format!("mailto:{email}");
        patiently!(account.update_contacts(&[&contact]))?;
    }
    Ok(account)
}

/// The same, bound to an external account. instant-acme makes the key itself here, so that a crash before it is stored leaves an account
/// at the CA that nobody uses, and may use up a key that is good for one binding only.
async fn bind(call: &Call, who: &Who<'_>, eab: &Eab, stored: &mut AccountRecord) -> Result<Account, Fault> {
    let contact = who.email.map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let contact = &contact[..];
    let (account, credentials) = patiently!({
        let external = ExternalAccountKey::new(eab.kid.clone(), &eab.key);
        let builder = Account::builder_with_http(Box::new(call.clone()));
        async move {
            let new = NewAccount { contact, terms_of_service_agreed: true, only_return_existing: false };
            builder.create(&new, who.directory.to_owned(), Some(&external)).await
        }
    })?;
    let key = KeyPair::try_from(credentials.private_key())?;
    stored.key = Secret::new(Zeroizing::new(key.serialize_pem()));
    Ok(account)
}

fn pkcs8(key: &Secret) -> Result<PrivatePkcs8KeyDer<'static>, Fault> {
    use rustls_pki_types::pem::PemObject as _;
    PrivatePkcs8KeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|error| {
        Fault::from(StoreError::Broken { place: "the account's key".into(), why: error.to_string() })
    })
}

const SCHEMA: u32 = 1;
