//! An HTTP/1.1 origin that shows what it was asked: each answer's body is the request's head as it came. `/slow` sends half of its
//! body and waits to be told.

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

/// A running one; dropping it lets it run on until the test ends.
pub struct Mirror {
    go: watch::Sender<bool>,
    requests: Arc<AtomicU64>,
}

impl Mirror {
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (drain, (go, told), requests) =
            (Drain::new(), watch::channel(false), Arc::<AtomicU64>::default());
        let (work, count) = (drain.clone(), Arc::clone(&requests));
        drain.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (told, count) = (told.clone(), Arc::clone(&count));
                work.spawn(async move { drop(answer(tcp, told, &count).await) });
            }
        });
        Ok(Self { go, requests })
    }

    /// Lets every `/slow` end.
    pub fn go(&self) {
        self.go.send_replace(true);
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

async fn answer(mut tcp: TcpStream, mut told: watch::Receiver<bool>, requests: &AtomicU64) -> io::Result<()> {
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
        requests.fetch_add(1, Relaxed);
        let head: Vec<u8> = bytes.drain(..end + 4).collect();
        let length = head.len();
        if head.starts_with(b"GET /slow ") {
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst").await?;
            let _ = told.wait_for(|told| *told).await;
            tcp.write_all(b"-last").await?;
        } else {
            tcp.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await?;
            tcp.write_all(&head).await?;
        }
    }
}
