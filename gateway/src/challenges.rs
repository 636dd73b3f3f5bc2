//! TLS-ALPN-01 challenges, and which handshakes ask for one (RFC 8737): those that offer acme-tls/1 and nothing else. They get the
//! challenge's certificate for exactly the name they ask for, or an alert, never a host's own; and no request follows them. HTTP-01
//! is the engine's.

use std::{collections::HashMap, fmt, sync::Arc};

use rustls::{ServerConfig, crypto::CryptoProvider, sign::CertifiedKey};
use signet_core::acme_tls;
use signet_http::{contract::challenge::TlsAlpn01, model::Hostname};

/// A certificate that answers for its host, with the key that is its own.
pub struct Proof {
    pub host: Hostname,
    certified: Arc<CertifiedKey>,
}

impl Proof {
    /// Errors, in words: the certificate answers no challenge of this host, or the key is another's.
    pub fn new(challenge: TlsAlpn01) -> Result<Self, String> {
        let TlsAlpn01 { host, certificate, key } = challenge;
        let certified = acme_tls::certified(certificate, key.der(), host.as_str());
        certified.map(|certified| Self { host, certified }).map_err(|why| why.to_string())
    }
}

/// Without the key.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof({})", self.host)
    }
}

/// What such handshakes get, by name; replaced whole.
#[derive(Default)]
pub struct Challenges(HashMap<Hostname, Arc<ServerConfig>>);

impl Challenges {
    pub fn new(proofs: &[Arc<Proof>], provider: &Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let config = |proof: &Arc<Proof>| {
            let config = acme_tls::server(provider, Arc::clone(&proof.certified))?;
            Ok((proof.host.clone(), config))
        };
        proofs.iter().map(config).collect::<Result<_, _>>().map(Self)
    }

    /// `sni` in lower case.
    pub fn find(&self, sni: Option<&str>) -> Option<Arc<ServerConfig>> {
        self.0.get(sni?).cloned()
    }
}

/// Whether a ClientHello's ALPN is acme-tls/1 alone. Who offers more is no authority, and is never answered with it.
pub fn is_asked<'a>(mut alpn: impl Iterator<Item = &'a [u8]>) -> bool {
    alpn.next() == Some(acme_tls::ALPN) && alpn.next().is_none()
}

#[cfg(test)]
mod tests {
    use signet_core::{edge_tls, tls};

    use super::*;
    use crate::pki_for_tests::proof;

    #[test]
    fn a_challenge_is_found_by_its_exact_name_alone() {
        let proofs = ["a.example", "b.a.example"].map(|host| Arc::new(Proof::new(proof(host)).unwrap()));
        let provider = edge_tls::edge_provider(tls::default_provider());
        let challenges = Challenges::new(&proofs, &provider).unwrap();
        for (sni, want) in [
            (Some("a.example"), true),
            (Some("b.a.example"), true),
            (Some("c.a.example"), false),
            (Some("example"), false),
            (Some("a.example."), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(challenges.find(sni).is_some(), want, "{sni:?}");
        }
    }

    #[test]
    fn only_acme_tls_alone_asks_for_one() {
        let acme: &[u8] = b"acme-tls/1";
        for (alpn, want) in [
            (&[acme][..], true),
            (&[], false),
            (&[b"h2"], false),
            (&[acme, b"h2"], false),
            (&[b"h2", acme], false),
            (&[b"acme-tls/10"], false),
            (&[b"ACME-TLS/1"], false),
        ] {
            assert_eq!(is_asked(alpn.iter().copied()), want, "{alpn:?}");
        }
    }

    #[test]
    fn a_certificate_of_another_host_or_key_is_refused() {
        let good = proof("a.example");
        let other = TlsAlpn01 { host: "b.example".parse().unwrap(), ..good.clone() };
        assert!(Proof::new(other).unwrap_err().contains("not for this host alone"));
        let stolen = TlsAlpn01 { key: proof("a.example").key, ..good };
        assert!(Proof::new(stolen).unwrap_err().contains("do not make a pair"));
    }
}
