//! What a certificate authority asks for over HTTP.

use std::{fmt, sync::Arc};

use super::Hostname;

/// An HTTP-01 challenge: who asks `host` for its token is told its key authorization.
///
/// Shape: a token of base64url, 1 to 128 bytes; the key authorization is the token, a dot, and the thumbprint of the account's
/// key in base64url, at most 256 bytes: nothing in it could be more than that to a browser. Neither is a secret. Errors:
/// [`BadChallenge`]. Source: RFC 8555 8.1 and 8.3.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Http01 {
    host: Hostname,
    key_authorization: Arc<str>,
    /// Bytes of it that are the token.
    token: usize,
}

/// Why it is none; the field comes first.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field} {why}")]
pub struct BadChallenge {
    pub field: &'static str,
    pub why: &'static str,
}

impl Http01 {
    pub fn new(host: Hostname, token: &str, key_authorization: &str) -> Result<Self, BadChallenge> {
        let wrong = |field, why| Err(BadChallenge { field, why });
        if !is_base64url(token) || token.len() > MAX_TOKEN {
            return wrong("token", "is not base64url of 1 to 128 bytes");
        }
        let thumbprint = key_authorization.strip_prefix(token).and_then(|rest| rest.strip_prefix('.'));
        if key_authorization.len() > MAX_KEY_AUTHORIZATION || !thumbprint.is_some_and(is_base64url) {
            return wrong(
                "key_authorization",
                "is not the token, a dot and a thumbprint in base64url, 256 bytes at most",
            );
        }
        Ok(Self { host, key_authorization: key_authorization.into(), token: token.len() })
    }

    pub fn host(&self) -> &Hostname {
        &self.host
    }

    pub fn token(&self) -> &str {
        &self.key_authorization[..self.token]
    }

    pub fn key_authorization(&self) -> &str {
        &self.key_authorization
    }

    /// Where it is asked for: the path, as it must be written.
    pub fn path(&self) -> String {
        format!("{HTTP_01}{}", self.token())
    }
}

impl fmt::Debug for Http01 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http01({}, {})", self.host, self.token())
    }
}

fn is_base64url(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Before the token (RFC 8555 8.3).
pub(crate) const HTTP_01: &str = "/.well-known/acme-challenge/";
/// Let's Encrypt's have 43 bytes: 256 bits.
const MAX_TOKEN: usize = 128;
/// A thumbprint is SHA-256's, 43 bytes, and a dot.
const MAX_KEY_AUTHORIZATION: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_authority_asks_for_is_refused_by_name() {
        let (long, longer) = ("t".repeat(128), "t".repeat(129));
        let new = |token: &str, authorization: &str| {
            Http01::new("a.example".parse().unwrap(), token, authorization).map_err(|bad| bad.field)
        };
        let good = new("to-ken_1", "to-ken_1.Th-umb_print").unwrap();
        assert_eq!((good.token(), good.key_authorization()), ("to-ken_1", "to-ken_1.Th-umb_print"));
        assert_eq!(good.path(), "/.well-known/acme-challenge/to-ken_1");
        assert!(new(&long, &format!("{long}.{}", &long[..127])).is_ok());
        for (token, authorization, field) in [
            ("", ".x", "token"),
            ("a/b", "a/b.x", "token"),
            ("a.b", "a.b.x", "token"),
            ("..", "...x", "token"),
            ("a%41", "a%41.x", "token"),
            ("a b", "a b.x", "token"),
            ("ä", "ä.x", "token"),
            (&longer, &format!("{longer}.x"), "token"),
            ("a", "", "key_authorization"),
            ("a", "a", "key_authorization"),
            ("a", "a.", "key_authorization"),
            ("a", "b.x", "key_authorization"),
            ("a", "ax", "key_authorization"),
            ("a", "a.x\r\nset-cookie: x", "key_authorization"),
            ("a", "a.<script>", "key_authorization"),
            ("a", "a.x.y", "key_authorization"),
            (&long, &format!("{long}.{long}"), "key_authorization"),
        ] {
            assert_eq!(new(token, authorization).unwrap_err(), field, "{token:?} {authorization:?}");
        }
    }
}
