//! The audit log: one JSON line per decision, written before the reply.
//!
//! "Written" is accepted by write(2). One thread owns the file, so a blocked disk blocks no task: whoever waits for its line
//! gives up after [`PATIENCE`] and nothing is issued. Lines that wait together are written together.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    net::SocketAddr,
    os::{
        fd::AsFd as _,
        unix::fs::{OpenOptionsExt as _, PermissionsExt},
    },
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use serde::Serialize;
use signet_core::files::PRIVATE;
use tokio::{sync::oneshot, time::timeout};
use tracing::{error, info};

use crate::{callers::Via, csr::Ignored};

/// One decision. What is unknown is left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line<'a> {
    /// RFC 3339, UTC.
    pub time: String,
    /// "issued" or "refused".
    pub decision: &'static str,
    /// Of a closed set, `Refusal::reason`; the metric's label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The reason in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<&'a str>,
    /// "namespace/name" and UID of the pod that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<&'a str>,
    /// The DNS name of a serving certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<&'a str>,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hash: Option<&'a str>,
    /// RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// What the request asked for beside its key, and did not get.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub ignored: &'a [Ignored],
    /// Refusals that this line stands for; theirs would have been too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// The way to the writer's thread, which ends with this.
pub(crate) struct Audit {
    lines: SyncSender<Waiting>,
}

struct Waiting {
    line: Vec<u8>,
    written: oneshot::Sender<Result<(), String>>,
}

impl Audit {
    /// Appends to `file` (0600), or writes to stdout where there is none.
    pub(crate) fn open(file: Option<&Path>) -> io::Result<Self> {
        let sink = match file {
            Some(path) => Sink::open(path)?,
            None => Sink { file: File::from(io::stdout().as_fd().try_clone_to_owned()?), torn: false },
        };
        let (lines, waiting) = sync_channel(QUEUE);
        thread::Builder::new().name("audit".into()).spawn(move || write(sink, &waiting))?;
        Ok(Self { lines })
    }

    /// Returns when the line is written. On an error the caller must not act on its decision.
    pub(crate) async fn record(&self, line: &Line<'_>) -> Result<(), CannotAudit> {
        let mut line = serde_json::to_vec(line).map_err(|e| CannotAudit::Failed(e.to_string()))?;
        line.push(b'\n'); // the only one: JSON escapes those inside
        let (written, answer) = oneshot::channel();
        self.lines.try_send(Waiting { line, written }).map_err(|e| match e {
            TrySendError::Full(_) => CannotAudit::Blocked,
            TrySendError::Disconnected(_) => CannotAudit::Failed("its thread has ended".into()),
        })?;
        match timeout(PATIENCE, answer).await {
            Ok(Ok(result)) => result.map_err(CannotAudit::Failed),
            Ok(Err(_)) => Err(CannotAudit::Failed("its thread has ended".into())),
            Err(_) => Err(CannotAudit::Blocked),
        }
    }
}

fn write(mut sink: Sink, waiting: &Receiver<Waiting>) {
    let mut failing = false;
    while let Ok(first) = waiting.recv() {
        let together = std::iter::once(first).chain(waiting.try_iter().take(TOGETHER));
        // Who gave up waiting issues nothing, so its line would be untrue.
        let batch: Vec<Waiting> = together.filter(|waiting| !waiting.written.is_closed()).collect();
        let lines: Vec<u8> = batch.iter().flat_map(|waiting| waiting.line.iter().copied()).collect();
        let result = sink.write(&lines).map_err(|e| e.to_string());
        match &result {
            Err(why) if !failing => {
                error!(%why, "the audit log cannot be written; nothing is issued until it can")
            }
            Ok(()) if failing => info!("the audit log is written again"),
            _ => {}
        }
        failing = result.is_err();
        for waiting in batch {
            let _ = waiting.written.send(result.clone());
        }
    }
}

struct Sink {
    file: File,
    /// A line was cut off (disk full, power lost); the next one begins on its own line.
    torn: bool,
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().append(true).read(true).create(true).mode(PRIVATE).open(path)?;
        let regular = file.metadata()?.is_file();
        if regular {
            file.set_permissions(PermissionsExt::from_mode(PRIVATE))?;
        }
        let mut last = [b'\n'];
        if regular && file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { file, torn: last != [b'\n'] })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        self.file.write_all(lines).inspect_err(|_| self.torn = true)
    }
}

/// A decision that could not be written: nothing is issued.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CannotAudit {
    #[error("the audit log took no line for {PATIENCE:?}; look at its disk")]
    Blocked,
    #[error("the audit log cannot be written: {0}; free its disk")]
    Failed(String),
}

/// What a reply waits for its line; callers wait 5 s for a reply.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lines that wait: more than requests are served at once, so that only a blocked disk fills it.
const QUEUE: usize = 1024;
/// Lines beyond the first that share one write; at some 400 bytes each, 25 kB.
const TOGETHER: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::PathBuf};

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("signet-audit-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory.join("audit.log")
    }

    fn line() -> Line<'static> {
        Line { time: "2026-11-24T00:00:00Z".into(), decision: "refused", ..Line::default() }
    }

    #[tokio::test]
    async fn a_line_is_in_the_file_when_record_returns_and_the_file_is_private() {
        let path = scratch("written");
        let audit = Audit::open(Some(&path)).unwrap();
        for n in 1..=3 {
            audit.record(&line()).await.unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), n);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PRIVATE);
    }

    #[tokio::test]
    async fn lines_are_appended_across_restarts_and_after_one_that_was_cut_off() {
        let path = scratch("torn");
        fs::write(&path, "{\"decision\":\"issued\"}\n{\"decis").unwrap();
        Audit::open(Some(&path)).unwrap().record(&line()).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        serde_json::from_str::<serde_json::Value>(lines[2]).unwrap();
    }

    #[tokio::test]
    async fn strangers_cannot_write_a_line_of_their_own() {
        let path = scratch("escaped");
        let audit = Audit::open(Some(&path)).unwrap();
        let why = "x\n{\"decision\":\"issued\"}\r\u{1b}[2J";
        audit.record(&Line { why: Some(why.to_owned()), ..line() }).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}') && !text.contains('\r'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["why"], why);
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error() {
        let audit = Audit::open(Some(Path::new("/dev/full"))).unwrap();
        assert!(matches!(audit.record(&line()).await, Err(CannotAudit::Failed(_))));
    }

    /// A pipe that nobody reads blocks write(2) as a hung disk does.
    #[tokio::test]
    async fn a_blocked_disk_is_given_up_after_a_second_and_its_lines_are_not_written_later() {
        let path = scratch("blocked");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let audit = Audit::open(Some(&path)).unwrap();
        let long = Line { why: Some("x".repeat(70_000)), ..line() }; // more than a pipe holds
        assert_eq!(audit.record(&long).await, Err(CannotAudit::Blocked));
        assert_eq!(audit.record(&line()).await, Err(CannotAudit::Blocked), "behind the first");
        let drained = thread::spawn(move || {
            let mut text = vec![0; 80_000];
            let mut length = 0;
            while !text[..length].windows(6).any(|six| six == b"\"last\"") {
                length += reader.read(&mut text[length..]).unwrap();
            }
            String::from_utf8(text[..length].to_vec()).unwrap()
        });
        // The disk is back: the next decision is written.
        let last = Line { why: Some("last".into()), ..line() };
        while audit.record(&last).await.is_err() {}
        let text = drained.join().unwrap();
        assert_eq!(text.matches("\"refused\"").count(), 2, "the first, which was on its way, and the last");
    }
}
