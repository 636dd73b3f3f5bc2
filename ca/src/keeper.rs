//! The CA's heartbeat: one task that takes the next step of the authority, renews the CA's own server certificate, and
//! accounts for what was suppressed or left over.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use signet_core::{drain::Drain, identity, schedule, tls::Generation};
use tokio::{
    sync::{Notify, watch},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{error, warn};

use crate::{
    audit::CannotAudit,
    authority::Authority,
    callers::Via,
    issue::{CannotIssue, PublicKey},
    ledger::{About, Ledger},
    metrics::CaMetrics,
    tokens::Tokens,
};

/// The certificate that our gRPC server shows: issued by ourselves for `identity::ca`, like any other leaf.
pub(crate) struct OwnCertificate {
    held: watch::Sender<Option<Held>>,
}

#[derive(Clone)]
struct Held {
    generation: Arc<Generation>,
    server: Arc<ServerConfig>,
    /// Id of the root it chains to.
    root: Arc<str>,
    /// Unix seconds.
    renew_at: i64,
}

impl OwnCertificate {
    pub(crate) fn new() -> Self {
        Self { held: watch::Sender::new(None) }
    }

    /// What to serve the next connection with; `None` while there is no valid certificate.
    pub(crate) fn server(&self) -> Option<Arc<ServerConfig>> {
        let held = self.held.borrow();
        held.as_ref()
            .filter(|held| held.generation.is_valid(signet_core::clock::unix_now()))
            .map(|held| Arc::clone(&held.server))
    }

    fn is_due(&self, now: i64, signing_root: &str) -> bool {
        self.held.borrow().as_ref().is_none_or(|held| now >= held.renew_at || &*held.root != signing_root)
    }

    fn left(&self, now: i64) -> i64 {
        self.held.borrow().as_ref().map_or(0, |held| (held.generation.leaf.not_after - now).max(0))
    }

    /// Makes a new key and issues for it. The audit log decides here too.
    async fn renew(&self, authority: &Authority, ledger: &Ledger) -> Result<(), NoCertificate> {
        let now = authority.now();
        let root = authority.signing_root();
        let key = KeyPair::generate().map_err(CannotIssue::from)?;
        let public = PublicKey::of(&key).ok_or(NoCertificate::Key)?;
        let id = identity::ca(authority.domain());
        let granted = authority.issue(&id, &public, None)?;
        let about =
            About { id: Some(id), via: Some(Via::Own), key_hash: Some(public.hash()), ..About::default() };
        ledger.issued(&about, &granted).await?;
        let (_bundle, chain) = granted.chain.split_last().ok_or(NoCertificate::Key)?;
        let chain = chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
        let chain = chain.collect::<Result<_, _>>().map_err(|_| NoCertificate::Key)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| NoCertificate::Key)?;
        let number = self.held.borrow().as_ref().map_or(1, |held| held.generation.number + 1);
        let (provider, trust) = (authority.provider(), authority.trust());
        let generation = Generation::new(number, chain, key, provider, trust)?;
        let server = generation.open_server(provider, trust)?;
        let life = Duration::from_secs((granted.not_after - now).max(0).unsigned_abs());
        let renew_at = now.saturating_add_unsigned(schedule::renew_after(life, fastrand::f64()).as_secs());
        self.held.send_replace(Some(Held { generation: Arc::new(generation), server, root, renew_at }));
        Ok(())
    }
}

impl Default for OwnCertificate {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything that the heartbeat keeps going.
pub(crate) struct Keeper {
    pub authority: Arc<Authority>,
    pub own: Arc<OwnCertificate>,
    pub ledger: Arc<Ledger>,
    pub tokens: Arc<Tokens>,
    pub metrics: Arc<CaMetrics>,
    /// Beats at once: an order was given.
    pub wake: Arc<Notify>,
    pub told: Told,
}

/// Failures that were logged lately: in a cluster each is tried again every two seconds.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<String, i64>>);

impl Told {
    pub(crate) fn is_news(&self, why: &dyn fmt::Display, now: i64) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now - *at < SAY_AGAIN);
        let is_new = !told.contains_key(&why.to_string());
        if is_new {
            told.insert(why.to_string(), now);
        }
        is_new
    }
}

impl Keeper {
    /// Issues the first server certificate; then beats until `drain` stops.
    pub(crate) async fn start(self, drain: &Drain) {
        self.renew_own().await;
        drain.keep(self.run());
    }

    async fn run(self) {
        let mut failures = 0;
        loop {
            let pause = match failures {
                0 => self.authority.pace(),
                // What others write must be read again soon, whatever else fails.
                _ if !self.authority.is_alone() => self.authority.pace(),
                _ => schedule::retry_after(failures, LONG, fastrand::f64()),
            };
            let _ = timeout(pause, self.wake.notified()).await;
            failures = if self.beat().await { 0 } else { failures + 1 };
        }
    }

    /// True when all went well.
    async fn beat(&self) -> bool {
        let authority = Arc::clone(&self.authority);
        let stepped = match spawn_blocking(move || authority.tick()).await {
            Ok(Ok(())) => true,
            Ok(Err(why)) => {
                if self.told.is_news(&why, self.authority.now()) {
                    warn!(error = %why, "a step of the CA failed; what is valid stays in use, trying again");
                }
                false
            }
            Err(why) => {
                error!(error = %why, "a step of the CA broke off; restart the CA and report this");
                false
            }
        };
        let renewed = self.renew_own().await;
        self.ledger.settle().await;
        self.tokens.sweep(self.authority.now());
        stepped && renewed
    }

    async fn renew_own(&self) -> bool {
        let due = self.own.is_due(self.authority.now(), &self.authority.signing_root());
        let renewed = if due { self.own.renew(&self.authority, &self.ledger).await } else { Ok(()) };
        self.metrics.left("own", self.own.left(self.authority.now()));
        renewed
            .inspect_err(|why| {
                if self.told.is_news(why, self.authority.now()) {
                    warn!(error = %why, "the CA's own certificate was not renewed; trying again");
                }
            })
            .is_ok()
    }
}

/// Why the CA has no (new) certificate of its own.
#[derive(Debug, thiserror::Error)]
enum NoCertificate {
    #[error(transparent)]
    Issue(#[from] CannotIssue),
    #[error(transparent)]
    Audit(#[from] CannotAudit),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("its key or chain cannot be used")]
    Key,
}

/// As life left for the back-off, so that it is 1 s, doubling to 60 s: everything of ours is renewed at half of its life.
const LONG: Duration = Duration::from_secs(3600);
/// Seconds between log lines of the same failure.
const SAY_AGAIN: i64 = 60;
