//! What a node sees of the file system: the machine's, except for what its components write.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

use super::Settings;
use crate::network;

/// kubelet sets these for the whole kernel. It writes into files instead, and the machine keeps its own values.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

pub(super) fn make(settings: &Settings) -> Result<()> {
    let directory = &settings.directory;
    flags("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?; // nothing that we mount is seen outside
    flags("/", MsFlags::MS_REC | MsFlags::MS_SHARED)?; // but pods may ask for propagation
    new("proc", "/proc", "")?;
    new("tmpfs", "/run", "mode=755")?;
    for (inside, ours) in [("/var/lib", "lib"), ("/var/log", "log")] {
        let ours = directory.join(ours);
        fs::create_dir_all(&ours).with_context(|| ours.display().to_string())?;
        bind(&ours, Path::new(inside))?;
    }
    fs::create_dir_all("/run/netns")?;
    fs::create_dir_all("/var/log/containers")?;

    // Names go to the cluster's DNS, never to the machine's resolver.
    let resolver = directory.join("resolv.conf");
    fs::write(&resolver, format!("nameserver {}\n", network::DNS_SERVICE))?;
    bind(&resolver, Path::new("/etc/resolv.conf"))?;

    cgroups(settings)?;
    let sysctls = directory.join("sysctl");
    fs::create_dir_all(&sysctls)?;
    for (name, value) in SYSCTLS {
        let file = sysctls.join(name.replace('/', "."));
        fs::write(&file, format!("{value}\n"))?;
        bind(&file, &Path::new("/proc/sys").join(name))?;
    }
    Ok(())
}

/// The v1 hierarchies anew, as seen from our cgroup namespace: their root is the node's own cgroup. No cgroup2.
fn cgroups(settings: &Settings) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    new("tmpfs", "/sys/fs/cgroup", "mode=755")?;
    for hierarchy in settings.cgroups.hierarchies() {
        let directory = root.join(hierarchy.name());
        fs::create_dir_all(&directory)?;
        let named = hierarchy.controllers.starts_with("name=");
        let options =
            if named { format!("none,{}", hierarchy.controllers) } else { hierarchy.controllers.clone() };
        mount(Some("cgroup"), &directory, Some("cgroup"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mount the cgroup hierarchy {options}"))?;
    }
    Ok(())
}

fn new(kind: &str, target: &str, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("mount {kind} on {target}"))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {} to {}", source.display(), target.display()))
}

fn flags(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("{flags:?} on {target}"))
}
