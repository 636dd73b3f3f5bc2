//! A CA that a team has its certificates from, and the Secrets that it puts them into.

use std::time::Duration;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use time::OffsetDateTime;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What browsers would have to believe in.
    pub(crate) root: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn create() -> Result<Self> {
        let mut params = params("a team's CA", Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), root })
    }

    /// A `kubernetes.io/tls` Secret, as YAML, with a certificate for `hosts`.
    pub(crate) fn secret(&self, name: &str, hosts: &[String]) -> Result<String> {
        let mut params = params(name, hosts.to_vec())?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": name },
            "stringData": { "tls.crt": certificate, "tls.key": key.serialize_pem() },
        });
        Ok(format!("---\n{secret}\n"))
    }
}

fn params(name: &str, hosts: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(60);
    params.not_after = params.not_before + Duration::from_secs(24 * 60 * 60);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
