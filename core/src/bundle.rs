//! The trust bundle: the roots that a mesh believes, and their order in time.
//!
//! As a file it is PEM with one line of explanatory text (RFC 7468 5.2) in front:
//! `# signet trust bundle, sequence 3, distrusted 0123456789abcdef`. Other tools read the certificates and skip the line.

use std::{fmt::Write as _, path::Path, sync::Arc};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::*;

use crate::svid::hex;

/// One to [`MAX_ROOTS`] roots. Two while a root is rotated.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustBundle {
    /// Grows with every change; whoever holds a larger one ignores this one.
    pub sequence: u64,
    pub roots: Vec<CertificateDer<'static>>,
    /// Ids of roots that were distrusted. A root on this list is never believed, wherever it comes from.
    pub distrusted: Vec<Arc<str>>,
}

impl TrustBundle {
    /// Reads a bundle file; any fault refuses the whole file.
    pub fn read(path: &Path) -> Result<Self, BadBundle> {
        let file = || path.display().to_string();
        let text = std::fs::read(path).map_err(|source| BadBundle::Unreadable { file: file(), source })?;
        Self::from_pem(&text).map_err(|why| BadBundle::Broken { file: file(), why })
    }

    /// Parses PEM as [`TrustBundle::to_pem`] writes it, and PEM of other makers (their sequence is 0).
    ///
    /// Shape: 1 to 16 `CERTIFICATE` blocks and no other, each a CA certificate; at most 128 KiB.
    /// Errors: the first fault, in words. A block that is cut off, of another kind or not a CA refuses all of it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        if pem.len() > MAX_BYTES {
            return Err(format!("{} bytes long; at most {MAX_BYTES} are read", pem.len()));
        }
        let (sequence, distrusted) = parse_header(pem)?;
        let mut roots = Vec::new();
        for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = block.map_err(|e| format!("not whole PEM: {e:?}"))?;
            if kind != SectionKind::Certificate {
                return Err(format!("holds a {kind:?} block where only certificates belong"));
            }
            roots.push(CertificateDer::from(der));
        }
        Self::new(sequence, roots, distrusted)
    }

    /// A checked bundle; doubles are dropped.
    pub fn new(
        sequence: u64,
        roots: Vec<CertificateDer<'static>>,
        distrusted: Vec<Arc<str>>,
    ) -> Result<Self, String> {
        let mut unique: Vec<CertificateDer<'static>> = Vec::new();
        for root in roots {
            check_root(&root)?;
            if !unique.contains(&root) {
                unique.push(root);
            }
        }
        match unique.len() {
            0 => Err("holds no certificate".into()),
            n if n > MAX_ROOTS => Err(format!("holds {n} roots; at most {MAX_ROOTS} are believed")),
            _ => Ok(Self { sequence, roots: unique, distrusted }),
        }
    }

    pub fn to_pem(&self) -> String {
        let mut text = format!("{HEADER}{}", self.sequence);
        if !self.distrusted.is_empty() {
            let _ = write!(text, "{DISTRUSTED}{}", self.distrusted.join(" "));
        }
        text.push('\n');
        for root in &self.roots {
            text.push_str(&certificate_pem(root));
        }
        text
    }

    /// The roots that are believed: those in the bundle and not on its own list of distrusted ones.
    pub fn believed(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().filter(|root| !self.distrusted.contains(&root_id(root).into()))
    }
}

/// How a root is named in the CLI, in logs and in `distrusted`: the first 8 bytes of the SHA-256 of its DER, in hex.
pub fn root_id(der: &[u8]) -> String {
    hex(&Sha256::digest(der)[..8])
}

/// One certificate as PEM (RFC 7468: 64 characters a line).
pub fn certificate_pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        let _ = writeln!(text, "{}", BASE64_STANDARD.encode(line));
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn parse_header(pem: &[u8]) -> Result<(u64, Vec<Arc<str>>), String> {
    let first = pem.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some(rest) = std::str::from_utf8(first).ok().and_then(|line| line.strip_prefix(HEADER)) else {
        return Ok((0, Vec::new()));
    };
    let (sequence, distrusted) = rest.split_once(DISTRUSTED).unwrap_or((rest, ""));
    let sequence = sequence.trim().parse().map_err(|_| format!("sequence {sequence:?} is not a number"))?;
    Ok((sequence, distrusted.split_whitespace().map(Into::into).collect()))
}

fn check_root(der: &[u8]) -> Result<(), String> {
    let id = root_id(der);
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| format!("root {id} is not X.509"))?;
    let signs = cert.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if cert.is_ca() && signs { Ok(()) } else { Err(format!("certificate {id} is not a CA")) }
}

/// A trust file that cannot be believed. The holder refuses every peer until it is mended.
#[derive(Debug, thiserror::Error)]
pub enum BadBundle {
    #[error("trust bundle {file} cannot be read; every peer is refused until the CA writes it")]
    Unreadable { file: String, source: std::io::Error },
    #[error("trust bundle {file} {why}; every peer is refused until the CA writes it anew")]
    Broken { file: String, why: String },
}

/// Two are usual; a few generations of brought-along roots fit.
pub const MAX_ROOTS: usize = 16;
const MAX_BYTES: usize = 128 * 1024;
const HEADER: &str = "# signet trust bundle, sequence ";
const DISTRUSTED: &str = ", distrusted ";

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    fn root() -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_bundle_survives_its_own_pem() {
        let bundle = TrustBundle::new(7, vec![root(), root()], vec!["0123456789abcdef".into()]).unwrap();
        assert_eq!(TrustBundle::from_pem(bundle.to_pem().as_bytes()).unwrap(), bundle);
    }

    #[test]
    fn foreign_pem_is_sequence_zero() {
        let pem = certificate_pem(&root());
        assert_eq!(TrustBundle::from_pem(pem.as_bytes()).unwrap().sequence, 0);
    }

    #[test]
    fn every_way_to_break_a_bundle_refuses_it_whole() {
        let pem = TrustBundle::new(1, vec![root(), root()], vec![]).unwrap().to_pem();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&key).unwrap();
        for (case, text) in [
            ("empty", String::new()),
            ("only the header", pem.lines().next().unwrap().to_owned()),
            ("cut off", pem[..pem.len() - 40].to_owned()),
            ("a private key inside", format!("{pem}{}", key.serialize_pem())),
            ("a leaf", certificate_pem(leaf.der())),
            ("json", "{\"roots\": []}".to_owned()),
            ("garbage in PEM", certificate_pem(b"garbage")),
            ("bad sequence", pem.replacen("sequence 1", "sequence x", 1)),
            ("too long", format!("{pem}{}", "\n".repeat(MAX_BYTES))),
        ] {
            assert!(TrustBundle::from_pem(text.as_bytes()).is_err(), "{case}");
        }
    }

    #[test]
    fn a_distrusted_root_is_not_believed_even_when_it_is_listed() {
        let (bad, good) = (root(), root());
        let bundle =
            TrustBundle::new(1, vec![bad.clone(), good.clone()], vec![root_id(&bad).into()]).unwrap();
        assert_eq!(bundle.believed().collect::<Vec<_>>(), [&good]);
    }
}
