//! What the apps of the tests do as clients, always from an address of their own and always with a deadline.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use signet_core::drain::Drain;
use signet_link::client::connect_from;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// Sends `bytes`, ends its side, and returns everything that came back. A reset is an error, an end is not.
pub async fn exchange(from: IpAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    within(async {
        let mut connection = connect_from(Some(from), to).await?;
        connection.write_all(bytes).await?;
        connection.shutdown().await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        Ok(answer)
    })
    .await
}

/// A connection that stays open, for what comes later.
pub async fn dial(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    within(connect_from(Some(from), to)).await
}

/// Sends `bytes` over a live connection to an echo and reads them back.
pub async fn ping(connection: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    within(async {
        connection.write_all(bytes).await?;
        let mut answer = vec![0; bytes.len()];
        connection.read_exact(&mut answer).await?;
        if answer == bytes {
            Ok(())
        } else {
            Err(io::Error::other(format!("sent {bytes:?}, got {answer:?}")))
        }
    })
    .await
}

/// GET over TCP, e.g. a proxy's admin port: status and body.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    within(async { ask(TcpStream::connect(address).await?, "GET", path).await }).await
}

/// GET or POST over a Unix socket, e.g. the controller's.
pub async fn ask_unix(socket: &Path, method: &str, path: &str) -> io::Result<(u16, String)> {
    within(async { ask(UnixStream::connect(socket).await?, method, path).await }).await
}

async fn ask<S>(stream: S, method: &str, path: &str) -> io::Result<(u16, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = hyper::Request::builder().method(method).uri(path).header("host", "signet");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await, // closed behind the answer, which is still to be read
            Err(error) => Err(io::Error::other(format!("connection ended before the answer: {error}"))),
        },
    }
}

async fn within<T>(act: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, act).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Requests at a steady rate, whatever the answers do (open loop): each a new connection to an echo, with words of its own.
pub struct Load {
    drain: Drain,
    counts: Arc<LoadCounts>,
    begun: Instant,
}

#[derive(Default)]
struct LoadCounts {
    sent: AtomicU64,
    answered: AtomicU64,
    failed: Mutex<Vec<(Duration, String)>>,
}

/// How a [`Load`] went.
#[derive(Debug)]
pub struct LoadReport {
    pub took: Duration,
    pub sent: u64,
    pub answered: u64,
    /// When after the start, and how. The first [`FAILURES_KEPT`].
    pub failed: Vec<(Duration, String)>,
}

impl Load {
    pub fn start(from: IpAddr, to: SocketAddr, per_second: u32) -> Self {
        let load = Self { drain: Drain::new(), counts: Arc::default(), begun: Instant::now() };
        let (drain, counts, begun) = (load.drain.clone(), Arc::clone(&load.counts), load.begun);
        load.drain.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / per_second);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst); // the rate is a promise, also after a hiccup
            loop {
                tokio::select! {
                    biased;
                    () = drain.stopping() => return,
                    _ = ticks.tick() => {}
                }
                let number = counts.sent.fetch_add(1, Ordering::Relaxed);
                let counts = Arc::clone(&counts);
                drain.spawn(async move {
                    let words = format!("request {number}");
                    let at = begun.elapsed();
                    match exchange(from, to, words.as_bytes()).await {
                        Ok(answer) if answer == words.as_bytes() => {
                            counts.answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) => {
                            counts.failure(at, format!("sent {words:?}, got {} bytes", answer.len()))
                        }
                        Err(error) => counts.failure(at, error.to_string()),
                    }
                });
            }
        });
        load
    }

    /// Sends no more, waits for what is on its way, and tells.
    pub async fn stop(self) -> LoadReport {
        let took = self.begun.elapsed();
        self.drain.run(DEADLINE).await;
        LoadReport {
            took,
            sent: self.counts.sent.load(Ordering::Relaxed),
            answered: self.counts.answered.load(Ordering::Relaxed),
            failed: self.counts.failed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl LoadCounts {
    fn failure(&self, at: Duration, why: String) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() < FAILURES_KEPT {
            failed.push((at, why));
        }
    }
}

/// How [`many`] went.
#[derive(Debug, Default)]
pub struct Many {
    pub connections: u64,
    /// Of the app, in each direction.
    pub bytes: u64,
    pub failed: Vec<String>,
}

/// Short connections to an echo, `at_a_time`, each with bytes of its own, until `at_least` so many were made and `meanwhile` is
/// over.
pub async fn many(
    from: IpAddr,
    to: SocketAddr,
    at_a_time: usize,
    at_least: u64,
    meanwhile: impl Future<Output = ()>,
) -> Many {
    let (over, made) = (AtomicBool::new(false), Mutex::new(Many::default()));
    let worker = async || loop {
        let number = {
            let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
            if made.connections >= at_least && over.load(Ordering::Relaxed) {
                return;
            }
            made.connections += 1;
            made.connections
        };
        let sent = format!("number {number}{}", ".".repeat(usize::try_from(number % 1000).unwrap_or(0)));
        let answer = exchange(from, to, sent.as_bytes()).await;
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        made.bytes += sent.len() as u64;
        match answer {
            Ok(answer) if answer == sent.as_bytes() => {}
            Ok(answer) => made.failed.push(format!("number {number} got {} other bytes", answer.len())),
            Err(error) => made.failed.push(format!("number {number}: {error}")),
        }
    };
    let workers = join_all((0..at_a_time).map(|_| worker()));
    let meanwhile = async {
        meanwhile.await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(workers, meanwhile);
    made.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Longer than any promise about a single connection.
const DEADLINE: Duration = Duration::from_secs(15);
/// Enough to see a pattern in.
const FAILURES_KEPT: usize = 100;
