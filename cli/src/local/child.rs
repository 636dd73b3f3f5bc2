//! One supervised process: started, watched, started again with back-off, and stopped by its own handle only.
//!
//! Its stdin is a pipe that nobody writes to: when we die, however, it ends, and so does a child that was given
//! `--exit-with-parent` (`signet_core::parent`). Only a paused one cannot notice; the next start in the state directory ends
//! that one (`proc`). It is a process group of its own, so that Ctrl-C reaches only us, who stop our children in order.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    net::SocketAddr,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signet_core::{drain::Drain, files::PRIVATE};
use tokio::{
    process::{self, ChildStdin, Command},
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::tokens::{Bearer, Tokens};
use crate::{proc, state::Kind};

/// How to run a child.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) log: PathBuf,
    /// SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    pub(crate) admin: Option<SocketAddr>,
    /// Gets a fresh token before each start.
    pub(crate) bearer: Option<Bearer>,
}

/// What a child does now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Starting,
    Running {
        pid: u32,
        started: Option<u64>,
    },
    /// Stopped because someone said so.
    Stopped,
    /// Ended by itself; the next start comes after a pause.
    Crashed {
        why: String,
        failures: u32,
    },
}

/// A handle; the process is owned by a task of the drain, which ends it when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Child {
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) spec: Spec,
}

/// What can be done to a child. Each is answered when it is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// A stopped or crashed child starts at once; a running one is left alone.
    Start,
    /// SIGTERM, and SIGKILL after the grace. Stays down.
    Stop,
    /// SIGKILL; started again like after a crash.
    Kill,
    Pause,
    Resume,
}

impl Child {
    /// Starts supervising. `changed` hears of every change of state.
    pub(crate) fn supervise(
        spec: Spec,
        tokens: Option<Tokens>,
        changed: watch::Sender<()>,
        drain: &Drain,
    ) -> Self {
        let (publish, state) = watch::channel(State::Starting);
        let (orders, receive) = mpsc::channel(ORDERS);
        let keeper = Keeper { spec: spec.clone(), tokens, publish, changed, orders: receive, failures: 0 };
        drain.spawn(keeper.run());
        Self { orders, state, spec }
    }

    /// Returns when the order is carried out; at once when the child's task has ended.
    pub(crate) async fn order(&self, order: Order) {
        let (done, answer) = oneshot::channel();
        if self.orders.send((order, done)).await.is_ok() {
            let _ = answer.await; // dropped: the task ended, and the process with it
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }
}

struct Keeper {
    spec: Spec,
    tokens: Option<Tokens>,
    publish: watch::Sender<State>,
    changed: watch::Sender<()>,
    orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    failures: u32,
}

/// Why a process is no longer there.
enum End {
    ByItself(String),
    Ordered,
    /// Nobody holds the child any more.
    Abandoned,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            match self.one_life().await {
                End::Abandoned => return,
                End::Ordered => {
                    self.set(State::Stopped);
                    if !self.wait_for_start(None).await {
                        return;
                    }
                }
                End::ByItself(why) => {
                    self.failures += 1;
                    let pause = back_off(self.failures);
                    warn!(child = %self.spec.name, failures = self.failures, log = %self.spec.log.display(),
                        "{} {why}; it starts again in {pause:?}", self.spec.name);
                    self.set(State::Crashed { why, failures: self.failures });
                    if !self.wait_for_start(Some(pause)).await {
                        return;
                    }
                }
            }
        }
    }

    /// Token, start, watch until the end.
    async fn one_life(&mut self) -> End {
        self.set(State::Starting);
        if let (Some(tokens), Some(bearer)) = (&self.tokens, &self.spec.bearer) {
            tokens.fresh(bearer).await; // none: the child asks again once there is one
        }
        let (mut process, _lifeline) = match start(&self.spec) {
            Ok(started) => started,
            Err(e) => return End::ByItself(format!("({}) does not start: {e}", self.spec.program.display())),
        };
        let born = Instant::now();
        if let Some(pid) = process.id() {
            info!(child = %self.spec.name, pid, "started");
            self.set(State::Running { pid, started: proc::start_time(pid) });
        }
        let end = self.watch(&mut process).await;
        if born.elapsed() >= HEALTHY {
            self.failures = 0;
        }
        end
    }

    async fn watch(&mut self, process: &mut process::Child) -> End {
        loop {
            let (order, done) = tokio::select! {
                status = process.wait() => return End::ByItself(status.map_or_else(|e| e.to_string(), describe)),
                order = self.orders.recv() => match order {
                    Some(order) => order,
                    None => {
                        stop(process, self.spec.grace).await;
                        return End::Abandoned;
                    }
                },
            };
            match order {
                Order::Start => {}
                Order::Pause => signal(process, Signal::SIGSTOP),
                Order::Resume => signal(process, Signal::SIGCONT),
                Order::Stop => {
                    stop(process, self.spec.grace).await;
                    self.set(State::Stopped);
                    let _ = done.send(());
                    return End::Ordered;
                }
                Order::Kill => {
                    let _ = process.start_kill(); // fails only when it is gone
                    let status = process.wait().await.map_or_else(|e| e.to_string(), describe);
                    let _ = done.send(());
                    return End::ByItself(status);
                }
            }
            let _ = done.send(());
        }
    }

    /// Down: until told to start, or for `pause`. False: nobody holds the child any more.
    async fn wait_for_start(&mut self, pause: Option<Duration>) -> bool {
        let mut wake = pause.map(|pause| Instant::now() + pause);
        loop {
            let order = match wake {
                None => self.orders.recv().await,
                Some(at) => tokio::select! {
                    order = self.orders.recv() => order,
                    () = tokio::time::sleep_until(at) => return true,
                },
            };
            match order {
                None => return false,
                Some((Order::Start, done)) => {
                    self.failures = 0;
                    let _ = done.send(());
                    return true;
                }
                Some((Order::Stop, done)) => {
                    wake = None;
                    self.set(State::Stopped);
                    let _ = done.send(());
                }
                Some((Order::Kill | Order::Pause | Order::Resume, done)) => {
                    let _ = done.send(()); // nothing to do it to
                }
            }
        }
    }

    fn set(&self, state: State) {
        self.publish.send_replace(state);
        self.changed.send_replace(());
    }
}

/// The process, and the pipe that it lives as long as: tokio's `wait` would close a stdin left inside.
fn start(spec: &Spec) -> io::Result<(process::Child, Option<ChildStdin>)> {
    let log = OpenOptions::new().create(true).append(true).mode(PRIVATE).open(&spec.log)?;
    let mut process = Command::new(&spec.program)
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let lifeline = process.stdin.take();
    Ok((process, lifeline))
}

async fn stop(process: &mut process::Child, grace: Duration) {
    signal(process, Signal::SIGTERM);
    signal(process, Signal::SIGCONT); // a paused one cannot hear the other
    if timeout(grace, process.wait()).await.is_err() {
        let _ = process.start_kill();
        let _ = process.wait().await; // SIGKILL is not negotiable: this ends
    }
}

/// `id` is None once the process was waited for, so a pid that was used again is never signalled.
fn signal(process: &process::Child, signal: Signal) {
    if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), signal); // gone: `wait` says so next
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// 100 ms, doubling to 5 s: fast enough for a kill -9, slow enough for one that fails at start.
fn back_off(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(LONGEST_PAUSE)
}

/// The last lines of a log, for an error message. Empty when there is none.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].join("\n"))
    };
    read().unwrap_or_default()
}

/// Keeps a log below [`LARGEST_LOG`]: the old half becomes `<log>.1`. Children append, so they go on at the new end.
pub(crate) fn trim_log(log: &Path) -> io::Result<()> {
    if std::fs::metadata(log)?.len() > LARGEST_LOG {
        std::fs::copy(log, log.with_extension("log.1"))?;
        OpenOptions::new().write(true).open(log)?.set_len(0)?;
    }
    Ok(())
}

/// Orders that wait: one person, or one test, gives them.
const ORDERS: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A life this long was no failed start: the next pause is the first one again.
const HEALTHY: Duration = Duration::from_secs(10);
/// Bytes that hold any last lines worth showing.
const TAIL: u64 = 8 * 1024;
/// Bytes. An access log line has 300, so 200 000 connections.
const LARGEST_LOG: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_100_ms_to_5_s() {
        let pauses: Vec<_> = (1..=8).map(|n| back_off(n).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(back_off(u32::MAX), LONGEST_PAUSE);
    }
}
