//! A Secret that an Ingress may name, as far as we read it. Its key is wiped when it goes, and never shown: not by Debug, not by an
//! error. (What the API server's answer passed through on its way here, the HTTP client's buffers, is not ours to wipe.)

use std::fmt;

use k8s_openapi::api::core::v1::Secret;
use zeroize::{Zeroize as _, Zeroizing};

use crate::source;

/// PEM, not looked at yet ([`crate::edge`] checks it).
#[derive(Clone, PartialEq)]
pub struct TlsSecret {
    pub namespace: String,
    pub name: String,
    /// "kubernetes.io/tls", or something that we do not serve.
    pub r#type: String,
    /// `tls.crt`; empty: missing.
    pub chain: Vec<u8>,
    /// `tls.key`; empty: missing.
    pub key: Zeroizing<Vec<u8>>,
}

impl TlsSecret {
    /// Takes what it needs and wipes all the rest.
    pub(crate) fn new(mut secret: Secret) -> Self {
        let (namespace, name) = (source::namespace(&secret.metadata), source::name(&secret.metadata));
        let mut text = secret.string_data.take().unwrap_or_default();
        let mut data = secret.data.take().unwrap_or_default();
        // As the API server does: stringData wins.
        let mut take = |key: &str| match (text.remove(key), data.remove(key)) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(bytes)) => bytes.0,
            (None, None) => Vec::new(),
        };
        let (chain, key) = (take(CHAIN), Zeroizing::new(take(KEY)));
        text.values_mut().for_each(|value| value.zeroize());
        data.values_mut().for_each(|value| value.0.zeroize());
        Self { namespace, name, r#type: secret.type_.unwrap_or_else(|| "Opaque".into()), chain, key }
    }
}

impl fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsSecret({}/{})", self.namespace, self.name)
    }
}

const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_key_is_taken_from_either_field_and_never_shown() {
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop"}, "type": "kubernetes.io/tls",
            "data": {"tls.crt": "Q0hBSU4=", "tls.key": "T0xE"}, "stringData": {"tls.key": "HUSH"},
        }))
        .unwrap();
        let secret = TlsSecret::new(secret);
        assert_eq!((&secret.chain[..], &secret.key[..]), (&b"CHAIN"[..], &b"HUSH"[..]));
        assert_eq!(format!("{secret:?}"), "TlsSecret(shop/web)");
    }
}
