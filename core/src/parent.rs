//! Children that do not outlive their supervisor, not even when it is killed with -9.
//!
//! The supervisor gives each child a pipe as stdin, never writes to it, and holds the other end. The kernel closes that end
//! with the supervisor, however it dies. (PR_SET_PDEATHSIG would follow the supervisor's *thread*.)

use std::{io, thread};

/// `--exit-with-parent`: from now on this process ends, at once and with [`PARENT_GONE`], when its stdin does.
///
/// Only for a process whose stdin is such a pipe: `/dev/null` is at its end from the start.
/// At once, because whoever supervised us is no longer there to drain for; every state that we keep survives kill -9.
pub fn exit_with_parent() -> io::Result<()> {
    thread::Builder::new().name("parent".into()).spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink()); // an error says the same as the end: nobody is there
        tracing::warn!("the supervisor is gone; exiting");
        std::process::exit(PARENT_GONE)
    })?;
    Ok(())
}

/// Exit status after the supervisor's death; nobody is left to read it but a log.
pub const PARENT_GONE: i32 = 3;
