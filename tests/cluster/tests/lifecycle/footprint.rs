//! What a cluster could leave on a machine, counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Default)]
pub(crate) struct Footprint {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    nftables: String,
    cgroups: BTreeSet<PathBuf>,
    sysctls: BTreeMap<PathBuf, String>,
    /// Namespaces, by what /proc calls them ("net:[4026531840]"), and who is in each: "1234 etcd".
    namespaces: BTreeMap<String, BTreeSet<String>>,
}

impl Footprint {
    pub(crate) fn take() -> Self {
        let mut footprint = Self {
            mounts: lines("/proc/self/mountinfo"),
            links: fs::read_dir("/sys/class/net").unwrap().map(|link| name(&link.unwrap().path())).collect(),
            nftables: output(&["nft", "list", "tables"]),
            ..Self::default()
        };
        walk(Path::new("/sys/fs/cgroup"), &mut |path| {
            if path.is_dir() && !of_another_cluster(&path.to_string_lossy()) {
                footprint.cgroups.insert(path.to_owned());
            }
        });
        for tree in ["kernel", "vm", "net"] {
            walk(&Path::new("/proc/sys").join(tree), &mut |path| {
                if let Ok(value) = fs::read_to_string(path)
                    && !MOVING.iter().any(|moving| path.to_string_lossy().contains(moving))
                {
                    footprint.sysctls.insert(path.to_owned(), value);
                }
            });
        }
        for process in processes() {
            if of_another_cluster(&fs::read_to_string(process.join("cgroup")).unwrap_or_default()) {
                continue;
            }
            for kind in ["net", "pid", "mnt", "cgroup"] {
                if let Ok(namespace) = fs::read_link(process.join("ns").join(kind)) {
                    let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                    let who = format!("{} {}", name(&process), command.trim());
                    footprint.namespaces.entry(name(&namespace)).or_default().insert(who);
                }
            }
        }
        footprint
    }

    /// Panics with what is there now and was not before, or the other way round.
    pub(crate) fn assert_unchanged(&self) {
        let now = Self::take();
        assert_eq!(self.mounts, now.mounts, "mounts");
        assert_eq!(self.links, now.links, "network links");
        assert_eq!(self.nftables, now.nftables, "nftables");
        assert_eq!(self.cgroups, now.cgroups, "cgroups");
        let changed: Vec<_> =
            self.sysctls.iter().filter(|(path, value)| now.sysctls.get(*path) != Some(value)).collect();
        assert!(changed.is_empty(), "sysctls that were: {changed:?}");
        // Every process of a cluster but its harness lives in namespaces of its own.
        let new: Vec<_> = now
            .namespaces
            .iter()
            .filter(|(namespace, _)| !self.namespaces.contains_key(*namespace))
            .collect();
        assert!(new.is_empty(), "new namespaces, and who is in them: {new:?}");
    }
}

/// A developer may have one running. By the path of a cgroup, or by all those of a process.
fn of_another_cluster(cgroups: &str) -> bool {
    cgroups.contains("/signet-") && !cgroups.contains("/signet-lifecycle-")
}

/// Counters and such: they move by themselves.
const MOVING: [&str; 7] = [
    "/random/",
    "ns_last_pid",
    "/pty/nr",
    "nf_conntrack_count",
    "nr_",
    "hung_task_detect_count",
    "perf_event_max_sample_rate",
];

fn processes() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| name(path).bytes().all(|byte| byte.is_ascii_digit()))
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    visit(directory);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        } else {
            visit(&entry.path());
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn lines(file: &str) -> BTreeSet<String> {
    fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

fn output(argv: &[&str]) -> String {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
