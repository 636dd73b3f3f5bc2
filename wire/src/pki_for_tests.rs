//! Certificates for unit tests, here and in the proxy: one root, a leaf for each side.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_core::{
    bundle::TrustBundle,
    identity::TrustDomain,
    tls::{self, Generation},
    trust::Trust,
};

/// A client's (`ns/shop/sa/web`) and a server's (`ns/shop/sa/api`), which believe each other and nobody else.
pub(crate) fn generations() -> (Generation, Generation) {
    let (web, api, _) = trusting_generations();
    (web, api)
}

/// Those, and what both believe.
pub(crate) fn trusting_generations() -> (Generation, Generation, Arc<Trust>) {
    let (certificate, issuer) = root();
    let trust = Trust::new(TrustDomain::new("cluster.local").unwrap());
    trust.offer(TrustBundle::new(1, vec![certificate], vec![]).unwrap());
    (leaf("web", &issuer, &trust), leaf("api", &issuer, &trust), trust)
}

pub(crate) fn root() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = root.self_signed(&key).unwrap();
    (certificate.der().clone(), Issuer::new(root, key))
}

fn leaf(account: &str, issuer: &Issuer<'_, KeyPair>, trust: &Arc<Trust>) -> Generation {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = tls::mesh_provider(tls::default_provider());
    Generation::new(1, vec![certificate.der().clone()], private, &provider, trust).unwrap()
}
