//! What a full run leaves in docs/bench: the tables, every sample, and the records that docs/acceptance.md rests on.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    budgets::{self, Budget, Judged, SIGNET},
    edge, report,
    results::{Kind, Results},
    stats::Verdict,
};

/// Writes all of it.
pub fn publish(results: &Results) -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bench");
    fs::create_dir_all(&directory)?;
    let page = results.about.kind.word();
    fs::write(directory.join(format!("{page}.json")), json_by_line(results)?)?;
    fs::write(directory.join(format!("{page}.md")), report::markdown(results))?;
    let records = match results.about.kind {
        Kind::Dataplane => records(results, &budgets::all().collect::<Vec<_>>(), HONEST),
        Kind::Edge => records(results, &edge::budgets::all().collect::<Vec<_>>(), edge::budgets::HONEST),
    };
    for record in records {
        let line = record["line"].as_str().unwrap_or_default();
        fs::write(directory.join(format!("{line}.json")), format!("{record:#}\n"))?;
    }
    Ok(())
}

/// A sample per line, so that a diff shows them.
fn json_by_line(results: &Results) -> Result<String> {
    let list = |values: Vec<serde_json::Result<String>>| -> serde_json::Result<String> {
        Ok(values.into_iter().collect::<serde_json::Result<Vec<_>>>()?.join(",\n"))
    };
    Ok(format!(
        "{{\"about\": {},\n\"samples\": [\n{}\n],\n\"syscalls\": [\n{}\n],\n\"proof\": [\n{}\n]}}\n",
        serde_json::to_string(&results.about)?,
        list(results.samples.iter().map(serde_json::to_string).collect())?,
        list(results.syscalls.iter().map(serde_json::to_string).collect())?,
        list(results.proof.iter().map(serde_json::to_string).collect())?,
    ))
}

/// One per line of docs/acceptance.md, in the form of [bench] records; that of `honest` says that nothing failed.
fn records(results: &Results, all: &[&Budget], honest: &str) -> Vec<Value> {
    let about = &results.about;
    let record = |line: &str, held: bool, numbers: Value| {
        json!({
            "line": line, "commit": about.commit, "dirty": about.dirty, "begun": about.begun, "cores": about.cores,
            "rounds": about.rounds, "held": held, "numbers": numbers,
        })
    };
    let lines: BTreeSet<&str> = all.iter().map(|budget| budget.line).collect();
    let mut records: Vec<Value> = lines
        .into_iter()
        .map(|line| {
            let of_line = all.iter().filter(|budget| budget.line == line);
            let judged: Vec<_> = of_line.map(|budget| budget.judge(results, SIGNET)).collect();
            let held = judged.iter().all(|judged| {
                let rounds = judged.summary.map_or(0, |summary| summary.rounds);
                rounds >= budgets::ENOUGH && judged.verdict() == Some(Verdict::Holds)
            });
            record(line, held, judged.iter().map(Judged::to_json).collect())
        })
        .collect();
    let faults = results.faults();
    let held = faults.is_empty() && !results.proof.is_empty();
    records.push(record(honest, held, json!({"faults": faults, "proof": results.proof})));
    records
}

/// The line that says that mutual TLS was on and errors were 0.
const HONEST: &str = "5.2i";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{About, Sample};

    #[test]
    fn what_is_written_by_line_is_read_again() {
        let about = About { commit: "4de68a5".into(), ..About::default() };
        let sample = Sample { round: 3, system: "direct".into(), errors: 1, ..Sample::default() };
        let samples = vec![sample.clone(), sample];
        let results = Results { about, samples, syscalls: Vec::new(), proof: Vec::new() };
        let again: Results = serde_json::from_str(&json_by_line(&results).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{results:?}"));
    }
}
