//! The origin behind every edge: HTTP/1.1 in plaintext, connections that stay, 1 KiB each; one thread of its own on the server's
//! side. It counts what it answers, so that every sample can say that each request came here, once.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime,
    task::JoinSet,
};

use crate::{
    backend,
    exchange::ANSWER,
    net::{Net, address},
    side::Side,
};

pub struct Origin {
    answered: Arc<AtomicU64>,
}

/// Where edges reach it, and where the load generator does without any.
pub fn at() -> SocketAddr {
    SocketAddr::new(address(2), PORT)
}

impl Origin {
    /// Starts it; it ends with the bench.
    pub fn start(net: &Net) -> Result<Self> {
        let listener = net.within(Side::Server, || backend::bind(at()))??;
        let answered = Arc::<AtomicU64>::default();
        let count = Arc::clone(&answered);
        net.background(Side::Server, move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let served = runtime.and_then(|runtime| runtime.block_on(serve(listener, count)));
            if let Err(error) = served {
                crate::say(&format!("the origin has ended: {error:#}"));
            }
        })?;
        Ok(Self { answered })
    }

    /// Requests so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }
}

async fn serve(listener: std::net::TcpListener, answered: Arc<AtomicU64>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                serving.spawn(answer(stream, Arc::clone(&answered)));
            },
            Some(_) = serving.join_next() => {} // the client sees the error; here it would count twice
        }
    }
}

async fn answer(mut stream: TcpStream, answered: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut asked = Vec::with_capacity(HEAD);
    loop {
        while let Some(end) = asked.windows(4).position(|four| four == b"\r\n\r\n") {
            if !asked.starts_with(b"GET /1k HTTP/1.1\r\n") {
                return Err(io::ErrorKind::InvalidData.into());
            }
            asked.drain(..end + 4);
            answered.fetch_add(1, Relaxed); // before the answer: who has that finds it counted
            stream.write_all(&ANSWER).await?;
        }
        if asked.len() > HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(&mut asked).await? == 0 {
            return Ok(());
        }
    }
}

/// With everything that an edge adds.
const HEAD: usize = 4096;
/// Below the ephemeral ports of [`crate::net`].
pub const PORT: u16 = 8000;
