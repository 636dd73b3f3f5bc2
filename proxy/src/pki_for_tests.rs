//! Certificates for unit tests: one root, a leaf for each side.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use signet_core::{
    bundle::TrustBundle,
    tls::{self, Generation},
    trust::Trust,
};
use spiffe::TrustDomain;

/// A client's (`ns/shop/sa/web`) and a server's (`ns/shop/sa/api`), which believe each other and nobody else.
pub(crate) fn generations() -> (Generation, Generation) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = root.self_signed(&key).unwrap();
    let trust = Trust::new(TrustDomain::new("cluster.local").unwrap());
    trust.offer(TrustBundle::new(1, vec![certificate.der().clone()], vec![]).unwrap());
    let issuer = Issuer::new(root, key);
    (leaf("web", &issuer, &trust), leaf("api", &issuer, &trust))
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
