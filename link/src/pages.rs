//! A listener for the few pages that a part shows on the pod's network: strangers reach it, so each connection has a place of
//! its own and an end. It serves axum.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tracing::debug;

use crate::listen::{Place, Places, accept};

/// Accepts within limits: what is above them is closed.
pub struct Pages {
    listener: TcpListener,
    places: Arc<Places>,
}

impl Pages {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, places: Places::new(MOST, PER_SOURCE) }
    }
}

impl axum::serve::Listener for Pages {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            let (tcp, from) = accept(&self.listener).await;
            match Places::take(&self.places, from.ip()) {
                Some(place) => return (Visit { tcp, end: Box::pin(sleep(LIFE)), _place: place }, from),
                None => debug!(%from, "connection to the pages closed: too many are open"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection; it ends after [`LIFE`], whatever it does.
pub struct Visit {
    tcp: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Place,
}

impl Visit {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "not done in time")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A kubelet and a few scrapers; the process has descriptors for many times that.
const MOST: usize = 256;
const PER_SOURCE: usize = 32;
/// Accept to end. Both pages are answered from memory; a scraper that wants its connection kept makes another.
const LIFE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::JoinSet,
        time::{Instant, timeout},
    };

    use super::*;

    /// Served as long as the set lives.
    async fn pages() -> (SocketAddr, JoinSet<io::Result<()>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/ready", get(|| async { "ready\n" }));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(Pages::new(listener), routes).await });
        (address, serving)
    }

    /// What comes until the other side ends it.
    async fn rest(tcp: &mut TcpStream) -> String {
        let mut text = Vec::new();
        let _ = timeout(LIFE * 10, tcp.read_to_end(&mut text)).await.expect("it ends");
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn one_source_holds_so_many_connections_and_no_more_and_who_leaves_makes_room() {
        let (address, _serving) = pages().await;
        let mut held = Vec::new();
        for _ in 0..PER_SOURCE {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            tcp.read_exact(&mut [0; 15]).await.unwrap(); // answered, and kept
            held.push(tcp);
        }
        let mut more = TcpStream::connect(address).await.unwrap();
        assert_eq!(rest(&mut more).await, "", "closed");
        held.clear();
        let answered = async {
            loop {
                let mut tcp = TcpStream::connect(address).await.unwrap();
                let asked =
                    tcp.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
                if asked.is_ok() && rest(&mut tcp).await.ends_with("ready\n") {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(10), answered).await.expect("there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_or_half_a_request_ends() {
        let (address, _serving) = pages().await;
        for words in ["", "GET /ready HT"] {
            let began = Instant::now();
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(words.as_bytes()).await.unwrap();
            rest(&mut tcp).await;
            assert!(began.elapsed() <= LIFE * 2, "{words:?}");
        }
    }
}
