//! Objects from a directory of ordinary manifests: every *.yaml, *.yml and *.json in it and in its direct subdirectories, in
//! order of their names; hidden ones are left out.
//!
//! Watched by polling, because that works on every file system and bind mount (inotify sees neither NFS, 9p nor the symlink
//! swap of a mounted ConfigMap, and its queue overflows). A fingerprint per file (path, inode, size, mtime, ctime) is compared
//! every [`POLL`]; only files whose fingerprint changed are read again.
//!
//! Stale beats empty: while a file is broken or unreadable, the objects that it held in good state stay, and the error says
//! so. A file that is gone takes its objects with it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use signet_core::clock;
use tokio::task::{JoinError, spawn_blocking};
use tracing::{info, warn};

use super::{
    Key, Kind, ManifestError, Object,
    parse::{self, Secrets},
};

/// What a directory holds at one moment.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// In order of file and line; no two share a key.
    pub objects: Vec<Arc<Object>>,
    pub errors: Vec<ManifestError>,
    pub files: usize,
}

/// A directory and what was last read from it.
pub struct Directory {
    root: PathBuf,
    secrets: Secrets,
    files: BTreeMap<Arc<str>, File>,
    /// The last error about the directory as a whole.
    fault: Option<ManifestError>,
}

struct File {
    fingerprint: Fingerprint,
    /// Written so recently that the next write may leave the same fingerprint: read again at the next poll.
    fresh: bool,
    objects: Vec<Arc<Object>>,
    /// Held from before the file broke.
    stale: Vec<Arc<Object>>,
    errors: Vec<ManifestError>,
    /// SHA-256 of its text.
    digest: [u8; 32],
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Fingerprint {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Directory {
    /// Touches nothing; [`Directory::poll`] reads.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), secrets: Secrets::LeftAlone, files: BTreeMap::new(), fault: None }
    }

    /// Secrets are read, too.
    pub(crate) fn with_secrets(self) -> Self {
        Self { secrets: Secrets::Read, ..self }
    }

    /// What it holds now, and the directory again. Errors: reading panicked.
    pub(crate) async fn first(mut self) -> Result<(Self, Contents), JoinError> {
        spawn_blocking(move || {
            self.poll();
            let contents = self.contents();
            (self, contents)
        })
        .await
    }

    /// What it holds, if that has changed, and the directory again. Errors: as above.
    pub(crate) async fn next(mut self) -> Result<(Self, Option<Contents>), JoinError> {
        spawn_blocking(move || {
            let contents = self.poll().then(|| self.contents());
            (self, contents)
        })
        .await
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what changed; true when the contents did. Blocking.
    pub fn poll(&mut self) -> bool {
        let listed = match list(&self.root) {
            Ok(listed) => listed,
            Err(error) => {
                let message = format!("{error}; what was read before stays");
                let fault = self.fault_of(message);
                return self.set_fault(Some(fault));
            }
        };
        let too_many = listed.len() > MAX_FILES;
        let fault = too_many.then(|| {
            self.fault_of(format!("holds {} manifests; the first {MAX_FILES} are read", listed.len()))
        });
        let mut changed = self.set_fault(fault);
        let listed: BTreeMap<Arc<str>, Fingerprint> = listed.into_iter().take(MAX_FILES).collect();
        let before = self.files.len();
        self.files.retain(|name, _| listed.contains_key(name));
        changed |= self.files.len() != before;
        for (name, fingerprint) in listed {
            if self.files.get(&name).is_none_or(|file| file.fresh || file.fingerprint != fingerprint) {
                changed |= self.read(name, fingerprint);
            }
        }
        changed
    }

    /// Everything, with doubles taken out: the first one in order of file and line stays.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents { files: self.files.len(), ..Contents::default() };
        contents.errors.extend(self.fault.clone());
        let mut seen: HashMap<Key, Arc<Object>> = HashMap::new();
        for file in self.files.values() {
            contents.errors.extend(file.errors.iter().cloned());
            for object in file.objects.iter().chain(&file.stale) {
                match object
                    .key()
                    .and_then(|key| seen.insert(key.clone(), Arc::clone(object)).map(|first| (key, first)))
                {
                    None => contents.objects.push(Arc::clone(object)),
                    Some((key, first)) => {
                        contents.errors.push(double(&key, object, &first));
                        seen.insert(key, first);
                    }
                }
            }
        }
        contents
    }

    fn read(&mut self, name: Arc<str>, fingerprint: Fingerprint) -> bool {
        let fresh = clock::unix_now() - fingerprint.modified.0 <= FRESH_SECONDS;
        let text = read_bounded(&self.root.join(&*name));
        let digest = text.as_ref().map(|text| Sha256::digest(text).into()).unwrap_or_default();
        if let (Some(held), Ok(_)) = (self.files.get_mut(&name), &text)
            && held.digest == digest
        {
            (held.fingerprint, held.fresh) = (fingerprint, fresh);
            return false;
        }
        let (objects, mut errors) = match text.as_deref().map(std::str::from_utf8) {
            Ok(Ok(text)) => parse::parse_with(&name, text, self.secrets),
            Ok(Err(e)) => {
                (Vec::new(), vec![whole(&name, format!("not UTF-8 after byte {}", e.valid_up_to()))])
            }
            Err(error) => (Vec::new(), vec![whole(&name, error.to_string())]),
        };
        let objects: Vec<Arc<Object>> = objects.into_iter().map(Arc::new).collect();
        let stale = if errors.is_empty() { Vec::new() } else { self.kept(&name, &objects) };
        if !stale.is_empty() {
            let last = errors.len() - 1;
            errors[last].message += &format!("; {} objects of its last good state are kept", stale.len());
        }
        log(&name, &objects, &errors);
        self.files.insert(name, File { fingerprint, fresh, objects, stale, errors, digest });
        true
    }

    /// What the file held before and does not show now.
    fn kept(&self, name: &str, now: &[Arc<Object>]) -> Vec<Arc<Object>> {
        let Some(held) = self.files.get(name) else { return Vec::new() };
        let shown: HashSet<Key> = now.iter().filter_map(|object| object.key()).collect();
        let before = held.objects.iter().chain(&held.stale);
        before.filter(|object| object.key().is_some_and(|key| !shown.contains(&key))).cloned().collect()
    }

    fn fault_of(&self, message: String) -> ManifestError {
        whole(&self.root.display().to_string(), message)
    }

    fn set_fault(&mut self, fault: Option<ManifestError>) -> bool {
        let changed = self.fault != fault;
        if let Some(fault) = fault.as_ref().filter(|_| changed) {
            warn!("{fault}");
        }
        self.fault = fault;
        changed
    }
}

fn whole(file: &str, message: String) -> ManifestError {
    ManifestError { file: file.to_owned(), line: 0, field: String::new(), message }
}

fn double((kind, namespace, name): &Key, object: &Object, first: &Object) -> ManifestError {
    let place = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
    let message = format!(
        "{kind} {place} is already at {}:{}; this one is left out",
        first.origin.file, first.origin.line
    );
    ManifestError {
        file: object.origin.file.to_string(),
        line: object.origin.line,
        field: "metadata.name".into(),
        message,
    }
}

fn log(file: &str, objects: &[Arc<Object>], errors: &[ManifestError]) {
    let others = objects.iter().filter_map(|object| match &object.kind {
        Kind::Other { kind, .. } => Some(kind.as_str()),
        _ => None,
    });
    let mut others: Vec<&str> = others.collect();
    others.sort_unstable();
    others.dedup();
    info!(file, objects = objects.len(), errors = errors.len(), not_ours = %others.join(","), "manifest read");
    for error in errors {
        warn!("{error}");
    }
}

/// Manifests below `root`, relative, with what tells that they changed.
fn list(root: &Path) -> io::Result<Vec<(Arc<str>, Fingerprint)>> {
    let mut found = Vec::new();
    list_into(root, "", &mut found)?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn list_into(directory: &Path, prefix: &str, found: &mut Vec<(Arc<str>, Fingerprint)>) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot list {}: {e}", directory.display()));
    for entry in fs::read_dir(directory).map_err(named)? {
        let entry = entry.map_err(named)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if name.starts_with('.') || found.len() > 2 * MAX_FILES {
            continue;
        }
        let Ok(metadata) = fs::metadata(entry.path()) else { continue }; // follows links; gone meanwhile
        if metadata.is_dir() && prefix.is_empty() {
            list_into(&entry.path(), &format!("{name}/"), found)?;
        } else if metadata.is_file() && EXTENSIONS.iter().any(|ending| name.ends_with(ending)) {
            found.push((format!("{prefix}{name}").into(), Fingerprint::of(&metadata)));
        }
    }
    Ok(())
}

impl Fingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One byte more than is allowed, so that the parser can say that the file is too long.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(parse::MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// A change is seen within this; short enough to feel live, long enough that a directory of 1 000 files costs little (a
/// guess, not measured: two system calls a file).
pub const POLL: Duration = Duration::from_millis(200);
/// Two writes within one tick of the file system's clock look the same; no clock in use ticks slower (FAT: 2 s).
const FRESH_SECONDS: i64 = 2;
/// Far above what a person keeps in one directory.
const MAX_FILES: usize = 2_000;
const EXTENSIONS: [&str; 3] = [".yaml", ".yml", ".json"];
