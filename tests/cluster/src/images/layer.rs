//! What is in an image: a sorted tree of directories, files and symbolic links, all owned by root, all without a time.

use std::{
    collections::{BTreeMap, btree_map},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// Paths have no leading slash. A later entry replaces an earlier one of the same path, except that a directory replaces no link.
#[derive(Default)]
pub(crate) struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// What every image has: the directories that a runtime mounts over, `/tmp`, a merged /usr, and names for the users.
    pub(crate) fn base(users: &[(&str, u32)]) -> Self {
        let mut layer = Self::default();
        for directory in ["dev", "etc", "proc", "sys"] {
            layer.directory(directory, 0o755);
        }
        layer.directory("tmp", 0o1777);
        for directory in MERGED {
            layer.directory(&format!("usr/{directory}"), 0o755);
            layer.entries.insert(directory.to_owned(), Entry::Link { target: format!("usr/{directory}") });
        }
        let (mut passwd, mut group) = (String::new(), String::new());
        for (name, id) in USERS.iter().chain(users) {
            let shell = if *id == 0 { "/bin/sh" } else { "/sbin/nologin" };
            passwd += &format!("{name}:x:{id}:{id}::/tmp:{shell}\n");
            group += &format!("{name}:x:{id}:\n");
        }
        layer.file("etc/passwd", 0o644, passwd.into());
        layer.file("etc/group", 0o644, group.into());
        layer
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.insert(path, Entry::Directory { mode });
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.insert(path, Entry::File { mode, content });
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.insert(path, Entry::Link { target: target.to_owned() });
    }

    pub(crate) fn content(&self, path: &str) -> Option<&[u8]> {
        match self.entries.get(&place(path))? {
            Entry::File { content, .. } => Some(content),
            _ => None,
        }
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(&place(path))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Adds a package's files, except those that `skip` names.
    pub(crate) fn unpack(&mut self, archive: impl Read, skip: impl Fn(&str) -> bool) -> Result<()> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_str().context("a path that is no UTF-8")?.to_owned();
            if skip(&place(&path)) {
                continue;
            }
            let mode = entry.header().mode()? & 0o7777;
            let target = entry.link_name()?.map(|target| target.to_string_lossy().into_owned());
            match (entry.header().entry_type(), target) {
                (tar::EntryType::Directory, _) => self.directory(&path, mode),
                (tar::EntryType::Regular, _) => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    self.file(&path, mode, content);
                }
                (tar::EntryType::Symlink, Some(target)) => self.link(&path, &moved_target(&path, &target)),
                (tar::EntryType::Link, Some(target)) => {
                    let original = self.entries.get(&place(&target)).cloned();
                    let original =
                        original.with_context(|| format!("{path} is a link to {target}, unseen"))?;
                    self.insert(&path, original);
                }
                (other, _) => bail!("{path} is of type {other:?}, which no image of ours has"),
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match entry {
                Entry::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::File { mode, content } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        archive.finish()
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = place(path);
        let parents = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| &path[..at]);
        for parent in parents.filter(|parent| !parent.is_empty()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
        if path.is_empty() {
            return; // the root itself
        }
        match (self.entries.entry(path), entry) {
            // A link that stands for a directory stays one.
            (btree_map::Entry::Occupied(old), Entry::Directory { .. })
                if !matches!(old.get(), Entry::Directory { .. }) => {}
            (btree_map::Entry::Occupied(mut old), entry) => drop(old.insert(entry)),
            (btree_map::Entry::Vacant(free), entry) => drop(free.insert(entry)),
        }
    }
}

/// Where a path is in a merged /usr, without slashes around it.
fn place(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if path == "." {
        String::new()
    } else if MERGED.contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// A relative link that moves below /usr would lead elsewhere: it becomes absolute.
fn moved_target(path: &str, target: &str) -> String {
    let from = path.trim_start_matches("./").trim_start_matches('/');
    if target.starts_with('/') || !target.starts_with("..") || place(from) == from {
        return target.to_owned();
    }
    let mut absolute = PathBuf::from("/");
    for component in Path::new(from).parent().unwrap_or(Path::new("")).join(target).components() {
        match component {
            Component::ParentDir => drop(absolute.pop()),
            Component::Normal(name) => absolute.push(name),
            _ => {}
        }
    }
    absolute.to_string_lossy().into_owned()
}

/// Debian's /usr is merged (`/bin` is a link to `usr/bin`), but bookworm's packages still ship files in the old places.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// In every image, so that a pod may run as any of them: 65532 is what distroless calls nonroot, 1337 is the sidecar.
const USERS: [(&str, u32); 4] = [("root", 0), ("nobody", 65534), ("nonroot", 65532), ("proxy", 1337)];

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, type, mode, link target or content of every entry.
    fn listed(layer: &Layer) -> Vec<(String, char, u32, String)> {
        let mut tar = Vec::new();
        layer.write(&mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let path = entry.path().unwrap().display().to_string();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let kind = match header.entry_type() {
                tar::EntryType::Directory => 'd',
                tar::EntryType::Regular => 'f',
                tar::EntryType::Symlink => {
                    content = entry.link_name().unwrap().unwrap().display().to_string();
                    'l'
                }
                other => panic!("{other:?}"),
            };
            (path, kind, header.mode().unwrap(), content)
        });
        entries.collect()
    }

    #[test]
    fn modes_links_and_long_names_survive_in_the_order_of_their_paths() {
        let long = format!("usr/share/{}/{}", "d".repeat(120), "f".repeat(150));
        let far = format!("/{}", "t".repeat(200));
        let mut layer = Layer::default();
        layer.link("a/link", &far);
        layer.file(&long, 0o4755, b"setuid".to_vec());
        layer.directory("tmp", 0o1777);
        let want = [
            ("a/", 'd', 0o755, ""),
            ("a/link", 'l', 0o777, far.as_str()),
            ("tmp/", 'd', 0o1777, ""),
            ("usr/", 'd', 0o755, ""),
            ("usr/share/", 'd', 0o755, ""),
            (&format!("usr/share/{}/", "d".repeat(120)), 'd', 0o755, ""),
            (&long, 'f', 0o4755, "setuid"),
        ]
        .map(|(path, kind, mode, content)| (path.to_owned(), kind, mode, content.to_owned()));
        assert_eq!(listed(&layer), want);
    }

    #[test]
    fn a_package_for_an_unmerged_usr_is_found_in_both_places() {
        for (path, place_) in [
            ("./lib64/ld-linux.so.2", "usr/lib64/ld-linux.so.2"),
            ("/bin/sh", "usr/bin/sh"),
            ("./usr/bin/env", "usr/bin/env"),
            ("lib", "usr/lib"),
            ("library/x", "library/x"),
            ("./", ""),
        ] {
            assert_eq!(place(path), place_, "{path}");
        }
        for (path, target, want) in [
            ("./lib64/ld.so", "../lib/x/ld.so", "/lib/x/ld.so"),
            ("./lib/x/liba.so", "liba.so.1", "liba.so.1"),
            ("./usr/lib/x/liba.so", "../../../lib/x/liba.so.1", "../../../lib/x/liba.so.1"),
        ] {
            assert_eq!(moved_target(path, target), want, "{path}");
        }
    }

    #[test]
    fn a_package_does_not_replace_the_links_of_the_merged_usr() {
        let mut package = tar::Builder::new(Vec::new());
        for (path, kind) in [("./", 'd'), ("./lib/", 'd'), ("./lib/a", 'f'), ("./usr/share/doc/a", 'f')] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(0);
            header.set_entry_type(if kind == 'd' {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            package.append_data(&mut header, path, io::empty()).unwrap();
        }
        let mut layer = Layer::base(&[("postgres", 999)]);
        layer
            .unpack(package.into_inner().unwrap().as_slice(), |path| path.starts_with("usr/share/doc/"))
            .unwrap();
        let listed = listed(&layer);
        let kinds: BTreeMap<_, _> = listed.iter().map(|(path, kind, ..)| (path.as_str(), *kind)).collect();
        assert_eq!((kinds["lib"], kinds["usr/lib/a"], kinds.get("usr/share/doc/a")), ('l', 'f', None));
        assert!(listed.iter().any(|(.., passwd)| passwd.contains("postgres:x:999:999:")));
    }
}
