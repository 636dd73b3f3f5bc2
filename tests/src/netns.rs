//! Network namespaces of a test's own: a node, and pods that are joined to it by a bridge, or to each other by one link.
//!
//! All of them are anonymous: a namespace lives as long as somebody is in it or holds a descriptor of it, and we hold the
//! only ones. Nothing is named, so nothing has to be removed, however the test ends.
//!
//! Addresses are benchmarking addresses only (198.18.0.0/15, RFC 2544; 2001:2::/48, RFC 5180), as in tests/cluster.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{Command as Blocking, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    process::Command,
    runtime::{Handle, RuntimeFlavor},
};

/// A network namespace. Whatever runs in it keeps it after this is dropped; tests kill what they start.
#[derive(Debug)]
pub struct Netns {
    descriptor: File,
}

impl Netns {
    /// A new, empty one, whose loopback is up. Needs root (CAP_SYS_ADMIN).
    pub fn new() -> io::Result<Self> {
        // A thread of its own enters it, so that nobody else changes place; the descriptor keeps it.
        let made = thread::Builder::new().name("netns".into()).spawn(|| {
            unshare_network()?;
            File::open("/proc/thread-self/ns/net")
        })?;
        let descriptor =
            made.join().map_err(|_| io::Error::other("the thread that makes namespaces panicked"))??;
        let netns = Self { descriptor };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// For `nsenter --net=<path>`; good for every process of root's while this value lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor.as_raw_fd()).into()
    }

    /// A command that runs in here, as root or as `uid` with no rights at all. It dies with the test.
    pub fn command(&self, uid: Option<u32>, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::from(self.blocking(uid, program));
        command.kill_on_drop(true);
        command
    }

    /// Runs to the end in here: what it printed, or how it failed with its last words.
    pub async fn output(&self, uid: Option<u32>, argv: &[&str]) -> io::Result<String> {
        let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let output = self.command(uid, program).args(args).output();
        let output = tokio::time::timeout(DEADLINE, output).await.map_err(io::Error::other)??;
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        if output.status.success() {
            return Ok(stdout);
        }
        Err(io::Error::other(format!("{}: {}\n{stdout}\n{stderr}", argv.join(" "), output.status)))
    }

    /// What `act` does in here, on a thread of its own: sockets stay in the namespace in which they were made.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.descriptor, CloneFlags::CLONE_NEWNET)?;
                act()
            });
            thread.join().map_err(|_| io::Error::other("what was done in a namespace panicked"))?
        })
    }

    /// A listener in here, as an app opens it.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let listener = self.inside(|| std::net::TcpListener::bind(address))?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    /// A connection from in here, as an app opens it.
    pub async fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        // Made on the other thread, connected on this one: a namespace is a socket's from its birth.
        let socket = self.inside(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
        tokio::time::timeout(DEADLINE, socket.connect(to)).await.map_err(io::Error::other)?
    }

    /// Runs ip(8) commands in here, one a line; all or an error. A line may begin with "-6 ".
    pub fn ip(&self, batch: &str) -> io::Result<()> {
        ip(|| self.blocking(None, "ip"), batch)
    }

    fn blocking(&self, uid: Option<u32>, program: impl AsRef<OsStr>) -> Blocking {
        let mut command = Blocking::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg("setpriv");
        if let Some(uid) = uid {
            command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
            command.args(["--clear-groups", "--bounding-set=-all", "--no-new-privs"]);
        }
        // After the change of user, which would undo it.
        command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null());
        command
    }
}

/// Joins two namespaces by one link, whose ends are called eth0 and have the addresses `.1` and `.2`: for a measurement
/// that wants nothing in between. Returns the addresses of both ends.
pub fn join(first: &Netns, second: &Netns) -> io::Result<[[IpAddr; 2]; 2]> {
    let other = second.path();
    first.ip(&format!("link add eth0 type veth peer name eth0 netns {}", other.display()))?;
    let ends = [1, 2].map(|number| [link_v4(number), link_v6(number)]);
    for (netns, [v4, v6]) in [(first, ends[0]), (second, ends[1])] {
        netns.ip(&format!(
            "link set eth0 up
            address add {v4}/24 dev eth0
            address add {v6}/64 dev eth0 nodad"
        ))?;
    }
    Ok(ends)
}

/// The node: the calling thread's own new namespace, with a bridge for pods. What this thread starts or opens from now on
/// is in it: processes, sockets, and the threads that it begins.
#[derive(Debug)]
pub struct Node(());

impl Node {
    /// Needs root, and a test whose runtime has one thread (`#[tokio::test]` alone): another thread would stay outside.
    pub fn enter() -> io::Result<Self> {
        if Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() != RuntimeFlavor::CurrentThread)
        {
            return Err(io::Error::other("a node is a thread's: use a runtime of one thread"));
        }
        unshare_network()?;
        let node = Self(());
        node.ip(&format!(
            "link set lo up
            link add pods type bridge
            link set pods up
            address add {NODE_V4}/16 dev pods
            address add {NODE_V6}/64 dev pods nodad
            address add {OUTSIDE_V4}/24 dev pods
            address add {OUTSIDE_V6}/64 dev pods nodad
            route add unreachable default
            -6 route add unreachable default metric 1"
        ))?;
        Ok(node)
    }

    /// A pod on the bridge: `number` is the end of its addresses, 1 to 199. Its default route leads to the node.
    pub fn pod(&self, number: u8) -> io::Result<PodNetwork> {
        let netns = Netns::new()?;
        let (v4, v6) = (pod_v4(number), pod_v6(number));
        let link = format!("pod{number}");
        self.ip(&format!(
            "link add {link} type veth peer name eth0 netns {pod}
            link set {link} master pods up",
            pod = netns.path().display()
        ))?;
        netns.ip(&format!(
            "link set eth0 up
            address add {v4}/16 dev eth0
            address add {v6}/64 dev eth0 nodad
            route add default via {NODE_V4}
            -6 route add default via {NODE_V6}"
        ))?;
        Ok(PodNetwork { netns, addresses: [v4.into(), v6.into()], link })
    }

    /// Runs ip(8) commands on the node, one a line; all or an error.
    pub fn ip(&self, batch: &str) -> io::Result<()> {
        ip(|| Blocking::new("ip"), batch)
    }
}

/// A pod's namespace, and where the network finds it.
#[derive(Debug)]
pub struct PodNetwork {
    pub netns: Netns,
    /// IPv4, IPv6
    pub addresses: [IpAddr; 2],
    /// The node's end of its link: what tcpdump listens on.
    pub link: String,
}

fn unshare_network() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| {
        io::Error::other(format!("make a network namespace: {e}; this test needs root (CAP_SYS_ADMIN)"))
    })
}

fn ip(start: impl Fn() -> Blocking, batch: &str) -> io::Result<()> {
    let lines = || batch.lines().map(str::trim).filter(|line| !line.is_empty());
    let both: Vec<&str> = lines().filter(|line| !line.starts_with("-6 ")).collect();
    let six: Vec<&str> = lines().filter_map(|line| line.strip_prefix("-6 ")).collect();
    for (family, lines) in [(None, both), (Some("-6"), six)] {
        if lines.is_empty() {
            continue;
        }
        let mut command = start();
        command.args(family).args(["-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(format!("{}\n", lines.join("\n")).as_bytes()); // one that ended early says why below
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("ip: {}\n{}", said.trim(), lines.join("\n"))));
        }
    }
    Ok(())
}

pub fn pod_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, number)
}

pub fn pod_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 0, 0, number.into())
}

/// A Service's addresses; nothing has them, proxies translate.
pub fn service_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 19, 0, number)
}

pub fn service_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0x200, 0, 0, 0, number.into())
}

fn link_v4(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, 1, number).into()
}

fn link_v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 2, 0, 0x101, 0, 0, 0, number.into()).into()
}

/// Pods and Services: the mesh's ranges.
pub const MESH: [&str; 4] = ["198.18.0.0/16", "198.19.0.0/17", "2001:2:0:100::/64", "2001:2:0:200::/64"];
/// The node, in the pods' network.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 254);
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 0, 0, 0xfe);
/// The node as somebody outside of the mesh's ranges.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x400, 0, 0, 0, 1);
/// For a command that should take a moment.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn pods_reach_each_other_and_the_node_over_both_families_and_nothing_is_left_behind() {
        let outside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let node = Node::enter().unwrap();
        assert_ne!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
        let (a, b) = (node.pod(1).unwrap(), node.pod(2).unwrap());
        for address in b.addresses {
            let bash = format!("exec 3<>/dev/tcp/{address}/9"); // refused at once: somebody is there
            let refused = a.netns.output(Some(65534), &["bash", "-c", &bash]).await.unwrap_err();
            assert!(refused.to_string().contains("Connection refused"), "{refused}");
        }
        for address in [IpAddr::from(NODE_V4), NODE_V6.into(), OUTSIDE_V4.into(), OUTSIDE_V6.into()] {
            let listener = TcpListener::bind((address, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let bash = format!("exec 3<>/dev/tcp/{address}/{port}");
            a.netns.output(None, &["bash", "-c", &bash]).await.unwrap();
            let (_, from) = timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
            assert!(a.addresses.contains(&from.ip()), "{from}");
        }
        let id = b.netns.output(Some(1337), &["id", "-u"]).await.unwrap();
        assert_eq!(id.trim(), "1337");
        let named = std::fs::read_dir("/var/run/netns").map_or(0, Iterator::count);
        assert_eq!(named, 0, "a namespace with a name");
    }

    #[tokio::test]
    async fn two_namespaces_are_joined_by_one_link() {
        let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
        let [_, far] = join(&a, &b).unwrap();
        for address in far {
            let bash = format!("exec 3<>/dev/tcp/{address}/9");
            let refused = a.output(None, &["bash", "-c", &bash]).await.unwrap_err();
            assert!(refused.to_string().contains("Connection refused"), "{refused}");
        }
    }
}
