//! The wiretap: a TCP forwarder in the path between two pods that records every byte both ways, and changes none.
//!
//! It stands on the pod's address; what it forwards to stands behind it. It dials from the client's address, as a wire
//! would, so the server sees who calls.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use signet_core::drain::Drain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
    time::timeout,
};

/// A running wiretap; clones share the record.
#[derive(Clone)]
pub(super) struct Tap {
    marker: Arc<[u8]>,
    seen: Arc<Mutex<BTreeMap<IpAddr, Seen>>>,
}

/// What one client address said and heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) connections: u64,
    pub(super) sent: Record,
    pub(super) received: Record,
}

/// One direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// All that passed; every one of them was searched.
    pub(super) bytes: u64,
    /// How many times the marker passed in the clear.
    pub(super) marker: u64,
    /// Of the first connection, from its first byte: at most [`KEPT`].
    pub(super) first: Vec<u8>,
}

impl Tap {
    /// Records what goes from `listener` to `onward`, and looks for `marker` in it.
    pub(super) fn start(listener: TcpListener, onward: SocketAddr, marker: &str, drain: &Drain) -> Self {
        let tap = Self { marker: marker.as_bytes().into(), seen: Arc::default() };
        let (recorder, tasks) = (tap.clone(), drain.clone());
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        drain.spawn(async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let (stream, client) = tokio::select! {
                    biased;
                    () = tasks.stopping() => return,
                    accepted = listener.accept() => match accepted {
                        Ok(accepted) => accepted,
                        Err(_) => continue, // that client has gone again
                    },
                };
                let recorder = recorder.clone();
                tasks.spawn(async move {
                    let _ = recorder.carry(stream, client.ip(), onward).await; // the ends see it themselves
                    drop(place);
                });
            }
        });
        tap
    }

    /// What the client at `address` said and heard.
    pub(super) fn seen(&self, address: IpAddr) -> Seen {
        self.lock().get(&address).cloned().unwrap_or_default()
    }

    async fn carry(&self, down: TcpStream, client: IpAddr, onward: SocketAddr) -> io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(client, 0))?;
        let up = timeout(CONNECT, socket.connect(onward)).await??;
        let first = {
            let mut seen = self.lock();
            let seen = seen.entry(client).or_default();
            seen.connections += 1;
            seen.connections == 1
        };
        let ((down_read, down_write), (up_read, up_write)) = (down.into_split(), up.into_split());
        tokio::join!(
            self.copy(down_read, up_write, client, first, |seen| &mut seen.sent),
            self.copy(up_read, down_write, client, first, |seen| &mut seen.received),
        );
        Ok(())
    }

    /// One direction, until its end; a reset ends it too, and is passed on by dropping the other half.
    async fn copy(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        client: IpAddr,
        first: bool,
        side: fn(&mut Seen) -> &mut Record,
    ) {
        let mut search = Search::new(&self.marker);
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let chunk = &buffer[..n];
            {
                let mut seen = self.lock();
                let record = side(seen.entry(client).or_default());
                record.bytes += chunk.len() as u64;
                record.marker += search.feed(chunk);
                if first {
                    let room = KEPT.saturating_sub(record.first.len());
                    record.first.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
            }
            if to.write_all(chunk).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await; // gone already
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner) // counters are whole at any moment
    }
}

/// Counts a marker in a stream, however the stream is cut into pieces.
struct Search<'a> {
    marker: &'a [u8],
    /// The end of what was seen: shorter than the marker.
    tail: Vec<u8>,
}

impl<'a> Search<'a> {
    fn new(marker: &'a [u8]) -> Self {
        Self { marker, tail: Vec::new() }
    }

    fn feed(&mut self, chunk: &[u8]) -> u64 {
        self.tail.extend_from_slice(chunk);
        let found = self.tail.windows(self.marker.len()).filter(|window| *window == self.marker).count();
        let keep = self.tail.len().min(self.marker.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        found as u64
    }
}

/// More than the demo's clients ever open at once.
const CONNECTIONS: usize = 64;
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes kept of each direction: hellos, certificates and some traffic.
pub(super) const KEPT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::apps;

    #[test]
    fn a_marker_is_found_however_it_is_cut() {
        let stream = b"..marker....markermarker.mark";
        for size in 1..stream.len() {
            let mut search = Search::new(b"marker");
            let found: u64 = stream.chunks(size).map(|chunk| search.feed(chunk)).sum();
            assert_eq!(found, 3, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_tap_changes_nothing_and_reads_plaintext_both_ways() {
        let drain = Drain::new();
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let onward = app.local_addr().unwrap();
        apps::serve(app, |line| async move { Ok(format!("{line} {line}")) }, &drain);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tap = Tap::start(listener, onward, "secret", &drain);
        let client = "127.0.0.9".parse().unwrap();
        assert_eq!(apps::call(client, address, "secret").await.unwrap(), "secret secret");
        let seen = tap.seen(client);
        assert_eq!((seen.connections, seen.sent.marker, seen.received.marker), (1, 1, 2));
        assert_eq!(seen.received.first, b"secret secret\n");
        drain.run(Duration::ZERO).await;
    }
}
