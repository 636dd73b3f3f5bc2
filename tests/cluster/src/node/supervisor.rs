//! The components of a node, from one loop: what ends is started again, what is asked for is done.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixListener, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio, exit},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{Settings, socket};
use crate::{
    components::Component,
    control::{self, Reply, Request},
};

/// Between the end of a component and its next start; doubled for each end in a row that came before [`SETTLED`].
const PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_millis(2400);
const SETTLED: Duration = Duration::from_secs(10);
/// Between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(3600);

enum Event {
    Ended(Pid, String),
    Asked(Request, Sender<Reply>),
}

pub(super) fn run(settings: Settings) -> Result<()> {
    let (sender, events) = mpsc::channel();
    let path = socket(&settings.directory);
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    let asked = sender.clone();
    spawn("control", move || answer(&listener, &asked))?;
    spawn("reaper", move || reap(&sender))?;
    spawn("lifeline", || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        exit(0)
    })?;

    let mut components: Vec<Child> = settings.components.into_iter().map(Child::new).collect();
    loop {
        let now = Instant::now();
        for component in &mut components {
            component.act(now, &settings.directory);
        }
        let next = components.iter().filter_map(Child::next).min().unwrap_or(now + IDLE);
        match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Event::Ended(pid, how)) => {
                // Anything else was an orphan: a shim of containerd, or what it left.
                if let Some(component) = components.iter_mut().find(|component| component.pid == Some(pid)) {
                    component.ended(how);
                }
            }
            Ok(Event::Asked(request, reply)) => ask(&mut components, request, reply),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()), // both threads are gone: cannot happen
        }
    }
}

struct Child {
    component: Component,
    pid: Option<Pid>,
    restarts: u32,
    last_end: Option<String>,
    started: Instant,
    pause: Duration,
    /// When to start it, if it is to run and does not.
    start_at: Option<Instant>,
    /// When to lose patience with it, and who waits for its end.
    stopping: Option<(Instant, Sender<Reply>)>,
}

impl Child {
    fn new(component: Component) -> Self {
        let now = Instant::now();
        Self {
            component,
            pid: None,
            restarts: 0,
            last_end: None,
            started: now,
            pause: PAUSE,
            start_at: Some(now),
            stopping: None,
        }
    }

    /// When `act` has something to do next.
    fn next(&self) -> Option<Instant> {
        self.start_at.into_iter().chain(self.stopping.as_ref().map(|(deadline, _)| *deadline)).min()
    }

    fn act(&mut self, now: Instant, directory: &Path) {
        if self.start_at.is_some_and(|at| at <= now) {
            match start(&self.component, directory) {
                Ok(pid) => (self.pid, self.started, self.start_at) = (Some(pid), now, None),
                Err(error) => {
                    self.last_end = Some(format!("{error:#}"));
                    self.start_at = Some(now + PATIENCE);
                }
            }
        }
        if let (Some((deadline, _)), Some(pid)) = (&mut self.stopping, self.pid)
            && *deadline <= now
        {
            let _ = kill(pid, Signal::SIGKILL);
            *deadline = now + PATIENCE;
        }
    }

    fn ended(&mut self, how: String) {
        self.pid = None;
        self.last_end = Some(how);
        if let Some((_, waiting)) = self.stopping.take() {
            let _ = waiting.send(Reply::Done); // it may have lost patience
        } else {
            let now = Instant::now();
            self.pause =
                if now - self.started < SETTLED { (2 * self.pause).min(LONGEST_PAUSE) } else { PAUSE };
            self.restarts += 1;
            self.start_at = Some(now + self.pause);
        }
    }

    fn status(&self) -> control::Component {
        control::Component {
            name: self.component.name.clone(),
            pid: self.pid.map(Pid::as_raw),
            restarts: self.restarts,
            last_end: self.last_end.clone(),
        }
    }
}

fn ask(components: &mut [Child], request: Request, waiting: Sender<Reply>) {
    let names: HashMap<_, _> =
        components.iter().enumerate().map(|(index, child)| (child.component.name.clone(), index)).collect();
    let find = |name: &str| names.get(name).copied().ok_or_else(|| format!("this node runs no {name}"));
    let reply = match request {
        Request::Status => Reply::Components(components.iter().map(Child::status).collect()),
        Request::Start(name) => match find(&name) {
            Ok(index) => {
                let child = &mut components[index];
                if child.pid.is_none() {
                    child.start_at = Some(Instant::now());
                }
                Reply::Done
            }
            Err(error) => Reply::Error(error),
        },
        Request::Stop(name) => match find(&name) {
            Ok(index) => {
                let child = &mut components[index];
                child.start_at = None;
                if let Some(pid) = child.pid {
                    let _ = kill(pid, Signal::SIGTERM);
                    let _ = kill(pid, Signal::SIGCONT); // a paused one could not end
                    child.stopping = Some((Instant::now() + PATIENCE, waiting));
                    return;
                }
                Reply::Done
            }
            Err(error) => Reply::Error(error),
        },
        Request::Signal(name, number) => match find(&name).map(|index| components[index].pid) {
            Ok(Some(pid)) => match Signal::try_from(number).and_then(|signal| kill(pid, signal)) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Error(format!("signal {number} to {name}: {error}")),
            },
            Ok(None) => Reply::Error(format!("{name} is not running")),
            Err(error) => Reply::Error(error),
        },
        Request::KillOthers => {
            let ours: Vec<Pid> = components.iter().filter_map(|child| child.pid).collect();
            match kill_others(&ours) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Error(format!("read /proc: {error}")),
            }
        }
    };
    let _ = waiting.send(reply);
}

/// Until none is left: one that forks while we read /proc is found by the next look.
fn kill_others(ours: &[Pid]) -> io::Result<()> {
    loop {
        let mut found = false;
        for entry in fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw);
            let Some(pid) = pid.filter(|pid| *pid != Pid::this() && !ours.contains(pid)) else { continue };
            // A zombie waits for `reap`, or for its parent, which dies too.
            let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if !status.is_empty() && !status.contains(") Z ") {
                found = true;
                let _ = kill(pid, Signal::SIGKILL); // it may have ended since
            }
        }
        if !found {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn start(component: &Component, directory: &Path) -> Result<Pid> {
    let log = directory.join(format!("log/{}.log", component.name));
    let log =
        OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let (program, arguments) = component.argv.split_first().context("an empty command line")?;
    let child = Command::new(program)
        .args(arguments)
        .envs(component.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(File::open("/dev/null")?)
        .stdout(log.try_clone()?)
        .stderr(Stdio::from(log))
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    Ok(Pid::from_raw(i32::try_from(child.id())?)) // reap() waits for it: process 1 waits for everybody
}

/// Waits for every child, known and adopted.
fn reap(events: &Sender<Event>) {
    loop {
        let (pid, how) = match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit status: {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("signal: {signal}")),
            Err(Errno::ECHILD) => {
                thread::sleep(Duration::from_millis(20)); // the kernel offers nothing to wait for a first child with
                continue;
            }
            Ok(_) | Err(_) => continue,
        };
        if events.send(Event::Ended(pid, how)).is_err() {
            return;
        }
    }
}

/// One question at a time; who is slow to ask is not waited for.
fn answer(listener: &UnixListener, events: &Sender<Event>) {
    for stream in listener.incoming().flatten() {
        let events = events.clone();
        let answered = spawn("asker", move || {
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let mut line = String::new();
            let request = BufReader::new(&stream).read_line(&mut line).map_err(|error| error.to_string());
            let request =
                request.and_then(|_| serde_json::from_str(&line).map_err(|error| error.to_string()));
            let reply = match request {
                Err(error) => Reply::Error(error),
                Ok(request) => {
                    let (sender, reply) = mpsc::channel();
                    let _ = events.send(Event::Asked(request, sender));
                    reply.recv().unwrap_or_else(|_| Reply::Error("the node is ending".into()))
                }
            };
            if let Ok(mut text) = serde_json::to_vec(&reply) {
                text.push(b'\n');
                let _ = (&stream).write_all(&text);
            }
        });
        if let Err(error) = answered {
            tracing::warn!(%error, "answer on the control socket");
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
