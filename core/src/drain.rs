//! Shutdown in three words: stop (accept no more), wait (let work end by itself), cut (end the rest).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// Owns every task of a component; clones share it. Nothing in Signet is spawned outside of one.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stop: CancellationToken,
    cut: CancellationToken,
    work: TaskTracker,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` until it ends or is cut. Dropping a connection's future closes its sockets.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone().cancelled_owned();
        tokio::spawn(self.work.track_future(UntilCut { cut, work }));
    }

    /// Runs `work` until the shutdown begins: what never ends by itself, and may be dropped wherever it waits.
    pub fn keep(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Accept loops `select!` on this, biased, before `accept()`; idle connections close on it.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Begins the shutdown without waiting for it.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops, waits at most `grace`, cuts the rest. Returns how many tasks were cut; 0 is what a rollout should log.
    pub async fn run(&self, grace: Duration) -> usize {
        self.stop();
        self.work.close();
        if timeout(grace, self.work.wait()).await.is_ok() {
            return 0;
        }
        let left = self.work.len();
        self.cut.cancel();
        self.work.wait().await;
        left
    }
}

pin_project! {
    /// Work that ends early when it is cut. An async block around it would hold it twice, and so would every idle connection.
    struct UntilCut<W> {
        #[pin]
        cut: WaitForCancellationFutureOwned,
        #[pin]
        work: W,
    }
}

impl<W: Future<Output = ()>> Future for UntilCut<W> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.cut.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.work.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_in_time_is_waited_for_and_the_rest_is_cut_and_counted() {
        let drain = Drain::new();
        let (done, finished) = tokio::sync::oneshot::channel();
        drain.spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let _ = done.send(());
        });
        drain.spawn(std::future::pending());
        assert_eq!(drain.run(Duration::from_secs(5)).await, 1);
        assert!(finished.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_ends_when_the_shutdown_begins_and_is_not_counted() {
        let drain = Drain::new();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        drain.keep(async move {
            let _held = held;
            std::future::pending().await
        });
        assert_eq!(drain.run(Duration::from_secs(5)).await, 0);
        assert!(dropped.await.is_err());
    }
}
