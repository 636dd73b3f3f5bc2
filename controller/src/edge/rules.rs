//! One Ingress's paths of one host -> rules of the route model, and how they are shown. Pure.
//!
//! `Prefix` goes by element; `ImplementationSpecific` is a Prefix; with use-regex or rewrite-target both are regular expressions as
//! ingress-nginx reads them, while `Exact` stays exact. What no path takes is the Ingress's default backend's, but only where no
//! Ingress of the host takes every path. Which of several rules wins is the model's business (`signet_http::model::Match`).

use std::sync::Arc;

use http::StatusCode;
use signet_http::model::{
    Action, Forward, HeaderEdits, Match, PathMatch, PathRewrite, Pattern, Plaintext, Respond, Rule, Target,
    Timeout, Timeouts, Weighted,
};

use super::{
    answers::{RuleAnswer, WayAnswer},
    backends::{Backends, How, Resolved, Way},
    finding::{Finding, Word},
    objects::{HostRule, Ingress, PathKind, PathRule},
};

/// What becomes of an Ingress's part in a host.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) rules: Vec<Rule>,
    pub(crate) shown: Vec<RuleAnswer>,
    pub(crate) findings: Vec<Finding>,
}

/// Whether these paths leave nothing to a default backend.
pub(crate) fn takes_everything(ingress: &Ingress, rule: &HostRule) -> bool {
    let is_any = |path: &PathRule| {
        path.kind != PathKind::Exact && !ingress.settings.regex && path.path.trim_end_matches('/').is_empty()
    };
    rule.paths.is_empty() || rule.paths.iter().any(is_any)
}

/// `rules`: those of one host. `fallback`: the default backend is to take what they leave.
pub(crate) fn part(
    ingress: &Ingress,
    rules: &[&HostRule],
    fallback: bool,
    plaintext: Plaintext,
    backends: &mut Backends<'_>,
) -> Part {
    let mut part = Part::default();
    for path in rules.iter().flat_map(|rule| &rule.paths) {
        match condition(ingress, path) {
            Ok((condition, kind)) => {
                let resolved = backends.resolve(&ingress.namespace, &path.backend, ingress.settings.protocol);
                part.add(ingress, vec![Match::path(condition)], &resolved, plaintext, kind, &path.path);
            }
            Err(finding) => part.findings.push(finding),
        }
    }
    let is_whole = rules.iter().any(|rule| rule.paths.is_empty());
    if let Some(default) = ingress.default_backend.as_ref().filter(|_| fallback || is_whole) {
        let resolved = backends.resolve(&ingress.namespace, default, ingress.settings.protocol);
        part.add(ingress, Vec::new(), &resolved, plaintext, "default", "/");
    } else if is_whole {
        let why =
            "a rule without paths leaves its host to the default backend, and there is none: it answers 404";
        part.findings.push(Finding::new(Word::BadValue, why));
    }
    part.findings.sort();
    part.findings.dedup();
    part
}

impl Part {
    fn add(
        &mut self,
        ingress: &Ingress,
        matches: Vec<Match>,
        resolved: &Resolved,
        plaintext: Plaintext,
        kind: &str,
        path: &str,
    ) {
        let settings = &ingress.settings;
        let rewrite = match &settings.rewrite {
            Some(rewrite) if !matches.is_empty() => Some(rewrite),
            _ => None, // a default backend sees the path as it is
        };
        let action = action(resolved, rewrite);
        let answers = match &action {
            Action::Respond(respond) => Some(respond.status.as_u16()),
            _ => None,
        };
        self.shown.push(RuleAnswer {
            ingress: format!("{}/{}", ingress.namespace, ingress.name),
            kind: kind.into(),
            path: path.into(),
            backend: resolved.backend.as_ref().map(|backend| backend.name.to_string()),
            answers,
            endpoints: resolved.ways.iter().map(shown).collect(),
        });
        let after = |limit: Option<std::time::Duration>| limit.map_or(Timeout::Default, Timeout::After);
        let timeouts =
            Timeouts { connect: after(settings.connect), idle: after(settings.idle), ..Timeouts::default() };
        self.rules.push(Rule {
            matches,
            plaintext,
            timeouts,
            max_body: settings.max_body,
            ..Rule::new(action)
        });
        self.findings.extend(resolved.findings.iter().cloned());
    }
}

/// The path's match, and the word for it.
fn condition(ingress: &Ingress, path: &PathRule) -> Result<(PathMatch, &'static str), Finding> {
    if ingress.settings.regex && path.kind != PathKind::Exact {
        return match path.path.len() {
            ..=MAX_PATTERN => Ok((PathMatch::Regex(Pattern::nginx(&path.path)), "regex")),
            _ => Err(Finding::new(
                Word::BadValue,
                format!("{}.path: is longer than {MAX_PATTERN} bytes; it is left out", path.field),
            )),
        };
    }
    let parsed = path
        .path
        .parse()
        .map_err(|why| Finding::new(Word::BadValue, format!("{}.path: {why}; it is left out", path.field)))?;
    Ok(match path.kind {
        PathKind::Exact => (PathMatch::Exact(parsed), "exact"),
        PathKind::Prefix | PathKind::ImplementationSpecific => (PathMatch::Prefix(parsed), "prefix"),
    })
}

fn action(resolved: &Resolved, rewrite: Option<&Result<PathRewrite, String>>) -> Action {
    let path = match rewrite {
        None => None,
        Some(Ok(rewrite)) => Some(rewrite.clone()),
        // Nothing is sent to a path that nobody meant.
        Some(Err(_)) => return Action::Respond(Respond::status(StatusCode::INTERNAL_SERVER_ERROR)),
    };
    match &resolved.target {
        Target::Respond(respond) => Action::Respond(respond.clone()),
        Target::Backend(name) => {
            let weighted = Weighted {
                target: Target::Backend(Arc::clone(name)),
                weight: 1,
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
            };
            Action::Forward(Forward { backends: vec![weighted], path, ..Forward::default() })
        }
    }
}

fn shown(way: &Way) -> WayAnswer {
    let (transport, detail) = match &way.how {
        How::Mesh(id) => ("mesh", id.clone()),
        How::Tls => ("tls", "app_tls".to_owned()),
        How::Plain(why) => ("plain", why.clone()),
        How::Refused(why) => ("refused", why.clone()),
    };
    WayAnswer { address: way.address.to_string(), pod: way.pod.clone(), transport: transport.into(), detail }
}

/// Bytes; what the gateway takes.
const MAX_PATTERN: usize = 1024;
