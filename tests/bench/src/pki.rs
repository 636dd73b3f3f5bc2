//! Certificates of the peers, by the rules of Signet's own (docs/design.md section 3): P-256, root, intermediate, leaf with
//! a SPIFFE ID, the intermediate in the chain.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_core::clock;

/// One mesh of the peers, or the stranger's.
pub struct Pki {
    root_pem: String,
    intermediate_pem: String,
    intermediate: Issuer<'static, KeyPair>,
}

/// A leaf with its chain, and its key.
pub struct Credential {
    pub chain_pem: String,
    pub key: KeyPair,
    pub chain: Vec<CertificateDer<'static>>,
}

/// Where a peer reads them.
#[derive(Clone, Debug)]
pub struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
    pub root: PathBuf,
}

impl Pki {
    pub fn new() -> Result<Self> {
        let (root_params, root_key) = (authority("root"), KeyPair::generate()?);
        let root_pem = root_params.self_signed(&root_key)?.pem();
        let root = Issuer::new(root_params, root_key);
        let (params, key) = (authority("intermediate"), KeyPair::generate()?);
        let intermediate_pem = params.signed_by(&key, &root)?.pem();
        Ok(Self { root_pem, intermediate_pem, intermediate: Issuer::new(params, key) })
    }

    /// For `spiffe://cluster.local/ns/bench/sa/<account>`.
    pub fn credential(&self, account: &str) -> Result<Credential> {
        let mut params = params();
        let id = format!("{IDS}{account}");
        // The name is for nginx, which verifies no URI.
        params.subject_alt_names =
            vec![SanType::URI(id.try_into()?), SanType::DnsName(SERVER_NAME.to_owned().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// For a host of the web: a leaf that serves `name`.
    pub fn host(&self, name: &str) -> Result<Credential> {
        let mut params = params();
        params.subject_alt_names = vec![SanType::DnsName(name.to_owned().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// Writes one of [`Self::host`], and the root, into `directory`.
    pub fn write_host(&self, directory: &Path, name: &str) -> Result<Files> {
        self.write_files(directory, "web", &self.host(name)?)
    }

    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    fn sign(&self, params: &CertificateParams) -> Result<Credential> {
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.intermediate)?;
        let chain_pem = format!("{}{}", leaf.pem(), self.intermediate_pem);
        let chain = pem_chain(&chain_pem)?;
        Ok(Credential { chain_pem, key, chain })
    }

    /// Writes a credential of `account` and the root into `directory`.
    pub fn write(&self, directory: &Path, account: &str) -> Result<Files> {
        self.write_files(directory, account, &self.credential(account)?)
    }

    fn write_files(&self, directory: &Path, name: &str, credential: &Credential) -> Result<Files> {
        let path = |end: &str| directory.join(format!("{name}.{end}"));
        let files = Files { chain: path("crt"), key: path("key"), root: directory.join("root.crt") };
        fs::write(&files.chain, &credential.chain_pem)?;
        fs::write(&files.key, credential.key.serialize_pem())?;
        fs::write(&files.root, &self.root_pem)?;
        Ok(files)
    }
}

impl Credential {
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::try_from(self.key.serialize_der()).map_err(anyhow::Error::msg)
    }
}

fn pem_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    use rustls::pki_types::pem::PemObject as _;
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params();
    // Names must differ, or a verifier takes one CA for another.
    params.distinguished_name.push(DnType::CommonName, format!("bench {name} {:016x}", fastrand::u64(..)));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = clock::now() - BACK_DATED;
    params.not_after = clock::now() + LIFE;
    params.use_authority_key_identifier_extension = true;
    params
}

pub const SERVER_NAME: &str = "server.bench";
pub const IDS: &str = "spiffe://cluster.local/ns/bench/sa/";
/// As the CA does, for clocks that differ.
const BACK_DATED: Duration = Duration::from_secs(120);
const LIFE: Duration = Duration::from_secs(24 * 3600);
