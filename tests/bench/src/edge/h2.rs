//! The load in HTTP/2: few connections, each with many streams that send again when they were answered.

use std::{
    io,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::Request;
use tokio::task::JoinSet;

use crate::{
    edge::{
        client::{Client, is_body},
        offer::HOST,
    },
    exchange::{BODY, MARKER},
    load::{Outcome, all, in_time},
    window::Window,
};

/// `connections` with `streams` each.
pub async fn streams(
    client: Client,
    connections: usize,
    streams: usize,
    time: Duration,
    window: &mut Window,
) -> Outcome {
    let (mut sum, mut senders, mut driven) = (Outcome::default(), Vec::new(), JoinSet::new());
    for _ in 0..connections {
        match greet(&client, &mut driven).await {
            Ok(sender) => senders.push(sender),
            Err(error) => sum.failed(&error),
        }
    }
    window.begin();
    let end = Instant::now() + time;
    let each = senders.iter().flat_map(|sender| (0..streams).map(|_| sender.clone()));
    sum.add(all(each.map(|sender| one_stream(client.clone(), sender, end))).await);
    window.end();
    sum
}

/// A connection that answered once. It is driven in `driven`, and ends with it.
async fn greet(client: &Client, driven: &mut JoinSet<()>) -> io::Result<SendRequest<Bytes>> {
    let stream = client.open().await?;
    let handshake = client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(16 * WINDOW)
        .handshake(stream);
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    driven.spawn(async move { drop(connection.await) }); // its streams say what went wrong
    in_time(exchange(client, sender)).await
}

async fn one_stream(client: Client, mut sender: SendRequest<Bytes>, end: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    while Instant::now() < end {
        let begun = Instant::now();
        match in_time(exchange(&client, sender)).await {
            Ok(again) => {
                sender = again;
                outcome.count(Ok(()), begun);
            }
            Err(error) => {
                outcome.failed(&error);
                break;
            }
        }
    }
    outcome
}

/// One request and its answer, all of it.
async fn exchange(client: &Client, sender: SendRequest<Bytes>) -> io::Result<SendRequest<Bytes>> {
    let mut sender = sender.ready().await.map_err(io::Error::other)?;
    let request = Request::get(format!("https://{HOST}/1k"))
        .header("user-agent", "signet-bench")
        .header("accept", "*/*")
        .header("x-marker", MARKER)
        .body(())
        .map_err(io::Error::other)?;
    client.asked.fetch_add(1, Relaxed);
    let (answer, _) = sender.send_request(request, true).map_err(io::Error::other)?;
    let answer = answer.await.map_err(io::Error::other)?;
    let status = answer.status();
    let (mut body, mut length) = (answer.into_body(), 0);
    let mut same = true;
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(io::Error::other)?;
        body.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
        length += piece.len();
        same &= is_body(&piece);
    }
    if status != http::StatusCode::OK || length != BODY || !same {
        return Err(io::Error::other(format!("another answer than the origin's: {status}, {length} bytes")));
    }
    Ok(sender)
}

/// Of a stream: no answer waits for it.
const WINDOW: u32 = 1 << 20;
