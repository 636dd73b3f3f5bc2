//! Process 1 of a node: makes its mounts, runs its components, starts again what ends, and ends with the harness.
//!
//! The harness holds the other end of our stdin: one line says that the network is there, its end says that the harness is
//! gone, and then we exit. The kernel kills whatever is left in a PID namespace whose process 1 exited, and takes the mounts
//! and the network away with the last of them.

mod mounts;
mod supervisor;

use std::{
    io::{self, BufRead as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use signet_core::files;

use crate::{cgroups::Cgroups, components::Component};

/// What a node is told, in `<directory>/node.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) name: String,
    /// The node's part of the cluster's state: its /var/lib and /var/log, the sockets and the settings of its components.
    pub(crate) directory: PathBuf,
    pub(crate) cgroups: Cgroups,
    pub(crate) components: Vec<Component>,
}

impl Settings {
    const FILE: &str = "node.json";

    pub(crate) fn write(&self) -> Result<()> {
        let path = self.directory.join(Self::FILE);
        files::write_atomic(&path, &serde_json::to_vec_pretty(self)?, files::PRIVATE)
            .with_context(|| format!("write {}", path.display()))
    }

    /// None when there is no such node.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(Self::FILE);
        match std::fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("control.sock")
}

/// `node-enter`: joins the node's cgroups, makes its namespaces, and starts process 1 in them. Prints that one's PID, for the
/// harness. Must run before any thread is made: a namespace belongs to the thread that asked for it.
pub fn enter(directory: &Path) -> Result<ExitStatus> {
    let settings = Settings::read(directory)?.context("no node is there")?;
    settings.cgroups.enter()?;
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWPID,
    )
    .context("make the node's namespaces")?;
    let mut init = Command::new(std::env::current_exe()?)
        .arg("node-init")
        .arg(directory)
        .stdout(Stdio::null()) // stderr stays: the node's log
        .spawn()
        .context("start the node's init")?;
    writeln!(io::stdout(), "{}", init.id())?;
    init.wait().context("wait for the node's init")
}

/// `node-init`: process 1.
pub fn init(directory: &Path) -> Result<()> {
    let settings = Settings::read(directory)?.context("no node is there")?;
    mounts::make(&settings).context("make the node's mounts")?;
    let mut line = String::new();
    let told = io::stdin().lock().read_line(&mut line)?;
    if told == 0 {
        return Ok(()); // the harness went away first
    }
    supervisor::run(settings)
}
