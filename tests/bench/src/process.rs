//! Programs that the bench starts, and ends by their own id.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running program. Dropped, it is killed; so it is when the bench dies (see [`crate::net::Net::command`]).
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("{name} does not start"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with its last words when it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}); {}:\n{}", self.name, self.log.display(), self.last_words());
        }
        Ok(())
    }

    /// Asks until `ready` says so.
    pub fn wait_until(&mut self, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + START;
        while !ready()? {
            self.check()?;
            if Instant::now() >= end {
                bail!(
                    "{} is not ready after {START:?}; {}:\n{}",
                    self.name,
                    self.log.display(),
                    self.last_words()
                );
            }
            sleep(LOOK);
        }
        Ok(())
    }

    /// `signal`, and SIGKILL to one that stays.
    pub fn end(mut self, signal: Signal) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        let _ = kill(Pid::from_raw(pid), signal); // it has ended already
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(LOOK);
        }
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended already
        let _ = self.child.wait();
    }
}

/// Envoy takes a second on a quiet machine.
const START: Duration = Duration::from_secs(20);
/// perf writes its file last.
const GRACE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(2);
/// Of a log, in an error.
const LINES: usize = 15;
