//! signet-proxy, the sidecar. This file wires and decides nothing.

use std::{process::ExitCode, sync::Arc};

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
use signet_link::{
    svid::{Svid, SvidConfig},
    trust_file,
};
use signet_proxy::{
    Proxy, admin,
    args::{Args, Command},
    balance::Balance,
    canary::Canary,
    capture::self_test::{self, Process},
    config::Config,
    connections::Connections,
    discovery::{self, Discovery},
    inbound, judge, limits,
    model::Model,
    outbound,
    probes::Probes,
    report,
};
use signet_wire::{
    client::Client,
    pool::{self, Pool},
};
use tracing::info;

signet_allocator::settings!(dirty_ms = 1000);

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    telemetry::init(args.log_format, &args.log).map_err(|e| anyhow!(e))?;
    if args.exit_with_parent {
        parent::exit_with_parent()?;
    }
    if let Some(Command::Capture(capture)) = args.command {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(capture.run()).map(|()| ExitCode::SUCCESS);
    }
    let mut config = match args.bootstrap {
        Some(file) => Config { captured: args.captured, ..Config::read(&file)? },
        None => Config::of_pod(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))?,
    };
    config.limits.connections = limits::connections_for(descriptors::raise());
    // One worker, and no other thread to wake: a sidecar must not take a node's cores by default; enough for 30 000 requests/s
    // (relay/REPORT.md).
    runtime::run(1, Box::pin(run(config)))?
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let provider = tls::mesh_provider(tls::default_provider());
    let (control, data) = (Drain::new(), Drain::new());
    let mut metrics = Metrics::new();
    let trust = Trust::new(config.trust_domain.clone());
    trust_file::watch(config.trust_bundle_file.clone(), Arc::clone(&trust), &control);
    let svid = SvidConfig {
        id: config.workload.id.clone(),
        ca: config.ca.clone(),
        token: config.token(),
        source: config.source(),
    };
    let svid = Svid::start(svid, Arc::clone(&provider), Arc::clone(&trust), &control, &mut metrics);
    let connections = Connections::new(&mut metrics);
    let discovery = Discovery::new(&mut metrics);
    let model = Model::new(config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)));
    let admin = admin::bind(&config).await?;
    let probes = Probes::new(&config, &mut metrics)?;
    let (inbound, outbound) = (inbound::bind(&config).await?, outbound::bind(&config).await?); // all bound before any serves
    let self_test = if config.captured { Some(self_test::Listeners::bind().await?) } else { None };
    let canary = config.captured.then(|| Canary::new(Process::new(), &mut metrics));
    let source = Some(config.workload.address);
    let (pool, algorithms) = (Pool::new(&mut metrics), provider.signature_verification_algorithms);
    let patience = config.limits.wire.clone();
    let client = Client::new(pool, svid.clone(), Arc::clone(&trust), algorithms, source, patience, &control);
    let draining = Default::default();
    let proxy = Arc::new(Proxy {
        config,
        model,
        svid,
        trust,
        connections,
        balance: Balance::default(),
        client,
        provider,
        draining,
        canary,
    });
    admin.serve(&proxy, &discovery, probes, metrics, &control);
    discovery::run(&discovery, Arc::clone(&proxy), &control);
    report::run(Arc::clone(&proxy), &discovery, &control);
    judge::run(Arc::clone(&proxy), &control);
    pool::run(Arc::clone(&proxy.client.pool), proxy.svid.clone(), &proxy.trust, &control);
    inbound.serve(&proxy, &data);
    outbound.serve(&proxy, &data);
    if let (Some(self_test), Some(canary)) = (self_test, &proxy.canary) {
        self_test.serve(canary.process(), &control);
        canary.run(&control);
    }
    info!(workload = %proxy.config.workload.id, address = %proxy.config.workload.address, "serving");
    signals.next().await;
    proxy.drain(&data).await;
    let cut = data.run(std::time::Duration::ZERO).await;
    control.run(std::time::Duration::ZERO).await;
    info!(cut, "drained");
    Ok(ExitCode::SUCCESS)
}
