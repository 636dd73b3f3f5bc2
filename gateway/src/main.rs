//! signet-gateway, the edge. This file wires and decides nothing.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::anyhow;
use clap::Parser as _;
use signet_core::{
    descriptors,
    drain::Drain,
    parent, runtime,
    signals::Signals,
    telemetry::{self, Metrics},
    tls,
    trust::Trust,
};
use signet_gateway::{
    Gateway, admin, args::Args, config::Config, feed, listeners, mesh::Ways, metrics::GatewayMetrics,
};
use signet_http::{engine::Engine, metrics::HttpMetrics};
use signet_link::{
    discovery::Discovery,
    svid::{Svid, SvidConfig},
    trust_file,
};
use signet_wire::pool::{self, Pool};
use tokio::time::sleep;
use tracing::info;

signet_allocator::settings!(dirty_ms = 1000);

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    telemetry::init(args.log_format, &args.log).map_err(|e| anyhow!(e))?;
    if args.exit_with_parent {
        parent::exit_with_parent()?;
    }
    let config = match args.bootstrap {
        Some(file) => Config::read(&file)?,
        None => Config::of_pod(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))?,
    };
    descriptors::raise(); // two for each of its connections, at the least
    runtime::run(config.workers, Box::pin(run(config)))?
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let (control, accepting, data) = (Drain::new(), Drain::new(), Drain::new());
    let mut metrics = Metrics::new();
    let trust = Trust::new(config.trust_domain.clone());
    trust_file::watch(config.trust_bundle_file.clone(), Arc::clone(&trust), &control);
    let svid = SvidConfig {
        id: config.id.clone(),
        ca: config.ca.clone(),
        token: config.token.clone(),
        source: config.source,
    };
    let provider = tls::mesh_provider(tls::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let svid = Svid::start(svid, provider, Arc::clone(&trust), &control, &mut metrics);
    let pages = admin::bind(config.admin).await?;
    let wires = Pool::new(&mut metrics);
    pool::run(Arc::clone(&wires), svid.clone(), &trust, &control);
    let ways = Ways::new(wires, svid.clone(), Arc::clone(&trust), algorithms, &config, &control);
    let serving = serde_json::to_string(&config.serving)?;
    info!(%serving, "limits");
    let engine =
        Engine::new(Arc::new(ways), config.http.clone(), HttpMetrics::new(&mut metrics), data.clone());
    let discovery = Discovery::new(&mut metrics);
    let gateway = Gateway::new(config, svid, trust, engine, GatewayMetrics::new(&mut metrics));
    pages.serve(&gateway, &discovery, metrics, &control);
    feed::run(&gateway, &discovery, &control);
    listeners::run(&gateway, &accepting, &data);
    info!(id = %gateway.config.id, edge = %gateway.config.edge.address, "started");

    signals.next().await;
    // The next one cuts.
    let (drain, finish) = (gateway.config.limits.drain, gateway.config.limits.finish);
    info!(accepting_s = drain.as_secs(), finishing_s = finish.as_secs(), "draining");
    gateway.drain();
    let cut = tokio::select! {
        biased;
        () = signals.next() => data.run(Duration::ZERO).await,
        cut = async {
            sleep(drain).await;
            accepting.run(Duration::ZERO).await;
            data.run(finish).await
        } => cut,
    };
    accepting.run(Duration::ZERO).await;
    control.run(Duration::ZERO).await;
    info!(cut, "drained");
    Ok(ExitCode::SUCCESS)
}
