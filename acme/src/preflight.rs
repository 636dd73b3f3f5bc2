//! What is looked at before an order, so that a name that must fail costs none of the CA's five failures an hour. Four things hold
//! an order back: a name that does not exist, CAA that forbids it, a suffix that no public CA certifies, and (elsewhere) a host
//! that nobody owns. All else is a warning: we see DNS from inside, the CA from outside. [`judge`] is pure; [`look`] asks, in
//! bounded time, and a question that nobody answers never holds an order back.

use std::{fmt, net::IpAddr, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

pub use self::caa::{Caa, CaaSet};
use crate::dns::{Found, Lookups};

mod caa;

/// What is to be ordered, of whom.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// As the certificate will have it, lower case; maybe `*.example.com`.
    pub name: &'a str,
    pub method: Method,
    pub ca: Ca<'a>,
    pub published: &'a Published,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    Http01,
    TlsAlpn01,
    Dns01,
}

/// What is known of the CA.
#[derive(Clone, Debug, Default)]
pub struct Ca<'a> {
    /// It certifies for the public: false for one whose roots the operator gave, which may certify any name.
    pub public: bool,
    /// `caaIdentities` of its directory (RFC 8555 7.1.1); empty where it has none.
    pub identities: &'a [String],
    /// Our account there; `None` before there is one.
    pub account: Option<&'a str>,
}

/// Where our gateways are, as the status of Ingresses says.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub addresses: Vec<IpAddr>,
    /// Of load balancers that have names; resolved when it is looked.
    pub names: Vec<String>,
}

/// What DNS said.
#[derive(Clone, Debug)]
pub struct Answers {
    /// A and AAAA of the name (without `*.`).
    pub addresses: Found<IpAddr>,
    /// The relevant CAA set (RFC 8659 3), or who could not be asked for it.
    pub caa: Result<CaaSet, CaaUnknown>,
    /// Ours, names resolved.
    pub published: Vec<IpAddr>,
}

/// Nobody could say whether there is CAA at `at`; a CA that cannot either refuses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaaUnknown {
    pub at: String,
    pub why: String,
}

/// What is told: an order is made when nothing holds it back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    pub holds: Vec<Hold>,
    pub warnings: Vec<Warning>,
}

/// Why no order is made, with what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Hold {
    #[error("{name} does not exist in DNS (NXDOMAIN): the CA would not find it either; make an A or AAAA record{}", at(.published))]
    NoName { name: String, published: Vec<IpAddr> },
    #[error(
        "no public CA certifies {name}: {suffix} is reserved ({by}); use a name of your own, or the edge CA (signet.dev/edge-issuer: local)"
    )]
    Reserved { name: String, suffix: &'static str, by: &'static str },
    #[error("{0}")]
    Forbidden(caa::Forbidden),
}

/// What may be as it should, and is worth a look when it is not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Warning {
    #[error("{name} cannot be looked up from here ({why}); the CA asks DNS by itself")]
    Unknown { name: String, why: String },
    #[error("{name} has neither an A nor an AAAA record: the CA cannot reach it by {method}; make one{}", at(.published))]
    NoAddress { name: String, method: Method, published: Vec<IpAddr> },
    #[error("{name} is at {}, and this edge at {}: right behind a CDN, NAT or load balancer that passes the challenge on; else change the record", list(.found), list(.published))]
    Elsewhere { name: String, found: Vec<IpAddr>, published: Vec<IpAddr> },
    #[error("{name} is at this edge and also at {}: the CA picks one of them; remove what is not ours, or make it pass the challenge on", list(.foreign))]
    PartlyElsewhere { name: String, foreign: Vec<IpAddr> },
    #[error("the AAAA record of {name} is {}, which is not this edge, and CAs try IPv6 first: remove it, or point it here", list(.foreign))]
    ForeignAaaa { name: String, foreign: Vec<IpAddr> },
    #[error("{name} is at {}, which the Internet cannot reach: a public CA needs a public address, or DNS-01", list(.private))]
    Private { name: String, private: Vec<IpAddr> },
    #[error(
        "this edge has no address yet: the status of Ingresses is empty, and {name} cannot be compared with it"
    )]
    NothingPublished { name: String },
    #[error(
        "CAA of {at} cannot be read ({why}); a CA that cannot read it refuses to certify {name}: let its servers answer (type 257)"
    )]
    CaaUnknown { name: String, at: String, why: String },
    #[error("{0}")]
    CaaUnsure(caa::Unsure),
}

/// Asks DNS all that is needed to judge, at once and in bounded time.
pub async fn look(lookups: &Lookups, wanted: &Wanted<'_>) -> Answers {
    let name = base(wanted.name);
    let (addresses, caa, published) = tokio::join!(
        lookups.addresses(name),
        timeout(CLIMB, climb(lookups, name)),
        resolve(lookups, wanted.published)
    );
    let late = CaaUnknown { at: name.to_owned(), why: format!("no answer in {} s", CLIMB.as_secs()) };
    Answers { addresses, caa: caa.unwrap_or(Err(late)), published }
}

/// RFC 8659 3: the CAA of the name, or of the nearest name above it that has any. Aliases are followed where they stand (the resolver
/// does), and what is climbed is always the name that was asked for, never the alias's target.
async fn climb(lookups: &Lookups, name: &str) -> Result<CaaSet, CaaUnknown> {
    let mut at = name;
    for _ in 0..LABELS {
        match lookups.caa(at).await {
            Found::Some(records) => return Ok(CaaSet { at: at.to_owned(), records }),
            Found::Nothing | Found::NoName => {}
            Found::Failed(why) => return Err(CaaUnknown { at: at.to_owned(), why }),
        }
        let Some((_, parent)) = at.split_once('.') else { break };
        at = parent;
    }
    Ok(CaaSet::default())
}

async fn resolve(lookups: &Lookups, published: &Published) -> Vec<IpAddr> {
    let names = published.names.iter().take(BALANCERS);
    let mut addresses = published.addresses.clone();
    for found in join_all(names.map(|name| lookups.addresses(name))).await {
        if let Found::Some(found) = found {
            addresses.extend(found);
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Pure: what was answered, and what of it holds an order back.
pub fn judge(wanted: &Wanted<'_>, answers: &Answers) -> Verdict {
    let mut verdict = Verdict::default();
    let name = base(wanted.name);
    if let Some((suffix, by)) = reserved(name).filter(|_| wanted.ca.public) {
        verdict.holds.push(Hold::Reserved { name: wanted.name.to_owned(), suffix, by });
        return verdict; // what DNS says of such a name means nothing
    }
    if wanted.method != Method::Dns01 {
        judge_addresses(wanted, answers, &mut verdict); // who proves a name by TXT needs no address
    }
    match &answers.caa {
        Ok(set) => match caa::judge(wanted, set) {
            caa::Answer::Allowed => {}
            caa::Answer::Forbidden(forbidden) => verdict.holds.push(Hold::Forbidden(forbidden)),
            caa::Answer::Unsure(unsure) => verdict.warnings.push(Warning::CaaUnsure(unsure)),
        },
        Err(CaaUnknown { at, why }) => verdict.warnings.push(Warning::CaaUnknown {
            name: wanted.name.to_owned(),
            at: at.clone(),
            why: why.clone(),
        }),
    }
    verdict
}

fn judge_addresses(wanted: &Wanted<'_>, answers: &Answers, verdict: &mut Verdict) {
    let name = || base(wanted.name).to_owned();
    let published = answers.published.clone();
    let found = match &answers.addresses {
        Found::Some(found) => found,
        Found::NoName => return verdict.holds.push(Hold::NoName { name: name(), published }),
        Found::Nothing => {
            return verdict.warnings.push(Warning::NoAddress {
                name: name(),
                method: wanted.method,
                published,
            });
        }
        Found::Failed(why) => {
            return verdict.warnings.push(Warning::Unknown { name: name(), why: why.clone() });
        }
    };
    let mut foreign: Vec<IpAddr> = found.iter().copied().filter(|ip| !published.contains(ip)).collect();
    foreign.sort();
    let all_foreign = foreign.len() == found.len();
    let private: Vec<IpAddr> = found.iter().copied().filter(|ip| is_private(*ip)).collect();
    if wanted.ca.public && private.len() == found.len() {
        verdict.warnings.push(Warning::Private { name: name(), private });
    }
    if published.is_empty() {
        return verdict.warnings.push(Warning::NothingPublished { name: name() });
    }
    if foreign.is_empty() {
        return;
    }
    verdict.warnings.push(if all_foreign {
        Warning::Elsewhere { name: name(), found: found.clone(), published }
    } else if foreign.iter().all(IpAddr::is_ipv6)
        && !found.iter().any(|ip| ip.is_ipv6() && published.contains(ip))
    {
        Warning::ForeignAaaa { name: name(), foreign }
    } else {
        Warning::PartlyElsewhere { name: name(), foreign }
    });
}

/// The suffix that nobody can own, and who says so.
fn reserved(name: &str) -> Option<(&'static str, &'static str)> {
    let below =
        |suffix: &str| name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    RESERVED.iter().copied().find(|(suffix, _)| below(suffix))
}

fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b); // RFC 6598: behind a carrier's NAT
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            v6.is_loopback() || v6.is_unspecified() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
        }
    }
}

fn base(name: &str) -> &str {
    name.strip_prefix("*.").unwrap_or(name)
}

impl Hold {
    /// A closed set, for metrics and Events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoName { .. } => "no_such_name",
            Self::Reserved { .. } => "reserved_suffix",
            Self::Forbidden(_) => "caa_forbids",
        }
    }
}

impl Method {
    /// As RFC 8555 8 and RFC 8737 3 register it; CAA names it so, too (RFC 8657 4).
    pub fn word(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let shown = addresses.iter().take(SHOWN).map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    if addresses.len() > SHOWN { format!("{shown} and {} more", addresses.len() - SHOWN) } else { shown }
}

fn at(published: &[IpAddr]) -> String {
    if published.is_empty() { String::new() } else { format!(" for {}", list(published)) }
}

/// No public CA certifies names below these.
const RESERVED: &[(&str, &str)] = &[
    ("example.com", "RFC 2606"),
    ("example.net", "RFC 2606"),
    ("example.org", "RFC 2606"),
    ("example", "RFC 2606"),
    ("test", "RFC 6761"),
    ("localhost", "RFC 6761"),
    ("invalid", "RFC 6761"),
    ("local", "RFC 6762"),
    ("onion", "RFC 7686"),
    ("home.arpa", "RFC 8375"),
    ("alt", "RFC 9476"),
    ("internal", "ICANN resolution 2024.07.29.06"),
];
const LABELS: usize = 20; // of a name whose CAA is asked for: a question each, as far as CLIMB allows
/// All questions for CAA. A CA does the same, and gives up sooner.
const CLIMB: Duration = Duration::from_secs(20);
const BALANCERS: usize = 4; // names that a Service's status has; more are not compared
const SHOWN: usize = 8; // addresses in a message

#[cfg(test)]
mod tests;
