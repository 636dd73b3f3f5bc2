//! A cgroup for each node in every hierarchy, below the one that we are in: kubelet believes that it owns what it sees.
//!
//! Only cgroup v1 so far (and v1 beside v2), which is what CI's machines have.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

const ROOT: &str = "/sys/fs/cgroup";
/// How long a killed process may take to leave its cgroup.
const GONE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cgroups(Vec<Hierarchy>);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// As in /proc/self/cgroup: "memory", "cpu,cpuacct", "name=systemd".
    pub(crate) controllers: String,
    directory: PathBuf,
}

impl Hierarchy {
    /// Name of its directory under /sys/fs/cgroup.
    pub(crate) fn name(&self) -> &str {
        self.controllers.strip_prefix("name=").unwrap_or(&self.controllers)
    }
}

impl Cgroups {
    /// The ones called `name` below our own; they need not exist.
    pub(crate) fn below_ours(name: &str) -> Result<Self> {
        let text = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let ours = parse(&text);
        ensure!(
            ours.iter().any(|(controllers, _)| controllers == "memory"),
            "this machine has no cgroup v1 hierarchy for memory ({ROOT}); the test cluster does not know cgroup v2 yet"
        );
        Ok(Self(
            ours.into_iter()
                .map(|(controllers, path)| {
                    let mut hierarchy = Hierarchy { controllers, directory: PathBuf::new() };
                    hierarchy.directory =
                        Path::new(ROOT).join(hierarchy.name()).join(path.trim_start_matches('/')).join(name);
                    hierarchy
                })
                .filter(|hierarchy| hierarchy.directory.parent().is_some_and(Path::is_dir))
                .collect(),
        ))
    }

    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.0
    }

    pub(crate) fn create(&self) -> Result<()> {
        for hierarchy in &self.0 {
            let directory = &hierarchy.directory;
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
            // An empty cpuset takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let ours = directory.with_file_name(file);
                if ours.exists() {
                    fs::copy(&ours, directory.join(file))
                        .with_context(|| format!("copy {}", ours.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Moves this process in.
    pub(crate) fn enter(&self) -> Result<()> {
        for hierarchy in &self.0 {
            let procs = hierarchy.directory.join("cgroup.procs");
            fs::write(&procs, std::process::id().to_string())
                .with_context(|| format!("enter {}", procs.display()))?;
        }
        Ok(())
    }

    /// Ends every process in them and takes them away; none of it has to be there.
    pub(crate) fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + GONE;
        for hierarchy in &self.0 {
            while let Err(error) = remove_tree(&hierarchy.directory) {
                if Instant::now() >= deadline {
                    bail!("{}: {error}; something in it does not end", hierarchy.directory.display());
                }
                thread::sleep(Duration::from_millis(20)); // a killed process leaves when it leaves
            }
        }
        Ok(())
    }
}

/// (controllers, path) of each v1 hierarchy in /proc/self/cgroup; the v2 line has no controllers.
fn parse(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            (!controllers.is_empty()).then(|| (controllers.to_owned(), path.to_owned()))
        })
        .collect()
}

/// Leaves first. Whoever is still inside is killed: nobody but the node's own processes can be there.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    for pid in fs::read_to_string(directory.join("cgroup.procs"))?.lines().filter_map(|pid| pid.parse().ok())
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // it may just have ended
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_v1_are_read_and_the_line_of_v2_is_not_one() {
        let text = "4:memory:/process_api/x\n2:cpu,cpuacct:/\n1:name=systemd:/user:0\n0::/\n";
        let expected = [("memory", "/process_api/x"), ("cpu,cpuacct", "/"), ("name=systemd", "/user:0")];
        assert_eq!(
            parse(text),
            expected.map(|(controllers, path)| (controllers.to_owned(), path.to_owned()))
        );
    }
}
