//! DNS credentials: Secrets labelled `signet.dev/dns-provider`, and who may use which. Pure: whatever is refused here is refused
//! before anybody is asked for anything. docs/dns01.md has the fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::ClientConfig;
use zeroize::Zeroizing;

use super::{Provider, rfc2136, route53};

/// Whose value names the provider: [`ROUTE53`] or [`RFC2136`].
pub const LABEL: &str = "signet.dev/dns-provider";
/// The domains whose names these credentials may answer for, separated by commas or spaces.
pub const ZONES: &str = "signet.dev/zones";
/// The namespaces that may ask for them, separated by commas or spaces; `*` is every namespace.
pub const NAMESPACES: &str = "signet.dev/namespaces";
pub const ROUTE53: &str = "route53";
pub const RFC2136: &str = "rfc2136";

/// A Secret as it was read, in nobody's types.
pub struct Raw<'a> {
    /// `namespace/name`, for people.
    pub secret: &'a str,
    /// [`LABEL`]'s value.
    pub provider: &'a str,
    pub zones: Option<&'a str>,
    pub namespaces: Option<&'a str>,
    pub data: BTreeMap<&'a str, &'a [u8]>,
}

/// What one Secret allows: names of its zones, for its namespaces, at its provider.
#[derive(Debug)]
pub struct Credentials {
    secret: String,
    zones: Vec<String>,
    namespaces: Namespaces,
    check: Check,
    api: Api,
}

/// Who is asked whether a published value is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Check {
    /// The servers that the zone itself names.
    Zone,
    /// These in their stead: a split horizon, a firewall.
    At(Vec<SocketAddr>),
    /// Nobody: the provider's own word is enough.
    Nobody,
}

#[derive(Debug)]
enum Namespaces {
    Every,
    These(BTreeSet<String>),
}

#[derive(Debug)]
enum Api {
    Route53(route53::Settings),
    Rfc2136(rfc2136::Settings),
}

/// All credentials that there are.
#[derive(Debug, Default)]
pub struct Registry {
    usable: Vec<Credentials>,
    unusable: Vec<Unusable>,
}

/// A Secret that has the label and cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("Secret {secret}: {fault}")]
pub struct Unusable {
    pub secret: String,
    pub fault: Fault,
    /// As far as they could be read.
    zones: Vec<String>,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("annotation {annotation} is missing; {what}")]
    NoAnnotation { annotation: &'static str, what: &'static str },
    #[error("annotation {annotation} says {value:?}, which is {wrong}")]
    Annotation { annotation: &'static str, value: String, wrong: &'static str },
    #[error("label {LABEL} says {0:?}; {ROUTE53} and {RFC2136} are known")]
    Provider(String),
    #[error("field {0} is missing (docs/dns01.md lists what this provider needs)")]
    NoField(&'static str),
    #[error("field {0:?} is unknown to this provider (docs/dns01.md lists its fields)")]
    UnknownField(String),
    /// Never the value: any field may hold a secret by mistake.
    #[error("field {field} is not {expected}")]
    Field { field: &'static str, expected: &'static str },
}

/// Why nobody may answer DNS-01 for a name; decided before any order.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "no DNS credentials: {name} is to be proven by dns-01, and no Secret in signet-edge has the label {LABEL}; make one (docs/dns01.md){}", otherwise(.name)
    )]
    None { name: String },
    #[error("no DNS credentials hold {name}; known zones: {}; add its zone to {ZONES} of a Secret", list(.zones))]
    Zone { name: String, zones: Vec<String> },
    #[error(
        "namespace {namespace} may not ask for {name}: {ZONES} of Secret {secret} holds it as {zone}, but {NAMESPACES} there does not name {namespace}"
    )]
    Namespace { namespace: String, name: String, zone: String, secret: String },
    #[error("the DNS credentials that would hold {name} cannot be used: {0}", .unusable)]
    Unusable { name: String, unusable: Box<Unusable> },
}

impl Registry {
    /// Of all Secrets that have the label, in any order.
    pub fn new<'a>(secrets: impl IntoIterator<Item = Raw<'a>>) -> Self {
        let mut registry = Self::default();
        for raw in secrets {
            match Credentials::parse(&raw) {
                Ok(credentials) => registry.usable.push(credentials),
                Err(unusable) => registry.unusable.push(unusable),
            }
        }
        registry.usable.sort_by(|a, b| a.secret.cmp(&b.secret));
        registry.unusable.sort_by(|a, b| a.secret.cmp(&b.secret));
        registry
    }

    /// Secrets that somebody must mend, for Events and `signet check`.
    pub fn unusable(&self) -> &[Unusable] {
        &self.unusable
    }

    /// The credentials with the longest zone that holds `name` (wildcards too) and admits `namespace`; of several, the Secret whose
    /// name comes first. A longer zone takes nothing away from a shorter one: each Secret says for itself who may use it.
    pub fn choose(&self, namespace: &str, name: &str) -> Result<&Credentials, Refusal> {
        let base = name.strip_prefix("*.").unwrap_or(name).trim_end_matches('.').to_ascii_lowercase();
        let named = || name.to_owned();
        let held = self.usable.iter().filter_map(|c| Some((c.zone_of(&base)?, c)));
        let mut held: Vec<(&str, &Credentials)> = held.collect();
        held.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.len())); // stable: by Secret among equals
        if let Some((_, chosen)) = held.iter().find(|(_, c)| c.namespaces.admit(namespace)) {
            return Ok(chosen);
        }
        if let Some(broken) = self.unusable.iter().find(|u| u.zones.iter().any(|zone| holds(zone, &base))) {
            return Err(Refusal::Unusable { name: named(), unusable: Box::new(broken.clone()) });
        }
        if let Some((zone, c)) = held.first() {
            let (zone, secret) = (zone.to_string(), c.secret.clone());
            return Err(Refusal::Namespace { namespace: namespace.to_owned(), name: named(), zone, secret });
        }
        let mut zones: Vec<String> = self.usable.iter().flat_map(|c| c.zones.iter().cloned()).collect();
        zones.sort();
        zones.dedup();
        match (zones.is_empty(), self.unusable.first()) {
            (true, Some(unusable)) => {
                Err(Refusal::Unusable { name: named(), unusable: Box::new(unusable.clone()) })
            }
            (true, None) => Err(Refusal::None { name: named() }),
            (false, _) => Err(Refusal::Zone { name: named(), zones }),
        }
    }
}

impl Credentials {
    pub fn parse(raw: &Raw<'_>) -> Result<Self, Unusable> {
        let mut zones = Vec::new();
        Self::parse_into(raw, &mut zones).map_err(|fault| Unusable {
            secret: raw.secret.to_owned(),
            fault,
            zones,
        })
    }

    /// `zones` are told apart, because they say whom a Secret that cannot be used would have served.
    fn parse_into(raw: &Raw<'_>, zones: &mut Vec<String>) -> Result<Self, Fault> {
        *zones = parse_zones(raw.zones)?;
        let namespaces = Namespaces::parse(raw.namespaces)?;
        let mut fields = Fields::new(raw);
        let check = parse_check(&mut fields)?;
        let api = match raw.provider {
            ROUTE53 => Api::Route53(route53::Settings::parse(raw.secret, &mut fields)?),
            RFC2136 => Api::Rfc2136(rfc2136::Settings::parse(raw.secret, &mut fields)?),
            other => return Err(Fault::Provider(shown(other))),
        };
        fields.none_left()?;
        Ok(Self { secret: raw.secret.to_owned(), zones: zones.clone(), namespaces, check, api })
    }

    /// `namespace/name` of the Secret.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    pub fn zones(&self) -> &[String] {
        &self.zones
    }

    pub fn check(&self) -> &Check {
        &self.check
    }

    /// [`ROUTE53`] or [`RFC2136`].
    pub fn kind(&self) -> &'static str {
        match self.api {
            Api::Route53(_) => ROUTE53,
            Api::Rfc2136(_) => RFC2136,
        }
    }

    /// Who does it. `tls` says whom HTTPS believes.
    pub fn provider(&self, tls: &ClientConfig) -> Box<dyn Provider> {
        match &self.api {
            Api::Route53(settings) => Box::new(route53::Route53::new(settings.clone(), tls)),
            Api::Rfc2136(settings) => Box::new(rfc2136::Rfc2136::new(settings.clone())),
        }
    }

    /// The longest of its zones that holds `name`.
    pub(crate) fn zone_of(&self, name: &str) -> Option<&str> {
        self.zones.iter().map(String::as_str).filter(|zone| holds(zone, name)).max_by_key(|zone| zone.len())
    }
}

impl Namespaces {
    fn parse(annotation: Option<&str>) -> Result<Self, Fault> {
        let what = "say who may use these credentials: names of namespaces, or * for all";
        let text = annotation.ok_or(Fault::NoAnnotation { annotation: NAMESPACES, what })?;
        let wrong = |wrong| Fault::Annotation { annotation: NAMESPACES, value: shown(text), wrong };
        let names: BTreeSet<String> = items(text).map(str::to_owned).collect();
        if names.is_empty() {
            return Err(wrong("empty: nobody could use these credentials"));
        }
        if names.contains("*") {
            return if names.len() == 1 { Ok(Self::Every) } else { Err(wrong("both * and names")) };
        }
        let is_namespace = |name: &String| name.len() <= LABEL_BYTES && is_label(name) && !name.contains('_');
        if names.iter().all(is_namespace) {
            Ok(Self::These(names))
        } else {
            Err(wrong("no list of namespaces"))
        }
    }

    fn admit(&self, namespace: &str) -> bool {
        match self {
            Self::Every => true,
            Self::These(names) => names.contains(namespace),
        }
    }
}

fn parse_zones(annotation: Option<&str>) -> Result<Vec<String>, Fault> {
    let what = "say which domains these credentials may answer for, as example.com";
    let text = annotation.ok_or(Fault::NoAnnotation { annotation: ZONES, what })?;
    let wrong = |wrong| Fault::Annotation { annotation: ZONES, value: shown(text), wrong };
    let mut zones: Vec<String> =
        items(text).map(|zone| zone.strip_suffix('.').unwrap_or(zone).to_ascii_lowercase()).collect();
    if zones.is_empty() {
        return Err(wrong("empty: these credentials could answer for nothing"));
    }
    if zones.iter().any(|zone| zone.starts_with('*')) {
        return Err(wrong("with a *: a zone holds everything below it, wildcards too"));
    }
    if !zones.iter().all(|zone| is_name(zone)) {
        return Err(wrong("no list of domain names"));
    }
    zones.sort();
    zones.dedup();
    Ok(zones)
}

fn parse_check(fields: &mut Fields<'_>) -> Result<Check, Fault> {
    let expected =
        "none, or addresses of DNS servers as 192.0.2.1 or 192.0.2.1:53, separated by commas or spaces";
    let Some(text) = fields.text("check-servers")? else { return Ok(Check::Zone) };
    if text == "none" {
        return Ok(Check::Nobody);
    }
    let address =
        |item: &str| item.parse().ok().or_else(|| Some(SocketAddr::new(item.parse::<IpAddr>().ok()?, 53)));
    let servers: Option<Vec<SocketAddr>> = items(text).map(address).collect();
    match servers {
        Some(servers) if !servers.is_empty() && servers.len() <= SERVERS => Ok(Check::At(servers)),
        _ => Err(Fault::Field { field: "check-servers", expected }),
    }
}

/// A Secret's data, taken out field by field, so that a name that nobody knows is left over.
pub(crate) struct Fields<'a> {
    left: BTreeMap<&'a str, &'a [u8]>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(raw: &Raw<'a>) -> Self {
        Self { left: raw.data.clone() }
    }

    /// Printable text without the space and newline around it that editors and `echo` leave; an empty field is a missing one.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<Option<&'a str>, Fault> {
        let Some(bytes) = self.left.remove(field) else { return Ok(None) };
        let text = std::str::from_utf8(bytes).ok().map(str::trim);
        match text {
            Some("") => Ok(None),
            Some(text)
                if text.len() <= FIELD_BYTES && text.chars().all(|c| c.is_ascii_graphic() || c == ' ') =>
            {
                Ok(Some(text))
            }
            _ => Err(Fault::Field { field, expected: "printable ASCII of at most 4096 characters" }),
        }
    }

    pub(crate) fn required(&mut self, field: &'static str) -> Result<&'a str, Fault> {
        self.text(field)?.ok_or(Fault::NoField(field))
    }

    /// Base64, decoded.
    pub(crate) fn secret_bytes(&mut self, field: &'static str) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let text = self.required(field)?;
        let bytes = BASE64_STANDARD.decode(text).map(Zeroizing::new);
        bytes.ok().filter(|bytes| !bytes.is_empty()).ok_or(Fault::Field { field, expected: "base64" })
    }

    fn none_left(self) -> Result<(), Fault> {
        self.left.into_keys().next().map_or(Ok(()), |field| Err(Fault::UnknownField(shown(field))))
    }
}

/// Whether `zone` is `name` or above it.
pub(crate) fn holds(zone: &str, name: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Lower-case labels of letters, digits, hyphens and underscores, without a final dot.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES && name.split('.').all(|label| label.len() <= LABEL_BYTES && is_label(label))
}

fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty())
}

/// What else there is for a name that is no wildcard.
fn otherwise(name: &str) -> &'static str {
    match name.starts_with("*.") {
        true => "",
        false => ", or annotate the Ingress signet.dev/acme-challenge: http-01",
    }
}

fn list(items: &[String]) -> impl fmt::Display {
    items.join(", ")
}

/// Enough to recognise it, too little to flood a log.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

const NAME_BYTES: usize = 253; // RFC 1035 2.3.4, written out without the final dot
const LABEL_BYTES: usize = 63; // the same, of one label
const FIELD_BYTES: usize = 4096; // AWS's session tokens are about 1 KiB and have no fixed limit; this one stands in Fault
const SERVERS: usize = 16; // more than any zone has; all are asked at once
const SHOWN: usize = 100; // characters

#[cfg(test)]
mod tests;
