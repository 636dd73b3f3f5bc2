//! An HTTP or HTTPS probe as the kubelet asks it: GET, redirects on the same host followed, 200 to 399 is success.

use std::{error::Error, io, sync::Arc};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use signet_core::pod::HttpAsk;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{
    Outcome, Pod, in_short,
    location::{Location, Next},
};

pub(super) async fn ask(pod: &Pod, ask: &HttpAsk, agent: HeaderValue) -> Outcome {
    let mut at = first(pod, ask);
    let failed =
        |at: &Location, why: String| Outcome::Failed(format!("Get {:?}: {}", at.url(), in_short(&why)));
    let (mut host, headers) = match headers(ask, agent) {
        Ok(headers) => headers,
        Err(why) => return failed(&at, why),
    };
    for _ in 0..REQUESTS {
        let (status, location) = match Box::pin(get(pod, &at, host.as_ref(), &headers)).await {
            Ok(answer) => answer,
            Err(why) => return failed(&at, why),
        };
        if !REDIRECTS.contains(&status.as_u16()) {
            return judge(status);
        }
        let Some(location) = location else { return judge(status) };
        match location.to_str().ok().and_then(|to| at.join(to)) {
            None => return failed(&at, format!("redirects to {location:?}, which is no URL")),
            Some(Next::Elsewhere) => return judge(status),
            Some(Next::Here(next, relative)) => {
                at = next;
                host = host.filter(|_| relative);
            }
        }
    }
    failed(&at, format!("stopped after {REQUESTS} redirects"))
}

/// For people: what is asked first.
pub(super) fn url(pod: &Pod, ask: &HttpAsk) -> String {
    first(pod, ask).url()
}

fn first(pod: &Pod, ask: &HttpAsk) -> Location {
    Location::new(ask.https, &pod.host(ask.host.as_deref()), ask.port, &ask.path)
}

fn judge(status: StatusCode) -> Outcome {
    match status.as_u16() {
        200..300 => Outcome::Passed(format!("HTTP {}", status.as_u16())),
        300..400 => Outcome::Passed("Probe terminated redirects".into()),
        code => Outcome::Refused(status, format!("HTTP probe failed with statuscode: {code}")),
    }
}

/// What the spec wants sent, with the kubelet's own where it says nothing: the Host, and all other headers.
fn headers(ask: &HttpAsk, agent: HeaderValue) -> Result<(Option<HeaderValue>, HeaderMap), String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &ask.headers {
        let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value));
        let (Ok(parsed), Ok(value)) = parsed else {
            return Err(format!("header {name:?} cannot be sent"));
        };
        headers.append(parsed, value);
    }
    let host = headers.remove(HOST).filter(|host| !host.is_empty());
    headers.entry(USER_AGENT).or_insert(agent);
    match headers.get(ACCEPT) {
        Some(accept) if accept.is_empty() => drop(headers.remove(ACCEPT)),
        Some(_) => {}
        None => drop(headers.insert(ACCEPT, HeaderValue::from_static("*/*"))),
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok((host, headers))
}

/// One request on a connection of its own: status and Location.
async fn get(
    pod: &Pod,
    at: &Location,
    host: Option<&HeaderValue>,
    headers: &HeaderMap,
) -> Result<(StatusCode, Option<HeaderValue>), String> {
    let host = match host {
        Some(host) => host.clone(),
        None => HeaderValue::try_from(&at.authority).map_err(|e| e.to_string())?,
    };
    let mut request = Request::get(&*at.target).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(HOST, host);
    let tcp = pod.dial(Some(&at.host), at.port).await.map_err(|e| e.to_string())?;
    if !at.https {
        return Box::pin(exchange(tcp, request, false)).await;
    }
    let name = ServerName::try_from(at.host.clone()).map_err(|e| e.to_string())?;
    let tls = TlsConnector::from(Arc::clone(&pod.tls)).connect(name, tcp);
    let tls = tls.await.map_err(|e| format!("TLS handshake: {e}"))?;
    Box::pin(exchange(tls, request, true)).await
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    https: bool,
) -> Result<(StatusCode, Option<HeaderValue>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true) // as Go writes them, for apps that know no other spelling
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| in_words(&e))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|e| in_words(&e))?;
        let (status, location) = (answer.status(), answer.headers().get(LOCATION).cloned());
        match read(answer.into_body()).await {
            Err(error) if !(https && is_sudden_end(&error)) => return Err(in_words(&error)),
            _ => {}
        }
        Ok((status, location))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await, // closed behind the answer, which is still to be read
            Err(error) => Err(in_words(&error)),
        },
    }
}

/// To its end, or as much as the kubelet reads; an app that breaks off has not answered.
async fn read(mut body: Incoming) -> Result<(), hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
        if length >= BODY_BYTES {
            break;
        }
    }
    Ok(())
}

/// An end without close_notify, as many servers make it; Go takes it for an end too.
fn is_sudden_end(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof)
}

/// hyper's message alone says little; its cause is what happened.
fn in_words(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Those that Go's client follows.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
/// The first and nine after redirects; the tenth is not followed, as in Go.
const REQUESTS: usize = 10;
/// The kubelet's limit too (pkg/probe/http).
const BODY_BYTES: usize = 10 * 1024;
/// Far above any answer to a probe.
const HEAD_BYTES: usize = 64 * 1024;
