//! Where the proxies' time goes: perf, after the rounds, because being watched costs.

use std::{process::Command, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    lab::Lab,
    proc,
    process::Process,
    rounds::{Plan, start},
    say,
    side::Side,
    workloads::{Workload, measure},
};

/// Both proxies of each system under each workload of `plan`; the files are named on stderr.
pub fn of_all(lab: &Lab, plan: &Plan) -> Result<()> {
    for running in &mut start(lab, &plan.systems)? {
        let Some(pids) = running.pids() else { continue };
        // A first contact is made with proxies of its own.
        let profiled = |workload: &&Workload| !matches!(workload, Workload::Idle | Workload::FirstContact(_));
        for workload in plan.workloads.iter().filter(profiled) {
            let mut watchers = Vec::new();
            for side in Side::ALL {
                let name = format!("perf-{}-{}-{}", running.system.word(), workload.word(), side.word());
                let data = lab.directory.join(format!("{name}.data"));
                let family: Vec<String> = proc::family(*pids.of(side)).iter().map(u32::to_string).collect();
                let mut perf = Command::new("setpriv");
                perf.args([
                    "--pdeathsig",
                    "KILL",
                    "perf",
                    "record",
                    "-q",
                    "-F",
                    "1999",
                    "-e",
                    "cpu-clock",
                    "-g",
                ]);
                perf.arg("-o").arg(&data).args(["-p", &family.join(",")]);
                watchers.push((
                    data,
                    Process::start(&name, &mut perf, &lab.directory.join(format!("{name}.log")))?,
                ));
            }
            thread::sleep(ATTACH);
            measure(lab, running, *workload, TIME)?;
            for (data, watcher) in watchers {
                watcher.end(Signal::SIGINT);
                say(&format!("perf report --no-children -g none -i {}", data.display()));
            }
        }
    }
    Ok(())
}

const ATTACH: Duration = Duration::from_millis(500);
const TIME: Duration = Duration::from_secs(3);
