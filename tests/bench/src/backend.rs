//! The app behind every system: one thread of its own on the server's side.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime,
    task::JoinSet,
};

use crate::{
    exchange::{ANSWER, REQUEST, Wants},
    net::{Net, address},
    side::Side,
};

/// Where proxies reach it, and where the load generator does without any.
pub fn behind_proxies() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PORT))
}

pub fn direct() -> SocketAddr {
    SocketAddr::new(address(2), PORT)
}

/// Starts it; it ends with the bench.
pub fn start(net: &Net) -> Result<()> {
    let listeners = net.within(Side::Server, || -> Result<_> {
        [behind_proxies(), direct()].into_iter().map(bind).collect::<Result<Vec<_>>>()
    })??;
    net.background(Side::Server, move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let served = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(serve(listeners)));
        if let Err(error) = served {
            crate::say(&format!("the backend has ended: {error:#}"));
        }
    })
}

pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    // A runtime, because tokio's socket is the one that takes a backlog.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("listen on {address}"))?;
    Ok(socket.listen(BACKLOG)?.into_std()?)
}

async fn serve(listeners: Vec<std::net::TcpListener>) -> Result<()> {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        serving.spawn(answer(stream));
                    },
                    Some(_) = serving.join_next() => {} // the client sees the error; here it would count twice
                }
            }
        });
    }
    accepting.join_next().await;
    Ok(())
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    loop {
        if stream.read(&mut request[..1]).await? == 0 {
            return Ok(());
        }
        stream.read_exact(&mut request[1..]).await?;
        match Wants::parse(&request).ok_or(std::io::ErrorKind::InvalidData)? {
            Wants::KeepAlive => stream.write_all(&ANSWER).await?,
            Wants::Close => return stream.write_all(&ANSWER).await,
            Wants::Down(bytes) => return send(&mut stream, bytes).await,
            Wants::Up(bytes) => {
                receive(&mut stream, bytes).await?;
                return stream.write_all(&ANSWER).await;
            }
        }
    }
}

/// Writes `bytes` zeros.
pub async fn send(stream: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    let chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        stream.write_all(&chunk[..now]).await?;
        left -= now as u64;
    }
    Ok(())
}

/// Reads exactly `bytes`.
pub async fn receive(stream: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let room = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let read = stream.read(&mut chunk[..room]).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left -= read as u64;
    }
    Ok(())
}

const PORT: u16 = 8080;
const BACKLOG: u32 = 16_384;
/// What an app that means bulk reads and writes at once.
const CHUNK: usize = 256 * 1024;
