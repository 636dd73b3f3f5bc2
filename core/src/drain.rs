//! Shutdown in three words: stop (accept no more), wait (let work end by itself), cut (end the rest).

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// Owns every task of a component; clones share it. Nothing in Signet is spawned outside of one.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stop: CancellationToken,
    cut: CancellationToken,
    /// That `stop`, `cut` are about to be cancelled: what every task asks at every turn, without a lock.
    begun: Arc<Begun>,
    work: TaskTracker,
}

#[derive(Debug, Default)]
struct Begun {
    stop: AtomicBool,
    cut: AtomicBool,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` until it ends or is cut. Dropping a connection's future closes its sockets.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone().cancelled_owned();
        let begun = Arc::clone(&self.begun);
        tokio::spawn(self.work.track_future(UntilCut { cut, begun, waits: false, work }));
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
    pub fn stopping(&self) -> Stopping<'_> {
        Stopping { stop: self.stop.cancelled(), begun: &self.begun, waits: None }
    }

    pub fn is_stopping(&self) -> bool {
        self.begun.stop.load(Acquire)
    }

    /// Begins the shutdown without waiting for it.
    pub fn stop(&self) {
        self.begun.stop.store(true, Release);
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
        self.begun.cut.store(true, Release);
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
        begun: Arc<Begun>,
        // Since the first poll: this is a task's own future, so that the waker stays the same.
        waits: bool,
        #[pin]
        work: W,
    }
}

impl<W: Future<Output = ()>> Future for UntilCut<W> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if !*this.waits || this.begun.cut.load(Acquire) {
            if this.cut.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            *this.waits = true;
        }
        this.work.poll(cx)
    }
}

pin_project! {
    /// Ends when the shutdown begins.
    pub struct Stopping<'a> {
        #[pin]
        stop: WaitForCancellationFuture<'a>,
        begun: &'a Begun,
        // Who will be woken.
        waits: Option<Waker>,
    }
}

impl Future for Stopping<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let waits = this.waits.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if waits && !this.begun.stop.load(Acquire) {
            return Poll::Pending;
        }
        let polled = this.stop.poll(cx);
        *this.waits = polled.is_pending().then(|| cx.waker().clone());
        polled
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
