//! A real mesh for one test: CA, controller and proxies as processes, on addresses of its own, from manifests in a
//! directory of its own.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use signet_cli::{
    ask::Place,
    local::{ChildOverride, EdgeAt, Local, LocalConfig},
    state::StateDir,
};
use signet_core::{
    bundle::TrustBundle,
    files::{self, PUBLIC},
    identity::TrustDomain,
};

use crate::{
    apps::{App, Does},
    binaries::binary,
    client,
    eventually::{SOON, eventually},
    manifests::{self, Pod, app_address},
    network::Network,
    pki::Authority,
    workload::Workload,
};

/// A running mesh. [`Mesh::finish`] stops it in order; dropped instead, its processes are killed, and a failed test shows
/// the end of their logs.
pub struct Mesh {
    pub local: Local,
    pub network: Network,
    directory: PathBuf,
    /// Of those added and not removed.
    addresses: BTreeMap<String, IpAddr>,
    _scratch: Scratch,
}

/// What a test may want different.
#[derive(Default)]
pub struct MeshBuilder {
    pods: Vec<Pod>,
    strict: Vec<String>,
    manifests: Vec<(String, Vec<Value>)>,
    leaf_life: Option<String>,
    overrides: BTreeMap<String, ChildOverride>,
    /// Child -> the last number of the address where it listens, out of the way.
    inbound_aside: Vec<(String, u8)>,
    log: Option<String>,
    /// Where the control plane listens and which ranges are the mesh's, when not on loopback.
    place: Option<(IpAddr, Vec<String>)>,
    grace: Option<Duration>,
}

impl Mesh {
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// Pods, ready, in permissive namespaces.
    pub async fn start(pods: impl IntoIterator<Item = Pod>) -> Self {
        let mut builder = Self::builder();
        builder.pods.extend(pods);
        builder.start().await
    }

    /// Adds a pod to the running mesh and waits until it is ready.
    pub async fn add(&mut self, pod: Pod) -> Workload {
        let address = self.place(&pod);
        let name = pod.full_name();
        if pod.is_meshed() {
            eventually(&format!("{name} to be ready"), SOON, async || {
                let admin = self.local.sidecars().get(&name)?.admin;
                client::get(admin, "/ready").await.ok().filter(|(status, _)| *status == 200)
            })
            .await;
        } else {
            self.controller_sees(&name).await;
        }
        self.at(&name, address)
    }

    /// Writes a pod's manifest and waits for nothing: the controller or the proxy may be down.
    pub fn place(&mut self, pod: &Pod) -> IpAddr {
        let address = pod.address.unwrap_or_else(|| self.free_address());
        self.write(&file_of(&pod.full_name()), &pod.documents(address));
        self.addresses.insert(pod.full_name(), address);
        address
    }

    /// Deletes the pod's manifest. Its address is free at once, as in a cluster.
    pub fn delete(&mut self, name: &str) -> IpAddr {
        fs::remove_file(self.directory.join(file_of(name))).expect("it was written by us");
        self.addresses.remove(name).expect("it is in the mesh")
    }

    /// Writes or replaces a manifest file, whole.
    pub fn write(&self, file: &str, documents: &[Value]) {
        self.write_text(file, &manifests::file(documents));
    }

    /// The same with any text, e.g. one that does not parse.
    pub fn write_text(&self, file: &str, text: &str) {
        files::write_atomic(&self.directory.join(file), text.as_bytes(), PUBLIC)
            .expect("the directory is ours");
    }

    pub fn workload(&self, name: &str) -> Workload {
        let address = *self.addresses.get(name).unwrap_or_else(|| panic!("no pod {name} in this test"));
        self.at(name, address)
    }

    /// An app behind the proxy of a meshed pod, or on the pod's own port of one outside the mesh.
    pub async fn run(&self, name: &str, port: u16, does: Does) -> App {
        let address = self.workload(name).address;
        let meshed = self.local.sidecars().contains_key(name);
        let listen = if meshed { app_address(address, port) } else { SocketAddr::new(address, port) };
        App::start(listen, does).await.unwrap_or_else(|e| panic!("app of {name} at {listen}: {e}"))
    }

    /// Everything that was sent through the pod's proxy: its log so far.
    pub fn log(&self, child: &str) -> String {
        fs::read_to_string(self.local.state_dir().log(child)).unwrap_or_default()
    }

    /// GET from the CA's admin socket.
    pub async fn ca(&self, path: &str) -> io::Result<Value> {
        self.ask(&self.local.state_dir().ca_socket(), "GET", path).await
    }

    /// POST without a body, e.g. `/v1/rotate`.
    pub async fn ca_post(&self, path: &str) -> io::Result<Value> {
        self.ask(&self.local.state_dir().ca_socket(), "POST", path).await
    }

    /// POST with a JSON body, e.g. `/v1/distrust`.
    pub async fn ca_post_json(&self, path: &str, body: &Value) -> io::Result<Value> {
        let socket = Place::Socket(self.local.state_dir().ca_socket());
        socket.post(path, body).await.map_err(io::Error::other)
    }

    /// GET from the controller's admin socket: `/v1/status`, `/v1/edges`.
    pub async fn controller(&self, path: &str) -> io::Result<Value> {
        self.ask(&self.local.state_dir().controller_socket(), "GET", path).await
    }

    /// The edges as `signet edges -o json` has them.
    pub async fn edges(&self) -> Vec<Value> {
        let answer = self.controller("/v1/edges").await.expect("the controller answers");
        answer["edges"].as_array().cloned().unwrap_or_default()
    }

    /// Makes the whole mesh believe in a CA of the test's own as well: its certificates pass wherever only the path is
    /// asked for. The real CA is stopped, or it would write its own bundle again.
    pub async fn believe_also(&self, authority: &Authority) {
        self.local.stop_child("ca").await.expect("there is a CA");
        let file = self.local.state_dir().trust_bundle();
        let held = TrustBundle::read(&file).expect("the CA wrote it");
        let roots = [held.roots, vec![authority.root().clone()]].concat();
        let bundle = TrustBundle::new(held.sequence + 1, roots, held.distrusted).expect("a root more");
        files::write_atomic(&file, bundle.to_pem().as_bytes(), PUBLIC).expect("the state directory is ours");
        for (name, sidecar) in self.local.sidecars() {
            eventually(&format!("{name} to believe in the test's CA"), SOON, async || {
                let (_, body) = client::get(sidecar.admin, "/identity").await.ok()?;
                let identity: Value = serde_json::from_str(&body).ok()?;
                (identity["bundleSequence"].as_u64()? >= bundle.sequence).then_some(())
            })
            .await;
        }
    }

    /// SIGTERM to all, in order.
    pub async fn finish(self) {
        Box::pin(self.local.shutdown()).await;
    }

    async fn ask(&self, socket: &Path, method: &str, path: &str) -> io::Result<Value> {
        let (status, body) = client::ask_unix(socket, method, path).await?;
        if status != 200 {
            return Err(io::Error::other(format!("{method} {path}: {status} {body}")));
        }
        serde_json::from_str(&body).map_err(io::Error::other)
    }

    async fn controller_sees(&self, name: &str) {
        let (namespace, pod) = name.split_once('/').expect("<namespace>/<pod>");
        eventually(&format!("the controller to see {name}"), SOON, async || {
            let status = self.controller("/v1/status").await.ok()?;
            let seen = status["workloads"]
                .as_array()?
                .iter()
                .any(|w| w["namespace"] == namespace && w["pod"] == pod);
            seen.then_some(())
        })
        .await;
    }

    fn at(&self, name: &str, address: IpAddr) -> Workload {
        Workload::new(name, address, self.local.state_dir().log(name))
    }

    fn free_address(&self) -> IpAddr {
        let mut candidates = (1..=u8::MAX - 1).map(|d| self.network.address(1, d));
        candidates
            .find(|address| !self.addresses.values().any(|taken| taken == address))
            .expect("few pods per test")
    }
}

impl MeshBuilder {
    pub fn pod(mut self, pod: Pod) -> Self {
        self.pods.push(pod);
        self
    }

    pub fn strict(mut self, namespace: &str) -> Self {
        self.strict.push(namespace.into());
        self
    }

    pub fn with_manifest(mut self, file: &str, documents: &[Value]) -> Self {
        self.manifests.push((file.into(), documents.to_vec()));
        self
    }

    /// E.g. "20s"; below an hour with the CA's test flag.
    pub fn leaf_life(mut self, life: &str) -> Self {
        self.leaf_life = Some(life.into());
        self
    }

    /// Other program, arguments or environment for "ca", "controller" or "namespace/pod".
    pub fn overriding(mut self, child: &str, other: ChildOverride) -> Self {
        self.overrides.insert(child.into(), other);
        self
    }

    /// The pod's proxy listens out of the way, at `network.aside(d, port)`, so that the test can put a
    /// [`crate::gate::Gate`] at the pod's own address.
    pub fn inbound_aside(mut self, name: &str, d: u8) -> Self {
        self.inbound_aside.push((name.into(), d));
        self
    }

    /// In a network of the test's own instead of on loopback: pods then have addresses of their own.
    pub(crate) fn placed(mut self, control: IpAddr, ranges: &[&str]) -> Self {
        self.place = Some((control, ranges.iter().map(ToString::to_string).collect()));
        self
    }

    /// SIGTERM to SIGKILL, where a drain is to have its time.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Log filter of the children; "info" unless said.
    pub fn log(mut self, filter: &str) -> Self {
        self.log = Some(filter.into());
        self
    }

    /// Starts everything and waits until all of it is ready.
    pub async fn start(self) -> Mesh {
        let mesh = Box::pin(self.start_without_waiting()).await;
        Box::pin(mesh.local.wait_ready(SOON)).await.unwrap_or_else(|e| panic!("{e:#}"));
        mesh
    }

    pub async fn start_without_waiting(self) -> Mesh {
        let (network, scratch) = (Network::claim(), Scratch::new());
        let directory = scratch.path.join("manifests");
        fs::create_dir(&directory).expect("the scratch directory is new");
        let config = self.config(&network, &directory, &scratch.path.join("state"));
        let mut addresses = BTreeMap::new();
        let put = |file: &str, documents: &[Value]| {
            fs::write(directory.join(file), manifests::file(documents)).expect("the directory is ours");
        };
        for (next, pod) in (1..).zip(&self.pods) {
            let address = pod.address.unwrap_or_else(|| network.address(1, next));
            put(&file_of(&pod.full_name()), &pod.documents(address));
            addresses.insert(pod.full_name(), address);
        }
        let mut namespaces: Vec<&str> = self.pods.iter().map(|pod| pod.namespace.as_str()).collect();
        namespaces.extend(self.strict.iter().map(String::as_str));
        for namespace in namespaces {
            let mode =
                if self.strict.iter().any(|strict| strict == namespace) { "strict" } else { "permissive" };
            put(&format!("{namespace}.yaml"), &[manifests::namespace(namespace, mode)]);
        }
        for (file, documents) in &self.manifests {
            put(file, documents);
        }
        let local = Box::pin(Local::start(config)).await.unwrap_or_else(|e| panic!("{e:#}"));
        Mesh { local, network, directory, addresses, _scratch: scratch }
    }

    fn config(&self, network: &Network, directory: &Path, state: &Path) -> LocalConfig {
        let on_loopback = || (network.control(), vec![network.range()]);
        let (control_address, ranges) = self.place.clone().unwrap_or_else(on_loopback);
        let aside = |(name, d): &(String, u8)| (name.clone(), network.aside(*d, 0).ip());
        LocalConfig {
            directory: directory.to_owned(),
            state: StateDir::at(state).expect("an absolute path"),
            control_address,
            trust_domain: TrustDomain::new("cluster.local").expect("the default"),
            mesh_ranges: ranges.iter().map(|range| range.parse().expect("a range")).collect(),
            leaf_life: self.leaf_life.clone().unwrap_or_else(|| "24h".into()),
            allow_short_leaves: self.leaf_life.is_some(),
            drain: self.grace.unwrap_or(SOON / 4),
            log: self.log.clone().unwrap_or_else(|| "info".into()),
            signet: binary("signet"),
            proxy: binary("signet-proxy"),
            gateway: binary("signet-gateway"),
            edge_at: EdgeAt { address: control_address, ..EdgeAt::default() },
            edge_suffixes: Vec::new(),
            overrides: self.overrides.clone(),
            inbound_at: self.inbound_aside.iter().map(aside).collect(),
        }
    }
}

/// A directory of the test's own; it stays when the test fails.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("signet-mesh-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path); // of an earlier process with this pid
        files::create_private_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path }
    }

    fn show_logs(&self) {
        eprintln!("everything of this test is in {}", self.path.display());
        for log in fs::read_dir(self.path.join("state/logs")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LINES)..];
            eprintln!("---- {}\n{}", log.path().display(), last.join("\n"));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        } else {
            let _ = fs::remove_dir_all(&self.path); // a left-over costs some kilobytes of /tmp
        }
    }
}

fn file_of(name: &str) -> String {
    format!("{}.yaml", name.replace('/', "."))
}

/// Of each log, in the output of a failed test.
const LINES: usize = 40;
