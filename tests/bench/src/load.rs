//! The load generator: one thread on the client's side, the same for every system.
//!
//! Closed loops (each connection sends again when it was answered) serve to count CPU time per exchange; their latencies
//! say little. [`crate::open_loop`] measures latency.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    task::JoinSet,
    time::timeout,
};

use crate::{
    backend,
    exchange::{Wants, answer_buffer, exchange, read_answer},
    net::Net,
    side::Side,
    window::Window,
};

/// How a load went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Exchanges that came back whole.
    pub done: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Of each exchange; in no order.
    pub microseconds: Vec<u32>,
    /// Connections that stand at the end; closing them is no part of the load.
    pub standing: Vec<TcpStream>,
}

impl Outcome {
    pub fn add(&mut self, other: Self) {
        self.done += other.done;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.microseconds.extend(other.microseconds);
        self.standing.extend(other.standing);
    }

    pub fn count(&mut self, ended: io::Result<()>, since: Instant) {
        match ended {
            Ok(()) => {
                self.done += 1;
                self.microseconds.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Err(error) => self.failed(&error),
        }
    }

    pub fn failed(&mut self, error: &io::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }
}

/// Runs `load` on the client's side. Connections that stand at its end are closed.
pub fn run<F: Future<Output = Outcome>>(net: &Net, load: impl FnOnce() -> F + Send) -> Result<Outcome> {
    net.within(Side::Client, || -> Result<Outcome> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let mut outcome = runtime.block_on(Box::pin(load()));
        outcome.standing.clear();
        Ok(outcome)
    })?
}

/// `connections` that each send the next request when the last was answered.
pub async fn keep_alive(to: SocketAddr, connections: usize, time: Duration, window: &mut Window) -> Outcome {
    let mut sum = open(to, connections).await;
    let streams = std::mem::take(&mut sum.standing);
    window.begin();
    let end = Instant::now() + time;
    sum.add(all(streams.into_iter().map(|stream| one_keeps_alive(stream, end))).await);
    window.end();
    sum
}

/// So many connections that stand and were answered once. A failure is an error; an answer is not counted.
pub async fn open(to: SocketAddr, connections: usize) -> Outcome {
    all((0..connections).map(|_| async move {
        let mut outcome = Outcome::default();
        match greet(to).await {
            Ok(stream) => outcome.standing.push(stream),
            Err(error) => outcome.failed(&error),
        }
        outcome
    }))
    .await
}

/// A connection that was answered once.
pub async fn greet(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = dial(to).await?;
    in_time(exchange(&mut stream, &Wants::KeepAlive.request(), &mut answer_buffer())).await?;
    Ok(stream)
}

async fn one_keeps_alive(mut stream: TcpStream, end: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    let request = Wants::KeepAlive.request();
    let mut answer = answer_buffer();
    while Instant::now() < end {
        let begun = Instant::now();
        let ended = in_time(exchange(&mut stream, &request, &mut answer)).await;
        let failed = ended.is_err();
        outcome.count(ended, begun);
        if failed {
            break;
        }
    }
    outcome.standing.push(stream);
    outcome
}

/// `at_once` clients that take a new connection for each request; the server closes it.
pub async fn new_connections(to: SocketAddr, at_once: usize, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    all((0..at_once).map(|_| async move {
        let mut outcome = Outcome::default();
        while Instant::now() < end && outcome.errors < TOO_MANY {
            let begun = Instant::now();
            outcome.count(in_time(once(to)).await, begun);
        }
        outcome
    }))
    .await
}

/// One new connection to each of `to`, `at_once` at a time.
pub async fn each_once(to: Vec<SocketAddr>, at_once: usize) -> Outcome {
    let (to, next) = (Arc::new(to), Arc::new(AtomicUsize::new(0)));
    all((0..at_once).map(|_| {
        let (to, next) = (Arc::clone(&to), Arc::clone(&next));
        async move {
            let mut outcome = Outcome::default();
            while let Some(to) = to.get(next.fetch_add(1, Relaxed))
                && outcome.errors < TOO_MANY
            {
                let begun = Instant::now();
                outcome.count(in_time(once(*to)).await, begun);
            }
            outcome
        }
    }))
    .await
}

/// `streams` at once, each with `bytes` down or up.
pub async fn bulk(to: SocketAddr, streams: usize, wants: Wants) -> Outcome {
    all((0..streams).map(|_| async move {
        let mut outcome = Outcome::default();
        let begun = Instant::now();
        let ended = timeout(BULK, transfer(to, wants)).await;
        outcome.count(ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())), begun);
        outcome
    }))
    .await
}

/// A connection for one exchange, read to its end.
async fn once(to: SocketAddr) -> io::Result<()> {
    let mut stream = dial(to).await?;
    exchange(&mut stream, &Wants::Close.request(), &mut answer_buffer()).await?;
    end_of(&mut stream).await
}

async fn transfer(to: SocketAddr, wants: Wants) -> io::Result<()> {
    let mut stream = dial(to).await?;
    stream.write_all(&wants.request()).await?;
    match wants {
        Wants::Down(bytes) => backend::receive(&mut stream, bytes).await?,
        Wants::Up(bytes) => {
            backend::send(&mut stream, bytes).await?;
            read_answer(&mut stream, &mut answer_buffer()).await?;
        }
        Wants::KeepAlive | Wants::Close => return Err(io::ErrorKind::InvalidInput.into()),
    }
    end_of(&mut stream).await
}

async fn end_of(stream: &mut TcpStream) -> io::Result<()> {
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("bytes after the answer")),
    }
}

pub async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = in_time(TcpStream::connect(to)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub async fn in_time<T>(act: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, act).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Runs them side by side and adds them up.
pub async fn all<F>(loads: impl Iterator<Item = F>) -> Outcome
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut running: JoinSet<Outcome> = loads.map(Box::pin).collect();
    let mut sum = Outcome::default();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(outcome) => sum.add(outcome),
            Err(error) => sum.failed(&io::Error::other(error)),
        }
    }
    sum
}

/// For one exchange: longer than any system needs when it works.
const DEADLINE: Duration = Duration::from_secs(10);
/// For 1 GiB.
const BULK: Duration = Duration::from_secs(60);
/// Failures of one client before it gives up: a system that refuses everything would be hammered.
const TOO_MANY: u64 = 10;
