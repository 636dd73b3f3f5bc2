//! Running things as the newcomer does: no rights, an empty environment, a home of their own.

use std::{
    ffi::OsStr,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    binaries::binary,
    eventually::{SOON, eventually},
    netns::Netns,
};

/// A user without rights, with a home directory under the temporary one; removed when dropped.
pub struct Unprivileged {
    pub home: PathBuf,
    /// `nsenter --net=<path> --`, or nothing.
    enter: Vec<String>,
}

impl Unprivileged {
    /// With copies of our binaries in `home/bin`: a target directory below /root is closed to others.
    pub fn new() -> io::Result<Self> {
        let user = Self::at_home(Vec::new())?;
        fs::create_dir(user.home.join("bin"))?;
        for name in ["signet", "signet-proxy", "signet-gateway"] {
            let copy = user.home.join("bin").join(name);
            fs::copy(binary(name), &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        }
        Ok(user)
    }

    /// Who runs programs of others only.
    pub fn of_others() -> io::Result<Self> {
        Self::at_home(Vec::new())
    }

    /// Whose programs run in a network namespace; they are programs of others, which know nothing of us.
    pub fn inside(netns: &Netns) -> io::Result<Self> {
        Self::at_home(["nsenter".into(), format!("--net={}", netns.path().display()), "--".into()].into())
    }

    fn at_home(enter: Vec<String>) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("signet-user-{}-{number}", std::process::id()));
        fs::create_dir(&home)?;
        let user = Self { home, enter };
        user.own(&user.home)?;
        Ok(user)
    }

    /// `env -i HOME=<home> setpriv ... <program>`, as issue 3 writes it. Run by somebody who is not root, the user stays who
    /// they are and only the rest is taken away.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("env");
        command
            .arg("-i")
            .arg(format!("HOME={}", self.home.display()))
            .arg(format!("PATH={PATH}"))
            .args(&self.enter)
            .arg("setpriv");
        if is_root() {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
        }
        // A test that is killed takes its servers along; TERM, because nginx passes nothing else on to its workers.
        command
            .args(["--pdeathsig", "TERM", "--no-new-privs"])
            .arg(program)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Our own `signet` or `signet-proxy`.
    pub fn signet(&self, name: &str) -> Command {
        self.command(self.home.join("bin").join(name))
    }

    /// A directory in the home.
    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.home.join(name);
        fs::create_dir_all(&path)?;
        self.own(&path)?;
        Ok(path)
    }

    pub fn write(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.home.join(name);
        fs::write(&path, content)?;
        self.own(&path)?;
        Ok(path)
    }

    /// Runs to the end: what it printed, or how it failed with its last words.
    pub async fn output(&self, mut command: Command) -> io::Result<String> {
        let output = tokio::time::timeout(SOON * 6, command.output()).await.map_err(io::Error::other)??;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return Ok(stdout.into_owned());
        }
        Err(io::Error::other(format!("{:?}: {}\n{stdout}\n{stderr}", command.as_std(), output.status)))
    }

    /// Starts a server and waits until it takes connections at all `addresses`; its log is `home/<name>.log`.
    pub async fn server(&self, name: &str, command: Command, addresses: &[SocketAddr]) -> io::Result<Server> {
        self.slow_server(name, command, addresses, SOON).await
    }

    /// The same, of a program that takes its time.
    pub async fn slow_server(
        &self,
        name: &str,
        mut command: Command,
        addresses: &[SocketAddr],
        patience: Duration,
    ) -> io::Result<Server> {
        let log = fs::File::create(self.home.join(format!("{name}.log")))?;
        let mut process = command.stdout(log.try_clone()?).stderr(log).process_group(0).spawn()?;
        let started = eventually(&format!("{name} at {addresses:?}"), patience, async || {
            match process.try_wait() {
                Ok(Some(status)) => return Some(Err(status)),
                Ok(None) => {}
                Err(e) => panic!("{name}: {e}"),
            }
            for address in addresses {
                if !self.reaches(*address).await {
                    return None;
                }
            }
            Some(Ok(()))
        })
        .await;
        match started {
            Ok(()) => Ok(Server { process }),
            Err(status) => {
                let log = fs::read_to_string(self.home.join(format!("{name}.log"))).unwrap_or_default();
                Err(io::Error::other(format!("{name} ended with {status}:\n{log}")))
            }
        }
    }

    /// Whether somebody takes connections at `address`, asked from where we are: inside a pod no proxy answers instead.
    async fn reaches(&self, address: SocketAddr) -> bool {
        if self.enter.is_empty() {
            return TcpStream::connect(address).await.is_ok();
        }
        let mut bash = self.command("bash");
        bash.args(["-c", &format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port())]);
        bash.stderr(Stdio::null()).status().await.is_ok_and(|status| status.success())
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        if is_root() { chown(path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) }
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the user's home stays: {}", self.home.display());
        } else {
            let _ = fs::remove_dir_all(&self.home); // a left-over costs some megabytes of /tmp
        }
    }
}

/// A program that serves; killed when dropped, and with it whatever it started.
pub struct Server {
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // `id` is None once it was waited for, so a number that was used again is never signalled.
        if let Some(group) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL); // gone already is as good
        }
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

const NOBODY: u32 = 65534;
/// Debian keeps nginx in sbin.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
