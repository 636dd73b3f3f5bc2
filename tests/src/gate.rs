//! Something in the way: a TCP relay that a test can pause, delay or close, and that remembers what passed.
//!
//! It dials on from the address of whoever came in, so that the far side sees the same source as without it.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_core::drain::Drain;
use signet_link::client::connect_from;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

/// What the gate does with bytes, and with connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passing {
    Open,
    /// Every piece waits this long before it goes on.
    Late(Duration),
    /// Connections are taken, nothing moves.
    Paused,
    /// Those that live are cut, new ones are reset.
    Closed,
}

/// A relay in the way to `to`.
pub struct Gate {
    pub address: SocketAddr,
    passing: watch::Sender<Passing>,
    seen: Arc<Mutex<Vec<u8>>>,
    drain: Drain,
}

impl Gate {
    pub async fn start(listen: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let (passing, watched) = watch::channel(Passing::Open);
        let gate =
            Self { address: listener.local_addr()?, passing, seen: Arc::default(), drain: Drain::new() };
        let (drain, seen) = (gate.drain.clone(), Arc::clone(&gate.seen));
        gate.drain.spawn(async move {
            while let Ok((down, source)) = listener.accept().await {
                let (seen, mut watched) = (Arc::clone(&seen), watched.clone());
                drain.spawn(async move {
                    let mut until_closed = watched.clone();
                    tokio::select! {
                        biased;
                        _ = until_closed.wait_for(|passing| *passing == Passing::Closed) => {}
                        _ = through(down, source, to, &seen, &mut watched) => {}
                    }
                });
            }
        });
        Ok(gate)
    }

    pub fn set(&self, passing: Passing) {
        self.passing.send_replace(passing);
    }

    /// Whether these bytes passed, in either direction; the newest [`REMEMBERED`] are looked at.
    pub fn saw(&self, marker: &[u8]) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.windows(marker.len()).any(|window| window == marker)
    }

    /// How many bytes are remembered: zero means that nothing came this way, and the test proves nothing.
    pub fn passed(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.set(Passing::Closed);
    }
}

async fn through(
    down: TcpStream,
    source: SocketAddr,
    to: SocketAddr,
    seen: &Mutex<Vec<u8>>,
    passing: &mut watch::Receiver<Passing>,
) -> io::Result<()> {
    let up = connect_from(Some(source.ip()), to).await?;
    let (mut down_read, mut down_write) = down.into_split();
    let (mut up_read, mut up_write) = up.into_split();
    let mut also = passing.clone();
    tokio::try_join!(
        copy(&mut down_read, &mut up_write, seen, passing),
        copy(&mut up_read, &mut down_write, seen, &mut also)
    )?;
    Ok(())
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    seen: &Mutex<Vec<u8>>,
    passing: &mut watch::Receiver<Passing>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = from.read(&mut buffer).await?;
        let late = match passing.wait_for(|passing| *passing != Passing::Paused).await.as_deref() {
            Ok(Passing::Late(late)) => *late,
            Ok(_) => Duration::ZERO,
            Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()), // the gate was dropped
        };
        sleep(late).await;
        if length == 0 {
            return to.shutdown().await;
        }
        remember(seen, &buffer[..length]);
        to.write_all(&buffer[..length]).await?;
    }
}

fn remember(seen: &Mutex<Vec<u8>>, piece: &[u8]) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let over = (seen.len() + piece.len()).saturating_sub(REMEMBERED);
    let over = over.min(seen.len());
    seen.drain(..over);
    seen.extend_from_slice(piece);
}

/// Bytes that are searched for markers.
const REMEMBERED: usize = 4 << 20;
/// One read.
const PIECE: usize = 16 * 1024;
