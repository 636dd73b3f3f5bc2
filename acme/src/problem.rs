//! What went wrong, in the words of who said it: kept in the record, for `signet cert why`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A problem document (RFC 7807, RFC 8555 6.7), or the like of one where the CA said none. Bounded: the CA is a stranger.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Without `urn:ietf:params:acme:error:`; `None`: not the CA's words but ours about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub detail: String,
    /// HTTP's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What it says about single names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<OfName>,
}

/// A problem of one name.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OfName {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub detail: String,
}

impl Problem {
    /// Our own words.
    pub fn ours(detail: impl fmt::Display) -> Self {
        Self { detail: bounded(&detail.to_string()), ..Self::default() }
    }

    pub fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Keeps what it says of its first names, as JSON within `left` bytes, which become less.
    pub(crate) fn bound_names(&mut self, left: &mut usize) {
        let fits = |of: &OfName| -> Option<()> {
            let size = serde_json::to_vec(of).map_or(usize::MAX, |json| json.len());
            *left = left.checked_sub(size)?;
            Some(())
        };
        let kept = self.names.iter().map_while(fits).count();
        self.names.truncate(kept);
    }

    #[must_use]
    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

impl From<&instant_acme::Problem> for Problem {
    fn from(said: &instant_acme::Problem) -> Self {
        let names = said.subproblems.iter().take(crate::names::MAX_NAMES).map(|sub| OfName {
            name: sub
                .identifier
                .as_ref()
                .map(|id| bounded(&id.authorized(false).to_string()))
                .unwrap_or_default(),
            kind: sub.r#type.as_deref().map(kind),
            detail: bounded(sub.detail.as_deref().unwrap_or_default()),
        });
        Self {
            kind: Some(kind(said.r#type.as_deref().unwrap_or("about:blank"))),
            detail: bounded(said.detail.as_deref().unwrap_or("the CA gave no detail")),
            status: said.status,
            names: names.collect(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match (&self.kind, self.status) {
            (Some(kind), Some(status)) => write!(f, " ({kind}, status {status})")?,
            (Some(kind), None) => write!(f, " ({kind})")?,
            (None, Some(status)) => write!(f, " (status {status})")?,
            (None, None) => {}
        }
        for of in &self.names {
            write!(f, "; {}: {}", of.name, of.detail)?;
            if let Some(kind) = &of.kind {
                write!(f, " ({kind})")?;
            }
        }
        Ok(())
    }
}

fn kind(urn: &str) -> String {
    bounded(urn.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(urn))
}

/// One line of at most [`MAX_DETAIL`] characters.
pub(crate) fn bounded(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect()
}

/// Let's Encrypt's longest are some hundred characters, with addresses and a page's beginning in them.
const MAX_DETAIL: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cas_words_are_kept_bounded_and_on_one_line() {
        let json = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many\ncertificates","status":429,
            "subproblems":[{"type":"urn:ietf:params:acme:error:caa","detail":"no","identifier":{"type":"dns","value":"a.example"}}]}"#;
        let said: instant_acme::Problem = serde_json::from_str(json).unwrap();
        let problem = Problem::from(&said);
        assert!(problem.is("rateLimited"));
        assert_eq!(
            problem.to_string(),
            "too many certificates (rateLimited, status 429); a.example: no (caa)"
        );
        let long = instant_acme::Problem { detail: Some("x".repeat(1 << 20)), ..said };
        assert_eq!(Problem::from(&long).detail.len(), MAX_DETAIL);
        let stored = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem>(&stored).unwrap(), problem);
    }
}
