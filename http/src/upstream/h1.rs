//! HTTP/1.1 to an endpoint: one request at a time on a connection, and the connection back into the pool afterwards.

use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::{After, Answer, Failed, Fate, Way};
use crate::{
    balance::Member,
    body::{Body, Upload},
    limits::Limits,
    refusal::Refusal,
};

pub(super) async fn send(way: &Way<'_>, mut request: Request<Upload>) -> Result<Answer, Failed> {
    let generation = way.generation();
    let progress = request.body().progress();
    loop {
        let (mut sender, reused) = match way.member.pool.take(generation, &way.limits.upstream) {
            Some(sender) => (sender, true),
            None => match open(way).await {
                Ok(sender) => (sender, false),
                Err(refusal) => return Err(Failed::unsent(refusal, request)),
            },
        };
        // Its last response is over; the connection itself may need one more turn to know.
        if sender.ready().await.is_err() {
            if reused {
                continue;
            }
            return Err(Failed::unsent(Refusal::BackendLost, request));
        }
        let sent = way.patiently(&progress, sender.try_send_request(request)).await;
        let mut error = match sent {
            Ok(Ok(response)) => {
                let lease = Lease {
                    sender,
                    member: Arc::clone(way.member),
                    generation,
                    limits: Arc::clone(way.limits),
                };
                return Ok(answer(response, lease));
            }
            Ok(Err(error)) => error,
            Err(refusal) => return Err(Failed::sent(refusal, Fate::Sent)),
        };
        match error.take_message() {
            Some(unsent) if reused => request = unsent,
            Some(unsent) => return Err(Failed::unsent(Refusal::BackendLost, unsent)),
            None => {
                let fate = if reused { Fate::Stale } else { Fate::Sent };
                return Err(Failed::sent(refusal_of(error.error(), &progress), fate));
            }
        }
    }
}

async fn open(way: &Way<'_>) -> Result<SendRequest<Upload>, Refusal> {
    let limits = &way.limits.upstream;
    let place = way.member.pool.place(limits).ok_or(Refusal::Overloaded)?;
    let stream = way.dial().await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.head_bytes);
    if limits.head_fields != HYPERS_FIELDS {
        builder.max_headers(limits.head_fields); // hyper allocates for any other number
    }
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|_| Refusal::BackendLost)?;
    way.drain.spawn(async move {
        let _place = place;
        let _ = connection.with_upgrades().await; // whoever waits for a response is told
    });
    Ok(sender)
}

fn answer(mut response: http::Response<hyper::body::Incoming>, lease: Lease) -> Answer {
    let after = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        After::Tunnel(hyper::upgrade::on(&mut response)) // its sender is dropped: it is never used again
    } else {
        After::GiveBack(lease)
    };
    Answer { response: response.map(Body::H1), after }
}

fn refusal_of(error: &hyper::Error, progress: &crate::body::Progress) -> Refusal {
    match progress.failed() {
        Some(refusal) => refusal, // our own client's doing
        None if error.is_parse() => Refusal::BackendBroke("the backend's answer is no HTTP/1 response"),
        None => Refusal::BackendLost,
    }
}

/// A connection that is in use.
pub(crate) struct Lease {
    sender: SendRequest<Upload>,
    member: Arc<Member>,
    generation: u64,
    limits: Arc<Limits>,
}

impl Lease {
    /// Its response is over, to the last byte, and so is the request.
    pub(crate) fn give_back(self) {
        self.member.pool.put(self.sender, self.generation, &self.limits.upstream);
    }
}

/// hyper's own limit of fields.
const HYPERS_FIELDS: usize = 100;
