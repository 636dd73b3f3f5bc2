//! The tables of docs/bench/dataplane.md, from the samples alone; those of edge.md are made of the same parts.

use std::{collections::BTreeMap, fmt::Write as _, sync::LazyLock};

use crate::{
    budgets::{self, Budget, Judged, SIGNET},
    edge,
    idle::START,
    results::{Kind, Results},
    stats::{Summary, differences},
    systems::System,
    workloads::Workload,
};

/// All of it.
pub fn markdown(results: &Results) -> String {
    match results.about.kind {
        Kind::Dataplane => dataplane(results),
        Kind::Edge => edge::report::markdown(results),
    }
}

fn dataplane(results: &Results) -> String {
    let mut page = head(results, "The data plane beside its peers");
    page += &budgets(results, budgets::all());
    page += &cpu(results);
    page += &latency(results);
    page += &bulk(results);
    page += &memory(results);
    page += &syscalls(results);
    page += &proof(results, "Was mutual TLS on?");
    page += &faults(results);
    page
}

pub fn head(results: &Results, title: &str) -> String {
    let about = &results.about;
    let dirty = if about.dirty { ", with changes that no commit has" } else { "" };
    let range = |of: fn(&crate::results::Sample) -> f64| {
        let values: Vec<f64> = results.samples.iter().map(of).collect();
        Summary::of(&values).map_or_else(|| "-".into(), |s| plain(&s, 1))
    };
    let mut page = format!(
        "# {title}\n\nWritten by `make bench`; docs/bench/README.md says how to read it. Every sample is \
         in {}.json.\n\nCommit {}{dirty}; begun {}; {} rounds, {} s per cell; {} cores of {}; Linux {}. \
         Steal during a sample: {} % (median [range]); load: {}.\n\n",
        about.kind.word(),
        about.commit,
        about.begun,
        about.rounds,
        about.seconds_per_cell,
        about.cores,
        about.cpu,
        about.kernel,
        range(|sample| sample.steal_percent),
        range(|sample| sample.load),
    );
    for (name, version) in &about.versions {
        let _ = writeln!(page, "- {name}: {version}"); // to a String
    }
    page
}

pub fn budgets(results: &Results, all: impl Iterator<Item = &'static Budget> + Clone) -> String {
    let mut rows = Vec::new();
    for build in [SIGNET, System::SignetOther.word()] {
        for budget in all.clone() {
            let ours = budget.ours(build);
            let judged = budget.judge(results, build);
            if judged.summary.is_some() && (build == SIGNET || ours == build) {
                rows.push(budget_row(ours, &judged));
            }
        }
    }
    let head = [
        "line", "who", "workload", "figure", "beside", "median", "95 %", "range", "n", "bound", "verdict",
        "later",
    ];
    table("Budgets (docs/design.md section 12)", &head, rows)
}

fn budget_row(ours: &str, judged: &Judged<'_>) -> Vec<String> {
    let budget = judged.budget;
    let Some(summary) = judged.summary else { return Vec::new() };
    let invalid =
        if judged.invalid > 0 { format!(", {} rounds with errors", judged.invalid) } else { String::new() };
    let so_far = if summary.rounds < budgets::ENOUGH { " so far" } else { "" };
    let later = budget.later.map(|bound| format!("{bound}: {}", summary.verdict(bound).word()));
    vec![
        budget.line.into(),
        ours.into(),
        budget.workload.into(),
        budget.figure.into(),
        budget.peer.unwrap_or("-").into(),
        number(summary.median, 2),
        format!("{}..{}", number(summary.low, 2), number(summary.high, 2)),
        format!("{}..{}", number(summary.min, 2), number(summary.max, 2)),
        summary.rounds.to_string(),
        budget.bound.to_string(),
        format!("{}{so_far}{invalid}", judged.verdict().map_or("-", crate::stats::Verdict::word)),
        later.unwrap_or_else(|| "-".into()),
    ]
}

fn cpu(results: &Results) -> String {
    let columns = [
        Column::of("both proxies", "cpu_us", 1),
        Column::of("client's", "cpu_us_client", 1),
        Column::of("server's", "cpu_us_server", 1),
        Column::of("per second", "per_second", 0),
        Column::of("p50 us", "p50_us", 0),
        Column::of("p99 us", "p99_us", 0),
    ];
    let workloads = Workload::ALL.into_iter().filter(|workload| {
        matches!(
            workload,
            Workload::KeepAlive(_)
                | Workload::NewConnection(_)
                | Workload::FirstContact(_)
                | Workload::Rate(_)
        )
    });
    let tables = workloads.map(|workload| {
        let title = format!("{}: CPU-us per exchange", workload.word());
        figures(results, &SYSTEMS, &title, &workload.word(), &columns)
    });
    tables.collect()
}

/// At a fixed rate: what a system adds to the way without any.
fn latency(results: &Results) -> String {
    let mut rows = Vec::new();
    for workload in Workload::ALL.into_iter().filter(|workload| matches!(workload, Workload::Rate(_))) {
        let workload = workload.word();
        for system in System::ALL.into_iter().filter(|system| *system != System::Direct) {
            let added = |figure: &str| {
                let [ours, direct] =
                    [system, System::Direct].map(|system| results.by_round(system.word(), &workload, figure));
                Summary::of(&differences(&ours, &direct))
            };
            if let (Some(p50), Some(p99)) = (added("p50_us"), added("p99_us")) {
                rows.push(vec![workload.clone(), system.word().into(), plain(&p50, 0), plain(&p99, 0)]);
            }
        }
    }
    table("Latency added over direct, in us, open loop", &["workload", "system", "p50", "p99"], rows)
}

fn bulk(results: &Results) -> String {
    let columns = [
        Column::of("both proxies", "cpu_s_per_gib", 2),
        Column::of("client's", "cpu_s_per_gib_client", 2),
        Column::of("server's", "cpu_s_per_gib_server", 2),
        Column::of("MiB/s", "mib_per_s", 0),
    ];
    let workloads = [Workload::Down, Workload::Up, Workload::Parallel].map(Workload::word);
    let tables = workloads.iter().map(|workload| {
        figures(results, &SYSTEMS, &format!("{workload}: CPU-s per GiB"), workload, &columns)
    });
    tables.collect()
}

fn memory(results: &Results) -> String {
    let start = [Column::of("base MB", "base_mb", 1), Column::of("ms to ready", "ready_ms", 0)];
    let mut idle = Vec::new();
    for size in [2_000, 8_000] {
        for side in ["client", "server"] {
            let figure = format!("kb_per_connection_{size}_{side}");
            idle.push(Column { head: format!("kB each at {size}, {side}'s"), figure, digits: 1 });
        }
    }
    idle.push(Column::of("MB over base 10 s after", "over_base_mb_after_10_s", 1));
    idle.push(Column::of("CPU-ms per idle second at 8000", "idle_cpu_ms_per_s_8000", 1));
    let larger = "memory (PSS) of a proxy; of the larger one where no side is named";
    figures(results, &SYSTEMS, &format!("start: {larger}"), START, &start)
        + &figures(results, &SYSTEMS, &format!("idle: {larger}"), &Workload::Idle.word(), &idle)
}

pub struct Column {
    head: String,
    figure: String,
    digits: usize,
}

impl Column {
    pub fn of(head: &str, figure: &str, digits: usize) -> Self {
        Self { head: head.into(), figure: figure.into(), digits }
    }
}

/// One row per system: each figure as median [range].
pub fn figures(
    results: &Results,
    systems: &[&str],
    title: &str,
    workload: &str,
    columns: &[Column],
) -> String {
    let mut rows = Vec::new();
    for system in systems {
        let values: Vec<BTreeMap<u32, f64>> =
            columns.iter().map(|column| results.by_round(system, workload, &column.figure)).collect();
        let rounds = values.iter().map(BTreeMap::len).max().unwrap_or_default();
        if rounds == 0 {
            continue;
        }
        let mut row = vec![(*system).to_owned()];
        for (values, column) in values.iter().zip(columns) {
            let values: Vec<f64> = values.values().copied().collect();
            row.push(
                Summary::of(&values).map_or_else(|| "-".into(), |summary| plain(&summary, column.digits)),
            );
        }
        row.push(rounds.to_string());
        rows.push(row);
    }
    let mut head = vec!["system"];
    head.extend(columns.iter().map(|column| column.head.as_str()));
    head.push("n");
    table(title, &head, rows)
}

fn syscalls(results: &Results) -> String {
    let rows = results.syscalls.iter().map(|counted| {
        let failed = |name: &str| match counted.failed.get(name) {
            Some(failed) => format!(" ({failed:.2} failed)"),
            None => String::new(),
        };
        let mut calls: Vec<(&String, &f64)> = counted.calls.iter().collect();
        calls.sort_by(|a, b| b.1.total_cmp(a.1));
        let calls: Vec<String> =
            calls.into_iter().map(|(name, calls)| format!("{name} {calls:.2}{}", failed(name))).collect();
        vec![
            counted.workload.clone(),
            counted.system.clone(),
            counted.side.clone(),
            number(counted.sum(), 1),
            calls.join(", "),
        ]
    });
    table(
        "System calls per request (strace, not timed)",
        &["workload", "system", "side", "sum", "calls"],
        rows.collect(),
    )
}

pub fn proof(results: &Results, title: &str) -> String {
    let rows = results.proof.iter().map(|proof| {
        let strangers: Vec<String> =
            proof.strangers.iter().map(|(stranger, fate)| format!("{stranger}: {fate}")).collect();
        let marker = if proof.marker_seen { "seen" } else { "not seen" };
        let faults = proof.faults();
        vec![
            proof.system.clone(),
            if proof.negotiated.is_empty() { "plaintext".into() } else { proof.negotiated.join("; ") },
            format!("{marker} in {} kB", proof.captured_bytes / 1000),
            strangers.join("; "),
            if faults.is_empty() { "as it should be".into() } else { format!("**{}**", faults.join("; ")) },
        ]
    });
    let head = [
        "system",
        "negotiated on the link",
        "plaintext marker",
        "who called, and what became of it",
        "verdict",
    ];
    table(title, &head, rows.collect())
}

pub fn faults(results: &Results) -> String {
    let faults = results.faults();
    if faults.is_empty() {
        return "\n## Errors\nNone in any sample.\n".into();
    }
    let lines = faults.iter().map(|fault| format!("- {fault}\n"));
    format!("\n## Errors\nSamples with errors are in no figure above.\n{}", lines.collect::<String>())
}

/// Nothing without rows.
pub fn table(title: &str, head: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = vec!["---".to_owned(); head.len()];
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("\n## {title}\n{}{}{rows}", line(&head), line(&rule))
}

pub fn plain(summary: &Summary, digits: usize) -> String {
    let Summary { median, min, max, .. } = *summary;
    format!("{} [{}..{}]", number(median, digits), number(min, digits), number(max, digits))
}

/// In the order of the tables.
static SYSTEMS: LazyLock<Vec<&str>> = LazyLock::new(|| System::ALL.map(System::word).to_vec());

pub fn number(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}
