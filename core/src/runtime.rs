//! The event loop of a data plane, and its access log with it.

use std::{future::Future, io};

use tokio::runtime::Builder;

use crate::access_log;

/// Runs `work` to its end. One worker is this thread, and then there is no other to wake (design 12). A worker writes its access log
/// when it has nothing else to do.
pub fn run<T>(workers: usize, work: impl Future<Output = T>) -> io::Result<T> {
    let mut builder = match workers {
        1 => {
            access_log::collect(); // this thread is the worker
            Builder::new_current_thread()
        }
        workers => {
            let mut builder = Builder::new_multi_thread();
            builder
                .worker_threads(workers)
                .on_thread_start(access_log::collect)
                .on_thread_stop(access_log::flush);
            builder
        }
    };
    let runtime = builder.enable_all().on_thread_park(access_log::flush).build()?;
    let ended = runtime.block_on(work);
    drop(runtime); // whatever it still holds has its line, too
    access_log::flush();
    Ok(ended)
}
