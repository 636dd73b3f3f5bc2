//! AWS Signature Version 4 from the other side: out of a request's own parts, with an HMAC of its own (RFC 2104).

use http::request::Parts;
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use super::State;

/// The error's code and words, as AWS has them.
type Refused = (&'static str, String);

pub(super) fn check(state: &State, head: &Parts, body: &[u8], now: OffsetDateTime) -> Result<(), Refused> {
    let wrong = |words: &str| ("SignatureDoesNotMatch", words.to_owned());
    let incomplete = |words: &str| ("IncompleteSignature", words.to_owned());
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = header("authorization").ok_or(("MissingAuthenticationToken", String::new()))?;
    let rest = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(incomplete("algorithm"))?;
    let field = |name: &str| {
        rest.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).ok_or(incomplete(name))
    };
    let (credential, signed, signature) =
        (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let [id, date, region, service, "aws4_request"] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err(incomplete("scope"));
    };
    if id != state.access_key_id {
        return Err((
            "InvalidClientTokenId",
            "The security token included in the request is invalid.".into(),
        ));
    }
    if (region, service) != ("us-east-1", "route53") {
        return Err(wrong("Credential should be scoped to us-east-1/route53"));
    }
    let at = header("x-amz-date").ok_or(incomplete("x-amz-date"))?;
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let signed_at =
        PrimitiveDateTime::parse(at, format).map_err(|e| incomplete(&e.to_string()))?.assume_utc();
    if !at.starts_with(date) {
        return Err(wrong(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP",
        ));
    }
    if (now - signed_at).abs() > time::Duration::minutes(5) {
        return Err(wrong(&format!("Signature expired: {at} is now earlier than {now}")));
    }
    let names: Vec<&str> = signed.split(';').collect();
    let must = ["host", "x-amz-date"]
        .into_iter()
        .chain(state.session_token.as_ref().map(|_| "x-amz-security-token"));
    for must in must {
        if !names.contains(&must) {
            return Err(wrong(&format!("{must} is not signed")));
        }
    }
    if header("x-amz-security-token") != state.session_token.as_deref() {
        return Err(("InvalidClientTokenId", "The security token included in the request is invalid".into()));
    }
    if !names.is_sorted() {
        return Err(wrong("SignedHeaders are not sorted"));
    }

    let mut query = pairs(head.uri.query().unwrap_or_default());
    query.sort();
    let query: Vec<String> =
        query.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    let headers: String =
        names.iter().map(|name| format!("{name}:{}\n", header(name).unwrap_or_default().trim())).collect();
    let canonical = [
        head.method.as_str(),
        head.uri.path(),
        &query.join("&"),
        &headers,
        signed,
        &hex(&Sha256::digest(body)),
    ]
    .join("\n");
    let scope = [date, region, service, "aws4_request"];
    let to_sign = ["AWS4-HMAC-SHA256", at, &scope.join("/"), &hex(&Sha256::digest(canonical))].join("\n");
    let key = scope.iter().fold(format!("AWS4{}", state.secret_access_key).into_bytes(), |key, part| {
        hmac(&key, part.as_bytes())
    });
    if hex(&hmac(&key, to_sign.as_bytes())) == signature {
        return Ok(());
    }
    Err(wrong("The request signature we calculated does not match the signature you provided."))
}

/// Decoded.
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > BLOCK { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block.resize(BLOCK, 0);
    let pad = |byte: u8| block.iter().map(|b| b ^ byte).collect::<Vec<u8>>();
    let inner = Sha256::digest([pad(0x36), message.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let byte = rest.strip_prefix('%').and_then(|code| u8::from_str_radix(code.get(..2)?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[3..];
            }
            None => {
                bytes.extend(first.to_string().bytes());
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const BLOCK: usize = 64; // bytes, RFC 2104 2

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_hmac_is_that_of_rfc_4231() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert_eq!(decode("a%2Fb%20c"), "a/b c");
    }
}
