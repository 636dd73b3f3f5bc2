//! Who answers DNS-01: values in real DNS servers and in a stand-in of Route 53, and what is looked at before an order.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use signet_acme::dns::{
    Dns01, Lookups,
    credentials::{Credentials, Raw},
};

mod preflight;
mod rfc2136;
mod route53;
mod zone;

/// Credentials of `provider` for `zones`, for every namespace.
fn credentials(provider: &str, zones: &str, data: &[(&str, &str)]) -> Credentials {
    let data = data.iter().map(|(field, value)| (*field, value.as_bytes())).collect();
    let raw = Raw { secret: "signet-edge/dns", provider, zones: Some(zones), namespaces: Some("*"), data };
    Credentials::parse(&raw).unwrap()
}

/// Believes no HTTPS at all: what is asked here speaks plaintext on loopback.
fn dns01(lookups: Lookups) -> Dns01 {
    dns01_believing(lookups, RootCertStore::empty())
}

fn dns01_believing(lookups: Lookups, roots: RootCertStore) -> Dns01 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()]; // as a client of other services may have it
    Dns01::new(lookups, Arc::new(config))
}
