//! Moves the app's bytes: between a plain socket and a wire ([`framed`]), or between two plain sockets ([`plain`]).
//!
//! FIN is the only clean end of a direction on the wire. Whatever else ends a connection is a reset to the app: plain
//! sockets carry SO_LINGER 0 from their first moment ([`AppSocket`]), so that even a killed proxy resets them.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use signet_api::wire::Accept;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::timeout,
};

use crate::{
    connections::{Entry, Live},
    frames::{Frame, HEAD, MAX_DATA, Reset},
    refusal::Refusal,
    wire::{FrameReader, FrameWriter, Wire},
};

/// A plain socket that is reset unless [`AppSocket::end`] was called: an app never takes a lost connection for a finished one.
pub struct AppSocket(TcpStream);

impl AppSocket {
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
        Ok(Self(tcp))
    }

    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.0
    }

    /// Hands the socket to TLS, where a frame says the end of a stream and the kernel may send what is left.
    pub fn into_tcp(self) -> io::Result<TcpStream> {
        SockRef::from(&self.0).set_linger(None)?;
        Ok(self.0)
    }

    /// Both directions ended cleanly: the kernel may send what is left and close in peace.
    pub fn end(self) {
        if let Err(error) = SockRef::from(&self.0).set_linger(None) {
            tracing::debug!(%error, "SO_LINGER not unset; the app may see a reset after its last byte");
        }
    }
}

/// What the server side still owes the client before the first byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owes {
    /// ACCEPT, which waits a moment for the app's first data to ride with it.
    Accept,
    Nothing,
}

/// Relays until both directions ended, one failed, or the entry was cut.
/// `app_ended`: the app's end of stream was read already (and its FIN sent).
pub async fn framed(
    mut app: AppSocket,
    mut wire: Wire,
    owes: Owes,
    app_ended: bool,
    entry: &Entry,
) -> Result<(), Refusal> {
    let peer = wire.address;
    entry.carried();
    let live = entry.live();
    let end = {
        let (app_in, app_out) = app.tcp().split();
        let up = async {
            if !app_ended {
                app_to_wire(app_in, &mut wire.frames_out, owes, &live.sent).await?;
            }
            Ok(())
        };
        let down = wire_to_app(&mut wire.frames_in, app_out, peer, &live.received);
        tokio::select! {
            biased;
            why = entry.cut() => Err(why),
            end = async { tokio::try_join!(up, down) } => end.map(|((), ())| ()),
        }
    };
    match end {
        Ok(()) => {
            app.end();
            let _ = timeout(GOODBYE, wire.frames_out.close()).await;
            Ok(())
        }
        Err(why) => {
            drop(app); // reset
            if !matches!(why, Refusal::Lost { .. } | Refusal::PeerReset) {
                let _ = timeout(GOODBYE, wire.frames_out.send(&Frame::Rst(Reset::Aborted))).await;
            }
            Err(why)
        }
    }
}

async fn app_to_wire(
    mut app: ReadHalf<'_>,
    wire: &mut FrameWriter,
    owes: Owes,
    sent: &AtomicU64,
) -> Result<(), Refusal> {
    let lost = |source| Refusal::AppReset { source };
    let mut buffer = vec![0; HEAD + MAX_DATA];
    let mut first = None;
    if owes == Owes::Accept {
        wire.queue(&Frame::Accept(Accept {}));
        match timeout(RIDE, app.read(&mut buffer[HEAD..])).await {
            Ok(read) => first = Some(read.map_err(lost)?),
            Err(_) => flush(wire).await?,
        }
    }
    loop {
        let n = match first.take() {
            Some(n) => n,
            None => app.read(&mut buffer[HEAD..]).await.map_err(lost)?,
        };
        if n == 0 {
            wire.queue(&Frame::Fin);
            return flush(wire).await;
        }
        wire.send_data(&mut buffer, n).await.map_err(peer_gone)?;
        count(sent, n);
    }
}

async fn flush(wire: &mut FrameWriter) -> Result<(), Refusal> {
    wire.flush().await.map_err(peer_gone)
}

/// The reading direction knows more about how the peer went (RST, protocol error): let it speak first.
fn peer_gone(error: io::Error) -> Refusal {
    Refusal::WireWrite { source: error }
}

async fn wire_to_app(
    wire: &mut FrameReader,
    mut app: WriteHalf<'_>,
    peer: std::net::SocketAddr,
    received: &AtomicU64,
) -> Result<(), Refusal> {
    let lost = |source| Refusal::AppReset { source };
    loop {
        match wire.next().await.map_err(|error| error.refusal(peer))? {
            Some(Frame::Data(payload)) => {
                let n = payload.len();
                app.write_all(payload).await.map_err(lost)?;
                count(received, n);
            }
            Some(Frame::Fin) => return app.shutdown().await.map_err(lost),
            Some(Frame::Rst(_)) => return Err(Refusal::PeerReset),
            Some(Frame::GoAway(_)) => {} // this stream was accepted and runs on
            Some(Frame::Open(_) | Frame::Accept(_)) => {
                return Err(Refusal::Protocol { peer, why: "OPEN or ACCEPT inside a stream".into() });
            }
            None => return Err(Refusal::Lost { peer, source: io::ErrorKind::UnexpectedEof.into() }),
        }
    }
}

/// Relays plaintext as it is. `first`: bytes already read from `a`. A direction's end is passed on as one; an error resets
/// the other side.
pub async fn plain(mut a: AppSocket, mut b: AppSocket, first: &[u8], entry: &Entry) -> Result<(), Refusal> {
    entry.carried();
    let live = entry.live();
    let (a_counts, b_counts) = (&live.received, &live.sent);
    let end = {
        let (mut a_in, mut a_out) = a.tcp().split();
        let (mut b_in, mut b_out) = b.tcp().split();
        let forth = async {
            b_out.write_all(first).await?;
            count(a_counts, first.len());
            copy(&mut a_in, &mut b_out, a_counts).await
        };
        let back = copy(&mut b_in, &mut a_out, b_counts);
        tokio::select! {
            biased;
            why = entry.cut() => Err(why),
            end = async { tokio::try_join!(forth, back) } => end.map(|((), ())| ()).map_err(|source| Refusal::AppReset { source }),
        }
    };
    if end.is_ok() {
        a.end();
        b.end();
    }
    end
}

async fn copy(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, counter: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; MAX_DATA];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        count(counter, n);
    }
}

fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

/// Used by the opening client, which counts what it replays only once.
pub fn count_sent(live: &Live, n: usize) {
    count(&live.sent, n);
}

/// ACCEPT waits so long for the app's first data; a guess that a fast server beats, and no one notices.
const RIDE: Duration = Duration::from_millis(1);
/// For the last frame or close_notify to a peer that may not be reading.
const GOODBYE: Duration = Duration::from_secs(1);
