//! Questions to DNS, each with its four ends. hickory parses what strangers answer, follows at most 8 aliases for one question
//! and never takes more than a DNS message (64 KiB); here are the deadline and the number of records that anybody looks at.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use tokio::time::timeout;

use crate::preflight::Caa;

/// Who is asked about names. A clone shares the resolver.
#[derive(Clone)]
pub struct Lookups {
    resolver: TokioResolver,
}

/// How a question ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found<T> {
    /// At least one, at most [`RECORDS`].
    Some(Vec<T>),
    /// The name exists, and has no record of this type.
    Nothing,
    /// NXDOMAIN: no such name.
    NoName,
    /// Nobody could say: a timeout, SERVFAIL, REFUSED; in words.
    Failed(String),
}

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("no DNS resolver: {why}; name one, or mend /etc/resolv.conf")]
pub struct NoResolver {
    why: String,
}

impl Lookups {
    /// The machine's: /etc/resolv.conf.
    pub fn system() -> Result<Self, NoResolver> {
        let (config, mut options) = hickory_resolver::system_conf::read_system_conf().map_err(no_resolver)?;
        set(&mut options);
        Self::build(config, options)
    }

    /// These recursive servers, where the machine's see another world than the CA (split horizon).
    pub fn at(servers: &[SocketAddr]) -> Result<Self, NoResolver> {
        if servers.is_empty() {
            return Err(NoResolver { why: "no server is named".into() });
        }
        let mut options = ResolverOpts::default();
        set(&mut options);
        Self::build(config(servers), options)
    }

    /// One authoritative server, about its own zones only.
    pub(crate) fn authority(server: SocketAddr) -> Result<Self, NoResolver> {
        let mut options = ResolverOpts::default();
        set(&mut options);
        options.recursion_desired = false;
        options.attempts = 1; // whoever waits for it asks again anyway
        Self::build(config(&[server]), options)
    }

    fn build(config: ResolverConfig, options: ResolverOpts) -> Result<Self, NoResolver> {
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Ok(Self { resolver: builder.with_options(options).build().map_err(no_resolver)? })
    }

    /// A and AAAA; what one kind finds counts, even if the other fails.
    pub(crate) async fn addresses(&self, name: &str) -> Found<IpAddr> {
        let (v4, v6) = tokio::join!(self.ask(name, RecordType::A), self.ask(name, RecordType::AAAA));
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        match (v4.pick(address), v6.pick(address)) {
            (Found::Some(mut v4), v6) => {
                if let Found::Some(v6) = v6 {
                    v4.extend(v6);
                }
                Found::Some(v4)
            }
            (_, Found::Some(v6)) => Found::Some(v6),
            (Found::Failed(why), _) | (_, Found::Failed(why)) => Found::Failed(why),
            (Found::NoName, Found::NoName) => Found::NoName,
            // Servers that say NXDOMAIN for want of one kind are known; the name is there.
            (Found::Nothing | Found::NoName, Found::Nothing | Found::NoName) => Found::Nothing,
        }
    }

    /// CAA of exactly this name or of what it is an alias of (RFC 8659 3); who climbs is [`crate::preflight`].
    pub(crate) async fn caa(&self, name: &str) -> Found<Caa> {
        self.ask(name, RecordType::CAA).await.pick(|data| match data {
            RData::CAA(caa) => Some(Caa {
                critical: caa.issuer_critical,
                tag: caa.tag.to_ascii_lowercase(),
                value: String::from_utf8_lossy(&caa.value).into_owned(),
            }),
            _ => None,
        })
    }

    /// Values of TXT records, each joined from its pieces.
    pub(crate) async fn txt(&self, name: &str) -> Found<String> {
        self.ask(name, RecordType::TXT).await.pick(|data| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        })
    }

    /// What `name` is an alias of, one step.
    pub(crate) async fn alias(&self, name: &str) -> Found<String> {
        self.ask(name, RecordType::CNAME).await.pick(|data| match data {
            RData::CNAME(target) => Some(text(&target.0)),
            _ => None,
        })
    }

    /// The names of a zone's servers; `Nothing` where `name` is no zone.
    pub(crate) async fn name_servers(&self, name: &str) -> Found<String> {
        self.ask(name, RecordType::NS).await.pick(|data| match data {
            RData::NS(server) => Some(text(&server.0)),
            _ => None,
        })
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Found<RData> {
        let Ok(mut name) = Name::from_ascii(name) else { return Found::Failed("not a DNS name".into()) };
        name.set_fqdn(true); // no search domain is tried
        let answer = match timeout(DEADLINE, self.resolver.lookup(name.clone(), kind)).await {
            Ok(answer) => answer,
            Err(_) => return Found::Failed(format!("no answer in {} s", DEADLINE.as_secs())),
        };
        match answer {
            Ok(answer) => {
                // The servers and the alias of a name are its own; whatever else an alias leads to counts for the name.
                let own = kind == RecordType::NS || kind == RecordType::CNAME;
                let is_it = |record: &&Record| record.record_type() == kind && (!own || record.name == name);
                let records = answer.answers().iter().filter(is_it);
                some(records.map(|record| record.data.clone()).take(RECORDS).collect())
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NXDomain => Found::NoName,
                ResponseCode::NoError => Found::Nothing,
                other => Found::Failed(rcode_word(other)),
            },
            Err(NetError::Dns(DnsError::ResponseCode(other))) => Found::Failed(rcode_word(other)),
            Err(e) => Found::Failed(e.to_string()),
        }
    }
}

impl<T> Found<T> {
    fn pick<U>(self, pick: impl Fn(&T) -> Option<U>) -> Found<U> {
        match self {
            Self::Some(records) => some(records.iter().filter_map(pick).collect()),
            Self::Nothing => Found::Nothing,
            Self::NoName => Found::NoName,
            Self::Failed(why) => Found::Failed(why),
        }
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookups")
    }
}

fn some<T>(records: Vec<T>) -> Found<T> {
    if records.is_empty() { Found::Nothing } else { Found::Some(records) }
}

/// Lower case, without the final dot.
fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// As `dig` writes it (IANA's registry of RCODEs).
pub(crate) fn rcode_word(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::NotAuth => "NOTAUTH".into(),
        ResponseCode::NotZone => "NOTZONE".into(),
        other => other.to_string(),
    }
}

fn config(servers: &[SocketAddr]) -> ResolverConfig {
    let servers = servers.iter().map(|server| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    ResolverConfig::from_name_servers(servers.collect())
}

fn set(options: &mut ResolverOpts) {
    options.cache_size = 0; // somebody waits for a change: an old answer is a wrong one
    options.use_hosts_file = ResolveHosts::Never; // the CA does not read ours
    options.timeout = TRY;
    options.attempts = 2;
    options.edns0 = true;
}

fn no_resolver(e: NetError) -> NoResolver {
    NoResolver { why: e.to_string() }
}

/// One try of one server; a lost datagram is repeated within [`DEADLINE`].
const TRY: Duration = Duration::from_secs(3);
/// One question with all its tries and aliases.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many records of an answer are looked at: more than any honest name has, also where clients of years left their values.
pub(crate) const RECORDS: usize = 1000;
