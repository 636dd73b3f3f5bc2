//! What one can ask of a node's init: JSON, one line each way, over the Unix socket in the cluster's state directory.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    /// SIGTERM, SIGKILL after 10 s; it stays down until `Start`. Answered when it is down.
    Stop(String),
    /// Answered when it has been started, not when it is ready.
    Start(String),
    /// The signal's number (signal(7)). A component that dies of it is started again like one that died by itself.
    Signal(String, i32),
    /// SIGKILL to every process of the node that is none of its components: pods, and the shims of containerd.
    KillOthers,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Components(Vec<Component>),
    Done,
    Error(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Component {
    pub name: String,
    /// In the node's PID namespace; None while it is down.
    pub pid: Option<i32>,
    /// How often it was started again after it had ended by itself or by a signal.
    pub restarts: u32,
    /// How it ended the last time, if ever ("exit status: 1", "signal: SIGKILL").
    pub last_end: Option<String>,
}

/// Asks once and waits for the answer.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply> {
    let asked = || -> Result<Reply> {
        let mut stream = UnixStream::connect(socket)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    };
    match asked().with_context(|| format!("ask the node at {}: {request:?}", socket.display()))? {
        Reply::Error(why) => bail!("{why}"),
        reply => Ok(reply),
    }
}
