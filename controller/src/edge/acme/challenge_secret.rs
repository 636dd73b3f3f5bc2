//! Challenges in Secret `signet-edge-challenges` of namespace `signet-edge`: written by the replica that orders, followed by all of them, so
//! that a gateway hears of each from whichever replica it listens to. One field for each, named by a hash; whoever writes reads first, and
//! again on a conflict.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use signet_acme::challenge::{self, Answer};
use signet_core::{identity::EDGE_NAMESPACE, svid::hex};
use signet_http::{
    contract::{
        certificate::PrivateKey,
        challenge::{Challenge, TlsAlpn01},
    },
    model::{Hostname, Http01},
};
use signet_lease::{NoAnswer, call, labels};
use tokio::{sync::Semaphore, time::sleep};
use tracing::warn;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    super::PART,
    Challenges,
    secret_store::{self, CHALLENGES, LABEL, MANAGER},
};

/// Clones share it.
#[derive(Clone)]
pub(crate) struct ChallengeSecret {
    api: Api<Secret>,
    /// Orders go on side by side, and would only be in each other's way here.
    turn: Arc<Semaphore>,
}

/// As it is stored.
#[derive(Deserialize, Serialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Stored {
    #[serde(rename = "http-01")]
    Http01 { host: String, token: String, key_authorization: String },
    /// `certificate` and `key` in base64.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01 { host: String, digest: String, certificate: String, key: String },
}

/// As gateways are told it. Errors: it is none that they could answer.
pub(crate) fn answerable(challenge: &challenge::Challenge) -> Result<Challenge, String> {
    let host = challenge.host.parse::<Hostname>().map_err(|why| format!("{}: {why}", challenge.host))?;
    match &challenge.answer {
        Answer::Http01 { token, key_authorization } => {
            let answer = Http01::new(host, token, key_authorization);
            answer.map(Challenge::Http01).map_err(|why| format!("{}: {why}", challenge.host))
        }
        Answer::TlsAlpn01(answer) => Ok(Challenge::TlsAlpn01(TlsAlpn01 {
            host,
            certificate: answer.certificate.clone(),
            key: PrivateKey::new(answer.key.to_vec()),
        })),
        Answer::Dns01 { .. } => Err(format!("{}: DNS-01 is no gateway's to answer", challenge.host)),
    }
}

/// All that a Secret says; what is not understood is left out, and said. Its keys are wiped.
pub(crate) fn parse(mut secret: Secret) -> Challenges {
    let data = secret.data.take().unwrap_or_default();
    let mut challenges = Challenges::new();
    for (field, bytes) in data {
        let bytes = Zeroizing::new(bytes.0);
        match one(&bytes) {
            Ok(challenge) => drop(challenges.insert(challenge.name(), Arc::new(challenge))),
            Err(why) => warn!(field, why, "a challenge in {PLACE} is not understood"),
        }
    }
    challenges
}

fn one(json: &[u8]) -> Result<Challenge, String> {
    let host = |host: String| host.parse::<Hostname>().map_err(|why| why.to_string());
    match serde_json::from_slice(json).map_err(|why| why.to_string())? {
        Stored::Http01 { host: of, token, key_authorization } => {
            let answer = Http01::new(host(of)?, &token, &key_authorization);
            answer.map(Challenge::Http01).map_err(|why| why.to_string())
        }
        Stored::TlsAlpn01 { host: of, certificate, mut key, .. } => {
            let decoded = BASE64_STANDARD.decode(&key);
            key.zeroize();
            let key = PrivateKey::new(decoded.map_err(|_| "its key is no base64".to_owned())?);
            let certificate =
                BASE64_STANDARD.decode(certificate).map_err(|_| "its certificate is no base64".to_owned())?;
            Ok(Challenge::TlsAlpn01(TlsAlpn01 { host: host(of)?, certificate: certificate.into(), key }))
        }
    }
}

impl ChallengeSecret {
    pub(crate) fn new(client: Client) -> Self {
        Self { api: Api::namespaced(client, EDGE_NAMESPACE), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Puts them there, in the place of others of their names.
    pub(crate) async fn put(&self, challenges: &[challenge::Challenge]) -> Result<(), NoAnswer> {
        self.change(|data| {
            for challenge in challenges {
                let Some((field, json)) = stored(challenge) else { continue };
                if let Some(mut before) = data.insert(field, ByteString(json)) {
                    before.0.zeroize();
                }
            }
        })
        .await
    }

    /// Takes exactly these away: of TLS-ALPN-01 a host has one, and it may be a newer order's.
    pub(crate) async fn remove(&self, challenges: &[challenge::Challenge]) -> Result<(), NoAnswer> {
        self.change(|data| {
            for challenge in challenges {
                let field = field(challenge);
                let is_it = data.get(&field).is_some_and(|held| is_of(challenge, &held.0));
                if is_it && let Some(mut before) = data.remove(&field) {
                    before.0.zeroize();
                }
            }
        })
        .await
    }

    async fn change(&self, change: impl Fn(&mut BTreeMap<String, ByteString>)) -> Result<(), NoAnswer> {
        let _turn = self.turn.acquire().await; // never closed
        for attempt in 0..TRIES {
            let found = call(self.api.get_opt(NAME)).await?;
            let is_new = found.is_none();
            let mut secret = found.unwrap_or_else(empty);
            let mut data = secret.data.take().unwrap_or_default();
            let before = fields(&data);
            change(&mut data);
            let is_same = before == fields(&data);
            let bytes: usize = data.values().map(|value| value.0.len()).sum();
            secret.data = Some(data);
            if is_same || bytes > MAX_BYTES {
                secret_store::wipe(secret);
                return match is_same {
                    true => Ok(()),
                    false => Err(NoAnswer::of(&format!(
                        "{PLACE} has no room for more challenges; this order waits until others have ended"
                    ))),
                };
            }
            let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
            let written = match is_new {
                true => call(self.api.create(&params, &secret)).await,
                false => call(self.api.replace(NAME, &params, &secret)).await,
            };
            secret_store::wipe(secret);
            match written {
                Ok(secret) => {
                    secret_store::wipe(secret);
                    return Ok(());
                }
                Err(error) if error.is_conflict() || error.is_absent() => sleep(PAUSE * (attempt + 1)).await,
                Err(error) => return Err(error),
            }
        }
        Err(NoAnswer::of(&format!("{PLACE} is written by somebody else all the time")))
    }
}

fn empty() -> Secret {
    let mut all = labels(PART);
    all.insert(LABEL.to_owned(), CHALLENGES.to_owned());
    let metadata = ObjectMeta { name: Some(NAME.into()), labels: Some(all), ..ObjectMeta::default() };
    Secret { metadata, ..Secret::default() }
}

/// Hashes of what is there, by field: no second copy of a key.
fn fields(data: &BTreeMap<String, ByteString>) -> Vec<(String, [u8; 32])> {
    data.iter().map(|(field, value)| (field.clone(), Sha256::digest(&value.0).into())).collect()
}

/// Of its name as a resource; a Secret's fields take no slash.
fn field(challenge: &challenge::Challenge) -> String {
    let name = match &challenge.answer {
        Answer::Http01 { token, .. } => format!("http-01/{}/{token}", challenge.host),
        Answer::TlsAlpn01(_) => format!("tls-alpn-01/{}", challenge.host),
        Answer::Dns01 { name, value } => format!("dns-01/{name}/{value}"),
    };
    hex(&Sha256::digest(name)[..16])
}

/// `None`: of DNS-01, which is not stored here.
fn stored(challenge: &challenge::Challenge) -> Option<(String, Vec<u8>)> {
    let host = challenge.host.clone();
    let stored = match &challenge.answer {
        Answer::Http01 { token, key_authorization } => {
            Stored::Http01 { host, token: token.clone(), key_authorization: key_authorization.clone() }
        }
        Answer::TlsAlpn01(answer) => Stored::TlsAlpn01 {
            host,
            digest: hex(&answer.digest),
            certificate: BASE64_STANDARD.encode(&answer.certificate),
            key: BASE64_STANDARD.encode(&*answer.key),
        },
        Answer::Dns01 { .. } => return None,
    };
    let json = serde_json::to_vec(&stored).ok()?;
    if let Stored::TlsAlpn01 { mut key, .. } = stored {
        key.zeroize();
    }
    Some((field(challenge), json))
}

fn is_of(challenge: &challenge::Challenge, json: &[u8]) -> bool {
    match (serde_json::from_slice(json), &challenge.answer) {
        (Ok(Stored::TlsAlpn01 { digest, mut key, .. }), Answer::TlsAlpn01(answer)) => {
            key.zeroize();
            digest == hex(&answer.digest)
        }
        (Ok(Stored::TlsAlpn01 { mut key, .. }), _) => {
            key.zeroize();
            true
        }
        _ => true, // its field is made of its token; what cannot be read is nobody's
    }
}

const NAME: &str = "signet-edge-challenges";
const PLACE: &str = "Secret signet-edge/signet-edge-challenges";
/// An object of the API server ends at 1 MiB, in base64 in some of its stores.
const MAX_BYTES: usize = 700 << 10;
/// Another writer is another replica that still thinks it leads: it stops within seconds.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
#[path = "challenge_secret/tests.rs"]
mod tests;
