//! Two network namespaces joined by one link: the client's side and the server's.
//!
//! Both are anonymous: they live as long as somebody is in them or holds a descriptor of them, and we hold the only ones.
//! Nothing is named, so nothing has to be removed, however the bench ends. Addresses are benchmarking addresses only
//! (198.18.0.0/15, RFC 2544). (`signet_tests::netns` makes the networks of tests; it links the whole product, the bench none of it.)

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::side::{Both, Side};

/// The link and its two ends.
pub struct Net {
    ends: Both<File>,
}

impl Net {
    /// Needs root (CAP_SYS_ADMIN).
    pub fn new() -> Result<Self> {
        let net = Self { ends: Both { client: namespace()?, server: namespace()? } };
        let other = path(&net.ends.server);
        net.ip(Side::Client, &format!("link add {LINK} type veth peer name {LINK} netns {other}"))?;
        for side in Side::ALL {
            let addresses: String = (FIRST..=LAST)
                .filter(|last| (last % 2 == 1) == (side == Side::Client))
                .map(|last| format!("address add {}/24 dev {LINK}\n", address(last)))
                .collect();
            net.ip(side, &format!("link set lo up\nlink set {LINK} up\n{addresses}"))?;
            net.within(side, || -> Result<()> {
                for (name, value) in SYSCTLS {
                    std::fs::write(Path::new("/proc/sys/net/ipv4").join(name), value)
                        .with_context(|| format!("set net.ipv4.{name}"))?;
                }
                Ok(())
            })??;
        }
        Ok(net)
    }

    /// A command that runs on that side and dies with the thread that starts it: start it from the main one.
    pub fn command(&self, side: Side, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path(self.ends.of(side)))).args([
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
        ]);
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs `work` on a thread of that side, and waits for it.
    pub fn within<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = self.ends.of(side);
        thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                enter(namespace)?;
                Ok(work())
            });
            thread.join().map_err(|_| anyhow!("a thread of the {} side panicked", side.word()))?
        })
    }

    /// The same, not waiting: `work` runs until it ends by itself or the bench does.
    pub fn background(&self, side: Side, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let namespace = self.ends.of(side).try_clone()?;
        thread::Builder::new().name(format!("bench-{}", side.word())).spawn(move || {
            match enter(&namespace) {
                Ok(()) => work(),
                Err(error) => crate::say(&format!("the {} side: {error:#}", side.word())),
            }
        })?;
        Ok(())
    }

    /// Runs ip(8) commands on that side, one a line.
    fn ip(&self, side: Side, batch: &str) -> Result<()> {
        let mut ip = self.command(side, "ip");
        ip.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child: Child = ip.spawn().context("nsenter (util-linux) does not start")?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(batch.as_bytes()); // one that ended early says why below
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("ip: {}\n{batch}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

/// An address of the link. The server side has the even ones.
pub fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, 7, last).into()
}

fn namespace() -> Result<File> {
    // A thread of its own enters it, so that nobody else changes place; the descriptor keeps it.
    let made = thread::spawn(|| -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("make a network namespace; the bench needs root (CAP_SYS_ADMIN)")?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    });
    made.join().map_err(|_| anyhow!("the thread that makes namespaces panicked"))?
}

fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter a network namespace")
}

fn path(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// The name of both ends.
pub const LINK: &str = "bench0";
/// Addresses .1 to .32: each side's own, and a pair for each Signet.
const FIRST: u8 = 1;
const LAST: u8 = 32;
/// Tens of thousands of short connections in a minute need more than the usual ports, and theirs again.
const SYSCTLS: [(&str, &str); 3] =
    [("ip_local_port_range", "10240 65000"), ("tcp_tw_reuse", "1"), ("tcp_max_syn_backlog", "16384")];
