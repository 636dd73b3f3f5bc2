//! Memory: thousands of connections that answered one request and now say nothing, and what is left of them afterwards.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{net::TcpStream, runtime, task::JoinSet};

use crate::{
    lab::Lab,
    load::greet,
    proc,
    results::Sample,
    side::{Both, Side},
    systems::{Running, System},
    workloads::Workload,
};

/// Measures each of `systems`, each with fresh proxies, one after the other. The pauses after the bursts overlap.
pub fn measure(lab: &Lab, systems: &[System], steps: &[usize]) -> Result<Vec<Sample>> {
    let mut left = Vec::new();
    for system in systems {
        crate::say(&format!("  idle: {}", system.word()));
        left.push(crowd(lab, system.start(lab)?, steps)?);
    }
    let mut samples = Vec::new();
    for after in left {
        samples.extend(after.wait()?);
    }
    Ok(samples)
}

/// A system whose burst is over.
struct After {
    running: Running,
    /// What was measured before the first connection, and since.
    start: Sample,
    sample: Sample,
    base: Both<u64>,
    pss: JoinHandle<Result<Both<u64>>>,
}

fn crowd(lab: &Lab, running: Running, steps: &[usize]) -> Result<After> {
    let (pids, entry) = (running.pids().context("a system with proxies")?, running.entry()?);
    let steal = proc::Steal::now();
    let base = pss(pids)?;
    let sample = |workload: String| Sample {
        system: running.system.word().into(),
        workload,
        load: proc::load(),
        ..Sample::default()
    };
    let (mut start, mut sample) = (sample(START.into()), sample(Workload::Idle.word()));
    both(&mut start, "base_mb", base.map(|bytes| *bytes as f64 / MB));
    if let Some(ready) = running.ready {
        both(&mut start, "ready_ms", ready.map(|ready| ready.as_secs_f64() * 1e3));
    }
    thread::scope(|scope| -> Result<()> {
        // Of this closure: when it fails, the other side hears of it.
        let (reports, steps_done) = mpsc::sync_channel(1);
        let (go_on, wait) = mpsc::sync_channel::<()>(1);
        scope.spawn(move || {
            let last = reports.clone();
            let held = lab.net.within(Side::Client, move || hold(entry, steps, &reports, wait));
            let _ = last.send(held.and_then(|held| held).map(|()| Step::default())); // nobody waits after an error
        });
        for wanted in steps {
            let step = steps_done.recv().context("the crowd is gone")??;
            sample.done = step.open as u64;
            sample.errors = step.errors;
            sample.first_error = step.first_error;
            sleep(SETTLE);
            let (full, cpu) = (pss(pids)?, running.cpu());
            sleep(SECOND);
            let each = |base: u64, full: u64| full.saturating_sub(base) as f64 / KB / step.open.max(1) as f64;
            let each =
                Both { client: each(base.client, full.client), server: each(base.server, full.server) };
            both(&mut sample, &format!("kb_per_connection_{wanted}"), each);
            if let (Some(before), Some(after)) = (cpu, running.cpu()) {
                let idle = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1e6;
                let idle = Both {
                    client: idle(before.client, after.client),
                    server: idle(before.server, after.server),
                };
                both(&mut sample, &format!("idle_cpu_ms_per_s_{wanted}"), idle);
            }
            go_on.send(()).map_err(|_| anyhow!("the crowd is gone"))?;
        }
        steps_done.recv().context("the crowd is gone")??; // all closed
        Ok(())
    })?;
    sample.steal_percent = proc::Steal::now().percent_since(steal);
    let pss = thread::spawn(move || {
        sleep(AFTER);
        pss(pids)
    });
    Ok(After { running, start, sample, base, pss })
}

impl After {
    fn wait(mut self) -> Result<[Sample; 2]> {
        let left = self.pss.join().map_err(|_| anyhow!("reading memory panicked"))??;
        let over = |base: u64, left: u64| (left as f64 - base as f64) / MB;
        let over =
            Both { client: over(self.base.client, left.client), server: over(self.base.server, left.server) };
        both(&mut self.sample, "over_base_mb_after_10_s", over);
        self.running.check()?;
        self.running.stop();
        Ok([self.start, self.sample])
    }
}

/// One figure of both sides, and of the larger: a budget is a proxy's.
fn both(sample: &mut Sample, name: &str, value: Both<f64>) {
    sample.figures.insert(name.to_owned(), value.client.max(value.server));
    sample.figures.insert(format!("{name}_client"), value.client);
    sample.figures.insert(format!("{name}_server"), value.server);
}

#[derive(Default)]
struct Step {
    open: usize,
    errors: u64,
    first_error: Option<String>,
}

/// Opens up to each step, reports, and waits for the word to go on; then closes all.
fn hold(
    to: SocketAddr,
    steps: &[usize],
    report: &mpsc::SyncSender<Result<Step>>,
    go_on: mpsc::Receiver<()>,
) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut held: Vec<TcpStream> = Vec::new();
    let (mut errors, mut first_error) = (0, None);
    for step in steps {
        runtime.block_on(async {
            let mut opening = JoinSet::new();
            let mut missing = step.saturating_sub(held.len());
            while missing > 0 || !opening.is_empty() {
                if missing > 0 && opening.len() < AT_ONCE {
                    missing -= 1;
                    opening.spawn(greet(to));
                    continue;
                }
                match opening.join_next().await {
                    Some(Ok(Ok(stream))) => held.push(stream),
                    Some(Ok(Err(error))) => {
                        errors += 1;
                        first_error.get_or_insert_with(|| error.to_string());
                    }
                    Some(Err(_)) | None => {}
                }
            }
        });
        let step = Step { open: held.len(), errors, first_error: first_error.clone() };
        report.send(Ok(step)).map_err(|_| anyhow!("nobody measures"))?;
        go_on.recv().context("nobody measures")?;
    }
    drop(held);
    Ok(())
}

fn pss(pids: Both<u32>) -> Result<Both<u64>> {
    Ok(Both { client: proc::pss_bytes(pids.client)?, server: proc::pss_bytes(pids.server)? })
}

/// The part of [`Workload::Idle`] that stands whatever becomes of the crowd.
pub const START: &str = "start";
/// Budgets are written with SI units.
const MB: f64 = 1e6;
const KB: f64 = 1e3;
/// Handshakes at the same time.
const AT_ONCE: usize = 32;
/// After the last connection, before memory is read.
const SETTLE: Duration = Duration::from_millis(1_500);
const SECOND: Duration = Duration::from_secs(1);
/// The budget's time after a burst.
const AFTER: Duration = Duration::from_secs(10);
