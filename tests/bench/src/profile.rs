//! Where the proxies' time goes: perf, after the rounds, because being watched costs.

use std::{path::Path, process::Command, thread, time::Duration};

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
    let name = |side: Side| format!("{}-{}-{}", running.system.word(), workload.word(), side.word());
    let pids = Side::ALL.map(|side| (name(side), *pids.of(side)));
    watch(&lab.directory, &pids, || load(running))
}

/// perf around `load`, of each process under its name; the files are named on stderr.
pub fn watch(directory: &Path, pids: &[(String, u32)], load: impl FnOnce() -> Result<Sample>) -> Result<()> {
    let mut watchers = Vec::new();
    for (name, pid) in pids {
        let name = format!("perf-{name}");
        let data = directory.join(format!("{name}.data"));
        let family: Vec<String> = proc::family(*pid).iter().map(u32::to_string).collect();
        let mut perf = Command::new("setpriv");
        perf.args(["--pdeathsig", "KILL", "perf", "record", "-q", "-F", "1999", "-e", "cpu-clock", "-g"]);
        perf.arg("-o").arg(&data).args(["-p", &family.join(",")]);
        watchers.push((data, Process::start(&name, &mut perf, &directory.join(format!("{name}.log")))?));
    }
    thread::sleep(ATTACH);
    load()?;
    for (data, watcher) in watchers {
        watcher.end(Signal::SIGINT);
        say(&format!("perf report --no-children -g none -i {}", data.display()));
    }
    Ok(())
}

const ATTACH: Duration = Duration::from_millis(500);
pub const TIME: Duration = Duration::from_secs(3);
