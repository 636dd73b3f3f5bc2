//! AWS Signature Version 4 of one request (AWS "Create a signed AWS API request"): canonical request -> string to sign -> a key
//! derived for the day -> HMAC. Pure; tested against AWS's published vectors.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

/// Who signs, and for which service where.
pub(crate) struct Signer<'a> {
    pub(crate) access_key_id: &'a str,
    pub(crate) secret_access_key: &'a str,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

/// What is signed.
pub(crate) struct Unsigned<'a> {
    pub(crate) method: &'a str,
    /// As it stands in the request line: absolute, normalized, percent-encoded.
    pub(crate) path: &'a str,
    /// As it stands in the request line, see [`query`].
    pub(crate) query: &'a str,
    /// All that are signed, `host` and `x-amz-date` among them: lower-case names, sorted.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

impl Signer<'_> {
    /// The value of `Authorization`. `at` is that of `x-amz-date`, as 20150830T123600Z.
    pub(crate) fn authorization(&self, request: &Unsigned<'_>, at: &str) -> String {
        let date = at.split('T').next().unwrap_or_default();
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let names = request.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hash(canonical(request, &names).as_bytes()));
        let signature = hex(hmac::sign(&self.key(date), to_sign.as_bytes()).as_ref());
        let id = self.access_key_id;
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
    }

    fn key(&self, date: &str) -> hmac::Key {
        let mut key = Zeroizing::new(format!("AWS4{}", self.secret_access_key).into_bytes());
        for part in [date, self.region, self.service, "aws4_request"] {
            let next = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes());
            key = Zeroizing::new(next.as_ref().to_vec());
        }
        hmac::Key::new(hmac::HMAC_SHA256, &key)
    }
}

/// A query as it is sent and signed: sorted, with everything encoded that RFC 3986 2.3 does not call unreserved.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    pairs.sort();
    pairs.join("&")
}

fn canonical(request: &Unsigned<'_>, names: &str) -> String {
    let Unsigned { method, path, query, headers, body } = request;
    let mut headers_text = String::new();
    for (name, value) in *headers {
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(headers_text, "{name}:{value}"); // a String takes everything
    }
    format!("{method}\n{path}\n{query}\n{headers_text}\n{names}\n{}", hash(body))
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AWS's test suite aws-sig-v4-test-suite: these keys, this instant, service `service` in us-east-1.
    const VECTORS: Signer<'static> = Signer {
        access_key_id: "AKIDEXAMPLE",
        secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        region: "us-east-1",
        service: "service",
    };
    const AT: &str = "20150830T123600Z";
    const HOST: (&str, &str) = ("host", "example.amazonaws.com");
    const DATE: (&str, &str) = ("x-amz-date", AT);
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

    #[test]
    fn the_published_vectors_have_their_signatures() {
        let vectors: &[(&str, Unsigned<'_>, &str)] = &[
            (
                "get-vanilla",
                Unsigned { method: "GET", path: "/", query: "", headers: &[HOST, DATE], body: b"" },
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-vanilla-query-order-key-case",
                Unsigned {
                    method: "GET",
                    path: "/",
                    query: &query(&[("Param2", "value2"), ("Param1", "value1")]),
                    headers: &[HOST, DATE],
                    body: b"",
                },
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "post-vanilla",
                Unsigned { method: "POST", path: "/", query: "", headers: &[HOST, DATE], body: b"" },
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                Unsigned {
                    method: "POST",
                    path: "/",
                    query: "",
                    headers: &[FORM, HOST, DATE],
                    body: b"Param1=value1",
                },
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-sts-header-before",
                Unsigned {
                    method: "POST",
                    path: "/",
                    query: "",
                    headers: &[HOST, DATE, ("x-amz-security-token", TOKEN)],
                    body: b"",
                },
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ];
        for (name, request, signature) in vectors {
            let authorization = VECTORS.authorization(request, AT);
            assert_eq!(authorization.rsplit('=').next(), Some(*signature), "{name}");
        }
    }

    #[test]
    fn the_example_of_the_manual_has_its_authorization() {
        let request = Unsigned {
            method: "GET",
            path: "/",
            query: &query(&[("Version", "2010-05-08"), ("Action", "ListUsers")]),
            headers: &[
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("host", "iam.amazonaws.com"),
                DATE,
            ],
            body: b"",
        };
        assert_eq!(
            Signer { service: "iam", ..VECTORS }.authorization(&request, AT),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    #[test]
    fn a_query_is_sorted_and_encoded_as_it_is_signed() {
        let pairs = [("name", "_acme-challenge.a b.example.com."), ("maxitems", "1"), ("t", "ü/+*")];
        assert_eq!(query(&pairs), "maxitems=1&name=_acme-challenge.a%20b.example.com.&t=%C3%BC%2F%2B%2A");
    }

    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
}
