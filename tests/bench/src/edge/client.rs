//! The load in HTTP/1.1: closed loops on one thread of the client's side, as [`crate::load`] has them.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::{
    edge::offer::{HOST, Offer},
    exchange::{BODY, MARKER},
    load::{Outcome, all, dial, in_time},
    window::Window,
};

/// Who asks, and whom.
#[derive(Clone)]
pub struct Client {
    pub to: SocketAddr,
    /// `None`: plaintext, to the origin itself.
    pub offer: Option<Offer>,
    /// Requests written so far: the origin must have answered as many.
    pub asked: Arc<AtomicU64>,
}

pub type Stream = Either<TcpStream, TlsStream<TcpStream>>;

impl Client {
    pub fn new(to: SocketAddr, offer: Option<Offer>) -> Self {
        Self { to, offer, asked: Arc::default() }
    }

    pub async fn open(&self) -> io::Result<Stream> {
        let tcp = dial(self.to).await?;
        Ok(match &self.offer {
            Some(offer) => Either::Right(in_time(offer.connect(tcp)).await?),
            None => Either::Left(tcp),
        })
    }

    /// One request and its answer, all of it.
    pub async fn exchange(&self, stream: &mut Stream, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.asked.fetch_add(1, Relaxed);
        stream.write_all(&REQUEST).await?;
        stream.flush().await?;
        read_answer(stream, buffer).await
    }

    /// A connection for one exchange, which we close.
    async fn once(&self) -> io::Result<()> {
        let mut stream = self.open().await?;
        in_time(self.exchange(&mut stream, &mut Vec::with_capacity(ROOM))).await?;
        let _ = in_time(async {
            stream.shutdown().await?;
            stream.read(&mut [0]).await
        })
        .await; // how the other side ends what is over is its own business
        Ok(())
    }

    /// A client that resumes, after its first connection; with an `offer` only.
    async fn resuming(&self) -> io::Result<Self> {
        let offer = self.offer.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let (first, others) = offer.resuming();
        let with = |offer| Self { offer: Some(offer), ..self.clone() };
        with(first).once().await?;
        Ok(with(others))
    }
}

/// `connections` that each send the next request when the last was answered.
pub async fn keep_alive(client: Client, connections: usize, time: Duration, window: &mut Window) -> Outcome {
    let (mut sum, mut streams) = (Outcome::default(), Vec::new());
    for _ in 0..connections {
        match greet(&client).await {
            Ok(stream) => streams.push(stream),
            Err(error) => sum.failed(&error),
        }
    }
    window.begin();
    let end = Instant::now() + time;
    sum.add(all(streams.into_iter().map(|stream| one_keeps_alive(client.clone(), stream, end))).await);
    window.end();
    sum
}

async fn greet(client: &Client) -> io::Result<Stream> {
    let mut stream = client.open().await?;
    in_time(client.exchange(&mut stream, &mut Vec::with_capacity(ROOM))).await?;
    Ok(stream)
}

async fn one_keeps_alive(client: Client, mut stream: Stream, end: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    let mut buffer = Vec::with_capacity(ROOM);
    while Instant::now() < end {
        let begun = Instant::now();
        let ended = in_time(client.exchange(&mut stream, &mut buffer)).await;
        let failed = ended.is_err();
        outcome.count(ended, begun);
        if failed {
            break;
        }
    }
    outcome.standing.push(match stream {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.into_inner().0,
    });
    outcome
}

/// `at_once` clients that take a new connection, and so a handshake, for each request; each its own sessions if they resume.
pub async fn handshakes(
    client: Client,
    resuming: bool,
    at_once: usize,
    time: Duration,
    window: &mut Window,
) -> Outcome {
    let (mut sum, mut clients) = (Outcome::default(), Vec::new());
    for _ in 0..at_once {
        match if resuming { client.resuming().await } else { Ok(client.clone()) } {
            Ok(client) => clients.push(client),
            Err(error) => sum.failed(&error),
        }
    }
    window.begin();
    let end = Instant::now() + time;
    sum.add(
        all(clients.into_iter().map(|client| async move {
            let mut outcome = Outcome::default();
            while Instant::now() < end && outcome.errors < TOO_MANY {
                let begun = Instant::now();
                outcome.count(client.once().await, begun);
            }
            outcome
        }))
        .await,
    );
    sum
}

/// As a browser's smallest.
static REQUEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    format!(
        "GET /1k HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: signet-bench\r\naccept: */*\r\nx-marker: {MARKER}\r\n\r\n"
    )
    .into_bytes()
});

/// Reads an answer of 200 with [`BODY`] bytes of `x` and nothing after it.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    loop {
        if let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = &buffer[head + 4..];
            if body.len() >= BODY {
                return judge(&buffer[..head], body).map_err(io::Error::other);
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            let so_far = String::from_utf8_lossy(buffer).chars().take(SHOWN).collect::<String>();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed after {so_far:?}")));
        }
    }
}

fn judge(head: &[u8], body: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    match (status.starts_with("HTTP/1.1 200"), length) {
        (true, Some(Ok(BODY))) if is_body(body) && body.len() == BODY => Ok(()),
        _ => Err(format!(
            "another answer than the origin's: {:?}",
            text.chars().take(SHOWN).collect::<String>()
        )),
    }
}

/// Whether it is a piece of the origin's body.
pub fn is_body(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'x')
}

/// Head and body of an answer, with whatever a proxy adds to it.
const ROOM: usize = 4096;
const SHOWN: usize = 200;
/// Failures of one client before it gives up: a system that refuses everything would be hammered.
const TOO_MANY: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_origins_answer_counts_in_whatever_pieces_it_comes() {
        let answer = |status: &str, length: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nserver: any\r\n{length}\r\n\r\n{body}")
        };
        let (body, length) = ("x".repeat(BODY), format!("Content-Length: {BODY}"));
        for (case, bytes, good) in [
            ("whole", answer("200 OK", &length, &body), true),
            ("a refusal", answer("502 Bad Gateway", &length, &body), false),
            ("another length", answer("200 OK", "content-length: 1023", &body), false),
            ("no length", answer("200 OK", "transfer-encoding: chunked", &body), false),
            ("other bytes", answer("200 OK", &length, &body.replace('x', "y")), false),
            ("more than it said", answer("200 OK", &length, &format!("{body}x")), false),
            ("cut", answer("200 OK", &length, &body[1..]), false),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(500); // so many bytes at a time
            let write = async move { theirs.write_all(bytes.as_bytes()).await }; // and closes
            let mut buffer = Vec::new();
            let (_, read) = tokio::join!(write, read_answer(&mut ours, &mut buffer));
            assert_eq!(read.is_ok(), good, "{case}: {read:?}");
        }
    }
}
