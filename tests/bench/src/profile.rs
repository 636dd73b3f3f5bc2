//! Where the proxies' time goes: perf, after the rounds, because being watched costs.

use std::{process::Command, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    lab::Lab,
    proc,
    process::Process,
    results::Sample,
    rounds::{Plan, start},
    say,
    side::Side,
    systems::Running,
    workloads::{Workload, contact_each, measure, untouched},
};

/// Both proxies of each system under each workload of `plan`; the files are named on stderr.
pub fn of_all(lab: &Lab, plan: &Plan) -> Result<()> {
    for running in &mut start(lab, &plan.systems)? {
        let concerned =
            |workload: &&Workload| **workload != Workload::Idle && workload.concerns(running.system);
        for workload in plan.workloads.iter().filter(concerned).copied().collect::<Vec<_>>() {
            match workload {
                Workload::FirstContact(at_once) => {
                    let mut untouched = untouched(lab, running.system)?;
                    let running = untouched.as_mut().unwrap_or(running);
                    profile(lab, running, workload, |running| contact_each(lab, running, at_once))?;
                }
                _ => profile(lab, running, workload, |running| measure(lab, running, workload, TIME))?,
            }
        }
    }
    Ok(())
}

fn profile(
    lab: &Lab,
    running: &mut Running,
    workload: Workload,
    load: impl FnOnce(&mut Running) -> Result<Sample>,
) -> Result<()> {
    let Some(pids) = running.pids() else { return Ok(()) };
    let mut watchers = Vec::new();
    for side in Side::ALL {
        let name = format!("perf-{}-{}-{}", running.system.word(), workload.word(), side.word());
        let data = lab.directory.join(format!("{name}.data"));
        let family: Vec<String> = proc::family(*pids.of(side)).iter().map(u32::to_string).collect();
        let mut perf = Command::new("setpriv");
        perf.args(["--pdeathsig", "KILL", "perf", "record", "-q", "-F", "1999", "-e", "cpu-clock", "-g"]);
        perf.arg("-o").arg(&data).args(["-p", &family.join(",")]);
        watchers.push((data, Process::start(&name, &mut perf, &lab.directory.join(format!("{name}.log")))?));
    }
    thread::sleep(ATTACH);
    load(running)?;
    for (data, watcher) in watchers {
        watcher.end(Signal::SIGINT);
        say(&format!("perf report --no-children -g none -i {}", data.display()));
    }
    Ok(())
}

const ATTACH: Duration = Duration::from_millis(500);
const TIME: Duration = Duration::from_secs(3);
