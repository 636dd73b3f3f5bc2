//! The controller, as an object's way to the data planes: `source` (a directory of manifests) -> `index` (parsed once, errors
//! kept beside it) -> `translate` (pure) -> `resources` and `subscriptions` (who gets what, when) -> `stream`. Back comes
//! `report` -> `edges`; `admin` shows both.

pub mod admin;
#[cfg(test)]
mod build;
pub mod edges;
pub mod index;
pub mod local;
mod metrics;
mod report;
mod resources;
pub mod source;
mod stream;
mod streams;
mod subscriptions;
mod translate;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use ipnet::IpNet;
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
    Target,
    place::Place,
    server::{self, Limits},
    svid::{Svid, SvidConfig},
    trust_file,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::spawn_blocking,
    time::sleep,
};
use tonic::transport::Server;
use tracing::{info, warn};

use crate::{
    admin::{Admin, Manifests},
    index::{Index, Mesh},
    metrics::Metrics,
    report::{Reports, Telemeter},
    resources::Snapshot,
    source::directory::{Directory, POLL},
    stream::Discovery,
    streams::Streams,
};

/// `signet run controller`.
///
/// Reads manifests, answers data planes over mutual TLS, and keeps what they report.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directory of Kubernetes manifests, followed
    #[arg(long, value_name = "DIR")]
    pub source_dir: PathBuf,
    /// Where data planes connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15010")]
    pub listen: SocketAddr,
    /// The CA
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15012")]
    pub ca: Place,
    /// Holds a join token for our own certificate
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// The CA writes it
    #[arg(long, value_name = "FILE")]
    pub trust_bundle: PathBuf,
    /// Unix socket for questions, made with mode 0600
    #[arg(long, value_name = "FILE")]
    pub admin_socket: PathBuf,
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

/// Runs the controller until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(args.log_format, &args.log).map_err(anyhow::Error::msg)?;
    if args.exit_with_parent {
        parent::exit_with_parent().context("watching for the supervisor's end")?;
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let drain = Drain::new();
    start(&args, &drain).await?;
    info!(listen = %args.listen, source = %args.source_dir.display(), "the controller answers");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let cut = drain.run(GRACE).await;
    info!(cut, "the controller has stopped");
    Ok(())
}

/// Wires a controller, and decides nothing. Its tasks live in `drain`.
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
        token_file: args.token_file.clone(),
        source: Some(args.listen.ip()).filter(|ip| !ip.is_unspecified()),
    };
    let svid = Svid::start(svid, Arc::clone(&provider), Arc::clone(&trust), drain, &mut registry);
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;

    let mesh = Mesh { ranges: args.mesh_range.clone(), ..Mesh::new(domain) };
    let (streams, reports) = (Arc::new(Streams::default()), Arc::new(Reports::default()));
    let (snapshots, manifests) =
        follow(args.source_dir.clone(), mesh, &trust, &reports, &metrics, drain).await?;

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
    let config = move || svid.current().map(|generation| Arc::clone(&generation.grpc.server));
    let incoming = server::incoming(listener, config, Limits::default(), drain);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(STREAMS)
        .add_service(AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MAX_REQUEST))
        .add_service(TelemetryServer::new(telemeter).max_decoding_message_size(MAX_REQUEST));
    let stop = drain.clone();
    drain.spawn(async move {
        let stopping = async move { stop.stopping().await };
        if let Err(error) = Box::pin(serving.serve_with_incoming_shutdown(incoming, stopping)).await {
            tracing::error!(%error, "the controller's gRPC server ended; restart it");
        }
    });
    let admin = Admin { snapshots, manifests, streams, reports, metrics: registry.share() };
    let socket = &args.admin_socket;
    admin::serve(socket, admin, drain).with_context(|| format!("admin socket {}", socket.display()))
}

type Followed = (watch::Receiver<Arc<Snapshot>>, watch::Receiver<Arc<Manifests>>);

/// Reads the directory once, then follows it and the trust bundle until `drain` stops. The one writer of snapshots.
async fn follow(
    root: PathBuf,
    mesh: Mesh,
    trust: &Arc<Trust>,
    reports: &Arc<Reports>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
) -> anyhow::Result<Followed> {
    let mut directory = Directory::new(root);
    let (directory_read, first) = spawn_blocking(move || {
        directory.poll();
        let contents = directory.contents();
        (directory, contents)
    })
    .await?;
    let mut directory = directory_read;
    let (index, found) = build(&mesh, first, metrics);
    let snapshots = watch::Sender::new(Arc::new(Snapshot::new(Arc::new(index), trust.bundle())));
    let manifests = watch::Sender::new(Arc::new(found));
    let followed = (snapshots.subscribe(), manifests.subscribe());
    let (trust, reports, metrics, stop) =
        (Arc::clone(trust), Arc::clone(reports), Arc::clone(metrics), drain.clone());
    drain.spawn(async move {
        let mut changed = trust.watch();
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                _ = changed.changed() => {
                    let bundle = trust.bundle();
                    snapshots.send_modify(|snapshot| *snapshot = Arc::new(snapshot.with_bundle(bundle)));
                }
                () = sleep(POLL) => {
                    let read = spawn_blocking(move || {
                        let contents = directory.poll().then(|| directory.contents());
                        (directory, contents)
                    });
                    let Ok((read, contents)) = read.await else {
                        tracing::error!("reading the manifests panicked; the controller goes on with what it knows, restart it");
                        return;
                    };
                    directory = read;
                    if let Some(contents) = contents {
                        let (index, found) = build(&mesh, contents, &metrics);
                        reports.retain(|pod| pod.split_once('/').is_some_and(|(ns, pod)| index.pod(ns, pod).is_some()));
                        manifests.send_replace(Arc::new(found));
                        snapshots.send_replace(Arc::new(Snapshot::new(Arc::new(index), trust.bundle())));
                    }
                }
            }
        }
    });
    Ok(followed)
}

fn build(mesh: &Mesh, contents: source::directory::Contents, metrics: &Metrics) -> (Index, Manifests) {
    let index = Index::build(mesh, &contents.objects);
    let mut errors = contents.errors;
    errors.extend(index.errors.iter().cloned());
    errors.sort();
    for error in &errors {
        warn!("{error}");
    }
    metrics.manifest_errors.set(i64::try_from(errors.len()).unwrap_or(i64::MAX));
    metrics.objects.set(i64::try_from(index.objects).unwrap_or(i64::MAX));
    let found = Manifests { files: contents.files, objects: index.objects, errors };
    (index, found)
}

/// SIGTERM to cutting: streams are told to come back and end at once.
const GRACE: Duration = Duration::from_secs(3);
/// A data plane that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Of one connection: discovery and reports, and the ones before them that are not yet seen to be dead.
const STREAMS: u32 = 16;
/// A request of many names, or a full report.
const MAX_REQUEST: usize = 1 << 20;
