//! The mesh's CA, as a life: `callers` (who asks) -> `csr` (does it hold the key) -> `issue` (pure) -> `ledger` and `audit`
//! (written before the reply) -> reply, all in `service`, behind `limits`.
//!
//! Beside it, `authority` holds what signs, `rotation` decides when its root is replaced (pure), `state` and `store` make
//! that survive kill -9, `keeper` is the heartbeat, `admin` takes orders. docs/ca.md is the operator's page.

pub mod admin;
mod args;
mod audit;
mod authority;
mod callers;
mod clock;
pub mod csr; // for its fuzz target (tests/fuzz)
mod issue;
mod keeper;
mod ledger;
mod limits;
mod metrics;
mod refusal;
mod rotation;
mod service;
mod state;
mod store;
mod tokens;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use rustls::crypto::SecureRandom;
use signet_core::{
    drain::Drain,
    identity::SpiffeId,
    parent,
    telemetry::{self, Metrics},
    tls,
    trust::Trust,
    verifier::MeshVerifier,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tracing::info;
use zeroize::Zeroizing;

use crate::{
    admin::Admin,
    audit::Audit,
    authority::Authority,
    callers::Callers,
    keeper::{Keeper, OwnCertificate},
    ledger::{About, Ledger},
    metrics::CaMetrics,
    service::{Asked, FrontDoor},
    store::Store,
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
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let drain = Drain::new();
    let ca = Ca::start(&args, &drain).await?;
    info!(listen = %ca.address, trust_domain = %args.trust_domain, "the CA issues certificates");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
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
        let settings = args.settings()?;
        let domain = settings.domain.clone();
        let provider = tls::mesh_provider(tls::default_provider());
        let random = provider.secure_random;
        let trust = Trust::new(domain.clone());
        let mut registry = Metrics::new();
        let metrics = Arc::new(CaMetrics::new(&mut registry));
        let clock = clock::real();

        let store = Store::open(&args.state)?;
        let audit = open_audit(args)?;
        // Before anything changes: a CA that cannot be reached must not rotate.
        let listener =
            TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
        let address = listener.local_addr()?;
        let verifier = MeshVerifier::new(Arc::clone(&trust), provider.signature_verification_algorithms);
        let authority =
            Authority::open(store, settings, provider, trust, Arc::clone(&clock), Arc::clone(&metrics))?;
        let authority = Arc::new(authority);
        let ledger = Arc::new(Ledger::new(audit, Arc::clone(&metrics), clock));
        let tokens = Arc::new(Tokens::default());
        let own = Arc::new(OwnCertificate::new());
        let wake = Arc::new(Notify::new());

        let callers = Callers::new(Arc::clone(&tokens), verifier, &domain);
        let door = Arc::new(FrontDoor::new(Arc::clone(&authority), callers, Arc::clone(&ledger)));
        let admin = Admin {
            authority: Arc::clone(&authority),
            tokens: Arc::clone(&tokens),
            metrics: registry.share(),
            wake: Arc::clone(&wake),
            boot_id: admin::boot_id(random).context("the system's random numbers failed")?,
        };
        let keeper =
            Keeper { authority, own: Arc::clone(&own), ledger, tokens: Arc::clone(&tokens), metrics, wake };
        keeper.start(drain).await;
        service::serve(listener, Arc::clone(&door), own, drain);
        let socket = args.state.join("admin.sock");
        admin::serve(&socket, admin, drain).with_context(|| format!("admin socket {}", socket.display()))?;
        Ok(Self { address, door, tokens, random })
    }

    /// A join token for one certificate of `id`, as `POST /v1/tokens` gives it, good for a minute.
    pub fn join_token(&self, id: SpiffeId) -> anyhow::Result<Zeroizing<String>> {
        Ok(self.tokens.mint(id, 60, clock::real()(), self.random)?)
    }

    /// The front door without its transport, for measurements: CSR and token in; PEM of leaf, intermediate, bundle out.
    pub async fn create_certificate(&self, token: &str, csr: &str) -> anyhow::Result<[String; 3]> {
        let header = Zeroizing::new(format!("Bearer {token}"));
        let asked = Asked { authorization: Some(&header), peer: None, csr: csr.as_bytes(), life: 0 };
        Ok(self.door.decide(About::default(), asked).await?.chain)
    }
}

fn open_audit(args: &Args) -> anyhow::Result<Audit> {
    let file = args.audit_log.clone().unwrap_or_else(|| args.state.join("audit.log"));
    let file = (file != Path::new("-")).then_some(file);
    Audit::open(file.as_deref()).with_context(|| match &file {
        Some(file) => format!("audit log {}", file.display()),
        None => "audit log on stdout".into(),
    })
}

/// SIGTERM to exit: requests take milliseconds, and at most a second for the audit log.
const GRACE: Duration = Duration::from_secs(3);
