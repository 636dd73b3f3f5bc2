//! A request's way to a backend and back: pick -> send -> again elsewhere, if that is safe -> the answer's head.

use std::sync::Arc;

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    balance::{Load, Member, Upstream},
    body::{Body, Progress, Upload},
    engine::State,
    exchange::{Connection, Promised, own},
    filters,
    forwarded::Sender,
    model::{Forward, Protocol, Scheme, Target as Goal, Timeout, Timeouts, Weighted},
    record::Record,
    refusal::Refusal,
    request::{self, Target},
    table::Found,
    tunnel::Tunnel,
    upstream::{self, After, Answer, Failed, Fate, Way},
};

/// What is known of a request when its rule was found.
pub(crate) struct Exchange<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) state: &'a State,
    pub(crate) target: &'a Target,
    pub(crate) sender: &'a Sender,
}

/// An answer, and what hangs on its body.
pub(crate) struct Reply {
    pub(crate) response: Response<Body>,
    /// Why it is our own answer.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) idle: Option<std::time::Duration>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) after: Option<After>,
    pub(crate) load: Option<Load>,
    pub(crate) progress: Option<Arc<Progress>>,
    pub(crate) tunnel: Option<Tunnel>,
}

impl Reply {
    pub(crate) fn new(response: Response<Body>) -> Self {
        Self {
            response,
            refusal: None,
            idle: None,
            deadline: None,
            after: None,
            load: None,
            progress: None,
            tunnel: None,
        }
    }
}

pub(crate) async fn forward(
    exchange: &Exchange<'_>,
    record: &mut Record,
    rule: &Forward,
    found: &Found<'_>,
    mut parts: Parts,
    body: Body,
    promised: Promised,
) -> Result<Reply, Refusal> {
    let engine = &exchange.connection.engine;
    let weighted = by_weight(&rule.backends, |n| fastrand::u64(..n)).ok_or(Refusal::NoBackend)?;
    let name = match &weighted.target {
        Goal::Respond(respond) => return Ok(own(respond)),
        Goal::Backend(name) => name,
    };
    record.line.backend = Some(Arc::clone(name));
    let upstream = exchange.state.upstreams.find(name).ok_or(Refusal::NoBackend)?;
    check_size(&parts, found.rule.max_body)?;

    let upgrade = request::upgrade(&parts).filter(|_| upstream.backend.protocol == Protocol::Http1);
    let upload = Upload::new(body, found.rule.max_body, engine.limits.client.body);
    let upgrade = upgrade.filter(|_| upload.is_empty());
    prepare(exchange, record, rule, weighted, found, &mut parts, upgrade.as_ref())?;
    let progress = upload.progress();
    record.uploads(Arc::clone(&progress));
    if !upload.is_empty() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
        // hyper would leave the body of a GET out otherwise. HTTP/2 takes it away again.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let tried = Box::pin(try_all(exchange, record, upstream, found, parts, upload)).await?;

    let mut reply = Reply::new(tried.answer.response);
    if reply.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (After::Tunnel(backend), Some(protocol), Some(client)) = (tried.answer.after, upgrade, promised)
        else {
            return Err(Refusal::BackendBroke("the backend changed the protocol unasked"));
        };
        reply.tunnel = Some(Tunnel { client, backend });
        clean(&mut reply.response);
        let headers = reply.response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    } else {
        clean(&mut reply.response);
        reply.after = Some(tried.answer.after);
    }
    filters::edit(reply.response.headers_mut(), &weighted.response_headers);
    reply.idle = duration(found.rule.timeouts.idle, Some(engine.limits.upstream.idle));
    (reply.deadline, reply.load, reply.progress) = (tried.deadline, Some(tried.load), Some(progress));
    Ok(reply)
}

/// One of them, by its share. `random` gives a number below its argument.
fn by_weight(backends: &[Weighted], random: impl FnOnce(u64) -> u64) -> Option<&Weighted> {
    match backends {
        [only] if only.weight > 0 => return Some(only),
        _ => {}
    }
    let total = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut at = if total == 0 { return None } else { random(total) };
    backends.iter().find(|backend| match at.checked_sub(u64::from(backend.weight)) {
        Some(rest) => {
            at = rest;
            false
        }
        None => true,
    })
}

/// 413 before the client is asked for a byte of it.
fn check_size(parts: &Parts, limit: Option<u64>) -> Result<(), Refusal> {
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match (length, limit) {
        (Some(length), Some(limit)) if length > limit => Err(Refusal::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Makes the head that the backend gets, whichever endpoint it will be.
fn prepare(
    exchange: &Exchange<'_>,
    record: &mut Record,
    rule: &Forward,
    weighted: &Weighted,
    found: &Found<'_>,
    parts: &mut Parts,
    upgrade: Option<&HeaderValue>,
) -> Result<(), Refusal> {
    let Exchange { connection, target, sender, .. } = exchange;
    let written = parts.uri.path_and_query();
    let path = filters::rewritten(written, rule.path.as_ref(), found, &target.path)?;
    let public_port = found.listener.public_port;
    let limits = &connection.engine.limits;
    let words = &connection.words;
    let id = request::head_for_backend(&mut parts.headers, target, sender, words, public_port, limits);
    record.line.request_id = Some(id);
    filters::edit(&mut parts.headers, &rule.request_headers);
    filters::edit(&mut parts.headers, &weighted.request_headers);
    if let Some(protocol) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol.clone());
    }
    let host = rule.host.as_ref().map_or(&*target.authority, |host| host.as_str());
    if parts.headers.get(header::HOST).is_none_or(|said| said != host) {
        let host = HeaderValue::from_str(host).map_err(|_| Refusal::BadHost("Host is not a name"))?;
        parts.headers.insert(header::HOST, host);
    }
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(())
}

/// The head as the backend's protocol has it.
fn for_protocol(mut parts: Parts, protocol: Protocol, scheme: Scheme) -> Result<Parts, Refusal> {
    if protocol == Protocol::Http1 {
        return Ok(parts);
    }
    let host = parts.headers.remove(header::HOST);
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder()
        .scheme(scheme.word())
        .authority(authority.ok_or(Refusal::BadHost("Host is not a name"))?);
    parts.uri = uri.path_and_query(path).build().map_err(|_| Refusal::BadPath("the target is no URL"))?;
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.version = Version::HTTP_2;
    Ok(parts)
}

/// A try that was answered.
struct Tried {
    answer: Answer,
    load: Load,
    deadline: Option<Instant>,
}

async fn try_all(
    exchange: &Exchange<'_>,
    record: &mut Record,
    upstream: &Arc<Upstream>,
    found: &Found<'_>,
    parts: Parts,
    upload: Upload,
) -> Result<Tried, Refusal> {
    let engine = &exchange.connection.engine;
    let rule = found.rule;
    let parts = for_protocol(parts, upstream.backend.protocol, exchange.sender.scheme)?;
    // A request without a body can be made again; whether a backend may see it twice is its method's word.
    let replay = upload.is_empty().then(|| parts.clone());
    let idempotent = replay.is_some() && parts.method.is_idempotent();
    let patience = engine.limits.client.body;
    let mut request = Request::from_parts(parts, upload);
    let (mut tried, mut answered_badly): (Vec<Arc<Member>>, _) = (Vec::new(), false);
    upstream.budget.deposit();
    loop {
        let random = |n| fastrand::usize(..n);
        let member = upstream.pick(exchange.sender.client, &tried, random).ok_or(Refusal::NoEndpoint)?;
        if answered_badly || tried.iter().any(|earlier| Arc::ptr_eq(earlier, member)) {
            wait_before_retry(rule.retry.backoff, tried.len()).await;
        }
        record.line.tries += 1;
        record.line.endpoint = Some(member.endpoint.address);
        let (refusal, unsent) = match attempt(exchange, member, rule.timeouts, request).await {
            Ok(answered) => {
                let again = idempotent && rule.retry.statuses.contains(&answered.answer.response.status());
                if !again || !may_retry(exchange, upstream, found, tried.len(), "status") {
                    return Ok(answered);
                }
                answered_badly = true;
                (None, None)
            }
            Err(failed) => {
                answered_badly = false;
                engine.metrics.backend_failed(failed.refusal.reason());
                if !is_safe(&failed, idempotent, replay.is_some(), rule.timeouts)
                    || !may_retry(exchange, upstream, found, tried.len(), failed.refusal.reason())
                {
                    return Err(failed.refusal);
                }
                (Some(failed.refusal), failed.unsent)
            }
        };
        let made_again = || {
            let parts = replay.clone()?;
            Some(Request::from_parts(parts, Upload::new(Body::Empty, None, patience)))
        };
        request = unsent.or_else(made_again).ok_or(refusal.unwrap_or(Refusal::BackendLost))?;
        tried.push(Arc::clone(member));
    }
}

/// Whether the request may be sent once more after this.
fn is_safe(failed: &Failed, idempotent: bool, bodyless: bool, timeouts: Timeouts) -> bool {
    match failed.fate {
        Fate::NoConnection => failed.refusal != Refusal::Overloaded,
        Fate::Refused => bodyless,
        Fate::Stale => idempotent,
        Fate::Sent => {
            let timed_out =
                failed.refusal == Refusal::BackendTimeout && matches!(timeouts.backend, Timeout::After(_));
            idempotent && (timed_out || failed.refusal == Refusal::BackendLost)
        }
    }
}

/// Whether one more try is allowed and paid for.
fn may_retry(
    exchange: &Exchange<'_>,
    upstream: &Upstream,
    found: &Found<'_>,
    tries_before: usize,
    reason: &'static str,
) -> bool {
    let metrics = &exchange.connection.engine.metrics;
    if tries_before >= usize::from(found.rule.retry.attempts) {
        return false;
    }
    let paid = upstream.budget.withdraw();
    metrics.retried(if paid { reason } else { "no_budget" });
    paid
}

async fn attempt(
    exchange: &Exchange<'_>,
    member: &Arc<Member>,
    timeouts: Timeouts,
    request: Request<Upload>,
) -> Result<Tried, Failed> {
    let engine = &exchange.connection.engine;
    let (began, load) = (Instant::now(), member.load());
    let way = Way {
        connector: &*engine.connector,
        drain: &engine.drain,
        limits: &engine.limits,
        member,
        connect: duration(timeouts.connect, Some(engine.limits.upstream.connect)),
        idle: duration(timeouts.idle, Some(engine.limits.upstream.idle)),
    };
    let deadline = deadline(timeouts.backend, began);
    let sent = upstream::send(&way, request);
    let answer = match deadline {
        Some(deadline) => match timeout_at(deadline, sent).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(Failed { refusal: Refusal::BackendTimeout, fate: Fate::Sent, unsent: None });
            }
        },
        None => sent.await?,
    };
    member.answered(began.elapsed());
    Ok(Tried { answer, load, deadline })
}

/// Doubled each time, and anywhere between half and one and a half of that, so that no herd comes back at once.
async fn wait_before_retry(backoff: std::time::Duration, times: usize) {
    let doubled = backoff.saturating_mul(1 << times.saturating_sub(1).min(10));
    sleep(doubled.mul_f64(0.5 + fastrand::f64())).await;
}

/// The head of a backend's answer as a client may see it.
fn clean(response: &mut Response<Body>) {
    let framed = response.headers().contains_key(header::TRANSFER_ENCODING);
    request::strip_hop(response.headers_mut());
    if framed {
        // RFC 9112 6.3: Transfer-Encoding overrides it, and it must not go on.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
}

pub(crate) fn duration(
    timeout: Timeout,
    default: Option<std::time::Duration>,
) -> Option<std::time::Duration> {
    match timeout {
        Timeout::Default => default,
        Timeout::Off => None,
        Timeout::After(time) => Some(time),
    }
}

/// Off by default.
pub(crate) fn deadline(timeout: Timeout, began: Instant) -> Option<Instant> {
    duration(timeout, None).map(|time| began + time)
}
