//! A mesh CA in the hands of the test: a root, an intermediate, and no rule about what it signs.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use signet_core::{bundle::TrustBundle, clock, identity::SpiffeId};

use crate::hostile::uri_san;

/// A root and one intermediate, as the real CA has them.
pub struct Authority {
    root: Issuer<'static, KeyPair>,
    intermediate: Issuer<'static, KeyPair>,
    root_der: CertificateDer<'static>,
    intermediate_der: CertificateDer<'static>,
    intermediate_key: KeyPair,
}

/// A chain (leaf first) and the leaf's key.
#[derive(Debug)]
pub struct Credential {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        let (root_params, root_key) = (ca_params(None), key());
        let root_der = root_params.self_signed(&root_key).expect("a root signs itself").der().clone();
        let root = Issuer::new(root_params, root_key);
        let (params, intermediate_key) = (ca_params(Some(0)), key());
        let intermediate_der = sign(&params, &intermediate_key, &root);
        let intermediate = Issuer::new(params, copy(&intermediate_key));
        Self { root, intermediate, root_der, intermediate_der, intermediate_key }
    }

    /// What a mesh that believes in this authority has in its trust file.
    pub fn bundle(&self, sequence: u64) -> TrustBundle {
        TrustBundle::new(sequence, vec![self.root_der.clone()], vec![]).expect("one root")
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root_der
    }

    pub fn intermediate(&self) -> &CertificateDer<'static> {
        &self.intermediate_der
    }

    /// The intermediate itself, presented as if it were a workload's.
    pub fn intermediate_as_leaf(&self) -> Credential {
        Credential { chain: vec![self.intermediate_der.clone()], key: private(&self.intermediate_key) }
    }

    /// A leaf as the real CA issues it, with a new key, valid for an hour.
    pub fn credential(&self, id: &SpiffeId) -> Credential {
        self.present(&leaf_params(&id.to_string(), LIFE), &key())
    }

    /// Signs `params` for `key` with the intermediate, whatever they say.
    pub fn present(&self, params: &CertificateParams, key: &KeyPair) -> Credential {
        Credential { chain: self.chain(params, key), key: private(key) }
    }

    /// Leaf and intermediate for a public key of someone else, e.g. out of a CSR.
    pub fn chain(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Vec<CertificateDer<'static>> {
        vec![sign(params, key, &self.intermediate), self.intermediate_der.clone()]
    }

    /// A real path of `length` certificates: each intermediate signs the next one.
    pub fn long_path(&self, params: &CertificateParams, key: &KeyPair, length: usize) -> Credential {
        let mut chain = Vec::new();
        let mut issuer: Option<Issuer<'static, KeyPair>> = None;
        for _ in 1..length {
            let (params, key) = (ca_params(None), self::key());
            chain.push(sign(&params, &key, issuer.as_ref().unwrap_or(&self.root)));
            issuer = Some(Issuer::new(params, key));
        }
        chain.push(sign(params, key, issuer.as_ref().unwrap_or(&self.root)));
        chain.reverse();
        Credential { chain, key: private(key) }
    }
}

/// The leaf profile of docs/design.md section 3, with any URI; valid from two minutes ago for `life` from now.
pub fn leaf_params(uri: &str, life: Duration) -> CertificateParams {
    let mut params = bare_leaf_params(life);
    params.custom_extensions.push(uri_san(&[uri.as_bytes()], true));
    params
}

/// The same without any SAN.
pub fn bare_leaf_params(life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = clock::now() - BACK_DATED;
    params.not_after = clock::now() + life;
    params.serial_number = Some(serial());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(path_length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Names must differ, or a verifier takes one CA for another.
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("test CA {:016x}", fastrand::u64(..)));
    params.not_before = clock::now() - BACK_DATED;
    params.not_after = clock::now() + LIFE * 24;
    params.serial_number = Some(serial());
    params.is_ca =
        IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A new P-256 key.
pub fn key() -> KeyPair {
    KeyPair::generate().expect("the provider makes P-256 keys")
}

pub fn sign(
    params: &CertificateParams,
    key: &impl PublicKeyData,
    issuer: &Issuer<'static, KeyPair>,
) -> CertificateDer<'static> {
    params.signed_by(key, issuer).expect("test parameters can be signed").der().clone()
}

pub fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen writes PKCS#8")
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::try_from(key.serialize_der()).expect("rcgen reads what it wrote")
}

fn serial() -> SerialNumber {
    SerialNumber::from_slice(&fastrand::u128(1..u128::MAX / 2).to_be_bytes()) // a test's serials need no secrecy
}

/// As the real CA does, for clocks that are behind.
const BACK_DATED: Duration = Duration::from_secs(120);
/// Longer than any test.
const LIFE: Duration = Duration::from_secs(3600);
