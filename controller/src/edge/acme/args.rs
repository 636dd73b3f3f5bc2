//! What edge is told about ACME at its start.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context as _;
use signet_acme::dns::Lookups;

use super::issuers::BuiltIn;

/// The built-in authority, for annotations that name no Issuer object. Without an e-mail address and a directory there is none: whoever gives
/// one of them agrees to the authority's terms.
#[derive(Clone, Debug, clap::Args)]
pub struct AcmeArgs {
    /// Order certificates of an ACME authority, with an account of this e-mail address
    #[arg(long, value_name = "ADDRESS")]
    pub acme_email: Option<String>,
    /// Directory of the authority [default: Let's Encrypt's, with --acme-email]
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,
    /// Staging directory beside --acme-directory: first orders are rehearsed there, and issuers that are named staging stay there
    /// [default: Let's Encrypt's beside its own]
    #[arg(long, value_name = "URL")]
    pub acme_staging: Option<String>,
    /// Profile to ask the authority for ("shortlived")
    #[arg(long, value_name = "NAME")]
    pub acme_profile: Option<String>,
    /// Roots in PEM that the authority's own server is believed by, instead of the web's: a private authority, which may certify any name
    /// [default: the PEM itself in SIGNET_ACME_ROOTS]
    #[arg(long, value_name = "FILE")]
    pub acme_roots: Option<PathBuf>,
    /// DNS server that is asked before an order, instead of the machine's. May be repeated
    #[arg(long, value_name = "IP:PORT")]
    pub acme_resolver: Vec<SocketAddr>,
    /// With --source-dir: where certificates, their keys and accounts are kept (0600)
    #[arg(long, value_name = "DIR", conflicts_with = "kubernetes")]
    pub acme_dir: Option<PathBuf>,
    /// With --source-dir: where the gateway listens, to be asked whether it answers challenges
    #[arg(long, value_name = "IP", conflicts_with = "kubernetes", default_value_t = Ipv4Addr::LOCALHOST.into())]
    pub acme_gateway: IpAddr,
}

impl AcmeArgs {
    pub(crate) fn built_in(&self) -> anyhow::Result<BuiltIn> {
        let of_file = self
            .acme_roots
            .as_ref()
            .map(|path| fs::read_to_string(path).with_context(|| format!("--acme-roots {}", path.display())));
        // Of an image without files.
        let of_environment = || std::env::var(ROOTS).ok().filter(|pem| !pem.trim().is_empty()).map(Ok);
        let roots = of_file.or_else(of_environment);
        BuiltIn::new(
            self.acme_email.as_deref(),
            self.acme_directory.as_deref(),
            self.acme_staging.as_deref(),
            self.acme_profile.as_deref(),
            roots.transpose()?,
        )
        .map_err(|why| anyhow::anyhow!("--acme-directory or --acme-staging: {why}"))
    }

    /// Who is asked about names. Errors, in words: nobody can be.
    pub(crate) fn lookups(&self) -> Result<Lookups, String> {
        let lookups = match self.acme_resolver.as_slice() {
            [] => Lookups::system(),
            servers => Lookups::at(servers),
        };
        lookups.map_err(|why| why.to_string())
    }
}

/// PEM, as `signet install` writes it into edge's Deployment.
const ROOTS: &str = "SIGNET_ACME_ROOTS";
