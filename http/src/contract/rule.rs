//! The rules of a route.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use signet_api::edge::{self, rule, weighted};

use super::{
    MAX_NAME, Wrong, at, duration, each, edits, encode_duration, encode_edits, encode_scheme, header_name,
    hostname, known, name, needs, path, port, respond, scheme, shown, some, status, text, wrong,
};
use crate::model::{
    Action, Forward, HeaderMatch, Match, PathMatch, Plaintext, QueryMatch, Redirect, RedirectStatus, Respond,
    Retry, Rule, Target, Timeout, Timeouts, Weighted,
};

pub(super) fn encode(rule: &Rule) -> edge::Rule {
    let action = match &rule.action {
        Action::Forward(forward) => rule::Action::Forward(encode_forward(forward)),
        Action::Redirect(redirect) => rule::Action::Redirect(encode_redirect(redirect)),
        Action::Respond(respond) => rule::Action::Respond(respond::encode(respond)),
    };
    let plaintext = match rule.plaintext {
        Plaintext::AsHost => edge::Plaintext::AsHost,
        Plaintext::Serve => edge::Plaintext::Serve,
        Plaintext::Redirect => edge::Plaintext::Redirect,
    };
    edge::Rule {
        matches: rule.matches.iter().map(encode_match).collect(),
        action: Some(action),
        response_headers: encode_edits(&rule.response_headers),
        plaintext: plaintext.into(),
        timeouts: encode_timeouts(&rule.timeouts),
        retry: Some(encode_retry(&rule.retry)),
        max_body: rule.max_body,
        needs: Vec::new(),
    }
}

/// The rule; or what is wrong with it, and what stands in its place.
pub(super) fn decode(message: edge::Rule) -> Result<Rule, (Wrong, Box<Rule>)> {
    rule(message.clone()).map_err(|wrong| (wrong, Box::new(closed(message))))
}

/// Answers 500 to what the matches take, as far as they are understood; a condition that is not takes everything.
pub(super) fn closed(message: edge::Rule) -> Rule {
    let matched = |message: edge::Match| Match {
        path: message.path.and_then(|path| path::path_match(path).ok()).unwrap_or(PathMatch::any()),
        method: method(&message.method).unwrap_or_default(),
        headers: message.headers.into_iter().take(MAX_CONDITIONS).flat_map(header_match).collect(),
        query: message.query.into_iter().take(MAX_CONDITIONS).flat_map(query_match).collect(),
    };
    let mut rule = Rule::new(Action::Respond(Respond::status(StatusCode::INTERNAL_SERVER_ERROR)));
    if message.matches.len() <= MAX_MATCHES {
        rule.matches = message.matches.into_iter().map(matched).collect();
    }
    rule.plaintext = plaintext(message.plaintext).unwrap_or_default();
    rule
}

fn rule(message: edge::Rule) -> Result<Rule, Wrong> {
    needs(&message.needs)?;
    Ok(Rule {
        matches: each("matches", MAX_MATCHES, message.matches, decode_match)?,
        action: match some("action", message.action)? {
            rule::Action::Forward(message) => Action::Forward(at("forward", forward(message))?),
            rule::Action::Redirect(message) => Action::Redirect(at("redirect", redirect(message))?),
            rule::Action::Respond(message) => Action::Respond(at("respond", respond::decode(message))?),
        },
        response_headers: edits("response_headers", message.response_headers)?,
        plaintext: plaintext(message.plaintext)?,
        timeouts: at("timeouts", timeouts(message.timeouts.unwrap_or_default()))?,
        retry: at("retry", some("", message.retry).and_then(retry))?,
        max_body: message.max_body,
    })
}

fn plaintext(value: i32) -> Result<Plaintext, Wrong> {
    known("plaintext", value, |plaintext| match plaintext {
        edge::Plaintext::Unspecified => None,
        edge::Plaintext::AsHost => Some(Plaintext::AsHost),
        edge::Plaintext::Serve => Some(Plaintext::Serve),
        edge::Plaintext::Redirect => Some(Plaintext::Redirect),
    })
}

fn encode_match(matched: &Match) -> edge::Match {
    let header = |header: &HeaderMatch| edge::HeaderMatch {
        name: header.name.to_string(),
        value: Some(path::encode_value(&header.value)),
    };
    let parameter = |parameter: &QueryMatch| edge::QueryMatch {
        name: parameter.name.to_string(),
        value: Some(path::encode_value(&parameter.value)),
    };
    edge::Match {
        path: Some(path::encode_match(&matched.path)),
        method: matched.method.as_ref().map(ToString::to_string).unwrap_or_default(),
        headers: matched.headers.iter().map(header).collect(),
        query: matched.query.iter().map(parameter).collect(),
        needs: Vec::new(),
    }
}

fn decode_match(message: edge::Match) -> Result<Match, Wrong> {
    needs(&message.needs)?;
    Ok(Match {
        path: at("path", some("", message.path).and_then(path::path_match))?,
        method: method(&message.method)?,
        headers: each("headers", MAX_CONDITIONS, message.headers, header_match)?,
        query: each("query", MAX_CONDITIONS, message.query, query_match)?,
    })
}

/// Empty: every one.
fn method(text: &str) -> Result<Option<Method>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| text.len() <= MAX_METHOD);
    at("method", method.map(Some).ok_or_else(|| wrong(format!("{:?} is not a method", shown(text)))))
}

fn header_match(message: edge::HeaderMatch) -> Result<HeaderMatch, Wrong> {
    Ok(HeaderMatch { name: header_name("name", &message.name)?, value: path::value_match(message.value)? })
}

fn query_match(message: edge::QueryMatch) -> Result<QueryMatch, Wrong> {
    Ok(QueryMatch { name: text("name", MAX_NAME, message.name)?, value: path::value_match(message.value)? })
}

fn encode_forward(forward: &Forward) -> edge::Forward {
    edge::Forward {
        backends: forward.backends.iter().map(encode_weighted).collect(),
        request_headers: encode_edits(&forward.request_headers),
        host: forward.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        path: forward.path.as_ref().map(path::encode_rewrite),
    }
}

fn forward(message: edge::Forward) -> Result<Forward, Wrong> {
    Ok(Forward {
        backends: each("backends", MAX_BACKENDS, message.backends, weighted)?,
        request_headers: edits("request_headers", message.request_headers)?,
        host: (!message.host.is_empty()).then(|| hostname("host", &message.host)).transpose()?,
        path: path::rewrite(message.path)?,
    })
}

fn encode_weighted(weighted: &Weighted) -> edge::Weighted {
    let target = match &weighted.target {
        Target::Backend(name) => weighted::Target::Backend(name.to_string()),
        Target::Respond(respond) => weighted::Target::Respond(respond::encode(respond)),
    };
    edge::Weighted {
        target: Some(target),
        weight: weighted.weight,
        request_headers: encode_edits(&weighted.request_headers),
        response_headers: encode_edits(&weighted.response_headers),
        needs: Vec::new(),
    }
}

fn weighted(message: edge::Weighted) -> Result<Weighted, Wrong> {
    needs(&message.needs)?;
    Ok(Weighted {
        target: match some("target", message.target)? {
            weighted::Target::Backend(backend) => Target::Backend(name("backend", backend)?),
            weighted::Target::Respond(message) => Target::Respond(at("respond", respond::decode(message))?),
        },
        weight: message.weight,
        request_headers: edits("request_headers", message.request_headers)?,
        response_headers: edits("response_headers", message.response_headers)?,
    })
}

fn encode_redirect(redirect: &Redirect) -> edge::Redirect {
    edge::Redirect {
        scheme: redirect.scheme.map(|scheme| encode_scheme(scheme).into()),
        host: redirect.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        port: redirect.port.unwrap_or_default().into(),
        path: redirect.path.as_ref().map(path::encode_rewrite),
        status: redirect.status.code().as_u16().into(),
    }
}

fn redirect(message: edge::Redirect) -> Result<Redirect, Wrong> {
    let status = u16::try_from(message.status).ok().and_then(RedirectStatus::new);
    let not_one = || wrong(format!("{} is not one of 301, 302, 303, 307 and 308", message.status));
    Ok(Redirect {
        scheme: message.scheme.map(|value| scheme("scheme", value)).transpose()?,
        host: (!message.host.is_empty()).then(|| hostname("host", &message.host)).transpose()?,
        port: (message.port != 0).then(|| port("port", message.port)).transpose()?,
        path: path::rewrite(message.path)?,
        status: at("status", status.ok_or_else(not_one))?,
    })
}

fn encode_timeouts(timeouts: &Timeouts) -> Option<edge::Timeouts> {
    (*timeouts != Timeouts::default()).then(|| edge::Timeouts {
        request: encode_timeout(timeouts.request),
        backend: encode_timeout(timeouts.backend),
        connect: encode_timeout(timeouts.connect),
        idle: encode_timeout(timeouts.idle),
    })
}

fn timeouts(message: edge::Timeouts) -> Result<Timeouts, Wrong> {
    Ok(Timeouts {
        request: timeout("request", message.request)?,
        backend: timeout("backend", message.backend)?,
        connect: timeout("connect", message.connect)?,
        idle: timeout("idle", message.idle)?,
    })
}

fn encode_timeout(timeout: Timeout) -> Option<edge::Timeout> {
    match timeout {
        Timeout::Default => None,
        Timeout::Off => Some(edge::Timeout { off: true, after: None }),
        Timeout::After(after) => Some(edge::Timeout { off: false, after: Some(encode_duration(after)) }),
    }
}

fn timeout(field: &str, message: Option<edge::Timeout>) -> Result<Timeout, Wrong> {
    match message.map(|timeout| (timeout.off, timeout.after)) {
        None | Some((false, None)) => Ok(Timeout::Default),
        Some((true, None)) => Ok(Timeout::Off),
        Some((false, Some(after))) => duration(field, after).map(Timeout::After),
        Some((true, Some(_))) => at(field, Err(wrong("is off, and has a duration"))),
    }
}

fn encode_retry(retry: &Retry) -> edge::Retry {
    edge::Retry {
        attempts: retry.attempts.into(),
        statuses: retry.statuses.iter().map(|status| status.as_u16().into()).collect(),
        backoff: Some(encode_duration(retry.backoff)),
    }
}

fn retry(message: edge::Retry) -> Result<Retry, Wrong> {
    let attempts = u8::try_from(message.attempts).map_err(|_| wrong("is more than 255"));
    let statuses: Arc<[StatusCode]> =
        each("statuses", MAX_STATUSES, message.statuses, |value| status("", value))?.into();
    let backoff = message.backoff.map(|backoff| duration("backoff", backoff)).transpose()?;
    Ok(Retry { attempts: at("attempts", attempts)?, statuses, backoff: backoff.unwrap_or(Duration::ZERO) })
}

/// The Gateway API has 64 of a rule, and 16 conditions of each kind.
const MAX_MATCHES: usize = 1024;
const MAX_CONDITIONS: usize = 64;
/// Bytes; the longest registered one has 17 (IANA).
const MAX_METHOD: usize = 32;
/// The Gateway API has 16.
const MAX_BACKENDS: usize = 256;
const MAX_STATUSES: usize = 64;
