//! DNS-01: a TXT value is published beside others of its name, seen on every server of its zone, and taken away again.
//! [`credentials`] says who may (before anybody is asked), a [`Provider`] does it, and here is what all providers need: aliases of
//! the challenge's name, and the waiting. Each step may be repeated after a crash, and a repeated one changes nothing.

use std::{fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rustls::ClientConfig;
use tokio::time::{Instant, sleep, timeout};

use self::credentials::{Check, Credentials, is_name};
pub use self::{
    lookup::{Found, Lookups, NoResolver},
    rfc2136::Rfc2136Error,
    route53::Route53Error,
};

pub mod credentials;
mod https;
mod lookup;
mod rfc2136;
mod route53;
mod sigv4;

/// Whoever changes a zone. Both ways are idempotent and touch no other value of the name.
pub trait Provider: Send + Sync + fmt::Debug {
    /// Adds the value. Returns when the provider says that its servers have it: Route 53 all of them, RFC 2136 the primary.
    fn publish<'a>(&'a self, txt: &'a Txt) -> Pending<'a>;
    /// Removes exactly this value.
    fn remove<'a>(&'a self, txt: &'a Txt) -> Pending<'a>;
}

/// Bounded: a provider has deadlines of its own, in minutes.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Result<(), DnsError>> + Send + 'a>>;

/// One value of a TXT record set, at the name where it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Txt {
    name: String,
    value: String,
}

/// Publishes, waits and removes, by whichever credentials.
#[derive(Clone, Debug)]
pub struct Dns01 {
    lookups: Lookups,
    tls: Arc<ClientConfig>,
}

/// What one server of the zone said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sight {
    /// As `ns1.example.com (192.0.2.1:53)`.
    pub server: String,
    pub saw: Saw,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Saw {
    /// The value is among those of the name.
    Shown,
    /// It answered, without the value.
    Absent,
    /// It did not answer, in words.
    Silent(String),
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("{name:?} with value {value:?} is no TXT record of a challenge")]
    NotTxt { name: String, value: String },
    #[error(transparent)]
    Route53(Route53Error),
    #[error(transparent)]
    Rfc2136(Rfc2136Error),
    #[error("whether {name} is an alias cannot be seen: {why}; the CA would ask, too, so mend DNS")]
    Alias { name: String, why: String },
    #[error(
        "{name} is an alias (CNAME) of {target}, which is in no zone of Secret {secret}; add its zone to signet.dev/zones there, or remove the CNAME"
    )]
    Elsewhere { name: String, target: String, secret: String },
    #[error("{name} is an alias of an alias, more than {ALIASES} times")]
    AliasLoop { name: String },
    #[error(
        "the servers of the zone of {name} cannot be found ({why}); name them in check-servers of Secret {secret}"
    )]
    NoServers { name: String, why: String, secret: String },
    #[error("TXT {name} is not everywhere after {} s: {}", .after.as_secs(), sights(.seen))]
    NotShown { name: String, after: Duration, seen: Vec<Sight> },
    #[error("no server of the zone of {name} answers us ({}); let edge's pods reach their port 53, or name others, or none, in check-servers of Secret {secret}", sights(.seen))]
    NobodyAnswers { name: String, seen: Vec<Sight>, secret: String },
    #[error(transparent)]
    NoResolver(#[from] NoResolver),
}

impl Txt {
    /// `name` in lower case without its final dot; `value` of letters, digits, `-` and `_`, as RFC 8555 8.4 makes it.
    pub fn new(name: &str, value: &str) -> Result<Self, DnsError> {
        let is_value = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let plain = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if is_name(&plain) && (1..=VALUE).contains(&value.len()) && value.bytes().all(is_value) {
            return Ok(Self { name: plain, value: value.to_owned() });
        }
        let shown = |text: &str| text.chars().take(SHOWN).collect();
        Err(DnsError::NotTxt { name: shown(name), value: shown(value) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn value(&self) -> &str {
        &self.value
    }
}

impl Dns01 {
    /// `lookups` find aliases and the zones' servers; `tls` says whom providers' HTTPS believes.
    pub fn new(lookups: Lookups, tls: Arc<ClientConfig>) -> Self {
        Self { lookups, tls }
    }

    /// Publishes `value` at `name`, or at what `name` is an alias of within the same credentials: the record that was written.
    pub async fn publish(&self, by: &Credentials, name: &str, value: &str) -> Result<Txt, DnsError> {
        let txt = self.place(by, Txt::new(name, value)?).await?;
        by.provider(&self.tls).publish(&txt).await?;
        Ok(txt)
    }

    /// Waits, at most `patience`, until every server of the zone shows it, and says what each said last. A server that never answers
    /// does not hold the others back: once they all show it, it has [`SILENT`] to do so, too.
    pub async fn wait(
        &self,
        by: &Credentials,
        txt: &Txt,
        patience: Duration,
    ) -> Result<Vec<Sight>, DnsError> {
        let begun = Instant::now();
        let servers = self.servers(by, txt).await?;
        loop {
            let seen = join_all(servers.iter().map(|server| server.look(txt))).await;
            let count = |saw: fn(&Saw) -> bool| seen.iter().filter(|sight| saw(&sight.saw)).count();
            let (shown, absent) = (count(|saw| *saw == Saw::Shown), count(|saw| *saw == Saw::Absent));
            let is_late = begun.elapsed() + AGAIN > patience;
            let only_silence = absent == 0 && shown > 0;
            if shown == seen.len() || only_silence && (is_late || begun.elapsed() >= SILENT) {
                return Ok(seen);
            }
            if is_late {
                let name = txt.name.clone();
                return Err(if shown + absent == 0 {
                    DnsError::NobodyAnswers { name, seen, secret: by.secret().to_owned() }
                } else {
                    DnsError::NotShown { name, after: begun.elapsed(), seen }
                });
            }
            sleep(AGAIN).await;
        }
    }

    /// One look at every server, for who asks why a certificate is missing.
    pub async fn look(&self, by: &Credentials, txt: &Txt) -> Result<Vec<Sight>, DnsError> {
        let servers = self.servers(by, txt).await?;
        Ok(join_all(servers.iter().map(|server| server.look(txt))).await)
    }

    /// Takes exactly this value away, where [`Dns01::publish`] put it.
    pub async fn remove(&self, by: &Credentials, name: &str, value: &str) -> Result<(), DnsError> {
        let txt = self.place(by, Txt::new(name, value)?).await?;
        by.provider(&self.tls).remove(&txt).await
    }

    /// A CA follows aliases of `_acme-challenge` names, as any resolver does, so that a zone can hand its challenges to another. Here
    /// only to zones of the same Secret: no alias widens what a Secret allows. An alias that a wildcard makes is gone once the name
    /// has a record of its own, so it is one only where it leads to such a zone.
    async fn place(&self, by: &Credentials, txt: Txt) -> Result<Txt, DnsError> {
        let mut at = txt.name.clone();
        for _ in 0..=ALIASES {
            if let Some(target) = self.alias(&at).await? {
                at = target;
                continue;
            }
            if by.zone_of(&at).is_some() {
                return Ok(Txt { name: at, ..txt });
            }
            if by.zone_of(&txt.name).is_some() && self.is_alias_by_wildcard(&txt.name).await? {
                return Ok(txt);
            }
            return Err(DnsError::Elsewhere { name: txt.name, target: at, secret: by.secret().to_owned() });
        }
        Err(DnsError::AliasLoop { name: txt.name })
    }

    /// Whether a name beside it that nobody has is an alias of the same.
    async fn is_alias_by_wildcard(&self, name: &str) -> Result<bool, DnsError> {
        let Some((_, parent)) = name.split_once('.') else { return Ok(false) };
        let target = self.alias(name).await?;
        Ok(target.is_some() && target == self.alias(&format!("{NOBODY}.{parent}")).await?)
    }

    async fn alias(&self, name: &str) -> Result<Option<String>, DnsError> {
        match self.lookups.alias(name).await {
            Found::Some(targets) => Ok(targets.into_iter().next()),
            Found::Nothing | Found::NoName => Ok(None),
            Found::Failed(why) => Err(DnsError::Alias { name: name.to_owned(), why }),
        }
    }

    async fn servers(&self, by: &Credentials, txt: &Txt) -> Result<Vec<Server>, DnsError> {
        match by.check() {
            Check::Nobody => Ok(Vec::new()),
            Check::At(addresses) => {
                let server =
                    |at: &SocketAddr| Ok(Server { name: None, at: vec![(*at, Lookups::authority(*at)?)] });
                addresses.iter().map(server).collect()
            }
            Check::Zone => match timeout(FIND, self.servers_of_zone(by, txt)).await {
                Ok(found) => found,
                Err(_) => Err(DnsError::NoServers {
                    name: txt.name.clone(),
                    why: format!("not within {} s", FIND.as_secs()),
                    secret: by.secret().to_owned(),
                }),
            },
        }
    }

    /// Up from the name to the first that has NS records; their addresses.
    async fn servers_of_zone(&self, by: &Credentials, txt: &Txt) -> Result<Vec<Server>, DnsError> {
        let none =
            |why: String| DnsError::NoServers { name: txt.name.clone(), why, secret: by.secret().to_owned() };
        let mut candidate = txt.name.as_str();
        for _ in 0..LABELS {
            match self.lookups.name_servers(candidate).await {
                Found::Some(names) => {
                    let found = join_all(names.iter().take(SERVERS).map(|name| self.server(name))).await;
                    return found.into_iter().collect::<Result<_, _>>();
                }
                Found::Nothing | Found::NoName => {}
                Found::Failed(why) => return Err(none(format!("NS of {candidate}: {why}"))),
            }
            let Some((_, parent)) = candidate.split_once('.') else { break };
            candidate = parent;
        }
        Err(none("no name above it has NS records".into()))
    }

    async fn server(&self, name: &str) -> Result<Server, DnsError> {
        let mut addresses = match self.lookups.addresses(name).await {
            Found::Some(addresses) => addresses,
            Found::Nothing | Found::NoName | Found::Failed(_) => Vec::new(),
        };
        addresses.sort_by_key(std::net::IpAddr::is_ipv6); // many clusters have no way to IPv6
        let sockets = addresses.iter().take(ADDRESSES).map(|ip| SocketAddr::new(*ip, PORT));
        let at = sockets.map(|at| Ok((at, Lookups::authority(at)?))).collect::<Result<_, NoResolver>>()?;
        Ok(Server { name: Some(name.to_owned()), at })
    }
}

/// One server of a zone, by all its addresses.
struct Server {
    name: Option<String>,
    at: Vec<(SocketAddr, Lookups)>,
}

impl Server {
    async fn look(&self, txt: &Txt) -> Sight {
        let late = || Saw::Silent(format!("no answer in {} s", LOOK.as_secs()));
        let look = timeout(LOOK, self.ask(txt)).await;
        look.unwrap_or_else(|_| Sight { server: self.shown(self.at.first().map(|(at, _)| *at)), saw: late() })
    }

    /// The first of its addresses that answers speaks for it.
    async fn ask(&self, txt: &Txt) -> Sight {
        let mut silent =
            Sight { server: self.shown(None), saw: Saw::Silent("its name has no address".into()) };
        for (at, lookups) in &self.at {
            let server = self.shown(Some(*at));
            let saw = match lookups.txt(&txt.name).await {
                Found::Some(values) if values.contains(&txt.value) => Saw::Shown,
                Found::Some(_) | Found::Nothing | Found::NoName => Saw::Absent,
                Found::Failed(why) => {
                    silent = Sight { server, saw: Saw::Silent(why) };
                    continue;
                }
            };
            return Sight { server, saw };
        }
        silent
    }

    fn shown(&self, at: Option<SocketAddr>) -> String {
        match (&self.name, at) {
            (Some(name), Some(at)) => format!("{name} ({at})"),
            (Some(name), None) => name.clone(),
            (None, at) => at.map(|at| at.to_string()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.saw {
            Saw::Shown => write!(f, "{} shows it", self.server),
            Saw::Absent => write!(f, "{} does not show it", self.server),
            Saw::Silent(why) => write!(f, "{} does not answer ({why})", self.server),
        }
    }
}

fn sights(seen: &[Sight]) -> String {
    seen.iter().map(Sight::to_string).collect::<Vec<_>>().join(", ")
}

/// What [`Dns01::wait`] is given where nobody knows better: secondaries hear by NOTIFY within seconds, and else by the SOA's refresh,
/// which nobody waits for.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long one server that never answers is waited for, once all others show the value.
const SILENT: Duration = Duration::from_secs(15);
/// All addresses of one server, and all questions for a zone's servers.
const LOOK: Duration = Duration::from_secs(10);
const FIND: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(2); // between two looks, over no more than SERVERS servers
const PORT: u16 = 53;
const ALIASES: usize = 8; // as many as hickory follows, and more than any CA
const LABELS: usize = 10; // how far up a zone is looked for
const SERVERS: usize = 16; // the root has 13; nobody has more
const ADDRESSES: usize = 4; // of one server: two families, two networks
const NOBODY: &str = "_signet-nobody"; // a label that only a wildcard answers for
const VALUE: usize = 255; // bytes of one character-string (RFC 1035 3.3); a challenge has 43
const SHOWN: usize = 100; // characters

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_txt_of_a_challenge_is_a_name_and_base64url_and_nothing_else() {
        let txt = Txt::new("_acme-challenge.App.example.com.", "xK-3_9").unwrap();
        assert_eq!((txt.name(), txt.value()), ("_acme-challenge.app.example.com", "xK-3_9"));
        let long = "a".repeat(256);
        for (name, value) in [
            ("a b", "x"),
            ("", "x"),
            ("a..b", "x"),
            ("<a>.b", "x"),
            ("a.b", ""),
            ("a.b", "x\"y"),
            ("a.b", "x y"),
            ("a.b", &long),
            (&long, "x"),
        ] {
            assert!(Txt::new(name, value).is_err(), "{name} {value}");
        }
    }
}
