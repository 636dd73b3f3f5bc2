//! `signet run edge`: Ingresses -> what gateways serve. The controller's crate in a process of its own, because it alone may read
//! edge keys, and it talks to gateways alone.
//!
//! An Ingress's way: `class` (is it ours) -> `objects` and `annotations` (parsed once, what is wrong kept beside it) -> `claims`
//! (whose hosts they are) -> `certificates` and `rules` with `backends` (what each host is served with) -> `translate` (all of it,
//! pure) -> `snapshot` (who gets what) -> the stream. `secrets`, `claim_store` and, of the edge CA, `ca_file` and `ca_secret` bring
//! what is not in objects; `known`, `certificate` and `issuer` judge it; `acme` orders certificates of authorities; `follow` puts all together; `writer` writes back what people see; `pages` and `words` say why.

pub mod acme;
mod addresses;
mod alias;
mod annotations;
pub mod answers;
mod backends;
mod ca_file;
mod ca_secret;
mod certificate;
mod certificates;
pub(crate) mod claim_store;
mod claims;
mod class;
mod finding;
mod follow;
mod issuer;
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
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use ipnet::IpNet;
use signet_core::{drain::Drain, identity, telemetry, tls};
use signet_edge_ca::Suffix;
use signet_http::model::Hostname;
use signet_lease::{Lease, clock, replica_name};
use tokio::sync::watch;

pub use addresses::Expose;
pub use issuer::EdgeIssuer;

use crate::{
    admin::{self, Readiness},
    answer,
    edge::{
        acme::Acme,
        ca_secret::CaSecret,
        claim_store::ClaimStore,
        follow::{Builder, Sources},
        metrics::{AcmeMetrics, EdgeMetrics},
        objects::{Address, Name, Objects},
        pages::{InCluster, Pages},
        secrets::SecretFollower,
        snapshot::EdgeSnapshot,
        translate::Options,
        writer::Writer,
    },
    index::{Membership, Mesh},
    metrics::Metrics,
    process::{self, Begun, Process},
    resources::Serves as _,
    source::{
        Object,
        cluster::{Cluster, Watched},
    },
    stream::Discovery,
    streams::Streams,
};

/// `signet run edge`.
///
/// Reads a cluster's Ingresses or a directory of manifests, and tells gateways what to serve, over mutual TLS.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub process: Process,
    /// Where gateways connect
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15014")]
    pub listen: SocketAddr,
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
    /// Who certifies the hosts of Ingresses that ask for a certificate and bring none, where signet.dev/edge-issuer does not say it
    #[arg(long, value_enum, default_value_t)]
    pub edge_issuer: EdgeIssuer,
    /// The edge CA, when it is made, is for names below this one, too, beside .localhost and .test. May be repeated
    #[arg(long, value_name = "SUFFIX")]
    pub edge_suffix: Vec<Suffix>,
    /// With --source-dir: where the edge CA keeps its key (mode 0600) and its root, made when an Ingress wants it
    #[arg(long, value_name = "DIR", conflicts_with = "kubernetes")]
    pub edge_ca_dir: Option<PathBuf>,
    /// With --source-dir: hosts have a second name below this one, app.example.com.localhost with "localhost"
    #[arg(long, value_name = "SUFFIX", conflicts_with = "kubernetes")]
    pub alias_suffix: Option<Hostname>,
    #[command(flatten)]
    pub acme: acme::AcmeArgs,
    /// How gateways are reached from outside
    #[arg(long, value_enum, default_value_t)]
    pub expose: Expose,
    /// IP address or host name for the status of Ingresses, whatever the gateway's Service says. May be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = published)]
    pub publish_address: Vec<String>,
}

/// Runs edge until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.process.run("edge", args.listen, async |drain| start(&args, drain).await).await
}

/// Wires edge, and decides nothing. Returns when it answers, which is when everything is known as a whole. Its tasks live in `drain`.
async fn start(args: &Args, drain: &Drain) -> anyhow::Result<()> {
    let mut registry = telemetry::Metrics::new();
    let (metrics, edge_metrics) = (Arc::new(Metrics::new(&mut registry)), EdgeMetrics::new(&mut registry));
    let acme_metrics = AcmeMetrics::new(&mut registry);
    let begun = args.process.begin(identity::edge, args.listen, &mut registry, drain).await?;
    let Begun { domain, provider, trust, svid, listener } = begun;

    let (registry, built_in) = (registry.share(), args.acme.built_in()?);
    let challenges = watch::Sender::default();
    let authorities = acme::follow::Followed::new(&built_in, challenges.clone());
    let ordering = |snapshots| Acme {
        args: &args.acme,
        followed: authorities.clone(),
        snapshots,
        metrics: acme_metrics.clone(),
        http: args.http_port,
        https: args.https_port,
    };
    let builder = |membership| Builder {
        mesh: Mesh { ranges: args.mesh_range.clone(), membership, ..Mesh::new(domain.clone()) },
        options: args.options(),
        suffixes: args.edge_suffix.clone(),
        gateway: identity::gateway(&domain),
        challenges: challenges.clone(),
        acme: authorities.known.clone(),
        // Not the mesh's: users bring RSA keys, too.
        provider: Arc::new(tls::default_provider()),
        metrics: Arc::clone(&metrics),
        edge_metrics: edge_metrics.clone(),
    };
    let (followed, acme, cluster) = match &args.process.source.source_dir {
        Some(root) => {
            let (root, ca) = (root.clone(), args.edge_ca_dir.clone());
            let store = acme::directory(&args.acme, &authorities).await?;
            let followed = follow::directory(root, ca, builder(Membership::Labelled), drain).await?;
            let acme = ordering(followed.snapshots.clone()).in_directory(store, drain);
            (followed, acme, None)
        }
        None => {
            let client = process::client().await?;
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
            let pages = admin::serve_network(args.process.pages, readiness, Arc::clone(&registry), drain);
            pages.await.with_context(|| format!("listening on {}", args.process.pages))?;
            let builder = builder(Membership::Injected);
            let secrets = SecretFollower::new(client.clone(), Arc::clone(&builder.provider), drain);
            let lease = Lease::new(client.clone(), PART, replica_name(PART), clock::running(), clock::real());
            let ca = CaSecret::new(client.clone(), &args.edge_suffix);
            let (keeping, turns) = (ca.clone(), Arc::clone(&lease));
            drain.keep(async move { Box::pin(keeping.run(&turns)).await });
            authorities.start(&client, built_in, Arc::clone(&builder.provider), drain);
            let acme = authorities.clone();
            let sources = Sources { cluster, secrets, claims: claims.clone(), ca, acme };
            let followed = Box::pin(follow::cluster(sources, builder, drain)).await;
            answers.store(true, Ordering::Release);
            let acme = ordering(followed.snapshots.clone()).in_cluster(client.clone(), &lease, drain);
            let writer = Writer {
                client,
                lease: Arc::clone(&lease),
                claims: claims.clone(),
                snapshots: followed.snapshots.clone(),
                metrics: Arc::clone(&metrics),
                edge_metrics: edge_metrics.clone(),
            };
            writer.start(drain);
            (followed, acme, Some(InCluster { health, claims, lease }))
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
    args.process
        .take_questions(pages::routes(Pages { followed, acme, cluster, metrics: registry }), drain)
        .await
}

/// Whether there is an Ingress of our class.
pub(crate) fn has_ingresses(objects: &[Arc<Object>]) -> bool {
    !Objects::build(objects).ingresses.is_empty()
}

impl Args {
    fn options(&self) -> Options {
        // As addresses are held everywhere, so that they compare.
        let sorted: BTreeSet<Address> =
            self.publish_address.iter().filter_map(|text| address(text).ok()).collect();
        Options {
            http: self.http_port,
            https: self.https_port,
            public_http: self.public_http_port,
            public_https: self.public_https_port,
            default_certificate: self.default_certificate.clone(),
            issuer: self.edge_issuer,
            alias: self.alias_suffix.clone(),
            expose: self.expose,
            publish: sorted.into_iter().collect(),
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
