//! What the controller and edge have in common as processes: flags, and a life from the first certificate to the drain.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use kube::Client;
use rustls::crypto::CryptoProvider;
use signet_core::{
    drain::Drain,
    identity::{self, SpiffeId, TrustDomain},
    parent,
    signals::Signals,
    telemetry::{self, LogFormat, Metrics},
    tls,
    trust::Trust,
};
use signet_link::{
    Target, listen,
    place::Place,
    svid::{Svid, SvidConfig, Token},
    trust_file,
};
use tokio::net::TcpListener;
use tracing::info;

use crate::admin;

/// Flags of both.
#[derive(Clone, Debug, clap::Args)]
pub struct Process {
    #[command(flatten)]
    pub source: Source,
    /// The CA
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15012")]
    pub ca: Place,
    /// Holds a token for our own certificate
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// The CA writes it
    #[arg(long, value_name = "FILE")]
    pub trust_bundle: PathBuf,
    /// With --source-dir: Unix socket for questions, made with mode 0600
    #[arg(long, value_name = "FILE", required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    pub admin_socket: Option<PathBuf>,
    /// With --kubernetes: where /ready and /metrics are
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:15020")]
    pub pages: SocketAddr,
    /// With --kubernetes: where questions are taken, without any check of who asks; a port-forward leads there
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15021")]
    pub admin: SocketAddr,
    /// First part of every identity
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// text or json, to stderr
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// What to log ("info", "info,signet_controller=debug")
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Exit at once when stdin ends: for a supervisor that holds the other end of it
    #[arg(long)]
    pub exit_with_parent: bool,
}

/// Where objects come from: exactly one.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Source {
    /// Directory of Kubernetes manifests, followed
    #[arg(long, value_name = "DIR")]
    pub source_dir: Option<PathBuf>,
    /// The cluster that we run in; outside of one: that of KUBECONFIG
    #[arg(long)]
    pub kubernetes: bool,
}

/// Who we are in the mesh, and where data planes will find us.
pub(crate) struct Begun {
    pub(crate) domain: TrustDomain,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) svid: Svid,
    pub(crate) listener: TcpListener,
}

impl Process {
    /// Lives until SIGTERM or SIGINT. `start` returns when `who` answers at `listen`; its tasks live in the drain.
    pub(crate) async fn run(
        &self,
        who: &str,
        listen: SocketAddr,
        start: impl AsyncFnOnce(&Drain) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        telemetry::init(self.log_format, &self.log).map_err(anyhow::Error::msg)?;
        if self.exit_with_parent {
            parent::exit_with_parent().context("watching for the supervisor's end")?;
        }
        let mut signals = Signals::listen()?;
        let drain = Drain::new();
        let running = async {
            Box::pin(start(&drain)).await?;
            info!(%listen, "{who} answers");
            std::future::pending().await
        };
        let ended: anyhow::Result<()> = tokio::select! {
            () = signals.next() => Ok(()),
            failed = running => failed,
        };
        let cut = drain.run(GRACE).await;
        info!(cut, "{who} has stopped");
        ended
    }

    /// Asks for a certificate of the one whom `id` names, follows the trust bundle, and binds `listen`: at once, so that a port that
    /// is taken is said at once. It is served when everything is known.
    pub(crate) async fn begin(
        &self,
        id: fn(&TrustDomain) -> SpiffeId,
        listen: SocketAddr,
        registry: &mut Metrics,
        drain: &Drain,
    ) -> anyhow::Result<Begun> {
        let domain = TrustDomain::new(&self.trust_domain)
            .with_context(|| format!("--trust-domain {:?}", self.trust_domain))?;
        let provider = tls::mesh_provider(tls::default_provider());
        let trust = Trust::new(domain.clone());
        trust_file::watch(self.trust_bundle.clone(), Arc::clone(&trust), drain);
        let svid = SvidConfig {
            id: id(&domain),
            ca: Target { address: self.ca.clone(), id: identity::ca(&domain) },
            token: match self.source.kubernetes {
                true => Token::Projected(self.token_file.clone()),
                false => Token::Once(self.token_file.clone()),
            },
            source: Some(listen.ip()).filter(|ip| !ip.is_unspecified()),
        };
        let svid = Svid::start(svid, Arc::clone(&provider), Arc::clone(&trust), drain, registry);
        let listener = listen::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
        Ok(Begun { domain, provider, trust, svid, listener })
    }

    /// Takes questions: on the socket of directory mode, or on the pod's loopback.
    pub(crate) async fn take_questions(&self, routes: Router, drain: &Drain) -> anyhow::Result<()> {
        match &self.admin_socket {
            Some(socket) => admin::serve_socket(socket, routes, drain)
                .with_context(|| format!("admin socket {}", socket.display())),
            None => admin::serve_loopback(self.admin, routes, drain)
                .await
                .with_context(|| format!("listening on {}", self.admin)),
        }
    }
}

/// Our way to the API server.
pub(crate) async fn client() -> anyhow::Result<Client> {
    Client::try_default().await.context(
        "no way to the API server: neither a service account is mounted here nor does KUBECONFIG name a cluster",
    )
}

/// SIGTERM to cutting: streams are told to come back and end at once, and a Lease is given back.
const GRACE: Duration = Duration::from_secs(3);
