//! What a rule changes of a message: paths, hosts, headers; and the answer that sends a client elsewhere.

use http::{HeaderMap, HeaderValue, uri::PathAndQuery};

use crate::{
    limits::EncodedSlash,
    model::{HeaderEdits, PathRewrite, Piece, Redirect, Scheme},
    normal::normal,
    refusal::Refusal,
    request::Target,
    table::Found,
};

/// Set replaces, add appends, remove takes away, in this order.
pub(crate) fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for (name, value) in edits.set() {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in edits.add() {
        headers.append(name.clone(), value.clone());
    }
    for name in edits.remove() {
        headers.remove(name);
    }
}

/// The target for the backend: as the client wrote it, unless the rule says otherwise. Errors: what a regex caught makes a path
/// that would be refused from a client.
pub(crate) fn rewritten(
    written: Option<&PathAndQuery>,
    rewrite: Option<&PathRewrite>,
    found: &Found<'_>,
    path: &str,
) -> Result<PathAndQuery, Refusal> {
    let Some(rewrite) = rewrite else {
        return Ok(written.cloned().unwrap_or(PathAndQuery::from_static("/")));
    };
    let mut new = match rewrite {
        PathRewrite::Whole(whole) => whole.as_str().to_string(),
        PathRewrite::Prefix(prefix) => match found.prefix {
            Some(length) => replace_prefix(prefix.as_str(), &path[length..]),
            None => path.to_string(),
        },
        PathRewrite::Captures(template) => {
            let mut new = String::new();
            for piece in template.pieces() {
                match piece {
                    Piece::Text(text) => new.push_str(text),
                    Piece::Group(n) => {
                        new.push_str(found.captures.get(usize::from(*n)).map_or("", |text| &**text));
                    }
                }
            }
            if !new.starts_with('/') {
                new.insert(0, '/');
            }
            normal(&new, EncodedSlash::Pass).map_err(Refusal::BadPath)?;
            new
        }
    };
    if let Some(query) = written.and_then(PathAndQuery::query) {
        new.push('?');
        new.push_str(query);
    }
    PathAndQuery::try_from(new).map_err(|_| Refusal::BadPath("the rewritten path is none"))
}

/// Gateway API, HTTPPathModifier.replacePrefixMatch: the slash between the two is there once.
fn replace_prefix(prefix: &str, rest: &str) -> String {
    let slash = if rest.is_empty() || rest.starts_with('/') { "" } else { "/" };
    let new = format!("{}{slash}{rest}", prefix.trim_end_matches('/'));
    if new.is_empty() { "/".into() } else { new }
}

/// `Location` of a redirect.
pub(crate) fn location(
    redirect: &Redirect,
    target: &Target,
    scheme: Scheme,
    written: Option<&PathAndQuery>,
    found: &Found<'_>,
) -> Result<HeaderValue, Refusal> {
    let path = rewritten(written, redirect.path.as_ref(), found, &target.path)?;
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(scheme)) => scheme.port(),
        (None, None) => found.listener.public_port,
    };
    let host = redirect.host.as_ref().map_or(&*target.host, |host| host.as_str());
    url(redirect.scheme.unwrap_or(scheme), host, port, path.as_str())
}

/// `Location` of the same on HTTPS.
pub(crate) fn on_https(
    target: &Target,
    port: u16,
    written: Option<&PathAndQuery>,
) -> Result<HeaderValue, Refusal> {
    url(Scheme::Https, &target.host, port, written.map_or("/", PathAndQuery::as_str))
}

fn url(scheme: Scheme, host: &str, port: u16, path: &str) -> Result<HeaderValue, Refusal> {
    let port = if port == scheme.port() { String::new() } else { format!(":{port}") };
    let url = format!("{}://{host}{port}{path}", scheme.word());
    HeaderValue::try_from(url).map_err(|_| Refusal::BadPath("the target is no URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the Gateway API.
    #[test]
    fn a_prefix_is_replaced_with_one_slash_between() {
        for (prefix, rest, expected) in [
            ("/xyz", "/bar", "/xyz/bar"),
            ("/xyz/", "/bar", "/xyz/bar"),
            ("/xyz", "", "/xyz"),
            ("/xyz", "/", "/xyz/"),
            ("/xyz", "bar", "/xyz/bar"),
            ("/", "/bar", "/bar"),
            ("/", "/", "/"),
            ("/", "", "/"),
        ] {
            assert_eq!(replace_prefix(prefix, rest), expected, "{prefix} {rest}");
        }
    }

    #[test]
    fn a_schemes_own_port_is_left_out() {
        let location = |scheme, port| url(scheme, "a", port, "/x?y").unwrap();
        assert_eq!(location(Scheme::Https, 443), "https://a/x?y");
        assert_eq!(location(Scheme::Https, 8443), "https://a:8443/x?y");
        assert_eq!(location(Scheme::Http, 80), "http://a/x?y");
    }
}
