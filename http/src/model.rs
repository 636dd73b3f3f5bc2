//! What an engine serves: listeners, routes and backends, shaped like the Gateway API, so that an Ingress, an HTTPRoute and
//! a GRPCRoute are each one translation into it.
//!
//! Plain data that compares; whoever builds one shares what it can (`Arc`), and a new snapshot that holds the same `Arc`s
//! costs little. Names and paths were checked by their types. Nothing in it depends on the order in which routes stand.

mod backend;
mod challenge;
mod edit;
mod host;
mod path;

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode};

pub(crate) use self::challenge::HTTP_01;
pub use self::{
    backend::{Backend, BackendTls, Choice, Endpoint, Protocol, Roots, San, Security, Verify},
    challenge::{BadChallenge, Http01},
    edit::{BadEdit, HeaderEdits},
    host::{HostPattern, Hostname, Labels, NotAHostname},
    path::{Anchor, BadPath, BadTemplate, Case, Path, PathMatch, Pattern, Piece, Template},
};

/// All that one data plane serves. A backend that no rule names is kept ready; a rule whose backend is missing answers 500.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    pub listeners: Vec<Arc<Listener>>,
    pub routes: Vec<Arc<Route>>,
    pub backends: Vec<Arc<Backend>>,
    /// Hosts whose plaintext requests are sent to HTTPS. The most specific pattern that matches decides.
    pub https_hosts: Vec<HttpsHost>,
    /// Answered before anything else is looked at, on every listener.
    pub challenges: Vec<Arc<Http01>>,
}

/// Where requests come in: one port of the data plane, or the hosts of one on it.
///
/// Several may share a port: the one with the most specific `hosts` that matches takes the request, and only routes attached
/// to it are looked at (the Gateway API's listener isolation).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Unique in the snapshot: "<namespace>/<gateway>/<listener>", or one word for all Ingresses.
    pub name: Arc<str>,
    /// The port that the data plane listens on, as `serve` is told it.
    pub port: u16,
    /// The port that clients dial: what stands in a redirect.
    pub public_port: u16,
    pub scheme: Scheme,
    pub hosts: HostPattern,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL of this scheme leaves out.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Rules for hosts. Among the routes of a listener, the most specific host that matches a request owns it: if none of the
/// rules for that host matches, the answer is 404, and no other host's rules are asked (a host has one owner, design 8).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// "<namespace>/<name>". The last word in a tie, alphabetically; shown in the access log.
    pub name: Arc<str>,
    /// Unix seconds. The older route wins a tie.
    pub created: i64,
    /// Names of listeners. One that is not in the snapshot is no error: the route is not served there.
    pub parents: Vec<Arc<str>>,
    /// Empty: every host of the listener.
    pub hosts: Vec<HostPattern>,
    pub rules: Vec<Rule>,
}

/// What happens to the requests that match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Any of them. Empty: every request, as `Prefix /` has it.
    pub matches: Vec<Match>,
    pub action: Action,
    pub response_headers: HeaderEdits,
    pub plaintext: Plaintext,
    pub timeouts: Timeouts,
    pub retry: Retry,
    /// Largest request body in bytes; more is 413. `None`: no limit.
    pub max_body: Option<u64>,
}

impl Rule {
    /// A rule for every request, with nothing special about it.
    pub fn new(action: Action) -> Self {
        Self {
            matches: Vec::new(),
            action,
            response_headers: HeaderEdits::default(),
            plaintext: Plaintext::AsHost,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            max_body: None,
        }
    }
}

/// All of it must hold.
///
/// Which of several matching ones wins does not depend on their order, but on, in this order: `Exact` before `Regex` before
/// `Prefix`; the longer path or pattern; one with a method; more headers; more query parameters; the older route; the route's
/// name; and only then the place of rule and match in their route. Source: Gateway API v1.6, HTTPRouteRule.matches; it
/// leaves the place of regexes open, and ours is nginx's. Ingress v1 (longest path, then Exact) is the same order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match {
    pub path: PathMatch,
    pub method: Option<Method>,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
}

impl Match {
    /// A match on the path alone.
    pub fn path(path: PathMatch) -> Self {
        Self { path, method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// A header's value. Several lines of one name are one value, joined by ", ". A value that is not UTF-8 matches nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub value: ValueMatch,
}

/// The first parameter of that name, percent-decoded, `+` as a space.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueryMatch {
    pub name: Arc<str>,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ValueMatch {
    Exact(Arc<str>),
    Regex(Pattern),
}

/// What a rule does with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forward {
    /// Chosen by weight for each request. None, or only weights of 0: 500 (Gateway API, HTTPRouteRule.backendRefs).
    pub backends: Vec<Weighted>,
    pub request_headers: HeaderEdits,
    /// Replaces Host; the path of the request that the backend sees.
    pub host: Option<Hostname>,
    pub path: Option<PathRewrite>,
}

/// A share of a rule's requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Weighted {
    pub target: Target,
    pub weight: u32,
    /// Applied after the rule's own.
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// The name of a [`Backend`] of the snapshot.
    Backend(Arc<str>),
    /// A reference that leads nowhere or is not allowed takes its share of the requests and answers them (500, usually).
    Respond(Respond),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathRewrite {
    /// The whole path. The query stays.
    Whole(Path),
    /// The prefix that matched. With any other match than `Prefix`, nothing is changed.
    Prefix(Path),
    /// The whole path, `$1` to `$9` being what the groups of the rule's regex caught. With any other match they are empty.
    Captures(Template),
}

/// An answer that sends the client elsewhere. What is `None` stays as it was in the request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub host: Option<Hostname>,
    /// `None`: with a scheme that scheme's own port, otherwise the listener's public port.
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    pub status: RedirectStatus,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RedirectStatus {
    MovedPermanently,
    Found,
    SeeOther,
    TemporaryRedirect,
    PermanentRedirect,
}

impl RedirectStatus {
    pub fn new(status: u16) -> Option<Self> {
        Some(match status {
            301 => Self::MovedPermanently,
            302 => Self::Found,
            303 => Self::SeeOther,
            307 => Self::TemporaryRedirect,
            308 => Self::PermanentRedirect,
            _ => return None,
        })
    }

    pub fn code(self) -> StatusCode {
        match self {
            Self::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            Self::Found => StatusCode::FOUND,
            Self::SeeOther => StatusCode::SEE_OTHER,
            Self::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
            Self::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
        }
    }
}

/// An answer of our own, with a word about it as its body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Respond {
    pub status: StatusCode,
    /// Retry-After, in whole seconds.
    pub retry_after: Option<Duration>,
}

impl Respond {
    pub fn status(status: StatusCode) -> Self {
        Self { status, retry_after: None }
    }
}

/// A host whose plaintext requests are answered with 308 to `https://`, before its rules are asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpsHost {
    pub host: HostPattern,
    /// The port that clients dial for HTTPS.
    pub port: u16,
    /// Set while there is no certificate: plaintext requests get this answer (503 with Retry-After) instead of the 308.
    pub unready: Option<Respond>,
}

/// What a rule does with a request that came in plaintext.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Plaintext {
    /// As [`Snapshot::https_hosts`] says of its host.
    #[default]
    AsHost,
    /// Serves it: challenges of an ACME client of the app's, `ssl-redirect: "false"`.
    Serve,
    /// 308 to `https://` and the host's port there, or 443.
    Redirect,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// From the request's head to the last byte of the response, all tries included. Off by default: streams live long.
    pub request: Timeout,
    /// The same of one try: from the first byte to the backend to the last byte from it. Off by default.
    pub backend: Timeout,
    /// To a connection of the backend that is ready for a request, TLS included.
    pub connect: Timeout,
    /// Without a byte from the backend that we wait for: until its response's head, and within its body.
    pub idle: Timeout,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Timeout {
    /// What the engine's limits say.
    #[default]
    Default,
    Off,
    After(Duration),
}

/// Tries beyond the first. Whatever it says: never after a byte of the response, never without budget, and a request that may
/// have been seen by a backend only if its method is idempotent and it has no body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Retry {
    pub attempts: u8,
    /// Answers of a backend that are tried again elsewhere; connect failures and refused streams always are.
    pub statuses: Arc<[StatusCode]>,
    /// Before a retry at an endpoint that had the request already, or after one of `statuses`; doubled with each further one, with jitter.
    pub backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2, statuses: Arc::new([]), backoff: Duration::from_millis(25) }
    }
}
