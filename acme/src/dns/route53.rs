//! Amazon Route 53 (API 2013-04-01): find the hosted zone -> read the record set -> replace it in one transaction -> wait until
//! Route 53 says that all its servers have it.
//!
//! A record set is replaced by deleting exactly what was read and creating the new one in one change batch, which Route 53 takes
//! whole or not at all: a compare-and-swap. UPSERT would lose the value of whoever wrote between our reading and writing.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroizing;

use self::api::{Api, Reply};
use super::{
    DnsError, Pending, Provider, Txt,
    credentials::{Fault, Fields},
    https::Endpoint,
};

mod api;
mod xml;

/// What the Secret says.
#[derive(Clone)]
pub(crate) struct Settings {
    secret: String,
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
    region: &'static str,
    endpoint: Endpoint,
    hosted_zone_id: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Route53 {
    api: Api,
}

/// What Route 53 did not do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Route53Error {
    #[error("Route 53 at {endpoint} cannot be reached")]
    Unreached { endpoint: String, source: std::io::Error },
    #[error("Route 53 at {endpoint} did not finish within {} s; the last it said: {last}", .after.as_secs())]
    Late { endpoint: String, after: Duration, last: String },
    #[error(
        "our clock and Route 53's are {apart} s apart, and signatures live {SKEW} s; set this node's clock"
    )]
    ClockSkew { apart: u64 },
    #[error(
        "Route 53 does not know access key {id} ({code}); compare access-key-id in Secret {secret}, and session-token if it is a temporary one"
    )]
    UnknownKey { id: String, code: String, secret: String },
    #[error(
        "the temporary credentials in Secret {secret} have expired; renew access-key-id, secret-access-key and session-token"
    )]
    Expired { secret: String },
    #[error(
        "Route 53 finds our signature wrong: secret-access-key in Secret {secret} is not the one of {id}"
    )]
    WrongSecret { id: String, secret: String },
    #[error("Route 53 allows {id} not to {action}: {words}; give its IAM identity what docs/dns01.md lists")]
    Denied { id: String, action: &'static str, words: String },
    #[error(
        "no public hosted zone of Route 53 holds {name}; make one, or name it in hosted-zone-id of Secret {secret}"
    )]
    NoZone { name: String, secret: String },
    #[error("{} public hosted zones of Route 53 are called {zone} ({}); say which the world is delegated to in hosted-zone-id of Secret {secret}", .ids.len(), .ids.join(", "))]
    Ambiguous { zone: String, ids: Vec<String>, secret: String },
    #[error(
        "TXT {name} has a routing policy in Route 53, which is not ours to change; remove that record set, or delegate {name} by a CNAME"
    )]
    Routed { name: String },
    #[error("Route 53 refused to change TXT {name}: {words}")]
    Change { name: String, words: String },
    #[error("Route 53 answered {status} {code} to {action}: {words}")]
    Answer { status: u16, code: String, action: &'static str, words: String },
    #[error("Route 53's answer to {action} cannot be read: {why}; is endpoint in Secret {secret} Route 53?")]
    Unreadable { action: &'static str, why: String, secret: String },
}

impl Settings {
    pub(crate) fn parse(secret: &str, fields: &mut Fields<'_>) -> Result<Self, Fault> {
        let token = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let word =
            |text: &str| text.len() <= WORD && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let field = |field, expected| Fault::Field { field, expected };
        let access_key_id = fields.required("access-key-id")?;
        if !word(access_key_id) {
            return Err(field("access-key-id", "an access key's ID, as AKIAIOSFODNN7EXAMPLE"));
        }
        let secret_access_key = fields.required("secret-access-key")?;
        if !token(secret_access_key) {
            return Err(field(
                "secret-access-key",
                "a secret access key: letters, digits and signs without spaces",
            ));
        }
        let session_token = fields.text("session-token")?;
        if session_token.is_some_and(|text| !token(text)) {
            return Err(field("session-token", "a session token: letters, digits and signs without spaces"));
        }
        let region = fields.text("region")?.unwrap_or(GLOBAL.0);
        if !word(region) {
            return Err(field("region", "a region of AWS, as us-east-1"));
        }
        let (region, default) = partition(region);
        let endpoint = Endpoint::parse(fields.text("endpoint")?.unwrap_or(default))
            .ok_or(field("endpoint", "https://host[:port], or http:// for a stand-in, without a path"))?;
        let hosted_zone_id = fields.text("hosted-zone-id")?.map(bare_id);
        if hosted_zone_id.is_some_and(|id| !word(id) || id.is_empty()) {
            return Err(field("hosted-zone-id", "a hosted zone's ID, as Z2P70J7EXAMPLE"));
        }
        Ok(Self {
            secret: secret.to_owned(),
            access_key_id: access_key_id.to_owned(),
            secret_access_key: Zeroizing::new(secret_access_key.to_owned()),
            session_token: session_token.map(|token| Zeroizing::new(token.to_owned())),
            region,
            endpoint,
            hosted_zone_id: hosted_zone_id.map(str::to_owned),
        })
    }
}

impl Route53 {
    pub(crate) fn new(settings: Settings, tls: &ClientConfig) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()]; // whatever else its owner speaks
        Self { api: Api { settings, tls: Arc::new(tls) } }
    }

    /// Adds one value and returns once Route 53's servers have it, or removes it.
    async fn change(&self, txt: &Txt, want: Want) -> Result<(), DnsError> {
        let end = Instant::now() + PATIENCE;
        let mut last = String::from("nothing");
        let work = Box::pin(async {
            let zone = self.zone(txt.name(), &mut last).await?;
            match (self.replace(&zone, txt, want, &mut last).await?, want) {
                (Some(change), Want::There) => self.in_sync(&change, &mut last).await,
                (_, Want::Gone) | (None, Want::There) => Ok(()), // nobody waits for an end
            }
        });
        match timeout_at(end, work).await {
            Ok(done) => done.map_err(DnsError::Route53),
            Err(_) => {
                let endpoint = self.api.settings.endpoint.authority.clone();
                Err(DnsError::Route53(Route53Error::Late { endpoint, after: PATIENCE, last }))
            }
        }
    }

    /// The ID of the public hosted zone with the longest name that holds `name`.
    async fn zone(&self, name: &str, last: &mut String) -> Result<String, Route53Error> {
        let settings = &self.api.settings;
        if let Some(id) = &settings.hosted_zone_id {
            return Ok(id.clone());
        }
        let mut candidate = name;
        for _ in 0..LABELS {
            let ids: Vec<String> = self.api.zones_called(candidate, last).await?;
            match &ids[..] {
                [] => {}
                [id] => return Ok(id.clone()),
                _ => {
                    let (zone, secret) = (candidate.to_owned(), settings.secret.clone());
                    return Err(Route53Error::Ambiguous { zone, ids, secret });
                }
            }
            let Some((_, parent)) = candidate.split_once('.') else { break };
            candidate = parent;
        }
        Err(Route53Error::NoZone { name: name.to_owned(), secret: settings.secret.clone() })
    }

    /// Reads, and swaps for what it read: the change's ID, or `None` where there is nothing to remove. What is there already is
    /// written again, because only a change can be waited for: whoever wrote it may have died before it had spread.
    async fn replace(
        &self,
        zone: &str,
        txt: &Txt,
        want: Want,
        last: &mut String,
    ) -> Result<Option<String>, Route53Error> {
        let value = format!("\"{}\"", txt.value());
        let mut lost = 0;
        loop {
            let old = self.api.record_set(zone, txt.name(), last).await?;
            if old.as_ref().is_some_and(|old| old.routed) {
                return Err(Route53Error::Routed { name: txt.name().to_owned() });
            }
            let before: BTreeSet<&str> = old.iter().flat_map(|old| &old.values).map(String::as_str).collect();
            let mut after = before.clone();
            match want {
                Want::There => _ = after.insert(&value),
                Want::Gone if !after.remove(&*value) => return Ok(None),
                Want::Gone => {}
            }
            let ttl = old.as_ref().map_or(TTL, |old| old.ttl);
            let batch = xml::batch(txt.name(), old.as_ref(), &after, ttl);
            match self.api.change(zone, &batch, last).await? {
                Reply::Done(id) => return Ok(Some(id)),
                Reply::Conflict(words) => {
                    lost += 1;
                    if lost == SWAPS {
                        return Err(Route53Error::Change { name: txt.name().to_owned(), words });
                    }
                    *last = words;
                    sleep(Duration::from_millis(fastrand::u64(100..1000))).await; // somebody else swaps, too
                }
            }
        }
    }

    async fn in_sync(&self, change: &str, last: &mut String) -> Result<(), Route53Error> {
        loop {
            let status = self.api.change_status(change, last).await?;
            if status == "INSYNC" {
                return Ok(());
            }
            *last = format!("change {change} is {status}");
            sleep(POLL).await;
        }
    }
}

impl Provider for Route53 {
    fn publish<'a>(&'a self, txt: &'a Txt) -> Pending<'a> {
        Box::pin(self.change(txt, Want::There))
    }

    fn remove<'a>(&'a self, txt: &'a Txt) -> Pending<'a> {
        Box::pin(self.change(txt, Want::Gone))
    }
}

#[derive(Clone, Copy)]
enum Want {
    There,
    Gone,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, access_key_id, region, endpoint, hosted_zone_id, .. } = self;
        write!(f, "Route53({secret}, {access_key_id}, {region}, {}, {hosted_zone_id:?})", endpoint.authority)
    }
}

/// Each partition of AWS has one Route 53, which signs for one region wherever the caller is.
fn partition(region: &str) -> (&'static str, &'static str) {
    match region {
        _ if region.starts_with("cn-") => CHINA,
        _ if region.starts_with("us-gov-") => GOVERNMENT,
        _ => GLOBAL,
    }
}

/// `/hostedzone/Z1` is Z1, `/change/C1` is C1.
fn bare_id(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

const GLOBAL: (&str, &str) = ("us-east-1", "https://route53.amazonaws.com"); // AWS General Reference, Route 53 endpoints
const CHINA: (&str, &str) = ("cn-northwest-1", "https://route53.amazonaws.com.cn"); // the same
const GOVERNMENT: (&str, &str) = ("us-gov-west-1", "https://route53.us-gov.amazonaws.com"); // the same
/// Seconds that a resolver may keep a value: a challenge is there for a minute. Of a set that is there already its own.
const TTL: u32 = 60;
/// Publishing with all its requests: Route 53 says that a change spreads within 60 s.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two questions whether a change has spread: five requests a second are all that an account has.
const POLL: Duration = Duration::from_secs(2);
const SWAPS: u32 = 5; // conflicts before we give up: another client of ACME writes twice for a certificate
const LABELS: usize = 10; // how far up a zone is looked for; a request each
const WORD: usize = 64; // characters of an ID; AWS's own limits are 32 and 128, theirs today have 20 to 32
/// Seconds: AWS refuses a signature that is older.
pub(crate) const SKEW: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_own_endpoint_and_signs_for_one_region() {
        for (region, signed, host) in [
            ("us-east-1", "us-east-1", "route53.amazonaws.com"),
            ("eu-central-1", "us-east-1", "route53.amazonaws.com"),
            ("cn-north-1", "cn-northwest-1", "route53.amazonaws.com.cn"),
            ("us-gov-east-1", "us-gov-west-1", "route53.us-gov.amazonaws.com"),
        ] {
            let (got, endpoint) = partition(region);
            assert_eq!(
                (got, Endpoint::parse(endpoint).unwrap().authority.as_str()),
                (signed, host),
                "{region}"
            );
        }
        assert_eq!([bare_id("/hostedzone/Z1"), bare_id("Z1"), bare_id("/change/C1")], ["Z1", "Z1", "C1"]);
    }
}
