//! The certificates of the model, and which of them a handshake gets: by SNI an exact name, then a wildcard of one label, then
//! the default one; none is an alert, never a stranger's certificate. A swap touches no connection: each keeps what it began with.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use rustls::{
    CipherSuite, ServerConfig, SignatureAlgorithm, SignatureScheme, crypto::CryptoProvider,
    sign::CertifiedKey,
};
use signet_core::edge_tls;
use signet_http::{
    contract::certificate::Certificate,
    model::{HostPattern, Listener, Scheme},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// A certificate whose key is its own, and what pages say of it.
pub struct Certified {
    /// "<namespace>/<secret>"
    pub name: Arc<str>,
    pub listeners: Vec<Arc<str>>,
    /// For which names it is presented.
    pub names: Arc<[HostPattern]>,
    pub default: bool,
    pub facts: Facts,
    key: Arc<CertifiedKey>,
}

/// What the leaf says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// DNS names, as written there.
    pub names: Vec<String>,
    /// The issuer's common name, or its whole name.
    pub issuer: String,
    /// Unix seconds.
    pub not_before: i64,
    pub not_after: i64,
    /// "ECDSA", "RSA", "ED25519"
    pub key: &'static str,
}

impl Certified {
    /// Errors, in words: the chain is none, the key is of no kind that we know, or of another certificate.
    pub fn new(certificate: Certificate) -> Result<Self, String> {
        let leaf = certificate.chain.first().ok_or("the chain is empty")?;
        let facts = Facts::of(leaf)?;
        let key = edge_tls::certified(certificate.chain.clone(), certificate.key.der())
            .map_err(|error| format!("certificate and private key do not make a pair: {error}"))?;
        let kind = match key.key.algorithm() {
            SignatureAlgorithm::ECDSA => "ECDSA",
            SignatureAlgorithm::RSA => "RSA",
            SignatureAlgorithm::ED25519 => "ED25519",
            _ => return Err("its key is of a kind that no browser takes; use ECDSA P-256 or RSA 2048".into()),
        };
        Ok(Self {
            name: certificate.name,
            listeners: certificate.listeners,
            names: certificate.names.into(),
            default: certificate.default,
            facts: Facts { key: kind, ..facts },
            key,
        })
    }
}

/// Without key and chain.
impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified")
            .field("name", &self.name)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Facts {
    fn of(leaf: &[u8]) -> Result<Self, String> {
        let (rest, leaf) = X509Certificate::from_der(leaf)
            .map_err(|error| format!("its leaf is no certificate: {error}"))?;
        if !rest.is_empty() {
            return Err("its leaf has bytes behind it".into());
        }
        let sans = leaf.subject_alternative_name().map_err(|error| format!("its names: {error}"))?;
        let names = sans.iter().flat_map(|sans| &sans.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let issuer = leaf.issuer();
        let common = issuer.iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            names: names.collect(),
            issuer: common.map_or_else(|| issuer.to_string(), str::to_owned),
            not_before: leaf.validity().not_before.timestamp(),
            not_after: leaf.validity().not_after.timestamp(),
            key: "",
        })
    }
}

/// Which certificate each port presents for which name; replaced whole.
#[derive(Default)]
pub struct Certificates {
    ports: HashMap<u16, Port>,
}

#[derive(Default)]
struct Port {
    exact: HashMap<String, Vec<Arc<Presented>>>,
    /// By what follows "*.".
    wildcard: HashMap<String, Vec<Arc<Presented>>>,
    default: Vec<Arc<Presented>>,
}

/// A certificate at one port: sessions that are begun with it are resumed here alone.
pub struct Presented {
    pub certified: Arc<Certified>,
    pub config: Arc<ServerConfig>,
}

/// What a client can use.
pub struct Offer<'a> {
    pub schemes: &'a [SignatureScheme],
    pub suites: &'a [CipherSuite],
}

impl Certificates {
    /// The certificates on the ports of their HTTPS listeners. What was presented before and has not changed keeps its sessions.
    pub fn new(
        listeners: &[Arc<Listener>],
        certificates: &[Arc<Certified>],
        before: &Self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let ports: HashMap<&str, u16> = listeners
            .iter()
            .filter(|listener| listener.scheme == Scheme::Https)
            .map(|listener| (&*listener.name, listener.port))
            .collect();
        let known: HashMap<(u16, *const Certified), &Arc<Presented>> = before
            .ports
            .iter()
            .flat_map(|(port, at)| at.all().map(move |p| ((*port, Arc::as_ptr(&p.certified)), p)))
            .collect();
        // By name, so that the answer does not depend on the order in which they came.
        let by_name: BTreeMap<&str, &Arc<Certified>> = certificates.iter().map(|c| (&*c.name, c)).collect();
        let mut new = Self::default();
        for certified in by_name.into_values() {
            let mut own: Vec<u16> =
                certified.listeners.iter().filter_map(|l| ports.get(&**l).copied()).collect();
            own.sort_unstable();
            own.dedup();
            for port in own {
                let presented = match known.get(&(port, Arc::as_ptr(certified))) {
                    Some(presented) => Arc::clone(presented),
                    None => {
                        let config = edge_tls::server(provider, Arc::clone(&certified.key), ALPN)?;
                        Arc::new(Presented { certified: Arc::clone(certified), config })
                    }
                };
                new.ports.entry(port).or_default().add(presented);
            }
        }
        Ok(new)
    }

    /// What a handshake at `port` gets. `sni` in lower case.
    pub fn choose(&self, port: u16, sni: Option<&str>, offer: &Offer<'_>) -> Option<&Arc<Presented>> {
        let at = self.ports.get(&port)?;
        // One that the client cannot verify is better than another name's: it says which handshake failed, and why.
        let fitting = |of_name: &'_ [Arc<Presented>]| -> Option<usize> {
            let fits = of_name.iter().position(|presented| offer.takes(&presented.certified.key));
            fits.or((!of_name.is_empty()).then_some(0))
        };
        let named = sni.and_then(|sni| at.of(sni)).unwrap_or(&at.default);
        fitting(named).and_then(|index| named.get(index))
    }

    /// Whether a request for `host` came on a connection for another certificate than the host has: its answer is 421, and the
    /// client connects anew. Hosts that have none are nobody's secret.
    pub fn is_misdirected(&self, port: u16, presented: &Certified, host: &str) -> bool {
        let Some(at) = self.ports.get(&port) else { return false };
        !presented.names.iter().any(|name| name.matches(host)) && at.of(host).is_some()
    }
}

impl Port {
    fn add(&mut self, presented: Arc<Presented>) {
        let certified = &presented.certified;
        for name in certified.names.iter() {
            let of_name = match name {
                HostPattern::Exact(name) => self.exact.entry(name.to_string()).or_default(),
                HostPattern::Wildcard(suffix, _) => self.wildcard.entry(suffix.to_string()).or_default(),
                HostPattern::Any => continue, // the contract has none
            };
            put(of_name, &presented);
        }
        if certified.default {
            put(&mut self.default, &presented);
        }
    }

    fn of(&self, host: &str) -> Option<&Vec<Arc<Presented>>> {
        self.exact.get(host).or_else(|| self.wildcard.get(host.split_once('.')?.1))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Presented>> {
        self.exact.values().chain(self.wildcard.values()).flatten().chain(&self.default)
    }
}

/// ECDSA first, which is quicker; otherwise the first by name. A client that cannot verify ECDSA gets RSA, where there is both.
fn put(of_name: &mut Vec<Arc<Presented>>, presented: &Arc<Presented>) {
    let is_ecdsa = |p: &Arc<Presented>| p.certified.facts.key == "ECDSA";
    let at = match is_ecdsa(presented) {
        true => of_name.iter().position(|other| !is_ecdsa(other)).unwrap_or(of_name.len()),
        false => of_name.len(),
    };
    of_name.insert(at, Arc::clone(presented));
}

impl Offer<'_> {
    fn takes(&self, certified: &CertifiedKey) -> bool {
        let algorithm = certified.key.algorithm();
        certified.key.choose_scheme(self.schemes).is_some()
            && self.suites.iter().any(|suite| match suite.as_str().unwrap_or_default() {
                suite if suite.starts_with("TLS13_") => true,
                suite if suite.starts_with("TLS_ECDHE_ECDSA_") => algorithm != SignatureAlgorithm::RSA,
                suite if suite.starts_with("TLS_ECDHE_RSA_") => algorithm == SignatureAlgorithm::RSA,
                _ => false,
            })
    }
}

/// acme-tls/1 stands apart: its handshakes are no connections ([`crate::challenges`]).
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

#[cfg(test)]
mod tests;
