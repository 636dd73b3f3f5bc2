//! The L4 budgets of docs/design.md section 12, and what a run says about each.

use serde_json::{Value, json};

use crate::{
    idle::START,
    results::Results,
    stats::{Summary, Verdict, ratios},
};

/// One bound.
pub struct Budget {
    /// Of docs/acceptance.md.
    pub line: &'static str,
    pub workload: &'static str,
    pub figure: &'static str,
    /// Signet, unless the bound is of another key exchange.
    pub ours: &'static str,
    /// Beside whom; `None`: the figure itself is bounded.
    pub peer: Option<&'static str>,
    pub bound: f64,
    /// What design section 12 wants later.
    pub later: Option<f64>,
}

/// A budget after a run.
pub struct Judged<'a> {
    pub budget: &'a Budget,
    /// Of the ratios or of the figure; `None`: not measured.
    pub summary: Option<Summary>,
    /// Rounds of ours or of the peer that had errors.
    pub invalid: usize,
}

/// As shipped; `signet-other` may stand in its place.
pub const SIGNET: &str = "signet";
/// Rounds without which nothing was shown.
pub const ENOUGH: usize = 10;

impl Budget {
    /// The word of ours, where `build` is Signet or the other build of it.
    pub fn ours<'a>(&self, build: &'a str) -> &'a str {
        if self.ours == SIGNET { build } else { self.ours }
    }

    /// `build`: Signet, or the other build of it in its place.
    pub fn judge<'a>(&'a self, results: &Results, build: &str) -> Judged<'a> {
        let ours = self.ours(build);
        let values = results.by_round(ours, self.workload, self.figure);
        let values: Vec<f64> = match self.peer {
            Some(peer) => ratios(&values, &results.by_round(peer, self.workload, self.figure)),
            None => values.into_values().collect(),
        };
        let concerned = |system: &str| system == ours || self.peer == Some(system);
        let invalid = results.invalid().into_iter();
        let invalid =
            invalid.filter(|sample| sample.workload == self.workload && concerned(&sample.system)).count();
        Judged { budget: self, summary: Summary::of(&values), invalid }
    }
}

impl Judged<'_> {
    /// Errors may have saved work, so a bound with an invalid round never holds.
    pub fn verdict(&self) -> Option<Verdict> {
        let verdict = self.summary?.verdict(self.budget.bound);
        Some(if self.invalid > 0 && verdict == Verdict::Holds { Verdict::Undecided } else { verdict })
    }

    /// For the record of its line.
    pub fn to_json(&self) -> Value {
        json!({
            "workload": self.budget.workload,
            "figure": self.budget.figure,
            "ours": self.budget.ours,
            "peer": self.budget.peer,
            "bound": self.budget.bound,
            "measured": self.summary,
            "invalidRounds": self.invalid,
            "verdict": self.verdict(),
        })
    }
}

/// Ours over a peer's.
pub const fn ratio(
    line: &'static str,
    workload: &'static str,
    figure: &'static str,
    peer: &'static str,
    bound: f64,
    later: f64,
) -> Budget {
    Budget { line, workload, figure, ours: SIGNET, peer: Some(peer), bound, later: Some(later) }
}

const fn figure(line: &'static str, workload: &'static str, figure: &'static str, bound: f64) -> Budget {
    Budget { line, workload, figure, ours: SIGNET, peer: None, bound, later: None }
}

/// Per line of docs/acceptance.md one promise, which may be several bounds.
pub static BUDGETS: [Budget; 18] = [
    ratio("5.2j", "keepalive-1", "cpu_us", "haproxy", 1.1, 1.0),
    ratio("5.2a", "keepalive-16", "cpu_us", "haproxy", 1.1, 1.0),
    ratio("5.2a", "keepalive-64", "cpu_us", "haproxy", 1.1, 1.0),
    ratio("5.2j", "keepalive-1", "cpu_us", "envoy", 0.68, 0.5),
    ratio("5.2b", "keepalive-16", "cpu_us", "envoy", 0.68, 0.5),
    ratio("5.2b", "keepalive-64", "cpu_us", "envoy", 0.58, 0.5),
    ratio("5.2j", "keepalive-1", "cpu_us", "nginx", 0.85, 0.8),
    ratio("5.2c", "keepalive-16", "cpu_us", "nginx", 0.85, 0.8),
    ratio("5.2c", "keepalive-64", "cpu_us", "nginx", 0.85, 0.8),
    ratio("5.2d", "newconn-16", "cpu_us", "haproxy", 1.0, 0.85),
    // Each beside the same key exchange.
    ratio("5.2e", "first-contact-16", "cpu_us", "envoy-mlkem", 0.75, 0.55),
    Budget { ours: "signet-x25519", ..ratio("5.2l", "first-contact-16", "cpu_us", "envoy", 0.75, 0.55) },
    ratio("5.2f", "down-1gib", "cpu_s_per_gib", "envoy", 0.9, 0.75),
    ratio("5.2f", "up-1gib", "cpu_s_per_gib", "envoy", 0.9, 0.75),
    ratio("5.2f", "down-4-parallel", "cpu_s_per_gib", "envoy", 0.9, 0.75),
    figure("5.2g", START, "base_mb", 6.0),
    figure("5.2k", "idle", "kb_per_connection_8000", 6.5),
    figure("5.2g", "idle", "over_base_mb_after_10_s", 3.0),
];

/// Time from start to ready is no L4 budget, but is measured here.
pub static READY: Budget = figure("5.2h", START, "ready_ms", 300.0);

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Budget> + Clone {
    BUDGETS.iter().chain([&READY])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{systems::System, workloads::Workload};

    #[test]
    fn every_budget_names_a_workload_that_its_peer_takes_part_in() {
        for budget in all().filter(|budget| budget.workload != START) {
            let workload =
                Workload::ALL.into_iter().find(|workload| workload.word() == budget.workload).unwrap();
            let takes_part = |word| workload.concerns(System::parse(word).unwrap());
            assert!(
                takes_part(budget.ours) && budget.peer.is_none_or(takes_part),
                "{} {}",
                budget.line,
                budget.workload
            );
        }
    }
}
