//! The flags of `signet run injector`, and the few that `signet inject` shares.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use signet_core::{
    identity::{SYSTEM_NAMESPACE, TrustDomain},
    pod::{CA_PORT, CONTROLLER_PORT, INJECTOR_PORT, Mesh, PAGES_PORT},
    telemetry::LogFormat,
};
use signet_link::place::Place;

use crate::Settings;

/// `signet run injector`.
///
/// The webhook that puts the proxy into pods. Needs no rights in the cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the API server asks: HTTPS, POST /inject
    #[arg(long, value_name = "IP:PORT", default_value_t = everywhere(INJECTOR_PORT))]
    pub listen: SocketAddr,
    /// Readiness and metrics, plain HTTP: GET /ready, /metrics
    #[arg(long, value_name = "IP:PORT", default_value_t = everywhere(PAGES_PORT))]
    pub pages: SocketAddr,
    /// The CA, for us and for the pods that we inject
    #[arg(long, value_name = "HOST:PORT", default_value_t = system("ca", CA_PORT))]
    pub ca: Place,
    /// Holds a token for our own certificate
    #[arg(long, value_name = "FILE", default_value = signet_core::pod::TOKEN_FILE)]
    pub token_file: PathBuf,
    /// The roots of the mesh
    #[arg(long, value_name = "FILE", default_value = signet_core::pod::TRUST_BUNDLE_FILE)]
    pub trust_bundle: PathBuf,
    #[command(flatten)]
    pub meshed: Meshed,
    /// text or json, to stderr
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// What to log ("info", "info,signet_injector=debug")
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// What every injected pod gets alike.
#[derive(Clone, Debug, clap::Args)]
pub struct Meshed {
    /// The image of the proxy
    #[arg(long, value_name = "IMAGE")]
    pub image: String,
    /// Pod and Service ranges of the cluster: inside them nothing unknown is reached in plaintext. Repeat it, or use commas
    #[arg(long, value_name = "CIDR", required = true, value_delimiter = ',')]
    pub mesh_range: Vec<IpNet>,
    /// First part of every identity
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// The controller, for the pods that we inject
    #[arg(long, value_name = "HOST:PORT", default_value_t = system("controller", CONTROLLER_PORT))]
    pub controller: Place,
}

impl Meshed {
    /// Checked: what is wrong here would be wrong in every pod.
    pub fn settings(&self, ca: &Place) -> anyhow::Result<Settings> {
        let image = self.image.as_str();
        if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
            bail!("--image {image:?} is no image, like registry.example.com/signet:0.1.0");
        }
        let domain = TrustDomain::new(&self.trust_domain)
            .with_context(|| format!("--trust-domain {:?}", self.trust_domain))?;
        let mesh = Mesh {
            trust_domain: domain.to_string(),
            ca: ca.to_string(),
            controller: self.controller.to_string(),
            mesh_ranges: self.mesh_range.iter().map(|range| range.trunc().to_string()).collect(),
        };
        Ok(Settings { image: image.to_owned(), mesh })
    }
}

/// Every address of both families.
fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}

/// A Service of ours, as pods find it.
pub(crate) fn system(service: &str, port: u16) -> Place {
    Place::Named { host: format!("{service}.{SYSTEM_NAMESPACE}.svc"), port }
}
