//! PEM of a Secret -> a certificate that may be served, or why not. Pure, and safe on hostile bytes: sizes are looked at before
//! anything is parsed.

use std::sync::Arc;

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use signet_edge_ca::Issued;
use signet_http::{contract::certificate::PrivateKey, model::HostPattern};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::source::tls_secret::TlsSecret;

/// A certificate with its key, which belong together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checked {
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKey,
    /// DNS names of the leaf: exact ones, and wildcards of one label.
    pub(crate) names: Vec<HostPattern>,
    /// The issuer's common name, else all of its name.
    pub(crate) issuer: String,
    /// Unix seconds, both inclusive.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// Why a Secret is not served.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is of type {0:?}; expected kubernetes.io/tls")]
    Type(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is longer than a certificate chain is ({1} bytes)")]
    Long(&'static str, usize),
    #[error("tls.crt holds no certificate in PEM, or more than {MAX_CHAIN}")]
    NoChain,
    #[error("the first certificate of tls.crt does not parse")]
    NoLeaf,
    #[error("the certificate names no DNS host (subjectAltName); browsers look at nothing else")]
    NoNames,
    #[error(
        "tls.key holds no private key in PEM that we can use; RSA from 2048 bits on, P-256, P-384, P-521 and Ed25519 are"
    )]
    NoKey,
    #[error("tls.key is not the key of the first certificate in tls.crt")]
    OtherKey,
}

/// Whether it may be served, but for the time: see [`Checked::is_valid`].
pub(crate) fn check(secret: &TlsSecret, provider: &CryptoProvider) -> Result<Arc<Checked>, Unusable> {
    if secret.r#type != "kubernetes.io/tls" {
        return Err(Unusable::Type(secret.r#type.chars().take(SHOWN).collect()));
    }
    for (field, bytes) in [("tls.crt", &secret.chain[..]), ("tls.key", &secret.key[..])] {
        match bytes.len() {
            0 => return Err(Unusable::Missing(field)),
            1..=MAX_PEM => {}
            long => return Err(Unusable::Long(field, long)),
        }
    }
    let chain = CertificateDer::pem_slice_iter(&secret.chain).take(MAX_CHAIN + 1);
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|_| Unusable::NoChain)?;
    if !(1..=MAX_CHAIN).contains(&chain.len()) {
        return Err(Unusable::NoChain);
    }
    let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|_| Unusable::NoLeaf)?;
    let names = names(&leaf);
    if names.is_empty() {
        return Err(Unusable::NoNames);
    }
    let common_name = leaf.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
    let issuer = common_name.map_or_else(|| leaf.issuer().to_string(), str::to_owned);
    let (not_before, not_after) =
        (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let mut read = PrivateKeyDer::from_pem_slice(&secret.key).map_err(|_| Unusable::NoKey)?;
    let key = pkcs8(&read, leaf.public_key().raw);
    read.zeroize();
    let key = key.ok_or(Unusable::NoKey)?;
    matches(provider, &chain, &key)?;
    let issuer = issuer.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ISSUER).collect();
    Ok(Arc::new(Checked { key: PrivateKey::new(key.to_vec()), names, issuer, not_before, not_after, chain }))
}

impl Checked {
    /// A leaf that the edge CA made for `host`.
    pub(crate) fn of_edge_ca(issued: Issued, host: &str) -> Self {
        Self {
            chain: vec![issued.certificate], // the root is where it is believed, and nowhere else
            key: PrivateKey::new(issued.key.to_vec()),
            names: HostPattern::ingress(Some(host)).into_iter().collect(),
            issuer: EDGE_CA.into(),
            not_before: issued.not_before,
            not_after: issued.not_after,
        }
    }

    /// `now`: Unix seconds.
    pub(crate) fn is_valid(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Whether a client that dials any host of `pattern` accepts it.
    pub(crate) fn covers(&self, pattern: &HostPattern) -> bool {
        covers(&self.names, pattern)
    }
}

pub(crate) fn covers(names: &[HostPattern], pattern: &HostPattern) -> bool {
    match pattern {
        HostPattern::Any => false,
        HostPattern::Exact(host) => names.iter().any(|name| name.matches(host.as_str())),
        HostPattern::Wildcard(..) => names.contains(pattern),
    }
}

/// Names that are none (an IP address in text, "*") are left out: no client dials them as hosts.
fn names(leaf: &X509Certificate<'_>) -> Vec<HostPattern> {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return Vec::new() };
    let dns = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => HostPattern::ingress(Some(name)).ok(),
        _ => None,
    });
    let mut names: Vec<HostPattern> = Vec::new();
    for name in dns.filter(|name| *name != HostPattern::Any).take(MAX_NAMES) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn matches(provider: &CryptoProvider, chain: &[CertificateDer<'static>], key: &[u8]) -> Result<(), Unusable> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let signing = provider.key_provider.load_private_key(der).map_err(|_| Unusable::NoKey)?;
    CertifiedKey::new(chain.to_vec(), signing).keys_match().map_err(|_| Unusable::OtherKey)
}

/// Whatever OpenSSL wrote ("BEGIN RSA PRIVATE KEY", "BEGIN EC PRIVATE KEY") as PKCS#8. The algorithm that the older forms leave
/// out stands in the certificate's public key, in the same bytes. Source: RFC 5208 5, RFC 5280 4.1.
fn pkcs8(key: &PrivateKeyDer<'_>, public_key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let older = match key {
        PrivateKeyDer::Pkcs8(key) => return Some(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        PrivateKeyDer::Sec1(key) => key.secret_sec1_der(),
        _ => return None,
    };
    let (_, inside) = element(public_key)?;
    let (algorithm, _) = element(inside)?;
    let mut body = Zeroizing::new(vec![INTEGER, 1, 0]);
    body.extend_from_slice(algorithm);
    head(OCTET_STRING, older.len(), &mut body);
    body.extend_from_slice(older);
    let mut whole = Zeroizing::new(Vec::with_capacity(body.len() + 8));
    head(SEQUENCE, body.len(), &mut whole);
    whole.extend_from_slice(&body);
    Some(whole)
}

/// The first DER element: all of it, and its contents.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, more) = (*der.get(1)?, usize::from(der.get(1)? & 0x7f));
    let (head, length) = match first {
        0..0x80 => (2, usize::from(first)),
        _ if more <= 3 => {
            let length = der.get(2..2 + more)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (2 + more, length)
        }
        _ => return None,
    };
    Some((der.get(..head + length)?, der.get(head..head + length)?))
}

fn head(tag: u8, length: usize, to: &mut Vec<u8>) {
    to.push(tag);
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    if length >= 0x80 {
        to.push(0x80 | u8::try_from(significant.len()).unwrap_or(u8::MAX));
    }
    to.extend_from_slice(significant);
}

/// How people are told of it, whichever it is.
const EDGE_CA: &str = "edge CA";
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// Bytes of a PEM field. A leaf of 1 000 names is 40 kB; junk of a whole Secret, 1 MiB, is not parsed (CVE-2024-12401).
const MAX_PEM: usize = 128 * 1024;
/// Certificates; the gateway takes no more.
const MAX_CHAIN: usize = 10;
const MAX_NAMES: usize = 1024;
/// Characters.
const MAX_ISSUER: usize = 120;
const SHOWN: usize = 60;

#[cfg(test)]
#[path = "certificate/tests.rs"]
mod tests;
