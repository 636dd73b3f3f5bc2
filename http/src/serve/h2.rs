//! HTTP/2 with a client, on `h2` itself (why: `upstream/h2.rs`): a task for each stream, and budgets for what a client may
//! make us do without asking for an answer.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{Request, Response};
use http_body::Body as _;
use signet_core::drain::Drain;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::Speak;
use crate::{
    arrival::Arrival,
    body::{Body, Received},
    engine::Engine,
    exchange::{self, Connection},
    forwarded::Words,
    limits::H2Limits,
    stream::Paced,
    together::{Out, Together, together},
    upstream::send_body,
};

pub(super) struct Http2;

impl Speak for Http2 {
    async fn speak(engine: &Arc<Engine>, stream: Paced, arrival: Arc<Arrival>, drain: &Drain) {
        let _open = engine.metrics.connection("HTTP/2");
        let (stream, out) = together(stream);
        let shake = builder(&engine.limits.h2, engine.limits.head.bytes).handshake(stream);
        let shake = async {
            tokio::select! {
                biased;
                shaken = shake => shaken.ok(),
                _ = poll_fn(|cx| out.flush(cx)) => None,
            }
        };
        let Ok(Some(connection)) = timeout(engine.limits.client.head, shake).await else { return };
        let shared = Arc::new(Shared {
            connection: Connection {
                engine: Arc::clone(engine),
                arrival,
                wire: None,
                words: Words::default(),
            },
            streams: AtomicUsize::new(0),
            resets: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        Box::pin(accept(connection, &out, &shared, drain)).await;
    }
}

/// What the streams of a connection have in common.
struct Shared {
    connection: Connection,
    streams: AtomicUsize,
    /// Streams that the client has given up before they were answered.
    resets: AtomicUsize,
    /// A stream ended.
    changed: Notify,
}

fn builder(limits: &H2Limits, head_bytes: usize) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame)
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(limits.send_buffer)
        .max_local_error_reset_streams(Some(limits.errors))
        .data_frame_budget(limits.small_frames);
    builder
}

async fn accept(
    mut connection: server::Connection<Together, Bytes>,
    out: &Out,
    shared: &Arc<Shared>,
    drain: &Drain,
) {
    let engine = &shared.connection.engine;
    let (limits, began) = (&engine.limits, Instant::now());
    let (mut stopping, mut idle_since) = (false, began);
    loop {
        // Told to go, a client without streams answers a PING and goes; one that does not is left.
        let patience = if stopping { limits.client.drain_idle } else { limits.client.idle };
        tokio::select! {
            biased;
            () = drain.stopping(), if !stopping => {
                (stopping, idle_since) = (true, Instant::now());
                connection.graceful_shutdown();
            }
            next = connection.accept() => match next {
                Some(Ok((request, respond))) => {
                    shared.streams.fetch_add(1, Relaxed);
                    let shared = Arc::clone(shared);
                    drain.spawn(async move {
                        stream(&shared, request, respond).await;
                        shared.streams.fetch_sub(1, Relaxed);
                        shared.changed.notify_one();
                    });
                }
                Some(Err(_)) | None => return, // streams that are left hear of it
            },
            () = shared.changed.notified() => idle_since = Instant::now(),
            () = sleep_until(idle_since + patience), if shared.streams.load(Relaxed) == 0 => {
                if stopping {
                    return;
                }
                (stopping, idle_since) = (true, Instant::now());
                connection.graceful_shutdown();
            }
            // Last: when all of this turn is in it.
            _ = poll_fn(|cx| out.flush(cx)) => return,
        }
        if over_budget(shared, &limits.h2, began) {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
    }
}

/// Rapid reset: more requests given up than anyone who reads the answers does.
fn over_budget(shared: &Shared, limits: &H2Limits, began: Instant) -> bool {
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX);
    let earned = seconds.saturating_mul(limits.resets_per_second as usize);
    shared.resets.load(Relaxed) > earned.saturating_add(limits.resets as usize)
}

async fn stream(shared: &Shared, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let empty = request.body().is_end_stream();
    let request = request.map(|body| if empty { Body::Empty } else { Body::H2(Received::new(body)) });
    let answer = tokio::select! {
        biased;
        answer = exchange::answer(&shared.connection, request) => answer,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => {
            shared.resets.fetch_add(1, Relaxed);
            return;
        }
    };
    let (parts, body) = answer.into_parts();
    let head = Response::from_parts(parts, ());
    let Ok(stream) = respond.send_response(head, body.is_end_stream()) else {
        shared.resets.fetch_add(1, Relaxed);
        return;
    };
    if !body.is_end_stream() {
        let patience = shared.connection.engine.limits.client.write;
        // Cut short, the client sees a reset, and the body's record says why.
        let _ = send_body(stream, body, Some(patience)).await;
    }
}
