//! Certificates with their keys: what a gateway presents, and for which names.

use std::{fmt, mem, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use signet_api::edge;
use zeroize::Zeroizing;

use super::{Fault, Wrong, at, each, encode_host, host, name, needs, wrong};
use crate::model::{HostPattern, Labels};

/// A certificate that gateways present. Whether key and chain are a pair, and the names are the leaf's, the gateway finds out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// "<namespace>/<secret>" or "edge-ca/<host>". The first, alphabetically, of several that have a name is presented.
    pub name: Arc<str>,
    /// Names of listeners.
    pub listeners: Vec<Arc<str>>,
    /// The SNI for which it is presented: exact ones and wildcards of one label.
    pub names: Vec<HostPattern>,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
    /// Presented where no certificate has the name, or the client sends none.
    pub default: bool,
}

/// PKCS#8, DER. Shown to nobody; wiped when it is dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    pub fn new(pkcs8: Vec<u8>) -> Self {
        Self(Zeroizing::new(pkcs8))
    }

    /// For the TLS library, which keeps what it makes of it.
    pub fn der(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.0.as_slice())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The message holds the key in the clear: it is to be encoded, wiped and dropped.
pub fn encode(certificate: &Certificate) -> edge::Certificate {
    edge::Certificate {
        name: certificate.name.to_string(),
        listeners: certificate.listeners.iter().map(ToString::to_string).collect(),
        names: certificate.names.iter().map(encode_host).collect(),
        chain: certificate.chain.iter().map(|der| der.to_vec()).collect(),
        private_key: certificate.key.0.to_vec(),
        default_certificate: certificate.default,
        needs: Vec::new(),
    }
}

pub fn decode(mut message: edge::Certificate) -> Result<Certificate, Fault> {
    let resource = message.name.clone();
    let key = PrivateKey::new(mem::take(&mut message.private_key)); // whatever comes of it, it is wiped
    certificate(message, key).map_err(|wrong| wrong.of("certificate", &resource))
}

fn certificate(message: edge::Certificate, key: PrivateKey) -> Result<Certificate, Wrong> {
    needs(&message.needs)?;
    check_key(&key)?;
    if message.chain.is_empty() {
        return at("chain", Err(wrong("is empty")));
    }
    let der = |der: Vec<u8>| match der.len() {
        1..=MAX_CERTIFICATE => Ok(CertificateDer::from(der)),
        length => Err(wrong(format!("has {length} bytes; 1 to {MAX_CERTIFICATE} are taken"))),
    };
    let presented = |message: edge::Host| match host(message)? {
        name @ (HostPattern::Exact(_) | HostPattern::Wildcard(_, Labels::One)) => Ok(name),
        HostPattern::Any | HostPattern::Wildcard(_, Labels::Any) => {
            at("kind", Err(wrong("is not one of those that a certificate has")))
        }
    };
    Ok(Certificate {
        name: name("name", message.name)?,
        listeners: each("listeners", MAX_LISTENERS, message.listeners, |listener| name("", listener))?,
        names: each("names", MAX_NAMES, message.names, presented)?,
        chain: each("chain", MAX_CHAIN, message.chain, der)?,
        key,
        default: message.default_certificate,
    })
}

/// Whether there is one, and not too much of it.
pub(super) fn check_key(key: &PrivateKey) -> Result<(), Wrong> {
    match key.0.len() {
        1..=MAX_KEY => Ok(()),
        _ => at("private_key", Err(wrong(format!("is missing or has more than {MAX_KEY} bytes")))),
    }
}

/// RSA with 16384 bits is half of it.
const MAX_KEY: usize = 16 * 1024;
/// A leaf with a thousand names has 30 kB.
const MAX_CERTIFICATE: usize = 64 * 1024;
/// What clients verify; rustls ends at 6 intermediates.
const MAX_CHAIN: usize = 10;
/// Let's Encrypt signs 100.
const MAX_NAMES: usize = 1024;
const MAX_LISTENERS: usize = 1024;
