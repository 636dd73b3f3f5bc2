//! The network around the nodes: one network namespace with a bridge, a routed link to each node, and no way out.
//!
//! It is also the world outside the cluster, where clients of LoadBalancer addresses live. The namespace exists as long as
//! the thread that made it: nothing names it, so nothing has to be removed, however the harness ends. The harness' own
//! connections to the nodes are made on that thread.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime,
    sync::{mpsc, oneshot},
};
use tokio_util::task::TaskTracker;

use crate::network;

pub(crate) struct Fabric {
    namespace: PathBuf,
    dial: mpsc::Sender<std::net::TcpStream>,
}

impl Fabric {
    /// Makes the namespace with its bridge.
    pub(crate) async fn create() -> Result<Self> {
        let (made, making) = oneshot::channel();
        let (dial, dialled) = mpsc::channel(DIALS);
        thread::Builder::new().name("fabric".into()).spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET)
                .map(|()| PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())))
                .context("make a network namespace; this needs root (CAP_SYS_ADMIN)");
            let failed = entered.is_err();
            if made.send(entered).is_ok() && !failed {
                forward(dialled);
            }
        })?;
        let fabric = Self { namespace: making.await.context("the fabric's thread is gone")??, dial };
        sysctl(&fabric.namespace, &FORWARDING)?;
        ip(
            &fabric.namespace,
            &format!(
                "link set lo up
                link add nodes type bridge
                link set nodes up
                address add {v4}/24 dev nodes
                address add {v6}/64 dev nodes nodad
                route add unreachable default
                -6 route add unreachable default metric 1",
                v4 = network::FABRIC_V4,
                v6 = network::FABRIC_V6,
            ),
        )?;
        Ok(fabric)
    }

    pub(crate) fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// Gives the node, whose init is `pid`, its eth0, its addresses and its routes to its `nodes - 1` neighbours.
    pub(crate) fn connect(&self, number: u8, pid: u32, nodes: u8) -> Result<()> {
        let inside = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let node = network::node_name(number);
        let (v4, v6) = (network::node_v4(number), network::node_v6(number));
        let [pods_v4, pods_v6] = network::node_pods(number);
        ip(
            &self.namespace,
            &format!(
                "link add {node} type veth peer name eth0 netns {pid}
                link set {node} master nodes up
                route add {pods_v4} via {v4}
                route add {pods_v6} via {v6}"
            ),
        )?;

        sysctl(&inside, &FORWARDING)?;
        sysctl(&inside, &["net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1"])?;
        let [all_v4, all_v6] = network::EVERYTHING;
        // The route to everything also serves ClusterIPs: a local process needs one before kube-proxy translates.
        let mut batch = format!(
            "link set lo up
            link set eth0 up
            address add {v4}/24 dev eth0
            address add {v6}/64 dev eth0 nodad
            route add {all_v4} via {gateway_v4}
            route add {all_v6} via {gateway_v6}
            route add unreachable default
            -6 route add unreachable default metric 1\n",
            gateway_v4 = network::FABRIC_V4,
            gateway_v6 = network::FABRIC_V6,
        );
        for neighbour in (1..=nodes).filter(|&neighbour| neighbour != number) {
            let [pods_v4, pods_v6] = network::node_pods(neighbour);
            batch += &format!("route add {pods_v4} via {}\n", network::node_v4(neighbour));
            batch += &format!("route add {pods_v6} via {}\n", network::node_v6(neighbour));
        }
        ip(&inside, &batch)
    }

    /// Accepts on `listener`, which is the machine's own loopback, and leads each connection to the API server.
    pub(crate) async fn forward_api(&self, listener: TcpListener) {
        loop {
            match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => {
                    let _ = self.dial.send(stream).await; // the thread lives as long as we do
                }
                Err(error) => {
                    tracing::warn!(%error, "accept for the API server");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await; // out of descriptors, most likely
                }
            }
        }
    }
}

/// Connections to the API server that wait for the fabric's thread; more wait in the listener.
const DIALS: usize = 64;
const FORWARDING: [&str; 2] = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];

/// Runs on the fabric's thread, so that every socket made here is in its namespace. Ends with the harness.
fn forward(mut dialled: mpsc::Receiver<std::net::TcpStream>) {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let connections = TaskTracker::new();
        while let Some(stream) = dialled.recv().await {
            connections.spawn(async move {
                let carried = async {
                    let mut client = TcpStream::from_std(stream)?;
                    let mut server = TcpStream::connect((network::node_v4(1), network::API_PORT)).await?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    copy_bidirectional(&mut client, &mut server).await
                };
                if let Err(error) = carried.await {
                    tracing::debug!(%error, "connection to the API server");
                }
            });
        }
    });
}

/// Runs ip(8) commands, one a line, in a network namespace; all or an error.
pub(crate) fn ip(namespace: &Path, batch: &str) -> Result<()> {
    let batch: String = batch.lines().map(|line| format!("{}\n", line.trim())).collect();
    let (families, both): (Vec<_>, Vec<_>) = batch.lines().partition(|line| line.starts_with("-6 "));
    run(namespace, &["ip", "-batch", "-"], &both.join("\n"))?;
    let families: Vec<_> = families.iter().map(|line| line.trim_start_matches("-6 ")).collect();
    run(namespace, &["ip", "-6", "-batch", "-"], &families.join("\n"))
}

fn sysctl(namespace: &Path, settings: &[&str]) -> Result<()> {
    for setting in settings {
        run(namespace, &["sysctl", "-qw", setting], "")?;
    }
    Ok(())
}

fn run(namespace: &Path, argv: &[&str], input: &str) -> Result<()> {
    ensure!(namespace.exists(), "network namespace {} is gone", namespace.display());
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", namespace.display()))
        .arg("--")
        .args(argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nsenter (Debian: util-linux)")?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(format!("{input}\n").as_bytes()); // one that ended early says why below
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} in {}: {}\n{input}",
        argv.join(" "),
        namespace.display(),
        said.trim()
    );
    Ok(())
}

/// Whether this kernel has what the fabric and the nodes need, as far as one can see without making it.
pub(crate) fn check_kernel() -> Result<()> {
    for file in ["/proc/self/ns/net", "/proc/self/ns/cgroup", "/proc/sys/net/ipv6", "/proc/sys/net/bridge"] {
        ensure!(
            fs::metadata(file).is_ok(),
            "this kernel lacks {file} (network and cgroup namespaces, IPv6, br_netfilter)"
        );
    }
    Ok(())
}
