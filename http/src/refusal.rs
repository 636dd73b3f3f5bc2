//! Why a request was not served, or not to its end: one word each, the same in the access log and in the metrics, and one
//! status. docs/http.md explains each.

use http::StatusCode;

/// `&'static str`: what exactly was wrong, in our words; it goes to the log and into the answer's body.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", self.why())]
pub enum Refusal {
    // ---- the client's message
    BadHead(&'static str),
    BadFraming(&'static str),
    BadHost(&'static str),
    BadPath(&'static str),
    Method,
    Expectation,
    LineTooLong,
    HeadTooLarge,
    HeadTimeout,
    BodyTooLarge,
    BodyTimeout,
    Misdirected,
    /// It went away, or reset the stream. No answer.
    ClientGone,
    // ---- the routes
    NoHost,
    NoRoute,
    RuleBroken,
    NoBackend,
    NoEndpoint,
    // ---- the backend
    Overloaded,
    Unreachable,
    ConnectTimeout,
    BackendLost,
    BackendBroke(&'static str),
    BackendTimeout,
    RequestTimeout,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadHead(_) | Self::BadFraming(_) | Self::BadHost(_) | Self::BadPath(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::NoHost | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::LineTooLong => StatusCode::URI_TOO_LONG,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RuleBroken | Self::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unreachable | Self::BackendLost | Self::BackendBroke(_) => StatusCode::BAD_GATEWAY,
            Self::NoEndpoint | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::BackendTimeout | Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            // Nobody reads it; the log shows nginx's number.
            Self::ClientGone => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        }
    }

    /// A closed set, so that no peer can add a metric series.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadHead(_) => "bad_head",
            Self::BadFraming(_) => "bad_framing",
            Self::BadHost(_) => "bad_host",
            Self::BadPath(_) => "bad_path",
            Self::Method => "method_refused",
            Self::Expectation => "expectation_refused",
            Self::LineTooLong => "line_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Misdirected => "misdirected",
            Self::ClientGone => "client_gone",
            Self::NoHost => "no_host",
            Self::NoRoute => "no_route",
            Self::RuleBroken => "rule_broken",
            Self::NoBackend => "no_backend",
            Self::NoEndpoint => "no_ready_endpoint",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "backend_unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::BackendLost => "backend_lost",
            Self::BackendBroke(_) => "backend_broke",
            Self::BackendTimeout => "backend_timeout",
            Self::RequestTimeout => "request_timeout",
        }
    }

    /// One line for people, without anything that a peer wrote.
    pub fn why(self) -> &'static str {
        match self {
            Self::BadHead(why)
            | Self::BadFraming(why)
            | Self::BadHost(why)
            | Self::BadPath(why)
            | Self::BackendBroke(why) => why,
            Self::Method => "this method is not served here",
            Self::Expectation => "the only expectation that is met is 100-continue",
            Self::LineTooLong => "the request's target is too long",
            Self::HeadTooLarge => "the request's head has too many or too long fields",
            Self::HeadTimeout => "the request's head did not arrive in time",
            Self::BodyTooLarge => "the request's body is larger than this host allows",
            Self::BodyTimeout => "the request's body stopped arriving",
            Self::Misdirected => "this connection is for another host; connect anew",
            Self::ClientGone => "the client went away",
            Self::NoHost => "no such host here",
            Self::NoRoute => "no route for this request",
            Self::RuleBroken => "the rule for this request does not compile",
            Self::NoBackend => "the rule for this request leads to no backend",
            Self::NoEndpoint => "the backend has no ready endpoint",
            Self::Overloaded => "the backend has as many connections as it may have",
            Self::Unreachable => "the backend does not take connections",
            Self::ConnectTimeout => "the backend did not take the connection in time",
            Self::BackendLost => "the backend closed the connection before it answered",
            Self::BackendTimeout => "the backend did not answer in time",
            Self::RequestTimeout => "the time for this request is over",
        }
    }

    /// Whether nothing that follows on this connection can be believed to be a request: the client is mistaken, or hopes that somebody
    /// else is. What follows a CONNECT was meant for the tunnel.
    pub(crate) fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::BadHead(_)
                | Self::BadFraming(_)
                | Self::BadHost(_)
                | Self::BadPath(_)
                | Self::Method
                | Self::Expectation
                | Self::LineTooLong
                | Self::HeadTooLarge
                | Self::HeadTimeout
                | Self::BodyTooLarge
                | Self::BodyTimeout
        )
    }
}

/// All words of [`Refusal::reason`].
pub(crate) const REASONS: &[&str] = &[
    "bad_head",
    "bad_framing",
    "bad_host",
    "bad_path",
    "method_refused",
    "expectation_refused",
    "line_too_long",
    "head_too_large",
    "head_timeout",
    "body_too_large",
    "body_timeout",
    "misdirected",
    "client_gone",
    "no_host",
    "no_route",
    "rule_broken",
    "no_backend",
    "no_ready_endpoint",
    "overloaded",
    "backend_unreachable",
    "connect_timeout",
    "backend_lost",
    "backend_broke",
    "backend_timeout",
    "request_timeout",
];
/// The word of a request that was served.
pub const OK: &str = "ok";
/// The word of one that asked for a challenge and was answered.
pub const ACME_CHALLENGE: &str = "acme_challenge";

#[cfg(test)]
mod tests {
    /// The words stand in logs and metrics; whoever meets one must find what it means.
    #[test]
    fn every_reason_is_explained() {
        let source = include_str!("refusal.rs");
        let reasons =
            source.split("pub fn reason").nth(1).and_then(|rest| rest.split("pub fn").next()).unwrap();
        let words: Vec<&str> =
            reasons.lines().filter_map(|line| line.split("=> \"").nth(1)?.split('"').next()).collect();
        assert_eq!(words, super::REASONS);
        let page = include_str!("../../docs/http.md");
        for word in words {
            assert!(page.contains(&format!("| `{word}` |")), "{word} is missing in docs/http.md");
        }
    }
}
