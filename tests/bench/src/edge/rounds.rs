//! The order of things, as the data plane's: in a round all systems live at the same time, and each workload goes from system
//! to system, both in an order of chance.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    edge::{
        lab::Lab,
        systems::{Running, System},
        workloads::{Workload, measure},
    },
    idle::START,
    proc, profile,
    results::Sample,
    rounds::{self, tell},
};

/// What to measure, and how often.
pub struct Plan {
    pub systems: Vec<System>,
    pub workloads: Vec<Workload>,
    pub rounds: u32,
    pub time: Duration,
}

impl Plan {
    /// All rounds. A system that ends or refuses to start ends the run.
    pub fn run(&self, lab: &Lab) -> Result<Vec<Sample>> {
        rounds::all(self.rounds, |_| self.round(lab))
    }

    fn round(&self, lab: &Lab) -> Result<Vec<Sample>> {
        let (mut running, mut samples) = start(lab, &self.systems)?;
        let mut workloads = self.workloads.clone();
        fastrand::shuffle(&mut workloads);
        for workload in workloads {
            fastrand::shuffle(&mut running);
            for running in running.iter_mut().filter(|running| workload.concerns(running.system)) {
                let sample = measure(lab, running, workload, self.time)
                    .with_context(|| format!("{} under {}", running.system.word(), workload.word()))?;
                tell(&sample);
                samples.push(sample);
            }
        }
        running.into_iter().for_each(Running::stop);
        Ok(samples)
    }
}

/// Starts all, takes their memory, and warms each: memory has grown, and connections to the origin stand.
fn start(lab: &Lab, systems: &[System]) -> Result<(Vec<Running>, Vec<Sample>)> {
    let (mut all, mut samples) = (Vec::new(), Vec::new());
    for system in systems {
        all.push(system.launch(lab)?);
    }
    for running in &mut all {
        running.wait(lab)?;
        if let [pid] = running.pids()[..] {
            let mut sample = Sample {
                system: running.system.word().into(),
                workload: START.into(),
                load: proc::load(),
                ..Sample::default()
            };
            sample.figures.insert("base_mb".into(), proc::pss_bytes(pid)? as f64 / 1e6);
            if let Some(ready) = running.ready {
                sample.figures.insert("ready_ms".into(), ready.as_secs_f64() * 1e3);
            }
            tell(&sample);
            samples.push(sample);
        }
        for workload in [Workload::H1(64), Workload::H2(4), Workload::Handshake(16)] {
            if workload.concerns(running.system) {
                measure(lab, running, workload, WARM)?;
            }
        }
    }
    Ok((all, samples))
}

/// Where the proxies' time goes: perf, after the rounds, because being watched costs. The files are named on stderr.
pub fn profile(lab: &Lab, plan: &Plan) -> Result<()> {
    for running in &mut start(lab, &plan.systems)?.0 {
        let system = running.system;
        for workload in plan.workloads.iter().filter(|workload| workload.concerns(system)) {
            let name = format!("{}-{}", system.word(), workload.word());
            let pids: Vec<(String, u32)> =
                running.pids().into_iter().map(|pid| (name.clone(), pid)).collect();
            profile::watch(&lab.directory, &pids, || measure(lab, running, *workload, profile::TIME))?;
        }
    }
    Ok(())
}

/// Of each system under each of three workloads, before its first sample.
const WARM: Duration = Duration::from_millis(150);
