//! Certificates of the public kind, in the hands of a test.

use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::pki_types::CertificateDer;
use signet_http::{
    contract::{
        certificate::{Certificate, PrivateKey},
        challenge::TlsAlpn01,
    },
    model::HostPattern,
};

pub(crate) fn certificate(name: &str, listeners: &[&str], hosts: &[&str]) -> Certificate {
    signed(name, listeners, hosts, &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
}

/// rcgen's aws-lc makes RSA keys, too.
pub(crate) fn rsa_certificate(name: &str, listeners: &[&str], hosts: &[&str]) -> Certificate {
    signed(name, listeners, hosts, &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap())
}

fn signed(name: &str, listeners: &[&str], hosts: &[&str], key: &KeyPair) -> Certificate {
    let sans = hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let leaf: CertificateDer<'static> =
        CertificateParams::new(sans).unwrap().self_signed(key).unwrap().der().clone();
    Certificate {
        name: name.into(),
        listeners: listeners.iter().map(|l| (*l).into()).collect(),
        names: hosts.iter().map(|host| HostPattern::ingress(Some(host)).unwrap()).collect(),
        chain: vec![leaf],
        key: PrivateKey::new(key.serialize_der()),
        default: false,
    }
}

/// A good answer for `host`, with a key of its own.
pub(crate) fn proof(host: &str) -> TlsAlpn01 {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
    TlsAlpn01 {
        host: host.parse().unwrap(),
        certificate: params.self_signed(&key).unwrap().der().clone(),
        key: PrivateKey::new(key.serialize_der()),
    }
}
