//! Recording what passes between a pod and its node, or between a node and the others.

use std::{net::IpAddr, process::Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines, copy, sink},
    process::{Child, ChildStderr, ChildStdout, Command},
    task::JoinSet,
    time::timeout,
};

use super::{Namespace, Node, Output, Packets, node::process_of_pod, output, wait::DEADLINE};
use crate::network;

/// A recording that goes on. tcpdump ends with it, and with this process however that ends.
pub struct Capture {
    tcpdump: Child,
    said: Lines<BufReader<ChildStderr>>,
    /// Reads until the mark has passed.
    recording: JoinSet<Result<(Vec<u8>, ChildStdout)>>,
    mark: [u8; 16],
    node: Node,
    address: IpAddr,
}

impl Namespace {
    /// Records every packet of a running pod, at its interface on the node's side: what leaves the pod and what comes in,
    /// as the network sees it. From when this returns.
    pub async fn capture(&self, pod: &str) -> Result<Capture> {
        let object = self.wait_ready(pod).await?;
        let (spec, status) = (object.spec.unwrap_or_default(), object.status.unwrap_or_default());
        let node = self.cluster.node(&spec.node_name.context("a running pod has a node")?)?;
        let address = status.pod_ip.context("a running pod has an address")?.parse()?;
        let uid = object.metadata.uid.context("a pod has a UID")?;
        let begun = Box::pin(async {
            let process = tokio::task::spawn_blocking(move || process_of_pod(&uid)).await??;
            let interface = node_side(process, &network_of(&node)).await?;
            begin(node, &interface, address).await
        });
        begun.await.with_context(|| format!("capture the packets of pod {pod} in {self}"))
    }
}

impl Namespace {
    /// Runs a program of this machine in the network of a running pod, with every right there.
    pub async fn in_network(&self, pod: &str, argv: &[&str]) -> Result<Output> {
        let object = self.api::<Pod>().get(pod).await?;
        let uid = object.metadata.uid.context("a pod has a UID")?;
        let process = tokio::task::spawn_blocking(move || process_of_pod(&uid)).await??;
        let network = format!("--net=/proc/{process}/ns/net");
        output::run(&[&["nsenter", &network], argv].concat()).await
    }
}

impl Node {
    /// Records every packet between this node and the rest of the world: of its pods too, as far as they leave it. Not the
    /// images that it pulls.
    pub async fn capture(&self) -> Result<Capture> {
        let begun = Box::pin(begin(self.clone(), LINK, network::FABRIC_V4.into()));
        begun.await.with_context(|| format!("capture the packets of {}", self.name()))
    }
}

impl Capture {
    /// Ends the recording. Everything that passed before this call is in it; an error when the kernel had to drop some.
    pub async fn stop(mut self) -> Result<Packets> {
        // Packets are recorded in their order: when the mark has been, so has everything before it.
        let mark = format!("exec 3<>/dev/udp/{}/{MARK_PORT}; printf {} >&3", self.address, hex(&self.mark));
        let network = network_of(&self.node);
        output::run(&["nsenter", &network, "bash", "-c", &mark]).await?.ok()?;
        let recorded = timeout(DEADLINE, self.recording.join_next()).await;
        let recorded = recorded.context("tcpdump did not record the mark")?.context("one task")??;
        let (recorded, mut rest) = recorded?;
        let process = Pid::from_raw(self.tcpdump.id().context("tcpdump has ended")?.try_into()?);
        kill(process, Signal::SIGINT)?; // it counts, and ends
        let mut after = sink(); // what passes now is not ours, but a closed pipe would kill it
        let (said, rest) =
            timeout(DEADLINE, async { tokio::join!(to_end(self.said), copy(&mut rest, &mut after)) })
                .await
                .context("tcpdump did not end")?;
        rest?;
        ensure!(has_all(&said?), "packets were dropped, this capture proves nothing");
        Ok(Packets::parse(&recorded)?.without(hex(&self.mark).as_bytes()))
    }
}

/// `address`: what is sent to it leaves by `interface`.
async fn begin(node: Node, interface: &str, address: IpAddr) -> Result<Capture> {
    let mut tcpdump = Command::new("nsenter")
        .args([&network_of(&node), "setpriv", "--pdeathsig", "KILL", "tcpdump", "-i", interface])
        // Unbuffered, unresolved. As root: a change of user would undo the death signal.
        .args(["-U", "-n", "--immediate-mode", "-Z", "root", "-s", "0", "-B", BUFFER, "-w", "-"])
        .arg(format!("not port {}", network::REGISTRY_PORT))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start tcpdump; it comes with: apt-get install tcpdump")?;
    let (stdout, stderr) = (tcpdump.stdout.take(), tcpdump.stderr.take());
    let mut said = BufReader::new(stderr.context("it is piped")?).lines();
    listening(&mut said).await?;
    let mut mark = [0; 16];
    fastrand::Rng::new().fill(&mut mark);
    let mut recording = JoinSet::new();
    recording.spawn(record(stdout.context("it is piped")?, hex(&mark)));
    Ok(Capture { tcpdump, said, recording, mark, node, address })
}

/// For nsenter(1).
fn network_of(node: &Node) -> String {
    format!("--net={}", node.network().display())
}

/// The name of the other end of the pod's eth0: the pod says its number, the node what that is called.
async fn node_side(process: u32, node: &str) -> Result<String> {
    let pod = format!("--net=/proc/{process}/ns/net");
    let inside = output::run(&["nsenter", &pod, "ip", "-json", "link", "show", "eth0"]).await?.ok()?;
    let inside: serde_json::Value = serde_json::from_str(&inside)?;
    let number = inside[0]["link_index"].as_u64().context("eth0 of the pod has no other end")?;
    let links = output::run(&["nsenter", node, "ip", "-json", "link"]).await?.ok()?;
    let links: Vec<serde_json::Value> = serde_json::from_str(&links)?;
    let link = links.iter().find(|link| link["ifindex"] == number);
    let name = link.and_then(|link| link["ifname"].as_str());
    Ok(name.with_context(|| format!("the node has no interface {number}"))?.to_owned())
}

async fn listening(said: &mut Lines<BufReader<ChildStderr>>) -> Result<()> {
    let mut words = String::new();
    let listening = async {
        while let Some(line) = said.next_line().await? {
            if line.contains("listening on") {
                return Ok(());
            }
            words += &line;
        }
        bail!("tcpdump ended: {words}")
    };
    timeout(DEADLINE, listening).await.context("tcpdump did not begin to listen")?
}

async fn to_end(mut said: Lines<BufReader<ChildStderr>>) -> Result<String> {
    let mut words = String::new();
    while let Some(line) = said.next_line().await? {
        words += &line;
        words.push('\n');
    }
    Ok(words)
}

/// Whether tcpdump's last words say that nothing is missing: neither the kernel nor, if it can count, the interface.
fn has_all(words: &str) -> bool {
    let mut dropped = words.lines().filter(|line| line.contains(" dropped by ")).peekable();
    dropped.peek().is_some() && dropped.all(|line| line.starts_with("0 "))
}

async fn record(mut stdout: ChildStdout, mark: String) -> Result<(Vec<u8>, ChildStdout)> {
    let mut recorded = Vec::new();
    loop {
        let before = recorded.len();
        if stdout.read_buf(&mut recorded).await? == 0 {
            bail!("tcpdump ended by itself after {before} bytes");
        }
        ensure!(recorded.len() <= LARGEST, "more than {LARGEST} bytes were captured");
        let unseen = before.saturating_sub(mark.len());
        if recorded[unseen..].windows(mark.len()).any(|window| window == mark.as_bytes()) {
            return Ok((recorded, stdout));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A node's way to the others.
const LINK: &str = "eth0";
/// KiB, for what comes while this machine compiles.
const BUFFER: &str = "32768";
/// discard (RFC 863): whether anybody listens there does not matter.
const MARK_PORT: u16 = 9;
/// A test looks for words in a few requests.
const LARGEST: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_counts_only_when_tcpdump_says_that_nothing_was_dropped() {
        let kernel = |dropped| {
            format!("7 packets captured\n7 packets received by filter\n{dropped} packets dropped by kernel\n")
        };
        assert!(has_all(&kernel(0)));
        assert!(!has_all(&kernel(1)));
        assert!(!has_all(&kernel(10)));
        assert!(!has_all(&(kernel(0) + "3 packets dropped by interface\n")));
        assert!(!has_all(""), "killed before it counted");
    }
}
