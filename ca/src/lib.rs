//! The mesh's CA, as a life: `callers` (who asks) -> `csr` (does it hold the key) -> `issue` (pure) -> `ledger` and `audit`
//! (written before the reply) -> reply, all in `service`, behind `limits`.
//!
//! Beside it, `authority` holds what signs, `brought` judges what the user brings for that, `rotation` decides when its root is replaced (pure), `state` and `store` make
//! that survive kill -9, `publication` shows the roots to all, `keeper` is the heartbeat, `admin` takes orders. What `store`,
//! `publication` and `callers` are in a cluster is in `cluster`. docs/ca.md is the operator's page.

pub mod admin;
mod args;
mod audit;
mod authority;
mod brought;
mod callers;
mod cluster;
pub mod csr; // for its fuzz target (tests/fuzz)
mod issue;
mod keeper;
mod ledger;
mod limits;
mod metrics;
mod publication;
mod refusal;
mod rotation;
mod service;
mod serving;
mod state;
mod store;
mod tokens;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use rustls::crypto::{CryptoProvider, SecureRandom};
use signet_core::{
    drain::Drain,
    files::create_private_dir,
    identity::{SpiffeId, TrustDomain},
    parent,
    pod::CA_PORT,
    signals::Signals,
    telemetry::{self, Metrics},
    tls,
    trust::Trust,
    verifier::MeshVerifier,
};
use signet_lease::{
    Lease,
    clock::{self, Clock},
    replica_name,
};
use signet_link::listen;
use tokio::{net::TcpListener, runtime::Handle, sync::Notify, task::spawn_blocking, time::sleep};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::{
    admin::{Admin, Place},
    audit::Audit,
    authority::{Authority, Ground, Offers, Replicas, Settings},
    callers::{Accepted, Callers},
    cluster::{intermediate::IntermediateSecret, reviews::Reviews, secret::SecretStore, trust::TrustMaps},
    keeper::{Keeper, OwnCertificate, Told},
    ledger::{About, Ledger},
    metrics::CaMetrics,
    publication::{Publication, TrustFile},
    service::{Asked, FrontDoor},
    store::{Store, directory::Directory},
    tokens::Tokens,
};
pub use crate::{
    args::{Args, Life},
    csr::{BadCsr, parse as parse_csr},
    rotation::Phase,
};

/// Runs the CA until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(args.log_format, &args.log).map_err(anyhow::Error::msg)?;
    if args.exit_with_parent {
        parent::exit_with_parent().context("watching for the supervisor's end")?;
    }
    let mut signals = Signals::listen()?;
    let drain = Drain::new();
    let served = async {
        let ca = Ca::start(&args, &drain).await?; // in a cluster that takes as long as the API server is down
        info!(listen = %ca.address, trust_domain = %args.trust_domain, "the CA issues certificates");
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        () = signals.next() => {}
        failed = served => failed?,
    }
    let cut = drain.run(GRACE).await;
    info!(cut, "the CA has stopped");
    Ok(())
}

/// A running CA. Its tasks live in the drain that it was started with, and hold the state directory's lock.
pub struct Ca {
    /// Where it serves gRPC; tells the port where port 0 was asked for.
    pub address: SocketAddr,
    door: Arc<FrontDoor>,
    tokens: Arc<Tokens>,
    random: &'static dyn SecureRandom,
}

impl Ca {
    /// Wires a CA, and decides nothing. Returns when it issues certificates.
    pub async fn start(args: &Args, drain: &Drain) -> anyhow::Result<Self> {
        match args.directory() {
            Some((state, trust_file)) => Self::start_in_directory(args, state, trust_file, drain).await,
            None => {
                let client = kube::Client::try_default().await.context("this pod's way to the API server")?;
                Box::pin(Self::start_in_cluster(args, client, drain)).await
            }
        }
    }

    async fn start_in_directory(
        args: &Args,
        state: &Path,
        trust_file: &Path,
        drain: &Drain,
    ) -> anyhow::Result<Self> {
        let settings = args.settings()?;
        let base = Base::new(&settings);
        let store = Directory::open(state)?;
        let audit = open_audit(args, &state.join("audit.log"))?;
        // Before anything changes: a CA that cannot be reached must not rotate.
        let listener = bind(args.listen_or(CA_IN_DIRECTORY)).await?;
        let publication = TrustFile(trust_file.to_owned());
        let ground = base.ground(Box::new(store), Box::new(publication), None, None);
        let authority = Arc::new(Authority::open(ground, settings)?);
        let tokens = Arc::new(Tokens::default());
        let (accepted, place) = (Accepted::Join(Arc::clone(&tokens)), Place::Directory(Arc::clone(&tokens)));
        let (ca, admin) = base.serve(authority, audit, accepted, place, tokens, listener, drain).await?;
        let socket = state.join("admin.sock");
        admin::serve(&socket, &admin, drain).with_context(|| format!("admin socket {}", socket.display()))?;
        Ok(ca)
    }

    /// Waits for an API server that does not answer, and for an intermediate that the user is to bring; every other fault of the
    /// stored state is an error.
    async fn start_in_cluster(args: &Args, client: kube::Client, drain: &Drain) -> anyhow::Result<Self> {
        let settings = args.settings()?;
        let base = Base::new(&settings);
        let audit = open_audit(args, Path::new("-"))?;
        let listener = bind(args.listen_or(CA_IN_CLUSTER)).await?;
        let pages = bind(args.pages).await?;
        let questions = bind(args.admin).await?;

        let (running, runtime) = (clock::running(), Handle::current());
        let lease = Lease::new(
            client.clone(),
            cluster::PART,
            replica_name(cluster::PART),
            Arc::clone(&running),
            clock::real(),
        );
        let maps = TrustMaps::new(client.clone(), runtime.clone(), Arc::clone(&lease), Arc::clone(&running));
        let told = Told::default();
        let authority = loop {
            let intermediate = IntermediateSecret::new(client.clone(), runtime.clone());
            let store = SecretStore::new(client.clone(), runtime.clone());
            let held = Arc::clone(&lease);
            let replicas =
                Replicas { running: Arc::clone(&running), leads: Box::new(move || held.is_held()) };
            let offers: Offers = Box::new(move || intermediate.read());
            let ground =
                base.ground(Box::new(store), Box::new(Arc::clone(&maps)), Some(offers), Some(replicas));
            let settings = settings.clone();
            match spawn_blocking(move || Authority::open(ground, settings)).await? {
                Err(why) if why.is_passing() => {
                    if told.is_news(&why, clock::real()()) {
                        warn!(%why, "the CA cannot start yet; trying again");
                    }
                }
                opened => break Arc::new(opened?),
            }
            sleep(START_AGAIN).await;
        };
        drain.keep({
            let lease = Arc::clone(&lease);
            async move { lease.run().await }
        });
        drain.keep({
            let maps = Arc::clone(&maps);
            async move { maps.run().await }
        });
        let (stop, held) = (drain.clone(), Arc::clone(&lease));
        drain.spawn(async move {
            stop.stopping().await;
            held.release().await;
        });
        let accepted = Accepted::Reviewed(Box::new(Reviews::new(client, settings.domain.clone())));
        let place = Place::Cluster { lease, maps };
        let (ca, admin) =
            base.serve(authority, audit, accepted, place, Arc::default(), listener, drain).await?;
        admin::serve_pages(pages, &admin, drain);
        admin::serve_questions(questions, &admin, drain);
        let socket = &args.admin_socket;
        socket.parent().map_or(Ok(()), create_private_dir).with_context(|| socket.display().to_string())?;
        admin::serve(socket, &admin, drain).with_context(|| format!("admin socket {}", socket.display()))?;
        Ok(ca)
    }

    /// A join token for one certificate of `id`, as `POST /v1/tokens` gives it, good for a minute.
    pub fn join_token(&self, id: SpiffeId) -> anyhow::Result<Zeroizing<String>> {
        Ok(self.tokens.mint(id, 60, clock::real()(), self.random)?)
    }

    /// The front door without its transport, for measurements: CSR and token in; PEM of leaf, intermediates, bundle out.
    pub async fn create_certificate(&self, token: &str, csr: &str) -> anyhow::Result<Vec<String>> {
        let header = Zeroizing::new(format!("Bearer {token}"));
        let asked =
            Asked { authorization: Some(&header), peer: None, csr: csr.as_bytes(), life: 0, serving: None };
        Ok(self.door.decide(About::default(), asked).await?.chain)
    }
}

/// What a CA needs wherever it runs.
struct Base {
    domain: TrustDomain,
    provider: Arc<CryptoProvider>,
    trust: Arc<Trust>,
    registry: Arc<telemetry::Metrics>,
    metrics: Arc<CaMetrics>,
    clock: Clock,
}

impl Base {
    fn new(settings: &Settings) -> Self {
        let domain = settings.domain.clone();
        let mut registry = Metrics::new();
        let metrics = Arc::new(CaMetrics::new(&mut registry));
        let provider = tls::mesh_provider(tls::default_provider());
        let (trust, clock) = (Trust::new(domain.clone()), clock::real());
        Self { domain, provider, trust, registry: registry.share(), metrics, clock }
    }

    fn ground(
        &self,
        store: Box<dyn Store>,
        publication: Box<dyn Publication>,
        offers: Option<Offers>,
        replicas: Option<Replicas>,
    ) -> Ground {
        Ground {
            store,
            publication,
            offers,
            replicas,
            provider: Arc::clone(&self.provider),
            trust: Arc::clone(&self.trust),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// The heartbeat and the front door.
    #[expect(clippy::too_many_arguments, reason = "wiring: each is used once, here")]
    async fn serve(
        &self,
        authority: Arc<Authority>,
        audit: Audit,
        accepted: Accepted,
        place: Place,
        tokens: Arc<Tokens>,
        listener: TcpListener,
        drain: &Drain,
    ) -> anyhow::Result<(Ca, Arc<Admin>)> {
        let address = listener.local_addr()?;
        let random = self.provider.secure_random;
        let ledger = Arc::new(Ledger::new(audit, Arc::clone(&self.metrics), Arc::clone(&self.clock)));
        let own = Arc::new(OwnCertificate::new());
        let wake = Arc::new(Notify::new());
        let verifier =
            MeshVerifier::new(Arc::clone(&self.trust), self.provider.signature_verification_algorithms);
        let callers = Callers::new(accepted, verifier, &self.domain);
        let door = Arc::new(FrontDoor::new(Arc::clone(&authority), callers, Arc::clone(&ledger)));
        let admin = Admin {
            authority: Arc::clone(&authority),
            place,
            own: Arc::clone(&own),
            metrics: Arc::clone(&self.registry),
            wake: Arc::clone(&wake),
            boot_id: admin::boot_id(random).context("the system's random numbers failed")?,
        };
        let keeper = Keeper {
            authority,
            own: Arc::clone(&own),
            ledger,
            tokens: Arc::clone(&tokens),
            metrics: Arc::clone(&self.metrics),
            wake,
            told: Told::default(),
        };
        keeper.start(drain).await;
        service::serve(listener, Arc::clone(&door), own, drain);
        Ok((Ca { address, door, tokens, random }, Arc::new(admin)))
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen::bind(address).await.with_context(|| format!("listening on {address}"))
}

fn open_audit(args: &Args, default: &Path) -> anyhow::Result<Audit> {
    let file = args.audit_log.as_deref().unwrap_or(default);
    let file = (file != Path::new("-")).then_some(file);
    Audit::open(file).with_context(|| match file {
        Some(file) => format!("audit log {}", file.display()),
        None => "audit log on stdout".into(),
    })
}

const CA_IN_DIRECTORY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), CA_PORT);
const CA_IN_CLUSTER: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), CA_PORT);
/// While the API server is down: a cluster that starts from cold is ready soon after it.
const START_AGAIN: Duration = Duration::from_secs(2);
/// SIGTERM to exit: requests take milliseconds, at most a second for the audit log, and the Lease is given back.
const GRACE: Duration = Duration::from_secs(3);
