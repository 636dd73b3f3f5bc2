//! The state directory: who may use it, and where everything in it lies.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use signet_core::files::{self, PRIVATE};

use crate::{ask::NoAnswer, local::EdgeAt, proc};

/// A mesh on this machine keeps everything in one directory. Making this value touches no file.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// At `path`, made absolute: children and later commands may run elsewhere.
    pub fn at(path: &Path) -> Result<Self> {
        Ok(Self(std::path::absolute(path).with_context(|| format!("state directory {}", path.display()))?))
    }

    /// Where `--state` says, else where this user's programs keep their state (XDG Base Directory 0.8).
    pub fn resolve(flag: Option<&Path>) -> Result<Self> {
        match flag {
            Some(path) => Self::at(path),
            None => Self::at(&default_root(|name| std::env::var_os(name))),
        }
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Written by the supervisor: what runs. See [`Running`].
    pub fn running(&self) -> PathBuf {
        self.0.join("local.json")
    }

    pub fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    pub fn ca_socket(&self) -> PathBuf {
        self.0.join("ca/admin.sock")
    }

    pub fn trust_bundle(&self) -> PathBuf {
        self.0.join("trust/bundle.pem")
    }

    pub fn controller(&self) -> PathBuf {
        self.0.join("controller")
    }

    pub fn controller_socket(&self) -> PathBuf {
        self.0.join("controller/admin.sock")
    }

    pub fn edge(&self) -> PathBuf {
        self.0.join("edge")
    }

    pub fn edge_socket(&self) -> PathBuf {
        self.0.join("edge/admin.sock")
    }

    /// The edge CA's key and root.
    pub fn edge_ca(&self) -> PathBuf {
        self.0.join("edge/ca")
    }

    /// Its root alone, as edge writes it.
    pub fn edge_ca_root(&self) -> PathBuf {
        self.0.join("edge/ca/root.pem")
    }

    pub fn gateway(&self) -> PathBuf {
        self.0.join("gateway")
    }

    pub fn workloads(&self) -> PathBuf {
        self.0.join("workloads")
    }

    /// `workload` is "namespace/pod". Neither may hold a dot-dot: they are DNS labels (checked by the source).
    pub fn workload(&self, workload: &str) -> PathBuf {
        self.workloads().join(file_name(workload))
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub fn log(&self, child: &str) -> PathBuf {
        self.logs().join(format!("{}.log", file_name(child)))
    }

    /// Makes the directories and takes the directory for this process, until the lock is dropped.
    pub fn take(&self) -> Result<Lock> {
        let too_long = self.controller_socket();
        if too_long.as_os_str().len() > LONGEST_SOCKET_PATH {
            bail!(
                "{} is too long for a Unix socket ({LONGEST_SOCKET_PATH} bytes); choose a shorter --state",
                too_long.display()
            );
        }
        let directories = [
            self.0.clone(),
            self.ca(),
            self.0.join("trust"),
            self.controller(),
            self.edge(),
            self.gateway(),
            self.workloads(),
            self.logs(),
        ];
        for directory in directories {
            files::create_private_dir(&directory)
                .with_context(|| format!("making {}; choose another with --state", directory.display()))?;
        }
        let path = self.0.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(PRIVATE).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let pid =
                    self.read_running().map_or_else(|_| "unknown".into(), |running| running.pid.to_string());
                bail!(
                    "{} is in use by another signet (pid {pid}); stop that one, or choose another --state",
                    self.0.display()
                )
            }
            Err((_, e)) => Err(e).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// What runs here, as the supervisor last wrote it.
    pub fn read_running(&self) -> Result<Running> {
        let path = self.running();
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(LARGEST_RUNNING).read_to_string(&mut text)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(not_running(self));
            }
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        }
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not what signet local writes", path.display()))
    }

    /// Why `child` gave no answer, and what to do: there is no mesh, or this part of it is down.
    pub(crate) fn explain(&self, child: &str, why: NoAnswer) -> anyhow::Error {
        let running = self.read_running().ok().filter(|running| proc::start_time(running.pid).is_some());
        if let Some(running) = &running
            && !running.children.iter().any(|held| held.name == child)
        {
            return anyhow!(
                "no {child} runs in this mesh: {} has no Ingress of class signet, or it cannot run (signet status)",
                running.directory.display()
            );
        }
        match (&why, running.is_some()) {
            (NoAnswer::Unreached { .. }, false) => not_running(self),
            (NoAnswer::Unreached { .. } | NoAnswer::Late { .. }, true) => {
                let log = self.log(child);
                anyhow!(why).context(format!("{child} is down and is being restarted; see {}", log.display()))
            }
            _ => why.into(),
        }
    }

    pub fn write_running(&self, running: &Running) -> io::Result<()> {
        files::write_atomic(&self.running(), &serde_json::to_vec_pretty(running)?, PRIVATE)
    }

    pub fn forget_running(&self) {
        let _ = fs::remove_file(self.running()); // gone already is as good
    }
}

fn not_running(state: &StateDir) -> anyhow::Error {
    anyhow!(
        "no mesh runs in {}; start one with `signet demo` or `signet local DIR`, or name its directory with --state",
        state.root().display()
    )
}

/// Held while this process supervises the directory; the kernel drops it with us, however we end.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// `local.json`: what runs, for the other commands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub version: String,
    /// The supervisor's.
    pub pid: u32,
    pub directory: PathBuf,
    pub trust_domain: String,
    pub control_address: IpAddr,
    /// Where its hosts are served while there are any; `None`: an older signet wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_at: Option<EdgeAt>,
    pub children: Vec<RunningChild>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningChild {
    /// "ca", "controller", "edge", "gateway", or the workload: "shop/api-0".
    pub name: String,
    pub kind: Kind,
    /// None while it is stopped or waits for its next start.
    pub pid: Option<u32>,
    /// The kernel's start time of `pid` in clock ticks: pids are used again.
    #[serde(default)]
    pub started: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_address: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Ca,
    Controller,
    Edge,
    Gateway,
    Proxy,
}

/// "shop/api-0" -> "shop.api-0": namespaces are DNS labels, so they hold no dot and nothing collides.
fn file_name(child: &str) -> String {
    child.replace('/', ".")
}

fn default_root(env: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("signet"))
        // No home: our own name under the shared directory; `take` fails if it is someone else's.
        .unwrap_or_else(|| std::env::temp_dir().join(format!("signet-{}", nix::unistd::geteuid())))
}

/// sockaddr_un.sun_path is 108 bytes with its NUL.
const LONGEST_SOCKET_PATH: usize = 107;
/// Bytes: 150 a child, so several thousand children.
const LARGEST_RUNNING: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> StateDir {
        let root = std::env::temp_dir().join(format!("signet-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        StateDir::at(&root).unwrap()
    }

    #[test]
    fn the_default_follows_xdg_then_home_then_temp() {
        let none = format!("{}/signet-{}", std::env::temp_dir().display(), nix::unistd::geteuid());
        for (case, env, want) in [
            ("xdg", &[("XDG_STATE_HOME", "/x"), ("HOME", "/h")][..], "/x/signet"),
            ("relative xdg is ignored", &[("XDG_STATE_HOME", "x"), ("HOME", "/h")], "/h/.local/state/signet"),
            ("home", &[("HOME", "/h")], "/h/.local/state/signet"),
            ("nothing", &[], none.as_str()),
        ] {
            let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
            assert_eq!(default_root(lookup), Path::new(want), "{case}");
        }
    }

    #[test]
    fn a_state_directory_has_one_user_at_a_time() {
        let state = scratch("lock");
        let lock = state.take().unwrap();
        let error = state.take().unwrap_err().to_string();
        assert!(error.contains("in use by another signet"), "{error}");
        drop(lock);
        drop(state.take().unwrap());
        fs::remove_dir_all(state.root()).unwrap();
    }

    #[test]
    fn a_path_that_no_socket_fits_is_refused_before_anything_is_made() {
        let state = scratch(&"x".repeat(100));
        assert!(state.take().unwrap_err().to_string().contains("shorter --state"));
        assert!(!state.root().exists());
    }

    #[test]
    fn nothing_running_says_how_to_start() {
        let error = scratch("idle").read_running().unwrap_err().to_string();
        assert!(error.contains("signet demo"), "{error}");
    }
}
