//! A mesh whose pods have networks of their own and are captured: the apps in them know nothing of it.
//!
//! The test's thread is the node. The control plane listens there; each meshed pod has a namespace in which `signet-proxy
//! capture` ran as root, and a proxy that runs as uid 1337 without any right to change the network.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use serde_json::Value;
use signet_cli::local::ChildOverride;
use signet_core::pod::Probe;

use crate::{
    apps::{App, Does},
    binaries::binary,
    dns::Dns,
    injected,
    manifests::Pod,
    mesh::{Mesh, MeshBuilder},
    netns::{MESH, NODE_V4, Netns, Node, PodNetwork, service_v4, service_v6},
    workload::Workload,
};

/// A running mesh with the networks around it.
pub struct Captured {
    pub mesh: Mesh,
    pub node: Node,
    /// The cluster's, where a pod is injected.
    pub dns: Dns,
    pods: BTreeMap<String, Place>,
    _wrappers: Wrappers,
}

struct Place {
    network: PodNetwork,
    service: [IpAddr; 2],
    /// The flags of its capture step, `None`: not captured.
    capture: Option<Vec<String>>,
}

#[derive(Default)]
pub struct CapturedBuilder {
    mesh: MeshBuilder,
    pods: Vec<Pod>,
    flags: BTreeMap<String, Vec<String>>,
    injected: BTreeMap<String, Vec<Probe>>,
}

impl Captured {
    pub fn builder() -> CapturedBuilder {
        CapturedBuilder::default()
    }

    /// A pod's network namespace, addresses and link.
    pub fn pod(&self, name: &str) -> &PodNetwork {
        &self.place(name).network
    }

    pub fn workload(&self, name: &str) -> Workload {
        self.mesh.workload(name)
    }

    /// A port of the pod, over IPv4 and over IPv6.
    pub fn at_pod(&self, name: &str, port: u16) -> [SocketAddr; 2] {
        self.pod(name).addresses.map(|address| SocketAddr::new(address, port))
    }

    /// A port of the Service in front of the pod, over IPv4 and over IPv6.
    pub fn at_service(&self, name: &str, port: u16) -> [SocketAddr; 2] {
        self.place(name).service.map(|address| SocketAddr::new(address, port))
    }

    /// An app in a pod, listening for both families on the pod's own port, as it would without a mesh.
    pub fn run(&self, name: &str, port: u16, does: Does) -> App {
        let everywhere = SocketAddr::from(([0_u16; 8], port));
        let listener = self.pod(name).netns.listen(everywhere);
        listener
            .and_then(|listener| App::serve(listener, does))
            .unwrap_or_else(|e| panic!("app of {name}: {e}"))
    }

    /// Runs the pod's capture step again, with the flags that it had.
    pub async fn capture_again(&self, name: &str) -> io::Result<()> {
        let place = self.place(name);
        let flags = place.capture.as_ref().unwrap_or_else(|| panic!("{name} is not captured"));
        capture(&place.network.netns, flags).await
    }

    pub async fn finish(self) {
        self.mesh.finish().await;
    }

    fn place(&self, name: &str) -> &Place {
        self.pods.get(name).unwrap_or_else(|| panic!("no pod {name} in this test"))
    }
}

impl CapturedBuilder {
    pub fn pod(mut self, pod: Pod) -> Self {
        self.pods.push(pod);
        self
    }

    pub fn strict(mut self, namespace: &str) -> Self {
        self.mesh = self.mesh.strict(namespace);
        self
    }

    pub fn with_manifest(mut self, file: &str, documents: &[Value]) -> Self {
        self.mesh = self.mesh.with_manifest(file, documents);
        self
    }

    /// Flags of the pod's capture step.
    pub fn capturing(mut self, name: &str, flags: &[&str]) -> Self {
        self.flags.insert(name.into(), flags.iter().map(ToString::to_string).collect());
        self
    }

    /// The pod's proxy runs as in a cluster: in an empty image, told by its environment, with these probes to answer.
    pub fn injecting(mut self, name: &str, probes: &[Probe]) -> Self {
        self.injected.insert(name.into(), probes.to_vec());
        self
    }

    /// Makes the networks, captures, and starts everything; all of it is ready.
    pub async fn start(self) -> Captured {
        let node = Node::enter().unwrap_or_else(|e| panic!("{e}"));
        let wrappers = Wrappers::new().unwrap_or_else(|e| panic!("{e}"));
        let control = IpAddr::from(NODE_V4);
        let dns =
            Dns::start(control, &[(injected::CA, control)]).await.unwrap_or_else(|e| panic!("DNS: {e}"));
        let mut mesh = self.mesh.placed(control, &MESH);
        let mut pods = BTreeMap::new();
        for (number, pod) in (1..).zip(self.pods) {
            let name = pod.full_name();
            let network = node.pod(number).unwrap_or_else(|e| panic!("{name}: {e}"));
            let service = [IpAddr::V4(service_v4(number)), IpAddr::V6(service_v6(number))];
            let flags = self.flags.get(&name).cloned().unwrap_or_default();
            let captured = pod.is_meshed().then_some(flags);
            if let Some(flags) = &captured {
                capture(&network.netns, flags).await.unwrap_or_else(|e| panic!("{name}: {e}"));
                let probes = self.injected.get(&name);
                let namespace = probes.map(|_| &*pod.namespace);
                let program = wrappers.add(number, &network.netns, namespace);
                let program = program.unwrap_or_else(|e| panic!("{name}: {e}"));
                let env = probes.map(|probes| injected::environment(&pod, &network, probes));
                let other = ChildOverride {
                    program: Some(program),
                    args: vec!["--captured".into()],
                    env: env.unwrap_or_default(),
                };
                mesh = mesh.overriding(&name, other);
            }
            mesh = mesh.pod(pod.captured_at(network.addresses, service));
            pods.insert(name, Place { network, service, capture: captured });
        }
        Captured { mesh: Box::pin(mesh.start()).await, node, dns, pods, _wrappers: wrappers }
    }
}

/// `signet-proxy capture`, as root in a namespace.
pub async fn capture(netns: &Netns, flags: &[String]) -> io::Result<()> {
    let program = binary("signet-proxy").display().to_string();
    let argv: Vec<&str> =
        [&*program, "capture"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    netns.output(None, &argv).await.map(drop)
}

/// Scripts that start a proxy in its pod as the user that it is in a cluster.
struct Wrappers(PathBuf);

impl Wrappers {
    fn new() -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("signet-pods-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }

    /// For an injected pod of this namespace, or one that is told by a file.
    fn add(&self, number: u8, netns: &Netns, injected: Option<&str>) -> io::Result<PathBuf> {
        let script = self.0.join(format!("proxy-{number}"));
        let text = match injected {
            Some(namespace) => injected::script(&self.0.join(format!("root-{number}")), netns, namespace)?,
            None => Self::text(netns),
        };
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(script)
    }

    /// The one right: to read the token and the bundle, which are private to root here and a volume of its own in a cluster.
    fn text(netns: &Netns) -> String {
        let rights = "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search \
                      --bounding-set=-all,+dac_read_search --no-new-privs";
        format!(
            "#!/bin/sh\nexec nsenter --net={} -- setpriv --reuid=1337 --regid=1337 --clear-groups {rights} {} \"$@\"\n",
            netns.path().display(),
            binary("signet-proxy").display()
        )
    }
}

impl Drop for Wrappers {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // a left-over costs some kilobytes of /tmp
    }
}
