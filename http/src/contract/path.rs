//! Path matches, patterns and path rewrites.

use signet_api::edge::{self, path_match, path_rewrite, value_match};

use super::{MAX_TEXT, Wrong, at, known, some, text, wrong};
use crate::model::{Anchor, Case, PathMatch, PathRewrite, Pattern, Piece, Template, ValueMatch};

pub(super) fn encode_match(path: &PathMatch) -> edge::PathMatch {
    let kind = match path {
        PathMatch::Exact(path) => path_match::Kind::Exact(path.to_string()),
        PathMatch::Prefix(path) => path_match::Kind::Prefix(path.to_string()),
        PathMatch::Regex(pattern) => path_match::Kind::Regex(encode_pattern(pattern)),
    };
    edge::PathMatch { kind: Some(kind) }
}

pub(super) fn path_match(message: edge::PathMatch) -> Result<PathMatch, Wrong> {
    Ok(match some("", message.kind)? {
        path_match::Kind::Exact(path) => PathMatch::Exact(at("exact", path.parse().map_err(wrong))?),
        path_match::Kind::Prefix(path) => PathMatch::Prefix(at("prefix", path.parse().map_err(wrong))?),
        path_match::Kind::Regex(regex) => PathMatch::Regex(at("regex", pattern(regex))?),
    })
}

pub(super) fn encode_value(value: &ValueMatch) -> edge::ValueMatch {
    let kind = match value {
        ValueMatch::Exact(value) => value_match::Kind::Exact(value.to_string()),
        ValueMatch::Regex(pattern) => value_match::Kind::Regex(encode_pattern(pattern)),
    };
    edge::ValueMatch { kind: Some(kind) }
}

pub(super) fn value_match(message: Option<edge::ValueMatch>) -> Result<ValueMatch, Wrong> {
    Ok(match some("value", message.and_then(|value| value.kind))? {
        value_match::Kind::Exact(value) => ValueMatch::Exact(text("value", MAX_TEXT, value)?),
        value_match::Kind::Regex(regex) => ValueMatch::Regex(at("value", pattern(regex))?),
    })
}

fn encode_pattern(pattern: &Pattern) -> edge::Pattern {
    let case = match pattern.case {
        Case::Sensitive => edge::Case::Sensitive,
        Case::Insensitive => edge::Case::Insensitive,
    };
    let anchor = match pattern.anchor {
        Anchor::Whole => edge::Anchor::Whole,
        Anchor::Start => edge::Anchor::Start,
    };
    edge::Pattern { text: pattern.text.to_string(), case: case.into(), anchor: anchor.into() }
}

/// Whether it compiles is found out with the table, and costs the rule alone there, too.
fn pattern(message: edge::Pattern) -> Result<Pattern, Wrong> {
    Ok(Pattern {
        text: text("text", MAX_TEXT, message.text)?,
        case: known("case", message.case, |case| match case {
            edge::Case::Unspecified => None,
            edge::Case::Sensitive => Some(Case::Sensitive),
            edge::Case::Insensitive => Some(Case::Insensitive),
        })?,
        anchor: known("anchor", message.anchor, |anchor| match anchor {
            edge::Anchor::Unspecified => None,
            edge::Anchor::Whole => Some(Anchor::Whole),
            edge::Anchor::Start => Some(Anchor::Start),
        })?,
    })
}

pub(super) fn encode_rewrite(rewrite: &PathRewrite) -> edge::PathRewrite {
    let kind = match rewrite {
        PathRewrite::Whole(path) => path_rewrite::Kind::Whole(path.to_string()),
        PathRewrite::Prefix(path) => path_rewrite::Kind::Prefix(path.to_string()),
        PathRewrite::Captures(template) => path_rewrite::Kind::Captures(written(template)),
    };
    edge::PathRewrite { kind: Some(kind) }
}

/// Absent: the path stays.
pub(super) fn rewrite(message: Option<edge::PathRewrite>) -> Result<Option<PathRewrite>, Wrong> {
    let Some(message) = message else { return Ok(None) };
    let rewrite = match some("path", message.kind)? {
        path_rewrite::Kind::Whole(path) => path.parse().map(PathRewrite::Whole).map_err(wrong),
        path_rewrite::Kind::Prefix(path) => path.parse().map(PathRewrite::Prefix).map_err(wrong),
        path_rewrite::Kind::Captures(template) => template.parse().map(PathRewrite::Captures).map_err(wrong),
    };
    at("path", rewrite.map(Some))
}

/// A template as it parses.
fn written(template: &Template) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.replace('$', "$$"),
        Piece::Group(group) => format!("${group}"),
    };
    template.pieces().iter().map(piece).collect()
}
