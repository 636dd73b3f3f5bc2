//! Connections to endpoints: who makes them, and a request's way over one.

pub mod direct;
mod h1;
mod h2;
pub(crate) mod pool;
mod verify;

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use http::Response;
use signet_core::drain::Drain;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    balance::Member,
    body::{Body, Progress, Upload},
    limits::Limits,
    model::{Endpoint, Protocol, Security},
    refusal::Refusal,
    stream::Stream,
};

pub(crate) use self::{h1::Lease, h2::send_body};

/// Makes connections. [`direct::Direct`] makes plain and TLS ones; the gateway makes those of the mesh, too.
pub trait Connector: Send + Sync + 'static {
    /// A stream to `endpoint` that is ready for a request of `protocol`, its peer's identity proven as its security asks. Has
    /// no deadline of its own.
    fn connect<'a>(&'a self, endpoint: &'a Endpoint, protocol: Protocol) -> Connecting<'a>;

    /// Changes whenever a connection made before must not be used for another request: our own certificate was renewed, or
    /// what we trust changed.
    fn generation(&self, security: &Security) -> u64;
}

pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// One try's way: what it needs of the engine, and its times.
pub(crate) struct Way<'a> {
    pub(crate) connector: &'a dyn Connector,
    pub(crate) drain: &'a Drain,
    pub(crate) limits: &'a Arc<Limits>,
    pub(crate) member: &'a Arc<Member>,
    pub(crate) connect: Option<Duration>,
    /// Without a byte, until the response's head.
    pub(crate) idle: Option<Duration>,
}

/// A response's head, and what has to be done when its body is over.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) after: After,
}

pub(crate) enum After {
    /// The connection may serve another request.
    GiveBack(Lease),
    /// One stream fewer on a connection.
    Stream(h2::Active),
    /// A tunnel begins here.
    Tunnel(hyper::upgrade::OnUpgrade),
}

impl After {
    /// Request and response are over, to the last byte.
    pub(crate) fn done(self) {
        match self {
            Self::GiveBack(lease) => lease.give_back(),
            Self::Stream(stream) => drop(stream),
            Self::Tunnel(_) => {}
        }
    }
}

/// Why a try failed.
pub(crate) struct Failed {
    pub(crate) refusal: Refusal,
    pub(crate) fate: Fate,
    /// The request, if nothing of it left.
    pub(crate) unsent: Option<http::Request<Upload>>,
}

/// What the backend may have seen of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Nothing: there was no connection.
    NoConnection,
    /// Nothing that it did something about: it said so.
    Refused,
    /// On a connection that had been idle, and that the backend may have been closing.
    Stale,
    /// Perhaps all of it.
    Sent,
}

impl Failed {
    fn unsent(refusal: Refusal, request: http::Request<Upload>) -> Self {
        Self { refusal, fate: Fate::NoConnection, unsent: Some(request) }
    }

    fn sent(refusal: Refusal, fate: Fate) -> Self {
        Self { refusal, fate, unsent: None }
    }
}

/// Sends `request`, whose head is ready for this protocol, and waits for the response's head. Dropped, it takes the request back:
/// the stream is reset, or the connection closed.
pub(crate) async fn send(way: &Way<'_>, request: http::Request<Upload>) -> Result<Answer, Failed> {
    match way.member.protocol {
        Protocol::Http1 => h1::send(way, request).await,
        Protocol::Http2 => h2::send(way, request).await,
    }
}

impl Way<'_> {
    /// A new connection, counted as a success or a failure of the endpoint.
    async fn dial(&self) -> Result<Box<dyn Stream>, Refusal> {
        let dial = self.connector.connect(&self.member.endpoint, self.member.protocol);
        let result = match self.connect {
            Some(limit) => timeout(limit, dial).await.map_err(|_| Refusal::ConnectTimeout),
            None => Ok(dial.await),
        };
        let stream = result.and_then(|dialled| {
            dialled.map_err(|error| {
                tracing::debug!(endpoint = %self.member.endpoint.address, %error, "cannot connect");
                Refusal::Unreachable
            })
        });
        match &stream {
            Ok(_) => self.member.connected(),
            Err(_) => self.member.failed(&self.limits.upstream),
        }
        stream
    }

    fn generation(&self) -> u64 {
        self.connector.generation(&self.member.endpoint.security)
    }

    /// `answer`, unless nothing has moved for too long: neither the client's body nor the backend.
    async fn patiently<T>(&self, progress: &Progress, answer: impl Future<Output = T>) -> Result<T, Refusal> {
        let Some(idle) = self.idle else { return Ok(answer.await) };
        let began = Instant::now();
        let mut answer = std::pin::pin!(answer);
        loop {
            let last = progress.last().max(began);
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                () = sleep_until(last + idle) => {}
            }
            if progress.last().max(began) == last {
                // The backend took nothing, or everything and said nothing. A client that sends nothing was found out before:
                // its patience (`ClientLimits::body`) is shorter, or the rule's wish.
                return Err(progress.failed().unwrap_or(Refusal::BackendTimeout));
            }
        }
    }
}
