//! The tables of docs/bench/edge.md, from the samples alone.

use crate::{
    budgets::SIGNET,
    edge::{budgets, systems::System, workloads::Workload},
    idle::START,
    report::{self, Column, figures, table},
    results::Results,
    stats::{Summary, ratios},
};

/// All of it.
pub fn markdown(results: &Results) -> String {
    let systems = System::ALL.map(System::word);
    let mut page = report::head(results, "The edge beside its peers");
    page += &report::budgets(results, budgets::all());
    page += &beside(results);
    for workload in Workload::ALL {
        let unit = if workload.is_handshakes() { "handshake, its request included" } else { "request" };
        let columns = [
            Column::of("CPU-us", "cpu_us", 1),
            Column::of("per second of CPU", "per_cpu_second", 0),
            Column::of("per second", "per_second", 0),
            Column::of("p50 us", "p50_us", 0),
            Column::of("p99 us", "p99_us", 0),
        ];
        let title = format!("{}: each {unit}", workload.word());
        page += &figures(results, &systems, &title, &workload.word(), &columns);
    }
    let start = [Column::of("base MB", "base_mb", 1), Column::of("ms to ready", "ready_ms", 0)];
    page += &figures(results, &systems, "start: memory (PSS) with one host", START, &start);
    page += &report::proof(results, "Did everything go through TLS?");
    page += &report::faults(results);
    page
}

/// Ours over each peer's, whether or not a bound is about it.
fn beside(results: &Results) -> String {
    let mut rows = Vec::new();
    for workload in Workload::ALL.map(Workload::word) {
        let ours = results.by_round(SIGNET, &workload, "cpu_us");
        for peer in [System::Nginx, System::Haproxy, System::Envoy].map(System::word) {
            let theirs = results.by_round(peer, &workload, "cpu_us");
            if let Some(summary) = Summary::of(&ratios(&ours, &theirs)) {
                let number = |value| report::number(value, 2);
                rows.push(vec![
                    workload.clone(),
                    peer.into(),
                    number(summary.median),
                    format!("{}..{}", number(summary.low), number(summary.high)),
                    format!("{}..{}", number(summary.min), number(summary.max)),
                    summary.rounds.to_string(),
                ]);
            }
        }
    }
    table(
        "CPU beside each peer: signet's over theirs",
        &["workload", "beside", "median", "95 %", "range", "n"],
        rows,
    )
}
