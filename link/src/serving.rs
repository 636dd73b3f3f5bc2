//! The life of a serving certificate: asked from the CA by our pod's token, renewed at half its life, again at once when its root is
//! no longer believed. The CA gives one name to one service account (docs/design.md section 3).

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{PrivateKeyDer, ServerName},
};
use signet_api::istio::IstioCertificateRequest;
use signet_core::{
    clock, drain::Drain, pod::SERVING, schedule, serving::Serving, telemetry::Metrics, tls, trust::Trust,
};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use crate::{
    Target, request,
    svid::{FETCH, FIRST_TRY, NoSvid, QUIET, Svid, Token},
};

/// Which name, and from whom.
#[derive(Clone, Debug)]
pub struct ServingConfig {
    /// "injector.signet-system.svc"
    pub name: &'static str,
    pub ca: Target,
    /// Our pod's.
    pub token: Token,
    /// The local address to dial from.
    pub source: Option<IpAddr>,
}

/// A process's serving certificate, kept alive by a task.
#[derive(Clone)]
pub struct Certificate {
    current: watch::Receiver<Option<Arc<Serving>>>,
}

impl Certificate {
    /// Begins to fetch once there is an SVID; returns at once.
    pub fn start(
        config: ServingConfig,
        svid: Svid,
        trust: Arc<Trust>,
        drain: &Drain,
        metrics: &mut Metrics,
    ) -> Self {
        let (publish, current) = watch::channel(None);
        let gauges = Gauges::new(metrics);
        // Not the mesh's: the API server may lack our suites and groups.
        let keeper =
            Keeper { config, svid, trust, provider: Arc::new(tls::default_provider()), publish, gauges };
        drain.keep(keeper.run());
        Self { current }
    }

    /// What to serve with now, if there is a valid one.
    pub fn current(&self) -> Option<Arc<Serving>> {
        self.current.borrow().clone().filter(|serving| serving.is_valid(clock::unix_now()))
    }
}

struct Keeper {
    config: ServingConfig,
    svid: Svid,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    publish: watch::Sender<Option<Arc<Serving>>>,
    gauges: Gauges,
}

impl Keeper {
    async fn run(self) {
        let mut failures = 0;
        loop {
            self.svid.ready().await;
            let pause = match timeout(FETCH, self.fetch()).await.unwrap_or(Err(NoSvid::Deadline)) {
                Ok(serving) => {
                    failures = 0;
                    let life = left(&serving);
                    info!(name = self.config.name, life_s = life.as_secs(), "serving certificate issued");
                    self.gauges.issued.inc();
                    self.gauges.not_after.set(serving.not_after);
                    self.publish.send_replace(Some(Arc::new(serving)));
                    schedule::renew_after(life, fastrand::f64())
                }
                Err(why) => {
                    failures += 1;
                    self.give_way(&why, failures)
                }
            };
            self.wait(pause).await;
        }
    }

    /// Keeps what is still valid; returns when to try again.
    fn give_way(&self, why: &NoSvid, failures: u32) -> Duration {
        self.gauges.failures.inc();
        let held = self.publish.borrow().clone();
        let left = held.as_deref().map(left).unwrap_or_default();
        let name = self.config.name;
        match held {
            // At start the CA may come up beside us: quick tries first, and quiet ones.
            None => {
                if failures > QUIET {
                    warn!(error = %why, failures, name, "no serving certificate yet");
                }
                (FIRST_TRY * 2_u32.saturating_pow(failures.min(16))).min(LONGEST_FIRST)
            }
            Some(_) => {
                if left.is_zero() {
                    error!(error = %why, failures, name, "serving certificate expired and not renewed: pods of labelled namespaces wait; see signet ca status");
                } else {
                    warn!(error = %why, failures, left_s = left.as_secs(), name, "serving certificate not renewed; the valid one is kept");
                }
                schedule::retry_after(failures, left, fastrand::f64())
            }
        }
    }

    /// Sleeps for `pause`, or until the certificate that we hold rests on a root that is no longer trusted.
    async fn wait(&self, pause: Duration) {
        let wake = tokio::time::Instant::now() + pause;
        let mut trust = self.trust.watch();
        loop {
            tokio::select! {
                () = sleep_until(wake) => return,
                changed = trust.changed() => {
                    if changed.is_err() {
                        return sleep(pause).await;
                    }
                    let held = self.publish.borrow().clone();
                    if held.is_some_and(|serving| !self.is_believed(&serving)) {
                        warn!(name = self.config.name, "the serving certificate rests on a root that is no longer trusted; fetching another");
                        return;
                    }
                }
            }
        }
    }

    fn is_believed(&self, serving: &Serving) -> bool {
        let algorithms = self.provider.signature_verification_algorithms.all;
        self.trust.fault().is_some() || serving.check(algorithms, &self.trust, clock::unix_now()).is_ok()
    }

    /// One try, checked as a client of ours would.
    async fn fetch(&self) -> Result<Serving, NoSvid> {
        let svid = self.svid.clone();
        let config = move || svid.current().map(|generation| Arc::clone(&generation.grpc.client));
        let key = KeyPair::generate().map_err(|e| NoSvid::Key(e.to_string()))?;
        let request = IstioCertificateRequest {
            csr: csr(&key)?,
            metadata: Some(metadata(self.config.name)),
            ..Default::default()
        };
        let token = Some(self.config.token.read()?);
        let answer = request::ask(&self.config.ca, self.config.source, config, token, request).await?;
        let chain = request::chain(&answer, &self.trust)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| NoSvid::Key(e.to_owned()))?;
        let name = ServerName::try_from(self.config.name).map_err(|e| NoSvid::Key(e.to_string()))?;
        Serving::new(&name, chain, key, Arc::clone(&self.provider), &self.trust, clock::unix_now())
            .map_err(NoSvid::Tls)
    }
}

/// Without a name in it: the CA takes that from the metadata, and only for who may have it.
fn csr(key: &KeyPair) -> Result<String, NoSvid> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(key).and_then(|csr| csr.pem());
    csr.map_err(|e| NoSvid::Key(e.to_string()))
}

/// `{"serving": name}`, as the CA reads it.
fn metadata(name: &str) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(name.to_owned())) };
    Struct { fields: [(SERVING.to_owned(), value)].into() }
}

fn left(serving: &Serving) -> Duration {
    Duration::from_secs(u64::try_from(serving.not_after - clock::unix_now()).unwrap_or(0))
}

struct Gauges {
    not_after: Gauge<i64, AtomicI64>,
    issued: Counter,
    failures: Counter,
}

impl Gauges {
    fn new(metrics: &mut Metrics) -> Self {
        let not_after = "Our serving certificate's notAfter, Unix seconds";
        let failures = "Failed tries to get a serving certificate";
        Self {
            not_after: metrics.add("serving_not_after_seconds", not_after, Gauge::default()),
            issued: metrics.add("serving_issued", "Serving certificates issued to us", Counter::default()),
            failures: metrics.add("serving_failures", failures, Counter::default()),
        }
    }
}

/// Until there was one: pods of labelled namespaces wait meanwhile.
const LONGEST_FIRST: Duration = Duration::from_secs(2);
