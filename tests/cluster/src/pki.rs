//! Every key and certificate of a cluster, made anew for each (EC P-256, as kubeadm's layout has them), and the kubeconfigs.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use serde_json::json;
use signet_core::files;
use time::{Duration, OffsetDateTime};

use crate::network;

/// The directory with all of it; `path("ca.crt")`.
pub(crate) struct Pki {
    directory: PathBuf,
}

/// Members of this group may do everything (RBAC's own exception).
const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const LIFE: Duration = Duration::days(30);

impl Pki {
    pub(crate) fn create(directory: PathBuf, nodes: u8) -> Result<Self> {
        files::create_private_dir(&directory).with_context(|| directory.display().to_string())?;
        let pki = Self { directory };
        let cluster = pki.authority("ca", "kubernetes")?;
        let front_proxy = pki.authority("front-proxy-ca", "front-proxy")?;
        let accounts = KeyPair::generate()?; // signs the tokens of ServiceAccounts
        pki.write("sa.key", &accounts.serialize_pem(), files::PRIVATE)?;
        pki.write("sa.pub", &accounts.public_key_pem(), files::PUBLIC)?;

        pki.server("apiserver", &cluster, "kube-apiserver", &[], &api_server_names())?;
        pki.client("apiserver-kubelet-client", &cluster, "kube-apiserver-kubelet-client", &[MASTERS])?;
        pki.client("front-proxy-client", &front_proxy, "front-proxy-client", &[])?;
        pki.client("admin", &cluster, "admin", &[MASTERS])?;
        pki.client("kube-controller-manager", &cluster, "system:kube-controller-manager", &[])?;
        pki.client("kube-scheduler", &cluster, "system:kube-scheduler", &[])?;
        pki.client("kube-proxy", &cluster, "system:kube-proxy", &[])?;
        for number in 1..=nodes {
            let node = network::node_name(number);
            let user = format!("system:node:{node}");
            let names = [
                San::Dns(node.clone()),
                San::Ip(network::node_v4(number).into()),
                San::Ip(network::node_v6(number).into()),
            ];
            pki.client(&format!("{node}-kubelet"), &cluster, &user, &[NODES])?;
            pki.server(&format!("{node}-kubelet-serving"), &cluster, &user, &[NODES], &names)?;
        }
        Ok(pki)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// A kubeconfig for the client certificate `name`, with everything in it.
    pub(crate) fn kubeconfig(&self, name: &str, server: &str) -> Result<String> {
        let read = |file: &str| -> Result<String> {
            let path = self.path(file);
            Ok(base64(&fs::read(&path).with_context(|| path.display().to_string())?))
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "signet", "cluster": {
                "server": server, "certificate-authority-data": read("ca.crt")?,
            }}],
            "users": [{"name": name, "user": {
                "client-certificate-data": read(&format!("{name}.crt"))?, "client-key-data": read(&format!("{name}.key"))?,
            }}],
            "contexts": [{"name": "signet", "context": {"cluster": "signet", "user": name}}],
            "current-context": "signet",
        });
        Ok(serde_json::to_string_pretty(&config)?)
    }

    fn authority(&self, file: &str, name: &str) -> Result<Issuer<'static, KeyPair>> {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        self.write(&format!("{file}.crt"), &params.self_signed(&key)?.pem(), files::PUBLIC)?;
        self.write(&format!("{file}.key"), &key.serialize_pem(), files::PRIVATE)?;
        Ok(Issuer::new(params, key))
    }

    fn client(&self, file: &str, issuer: &Issuer<'_, KeyPair>, user: &str, groups: &[&str]) -> Result<()> {
        let mut params = params(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf(file, issuer, params)
    }

    fn server(
        &self,
        file: &str,
        issuer: &Issuer<'_, KeyPair>,
        user: &str,
        groups: &[&str],
        names: &[San],
    ) -> Result<()> {
        let mut params = params(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = names.iter().map(San::encode).collect::<Result<_>>()?;
        self.leaf(file, issuer, params)
    }

    fn leaf(&self, file: &str, issuer: &Issuer<'_, KeyPair>, mut params: CertificateParams) -> Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        self.write(&format!("{file}.crt"), &params.signed_by(&key, issuer)?.pem(), files::PUBLIC)?;
        self.write(&format!("{file}.key"), &key.serialize_pem(), files::PRIVATE)
    }

    fn write(&self, file: &str, content: &str, mode: u32) -> Result<()> {
        write(&self.path(file), content, mode)
    }
}

pub(crate) fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    files::write_atomic(path, content.as_bytes(), mode).with_context(|| format!("write {}", path.display()))
}

/// Kubernetes reads a client's user from the common name and its groups from the organizations.
fn params(user: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    for group in groups {
        name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name = name;
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(5);
    params.not_after = params.not_before + LIFE;
    params
}

enum San {
    Dns(String),
    Ip(IpAddr),
}

impl San {
    fn encode(&self) -> Result<SanType> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

fn api_server_names() -> Vec<San> {
    let mut names: Vec<San> = network::API_SERVICE
        .into_iter()
        .chain([network::node_v4(1).into(), network::node_v6(1).into()])
        .map(San::Ip)
        .collect();
    names.push(San::Ip(Ipv4Addr::LOCALHOST.into())); // the harness forwards the machine's own loopback
    names.push(San::Dns("localhost".into()));
    let short = "kubernetes.default.svc";
    names.extend(["kubernetes", "kubernetes.default", short].map(|name| San::Dns(name.into())));
    names.push(San::Dns(format!("{short}.{}", network::DOMAIN)));
    names
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
