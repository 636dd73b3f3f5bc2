//! What a request asks for, checked alike for both versions, and its head as a backend gets it.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{self, Entry},
    request::Parts,
};

use crate::{
    forwarded::{Sender, Words},
    limits::{HeadLimits, Limits, Underscores},
    normal::normal,
    refusal::Refusal,
};

/// Whom and what a request asks for.
#[derive(Debug)]
pub(crate) struct Target {
    /// As the client wrote it, with its port.
    pub(crate) authority: Arc<str>,
    /// In lower case, without port and without a dot at its end.
    pub(crate) host: Box<str>,
    /// In normal form; the request's own is still as the client wrote it.
    pub(crate) path: Box<str>,
}

/// Checks what HTTP/1's guard and h2 leave to us.
pub(crate) fn check(parts: &Parts, limits: &HeadLimits) -> Result<Target, Refusal> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(Refusal::Method);
    }
    let cookies = parts.headers.get_all(header::COOKIE).iter().count();
    if parts.headers.len() - cookies > limits.fields || cookies > limits.cookies {
        return Err(Refusal::HeadTooLarge);
    }
    let written = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    if written.len() > limits.line {
        return Err(Refusal::LineTooLong);
    }
    if !written.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::BadPath("the target has a character that must be percent-encoded"));
    }
    check_length(&parts.headers)?;
    let authority = authority(parts)?;
    let host = host(authority)?;
    if parts
        .headers
        .get_all(header::EXPECT)
        .iter()
        .any(|e| !e.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(Refusal::Expectation);
    }
    let path = normal(parts.uri.path(), limits.encoded_slash).map_err(Refusal::BadPath)?;
    Ok(Target { authority: authority.into(), host, path: (*path).into() })
}

/// Whoever reads the request behind us must read the length that its body had here.
fn check_length(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if !one.is_empty() && one.as_bytes().iter().all(u8::is_ascii_digit) => Ok(()),
        (Some(_), None) => Err(Refusal::BadFraming("Content-Length is not a number")),
        (Some(_), Some(_)) => Err(Refusal::BadFraming("there is more than one Content-Length")),
    }
}

fn authority(parts: &Parts) -> Result<&str, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Refusal::BadHost("there is more than one Host"));
    }
    let host = host.map(HeaderValue::to_str).transpose();
    let host = host.map_err(|_| Refusal::BadHost("Host is not a name"))?;
    match (parts.uri.authority().map(http::uri::Authority::as_str), host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            Err(Refusal::BadHost("Host is not that of the target"))
        }
        (Some(authority), _) => Ok(authority),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(Refusal::BadHost("there is no Host")),
    }
}

/// `host[:port]`, taken apart. A user name, an empty host and a port that is none are refused.
fn host(authority: &str) -> Result<Box<str>, Refusal> {
    let wrong = Refusal::BadHost("Host is not a name or an address with an optional port");
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong)?;
            (&authority[..address.len() + 2], after.strip_prefix(':').or(after.is_empty().then_some("0")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("0")),
        },
    };
    let port = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if port.is_none()
        || name.is_empty()
        || name.len() > MAX_HOST
        || (!host.starts_with('[') && !name.bytes().all(is_name))
    {
        return Err(wrong);
    }
    Ok(name.to_ascii_lowercase().into())
}

/// The head for a backend: without what belongs to one hop, and with our word about where it came from.
pub(crate) fn head_for_backend(
    headers: &mut HeaderMap,
    target: &Target,
    sender: &Sender,
    words: &Words,
    public_port: u16,
    limits: &Limits,
) -> HeaderValue {
    let keeps_trailers = wants_trailers(headers);
    strip_hop(headers);
    headers.remove(header::EXPECT); // the body is asked for when a backend takes it
    if keeps_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let drops = limits.head.underscores == Underscores::Drop;
    let id = headers.get(REQUEST_ID).filter(|_| limits.trust.hops > 0).cloned();
    strip_ours(headers, drops);
    join_cookies(headers);
    words.say(headers, target, sender, public_port);
    let id = id.unwrap_or_else(new_id);
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// What only we may say about a request. `Forwarded` is written anew, and so are those of the names with a `_` for a `-`.
fn is_ours(name: &HeaderName) -> bool {
    if !matches!(name.as_str().as_bytes().first(), Some(b'x' | b'f')) {
        return false; // most are not
    }
    let is = |known: &str| {
        let plain = name.as_str().bytes().map(|b| if b == b'_' { b'-' } else { b });
        name.as_str().len() >= known.len() && plain.take(known.len()).eq(known.bytes())
    };
    is("x-forwarded")
        || is("x-real-ip")
        || is("x-signet-")
        || is("x-original-")
        || name == header::FORWARDED
        || name == REQUEST_ID
}

fn strip_ours(headers: &mut HeaderMap, with_underscores: bool) {
    let doubtful = |name: &&HeaderName| is_ours(name) || (with_underscores && name.as_str().contains('_'));
    let doubtful: Vec<HeaderName> = headers.keys().filter(doubtful).cloned().collect();
    for name in &doubtful {
        headers.remove(name);
    }
}

/// What some origins merge into the head is held to what a head is held to.
pub(crate) fn trailers_for_backend(mut trailers: HeaderMap) -> HeaderMap {
    strip_hop(&mut trailers);
    strip_ours(&mut trailers, true);
    trailers.remove(header::HOST);
    trailers.remove(header::CONTENT_LENGTH);
    trailers
}

/// Takes away what belongs to one connection: the known ones, and those that Connection names. Not Host and Content-Length,
/// whatever it names: they are the message's.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    let hop: Vec<HeaderName> = headers.keys().filter(|name| is_hop(name)).cloned().collect();
    if headers.contains_key(header::CONNECTION) {
        let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<HeaderName> = connection
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            if name != header::HOST && name != header::CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    for name in hop {
        headers.remove(name);
    }
}

/// Whether a field belongs to one connection, whatever Connection says. RFC 9110 7.6.1.
fn is_hop(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::PROXY_AUTHORIZATION,
        header::PROXY_AUTHENTICATE,
    ]
    .contains(name)
        || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    let te = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    te.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("trailers"))
}

/// The protocol that an HTTP/1.1 request asks to change to. h2c is none: it would carry requests past us.
pub(crate) fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    let connection = parts.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks = connection.flat_map(|v| v.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let mut protocols = parts.headers.get_all(header::UPGRADE).iter();
    let (protocol, more) = (protocols.next()?, protocols.next());
    let text = protocol.to_str().ok()?;
    let is_one = more.is_none() && !text.contains(',') && !text.is_empty();
    (asks
        && is_one
        && parts.version == http::Version::HTTP_11
        && !text.to_ascii_lowercase().starts_with("h2c"))
    .then(|| protocol.clone())
}

/// RFC 9113 8.2.3: an HTTP/1 origin wants one Cookie.
fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut cookies) = headers.entry(header::COOKIE) else { return };
    if cookies.iter().count() > 1 {
        let all: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            cookies.insert(joined);
        }
    }
}

/// 128 random bits: to find a request in several logs, no secret.
fn new_id() -> HeaderValue {
    let mut id = [0; 32];
    let mut bits = fastrand::u128(..);
    for digit in &mut id {
        *digit = b"0123456789abcdef"[(bits & 0xf) as usize];
        bits >>= 4;
    }
    HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("-"))
}

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// As in a [`Hostname`](crate::model::Hostname).
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scheme;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn checked(uri: &str, headers: &[(&str, &str)]) -> Result<Target, Refusal> {
        check(&parts(uri, headers), &Limits::default().head)
    }

    #[test]
    fn the_host_is_one_name_whatever_its_spelling() {
        for (authority, host) in [
            ("a.B", "a.b"),
            ("a.b.", "a.b"),
            ("a:80", "a"),
            ("10.0.0.1:8080", "10.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[fe80::1]", "[fe80::1]"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(&*checked("/", &[("host", authority)]).unwrap().host, host);
        }
        for authority in [
            "", ".", ":80", "a:", "a:b", "a:99999", "a:+1", "u@a", "a/b", "a b", "[::1", "[::1]x", "[x]",
            "a,b", "a?b", "a:80:80",
        ] {
            let result = checked("/", &[("host", authority)]);
            assert!(matches!(result, Err(Refusal::BadHost(_))), "{authority:?}: {result:?}");
        }
        assert!(checked("/", &[]).is_err());
        assert!(checked("/", &[("host", "a"), ("host", "a")]).is_err());
        assert!(checked("http://a/", &[("host", "b")]).is_err());
        assert!(checked("http://a/", &[("host", "A")]).is_ok());
        assert!(checked("http://a/", &[]).is_ok(), ":authority alone");
    }

    #[test]
    fn what_a_stranger_says_about_others_is_replaced() {
        let mut parts = parts(
            "/",
            &[
                ("host", "a:8443"),
                ("x-forwarded-for", "1.1.1.1"),
                ("x_forwarded_for", "1.1.1.1"),
                ("x-forwarded-prefix", "/evil"),
                ("x-forwarded_client-cert", "evil"),
                ("forwarded", "for=1.1.1.1"),
                ("x-real-ip", "1.1.1.1"),
                ("x-original-url", "/admin"),
                ("x-signet-identity", "evil"),
                ("x-request-id", "evil"),
                ("under_score", "x"),
                ("connection", "x-mine, x-forwarded-for, host, close"),
                ("x-mine", "x"),
                ("keep-alive", "5"),
                ("proxy-connection", "close"),
                ("te", "gzip, trailers"),
                ("expect", "100-continue"),
                ("accept", "*/*"),
            ],
        );
        let limits = Limits::default();
        let target = check(&parts, &limits.head).unwrap();
        let sender = Sender::of(&parts.headers, "[::ffff:198.18.0.1]:99".parse().unwrap(), Scheme::Https, 0);
        let id = head_for_backend(&mut parts.headers, &target, &sender, &Words::default(), 443, &limits);
        assert_ne!(id, "evil");
        let mut rest: Vec<String> =
            parts.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        rest.retain(|line| !line.starts_with("x-request-id"));
        rest.sort();
        assert_eq!(
            rest,
            [
                "accept: */*",
                "forwarded: for=198.18.0.1;host=\"a:8443\";proto=https",
                "host: a:8443",
                "te: trailers",
                "x-forwarded-for: 198.18.0.1",
                "x-forwarded-host: a:8443",
                "x-forwarded-port: 8443",
                "x-forwarded-proto: https",
                "x-real-ip: 198.18.0.1",
            ]
        );
    }

    #[test]
    fn only_one_plain_protocol_can_be_changed_to() {
        let ask = |upgrade: &str| {
            parts("/", &[("host", "a"), ("connection", "keep-alive, Upgrade"), ("upgrade", upgrade)])
        };
        assert!(upgrade(&ask("websocket")).is_some());
        for protocol in ["h2c", "H2C", "h2c, websocket", "websocket, h2c", ""] {
            assert!(upgrade(&ask(protocol)).is_none(), "{protocol}");
        }
        assert!(upgrade(&parts("/", &[("host", "a"), ("upgrade", "websocket")])).is_none());
    }

    #[test]
    fn cookies_are_one_field_for_the_backend() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
