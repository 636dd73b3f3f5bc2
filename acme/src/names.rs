//! Which names one certificate is for: the identity of a certificate here, on every replica and after every restart.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// DNS names of one certificate: at least one, lower case, sorted, each once. Wildcards of one label are names; an exact name that
/// a wildcard of the same set covers is left out, because Let's Encrypt refuses such a set as redundant.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct NameSet(Vec<String>);

impl NameSet {
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Self, BadNames> {
        let mut parsed = Vec::new();
        for name in names {
            parsed.push(parse(name.as_ref())?);
            if parsed.len() > MAX_NAMES * 2 {
                return Err(BadNames::Many);
            }
        }
        parsed.sort();
        parsed.dedup();
        let wildcards: Vec<String> =
            parsed.iter().filter_map(|name| name.strip_prefix("*.").map(str::to_owned)).collect();
        parsed.retain(|name| {
            let above = name.split_once('.').map_or("", |(_, above)| above);
            name.starts_with("*.") || !wildcards.iter().any(|wildcard| wildcard == above)
        });
        match parsed.len() {
            0 => Err(BadNames::None),
            1..=MAX_NAMES => Ok(Self(parsed)),
            _ => Err(BadNames::Many),
        }
    }

    /// Of the record and of the Secret that holds it: `acme-` and 32 hexadecimal digits, a hash of the names.
    pub fn id(&self) -> String {
        let hash = Sha256::digest(self.0.join(",").as_bytes());
        let mut id = String::from("acme-");
        for byte in &hash[..ID_BYTES] {
            id.push_str(&format!("{byte:02x}"));
        }
        id
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a set has at least one name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has_wildcard(&self) -> bool {
        self.0.iter().any(|name| name.starts_with("*."))
    }

    /// Whether it has exactly this name, as it is written in a certificate.
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|own| own == name)
    }

    /// Whether a browser that dials `host` accepts a certificate for these names.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let above = host.split_once('.').map(|(_, above)| above);
        self.iter().any(|name| match name.strip_prefix("*.") {
            Some(below) => name == host || (above == Some(below) && !host.starts_with("*.")),
            None => name == host,
        })
    }
}

impl fmt::Display for NameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl TryFrom<Vec<String>> for NameSet {
    type Error = BadNames;

    fn try_from(names: Vec<String>) -> Result<Self, BadNames> {
        Self::new(names)
    }
}

impl From<NameSet> for Vec<String> {
    fn from(names: NameSet) -> Self {
        names.0
    }
}

/// One name in lower case, or why no CA would put it into a certificate.
fn parse(name: &str) -> Result<String, BadNames> {
    let bad = |why| BadNames::Name { name: name.chars().take(SHOWN).collect(), why };
    let host = name.strip_prefix("*.").unwrap_or(name);
    if host.is_empty() || name.len() > MAX_NAME {
        return Err(bad("it must have 1 to 253 characters"));
    }
    for label in host.split('.') {
        let is_ldh = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !(1..=MAX_LABEL).contains(&label.len())
            || !is_ldh
            || label.starts_with('-')
            || label.ends_with('-')
        {
            return Err(bad(
                "its labels must be 1 to 63 letters, digits and inner hyphens (other letters as xn--...)",
            ));
        }
    }
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(bad("it is an address; only DNS names are ordered"));
    }
    Ok(name.to_ascii_lowercase())
}

/// Why names make no certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadNames {
    #[error("no name at all")]
    None,
    #[error("more than {MAX_NAMES} names in one certificate; divide them over several tls sections")]
    Many,
    #[error("{name:?}: {why}")]
    Name { name: String, why: &'static str },
}

/// Let's Encrypt's profile `classic`; others take 25 ([`crate::issuer::Issuer::most_names`]).
pub const MAX_NAMES: usize = 100;
const MAX_NAME: usize = 253; // RFC 1035 2.3.4, in text
const MAX_LABEL: usize = 63; // RFC 1035 2.3.4
const ID_BYTES: usize = 16; // no two sets of one cluster share it by chance, and nobody gains by a collision with oneself
const SHOWN: usize = 100; // characters of a bad name in messages

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_lower_case_sorted_once_each_and_without_what_a_wildcard_covers() {
        let set = NameSet::new(["B.example.com", "a.EXAMPLE.com", "b.example.com"]).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), ["a.example.com", "b.example.com"]);
        let wild =
            NameSet::new(["*.example.com", "a.example.com", "example.com", "b.a.example.com"]).unwrap();
        assert_eq!(wild.iter().collect::<Vec<_>>(), ["*.example.com", "b.a.example.com", "example.com"]);
        assert!(wild.has_wildcard() && !set.has_wildcard());
    }

    #[test]
    fn what_no_ca_certifies_is_refused_by_name() {
        for name in [
            "",
            "*.",
            ".",
            "a..b",
            "-a.example",
            "a-.example",
            "a_b.example",
            "*.*.example",
            "a.*.example",
            "*a.example",
            "bücher.example",
            "10.0.0.1",
            "a b.example",
            "example.com.",
            "a/b.example",
        ] {
            let error = NameSet::new([name]).unwrap_err();
            assert!(matches!(&error, BadNames::Name { name: said, .. } if said == name), "{name}: {error}");
        }
        assert_eq!(NameSet::new(Vec::<String>::new()), Err(BadNames::None));
        let many = (0..=MAX_NAMES).map(|n| format!("h{n}.example.com"));
        assert_eq!(NameSet::new(many), Err(BadNames::Many));
        assert!(NameSet::new([format!("{}.example", "a".repeat(64))]).is_err());
    }

    #[test]
    fn the_id_is_the_same_for_the_same_names_and_for_ever() {
        let set = NameSet::new(["b.example.com", "a.example.com"]).unwrap();
        assert_eq!(set.id(), NameSet::new(["A.example.com", "b.example.com"]).unwrap().id());
        assert_eq!(set.id(), "acme-92c7f247bd1eea8d527fb05919e9be81"); // stored records are found by it
        assert_ne!(set.id(), NameSet::new(["a.example.com"]).unwrap().id());
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let set = NameSet::new(["*.example.com", "other.org"]).unwrap();
        for (host, covered) in [
            ("a.example.com", true),
            ("*.example.com", true),
            ("A.Example.com", true),
            ("other.org", true),
            ("example.com", false),
            ("b.a.example.com", false),
            ("a.other.org", false),
            ("*.a.example.com", false),
        ] {
            assert_eq!(set.covers(host), covered, "{host}");
        }
    }

    proptest! {
        #[test]
        fn a_stored_set_is_read_back_as_it_was(names in proptest::collection::vec("(\\*\\.)?[a-z]{1,8}(\\.[a-z][a-z0-9]{0,8}){1,3}", 1..20)) {
            let set = NameSet::new(&names).unwrap();
            let json = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<NameSet>(&json).unwrap(), set);
        }
    }
}
