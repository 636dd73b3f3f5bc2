//! Host names, and patterns of them that say how many labels their wildcard takes.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// A DNS name in lower case.
///
/// Shape: labels of `a-z 0-9 - _` that neither begin nor end with `-`, joined by single dots; no dot at the end, no wildcard,
/// no IP address, which the last label gives away. Upper case is folded. Size: labels of 63 bytes, 253 in all; a clone is a
/// reference count. Errors: [`NotAHostname`]. Source: RFC 1123 2.1; `_` because names with it are in use.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hostname(Arc<str>);

impl Hostname {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = NotAHostname;

    fn from_str(text: &str) -> Result<Self, NotAHostname> {
        let wrong = |why| NotAHostname { host: text.chars().take(SHOWN).collect(), why };
        if text.is_empty() || text.len() > MAX_NAME {
            return Err(wrong("is empty or longer than 253 bytes"));
        }
        let label = |l: &str| {
            (1..=MAX_LABEL).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if !text.split('.').all(label) {
            return Err(wrong("has a label that is not 1 to 63 of a-z, 0-9, - and _"));
        }
        if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(wrong("is an IP address or ends like one"));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which hosts. An exact one is more specific than a wildcard, a wildcard of a longer suffix more than one of a shorter, one
/// label more than any number, and any host the least.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HostPattern {
    Any,
    Exact(Hostname),
    /// `*.` and this suffix.
    Wildcard(Hostname, Labels),
}

/// How many labels stand for the `*`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Labels {
    /// Exactly one: Ingress v1, and certificates.
    One,
    /// One or more: the Gateway API.
    Any,
}

impl HostPattern {
    /// `host` of an Ingress rule; absent or empty: every host.
    pub fn ingress(host: Option<&str>) -> Result<Self, NotAHostname> {
        Self::parse(host, Labels::One)
    }

    /// A hostname of a Gateway API listener or route.
    pub fn gateway(host: Option<&str>) -> Result<Self, NotAHostname> {
        Self::parse(host, Labels::Any)
    }

    fn parse(host: Option<&str>, labels: Labels) -> Result<Self, NotAHostname> {
        match host {
            None | Some("") => Ok(Self::Any),
            Some(host) => match host.strip_prefix("*.") {
                Some(suffix) => Ok(Self::Wildcard(suffix.parse()?, labels)),
                None => Ok(Self::Exact(host.parse()?)),
            },
        }
    }

    /// `host` in lower case, without a port.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name.as_str() == host,
            Self::Wildcard(suffix, labels) => {
                let before = host.strip_suffix(suffix.as_str()).and_then(|rest| rest.strip_suffix('.'));
                before.is_some_and(|l| !l.is_empty() && (*labels == Labels::Any || !l.contains('.')))
            }
        }
    }
}

/// As it stands in a manifest; `*` for any host.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => name.fmt(f),
            Self::Wildcard(suffix, _) => write!(f, "*.{suffix}"),
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("host {host:?} {why}; expected a DNS name such as app.example.com or *.example.com")]
pub struct NotAHostname {
    host: String,
    why: &'static str,
}

const MAX_NAME: usize = 253; // RFC 1035 2.3.4, without the root's length byte
const MAX_LABEL: usize = 63;
const SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_not_hostnames() {
        for host in [
            "", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "*.a", "a b", "a:80", "10.0.0.1", "::1", "a/b",
            "ä.b",
        ] {
            assert!(host.parse::<Hostname>().is_err(), "{host:?}");
        }
        assert!(format!("{}.b", "a".repeat(64)).parse::<Hostname>().is_err());
        assert!("a.".repeat(127).parse::<Hostname>().is_err());
        assert_eq!("A.Example.COM".parse::<Hostname>().unwrap().as_str(), "a.example.com");
    }

    #[test]
    fn an_ingress_wildcard_takes_one_label_and_a_gateways_any_number() {
        let (one, any) =
            (HostPattern::ingress(Some("*.a.b")).unwrap(), HostPattern::gateway(Some("*.a.b")).unwrap());
        for (host, by_one, by_any) in [
            ("x.a.b", true, true),
            ("y.x.a.b", false, true),
            ("a.b", false, false),
            (".a.b", false, false),
            ("xa.b", false, false),
            ("x.a.b.c", false, false),
        ] {
            assert_eq!((one.matches(host), any.matches(host)), (by_one, by_any), "{host}");
        }
        assert_eq!(HostPattern::ingress(Some("")).unwrap(), HostPattern::Any);
        assert!(HostPattern::gateway(Some("*")).is_err());
        assert!(HostPattern::gateway(Some("a.*.b")).is_err());
    }
}
