//! Holds docs/acceptance.md to what it says: every promise of an issue has its test, and the test ran.
//!
//! `acceptance check RESULTS DOCS` fails when a [test] row names a test that is not among the results, was ignored or
//! failed, or when a [soak] or [bench] row has no record that it held. `acceptance update RESULTS DOCS` writes the last
//! durations into the page. RESULTS is what `timed-tests` wrote.

use std::{collections::BTreeMap, env, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

fn main() -> Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [verb, results, docs] = &args[..] else { bail!("usage: acceptance check|update RESULTS DOCS") };
    let page = Path::new(docs).join("acceptance.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let results = fs::read_to_string(results).with_context(|| format!("{results}: run make test first"))?;
    let results = parse_results(&results)?;
    match verb.as_str() {
        "check" => Ok(check(&text, &results, Path::new(docs))),
        "update" => {
            fs::write(&page, update(&text, &results))?;
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("{other:?} is neither check nor update"),
    }
}

fn check(text: &str, results: &Results, docs: &Path) -> ExitCode {
    let rows = rows(text);
    let mut faults: Vec<String> = Vec::new();
    if rows.is_empty() {
        faults.push("the page has no rows".into());
    }
    for row in &rows {
        faults.extend(row.faults(results, docs).into_iter().map(|fault| format!("{}: {fault}", row.line)));
    }
    for fault in &faults {
        eprintln!("acceptance: {fault}");
    }
    eprintln!("acceptance: {} promises, {} faults", rows.len(), faults.len());
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Durations are the last column of each row; everything else stays as it was.
fn update(text: &str, results: &Results) -> String {
    let mut page = String::new();
    for line in text.lines() {
        match Row::parse(line).and_then(|row| row.duration(results)) {
            Some(duration) => {
                let kept = line.trim_end().trim_end_matches('|');
                let kept = kept.rfind('|').map_or(kept, |at| &kept[..at]);
                page.push_str(&format!("{kept}| {duration} |"));
            }
            None => page.push_str(line),
        }
        page.push('\n');
    }
    page
}

/// `demo::a_plain_user...` -> (seconds, outcome). A test that ran twice counts as it ended last.
type Results = BTreeMap<String, (f64, String)>;

fn parse_results(text: &str) -> Result<Results> {
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (Some(test), Some(seconds), Some(outcome)) = (words.next(), words.next(), words.next())
            else {
                bail!("{line:?} is not <test> <seconds> <outcome>");
            };
            Ok((test.to_owned(), (seconds.parse().with_context(|| line.to_owned())?, outcome.to_owned())))
        })
        .collect()
}

fn rows(text: &str) -> Vec<Row> {
    text.lines().filter_map(Row::parse).collect()
}

/// `| 3.1a | [test] | promise | demo::name, demo::other | 1.2 s |`
struct Row {
    line: String,
    kind: String,
    tests: Vec<String>,
}

impl Row {
    /// None for prose, headings and the rule below them.
    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let [line, kind, _promise, tests, _last, ..] = cells[..] else { return None };
        let kind = kind.strip_prefix('[')?.strip_suffix(']')?;
        let tests = tests.split(',').map(|test| test.trim().trim_matches('`').to_owned());
        let tests = tests.filter(|test| !test.is_empty()).collect();
        Some(Self { line: line.to_owned(), kind: kind.to_owned(), tests })
    }

    fn faults(&self, results: &Results, docs: &Path) -> Vec<String> {
        match self.kind.as_str() {
            "test" if self.tests.is_empty() => vec!["names no test".into()],
            "test" => self.tests.iter().filter_map(|test| fault_of(test, results)).collect(),
            "soak" | "bench" => {
                let record = docs.join(&self.kind).join(format!("{}.json", self.line));
                record_fault(&record).map(|why| format!("{}: {why}", record.display())).into_iter().collect()
            }
            other => vec![format!("[{other}] is none of [test], [soak], [bench]")],
        }
    }

    fn duration(&self, results: &Results) -> Option<String> {
        let times: Option<Vec<f64>> =
            self.tests.iter().map(|test| results.get(test).map(|(s, _)| *s)).collect();
        let total: f64 = times.filter(|times| !times.is_empty() && self.kind == "test")?.iter().sum();
        Some(format!("{total:.1} s"))
    }
}

fn fault_of(test: &str, results: &Results) -> Option<String> {
    match results.get(test).map(|(_, outcome)| outcome.as_str()) {
        Some("ok") => None,
        Some(outcome) => Some(format!("{test} was {outcome}")),
        None => Some(format!("{test} did not run")),
    }
}

/// The record that `make soak` or `make bench` left must say that the promise held, and for which commit.
fn record_fault(record: &Path) -> Option<String> {
    let Ok(text) = fs::read_to_string(record) else {
        return Some("no record; run make soak or make bench".into());
    };
    let Ok(record) = serde_json::from_str::<serde_json::Value>(&text) else { return Some("not JSON".into()) };
    if record["held"] != true {
        return Some("says that the promise did not hold".into());
    }
    let commit = record["commit"].as_str().unwrap_or_default();
    let is_hash = commit.len() >= SHORTEST_HASH && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    (!is_hash).then(|| format!("names no commit: {commit:?}"))
}

/// git's own default for abbreviated hashes.
const SHORTEST_HASH: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Acceptance\n\n| line | kind | promise | tests | last |\n|---|---|---|---|---|\n\
        | 3.1a | [test] | a | `demo::a`, `demo::b` | - |\n| 3.2c | [soak] | b | `soak::c` | - |\n";

    fn faults(results: &str) -> Vec<String> {
        let results = parse_results(results).unwrap();
        rows(PAGE).iter().flat_map(|row| row.faults(&results, Path::new("/nowhere"))).collect()
    }

    #[test]
    fn a_named_test_must_have_run_and_passed() {
        let soak = "/nowhere/soak/3.2c.json: no record; run make soak or make bench";
        assert_eq!(faults("demo::a 1.0 ok\ndemo::b 0.5 ok"), [soak]);
        assert_eq!(faults("demo::a 1.0 ignored\n"), ["demo::a was ignored", "demo::b did not run", soak]);
        assert_eq!(faults("demo::a 1.0 failed\ndemo::b 0.1 ok\n"), ["demo::a was failed", soak]);
    }

    #[test]
    fn a_record_must_say_that_the_promise_held_and_for_which_commit() {
        let path = env::temp_dir().join(format!("signet-record-{}.json", std::process::id()));
        for (record, ok) in [
            (r#"{"held": true, "commit": "4de68a5"}"#, true),
            (r#"{"held": false, "commit": "4de68a5"}"#, false),
            (r#"{"held": true}"#, false),
            (r#"{"held": true, "commit": "unknown"}"#, false),
            ("", false),
        ] {
            fs::write(&path, record).unwrap();
            assert_eq!(record_fault(&path).is_none(), ok, "{record}");
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_update_changes_the_last_column_only() {
        let results = parse_results("demo::a 1.0 ok\ndemo::b 0.52 ok").unwrap();
        assert_eq!(update(PAGE, &results), PAGE.replacen("`demo::b` | - |", "`demo::b` | 1.5 s |", 1));
    }
}
