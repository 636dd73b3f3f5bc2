//! The process that holds a cluster: while it lives the cluster does, and it leaves nothing behind, however it dies.
//!
//! It owns the fabric (a thread), the nodes (their stdin), their cgroups and the state directory. The last two outlive a
//! kill -9; the next start, or `down`, takes them away first.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signet_core::files;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    cgroups::Cgroups,
    components::{self, Place},
    fabric::{self, Fabric},
    images, network, node, paths,
    pki::{self, Pki},
    programs::Programs,
    ready,
    sha256::Sha256,
    state::{self, State},
};

/// The last step, after which `up` leaves the harness alone.
pub(crate) const READY: &str = "the cluster is ready";

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    pub nodes: u8,
}

/// Tells whoever waits for the cluster how far it is, with the time since the start.
pub struct Steps {
    begun: Instant,
}

impl Steps {
    pub fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    pub fn say(&self, step: &str) {
        let line = format!("{:6.1} s  {step}\n", self.begun.elapsed().as_secs_f64());
        let _ = io::stdout().write_all(line.as_bytes()); // nobody listens any more once the cluster is ready
    }
}

/// Starts the cluster, holds it until `end` is there, and takes it away. If `abandoned` is there before it is ready, too.
pub async fn run(
    plan: &Plan,
    abandoned: impl Future<Output = ()>,
    end: impl Future<Output = ()>,
) -> Result<()> {
    let steps = Steps::begin();
    let directory = paths::state(&plan.name)?;
    let _lock = match lock(&directory)? {
        Lock::Ours(lock) => lock,
        Lock::Held(harness) => {
            bail!("the cluster {} is running already, held by process {harness}", plan.name)
        }
    };
    remove_leftovers(&directory)?;
    files::create_private_dir(&directory).with_context(|| directory.display().to_string())?;

    tokio::pin!(end);
    let started = tokio::select! {
        started = start(plan, &directory, &steps) => Some(started?), // failed: the logs stay where they are
        () = &mut end => None, // the nodes are dropped, and end
        () = abandoned => None,
    };
    if let Some(cluster) = started {
        steps.say(READY);
        end.await;
        cluster.stop();
    }
    remove_leftovers(&directory)
}

struct Running {
    nodes: Vec<Init>,
    /// The way to the API server.
    _tasks: JoinSet<()>,
}

impl Running {
    /// Ends every node, all at the same time.
    fn stop(mut self) {
        for node in &mut self.nodes {
            node.lifeline = None;
        }
    }
}

/// A node's outermost process and its lifeline. Dropping it ends the node and waits for that.
struct Init {
    process: Child,
    lifeline: Option<ChildStdin>,
    pid: u32,
}

impl Drop for Init {
    fn drop(&mut self) {
        self.lifeline = None;
        if let Err(error) = self.process.wait() {
            tracing::warn!(%error, "wait for a node to end");
        }
    }
}

async fn start(plan: &Plan, directory: &Path, steps: &Steps) -> Result<Running> {
    ensure!((1..=2).contains(&plan.nodes), "a cluster has one or two nodes, not {}", plan.nodes);
    fabric::check_kernel()?;
    let programs = Programs::open()?;
    let images = images::open(&programs)?;
    let pki = Pki::create(directory.join("pki"), plan.nodes)?;
    let listener =
        TcpListener::bind("127.0.0.1:0").await.context("listen on 127.0.0.1 for the API server")?;
    let server = format!("https://{}", listener.local_addr()?);
    let kubeconfig = directory.join("admin.kubeconfig");
    pki::write(&kubeconfig, &pki.kubeconfig("admin", &server)?, files::PRIVATE)?;
    steps.say("certificates made");

    let fabric = Fabric::create().await?;
    let mut nodes = Vec::new();
    for number in 1..=plan.nodes {
        let name = network::node_name(number);
        let place = directory.join(&name);
        files::create_private_dir(&place)?;
        let place = Place { number, directory: &place, programs: &programs, pki: &pki, images: &images };
        let init = start_node(directory, &place).with_context(|| format!("start {name}"))?;
        fabric.connect(number, init.pid, plan.nodes)?;
        nodes.push(init);
    }
    for init in &mut nodes {
        let lifeline = init.lifeline.as_mut().context("a node is ending")?;
        lifeline.write_all(b"the network is there\n").context("a node's init has ended")?;
    }
    steps.say("nodes and their network made");

    let state = State {
        name: plan.name.clone(),
        directory: directory.to_owned(),
        harness: std::process::id(),
        fabric: fabric.namespace().to_owned(),
        kubeconfig: kubeconfig.clone(),
        nodes: (1..=plan.nodes)
            .zip(&nodes)
            .map(|(number, init)| node_state(directory, number, init.pid))
            .collect(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { fabric.forward_api(listener).await });
    ready::wait(&state, &programs, steps).await?;
    state.write()?;
    Ok(Running { nodes, _tasks: tasks })
}

fn node_state(directory: &Path, number: u8, pid: u32) -> state::Node {
    let name = network::node_name(number);
    let socket = node::socket(&directory.join(&name));
    state::Node { name, pid, socket }
}

fn start_node(state: &Path, place: &Place<'_>) -> Result<Init> {
    let name = network::node_name(place.number);
    let settings = node::Settings {
        name: name.clone(),
        directory: place.directory.to_owned(),
        cgroups: Cgroups::below_ours(&cgroup(state, &name))?,
        components: components::prepare(place)?,
    };
    settings.write()?; // first: what it names is what remove_leftovers removes
    settings.cgroups.create()?;
    let log = place.directory.join("log/init.log");
    let mut process = Command::new(std::env::current_exe()?)
        .arg("node-enter")
        .arg(place.directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).with_context(|| log.display().to_string())?)
        .spawn()?;
    let (Some(lifeline), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
        bail!("no pipes to the node");
    };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let pid = line.trim().parse().with_context(|| {
        format!("its init did not start: {}", fs::read_to_string(&log).unwrap_or_default().trim())
    })?;
    Ok(Init { process, lifeline: Some(lifeline), pid })
}

/// One name for each state directory: clusters of two caches may be called the same.
fn cgroup(state: &Path, node: &str) -> String {
    let mut key = Sha256::default();
    key.field(state.as_os_str().as_encoded_bytes());
    let cluster = state.file_name().unwrap_or_default().to_string_lossy();
    format!("signet-{cluster}-{}-{node}", &key.hex()[..8])
}

/// Ends the cluster called `name`, if there is one, and takes away what a killed harness left.
pub fn stop(name: &str) -> Result<()> {
    let directory = paths::state(name)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut asked = None;
    let _lock = loop {
        match lock(&directory)? {
            Lock::Ours(lock) => break lock,
            Lock::Held(harness) if asked != Some(harness) => {
                kill(harness, Signal::SIGTERM)
                    .with_context(|| format!("end the harness, process {harness}"))?;
                asked = Some(harness);
            }
            Lock::Held(harness) if Instant::now() >= deadline => {
                bail!("the harness of {name}, process {harness}, does not end");
            }
            Lock::Held(_) => thread::sleep(Duration::from_millis(20)), // nothing tells when another process lets go
        }
    };
    remove_leftovers(&directory)
}

/// Whether a harness holds the cluster called `name`, ready or not.
pub fn is_running(name: &str) -> Result<bool> {
    Ok(matches!(lock(&paths::state(name)?)?, Lock::Held(_)))
}

/// Beside the state directory, `<name>.lock`, with the harness' PID in it. The kernel lets go of it with that process.
enum Lock {
    Ours(File),
    Held(Pid),
}

fn lock(directory: &Path) -> Result<Lock> {
    let path = directory.with_extension("lock");
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    let locked = || -> Result<Lock> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
                Ok(Lock::Ours(file))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                Ok(Lock::Held(Pid::from_raw(holder.parse().context("no PID in it")?)))
            }
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    };
    locked().with_context(|| format!("lock {}", path.display()))
}

/// The cgroups with whatever is still in them, and the state directory.
fn remove_leftovers(directory: &Path) -> Result<()> {
    for number in 1..=2 {
        let node = directory.join(network::node_name(number));
        if let Some(settings) = node::Settings::read(&node)? {
            settings.cgroups.remove()?;
        }
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The last lines of every log in which a component complains, for a cluster that did not become ready.
pub fn last_words(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut words = Vec::new();
    for number in 1..=2 {
        let logs = directory.join(network::node_name(number)).join("log");
        for entry in fs::read_dir(logs).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let last: Vec<_> = text.lines().rev().take(3).collect();
            if !last.is_empty() {
                words.push((entry.path(), last.into_iter().rev().collect::<Vec<_>>().join("\n")));
            }
        }
    }
    words
}
