//! What a run leaves: every sample of every round, and under which conditions. docs/bench/dataplane.json and edge.json are
//! this, as JSON.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use signet_core::clock;
use time::format_description::well_known::Rfc3339;

use crate::{proc, proof::Proof, syscalls::Syscalls};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    pub about: About,
    /// In the order in which they were measured.
    pub samples: Vec<Sample>,
    pub syscalls: Vec<Syscalls>,
    pub proof: Vec<Proof>,
}

/// Which bench.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    #[default]
    Dataplane,
    Edge,
}

impl Kind {
    /// Of its files in docs/bench.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dataplane => "dataplane",
            Self::Edge => "edge",
        }
    }
}

/// Where and of what.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    #[serde(default)]
    pub kind: Kind,
    pub commit: String,
    /// Whether the tree held changes that no commit has.
    pub dirty: bool,
    pub begun: String,
    pub rounds: u32,
    pub seconds_per_cell: f64,
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub versions: BTreeMap<String, String>,
}

/// One system under one workload, once.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    pub round: u32,
    pub system: String,
    pub workload: String,
    /// Exchanges that came back whole, and those that did not.
    pub done: u64,
    pub errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Of the machine's time during the sample.
    pub steal_percent: f64,
    pub load: f64,
    pub figures: BTreeMap<String, f64>,
}

impl Sample {
    /// Any failed exchange spoils the whole sample: it may have saved the work of many.
    pub fn is_valid(&self) -> bool {
        self.errors == 0
    }
}

impl Results {
    /// A figure by round; of rounds without errors.
    pub fn by_round(&self, system: &str, workload: &str, figure: &str) -> BTreeMap<u32, f64> {
        let matching = self.samples.iter().filter(|s| s.system == system && s.workload == workload);
        let valid = matching.filter(|sample| sample.is_valid());
        valid.filter_map(|sample| Some((sample.round, *sample.figures.get(figure)?))).collect()
    }

    /// What makes the whole run worth nothing.
    pub fn faults(&self) -> Vec<String> {
        let invalid = self.invalid().into_iter().map(|sample| {
            let why = sample.first_error.as_deref().unwrap_or_default();
            let Sample { round, system, workload, errors, done, .. } = sample;
            format!("round {round}, {system} under {workload}: {errors} errors beside {done} answers: {why}")
        });
        invalid.chain(self.proof.iter().flat_map(Proof::faults)).collect()
    }

    pub fn invalid(&self) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| !sample.is_valid()).collect()
    }
}

impl About {
    pub fn now(
        kind: Kind,
        rounds: u32,
        seconds_per_cell: f64,
        versions: BTreeMap<String, String>,
    ) -> Result<Self> {
        Ok(Self {
            kind,
            commit: said("git", &["-C", ROOT, "rev-parse", "HEAD"]),
            dirty: !said("git", &["-C", ROOT, "status", "--porcelain", "-uno", "--", ".", ":!docs"])
                .is_empty(),
            begun: clock::now().format(&Rfc3339)?,
            rounds,
            seconds_per_cell,
            cpu: proc::cpu_model(),
            cores: std::thread::available_parallelism()?.get(),
            kernel: said("uname", &["-r"]),
            versions,
        })
    }
}

/// What the peers, and these builds of ours, say about themselves.
pub fn versions<'a>(
    envoy: &Path,
    ours: impl IntoIterator<Item = (&'a str, &'a Path)>,
) -> BTreeMap<String, String> {
    let version = |path: &Path| said(&path.display().to_string(), &["--version"]);
    // A version says little of a build that is no release.
    let build =
        |path: &Path| format!("{}; {}", version(path), said("sha256sum", &[&path.display().to_string()]));
    let peers =
        [("haproxy", said("haproxy", &["-v"])), ("nginx", said("nginx", &["-V"])), ("envoy", version(envoy))];
    let ours = ours.into_iter().map(|(name, path)| (name, build(path)));
    peers.into_iter().chain(ours).map(|(name, version)| (name.to_owned(), version)).collect()
}

/// The first lines that matter of what a program says about itself; empty when it is not there.
fn said(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return String::new() };
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let telling = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = telling.filter(|line| !line.starts_with("configure") && !line.starts_with("Status:"));
    telling.take(SAID).collect::<Vec<_>>().join("; ").chars().take(SHOWN).collect()
}

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// nginx names its OpenSSL in the third line.
const SAID: usize = 3;
const SHOWN: usize = 160;
