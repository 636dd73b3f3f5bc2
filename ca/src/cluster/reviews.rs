//! Tokens of service accounts, for the first certificate: looked at here, reviewed by the API server, held against the pod that
//! they are bound to. The identity is the review's word, never the token's own.
//!
//! What is no token for us never reaches the API server: its shape, audience and expiry are read here, unverified.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    core::v1::Pod as PodObject,
};
use kube::{Api, Client, api::PostParams};
use serde::Deserialize;
use signet_core::{
    identity::{self, NotASpiffeId, SpiffeId, TrustDomain},
    pod::TOKEN_AUDIENCE,
};
use signet_lease::{NoAnswer, call};
use tokio::{sync::Semaphore, time::timeout};
use tonic::Code;

use crate::callers::Pod;

/// Asks the API server about tokens, within limits.
pub(crate) struct Reviews {
    client: Client,
    domain: TrustDomain,
    places: Semaphore,
    sources: Mutex<HashMap<IpAddr, Bucket>>,
}

/// Reviews that a source may still cause.
#[derive(Clone, Copy)]
struct Bucket {
    left: i64,
    /// Unix seconds, of the last refill.
    at: i64,
}

impl Reviews {
    pub(crate) fn new(client: Client, domain: TrustDomain) -> Self {
        Self { client, domain, places: Semaphore::new(AT_ONCE), sources: Mutex::default() }
    }

    /// Whose token this is, and which pod it is bound to. Tokens may be used again until they expire or their pod is gone.
    pub(crate) async fn redeem(
        &self,
        token: &str,
        source: Option<IpAddr>,
        now: i64,
    ) -> Result<(SpiffeId, Pod), Unreviewed> {
        look(token, now)?;
        self.take(source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), now)?;
        let _place = self.places.try_acquire().map_err(|_| Unreviewed::Busy("from all sources together"))?;
        match timeout(PATIENCE, self.ask(token)).await {
            Ok(answer) => answer,
            Err(_) => Err(Unreviewed::Unanswered(NoAnswer::of("the API server is slow"))),
        }
    }

    async fn ask(&self, token: &str) -> Result<(SpiffeId, Pod), Unreviewed> {
        let user = self.review(token).await?;
        let bound = Bound::of(&user)?;
        let id = identity::of(&self.domain, bound.namespace, bound.account)?;
        self.check_pod(&bound).await?;
        let name = format!("{}/{}", bound.namespace, bound.pod);
        Ok((id, Pod { name, uid: bound.uid.to_owned() }))
    }

    async fn review(&self, token: &str) -> Result<UserInfo, Unreviewed> {
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let spec = TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
        };
        let asked = TokenReview { spec, ..TokenReview::default() };
        let answer = call(api.create(&PostParams::default(), &asked)).await.map_err(Unreviewed::from)?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            let why = status.error.unwrap_or_else(|| "not authenticated".into());
            return Err(Unreviewed::Rejected(why.chars().take(SHOWN).collect()));
        }
        // An API server that knows no audiences answers none, and has checked none.
        if !status.audiences.unwrap_or_default().iter().any(|audience| audience == TOKEN_AUDIENCE) {
            return Err(Unreviewed::Audience);
        }
        status.user.ok_or(Unreviewed::Account)
    }

    /// The API server has compared the UIDs too; a pod may have ended, or been replaced, since.
    async fn check_pod(&self, bound: &Bound<'_>) -> Result<(), Unreviewed> {
        let api: Api<PodObject> = Api::namespaced(self.client.clone(), bound.namespace);
        let gone = |why| Unreviewed::Pod { pod: format!("{}/{}", bound.namespace, bound.pod), why };
        let pod = call(api.get_opt(bound.pod)).await?.ok_or_else(|| gone("is gone"))?;
        if pod.metadata.uid.as_deref() != Some(bound.uid) {
            return Err(gone("is another one of that name"));
        }
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        if account != Some(bound.account) {
            return Err(gone("has another service account"));
        }
        match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Succeeded" | "Failed") => Err(gone("has ended")),
            _ => Ok(()),
        }
    }

    fn take(&self, source: IpAddr, now: i64) -> Result<(), Unreviewed> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MOST_SOURCES {
            sources.retain(|_, bucket| bucket.refilled(now).left < BURST);
        }
        // A flood from more addresses than we count shares one bucket.
        let known = sources.len() < MOST_SOURCES || sources.contains_key(&source);
        let source = if known { source } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let bucket = sources.entry(source).or_insert(Bucket { left: BURST, at: now });
        *bucket = bucket.refilled(now);
        if bucket.left == 0 {
            return Err(Unreviewed::Busy("from this source"));
        }
        bucket.left -= 1;
        Ok(())
    }
}

impl Bucket {
    fn refilled(self, now: i64) -> Self {
        let more = now.saturating_sub(self.at).clamp(0, BURST).saturating_mul(PER_SECOND);
        Self { left: (self.left + more).min(BURST), at: now }
    }
}

/// What the review says of the token's bearer.
struct Bound<'a> {
    namespace: &'a str,
    account: &'a str,
    pod: &'a str,
    uid: &'a str,
}

impl<'a> Bound<'a> {
    fn of(user: &'a UserInfo) -> Result<Self, Unreviewed> {
        let name = user.username.as_deref().unwrap_or_default();
        let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let (namespace, account) = account.ok_or(Unreviewed::Account)?;
        let extra = |key: &str| match user.extra.as_ref()?.get(key)?.as_slice() {
            [one] if !one.is_empty() => Some(one.as_str()),
            _ => None,
        };
        let pod = extra("authentication.kubernetes.io/pod-name").ok_or(Unreviewed::NotBound)?;
        let uid = extra("authentication.kubernetes.io/pod-uid").ok_or(Unreviewed::NotBound)?;
        Ok(Self { namespace, account, pod, uid })
    }
}

/// Whether `token` may be a live token for us: three base64url parts (RFC 7519), our audience, not expired.
pub(crate) fn look(token: &str, now: i64) -> Result<(), Unreviewed> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        aud: Audience,
        exp: i64,
    }
    #[derive(Default, Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Several(Vec<String>),
        #[default]
        None,
    }
    if token.len() > LONGEST_TOKEN {
        return Err(Unreviewed::Malformed);
    }
    let parts: Vec<&str> = token.split('.').take(4).collect();
    let [head, claims, signature] = parts[..] else { return Err(Unreviewed::Malformed) };
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok().filter(|bytes| !bytes.is_empty());
    let (Some(_), Some(claims), Some(_)) = (decode(head), decode(claims), decode(signature)) else {
        return Err(Unreviewed::Malformed);
    };
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Unreviewed::Malformed)?;
    let is_ours = match &claims.aud {
        Audience::One(audience) => audience == TOKEN_AUDIENCE,
        Audience::Several(audiences) => audiences.iter().any(|audience| audience == TOKEN_AUDIENCE),
        Audience::None => false,
    };
    if !is_ours {
        return Err(Unreviewed::Audience);
    }
    if claims.exp.saturating_add(CLOCKS_DIFFER) < now {
        return Err(Unreviewed::Expired);
    }
    Ok(())
}

/// Why a token gives nobody a name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unreviewed {
    #[error("the token is not a service account's")]
    Malformed,
    #[error("the token is for another audience than {TOKEN_AUDIENCE}")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("too many tokens to review, {0}")]
    Busy(&'static str),
    #[error("the API server does not accept the token: {0:?}")]
    Rejected(String),
    #[error("the token is no service account's")]
    Account,
    #[error("the token is not bound to a pod; mount it as a projected volume")]
    NotBound,
    #[error("pod {pod} of the token {why}")]
    Pod { pod: String, why: &'static str },
    #[error(transparent)]
    Name(#[from] NotASpiffeId),
    #[error("the token could not be reviewed: {0}")]
    Unanswered(NoAnswer),
}

impl From<NoAnswer> for Unreviewed {
    fn from(why: NoAnswer) -> Self {
        if why.is_too_many() { Self::Busy("for the API server") } else { Self::Unanswered(why) }
    }
}

impl Unreviewed {
    /// `Refusal::reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::Busy(_) => "busy",
            Self::Rejected(_) => "token_rejected",
            Self::Account | Self::NotBound => "token_unbound",
            Self::Pod { .. } => "pod_gone",
            Self::Name(_) => "name_invalid",
            Self::Unanswered(_) => "review_failed",
        }
    }

    /// What the caller is told.
    pub(crate) fn words(&self) -> (Code, String) {
        match self {
            Self::Busy(_) => {
                (Code::ResourceExhausted, "the CA is busy; try again after the pause named".into())
            }
            Self::Unanswered(_) => {
                (Code::Unavailable, "the token could not be reviewed now; the CA's log says why".into())
            }
            Self::Rejected(_) => (Code::Unauthenticated, "the API server does not accept the token".into()),
            why => (Code::Unauthenticated, why.to_string()),
        }
    }
}

/// Both questions together; the request itself has 5 s (`limits`).
const PATIENCE: Duration = Duration::from_secs(3);
/// Reviews in flight: an API server that hangs holds up so many requests, and renewals need none.
const AT_ONCE: usize = 32;
/// Reviews that one address may cause at once, and per second from then on. A pod needs one; nodes that hide their pods behind
/// one address start more.
const BURST: i64 = 16;
const PER_SECOND: i64 = 2;
/// Sources counted one by one; 200 kB.
const MOST_SOURCES: usize = 4096;
/// A projected token is 1 to 2 KiB.
const LONGEST_TOKEN: usize = 8 * 1024;
/// Seconds: the API server decides; this only sheds what is long dead.
const CLOCKS_DIFFER: i64 = 60;
/// Characters of the API server's words in the log.
const SHOWN: usize = 256;

#[cfg(test)]
pub(crate) mod tests;
