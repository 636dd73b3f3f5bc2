//! A mesh on this machine: CA, controller and one proxy per meshed pod of a directory, supervised; edge and a gateway where it has
//! Ingresses ([`edge`]).
//!
//! `source` reads the directory, [`plan`] says what should run, `child` keeps one process running, `tokens` keeps their
//! token files fresh, and this file brings it all up, follows the directory, and takes it down in order.

mod apply;
mod child;
pub(crate) mod command;
mod config;
pub(crate) mod edge;
pub mod plan;
mod source;
mod tokens;

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::join_all;
use serde_json::Value;
use signet_core::{VERSION, drain::Drain};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::warn;

use self::{
    child::{Child, Order, State},
    plan::{Plan, Sidecar},
    source::Source,
    tokens::Tokens,
};
pub use self::{
    config::{ChildOverride, LocalConfig},
    edge::EdgeAt,
    plan::Workload,
};
use crate::{
    ask::{NoAnswer, Place},
    proc,
    state::{Lock, Running, RunningChild, StateDir},
};

/// A running mesh. Dropped without [`Local::shutdown`], its processes are killed.
pub struct Local {
    shared: Arc<Shared>,
    /// Our own tasks; the children have another drain, because they end last and in order.
    tasks: Drain,
    _lock: Lock,
}

/// What the tasks and the handle share.
struct Shared {
    config: LocalConfig,
    children: Mutex<BTreeMap<String, Child>>,
    plan: Mutex<Plan>,
    tokens: Tokens,
    /// Some child changed its state.
    changed: watch::Sender<()>,
    nursery: Drain,
}

impl Local {
    /// Takes the state directory, starts the CA, and when that answers, controller and proxies. Returns when all processes
    /// are started; [`Local::wait_ready`] says when they can serve.
    pub async fn start(config: LocalConfig) -> Result<Self> {
        Box::pin(Self::start_all(config)).await
    }

    async fn start_all(config: LocalConfig) -> Result<Self> {
        let lock = config.state.take()?;
        end_orphans(&config.state).await;
        let source = Source::open(&config)?;
        let plan = source.plan(&config, &Plan::default());
        config.check(&plan)?;
        let (tasks, nursery) = (Drain::new(), Drain::new());
        let changed = watch::Sender::new(());
        let ca = Child::supervise(config.ca(), None, changed.clone(), &nursery);
        let tokens = Tokens::start(Place::Socket(config.state.ca_socket()), ca.state.clone(), &tasks);
        let children = Mutex::new([("ca".to_owned(), ca)].into());
        let shared = Arc::new(Shared { config, children, plan: Mutex::default(), tokens, changed, nursery });
        let local = Self { shared, tasks, _lock: lock };
        match local.bring_up(source, plan).await {
            Ok(()) => Ok(local),
            Err(e) => {
                local.shutdown().await;
                Err(e)
            }
        }
    }

    async fn bring_up(&self, source: Source, plan: Plan) -> Result<()> {
        let shared = &self.shared;
        self.record_children();
        let ca = Place::Socket(shared.config.state.ca_socket());
        shared.answers("ca", &ca, START).await?;
        let controller = shared.config.controller()?;
        let tokens = Some(shared.tokens.clone());
        shared.adopt(Child::supervise(controller, tokens, shared.changed.clone(), &shared.nursery));
        apply::sweep(&shared.config.state, &plan);
        shared.apply(plan).await;
        self.follow_directory(source);
        self.trim_logs();
        Ok(())
    }

    /// Waits until controller and edge answer, and every proxy and the gateway are ready. The error names who is not, and why.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let pending = self.pending().await;
            if pending.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("not ready after {deadline:?}:\n{}", pending.join("\n"));
            }
            sleep(POLL).await;
        }
    }

    /// Who is not ready yet, one line each.
    pub async fn pending(&self) -> Vec<String> {
        let children: Vec<Child> = self.shared.children().values().cloned().collect();
        let asked = children.into_iter().filter(|child| child.spec.name != "ca").map(|child| async move {
            let why = match child.spec.admin {
                Some(admin) => Place::Tcp(admin).get_text("/ready").await.err(),
                None => self.shared.place(&child.spec.name).get::<Value>("/v1/status").await.err(),
            }?;
            Some(format!("{}: {}", child.spec.name, in_words(&child, &why)))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    pub fn config(&self) -> &LocalConfig {
        &self.shared.config
    }

    pub fn state_dir(&self) -> &StateDir {
        &self.shared.config.state
    }

    /// The proxies that run, by "namespace/pod".
    pub fn sidecars(&self) -> BTreeMap<String, Sidecar> {
        self.shared.plan().sidecars.clone()
    }

    /// Workloads of the directory that cannot run, in words.
    pub fn problems(&self) -> Vec<String> {
        self.shared.plan().problems.clone()
    }

    /// The process that runs as `name` now: "ca", "controller", "edge", "gateway" or "namespace/pod".
    pub fn child_pid(&self, name: &str) -> Option<u32> {
        self.shared.children().get(name)?.pid()
    }

    /// SIGTERM, SIGKILL after the drain time; stays down until [`Local::start_child`].
    pub async fn stop_child(&self, name: &str) -> Result<()> {
        self.order(name, Order::Stop).await
    }

    pub async fn start_child(&self, name: &str) -> Result<()> {
        self.order(name, Order::Start).await
    }

    /// SIGKILL; it starts again after the usual pause.
    pub async fn kill_child(&self, name: &str) -> Result<()> {
        self.order(name, Order::Kill).await
    }

    /// SIGSTOP: there, and silent.
    pub async fn pause_child(&self, name: &str) -> Result<()> {
        self.order(name, Order::Pause).await
    }

    pub async fn resume_child(&self, name: &str) -> Result<()> {
        self.order(name, Order::Resume).await
    }

    async fn order(&self, name: &str, order: Order) -> Result<()> {
        let child = self.shared.children().get(name).cloned();
        let child = child.ok_or_else(|| {
            let names: Vec<String> = self.shared.children().keys().cloned().collect();
            anyhow!("no child is called {name:?}; there are {}", names.join(", "))
        })?;
        child.order(order).await;
        Ok(())
    }

    /// The gateway first, then proxies, because both drain against a living control plane; then edge and controller; the CA last.
    pub async fn shutdown(self) {
        self.tasks.run(Duration::ZERO).await; // nobody starts a child any more
        let mut children = std::mem::take(&mut *self.shared.children());
        edge::stop_gateway(&mut children).await;
        let last = ["edge", "controller", "ca"].map(|name| children.remove(name));
        join_all(children.values().map(|proxy| proxy.order(Order::Stop))).await;
        for child in last.into_iter().flatten() {
            child.order(Order::Stop).await;
        }
        drop(children);
        self.shared.nursery.run(Duration::ZERO).await;
        self.shared.config.state.forget_running();
    }

    /// Keeps `local.json` true.
    fn record_children(&self) {
        let shared = Arc::clone(&self.shared);
        let mut changed = shared.changed.subscribe();
        changed.mark_changed(); // the file of an earlier supervisor must not stand
        let stop = self.tasks.clone();
        self.tasks.spawn(async move {
            while tokio::select! { biased; () = stop.stopping() => false, c = changed.changed() => c.is_ok() }
            {
                if let Err(e) = shared.config.state.write_running(&shared.running()) {
                    let file = shared.config.state.running();
                    warn!("{} not written, other commands see an old state: {e}", file.display());
                }
            }
        });
    }

    fn follow_directory(&self, mut source: Source) {
        let (shared, stop) = (Arc::clone(&self.shared), self.tasks.clone());
        self.tasks.spawn(async move {
            let mut ticks = ticks(FOLLOW);
            while tokio::select! { biased; () = stop.stopping() => false, _ = ticks.tick() => true } {
                // A port may be free by now.
                let waits = shared.plan().ingresses && !shared.has_edge();
                if source.poll() || waits {
                    let now = shared.plan().clone();
                    shared.apply(source.plan(&shared.config, &now)).await;
                }
            }
        });
    }

    fn trim_logs(&self) {
        let (logs, stop) = (self.state_dir().logs(), self.tasks.clone());
        self.tasks.spawn(async move {
            let mut ticks = ticks(TRIM);
            while tokio::select! { biased; () = stop.stopping() => false, _ = ticks.tick() => true } {
                for log in fs::read_dir(&logs).into_iter().flatten().flatten() {
                    if let Err(e) = child::trim_log(&log.path()) {
                        warn!("{} keeps growing: {e}", log.path().display());
                    }
                }
            }
        });
    }
}

/// Late ticks are not made up for.
fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Shared {
    fn children(&self) -> MutexGuard<'_, BTreeMap<String, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner) // a map of handles is whole at any moment
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adopt(&self, child: Child) {
        self.children().insert(child.spec.name.clone(), child);
        self.changed.send_replace(());
    }

    /// Where the controller, or edge, takes questions.
    fn place(&self, name: &str) -> Place {
        let state = &self.config.state;
        Place::Socket(if name == edge::EDGE { state.edge_socket() } else { state.controller_socket() })
    }

    /// Waits for a child's first answer. A crash ends the wait with the child's own last words.
    async fn answers(&self, name: &str, place: &Place, deadline: Duration) -> Result<()> {
        let Some(child) = self.children().get(name).cloned() else { bail!("{name} was not started") };
        let answer = async {
            while place.get::<Value>("/v1/status").await.is_err() {
                sleep(POLL).await;
            }
        };
        let mut state = child.state.clone();
        let crash = state.wait_for(|state| matches!(state, State::Crashed { .. }));
        let why = tokio::select! {
            answered = timeout(deadline, answer) => match answered {
                Ok(()) => return Ok(()),
                Err(_) => format!("does not answer at {place} after {deadline:?}"),
            },
            crashed = crash => match crashed.as_deref() {
                Ok(State::Crashed { why, .. }) => why.clone(),
                _ => "ended".into(),
            },
        };
        Err(anyhow!(
            "{name} {why}; the end of {}:\n{}",
            child.spec.log.display(),
            child::tail(&child.spec.log, 5)
        ))
    }

    fn running(&self) -> Running {
        let children = self.children();
        let child = |child: &Child| {
            let (pid, started) = match *child.state.borrow() {
                State::Running { pid, started } => (Some(pid), started),
                _ => (None, None),
            };
            let Child { spec, .. } = child;
            RunningChild { name: spec.name.clone(), kind: spec.kind, pid, started, admin_address: spec.admin }
        };
        Running {
            version: VERSION.into(),
            pid: std::process::id(),
            directory: self.config.directory.clone(),
            trust_domain: self.config.trust_domain.to_string(),
            control_address: self.config.control_address,
            edge_at: Some(self.config.edge_at),
            children: children.values().map(child).collect(),
        }
    }
}

/// Why a child is not ready: what its process does tells more than a refused connection.
fn in_words(child: &Child, why: &NoAnswer) -> String {
    match (&*child.state.borrow(), why) {
        (State::Crashed { why, .. }, _) => {
            format!("{why}; the end of {}:\n{}", child.spec.log.display(), child::tail(&child.spec.log, 5))
        }
        (State::Stopped, _) => "stopped".into(),
        (State::Starting, _) | (_, NoAnswer::Unreached { .. }) => "starting".into(),
        (_, NoAnswer::Refused { words, .. }) => words.clone(),
        _ => why.to_string(),
    }
}

/// Processes of a supervisor that was killed end by themselves; one that does not still holds our addresses.
async fn end_orphans(state: &StateDir) {
    let Ok(old) = state.read_running() else { return };
    let orphans: Vec<(u32, u64)> =
        old.children.iter().filter_map(|child| Some((child.pid?, child.started?))).collect();
    for pid in proc::end_orphans(&orphans).await {
        warn!(
            pid,
            "a process of the signet (pid {}) that was killed here was still running; killed it too", old.pid
        );
    }
    state.forget_running();
}

/// The CA makes its keys in milliseconds; this is for a disk that is slow to fsync.
const START: Duration = Duration::from_secs(10);
/// Between looks at what is about to be ready: unnoticed by people, cheap for the machine.
const POLL: Duration = Duration::from_millis(10);
/// An edited manifest is live before one's eyes are back on the other window.
const FOLLOW: Duration = Duration::from_millis(500);
const TRIM: Duration = Duration::from_secs(30);

/// `Context` for a file that we write into the state directory.
fn write(path: &std::path::Path, content: &[u8]) -> Result<()> {
    signet_core::files::write_atomic(path, content, signet_core::files::PRIVATE)
        .with_context(|| format!("writing {}", path.display()))
}
