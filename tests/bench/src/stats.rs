//! Medians, pairs and intervals, and the rule by which a budget holds (docs/design.md section 12).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Values of several rounds in four numbers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Summary {
    pub rounds: usize,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// 95 % interval of the median, by bootstrap.
    pub low: f64,
    pub high: f64,
}

/// What a budget's rule says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The median is not above the bound, and the interval ends below 1.1 times it.
    Holds,
    /// The whole interval is above the bound.
    Missed,
    /// Neither was shown.
    Undecided,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = interval(&sorted);
        Some(Self { rounds: sorted.len(), median: median(&sorted), min, max, low, high })
    }

    pub fn verdict(&self, bound: f64) -> Verdict {
        if self.median <= bound && self.high < bound * SLACK {
            Verdict::Holds
        } else if self.low > bound {
            Verdict::Missed
        } else {
            Verdict::Undecided
        }
    }
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Missed => "**missed**",
            Self::Undecided => "undecided",
        }
    }
}

/// Ours over theirs, of the rounds that have both: only neighbours in time are compared.
pub fn ratios(ours: &BTreeMap<u32, f64>, theirs: &BTreeMap<u32, f64>) -> Vec<f64> {
    ours.iter().filter_map(|(round, ours)| Some(ours / theirs.get(round)?)).collect()
}

/// Ours less theirs, in the same way.
pub fn differences(ours: &BTreeMap<u32, f64>, theirs: &BTreeMap<u32, f64>) -> Vec<f64> {
    ours.iter().filter_map(|(round, ours)| Some(ours - theirs.get(round)?)).collect()
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Percentile bootstrap of the median: the same seed, so the same interval each time it is printed.
fn interval(values: &[f64]) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut again: Vec<f64> =
                (0..values.len()).map(|_| values[random.usize(..values.len())]).collect();
            again.sort_by(f64::total_cmp);
            median(&again)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40]) // 2.5 % at each end
}

/// Of the rule: noise may reach so far beyond the bound.
const SLACK: f64 = 1.1;
const RESAMPLES: usize = 10_000;
const SEED: u64 = 20_260_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_median_range_and_an_interval_inside_the_range() {
        let summary = Summary::of(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!((summary.rounds, summary.median, summary.min, summary.max), (4, 2.5, 1.0, 10.0));
        assert!(summary.min <= summary.low && summary.low <= summary.median);
        assert!(summary.median <= summary.high && summary.high <= summary.max);
        assert_eq!(Summary::of(&[]), None);
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.low, one.high), (7.0, 7.0));
    }

    #[test]
    fn the_interval_narrows_with_more_rounds() {
        let width = |n: u32| {
            let values: Vec<f64> = (0..n).map(|i| f64::from(i % 10)).collect();
            let summary = Summary::of(&values).unwrap();
            summary.high - summary.low
        };
        assert!(width(10) > width(200), "{} {}", width(10), width(200));
    }

    #[test]
    fn only_rounds_that_both_have_are_paired() {
        let ours = BTreeMap::from([(1, 2.0), (2, 3.0), (3, 9.0)]);
        let theirs = BTreeMap::from([(1, 4.0), (3, 3.0), (4, 1.0)]);
        assert_eq!(ratios(&ours, &theirs), [0.5, 3.0]);
        assert_eq!(differences(&ours, &theirs), [-2.0, 6.0]);
    }

    #[test]
    fn a_bound_holds_by_median_and_by_the_end_of_the_interval() {
        for (case, median, low, high, want) in [
            ("well below", 0.5, 0.4, 0.6, Verdict::Holds),
            ("at the bound", 1.0, 0.9, 1.09, Verdict::Holds),
            ("below, but the interval ends too far above", 0.9, 0.8, 1.1, Verdict::Undecided),
            ("above, but the interval crosses", 1.05, 0.99, 1.09, Verdict::Undecided),
            ("all of it above", 1.05, 1.01, 1.09, Verdict::Missed),
        ] {
            let summary = Summary { rounds: 10, median, min: low, max: high, low, high };
            assert_eq!(summary.verdict(1.0), want, "{case}");
        }
    }
}
