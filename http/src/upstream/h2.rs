//! HTTP/2 to an endpoint: many requests on a connection, as many as the endpoint allows.
//!
//! On `h2` itself, because hyper hides the budget for small frames, without which one slow gRPC client would end the requests
//! of all others on its connection (../shared/crates.md 4).

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, client};
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout};

use super::{After, Answer, Failed, Fate, Way};
use crate::{
    body::{Body, CancelOnDrop, Received, Upload},
    limits::UpstreamLimits,
    refusal::Refusal,
};

/// One connection, and how busy it is.
pub(super) struct Shared {
    sender: client::SendRequest<Bytes>,
    generation: u64,
    use_: Arc<Use>,
}

struct Use {
    active: AtomicUsize,
    /// The connection has ended.
    over: AtomicBool,
    /// When its last stream ended, in milliseconds of its life.
    idle_since: AtomicUsize,
    born: Instant,
}

/// A stream on a connection.
pub(crate) struct Active(Arc<Use>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.age(), Relaxed);
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Use {
    fn age(&self) -> usize {
        usize::try_from(self.born.elapsed().as_millis()).unwrap_or(usize::MAX)
    }
}

impl Shared {
    pub(super) fn is_worth_keeping(&self, generation: u64, limits: &UpstreamLimits) -> bool {
        if self.use_.over.load(Relaxed) {
            return false;
        }
        if self.use_.active.load(Relaxed) > 0 {
            return true; // of another generation, too: its streams end by themselves
        }
        let idle = self.use_.age().saturating_sub(self.use_.idle_since.load(Relaxed));
        self.generation == generation && (idle as u128) < limits.h2_idle.as_millis()
    }

    fn has_room(&self) -> bool {
        self.use_.active.load(Relaxed) < self.sender.current_max_send_streams()
    }
}

pub(super) async fn send(way: &Way<'_>, request: Request<Upload>) -> Result<Answer, Failed> {
    let (parts, upload) = request.into_parts();
    let progress = upload.progress();
    let mut tries = 0;
    let (response, stream, active) = loop {
        let (mut sender, active) = match acquire(way).await {
            Ok(acquired) => acquired,
            Err(refusal) => return Err(Failed::unsent(refusal, Request::from_parts(parts, upload))),
        };
        match sender.send_request(Request::from_parts(parts.clone(), ()), upload.is_empty()) {
            Ok((response, stream)) => break (response, stream, active),
            // It was told to go away in this moment; the next look leaves it out.
            Err(_) if tries == 0 => {
                active.0.over.store(true, Relaxed);
                tries += 1;
            }
            Err(_) => return Err(Failed::unsent(Refusal::BackendLost, Request::from_parts(parts, upload))),
        }
    };
    if !upload.is_empty() {
        way.drain.spawn(async move {
            // Whoever waits for the response hears of a reset; the client's own failing is in the progress.
            let _ = send_body(stream, upload, None).await;
        });
    }
    let mut waiting = CancelOnDrop(Some(Arc::clone(&progress)));
    match way.patiently(&progress, response).await {
        Ok(Ok(response)) => {
            waiting.0 = None;
            Ok(Answer {
                response: response.map(|stream| Body::H2(Received::new(stream))),
                after: After::Stream(active),
            })
        }
        Ok(Err(error)) => Err(failed(&error, progress.failed())),
        Err(refusal) => Err(Failed::sent(refusal, Fate::Sent)),
    }
}

fn failed(error: &h2::Error, client: Option<Refusal>) -> Failed {
    let refused = error.is_remote()
        && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM));
    match client {
        Some(refusal) => Failed::sent(refusal, Fate::Sent),
        None if refused => Failed::sent(Refusal::BackendLost, Fate::Refused),
        None if error.is_library() => {
            Failed::sent(Refusal::BackendBroke("the backend broke HTTP/2"), Fate::Sent)
        }
        None => Failed::sent(Refusal::BackendLost, Fate::Sent),
    }
}

/// A connection with room for a stream: one that is there, or a new one, or the least busy if there are enough.
async fn acquire(way: &Way<'_>) -> Result<(client::SendRequest<Bytes>, Active), Refusal> {
    let generation = way.generation();
    let lock = way.member.pool.h2.lock();
    let mut all = match way.connect {
        // Whoever holds it is connecting: that is our connecting, too.
        Some(limit) => timeout(limit, lock).await.map_err(|_| Refusal::ConnectTimeout)?,
        None => lock.await,
    };
    poll_fn(|cx| {
        all.retain_mut(|shared| {
            !shared.use_.over.load(Relaxed) && !matches!(shared.sender.poll_ready(cx), Poll::Ready(Err(_)))
        });
        Poll::Ready(())
    })
    .await;
    let of_today = |shared: &&Shared| shared.generation == generation;
    let enough = all.iter().filter(of_today).count() >= way.limits.upstream.h2_connections;
    let least = all.iter().filter(of_today).min_by_key(|shared| shared.use_.active.load(Relaxed));
    if let Some(shared) = least.filter(|shared| shared.has_room() || enough) {
        return Ok(shared.take());
    }
    let shared = open(way, generation).await?;
    let taken = shared.take();
    if !way.member.pool.is_closed() {
        all.push(shared);
    }
    Ok(taken)
}

impl Shared {
    fn take(&self) -> (client::SendRequest<Bytes>, Active) {
        self.use_.active.fetch_add(1, Relaxed);
        (self.sender.clone(), Active(Arc::clone(&self.use_)))
    }
}

async fn open(way: &Way<'_>, generation: u64) -> Result<Shared, Refusal> {
    let limits = &way.limits.upstream;
    let stream = way.dial().await?;
    let (sender, connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .data_frame_budget(limits.small_frames)
        .handshake(stream)
        .await
        .map_err(|_| Refusal::BackendLost)?;
    let use_ = Arc::new(Use {
        active: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        idle_since: AtomicUsize::new(0),
        born: Instant::now(),
    });
    let ended = Arc::clone(&use_);
    way.drain.spawn(async move {
        let _ = connection.await; // its streams tell whoever waits
        ended.over.store(true, Relaxed);
    });
    Ok(Shared { sender, generation, use_ })
}

/// Sends a body as the other side makes room for it, and its trailers. `patience`: how long the other side may make none.
/// A body that fails resets the stream, so that nobody takes it for whole.
pub(crate) async fn send_body<B>(
    mut stream: SendStream<Bytes>,
    body: B,
    patience: Option<Duration>,
) -> Result<(), Stopped>
where
    B: http_body::Body<Data = Bytes, Error = Refusal>,
{
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            biased;
            reset = poll_fn(|cx| stream.poll_reset(cx)) => {
                // RFC 9113 8.1: the whole answer was given, the rest is not wanted.
                return if matches!(reset, Ok(Reason::NO_ERROR)) { Ok(()) } else { Err(Stopped) };
            }
            frame = body.frame() => frame,
        };
        match frame {
            None => return stream.send_data(Bytes::new(), true).map_err(|_| Stopped),
            Some(Err(_)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(Stopped);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let over = body.is_end_stream();
                    send_data(&mut stream, data, over, patience).await?;
                    if over {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return stream.send_trailers(trailers).map_err(|_| Stopped);
                    }
                }
            },
        }
    }
}

async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    over: bool,
    patience: Option<Duration>,
) -> Result<(), Stopped> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx));
        let room = match patience {
            Some(patience) => timeout(patience, room).await,
            None => Ok(room.await),
        };
        let room = match room {
            Ok(Some(Ok(room))) => room,
            Ok(_) => return Err(Stopped),
            Err(_) => {
                stream.send_reset(Reason::CANCEL);
                return Err(Stopped);
            }
        };
        let piece = data.split_to(room.min(data.len()));
        let last = over && data.is_empty();
        stream.send_data(piece, last).map_err(|_| Stopped)?;
        if last {
            return Ok(());
        }
    }
    if over { stream.send_data(data, true).map_err(|_| Stopped) } else { Ok(()) }
}

/// The other side wants no more, takes no more, or is gone; or the body broke off.
#[derive(Debug)]
pub(crate) struct Stopped;
