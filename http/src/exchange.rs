//! One request, from its head to the head of its answer: check -> challenge -> host -> rule -> answer of our own, or forward.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use tokio::time::timeout_at;

use crate::{
    arrival::Arrival,
    body::{Body, Download},
    challenges,
    engine::Engine,
    filters,
    forward::{self, Reply},
    forwarded::{Sender, Words},
    guard::Wire,
    model::{Action, Plaintext, Redirect, Respond, Scheme},
    record::Record,
    refusal::{ACME_CHALLENGE, Refusal},
    request::{self, Target},
    table::{Answer, Asked, Found},
};

/// The connection that a request came on.
pub(crate) struct Connection {
    pub(crate) engine: Arc<Engine>,
    pub(crate) arrival: Arc<Arrival>,
    /// Of HTTP/1.
    pub(crate) wire: Option<Arc<Wire>>,
    pub(crate) words: Words,
}

/// Answers a request. Whatever happens, it is one answer and one line in the log.
pub(crate) async fn answer(connection: &Connection, request: Request<Body>) -> Response<Download> {
    let version = request.version();
    let asks = request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT;
    let is_head = request.method() == Method::HEAD;
    let mut record = Record::open(&connection.engine, &connection.arrival, version);
    let outcome = match connection.refused(&request) {
        Some(refusal) => Err(refusal),
        None => Box::pin(serve(connection, &mut record, request)).await,
    };
    let mut reply = match outcome {
        Ok(reply) => reply,
        Err(refusal) => refused(refusal, version),
    };
    if is_head {
        reply.keep_head();
    }
    if let Some(wire) = &connection.wire
        && asks
        && reply.tunnel.is_none()
    {
        wire.decide_upgrade(false);
    }
    reply.send(connection, record)
}

impl Connection {
    /// The guard's word about a request that is none.
    fn refused(&self, request: &Request<Body>) -> Option<Refusal> {
        // Its stand-in is HTTP/1.0: a request that was handed over before is not taken for it.
        let wire = self.wire.as_ref().filter(|_| request.version() == Version::HTTP_10)?;
        wire.take_refusal()
    }
}

async fn serve(
    connection: &Connection,
    record: &mut Record,
    mut request: Request<Body>,
) -> Result<Reply, Refusal> {
    let engine = &connection.engine;
    let upgraded = connection.wire.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    record.line.method = Some(parts.method.clone());
    let target = request::check(&parts, &engine.limits.head)?;
    record.line.authority = Some(Arc::clone(&target.authority));
    record.line.target = parts.uri.path_and_query().cloned();
    let hops = engine.limits.trust.hops;
    let sender = Sender::of(&parts.headers, connection.arrival.client, connection.arrival.scheme, hops);
    (record.line.client, record.line.scheme) = (sender.client, sender.scheme);

    let state = engine.state();
    if let Some(challenge) = state.challenges.find(&target.host, &parts) {
        record.line.good = ACME_CHALLENGE;
        return Ok(challenges::answer(challenge));
    }
    check_covered(connection, &state.table, &target.host)?;
    let asked = Asked {
        port: connection.arrival.port,
        host: &target.host,
        path: &target.path,
        query: parts.uri.query(),
        method: &parts.method,
        headers: &parts.headers,
    };
    let answer = state.table.find(&asked);
    if let Answer::NoRoute { host } | Answer::Found(Found { host, .. }) = &answer {
        record.line.host = Arc::clone(host);
    }
    if sender.scheme == Scheme::Http
        && let Some(reply) = to_https(&state.table, &answer, &target, &parts)?
    {
        return Ok(reply);
    }
    let found = match answer {
        Answer::NoHost => return Err(Refusal::NoHost),
        Answer::NoRoute { .. } => return Err(Refusal::NoRoute),
        Answer::Found(found) => found,
    };
    record.line.route = Some(Arc::clone(&found.route.name));
    if found.broken {
        return Err(Refusal::RuleBroken);
    }
    let mut reply = match &found.rule.action {
        Action::Respond(respond) => own(respond),
        Action::Redirect(redirect) => redirected(redirect, &target, sender.scheme, &parts, &found)?,
        Action::Forward(rule) => {
            let exchange = forward::Exchange { connection, state: &state, target: &target, sender: &sender };
            let deadline = forward::deadline(found.rule.timeouts.request, record.began());
            let forwarded = forward::forward(&exchange, record, rule, &found, parts, body, upgraded);
            let mut reply = match deadline {
                Some(deadline) => {
                    timeout_at(deadline, forwarded).await.map_err(|_| Refusal::RequestTimeout)??
                }
                None => forwarded.await?,
            };
            reply.deadline = reply.deadline.into_iter().chain(deadline).min();
            reply
        }
    };
    filters::edit(reply.response.headers_mut(), &found.rule.response_headers);
    Ok(reply)
}

/// 421 where the host belongs to another certificate or another listener.
fn check_covered(connection: &Connection, table: &crate::table::Table, host: &str) -> Result<(), Refusal> {
    let arrival = &connection.arrival;
    let covered = arrival.covers.as_ref().is_none_or(|covers| covers(host));
    let is_other = |sni: &Arc<str>| **sni != *host && table.is_other_listener(arrival.port, sni, host);
    let other = arrival.sni.as_ref().is_some_and(is_other);
    if covered && !other { Ok(()) } else { Err(Refusal::Misdirected) }
}

/// The answer to a plaintext request whose host, or whose rule, wants HTTPS.
fn to_https(
    table: &crate::table::Table,
    answer: &Answer<'_>,
    target: &Target,
    parts: &Parts,
) -> Result<Option<Reply>, Refusal> {
    let said = match answer {
        Answer::NoHost => return Ok(None),
        Answer::NoRoute { .. } => Plaintext::AsHost,
        Answer::Found(found) => found.rule.plaintext,
    };
    let host = table.https(&target.host);
    let port = match (said, host) {
        (Plaintext::Serve, _) | (Plaintext::AsHost, None) => return Ok(None),
        (_, Some(host)) => match &host.unready {
            Some(respond) => return Ok(Some(own(respond))),
            None => host.port,
        },
        (Plaintext::Redirect, None) => Scheme::Https.port(),
    };
    let location = filters::on_https(target, port, parts.uri.path_and_query())?;
    let mut reply = Reply::text(StatusCode::PERMANENT_REDIRECT, "");
    reply.response.headers_mut().insert(header::LOCATION, location);
    Ok(Some(reply))
}

pub(crate) fn own(respond: &Respond) -> Reply {
    let mut reply = Reply::text(respond.status, respond.status.canonical_reason().unwrap_or_default());
    if let Some(after) = respond.retry_after {
        reply.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    reply
}

fn redirected(
    redirect: &Redirect,
    target: &Target,
    scheme: Scheme,
    parts: &Parts,
    found: &Found<'_>,
) -> Result<Reply, Refusal> {
    let location = filters::location(redirect, target, scheme, parts.uri.path_and_query(), found)?;
    let mut reply = Reply::text(redirect.status.code(), "");
    reply.response.headers_mut().insert(header::LOCATION, location);
    Ok(reply)
}

fn refused(refusal: Refusal, version: Version) -> Reply {
    let mut reply = Reply::text(refusal.status(), refusal.why());
    if refusal == Refusal::Method {
        let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        reply.response.headers_mut().insert(header::ALLOW, methods);
    }
    if version != Version::HTTP_2 && refusal.ends_connection() {
        reply.response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply.refusal = Some(refusal);
    reply
}

impl Reply {
    /// A line of text, or nothing.
    pub(crate) fn text(status: StatusCode, text: &'static str) -> Self {
        let body = if text.is_empty() {
            Body::Empty
        } else {
            Body::Text(Bytes::from(format!("{} {text}\n", status.as_u16())))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        if !text.is_empty() {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        Self::new(response)
    }

    /// Takes away what we would have said, and leaves its length: hyper would do so, and HTTP/2 would not.
    fn keep_head(&mut self) {
        if let Body::Text(text) = self.response.body() {
            let length = HeaderValue::from(text.len());
            self.response.headers_mut().insert(header::CONTENT_LENGTH, length);
            *self.response.body_mut() = Body::Empty;
        }
    }

    /// Hands the answer over. From here on its body writes the record.
    fn send(self, connection: &Connection, mut record: Record) -> Response<Download> {
        let Self { response, refusal, idle, deadline, after, load, progress, tunnel } = self;
        record.answered(response.status());
        let (parts, body) = response.into_parts();
        let wire = connection.wire.clone();
        if let Some(tunnel) = tunnel {
            if let Some(wire) = &wire {
                wire.decide_upgrade(true);
            }
            tunnel.start(&connection.engine, record, load);
            return Response::from_parts(parts, Download::new(body, None, None, Box::new(|_, _| {})));
        }
        let end = move |sent: u64, outcome: Result<(), Refusal>| {
            if let Some(wire) = wire {
                wire.end();
            }
            let uploaded = progress.is_none_or(|progress| {
                let over = progress.is_over();
                if !over {
                    progress.cancel();
                }
                over
            });
            if let Some(after) = after
                && outcome.is_ok()
                && uploaded
            {
                after.done();
            }
            drop(load);
            record.close(sent, refusal.map_or(outcome, Err));
        };
        Response::from_parts(parts, Download::new(body, idle, deadline, Box::new(end)))
    }
}

/// The client's half of a tunnel, promised by hyper for when 101 is written.
pub(crate) type Promised = Option<OnUpgrade>;
