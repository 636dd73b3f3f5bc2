//! What the kernel says about a process and about the machine.

use std::{fs, io};

/// A process and its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for task in tasks(pid) {
        let children = fs::read_to_string(format!("{task}/children")).unwrap_or_default(); // it has just ended
        all.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(family));
    }
    all
}

/// CPU time of all threads of `pid` and its descendants, in nanoseconds (schedstat; `stat` counts in ticks of 10 ms).
pub fn cpu_nanoseconds(pid: u32) -> u64 {
    let tasks = family(pid).into_iter().flat_map(tasks);
    tasks.filter_map(|task| on_cpu(&fs::read_to_string(format!("{task}/schedstat")).ok()?)).sum()
}

/// Proportional set size of `pid` and its descendants, in bytes. Pages shared with another process count by halves, as they
/// do on a node with many sidecars.
pub fn pss_bytes(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for pid in family(pid) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        sum += pss(&rollup).ok_or_else(|| io::Error::other("smaps_rollup has no Pss"))?;
    }
    Ok(sum)
}

/// CPU time of the whole machine so far: what the hypervisor gave to others, and all of it, in ticks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Steal {
    stolen: u64,
    all: u64,
}

impl Steal {
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default(); // 0 and 0: no share either
        Self::parse(&stat).unwrap_or(Self { stolen: 0, all: 0 })
    }

    /// user nice system idle iowait irq softirq steal; the guests' are in user and nice already.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|tick| tick.parse().ok()).collect();
        Some(Self { stolen: *ticks.get(7)?, all: ticks.iter().sum() })
    }

    /// Per cent of the machine's time since then.
    pub fn percent_since(self, before: Self) -> f64 {
        let share = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 * 100.0 };
        share(self.stolen.saturating_sub(before.stolen), self.all.saturating_sub(before.all))
    }
}

/// Runnable tasks, averaged over a minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    line.split(": ").nth(1).unwrap_or("unknown").to_owned()
}

fn tasks(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// schedstat: time on a CPU and time waiting for one in nanoseconds, number of slices.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split(' ').next()?.parse().ok()
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_begins_with_the_time_on_a_cpu() {
        assert_eq!(on_cpu("812345678 9012 345\n"), Some(812_345_678));
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn pss_is_the_line_of_that_name_and_no_other() {
        let rollup =
            "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:    5120 kB\nPss:     2816 kB\nPss_Anon: 1 kB\n";
        assert_eq!(pss(rollup), Some(2816 * 1024));
        assert_eq!(pss("Rss: 1 kB\nPss_Dirty: 3 kB\n"), None);
    }

    #[test]
    fn steal_is_a_share_of_all_time_since() {
        let before = Steal::parse("cpu  100 0 100 700 0 0 0 100 50 0\ncpu0 1 1\n").unwrap();
        let after = Steal::parse("cpu  150 0 150 750 0 0 0 150 99 0\n").unwrap();
        assert_eq!(before, Steal { stolen: 100, all: 1000 });
        assert!((after.percent_since(before) - 25.0).abs() < 1e-9);
        assert!(before.percent_since(before).abs() < 1e-9);
    }

    #[test]
    fn we_are_a_process_too() {
        let us = std::process::id();
        assert!(cpu_nanoseconds(us) > 0 && pss_bytes(us).unwrap() > 0);
    }
}
