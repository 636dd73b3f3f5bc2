//! Whether a process that a file names is still that process. Pids are used again; a pid with its start time is not.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

/// When `pid` started, in clock ticks since boot: field 22 of proc_pid_stat(5). None: gone, or no /proc here.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?; // the name may hold anything
    if after_name.starts_with('Z') {
        return None; // a zombie runs no more; its parent has not looked yet
    }
    after_name.split(' ').nth(22 - 3)?.parse().ok()
}

/// Waits for processes of a dead supervisor, who end by themselves, and kills what is left after [`PATIENCE`] (they still
/// hold our addresses). Returns the pids that had to be killed.
pub(crate) async fn end_orphans(orphans: &[(u32, u64)]) -> Vec<u32> {
    let alive = |&&(pid, started): &&(u32, u64)| start_time(pid) == Some(started);
    let deadline = Instant::now() + PATIENCE;
    while orphans.iter().any(|orphan| alive(&orphan)) && Instant::now() < deadline {
        sleep(POLL).await; // the kernel offers no wait for strangers
    }
    let left: Vec<u32> = orphans.iter().filter(alive).map(|&(pid, _)| pid).collect();
    for pid in left.iter().filter_map(|&pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    left
}

const POLL: Duration = Duration::from_millis(10);
/// A child ends within milliseconds of its supervisor.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_its_pid_and_its_start() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let started = start_time(child.id()).unwrap();
        assert_eq!(
            end_orphans(&[(child.id(), started + 1)]).await,
            [0; 0],
            "another process with that pid is left alone"
        );
        assert!(start_time(child.id()).is_some());
        assert_eq!(end_orphans(&[(child.id(), started)]).await, [child.id()]);
        child.wait().unwrap();
        assert_eq!(start_time(child.id()), None);
    }
}
