//! The injector: a pod on its way into the cluster -> the same pod with a proxy. `inject` is pure, from `judge` (whether, and
//! what it asks for) over `probes`, `resources` and `ours` to a `patch`; `webhook` (`review` is its language) calls it for the
//! API server, `manifests` for `signet inject` and `uninject`. docs/injection.md is the user's page.
//!
//! It has no rights in the cluster and asks nothing of the API server.

mod args;
mod document;
mod inject;
mod judge;
pub mod manifests;
mod metrics;
mod ours;
mod patch;
mod probes;
mod quantity;
mod resources;
pub mod review;
mod serve;
mod verdict;
mod webhook;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use signet_core::{
    drain::Drain,
    identity::{self, TrustDomain},
    pod::INJECTOR_NAME,
    signals::Signals,
    telemetry, tls,
    trust::Trust,
};
use signet_link::{
    Target, listen,
    serving::{Certificate, ServingConfig},
    svid::{Svid, SvidConfig, Token},
    trust_file,
};
use tokio::time::sleep;
use tracing::info;

pub use crate::{
    args::{Args, Meshed},
    inject::{NamespaceView, Outcome, Settings, inject, uninject},
    patch::Op,
    verdict::{Refusal, Skip},
};
use crate::{metrics::InjectorMetrics, webhook::Webhook};

/// Runs the webhook until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(args.log_format, &args.log).map_err(anyhow::Error::msg)?;
    let mut signals = Signals::listen()?;
    let (pages, work) = (Drain::new(), Drain::new());
    let webhook = start(&args, &pages, &work).await?;
    info!(listen = %args.listen, image = %args.meshed.image, "the injector waits for its certificates");
    signals.next().await;
    webhook.leave();
    sleep(LEAVE).await;
    let cut = work.run(GRACE).await;
    pages.run(Duration::ZERO).await;
    info!(cut, "the injector has stopped");
    Ok(())
}

/// Wires an injector, and decides nothing. What serves lives in `work`, the pages beyond it in `pages`.
async fn start(args: &Args, pages: &Drain, work: &Drain) -> anyhow::Result<Arc<Webhook>> {
    let settings = args.meshed.settings(&args.ca)?;
    let domain = TrustDomain::new(&args.meshed.trust_domain)?;
    let mut registry = telemetry::Metrics::new();
    let metrics = InjectorMetrics::new(&mut registry);
    let provider = tls::mesh_provider(tls::default_provider());
    let trust = Trust::new(domain.clone());
    trust_file::watch(args.trust_bundle.clone(), Arc::clone(&trust), work);
    let ca = Target { address: args.ca.clone(), id: identity::ca(&domain) };
    let source = Some(args.listen.ip()).filter(|ip| !ip.is_unspecified());
    let token = Token::Projected(args.token_file.clone());
    let svid = SvidConfig { id: identity::injector(&domain), ca: ca.clone(), token: token.clone(), source };
    let svid = Svid::start(svid, provider, Arc::clone(&trust), work, &mut registry);
    let serving = ServingConfig { name: INJECTOR_NAME, ca, token, source };
    let certificate = Certificate::start(serving, svid, trust, work, &mut registry);
    let bind = async |address, flag| {
        listen::bind(address).await.with_context(|| format!("listening on {address} ({flag})"))
    };
    let listener = bind(args.listen, "--listen").await?;
    let pages_listener = bind(args.pages, "--pages").await?; // both bound before either serves
    let webhook = Arc::new(Webhook::new(settings, certificate, metrics, registry));
    webhook.serve_pages(pages_listener, pages);
    webhook.serve(listener, work);
    Ok(webhook)
}

/// From unready to closed: until no node sends new connections here. kube-proxy takes about a second; a slow one, five.
const LEAVE: Duration = Duration::from_secs(5);
/// For what is still being answered; an answer takes milliseconds.
const GRACE: Duration = Duration::from_secs(3);
