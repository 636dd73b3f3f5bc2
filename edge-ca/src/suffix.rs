//! The names that an edge CA may certify: below suffixes that can never belong to a stranger on the Internet.

use std::{fmt, str::FromStr};

/// "localhost", "test", "home.example.com": this name and all below it.
///
/// A single label must be one that the public DNS will never have (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`); a longer one is
/// the user's word that it is theirs. Errors: [`BadSuffix`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Suffix(String);

impl Suffix {
    /// Those that every edge CA has.
    pub fn always() -> [Self; 2] {
        ["localhost", "test"].map(|name| Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name`, perhaps with a `*.` in front, is this name or below it. In lower case. Never `*.test` and its like: clients
    /// believe no wildcard directly below a top-level name.
    pub fn covers(&self, name: &str) -> bool {
        let name = match name.strip_prefix("*.") {
            Some(rest) if rest.contains('.') => rest,
            Some(_) => return false,
            None => name,
        };
        match name.strip_suffix(self.0.as_str()) {
            Some("") => self.0.contains('.') || name == "localhost",
            Some(before) => before.ends_with('.') && before.len() > 1,
            None => false,
        }
    }
}

impl FromStr for Suffix {
    type Err = BadSuffix;

    fn from_str(text: &str) -> Result<Self, BadSuffix> {
        let name = text.trim_start_matches('.').to_ascii_lowercase();
        let bad = |why| BadSuffix { suffix: text.chars().take(SHOWN).collect(), why };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(bad("is no domain name"));
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad("is an IP address or ends like one"));
        }
        if !name.contains('.') && !NEVER_PUBLIC.contains(&name.as_str()) {
            return Err(bad("is a top-level domain that others may own; name a domain of yours below it"));
        }
        Ok(Self(name))
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A suffix that an edge CA must not have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{suffix:?} {why}")]
pub struct BadSuffix {
    suffix: String,
    why: &'static str,
}

/// Top-level names that are reserved, or in such wide private use that ICANN gives them to nobody.
const NEVER_PUBLIC: [&str; 11] = [
    "corp",
    "example",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localhost",
    "mail",
    "test",
];
const SHOWN: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_that_strangers_may_own_is_refused() {
        for (text, taken) in [
            ("localhost", true),
            (".test", true),
            ("internal", true),
            ("Home.Example.COM", true),
            ("com", false),
            ("dev", false),
            ("", false),
            (".", false),
            ("a..b", false),
            ("-a.test", false),
            ("*.test", false),
            ("10.0.0.1", false),
            ("a b.test", false),
        ] {
            assert_eq!(text.parse::<Suffix>().is_ok(), taken, "{text:?}");
        }
    }

    #[test]
    fn a_suffix_covers_what_is_below_it_and_nothing_that_only_ends_like_it() {
        let test: Suffix = "test".parse().unwrap();
        for (name, covered) in [
            ("blog.test", true),
            ("a.b.test", true),
            ("*.test", false),
            ("*.blog.test", true),
            ("test", false),
            ("mytest", false),
            ("blog.test.com", false),
            (".test", false),
            ("", false),
        ] {
            assert_eq!(test.covers(name), covered, "{name:?}");
        }
        let own: Suffix = "home.example.com".parse().unwrap();
        assert!(own.covers("home.example.com") && own.covers("a.home.example.com"));
        assert!(!own.covers("ahome.example.com") && !own.covers("example.com"));
        assert!("localhost".parse::<Suffix>().unwrap().covers("localhost"));
    }
}
