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
mod process;
mod report;
mod resources;
pub mod source;
mod stream;
mod streams;
mod subscriptions;
mod translate;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use ipnet::IpNet;
use signet_api::{
    v1::telemetry_server::TelemetryServer,
    xds::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use signet_core::{drain::Drain, identity, telemetry};
use signet_link::{
    server::{self, Limits},
    svid::Svid,
};
use tokio::net::TcpListener;
use tonic::transport::Server;

pub use crate::process::{Process, Source};
use crate::{
    admin::{Admin, Readiness},
    follow::{Builder, Followed},
    index::{Membership, Mesh},
    metrics::Metrics,
    process::Begun,
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
    pub process: Process,
    /// Where data planes connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15010")]
    pub listen: SocketAddr,
    /// Pod and Service ranges of the mesh; an address in none of them is outside. May be repeated; none: no address is
    #[arg(long, value_name = "CIDR")]
    pub mesh_range: Vec<IpNet>,
}

/// Runs the controller until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.process.run("the controller", args.listen, async |drain| start(&args, drain).await).await
}

/// Wires a controller, and decides nothing. Returns when it answers, which is when its source is known as a whole. Its tasks
/// live in `drain`.
async fn start(args: &Args, drain: &Drain) -> anyhow::Result<()> {
    let mut registry = telemetry::Metrics::new();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let begun = args.process.begin(identity::controller, args.listen, &mut registry, drain).await?;
    let Begun { domain, provider, trust, svid, listener } = begun;

    let registry = registry.share();
    let reports = Arc::new(Reports::default());
    let mesh = Mesh { ranges: args.mesh_range.clone(), ..Mesh::new(domain) };
    let builder = |membership| Builder {
        mesh: Mesh { membership, ..mesh.clone() },
        trust: Arc::clone(&trust),
        reports: Arc::clone(&reports),
        metrics: Arc::clone(&metrics),
    };
    let (followed, health) = match &args.process.source.source_dir {
        Some(root) => (follow::directory(root.clone(), builder(Membership::Labelled), drain).await?, None),
        None => {
            let client = process::client().await?;
            let cluster = Cluster::watch(&client, Watched::MESH, &metrics, drain);
            let (health, answers) = (cluster.health(), Arc::new(AtomicBool::new(false)));
            let readiness = Readiness {
                svid: svid.clone(),
                health: health.clone(),
                claims: None,
                answers: Arc::clone(&answers),
                drain: drain.clone(),
            };
            let pages = admin::serve_network(args.process.pages, readiness, Arc::clone(&registry), drain);
            pages.await.with_context(|| format!("listening on {}", args.process.pages))?;
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
    args.process.take_questions(admin::pages(admin), drain).await
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

/// A data plane that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Of one connection: discovery and reports, and the ones before them that are not yet seen to be dead.
const STREAMS: u32 = 16;
/// A request of many names, or a full report.
const MAX_REQUEST: usize = 1 << 20;
