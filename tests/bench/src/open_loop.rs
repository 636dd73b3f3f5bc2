//! Requests at a fixed rate, whatever the answers do. A latency runs from the moment at which the request was due, so an
//! answer that is late delays nobody's clock but its own (no coordinated omission).

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    sync::Notify,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use crate::{
    exchange::{Wants, answer_buffer, exchange},
    load::{Outcome, in_time, open},
    window::Window,
};

/// `per_second` requests for `time`, over `connections` that stay.
pub async fn at_rate(
    to: SocketAddr,
    per_second: u32,
    connections: usize,
    time: Duration,
    window: &mut Window,
) -> Outcome {
    let mut sum = open(to, connections).await;
    let streams = std::mem::take(&mut sum.standing);
    window.begin();
    sum.add(Box::pin(drive(streams, per_second, time)).await);
    window.end();
    sum
}

/// Requests that are due and on no connection yet.
#[derive(Default)]
struct Due {
    times: Mutex<VecDeque<Instant>>,
    more: Notify,
    over: AtomicBool,
}

async fn drive(streams: Vec<TcpStream>, per_second: u32, time: Duration) -> Outcome {
    let due = Arc::new(Due::default());
    let mut workers: JoinSet<Outcome> =
        streams.into_iter().map(|stream| work(stream, Arc::clone(&due))).map(Box::pin).collect();
    let mut sum = Outcome::default();
    let ticking = Arc::clone(&due);
    if let Err(error) = spawn_blocking(move || tick(&ticking, per_second, time)).await {
        sum.failed(&io::Error::other(error));
    }
    due.over.store(true, Relaxed);
    due.more.notify_waiters();
    let end = Instant::now() + DRAIN;
    while let Ok(Some(ended)) =
        timeout(end.saturating_duration_since(Instant::now()), workers.join_next()).await
    {
        match ended {
            Ok(outcome) => sum.add(outcome),
            Err(error) => sum.failed(&io::Error::other(error)),
        }
    }
    let left = due.lock().len() + workers.len();
    if left > 0 {
        sum.errors += left as u64;
        sum.first_error
            .get_or_insert_with(|| format!("{left} requests unanswered {DRAIN:?} after the last was due"));
    }
    sum
}

/// Puts each request into the queue when it is due. From a thread that sleeps: tokio's timer has steps of 1 ms.
fn tick(due: &Due, per_second: u32, time: Duration) {
    let period = Duration::from_secs(1) / per_second;
    let begun = Instant::now();
    let (end, mut next) = (begun + time, begun + period);
    while next < end {
        sleep(next.saturating_duration_since(Instant::now()));
        while next < end && next <= Instant::now() {
            due.lock().push_back(next);
            due.more.notify_one();
            next += period;
        }
    }
}

async fn work(mut stream: TcpStream, due: Arc<Due>) -> Outcome {
    let mut outcome = Outcome::default();
    let request = Wants::KeepAlive.request();
    let mut answer = answer_buffer();
    loop {
        let Some(since) = due.next().await else { break };
        let ended = in_time(exchange(&mut stream, &request, &mut answer)).await;
        let failed = ended.is_err();
        outcome.count(ended, since);
        if failed {
            break;
        }
    }
    outcome.standing.push(stream);
    outcome
}

impl Due {
    /// `None`: no more will come.
    async fn next(&self) -> Option<Instant> {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable(); // before the look, or the last call could come in between
            if let Some(due) = self.lock().pop_front() {
                return Some(due);
            }
            if self.over.load(Relaxed) {
                return None;
            }
            more.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After the last request was due, for its answer.
const DRAIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_none_is_lost() {
        let due = Due::default();
        tick(&due, 2_000, Duration::from_millis(250));
        assert_eq!(due.lock().len(), 499);
    }
}
