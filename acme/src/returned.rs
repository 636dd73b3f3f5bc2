//! What a CA returned, looked at before it is served: the key is ours, the names are those that were asked for and no others, it is
//! valid now, and it is as long as certificates are. Pure, and safe on a stranger's bytes: sizes are looked at before anything is parsed.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::names::NameSet;

/// A chain that may be served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Returned {
    /// PEM, leaf first, nothing else.
    pub chain: String,
    /// Unix seconds, both inclusive.
    pub not_before: i64,
    pub not_after: i64,
    /// See [`crate::record::Held::ari_id`].
    pub ari_id: Option<String>,
}

/// Why a chain is not served. The order has failed; what was held stays.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotOurs {
    #[error("the CA returned {0} bytes; a chain has at most {MAX_PEM}")]
    Long(usize),
    #[error("the CA returned no chain of 1 to {MAX_CHAIN} certificates in PEM")]
    Chain,
    #[error("certificate {0} of the CA's chain does not parse")]
    Parse(usize),
    #[error("the CA's certificate is for another key than the one that was asked for")]
    Key,
    #[error("the CA's certificate is for {got}; asked for: {want}")]
    Names { got: String, want: String },
    #[error("the CA's certificate is valid from {from} to {to} (Unix seconds), and it is {now}")]
    Validity { from: i64, to: i64, now: i64 },
    #[error("the first certificate of the CA's chain is a CA's own")]
    LeafIsCa,
    #[error("the CA's certificate is not for servers")]
    Usage,
    #[error("certificate {0} of the CA's chain is not issued by the one behind it")]
    Order(usize),
}

/// Looks at `pem`, which was asked for with `key` (PEM) for `names`.
pub fn check(pem: &str, key: &KeyPair, names: &NameSet, now: i64) -> Result<Returned, NotOurs> {
    if pem.len() > MAX_PEM {
        return Err(NotOurs::Long(pem.len()));
    }
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN + 1);
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|_| NotOurs::Chain)?;
    if !(1..=MAX_CHAIN).contains(&chain.len()) {
        return Err(NotOurs::Chain);
    }
    let mut parsed = Vec::with_capacity(chain.len());
    for (n, certificate) in chain.iter().enumerate() {
        let (rest, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| NotOurs::Parse(n + 1))?;
        if !rest.is_empty() {
            return Err(NotOurs::Parse(n + 1));
        }
        parsed.push(certificate);
    }
    let [leaf, ..] = &parsed[..] else { return Err(NotOurs::Chain) };
    if leaf.is_ca() {
        return Err(NotOurs::LeafIsCa);
    }
    if leaf.public_key().subject_public_key.data != key.der_bytes() {
        return Err(NotOurs::Key);
    }
    check_names(leaf, names)?;
    if leaf
        .extended_key_usage()
        .ok()
        .flatten()
        .is_some_and(|usage| !usage.value.server_auth && !usage.value.any)
    {
        return Err(NotOurs::Usage);
    }
    let validity = leaf.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if from > now + SKEW || to <= now {
        return Err(NotOurs::Validity { from, to, now });
    }
    if let Some(n) =
        parsed.windows(2).position(|pair| pair[0].issuer().as_raw() != pair[1].subject().as_raw())
    {
        return Err(NotOurs::Order(n + 1));
    }
    Ok(Returned { chain: text(&chain), not_before: from.min(now), not_after: to, ari_id: ari_id(leaf) })
}

/// Exactly the names that were asked for, and nothing else that the certificate would be good for.
fn check_names(leaf: &X509Certificate<'_>, names: &NameSet) -> Result<(), NotOurs> {
    let mut got = Vec::new();
    if let Ok(Some(extension)) = leaf.subject_alternative_name() {
        for name in &extension.value.general_names {
            got.push(match name {
                GeneralName::DNSName(name) => name.to_ascii_lowercase(),
                other => format!("{other:?}"),
            });
        }
    }
    got.sort();
    got.dedup();
    if got.iter().map(String::as_str).eq(names.iter()) {
        return Ok(());
    }
    let got = if got.is_empty() { "no name".to_owned() } else { got.join(", ") };
    Err(NotOurs::Names { got: crate::problem::bounded(&got), want: names.to_string() })
}

/// RFC 9773 4.1: key identifier of the issuer, a dot, the serial as its DER has it.
fn ari_id(leaf: &X509Certificate<'_>) -> Option<String> {
    let key = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(aki) => aki.key_identifier.as_ref(),
        _ => None,
    })?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let id = format!("{}.{}", encode(key.0), encode(leaf.raw_serial()));
    (id.len() <= MAX_ARI_ID).then_some(id)
}

/// Written anew: what stood around the certificates is not passed on.
fn text(chain: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in chain {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let base64 = base64::prelude::BASE64_STANDARD.encode(certificate);
        for line in base64.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

/// Longest chain of the web is five certificates of 2 KiB.
pub(crate) const MAX_PEM: usize = 128 << 10;
const MAX_CHAIN: usize = 10;
const MAX_ARI_ID: usize = 256; // two times 20 bytes in base64 are 55; it is stored, and becomes part of a URL
/// Seconds that our clock may be behind the CA's; who dials has a clock of its own.
const SKEW: i64 = 300;

#[cfg(test)]
mod tests;
