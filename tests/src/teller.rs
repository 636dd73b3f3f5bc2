//! An HTTP/1.1 origin that answers when the test says so, and counts what goes on:
//! `/events` is an event stream with one event for each [`Teller::tell`], until [`Teller::end`];
//! `/flood/<bytes>` is that much, as quickly as it is taken; `/silent` is no answer; `/half` is half of one;
//! `/count` is how many bytes of body the request had; everything else is 200 with the origin's name.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use signet_core::drain::Drain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::apps::pattern;

/// A running one; ends with the test.
pub struct Teller(Arc<Shared>);

struct Shared {
    name: &'static str,
    told: watch::Sender<Told>,
    counts: Counts,
}

#[derive(Clone, Copy, Default)]
struct Told {
    events: u64,
    over: bool,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    /// Event streams that are open.
    streams: AtomicU64,
    /// Bytes of floods that the kernel took.
    flooded: AtomicU64,
    /// Bytes of bodies.
    received: AtomicU64,
}

impl Teller {
    pub async fn start(address: SocketAddr, name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let shared =
            Arc::new(Shared { name, told: watch::Sender::new(Told::default()), counts: Counts::default() });
        let (drain, all) = (Drain::new(), Arc::clone(&shared));
        let work = drain.clone();
        drain.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let shared = Arc::clone(&all);
                work.spawn(async move { drop(Box::pin(answer(tcp, &shared)).await) });
            }
        });
        Ok(Self(shared))
    }

    /// One more event on every stream.
    pub fn tell(&self) {
        self.0.told.send_modify(|told| told.events += 1);
    }

    /// Every event stream ends behind what it was told.
    pub fn end(&self) {
        self.0.told.send_modify(|told| told.over = true);
    }

    pub fn requests(&self) -> u64 {
        self.0.counts.requests.load(Relaxed)
    }

    pub fn streams(&self) -> u64 {
        self.0.counts.streams.load(Relaxed)
    }

    pub fn flooded(&self) -> u64 {
        self.0.counts.flooded.load(Relaxed)
    }

    pub fn received(&self) -> u64 {
        self.0.counts.received.load(Relaxed)
    }
}

async fn answer(mut tcp: TcpStream, shared: &Shared) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            let mut more = [0; 4096];
            match tcp.read(&mut more).await? {
                0 => return Ok(()),
                n => bytes.extend_from_slice(&more[..n]),
            }
            continue;
        };
        shared.counts.requests.fetch_add(1, Relaxed);
        let head: Vec<u8> = bytes.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path.split_once("/flood/") {
            Some((_, length)) => flood(&mut tcp, length.parse().map_err(io::Error::other)?, shared).await?,
            None if path == "/events" => events(&mut tcp, shared).await?,
            None if path == "/silent" => {
                tcp.read_u8().await?;
            }
            None if path == "/half" => {
                tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst").await?;
                tcp.read_u8().await?;
            }
            None if path == "/count" => {
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let all = count(&mut tcp, &mut bytes, length.unwrap_or(0), shared).await?;
                say(&mut tcp, &all.to_string()).await?;
            }
            None => say(&mut tcp, shared.name).await?,
        }
    }
}

async fn say(tcp: &mut TcpStream, words: &str) -> io::Result<()> {
    tcp.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{words}", words.len()).as_bytes())
        .await
}

async fn events(tcp: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    shared.counts.streams.fetch_add(1, Relaxed);
    let sent = async {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        tcp.write_all(head.as_bytes()).await?;
        let (mut told, mut sent) = (shared.told.subscribe(), 0);
        loop {
            let Told { events, over } = *told.borrow_and_update();
            while sent < events {
                sent += 1;
                let event = format!("data: {sent}\n\n");
                tcp.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
            }
            if over {
                return tcp.write_all(b"0\r\n\r\n").await;
            }
            tokio::select! {
                changed = told.changed() => changed.map_err(io::Error::other)?,
                gone = tcp.readable() => {
                    gone?;
                    match tcp.try_read(&mut [0; 16]) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        other => return Err(io::Error::other(format!("{other:?} behind a request"))),
                    }
                }
            }
        }
    }
    .await;
    shared.counts.streams.fetch_sub(1, Relaxed);
    sent
}

async fn flood(tcp: &mut TcpStream, length: u64, shared: &Shared) -> io::Result<()> {
    tcp.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await?;
    let mut at = 0;
    while at < length {
        let piece = pattern(at, usize::try_from(length - at).unwrap_or(usize::MAX).min(PIECE));
        tcp.write_all(&piece).await?;
        at += piece.len() as u64;
        shared.counts.flooded.fetch_add(piece.len() as u64, Relaxed);
    }
    Ok(())
}

async fn count(tcp: &mut TcpStream, bytes: &mut Vec<u8>, length: u64, shared: &Shared) -> io::Result<u64> {
    let mut all = bytes.len() as u64;
    shared.counts.received.fetch_add(all, Relaxed);
    bytes.clear();
    let mut piece = vec![0; PIECE];
    while all < length {
        match tcp.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                all += n as u64;
                shared.counts.received.fetch_add(n as u64, Relaxed);
            }
        }
    }
    Ok(all)
}

const PIECE: usize = 16 * 1024;
