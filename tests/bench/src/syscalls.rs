//! System calls per request, counted by strace in runs that are not timed: being watched slows a proxy down, so waiting calls
//! are only indicative.

use std::{collections::BTreeMap, process::Command, thread::sleep, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    lab::Lab,
    proc,
    process::Process,
    rounds::{Plan, start},
    side::Side,
    systems::Running,
    workloads::{Workload, measure},
};

/// Of one proxy under one workload.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscalls {
    pub system: String,
    pub workload: String,
    pub side: String,
    pub requests: u64,
    /// Calls per request; below a hundredth they are left out.
    pub calls: BTreeMap<String, f64>,
    /// Of those, the ones that returned an error, EAGAIN mostly.
    pub failed: BTreeMap<String, f64>,
}

impl Syscalls {
    pub fn sum(&self) -> f64 {
        self.calls.values().sum()
    }
}

/// Of each system of `plan`, under one workload of connections that stay and one of new ones.
pub fn of_all(lab: &Lab, plan: &Plan) -> Result<Vec<Syscalls>> {
    let mut all = Vec::new();
    for running in &mut start(lab, &plan.systems)? {
        for workload in [Workload::KeepAlive(16), Workload::NewConnection(16)] {
            if plan.workloads.contains(&workload) && workload.concerns(running.system) {
                all.extend(count(lab, running, workload)?);
            }
        }
    }
    Ok(all)
}

/// Counts both proxies of `running`; nothing when it has none.
fn count(lab: &Lab, running: &mut Running, workload: Workload) -> Result<Vec<Syscalls>> {
    let Some(pids) = running.pids() else { return Ok(Vec::new()) };
    let mut watchers = Vec::new();
    for side in Side::ALL {
        let name = format!("strace-{}-{}-{}", running.system.word(), workload.word(), side.word());
        let table = lab.directory.join(format!("{name}.txt"));
        let mut strace = Command::new("setpriv");
        strace.args(["--pdeathsig", "KILL", "strace", "-c", "-f", "-o"]).arg(&table);
        for pid in proc::family(*pids.of(side)) {
            strace.arg("-p").arg(pid.to_string());
        }
        watchers.push((
            side,
            table,
            Process::start(&name, &mut strace, &lab.directory.join(format!("{name}.log")))?,
        ));
    }
    sleep(ATTACH);
    let sample = measure(lab, running, workload, TIME)?;
    let mut counted = Vec::new();
    for (side, table, watcher) in watchers {
        watcher.end(Signal::SIGINT);
        let (calls, failed) = parse(&std::fs::read_to_string(table).unwrap_or_default(), sample.done);
        counted.push(Syscalls {
            system: sample.system.clone(),
            workload: sample.workload.clone(),
            side: side.word().into(),
            requests: sample.done,
            calls,
            failed,
        });
    }
    Ok(counted)
}

/// Rows of `strace -c`: % time, seconds, usecs/call, calls, errors (may be missing), syscall.
fn parse(table: &str, requests: u64) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let (mut calls, mut failed) = (BTreeMap::new(), BTreeMap::new());
    for row in table.lines() {
        let words: Vec<&str> = row.split_whitespace().collect();
        let (count, errors, name) = match words[..] {
            [_, _, _, count, name] => (count, "0", name),
            [_, _, _, count, errors, name] => (count, errors, name),
            _ => continue,
        };
        let (Ok(count), Ok(errors)) = (count.parse::<f64>(), errors.parse::<f64>()) else { continue };
        let each = |count: f64| count / requests.max(1) as f64;
        if name != "total" && each(count) >= SHOWN {
            calls.insert(name.to_owned(), each(count));
            if each(errors) >= SHOWN {
                failed.insert(name.to_owned(), each(errors));
            }
        }
    }
    (calls, failed)
}

/// For strace to stop each thread once.
const ATTACH: Duration = Duration::from_millis(700);
const TIME: Duration = Duration::from_secs(1);
const SHOWN: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_strace_is_calls_and_errors_per_request() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            60.00    0.100000           5      2000           sendto\n \
            40.00    0.050000           5      3000      1000 recvfrom\n  \
            0.00    0.000001           1         1           close\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.150001           5      5001      1000 total\n";
        let (calls, failed) = parse(table, 1000);
        assert_eq!(calls, BTreeMap::from([("recvfrom".into(), 3.0), ("sendto".into(), 2.0)]));
        assert_eq!(failed, BTreeMap::from([("recvfrom".into(), 1.0)]));
    }
}
