//! Dynamic updates (RFC 2136) signed by TSIG (RFC 8945), over TCP: find the zone -> sign -> update -> believe the answer.
//!
//! The exchange is our own, and hickory makes, signs and reads the messages: an answer that says that a key or clock is wrong is
//! unsigned, so hickory's client drops it, and with it the one word that an operator needs. An unsigned answer is believed when it
//! refuses, never when it agrees.

use std::{fmt, io, time::Duration};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode, update_message},
    rr::{
        Name, RData, Record, RecordSet, RecordType, TSigner,
        rdata::{
            TXT,
            tsig::{TsigAlgorithm, TsigError},
        },
    },
};
use signet_core::clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    DnsError, Pending, Provider, Txt,
    credentials::{Fault, Fields, holds, is_name},
    lookup::rcode_word,
};

/// What the Secret says.
#[derive(Clone)]
pub(crate) struct Settings {
    secret: String,
    server: Server,
    zone: Option<String>,
    key_name: String,
    algorithm: Algorithm,
    key: Zeroizing<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Rfc2136 {
    settings: Settings,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Server {
    host: String,
    port: u16,
}

/// Those of RFC 8945 6 that are recommended; their names there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

/// What the server did not do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Rfc2136Error {
    #[error("DNS server {server} cannot be reached over TCP; compare nameserver in Secret {secret}")]
    Unreached { server: String, secret: String, source: io::Error },
    #[error("DNS server {server} did not answer within {} s", .after.as_secs())]
    Late { server: String, after: Duration },
    #[error("what DNS server {server} answered is no DNS message: {why}")]
    Unreadable { server: String, why: String },
    #[error(
        "DNS server {server} does not take the TSIG key {key} with {algorithm} for TXT {name} (BADKEY); compare tsig-key-name and tsig-algorithm in Secret {secret} with its configuration, and on Knot its acl"
    )]
    BadKey { server: String, key: String, algorithm: &'static str, name: String, secret: String },
    #[error(
        "DNS server {server} has another secret for the TSIG key {key} (BADSIG); compare tsig-secret in Secret {secret} with its configuration"
    )]
    BadSignature { server: String, key: String, secret: String },
    #[error("our clock and that of DNS server {server} are {} apart (BADTIME), and a signature lives {FUDGE} s; set the clocks", seconds(.apart))]
    BadTime { server: String, apart: Option<u64> },
    #[error(
        "DNS server {server} is not the primary of {zone} (NOTAUTH); name the primary in nameserver of Secret {secret}, or the zone in zone"
    )]
    NotAuthoritative { server: String, zone: String, secret: String },
    #[error(
        "{name} is not in {zone} for DNS server {server} (NOTZONE); name the zone in zone of Secret {secret}"
    )]
    NotInZone { server: String, zone: String, name: String, secret: String },
    #[error(
        "DNS server {server} lets the key {key} not update TXT {name} (REFUSED); allow it there (BIND: update-policy, Knot: acl)"
    )]
    Refused { server: String, key: String, name: String },
    #[error("DNS server {server} answered {} to the update of {name} in {zone}; its log says why", rcode_word(*.rcode))]
    Answered { server: String, rcode: ResponseCode, name: String, zone: String },
    #[error("DNS server {server} knows no zone that holds {name}{}; compare nameserver, or name the zone in zone of Secret {secret}", said(.rcode))]
    NoZone { server: String, name: String, rcode: ResponseCode, secret: String },
    #[error(
        "the answer of DNS server {server} is not signed by the key {key}: somebody else may have sent it, so the update counts as not done ({why})"
    )]
    Unsigned { server: String, key: String, why: String },
    #[error("{name} cannot be put into an update: {why}")]
    Unwritable { name: String, why: String },
}

impl Settings {
    pub(crate) fn parse(secret: &str, fields: &mut Fields<'_>) -> Result<Self, Fault> {
        let field = |field, expected| Fault::Field { field, expected };
        let server = Server::parse(fields.required("nameserver")?).ok_or(field(
            "nameserver",
            "a DNS server as ns1.example.com, 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:53",
        ))?;
        let name = |text: &str| {
            let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
            is_name(&name).then_some(name)
        };
        let zone = match fields.text("zone")? {
            Some(zone) => Some(name(zone).ok_or(field("zone", "a domain name, as example.com"))?),
            None => None,
        };
        let key_name = name(fields.required("tsig-key-name")?);
        let key_name =
            key_name.ok_or(field("tsig-key-name", "the name of a key, as acme or acme.example.com"))?;
        let algorithm = Algorithm::parse(fields.text("tsig-algorithm")?.unwrap_or(Algorithm::Sha256.name()));
        let algorithm =
            algorithm.ok_or(field("tsig-algorithm", "hmac-sha256, hmac-sha384 or hmac-sha512"))?;
        let key = fields.secret_bytes("tsig-secret")?;
        Ok(Self { secret: secret.to_owned(), server, zone, key_name, algorithm, key })
    }
}

impl Rfc2136 {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Adding a value that is there, or removing one that is not, changes nothing (RFC 2136 3.4.2.2, 3.4.2.4).
    async fn update(&self, txt: &Txt, want: Want) -> Result<(), Rfc2136Error> {
        let zone = match &self.settings.zone {
            Some(zone) => zone.clone(),
            None => self.zone_of(txt.name()).await?,
        };
        if !holds(&zone, txt.name()) {
            return Err(self.not_in_zone(&zone, txt));
        }
        let unwritable = |why: &dyn fmt::Display| Rfc2136Error::Unwritable {
            name: txt.name().to_owned(),
            why: why.to_string(),
        };
        let origin = fqdn(&zone).map_err(|e| unwritable(&e))?;
        let name = fqdn(txt.name()).map_err(|e| unwritable(&e))?;
        let data = RData::TXT(TXT::new(vec![txt.value().to_owned()]));
        let records = RecordSet::from(Record::from_rdata(name, TTL, data));
        let mut message = match want {
            Want::There => update_message::append(records, origin, false, false),
            Want::Gone => update_message::delete_by_rdata(records, origin, false),
        };
        let signer = self.signer().map_err(|e| unwritable(&e))?;
        let now = u64::try_from(clock::unix_now()).unwrap_or_default(); // before 1970 every signature is wrong
        let verifier = message.finalize(&signer, now).map_err(|e| unwritable(&e))?;
        let bytes = message.to_vec().map_err(|e| unwritable(&e))?;

        let answer = self.exchange(&bytes).await?;
        let parsed = self.read(&answer, message.id)?;
        if parsed.response_code != ResponseCode::NoError {
            return Err(self.named(&parsed, &zone, txt, now));
        }
        let unsigned = |why: String| Rfc2136Error::Unsigned { server: self.server(), key: self.key(), why };
        let Some(mut verifier) = verifier else { return Err(unsigned("nothing was signed".into())) };
        verifier.verify(&answer).map(|_| ()).map_err(|e| unsigned(e.to_string()))
    }

    /// The zone that holds `name`, by the SOA that its own server answers with, or puts into the authority section. A name that is an
    /// alias yet, by a wildcard, leads into another zone: then its parent is asked for.
    async fn zone_of(&self, name: &str) -> Result<String, Rfc2136Error> {
        let mut candidate = name;
        for _ in 0..LABELS {
            let answer = self.soa(candidate).await?;
            let records = answer.answers.iter().chain(&answer.authorities);
            let mut zones = records
                .filter(|record| record.record_type() == RecordType::SOA)
                .map(|soa| soa.name.to_ascii().trim_end_matches('.').to_ascii_lowercase());
            if let Some(zone) = zones.find(|zone| !zone.is_empty() && holds(zone, name)) {
                return Ok(zone);
            }
            match (answer.response_code, candidate.split_once('.')) {
                (ResponseCode::NoError | ResponseCode::NXDomain, Some((_, parent))) => candidate = parent,
                (rcode, _) => return Err(self.no_zone(name, rcode)),
            }
        }
        Err(self.no_zone(name, ResponseCode::NoError))
    }

    async fn soa(&self, name: &str) -> Result<Message, Rfc2136Error> {
        let question = fqdn(name).map_err(|e| self.unreadable(&e))?;
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Query;
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(question, RecordType::SOA));
        let bytes = message.to_vec().map_err(|e| self.unreadable(&e))?;
        self.read(&self.exchange(&bytes).await?, message.id)
    }

    /// One message there, one back, on a connection of its own (RFC 1035 4.2.2).
    async fn exchange(&self, message: &[u8]) -> Result<Vec<u8>, Rfc2136Error> {
        let Server { host, port } = &self.settings.server;
        let talk = async {
            let length = u16::try_from(message.len()).map_err(io::Error::other)?;
            let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
            let framed = [&length.to_be_bytes()[..], message].concat();
            stream.write_all(&framed).await?;
            let length = stream.read_u16().await?;
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await?;
            io::Result::Ok(answer)
        };
        match timeout(ANSWER, talk).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(Rfc2136Error::Unreached {
                server: self.server(),
                secret: self.settings.secret.clone(),
                source,
            }),
            Err(_) => Err(Rfc2136Error::Late { server: self.server(), after: ANSWER }),
        }
    }

    fn read(&self, answer: &[u8], id: u16) -> Result<Message, Rfc2136Error> {
        let message = Message::from_vec(answer).map_err(|e| self.unreadable(&e))?;
        if message.id == id { Ok(message) } else { Err(self.unreadable(&"it answers another question")) }
    }

    /// The server's word to ours: TSIG's own error first, which hides behind NOTAUTH (RFC 8945 5.2).
    fn named(&self, answer: &Message, zone: &str, txt: &Txt, now: u64) -> Rfc2136Error {
        let (server, key, secret) = (self.server(), self.key(), self.settings.secret.clone());
        let (zone, name) = (zone.to_owned(), txt.name().to_owned());
        let tsig = answer.signature().map(|record| &record.data);
        match tsig.and_then(|tsig| tsig.error) {
            Some(TsigError::BadKey) => {
                let algorithm = self.settings.algorithm.name(); // Knot says so, too, where its acl forbids a known key
                return Rfc2136Error::BadKey { server, key, algorithm, name, secret };
            }
            Some(TsigError::BadSig | TsigError::BadTrunc) => {
                return Rfc2136Error::BadSignature { server, key, secret };
            }
            Some(TsigError::BadTime) => {
                let theirs = tsig.and_then(|tsig| server_time(&tsig.other));
                return Rfc2136Error::BadTime { server, apart: theirs.map(|theirs| theirs.abs_diff(now)) };
            }
            Some(TsigError::Unknown(_)) | None => {}
        }
        match answer.response_code {
            ResponseCode::NotAuth => Rfc2136Error::NotAuthoritative { server, zone, secret },
            ResponseCode::NotZone => Rfc2136Error::NotInZone { server, zone, name, secret },
            ResponseCode::Refused => Rfc2136Error::Refused { server, key, name },
            rcode => Rfc2136Error::Answered { server, rcode, name, zone },
        }
    }

    /// hickory's copy of the key is not wiped; it lives as long as one update.
    fn signer(&self) -> Result<TSigner, String> {
        let Settings { key, algorithm, key_name, .. } = &self.settings;
        let name = fqdn(key_name).map_err(|e| e.to_string())?;
        TSigner::new(key.to_vec(), algorithm.hickory(), name, FUDGE).map_err(|e| e.to_string())
    }

    fn no_zone(&self, name: &str, rcode: ResponseCode) -> Rfc2136Error {
        let (server, secret) = (self.server(), self.settings.secret.clone());
        Rfc2136Error::NoZone { server, name: name.to_owned(), rcode, secret }
    }

    fn not_in_zone(&self, zone: &str, txt: &Txt) -> Rfc2136Error {
        Rfc2136Error::NotInZone {
            server: self.server(),
            zone: zone.to_owned(),
            name: txt.name().to_owned(),
            secret: self.settings.secret.clone(),
        }
    }

    fn unreadable(&self, why: &dyn fmt::Display) -> Rfc2136Error {
        Rfc2136Error::Unreadable { server: self.server(), why: why.to_string() }
    }

    fn server(&self) -> String {
        self.settings.server.to_string()
    }

    fn key(&self) -> String {
        self.settings.key_name.clone()
    }
}

impl Provider for Rfc2136 {
    fn publish<'a>(&'a self, txt: &'a Txt) -> Pending<'a> {
        Box::pin(async move { self.update(txt, Want::There).await.map_err(DnsError::Rfc2136) })
    }

    fn remove<'a>(&'a self, txt: &'a Txt) -> Pending<'a> {
        Box::pin(async move { self.update(txt, Want::Gone).await.map_err(DnsError::Rfc2136) })
    }
}

#[derive(Clone, Copy)]
enum Want {
    There,
    Gone,
}

impl Server {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Some(Self { host: address.ip().to_string(), port: address.port() });
        }
        if let Ok(ip) = text.parse::<std::net::IpAddr>() {
            return Some(Self { host: ip.to_string(), port: PORT });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, PORT),
        };
        let host = host.to_ascii_lowercase();
        is_name(host.trim_end_matches('.')).then_some(Self { host, port })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Algorithm {
    /// Any case and a final dot, as configurations of servers write it.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        [Self::Sha256, Self::Sha384, Self::Sha512].into_iter().find(|algorithm| algorithm.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "hmac-sha256",
            Self::Sha384 => "hmac-sha384",
            Self::Sha512 => "hmac-sha512",
        }
    }

    fn hickory(self) -> TsigAlgorithm {
        match self {
            Self::Sha256 => TsigAlgorithm::HmacSha256,
            Self::Sha384 => TsigAlgorithm::HmacSha384,
            Self::Sha512 => TsigAlgorithm::HmacSha512,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, server, zone, key_name, algorithm, key: _ } = self;
        write!(f, "Rfc2136({secret}, {server}, {zone:?}, {key_name}, {})", algorithm.name())
    }
}

fn fqdn(name: &str) -> Result<Name, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

/// RFC 8945 5.2.3: the server's seconds since 1970, in 48 bits.
fn server_time(other: &[u8]) -> Option<u64> {
    let six: [u8; 6] = other.try_into().ok()?;
    Some(six.iter().fold(0, |time, byte| time << 8 | u64::from(*byte)))
}

fn seconds(apart: &Option<u64>) -> String {
    apart.map_or_else(|| "too far".into(), |apart| format!("{apart} s"))
}

fn said(rcode: &ResponseCode) -> String {
    match rcode {
        ResponseCode::NoError | ResponseCode::NXDomain => String::new(),
        other => format!(" (it answered {})", rcode_word(*other)),
    }
}

const PORT: u16 = 53;
const LABELS: usize = 10; // how far up a zone is looked for, a question each
/// Seconds that a resolver may keep a value: a challenge is there for a minute.
const TTL: u32 = 60;
/// Seconds between two clocks: what RFC 8945 10 recommends.
const FUDGE: u16 = 300;
/// One question, from the first packet to the last: a primary writes its journal first.
const ANSWER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
