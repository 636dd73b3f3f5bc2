//! Files that survive kill -9 at any point, and that only we can read when they hold a secret.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// For keys, tokens and state.
pub const PRIVATE: u32 = 0o600;
/// For trust bundles and logs without secrets.
pub const PUBLIC: u32 = 0o644;

/// Replaces `path` as a whole: temporary file beside it, fsync, rename, fsync of the directory. A reader sees the old or
/// the new content, never a part; after a crash too. A left-over temporary file is overwritten by the next write.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary(path)?;
    write_new(&temporary, content, mode)?;
    fs::rename(&temporary, path)?;
    sync_directory(path)
}

/// Makes `path` as a whole, if there is none: false where there is one, which stays as it is. Of several that try at once, in this
/// process or in others, one makes it. As safe from crashes as [`write_atomic`]; the file system must have hard links.
pub fn create_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = temporary(path)?.with_extension(format!("{}-{number}", std::process::id()));
    let made = write_new(&temporary, content, mode).map(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    match made? {
        Ok(()) => sync_directory(path).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Creates a directory that only we can enter; an existing one keeps its mode.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// On the disk, whole, or an error. What a writer that crashed left there goes; `create_new` takes care that the mode is ours.
fn write_new(temporary: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let _ = fs::remove_file(temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The one that `path` is in.
fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_is_replaced_whole_and_readable_by_its_owner_only() {
        let directory = std::env::temp_dir().join(format!("signet-files-{}", std::process::id()));
        create_private_dir(&directory).unwrap();
        let path = directory.join("secret");
        fs::write(directory.join(".secret.new"), "left by a crash").unwrap();
        for content in [&b"first"[..], b"second"] {
            write_atomic(&path, content, PRIVATE).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn of_many_that_make_a_file_at_once_one_does_and_nothing_else_stays() {
        let directory = std::env::temp_dir().join(format!("signet-files-once-{}", std::process::id()));
        create_private_dir(&directory).unwrap();
        let path = directory.join("secret");
        let make = |n: usize| create_atomic(&path, format!("{n}").repeat(1000).as_bytes(), PRIVATE).unwrap();
        let made: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || make(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winner = made.iter().position(|made| *made).unwrap();
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{winner}").repeat(1000));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }
}
