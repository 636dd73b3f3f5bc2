//! Certificates per second of one core, the whole way but the transport: token, CSR parsed and verified, leaf signed, audit
//! line written to a real file, PEM. Budget of docs/design.md 12: 4 000.
//!
//! Counted in CPU time of the whole process (the audit log's thread included), so that a busy machine does not count.
//! `SIGNET_BENCH_OUT=FILE` writes the result as JSON.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints its numbers and stops at the first surprise"
)]

use std::{path::Path, process::ExitCode};

use clap::Parser as _;
use nix::time::{ClockId, clock_gettime};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use serde_json::json;
use signet_ca::{Args, Ca};
use signet_core::{drain::Drain, identity};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/api";
const BATCHES: usize = 9;
const BATCH: usize = 4_000;
/// Requests at the same time, as after a restart of many workloads; lines that wait together are written together.
const TOGETHER: usize = 16;
const TARGET: f64 = 4_000.0;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    // cargo passes --bench; under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS;
    }
    let directory = std::env::temp_dir().join(format!("signet-bench-ca-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (one_by_one, together) = runtime.block_on(measure(&directory));
    let audited = std::fs::read_to_string(directory.join("ca/audit.log")).unwrap().lines().count();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(audited > 2 * BATCHES * BATCH, "every certificate has its line");
    let held = report(&one_by_one, &together);
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Certificates per CPU second of each batch: asked for one after the other, and [`TOGETHER`] at a time.
async fn measure(directory: &Path) -> (Vec<f64>, Vec<f64>) {
    let state = format!("{0}/ca --trust-bundle {0}/trust.pem", directory.display());
    let line = format!("ca --listen 127.0.0.1:0 --state {state}");
    let args = Cli::parse_from(line.split_whitespace()).args;
    let drain = Drain::new();
    let ca = Ca::start(&args, &drain).await.unwrap();
    let csrs: Vec<String> = (0..64).map(|_| csr()).collect();
    batch(&ca, &csrs, TOGETHER).await; // warm
    let (mut one_by_one, mut together) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        one_by_one.push(batch(&ca, &csrs, 1).await);
        together.push(batch(&ca, &csrs, TOGETHER).await);
    }
    drain.run(std::time::Duration::from_secs(3)).await;
    (one_by_one, together)
}

async fn batch(ca: &Ca, csrs: &[String], at_once: usize) -> f64 {
    let id = identity::parse(ID).unwrap();
    let began = cpu_seconds();
    for first in (0..BATCH).step_by(at_once) {
        let requests = (first..first + at_once).map(|n| {
            let (token, csr) = (ca.join_token(id.clone()).unwrap(), &csrs[n % csrs.len()]);
            async move { ca.create_certificate(&token, csr).await.unwrap() }
        });
        let answers = futures_util::future::join_all(requests).await;
        assert!(answers.iter().all(|chain| chain[0].starts_with("-----BEGIN CERTIFICATE-----")));
    }
    BATCH as f64 / (cpu_seconds() - began)
}

fn csr() -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}

/// The bar is for the way that requests come when it matters: several at once.
fn report(one_by_one: &[f64], together: &[f64]) -> bool {
    println!("certificates per CPU second   median      min      max   ({BATCHES} batches of {BATCH})");
    for (name, rates) in [("one after the other", one_by_one), ("16 at a time", together)] {
        let (median, min, max) = spread(rates);
        println!("{name:<28} {median:>8.0} {min:>8.0} {max:>8.0}");
    }
    let held = spread(together).0 >= TARGET;
    println!("budget {TARGET:.0}: {}", if held { "held" } else { "MISSED" });
    if let Some(out) = std::env::var_os("SIGNET_BENCH_OUT") {
        let numbers = |rates: &[f64]| {
            let (median, min, max) = spread(rates);
            json!({ "median": median.round(), "min": min.round(), "max": max.round() })
        };
        let result = json!({
            "line": "6a",
            "held": held,
            "target": TARGET,
            "certificates_per_cpu_second": numbers(together),
            "certificates_per_cpu_second_one_by_one": numbers(one_by_one),
            "batches": BATCHES,
            "certificates_per_batch": BATCH,
            "cpu_time": "process, audit thread included",
        });
        std::fs::write(&out, format!("{result:#}\n")).unwrap();
    }
    held
}

fn spread(rates: &[f64]) -> (f64, f64, f64) {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
}
