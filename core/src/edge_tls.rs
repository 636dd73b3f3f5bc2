//! TLS towards the world: what a gateway offers to browsers and other strangers, by Mozilla's intermediate profile (guidelines
//! v5.7). Nothing of it is ever used in the mesh.

use std::sync::Arc;

use rustls::{
    CipherSuite, Error, InconsistentKeys, NamedGroup, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use crate::tls::{narrowed, signing_key, tickets};

/// `base` narrowed to the profile, the post-quantum exchange first. The client's order of ciphers decides.
pub fn edge_provider(base: CryptoProvider) -> Arc<CryptoProvider> {
    narrowed(base, &SUITES, &GROUPS)
}

/// Chain (leaf first) and key as one. Errors: the key is of no kind that we know, or is not the leaf's. No copy of the key stays
/// but the crypto library's own, which wipes it.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'_>,
) -> Result<Arc<CertifiedKey>, Error> {
    let key = signing_key(&key.into())?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(error) => Err(error),
    }
}

/// A server that presents `certified`, whatever name it is asked for: who uses it has looked at the name. A session that was begun
/// with it is resumed by it alone: its tickets have keys of their own, made anew every 6 h.
pub fn server(
    provider: &Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {}); // tickets hold everything
    config.ticketer = tickets()?;
    config.max_early_data_size = 0; // what is sent early can be replayed
    Ok(Arc::new(config))
}

const SUITES: [CipherSuite; 9] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];
const GROUPS: [NamedGroup; 4] =
    [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::default_provider;

    #[test]
    fn the_edge_offers_mozillas_intermediate_profile_and_nothing_else() {
        let provider = edge_provider(default_provider());
        assert_eq!(provider.kx_groups.iter().map(|g| g.name()).collect::<Vec<_>>(), GROUPS);
        assert_eq!(provider.cipher_suites.iter().map(|s| s.suite()).collect::<Vec<_>>(), SUITES);
    }
}
