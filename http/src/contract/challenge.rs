//! ACME challenges, as gateways answer them.

use std::{fmt, mem};

use rustls_pki_types::CertificateDer;
use signet_api::edge;

use super::{
    Fault, Wrong, at,
    certificate::{self, PrivateKey},
    hostname, needs, some, wrong,
};
use crate::model::{Hostname, Http01};

/// A challenge that edge wants answered.
#[derive(Clone, Eq, PartialEq)]
pub enum Challenge {
    Http01(Http01),
    TlsAlpn01(TlsAlpn01),
}

/// A certificate that answers with its acmeIdentifier, and its key. Whether they are a pair, and it is one of the kind for this
/// host, the gateway finds out ([`signet_core::acme_tls`]).
#[derive(Clone, Eq, PartialEq)]
pub struct TlsAlpn01 {
    pub host: Hostname,
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKey,
}

impl Challenge {
    pub fn host(&self) -> &Hostname {
        match self {
            Self::Http01(challenge) => challenge.host(),
            Self::TlsAlpn01(challenge) => &challenge.host,
        }
    }

    /// As ACME calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http01(_) => "http-01",
            Self::TlsAlpn01(_) => "tls-alpn-01",
        }
    }

    /// The resource's name. Of tokens a host has as many as it is asked for; of certificates one, because a handshake says
    /// nothing but the host.
    pub fn name(&self) -> String {
        match self {
            Self::Http01(challenge) => format!("{}/{}/{}", self.kind(), self.host(), challenge.token()),
            Self::TlsAlpn01(_) => format!("{}/{}", self.kind(), self.host()),
        }
    }
}

/// Its name: that says everything but the key.
impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Challenge({})", self.name())
    }
}

/// The message may hold a key in the clear: it is to be encoded, wiped and dropped.
pub fn encode(challenge: &Challenge) -> edge::Challenge {
    let kind = match challenge {
        Challenge::Http01(challenge) => edge::challenge::Kind::Http01(edge::Http01 {
            token: challenge.token().into(),
            key_authorization: challenge.key_authorization().into(),
        }),
        Challenge::TlsAlpn01(challenge) => edge::challenge::Kind::TlsAlpn01(edge::TlsAlpn01 {
            certificate: challenge.certificate.to_vec(),
            private_key: challenge.key.der().secret_pkcs8_der().to_vec(),
        }),
    };
    edge::Challenge { host: challenge.host().to_string(), kind: Some(kind), needs: Vec::new() }
}

pub fn decode(mut message: edge::Challenge) -> Result<Challenge, Fault> {
    let resource = message.host.clone();
    let key = match &mut message.kind {
        Some(edge::challenge::Kind::TlsAlpn01(challenge)) => mem::take(&mut challenge.private_key),
        _ => Vec::new(),
    };
    let key = PrivateKey::new(key); // whatever comes of it, it is wiped
    challenge(message, key).map_err(|wrong| wrong.of("challenge", &resource))
}

fn challenge(message: edge::Challenge, key: PrivateKey) -> Result<Challenge, Wrong> {
    needs(&message.needs)?;
    let host = hostname("host", &message.host)?;
    match some("kind", message.kind)? {
        edge::challenge::Kind::Http01(http) => Http01::new(host, &http.token, &http.key_authorization)
            .map(Challenge::Http01)
            .map_err(|bad| Wrong { field: format!("http01.{}", bad.field), why: bad.why.into() }),
        edge::challenge::Kind::TlsAlpn01(tls) => {
            let (certificate, key) = at("tls_alpn01", pair(tls.certificate, key))?;
            Ok(Challenge::TlsAlpn01(TlsAlpn01 { host, certificate, key }))
        }
    }
}

fn pair(certificate: Vec<u8>, key: PrivateKey) -> Result<(CertificateDer<'static>, PrivateKey), Wrong> {
    certificate::check_key(&key)?;
    match certificate.len() {
        1..=MAX_CERTIFICATE => Ok((certificate.into(), key)),
        length => {
            at("certificate", Err(wrong(format!("has {length} bytes; 1 to {MAX_CERTIFICATE} are taken"))))
        }
    }
}

/// Of one name and one extension; with an RSA key of 4096 bits it has 2 KiB.
const MAX_CERTIFICATE: usize = 8 * 1024;
