//! The controller, as an object's way to the data planes: `source` (a cluster, or a directory of manifests) -> `index` (parsed
//! once, errors kept beside it) -> `translate` (pure) -> `resources` and `subscriptions` (who gets what, when) -> `stream`. Back
//! comes `report` -> `edges`; `admin` shows both, with `explain`; `not_injected` tells who is missing.

mod admin;
pub mod answers;
#[cfg(test)]
mod build;
pub mod edge;
pub mod edges;
mod events;
mod explain;
mod follow;
pub mod index;
pub mod local;
mod metrics;
mod not_injected;
mod report;
mod resources;
pub mod source;
mod stream;
mod streams;
mod subscriptions;
mod translate;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use ipnet::IpNet;
use kube::Client;
use signet_api::{
    v1::telemetry_server::TelemetryServer,
    xds::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use signet_core::{
    drain::Drain,
    identity::{self, TrustDomain},
    parent,
    telemetry::{self, LogFormat},
    tls,
    trust::Trust,
};
use signet_link::{
    Target, listen,
    place::Place,
    server::{self, Limits},
    svid::{Svid, SvidConfig, Token},
    trust_file,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::transport::Server;
use tracing::info;

use crate::{
    admin::{Admin, Readiness},
    follow::{Builder, Followed},
    index::{Membership, Mesh},
    metrics::Metrics,
    report::{Reports, Telemeter},
    resources::{Serves, Snapshot},
    source::cluster::{Cluster, Watched},
    stream::Discovery,
    streams::Streams,
};

/// `signet run controller`.
///
/// Reads a cluster's objects or a directory of manifests, answers data planes over mutual TLS, and keeps what they report.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// Where data planes connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15010")]
    pub listen: SocketAddr,
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
    /// Pod and Service ranges of the mesh; an address in none of them is outside. May be repeated; none: no address is
    #[arg(long, value_name = "CIDR")]
    pub mesh_range: Vec<IpNet>,
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

/// Runs the controller until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(args.log_format, &args.log).map_err(anyhow::Error::msg)?;
    if args.exit_with_parent {
        parent::exit_with_parent().context("watching for the supervisor's end")?;
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let drain = Drain::new();
    let running = async {
        Box::pin(start(&args, &drain)).await?;
        info!(listen = %args.listen, "the controller answers");
        std::future::pending().await
    };
    let ended: anyhow::Result<()> = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        failed = running => failed,
    };
    let cut = drain.run(GRACE).await;
    info!(cut, "the controller has stopped");
    ended
}

/// Wires a controller, and decides nothing. Returns when it answers, which is when its source is known as a whole. Its tasks
/// live in `drain`.
async fn start(args: &Args, drain: &Drain) -> anyhow::Result<()> {
    let domain = TrustDomain::new(&args.trust_domain)
        .with_context(|| format!("--trust-domain {:?}", args.trust_domain))?;
    let mut registry = telemetry::Metrics::new();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let provider = tls::mesh_provider(tls::default_provider());
    let trust = Trust::new(domain.clone());
    trust_file::watch(args.trust_bundle.clone(), Arc::clone(&trust), drain);
    let svid = SvidConfig {
        id: identity::controller(&domain),
        ca: Target { address: args.ca.clone(), id: identity::ca(&domain) },
        token: match args.source.kubernetes {
            true => Token::Projected(args.token_file.clone()),
            false => Token::Once(args.token_file.clone()),
        },
        source: Some(args.listen.ip()).filter(|ip| !ip.is_unspecified()),
    };
    let svid = Svid::start(svid, Arc::clone(&provider), Arc::clone(&trust), drain, &mut registry);
    // Bound at once, so that a port that is taken is said at once; served when everything is known.
    let listener =
        listen::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;

    let registry = registry.share();
    let reports = Arc::new(Reports::default());
    let mesh = Mesh { ranges: args.mesh_range.clone(), ..Mesh::new(domain) };
    let builder = |membership| Builder {
        mesh: Mesh { membership, ..mesh.clone() },
        trust: Arc::clone(&trust),
        reports: Arc::clone(&reports),
        metrics: Arc::clone(&metrics),
    };
    let (followed, health) = match &args.source.source_dir {
        Some(root) => (follow::directory(root.clone(), builder(Membership::Labelled), drain).await?, None),
        None => {
            let client = Client::try_default().await.context(
                "no way to the API server: neither a service account is mounted here nor does KUBECONFIG name a cluster",
            )?;
            let cluster = Cluster::watch(&client, Watched::MESH, &metrics, drain);
            let (health, answers) = (cluster.health(), Arc::new(AtomicBool::new(false)));
            let readiness = Readiness {
                svid: svid.clone(),
                health: health.clone(),
                claims: None,
                answers: Arc::clone(&answers),
                drain: drain.clone(),
            };
            let pages = admin::serve_network(args.pages, readiness, Arc::clone(&registry), drain);
            pages.await.with_context(|| format!("listening on {}", args.pages))?;
            let followed = follow::cluster(cluster, builder(Membership::Injected), drain).await;
            answers.store(true, Ordering::Release);
            not_injected::start(client, followed.snapshots.clone(), Arc::clone(&metrics), drain);
            (followed, Some(health))
        }
    };
    let Followed { snapshots, manifests } = followed;
    let streams = Arc::new(Streams::new(Snapshot::TYPES));
    let discovery = Discovery {
        snapshots: snapshots.clone(),
        streams: Arc::clone(&streams),
        trust,
        algorithms: provider.signature_verification_algorithms,
        metrics: Arc::clone(&metrics),
        drain: drain.clone(),
    };
    let telemeter = Telemeter {
        reports: Arc::clone(&reports),
        snapshots: snapshots.clone(),
        metrics,
        drain: drain.clone(),
    };
    answer(listener, svid, discovery, Some(telemeter), drain);
    let admin = Admin { snapshots, manifests, health, streams, reports, metrics: registry };
    match &args.admin_socket {
        Some(socket) => admin::serve_socket(socket, admin::pages(admin), drain)
            .with_context(|| format!("admin socket {}", socket.display())),
        None => admin::serve_loopback(args.admin, admin::pages(admin), drain)
            .await
            .with_context(|| format!("listening on {}", args.admin)),
    }
}

/// Serves data planes: what they are told, and where there is a `telemeter`, what they report.
fn answer<S: Serves>(
    listener: TcpListener,
    svid: Svid,
    discovery: Discovery<S>,
    telemeter: Option<Telemeter>,
    drain: &Drain,
) {
    let config = move || svid.current().map(|generation| Arc::clone(&generation.grpc.server));
    let incoming = server::incoming(listener, config, Limits::default(), drain);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(STREAMS)
        .add_service(AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MAX_REQUEST))
        .add_optional_service(
            telemeter.map(|telemeter| TelemetryServer::new(telemeter).max_decoding_message_size(MAX_REQUEST)),
        );
    let stop = drain.clone();
    drain.spawn(async move {
        let stopping = async move { stop.stopping().await };
        if let Err(error) = Box::pin(serving.serve_with_incoming_shutdown(incoming, stopping)).await {
            tracing::error!(%error, "the gRPC server for data planes ended; restart us");
        }
    });
}

/// SIGTERM to cutting: streams are told to come back and end at once.
const GRACE: Duration = Duration::from_secs(3);
/// A data plane that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Of one connection: discovery and reports, and the ones before them that are not yet seen to be dead.
const STREAMS: u32 = 16;
/// A request of many names, or a full report.
const MAX_REQUEST: usize = 1 << 20;
