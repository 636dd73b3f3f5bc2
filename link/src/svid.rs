//! The life of our own SVID: a key made in memory, a CSR, a leaf; renewed at half its life; closed when it expires.
//!
//! In a cluster every certificate costs the pod's token, which kubelet keeps fresh. In directory mode the first one costs a
//! one-time token, a renewal only the SVID that it renews; if the CA no longer takes that one (its root was distrusted, it
//! expired), the token is the way back.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{PrivateKeyDer, UnixTime},
};
use signet_api::istio::IstioCertificateRequest;
use signet_core::{
    clock,
    drain::Drain,
    identity::SpiffeId,
    schedule,
    telemetry::Metrics,
    tls::{Generation, anonymous_client},
    trust::Trust,
    verifier::MeshVerifier,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::{Target, client::Unreachable, request};

/// Whose SVID, and from whom.
#[derive(Clone, Debug)]
pub struct SvidConfig {
    /// What the CA must certify; anything else is refused.
    pub id: SpiffeId,
    pub ca: Target,
    pub token: Token,
    /// The local address to dial from.
    pub source: Option<IpAddr>,
}

/// The file that proves to the CA who we are, and what it is good for.
#[derive(Clone, Debug)]
pub enum Token {
    /// Good for one certificate; the supervisor replaces it.
    Once(PathBuf),
    /// A projected service account token (Kubernetes, `serviceAccountToken`), asked for each time: so a stolen SVID ends with
    /// its life, and nothing is issued for a pod that is gone.
    Projected(PathBuf),
}

impl Token {
    /// What it holds now.
    pub(crate) fn read(&self) -> Result<Zeroizing<String>, NoSvid> {
        let (Self::Once(file) | Self::Projected(file)) = self;
        let text = std::fs::read_to_string(file)
            .map(Zeroizing::new)
            .map_err(|source| NoSvid::Token { file: file.display().to_string(), source })?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    }
}

/// A process's own SVID, kept alive by a task.
#[derive(Clone)]
pub struct Svid {
    current: watch::Receiver<Option<Arc<Generation>>>,
}

impl Svid {
    /// Begins to fetch; returns at once. `None` is published until there is a leaf, and again when it expires.
    pub fn start(
        config: SvidConfig,
        provider: Arc<CryptoProvider>,
        trust: Arc<Trust>,
        drain: &Drain,
        metrics: &mut Metrics,
    ) -> Self {
        let (publish, current) = watch::channel(None);
        let keeper = Keeper { config, provider, trust, publish, gauges: Gauges::new(metrics), number: 0 };
        drain.keep(keeper.run());
        Self { current }
    }

    /// Of a leaf that somebody else keeps alive.
    pub fn of(current: watch::Receiver<Option<Arc<Generation>>>) -> Self {
        Self { current }
    }

    /// The leaf to use now, if there is a valid one.
    pub fn current(&self) -> Option<Arc<Generation>> {
        self.current.borrow().clone().filter(|generation| generation.is_valid(clock::unix_now()))
    }

    pub fn watch(&self) -> watch::Receiver<Option<Arc<Generation>>> {
        self.current.clone()
    }

    /// Waits for a leaf.
    pub async fn ready(&self) -> Arc<Generation> {
        let mut current = self.current.clone();
        loop {
            if let Some(generation) = self.current() {
                return generation;
            }
            if current.changed().await.is_err() {
                std::future::pending::<()>().await; // the keeper was drained: there will be none
            }
        }
    }
}

struct Keeper {
    config: SvidConfig,
    provider: Arc<CryptoProvider>,
    trust: Arc<Trust>,
    publish: watch::Sender<Option<Arc<Generation>>>,
    gauges: Gauges,
    number: u64,
}

impl Keeper {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let pause = match self.fetch().await {
                Ok(generation) => {
                    failures = 0;
                    self.adopt(generation)
                }
                Err(why) => {
                    failures += 1;
                    self.give_way(&why, failures)
                }
            };
            self.wait(pause).await;
        }
    }

    /// Publishes a new leaf; returns when to renew it.
    fn adopt(&mut self, generation: Generation) -> Duration {
        let life = left(&generation);
        info!(id = %generation.leaf.id, serial = %generation.leaf.serial, life_s = life.as_secs(), "certificate issued");
        self.gauges.renewals.inc();
        self.gauges.expired.set(0);
        self.gauges.not_after.set(generation.leaf.not_after);
        self.publish.send_replace(Some(Arc::new(generation)));
        schedule::renew_after(life, fastrand::f64())
    }

    /// Keeps what is still valid; returns when to try again.
    fn give_way(&mut self, why: &NoSvid, failures: u32) -> Duration {
        self.gauges.failures.inc();
        let held = self.publish.borrow().clone();
        match held {
            Some(generation) => {
                let left = left(&generation);
                warn!(error = %why, failures, left_s = left.as_secs(), "certificate not renewed; the valid one is kept");
                schedule::retry_after(failures, left, fastrand::f64())
            }
            None if self.number == 0 => {
                // At start the CA may come up beside us: quick tries first, and quiet ones.
                if failures > QUIET {
                    warn!(error = %why, failures, "no certificate yet");
                }
                (FIRST_TRY * 2_u32.saturating_pow(failures.min(16))).min(Duration::from_secs(2))
            }
            None => {
                warn!(error = %why, failures, "certificate expired and not renewed; all mesh traffic is closed");
                schedule::retry_after(failures, Duration::ZERO, fastrand::f64())
            }
        }
    }

    /// Sleeps for `pause`; meanwhile closes at expiry, and returns early when our own chain is no longer believed.
    async fn wait(&mut self, pause: Duration) {
        let wake = tokio::time::Instant::now() + pause;
        let mut trust = self.trust.watch();
        loop {
            let held = self.publish.borrow().clone();
            let expiry = held.as_ref().map(|generation| left(generation));
            tokio::select! {
                () = tokio::time::sleep_until(wake) => return,
                () = sleep(expiry.unwrap_or_default()), if expiry.is_some() => {
                    error!(ca = %self.config.ca.address, "our certificate expired: all mesh traffic is closed until the CA issues a new one; see signet ca status");
                    self.gauges.expired.set(1);
                    self.publish.send_replace(None);
                    return; // expired: the back-off is another one now
                }
                changed = trust.changed() => {
                    match held {
                        _ if changed.is_err() => return,
                        None => return, // perhaps it was the bundle that we lacked
                        Some(generation) if !self.is_believed(&generation) => {
                            warn!("our certificate rests on a root that is no longer trusted; fetching another");
                            return;
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }

    fn is_believed(&self, generation: &Generation) -> bool {
        let verifier =
            MeshVerifier::new(Arc::clone(&self.trust), self.provider.signature_verification_algorithms);
        self.trust.fault().is_some() || verifier.check_chain(&generation.chain, unix_time()).is_ok()
    }

    /// One try: by token; or, where that is good only once, by the SVID that we hold first.
    async fn fetch(&mut self) -> Result<Generation, NoSvid> {
        let held = self.publish.borrow().clone();
        if let (Some(held), Token::Once(_)) = (held, &self.config.token) {
            let config = Arc::clone(&held.grpc.client);
            let renewed = timeout(FETCH, self.request(move || Some(Arc::clone(&config)), None)).await;
            match renewed.unwrap_or(Err(NoSvid::Deadline)) {
                Ok(generation) => return Ok(generation),
                Err(why) => warn!(error = %why, "renewal by certificate failed; trying the token"),
            }
        }
        let token = self.config.token.read()?;
        let config = anonymous_client(&self.provider, &self.trust).map_err(NoSvid::Tls)?;
        timeout(FETCH, self.request(move || Some(Arc::clone(&config)), Some(token)))
            .await
            .unwrap_or(Err(NoSvid::Deadline))
    }

    async fn request<F>(&mut self, config: F, token: Option<Zeroizing<String>>) -> Result<Generation, NoSvid>
    where
        F: Fn() -> Option<Arc<rustls::ClientConfig>> + Clone + Send + Sync + 'static,
    {
        let key = KeyPair::generate().map_err(|e| NoSvid::Key(e.to_string()))?;
        let request = IstioCertificateRequest { csr: self.csr(&key)?, ..Default::default() };
        let answer = request::ask(&self.config.ca, self.config.source, config, token, request).await?;
        self.generation(&answer, &key)
    }

    fn csr(&self, key: &KeyPair) -> Result<String, NoSvid> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri =
            self.config.id.to_string().try_into().map_err(|e: rcgen::Error| NoSvid::Key(e.to_string()))?;
        params.subject_alt_names = vec![SanType::URI(uri)]; // a courtesy: the CA names us by who we are, not by this
        let csr = params.serialize_request(key).and_then(|csr| csr.pem());
        csr.map_err(|e| NoSvid::Key(e.to_string()))
    }

    /// Checks an answer (leaf, intermediates.., trust bundle) as a peer would, before anyone uses it.
    fn generation(&mut self, answer: &[String], key: &KeyPair) -> Result<Generation, NoSvid> {
        let certificates = request::chain(answer, &self.trust)?;
        let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| NoSvid::Key(e.to_owned()))?;
        let number = self.number + 1;
        let generation =
            Generation::new(number, certificates, der, &self.provider, &self.trust).map_err(NoSvid::Tls)?;
        if generation.leaf.id != self.config.id {
            return Err(NoSvid::Answer(format!(
                "it names {} instead of {}",
                generation.leaf.id, self.config.id
            )));
        }
        MeshVerifier::new(Arc::clone(&self.trust), self.provider.signature_verification_algorithms)
            .check_chain(&generation.chain, unix_time())
            .map_err(NoSvid::Tls)?;
        self.number = number;
        Ok(generation)
    }
}

fn left(generation: &Generation) -> Duration {
    let left = (generation.leaf.not_after + 1) as f64 - clock::now().unix_timestamp_nanos() as f64 / 1e9;
    Duration::try_from_secs_f64(left).unwrap_or_default()
}

fn unix_time() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now().unsigned_abs()))
}

/// Why there is no (new) certificate.
#[derive(Debug, thiserror::Error)]
pub enum NoSvid {
    #[error(transparent)]
    Unreachable(#[from] Box<Unreachable>),
    #[error("the CA refused: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
    #[error("the CA did not answer in {FETCH:?}")]
    Deadline,
    #[error("token file {file} cannot be read; kubelet or the supervisor writes it")]
    Token { file: String, source: std::io::Error },
    #[error("the token file holds no token; kubelet or the supervisor writes it")]
    TokenShape,
    #[error("the CA's answer is unusable: {0}")]
    Answer(String),
    #[error("making a key: {0}")]
    Key(String),
    #[error("TLS: {0}")]
    Tls(rustls::Error),
}

struct Gauges {
    not_after: Gauge<i64, AtomicI64>,
    expired: Gauge<i64, AtomicI64>,
    renewals: Counter,
    failures: Counter,
}

impl Gauges {
    fn new(metrics: &mut Metrics) -> Self {
        Self {
            not_after: metrics.add(
                "svid_not_after_seconds",
                "Our leaf's notAfter, Unix seconds",
                Gauge::default(),
            ),
            expired: metrics.add(
                "svid_expired",
                "1: our leaf expired and all mesh traffic is closed",
                Gauge::default(),
            ),
            renewals: metrics.add("svid_issued", "Leaves issued to us", Counter::default()),
            failures: metrics.add("svid_failures", "Failed tries to get a leaf", Counter::default()),
        }
    }
}

/// A whole try, handshake and answer; a hung CA is retried after it.
pub(crate) const FETCH: Duration = Duration::from_secs(5);
/// First pause while there was never a certificate; doubles up to 2 s.
pub(crate) const FIRST_TRY: Duration = Duration::from_millis(10);
/// Failed first tries before the log says so: about 0.6 s, a CA that starts beside us.
pub(crate) const QUIET: u32 = 5;
