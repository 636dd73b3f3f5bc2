//! `signet run edge`: Ingresses -> what gateways serve. The controller's crate in a process of its own, because it alone may read
//! edge keys, and it talks to gateways alone.
//!
//! An Ingress's way: `class` (is it ours) -> `objects` and `annotations` (parsed once, what is wrong kept beside it) -> `claims`
//! (whose hosts they are) -> `certificates` and `rules` with `backends` (what each host is served with) -> `translate` (all of it,
//! pure) -> `snapshot` (who gets what) -> the stream. `secrets` and `claim_store` bring what is not in objects, `known` and
//! `certificate` judge it; `follow` puts all together; `writer` writes back what people see; `pages` and `words` say why.

mod addresses;
mod annotations;
pub mod answers;
mod backends;
mod certificate;
mod certificates;
pub(crate) mod claim_store;
mod claims;
mod class;
mod finding;
mod follow;
mod known;
mod metrics;
mod objects;
mod pages;
mod rules;
mod secrets;
mod snapshot;
#[cfg(test)]
mod stream_tests;
mod translate;
mod words;
mod writer;

use std::{
    net::{IpAddr, SocketAddr},
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
use signet_core::{
    drain::Drain,
    identity::{self, TrustDomain},
    parent,
    telemetry::{self, LogFormat},
    tls,
    trust::Trust,
};
use signet_http::model::Hostname;
use signet_lease::{Lease, clock, replica_name};
use signet_link::{
    Target, listen,
    place::Place,
    svid::{Svid, SvidConfig, Token},
    trust_file,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

pub use addresses::Expose;

use crate::{
    Source,
    admin::{self, Readiness},
    answer,
    edge::{
        claim_store::ClaimStore,
        follow::Builder,
        metrics::EdgeMetrics,
        objects::{Address, Name},
        pages::{InCluster, Pages},
        secrets::SecretFollower,
        snapshot::EdgeSnapshot,
        translate::Options,
        writer::Writer,
    },
    index::{Membership, Mesh},
    metrics::Metrics,
    resources::Serves as _,
    source::cluster::{Cluster, Watched},
    stream::Discovery,
    streams::Streams,
};

/// `signet run edge`.
///
/// Reads a cluster's Ingresses or a directory of manifests, and tells gateways what to serve, over mutual TLS.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// Where gateways connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15014")]
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
    /// Pod and Service ranges of the cluster, where only addresses of known pods are dialled. May be repeated
    #[arg(long, value_name = "CIDR")]
    pub mesh_range: Vec<IpNet>,
    /// Port that gateways listen on for HTTP, in their pod
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// Port that gateways listen on for HTTPS, in their pod
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub https_port: u16,
    /// Port that clients dial for HTTP
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    pub public_http_port: u16,
    /// Port that clients dial for HTTPS: what stands in redirects
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    pub public_https_port: u16,
    /// Secret whose certificate is presented where no other fits [default: none, the handshake fails]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = secret_name)]
    pub default_certificate: Option<Name>,
    /// How gateways are reached from outside
    #[arg(long, value_enum, default_value_t)]
    pub expose: Expose,
    /// IP address or host name for the status of Ingresses, whatever the gateway's Service says. May be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = published)]
    pub publish_address: Vec<String>,
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

/// Runs edge until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(args.log_format, &args.log).map_err(anyhow::Error::msg)?;
    if args.exit_with_parent {
        parent::exit_with_parent().context("watching for the supervisor's end")?;
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let drain = Drain::new();
    let running = async {
        Box::pin(start(&args, &drain)).await?;
        info!(listen = %args.listen, "edge answers");
        std::future::pending().await
    };
    let ended: anyhow::Result<()> = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        failed = running => failed,
    };
    let cut = drain.run(GRACE).await;
    info!(cut, "edge has stopped");
    ended
}

/// Wires edge, and decides nothing. Returns when it answers, which is when everything is known as a whole. Its tasks live in `drain`.
async fn start(args: &Args, drain: &Drain) -> anyhow::Result<()> {
    let domain = TrustDomain::new(&args.trust_domain)
        .with_context(|| format!("--trust-domain {:?}", args.trust_domain))?;
    let mut registry = telemetry::Metrics::new();
    let (metrics, edge_metrics) = (Arc::new(Metrics::new(&mut registry)), EdgeMetrics::new(&mut registry));
    let provider = tls::mesh_provider(tls::default_provider());
    let trust = Trust::new(domain.clone());
    trust_file::watch(args.trust_bundle.clone(), Arc::clone(&trust), drain);
    let svid = SvidConfig {
        id: identity::edge(&domain),
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
    let builder = |membership| Builder {
        mesh: Mesh { ranges: args.mesh_range.clone(), membership, ..Mesh::new(domain.clone()) },
        options: args.options(),
        gateway: identity::gateway(&domain),
        // Not the mesh's: users bring RSA keys, too.
        provider: Arc::new(tls::default_provider()),
        metrics: Arc::clone(&metrics),
        edge_metrics: edge_metrics.clone(),
    };
    let (followed, cluster) = match &args.source.source_dir {
        Some(root) => (follow::directory(root.clone(), builder(Membership::Labelled), drain).await?, None),
        None => {
            let client = Client::try_default().await.context(
                "no way to the API server: neither a service account is mounted here nor does KUBECONFIG name a cluster",
            )?;
            let cluster = Cluster::watch(&client, Watched::EDGE, &metrics, drain);
            let claims = ClaimStore::new(client.clone());
            let reading = claims.clone();
            drain.keep(async move { Box::pin(reading.run()).await });
            let (health, answers) = (cluster.health(), Arc::new(AtomicBool::new(false)));
            let readiness = Readiness {
                svid: svid.clone(),
                health: health.clone(),
                claims: Some(claims.clone()),
                answers: Arc::clone(&answers),
                drain: drain.clone(),
            };
            let pages = admin::serve_network(args.pages, readiness, Arc::clone(&registry), drain);
            pages.await.with_context(|| format!("listening on {}", args.pages))?;
            let builder = builder(Membership::Injected);
            let secrets = SecretFollower::new(client.clone(), Arc::clone(&builder.provider), drain);
            let followed = Box::pin(follow::cluster(cluster, secrets, &claims, builder, drain)).await;
            answers.store(true, Ordering::Release);
            let lease = Lease::new(client.clone(), PART, replica_name(PART), clock::running(), clock::real());
            let writer = Writer {
                client,
                lease: Arc::clone(&lease),
                claims: claims.clone(),
                snapshots: followed.snapshots.clone(),
                metrics: Arc::clone(&metrics),
                edge_metrics: edge_metrics.clone(),
            };
            writer.start(drain);
            (followed, Some(InCluster { health, claims, lease }))
        }
    };
    let discovery = Discovery {
        snapshots: followed.snapshots.clone(),
        streams: Arc::new(Streams::new(EdgeSnapshot::TYPES)),
        trust,
        algorithms: provider.signature_verification_algorithms,
        metrics,
        drain: drain.clone(),
    };
    answer(listener, svid, discovery, None, drain);
    let routes = pages::routes(Pages { followed, cluster, metrics: registry });
    match &args.admin_socket {
        Some(socket) => admin::serve_socket(socket, routes, drain)
            .with_context(|| format!("admin socket {}", socket.display())),
        None => admin::serve_loopback(args.admin, routes, drain)
            .await
            .with_context(|| format!("listening on {}", args.admin)),
    }
}

impl Args {
    fn options(&self) -> Options {
        Options {
            http: self.http_port,
            https: self.https_port,
            public_http: self.public_http_port,
            public_https: self.public_https_port,
            default_certificate: self.default_certificate.clone(),
            expose: self.expose,
            publish: self.publish_address.iter().filter_map(|text| address(text).ok()).collect(),
        }
    }
}

fn secret_name(text: &str) -> Result<Name, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write NAMESPACE/NAME of a Secret".into()),
    }
}

/// Checked here, so that what is wrong is wrong usage.
fn published(text: &str) -> Result<String, String> {
    address(text).map(|_| text.to_owned())
}

fn address(text: &str) -> Result<Address, String> {
    match (text.parse::<IpAddr>(), text.parse::<Hostname>()) {
        (Ok(ip), _) => Ok(Address::Ip(ip)),
        (Err(_), Ok(name)) => Ok(Address::Hostname(name.to_string())),
        (Err(_), Err(why)) => Err(why.to_string()),
    }
}

/// Our part of Signet, in labels and in the Lease's name.
pub(crate) const PART: &str = "edge";
/// SIGTERM to cutting: streams are told to come back and end at once, the Lease is given back.
const GRACE: Duration = Duration::from_secs(3);
