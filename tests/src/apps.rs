//! The apps of the tests: small servers that speak plain TCP and count what reached them.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use signet_core::drain::Drain;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A running server; dropping it closes its listener and its connections.
pub struct App {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    /// Connections live until this is dropped.
    _life: watch::Sender<()>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
    start: Mutex<Vec<u8>>,
    requests: Mutex<BTreeMap<String, u64>>,
}

/// What an app does with a connection.
#[derive(Clone, Debug)]
pub enum Does {
    /// Sends back what it gets, until its client ends.
    Echo,
    /// Speaks first, then echoes: SMTP, MySQL and the like.
    Greet(&'static [u8]),
    /// Takes everything, then answers with the number of bytes in decimal.
    Sink,
    /// Sends this many bytes of [`pattern`] and ends.
    Source(u64),
    /// Answers each HTTP/1.1 GET with this body, and counts each path.
    Http(String),
    /// Takes connections and nothing else.
    Stall,
}

impl App {
    pub async fn start(address: SocketAddr, does: Does) -> io::Result<Self> {
        Self::serve(TcpListener::bind(address).await?, does)
    }

    /// The same on a listener of somewhere else, e.g. of a pod's network namespace.
    pub fn serve(listener: TcpListener, does: Does) -> io::Result<Self> {
        let (life, over) = watch::channel(());
        let app = Self { address: listener.local_addr()?, counts: Arc::default(), _life: life };
        let (drain, counts) = (Drain::new(), Arc::clone(&app.counts));
        let (spawner, mut listening) = (drain.clone(), over.clone());
        drain.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    _ = listening.changed() => return, // only ever because the app was dropped
                    accepted = listener.accept() => accepted,
                };
                let Ok((connection, _)) = accepted else { continue };
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let (does, counts, mut over) = (does.clone(), Arc::clone(&counts), over.clone());
                spawner.spawn(async move {
                    tokio::select! {
                        _ = over.changed() => {}
                        _ = serve(connection, does, &counts) => {} // how it ended is the client's to judge
                    }
                });
            }
        });
        Ok(app)
    }

    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Bytes that clients sent.
    pub fn received(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// The first bytes that any client sent, to show what should not have arrived.
    pub fn received_first(&self) -> Vec<u8> {
        self.counts.start.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// HTTP path -> how often it was asked for.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.counts.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(mut connection: TcpStream, does: Does, counts: &Counts) -> io::Result<()> {
    connection.set_nodelay(true)?;
    match does {
        Does::Echo => echo(connection, counts).await,
        Does::Greet(greeting) => {
            connection.write_all(greeting).await?;
            echo(connection, counts).await
        }
        Does::Sink => sink(connection, counts).await,
        Does::Source(bytes) => source(connection, bytes).await,
        Does::Http(body) => http(connection, &body, counts).await,
        Does::Stall => std::future::pending().await,
    }
}

async fn echo(mut connection: TcpStream, counts: &Counts) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return connection.shutdown().await,
            length => {
                counts.took(&buffer[..length]);
                connection.write_all(&buffer[..length]).await?;
            }
        }
    }
}

async fn sink(mut connection: TcpStream, counts: &Counts) -> io::Result<()> {
    let (mut buffer, mut total) = (vec![0; PIECE], 0);
    loop {
        match connection.read(&mut buffer).await? {
            0 => break,
            length => {
                counts.took(&buffer[..length]);
                total += length;
            }
        }
    }
    connection.write_all(total.to_string().as_bytes()).await?;
    connection.shutdown().await
}

async fn source(mut connection: TcpStream, bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let piece = pattern(at, usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE));
        connection.write_all(&piece).await?;
        at += piece.len() as u64;
    }
    connection.shutdown().await
}

/// `length` bytes of a stream from offset `at` on, different enough that a lost, doubled or moved piece shows.
pub fn pattern(at: u64, length: usize) -> Vec<u8> {
    (at..).take(length).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

async fn http(connection: TcpStream, body: &str, counts: &Counts) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    loop {
        let Some(head) = request_head(&mut connection).await? else { return connection.shutdown().await };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        counts.took(head.as_bytes());
        *counts.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(path).or_default() += 1;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        connection.write_all(answer.as_bytes()).await?;
    }
}

/// Up to the empty line; None at the end of the connection.
async fn request_head(connection: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

impl Counts {
    fn took(&self, piece: &[u8]) {
        self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        let room = SHOWN.saturating_sub(start.len()).min(piece.len());
        start.extend_from_slice(&piece[..room]);
    }
}

/// One read or write.
const PIECE: usize = 64 * 1024;
/// Bytes kept for [`App::received_first`].
const SHOWN: usize = 1024;
