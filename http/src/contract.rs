//! The model as it travels from edge to gateways (`signet/edge.proto`): each resource both ways, `decode(encode(x)) == x`.
//!
//! Decoding trusts nothing: every count and length has a limit, every name and path is parsed by its type, and an enum value,
//! a variant or a need that we do not know is an error. In a rule, the error costs the rule alone, which then answers 500
//! ([`route`]); anywhere else the resource. A [`Fault`] names the resource and the field.

pub mod backend;
pub mod certificate;
pub mod challenge;
pub mod https_host;
pub mod listener;
mod path;
mod respond;
pub mod route;
mod rule;

use std::{fmt::Display, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use signet_api::edge;

use crate::model::{HeaderEdits, HostPattern, Hostname, Labels, Scheme};

/// A resource, or a rule of it, that cannot be used, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{kind} {resource:?}: {field} {why}")]
pub struct Fault {
    /// "route"
    pub kind: &'static str,
    pub resource: String,
    /// "rules[3].forward.backends[0].weight"; "name" of what has none.
    pub field: String,
    pub why: String,
}

/// What is wrong, on its way out of the message that it was found in.
struct Wrong {
    field: String,
    why: String,
}

impl Wrong {
    fn of(self, kind: &'static str, resource: &str) -> Fault {
        let field = if self.field.is_empty() { "the message".into() } else { self.field };
        Fault { kind, resource: resource.chars().take(SHOWN).collect(), field, why: self.why }
    }
}

/// An error that begins where it is.
fn wrong(why: impl Display) -> Wrong {
    Wrong { field: String::new(), why: why.to_string() }
}

/// `result`, whose error is in `field`.
fn at<T>(field: impl Display, result: Result<T, Wrong>) -> Result<T, Wrong> {
    result.map_err(|inner| Wrong {
        field: match &*inner.field {
            "" => field.to_string(),
            more if more.starts_with('[') => format!("{field}{more}"),
            more => format!("{field}.{more}"),
        },
        why: inner.why,
    })
}

/// At most `most` of `field`, each decoded.
fn each<M, T>(
    field: &str,
    most: usize,
    messages: Vec<M>,
    mut decode: impl FnMut(M) -> Result<T, Wrong>,
) -> Result<Vec<T>, Wrong> {
    if messages.len() > most {
        return at(field, Err(wrong(format!("has {} entries; {most} is the limit", messages.len()))));
    }
    let decoded = messages.into_iter().enumerate().map(|(index, m)| at(format!("[{index}]"), decode(m)));
    at(field, decoded.collect())
}

/// What must be there.
fn some<T>(field: &str, value: Option<T>) -> Result<T, Wrong> {
    at(field, value.ok_or_else(|| wrong("is missing, or of a kind that this version does not know")))
}

/// An enum's value; 0 and what we do not know are errors.
fn known<E: TryFrom<i32>, T>(
    field: &str,
    value: i32,
    meaning: impl FnOnce(E) -> Option<T>,
) -> Result<T, Wrong> {
    let known = E::try_from(value).ok().and_then(meaning);
    at(field, known.ok_or_else(|| wrong(format!("has value {value}, which this version does not know"))))
}

/// No need is known so far.
fn needs(needs: &[String]) -> Result<(), Wrong> {
    match needs.first() {
        None => Ok(()),
        Some(first) => {
            at("needs", Err(wrong(format!("{:?}, which this version does not know", shown(first)))))
        }
    }
}

/// A string of at most `most` bytes.
fn text(field: &str, most: usize, text: String) -> Result<Arc<str>, Wrong> {
    match text.len() {
        length if length > most => at(field, Err(wrong(format!("has {length} bytes; {most} is the limit")))),
        _ => Ok(text.into()),
    }
}

/// A resource's name, or a reference to one.
fn name(field: &str, name: String) -> Result<Arc<str>, Wrong> {
    match name.is_empty() {
        true => at(field, Err(wrong("is empty"))),
        false => text(field, MAX_NAME, name),
    }
}

fn port(field: &str, port: u32) -> Result<u16, Wrong> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0);
    at(field, port.ok_or_else(|| wrong("is not a port, 1 to 65535")))
}

fn hostname(field: &str, name: &str) -> Result<Hostname, Wrong> {
    at(field, name.parse().map_err(wrong))
}

fn encode_host(host: &HostPattern) -> edge::Host {
    let (kind, name) = match host {
        HostPattern::Any => (edge::HostKind::Any, String::new()),
        HostPattern::Exact(name) => (edge::HostKind::Exact, name.to_string()),
        HostPattern::Wildcard(suffix, Labels::One) => (edge::HostKind::WildcardOne, suffix.to_string()),
        HostPattern::Wildcard(suffix, Labels::Any) => (edge::HostKind::Wildcard, suffix.to_string()),
    };
    edge::Host { kind: kind.into(), name }
}

fn host(message: edge::Host) -> Result<HostPattern, Wrong> {
    let kind = known("kind", message.kind, |kind: edge::HostKind| match kind {
        edge::HostKind::Unspecified => None,
        kind => Some(kind),
    })?;
    match kind {
        edge::HostKind::Exact => Ok(HostPattern::Exact(hostname("name", &message.name)?)),
        edge::HostKind::WildcardOne => {
            Ok(HostPattern::Wildcard(hostname("name", &message.name)?, Labels::One))
        }
        edge::HostKind::Wildcard => Ok(HostPattern::Wildcard(hostname("name", &message.name)?, Labels::Any)),
        edge::HostKind::Any | edge::HostKind::Unspecified if message.name.is_empty() => Ok(HostPattern::Any),
        edge::HostKind::Any | edge::HostKind::Unspecified => {
            at("name", Err(wrong("is given, and the kind says any host")))
        }
    }
}

fn encode_scheme(scheme: Scheme) -> edge::Scheme {
    match scheme {
        Scheme::Http => edge::Scheme::Http,
        Scheme::Https => edge::Scheme::Https,
    }
}

fn scheme(field: &str, value: i32) -> Result<Scheme, Wrong> {
    known(field, value, |scheme| match scheme {
        edge::Scheme::Unspecified => None,
        edge::Scheme::Http => Some(Scheme::Http),
        edge::Scheme::Https => Some(Scheme::Https),
    })
}

fn encode_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0), // below 1e9
    }
}

fn duration(field: &str, message: prost_types::Duration) -> Result<Duration, Wrong> {
    let seconds = u32::try_from(message.seconds).ok(); // 136 years: added to any clock, it does not overflow
    let nanos = u32::try_from(message.nanos).ok().filter(|nanos| *nanos < NANOS);
    let duration = seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds.into(), nanos));
    at(field, duration.ok_or_else(|| wrong("is not a duration of 0 to 4294967295 s")))
}

fn status(field: &str, status: u32) -> Result<StatusCode, Wrong> {
    let known = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
    let known = known.and_then(|status| StatusCode::from_u16(status).ok());
    at(field, known.ok_or_else(|| wrong(format!("{status} is not a final status, 200 to 599"))))
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, Wrong> {
    let parsed = HeaderName::try_from(name);
    at(field, parsed.map_err(|_| wrong(format!("{:?} is not a header's name", shown(name)))))
}

fn encode_edits(edits: &HeaderEdits) -> Option<edge::HeaderEdits> {
    let headers = |headers: &[(HeaderName, HeaderValue)]| {
        let header = |(name, value): &(HeaderName, HeaderValue)| edge::Header {
            name: name.to_string(),
            value: value.as_bytes().into(),
        };
        headers.iter().map(header).collect()
    };
    (!edits.is_empty()).then(|| edge::HeaderEdits {
        set: headers(edits.set()),
        add: headers(edits.add()),
        remove: edits.remove().iter().map(ToString::to_string).collect(),
    })
}

/// Absent: none.
fn edits(field: &str, message: Option<edge::HeaderEdits>) -> Result<HeaderEdits, Wrong> {
    let Some(message) = message else { return Ok(HeaderEdits::default()) };
    let header = |header: edge::Header| {
        if header.value.len() > MAX_TEXT {
            return at("value", Err(wrong(format!("is longer than {MAX_TEXT} bytes"))));
        }
        let value = HeaderValue::from_bytes(&header.value);
        let value = value.map_err(|_| wrong("has a byte that no header's value may have"));
        Ok((header_name("name", &header.name)?, at("value", value)?))
    };
    let edits = (|| {
        let set = each("set", MAX_EDITS, message.set, header)?;
        let add = each("add", MAX_EDITS, message.add, header)?;
        let remove = each("remove", MAX_EDITS, message.remove, |name| header_name("", &name))?;
        HeaderEdits::new(set, add, remove).map_err(wrong)
    })();
    at(field, edits)
}

/// A stranger's text in an error.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Bytes of a resource's name: two names of Kubernetes objects, a host and a word.
const MAX_NAME: usize = 1024;
/// Bytes of a regular expression or of a header's value: the Gateway API's.
const MAX_TEXT: usize = 4096;
/// Header changes of one kind; the Gateway API has 16.
const MAX_EDITS: usize = 64;
const NANOS: u32 = 1_000_000_000;
/// Characters of a stranger's text in an error.
const SHOWN: usize = 128;

#[cfg(test)]
mod generate;
#[cfg(test)]
mod tests;
