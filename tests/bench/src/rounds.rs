//! The order of things. In a round all systems live at the same time, and each workload goes from system to system, both in
//! an order of chance: what is compared is seconds apart. Idle connections come last, with fresh proxies.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{
    idle,
    lab::Lab,
    results::Sample,
    say,
    systems::{Running, System},
    workloads::{Workload, measure},
};

/// What to measure, and how often.
pub struct Plan {
    pub systems: Vec<System>,
    pub workloads: Vec<Workload>,
    pub rounds: u32,
    /// Per cell, where the workload has no size of its own.
    pub time: Duration,
    /// Steps of the idle crowd, rising.
    pub crowd: Vec<usize>,
    /// Memory of the peers bounds nothing and hardly varies: so many rounds of it.
    pub peers_idle_rounds: u32,
}

impl Plan {
    /// All rounds. A system that ends or refuses to start ends the run.
    pub fn run(&self, lab: &Lab) -> Result<Vec<Sample>> {
        all(self.rounds, |round| self.round(lab, round))
    }

    fn round(&self, lab: &Lab, round: u32) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut busy: Vec<Workload> =
            self.workloads.iter().copied().filter(|w| *w != Workload::Idle).collect();
        fastrand::shuffle(&mut busy);
        if !busy.is_empty() {
            let mut running = start(lab, &self.systems)?;
            for workload in busy {
                fastrand::shuffle(&mut running);
                for running in running.iter_mut().filter(|running| workload.concerns(running.system)) {
                    let sample = measure(lab, running, workload, self.time)
                        .with_context(|| format!("{} under {}", running.system.word(), workload.word()))?;
                    tell(&sample);
                    samples.push(sample);
                }
            }
            running.into_iter().for_each(Running::stop);
        }
        if self.workloads.contains(&Workload::Idle) {
            let concerned = |system: &System| {
                Workload::Idle.concerns(*system) && (system.is_signet() || round <= self.peers_idle_rounds)
            };
            let mut systems: Vec<System> = self.systems.iter().copied().filter(concerned).collect();
            fastrand::shuffle(&mut systems);
            let idle = idle::measure(lab, &systems, &self.crowd)?;
            idle.iter().for_each(tell);
            samples.extend(idle);
        }
        Ok(samples)
    }
}

/// The samples of rounds 1 to `rounds`, each marked with its own; says how far it is.
pub(crate) fn all(rounds: u32, mut round: impl FnMut(u32) -> Result<Vec<Sample>>) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let begun = Instant::now();
    for number in 1..=rounds {
        say(&format!("round {number} of {rounds} ({} s)", begun.elapsed().as_secs()));
        let of_round = round(number).with_context(|| format!("round {number}"))?;
        samples.extend(of_round.into_iter().map(|sample| Sample { round: number, ..sample }));
    }
    Ok(samples)
}

/// Starts all, and warms each: memory has grown, and what can be known from a first connection is known.
pub fn start(lab: &Lab, systems: &[System]) -> Result<Vec<Running>> {
    let mut all = Vec::new();
    for system in systems {
        all.push(system.launch(lab)?);
    }
    for running in &mut all {
        running.wait(lab)?;
        for workload in [Workload::KeepAlive(16), Workload::NewConnection(16)] {
            measure(lab, running, workload, WARM)?;
        }
    }
    Ok(all)
}

pub fn tell(sample: &Sample) {
    let figures =
        ["cpu_us", "cpu_s_per_gib", "p50_us", "p99_us", "per_second", "mib_per_s", "base_mb", "ready_ms"];
    let memory = ["kb_per_connection_2000", "kb_per_connection_8000", "over_base_mb_after_10_s"];
    let shown: Vec<String> = figures
        .iter()
        .chain(&memory)
        .filter_map(|name| Some(format!("{name} {:.2}", sample.figures.get(*name)?)))
        .collect();
    let errors = match &sample.first_error {
        Some(error) => format!("  {} ERRORS: {error}", sample.errors),
        None => String::new(),
    };
    say(&format!("  {:17} {:13} {}{errors}", sample.workload, sample.system, shown.join("  ")));
}

/// Of each system before its first sample, twice.
const WARM: Duration = Duration::from_millis(150);
