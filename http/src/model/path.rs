//! Paths, patterns and templates of a rule.

use std::{fmt, str::FromStr, sync::Arc};

/// A path that a rule compares with or writes.
///
/// Shape: begins with `/`; visible ASCII without `?`, `#` and `\`, other characters as `%` and two hex digits; no empty, `.` or
/// `..` element, however spelled, but the last may be empty. Size: 1024 bytes, the Gateway API's. Errors: [`BadPath`].
/// Source: Gateway API v1.6 HTTPPathMatch, Ingress v1 validation, which forbid the same.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Path(Arc<str>);

impl Path {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Path {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        let wrong = |why| BadPath { path: text.chars().take(SHOWN).collect(), why };
        let Some(elements) = text.strip_prefix('/') else { return Err(wrong("does not begin with /")) };
        if text.len() > MAX_PATH {
            return Err(wrong("is longer than 1024 bytes"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\')) {
            return Err(wrong("has a character that must be written as % and two hex digits, or ? or #"));
        }
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let hex = rest.get(at + 1..at + 3).unwrap_or_default();
            match u8::from_str_radix(hex, 16) {
                Ok(0 | b'/' | b'\\') => {
                    return Err(wrong("encodes a NUL, / or \\, which is refused in requests"));
                }
                Ok(_) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => rest = &rest[at + 3..],
                _ => return Err(wrong("has a % without two hex digits")),
            }
        }
        let dots = |element: &str| {
            let plain = element.to_ascii_lowercase().replace("%2e", ".");
            matches!(plain.split(';').next(), Some("." | ".."))
        };
        if elements.split('/').any(dots) || elements.contains("//") || elements.starts_with('/') {
            return Err(wrong("has an empty, . or .. element"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Compared, case-sensitively, with the request's path in its normal form (docs/http.md).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PathMatch {
    /// The whole path; `/a` and `/a/` are two.
    Exact(Path),
    /// By element: `/a` takes `/a`, `/a/` and `/a/b`, not `/ab`. A slash at its end says nothing.
    Prefix(Path),
    Regex(Pattern),
}

impl PathMatch {
    /// What matches every path.
    pub fn any() -> Self {
        Self::Prefix(Path("/".into()))
    }
}

/// A regular expression in the syntax of the `regex` crate, which has neither look-around nor back-references and runs in
/// linear time. It is compiled with the table: a bad or too large one makes only its rule answer 500, and is reported.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Pattern {
    pub text: Arc<str>,
    pub case: Case,
    pub anchor: Anchor,
}

impl Pattern {
    /// As the Gateway API's implementations read it: the whole value, case-sensitively.
    pub fn gateway(text: &str) -> Self {
        Self { text: text.into(), case: Case::Sensitive, anchor: Anchor::Whole }
    }

    /// As ingress-nginx reads a path with use-regex: from the start of the path, in any case.
    pub fn nginx(text: &str) -> Self {
        Self { text: text.into(), case: Case::Insensitive, anchor: Anchor::Start }
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Case {
    Sensitive,
    Insensitive,
}

/// What must be matched.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Anchor {
    /// All of the value.
    Whole,
    /// A beginning of it.
    Start,
}

/// A path to write, with `$1` to `$9` for what a regex caught; `$$` is a dollar.
///
/// Shape: begins with `/` or `$`; between the groups what a [`Path`] may hold. What comes out is checked again, because a
/// group holds what a client wrote. Size: 1024 bytes. Errors: [`BadTemplate`].
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Template {
    pieces: Arc<[Piece]>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Piece {
    Text(Box<str>),
    Group(u8),
}

impl Template {
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

impl FromStr for Template {
    type Err = BadTemplate;

    fn from_str(text: &str) -> Result<Self, BadTemplate> {
        let wrong = |why| BadTemplate { template: text.chars().take(SHOWN).collect(), why };
        if !text.starts_with(['/', '$']) || text.len() > MAX_PATH {
            return Err(wrong("does not begin with / or $, or is longer than 1024 bytes"));
        }
        let (mut pieces, mut literal, mut chars) = (Vec::new(), String::new(), text.chars());
        while let Some(c) = chars.next() {
            match c {
                '$' => match chars.next() {
                    Some('$') => literal.push('$'),
                    Some(digit @ '1'..='9') => {
                        if !literal.is_empty() {
                            pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
                        }
                        pieces.push(Piece::Group(u8::try_from(digit).map_or(0, |byte| byte - b'0')));
                    }
                    _ => return Err(wrong("has a $ that is not followed by 1 to 9 or $")),
                },
                '?' | '#' | '\\' => return Err(wrong("has a ?, # or \\")),
                c if c.is_ascii_graphic() => literal.push(c),
                _ => return Err(wrong("has a character that must be written as % and two hex digits")),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self { pieces: pieces.into() })
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("path {path:?} {why}")]
pub struct BadPath {
    path: String,
    why: &'static str,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("rewrite target {template:?} {why}")]
pub struct BadTemplate {
    template: String,
    why: &'static str,
}

const MAX_PATH: usize = 1024;
const SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_not_paths() {
        for path in [
            "",
            "a",
            "//",
            "/a//b",
            "/.",
            "/..",
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/..;x/b",
            "/a?b",
            "/a#b",
            "/a\\b",
            "/a b",
            "/ä",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/%00",
            "/a%2fb",
            "/a%5Cb",
            "/a\n",
        ] {
            assert!(path.parse::<Path>().is_err(), "{path:?}");
        }
        for path in ["/", "/a", "/a/", "/a/b.c/..d", "/%C3%A4", "/a;b=c", "/.well-known/x"] {
            assert_eq!(path.parse::<Path>().unwrap().as_str(), path);
        }
        assert!(format!("/{}", "a".repeat(1024)).parse::<Path>().is_err());
    }

    #[test]
    fn a_template_is_text_and_groups() {
        let template = "/x/$2$1/$$y".parse::<Template>().unwrap();
        let text = |t: &str| Piece::Text(t.into());
        assert_eq!(template.pieces(), [text("/x/"), Piece::Group(2), Piece::Group(1), text("/$y")]);
        for bad in ["", "x", "/$", "/$0", "/$x", "/a?b=$1", "/ä", "/\n"] {
            assert!(bad.parse::<Template>().is_err(), "{bad:?}");
        }
    }
}
