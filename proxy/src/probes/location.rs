//! Where an HTTP probe goes: its first URL, and where a redirect leads from it (RFC 3986 5.2, as much as Location needs).

use super::authority;

/// An http or https URL, in the parts that are used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Location {
    pub https: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// As Host says it: the port only where it was written.
    pub authority: String,
    /// Path and query, escaped where a request line could not hold them.
    pub target: String,
}

/// Where a redirect leads.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// On the same host, at another place of it maybe; whether the Location named no host.
    Here(Location, bool),
    /// To another host, or with another protocol: nobody goes there.
    Elsewhere,
}

impl Location {
    pub(super) fn new(https: bool, host: &str, port: u16, path: &str) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        Self { https, host: bare.into(), port, authority: authority(host, port), target: target(path) }
    }

    /// For people.
    pub(super) fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority, self.target)
    }

    /// `None`: `to` is no URL.
    pub(super) fn join(&self, to: &str) -> Option<Next> {
        let (https, rest, named) = match to.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest, true),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest, true),
            Some((scheme, _)) if is_scheme(scheme) => return Some(Next::Elsewhere),
            _ => (self.https, to, false),
        };
        let rest = match named {
            true => Some(rest),
            false => rest.strip_prefix("//"),
        };
        let Some(rest) = rest else {
            let mut here = self.clone();
            here.target = target(&self.resolve(to));
            return Some(Next::Here(here, true));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = host_and_port(authority, if https { 443 } else { 80 })?;
        if host != self.host {
            return Some(Next::Elsewhere);
        }
        let there = Self { https, host, port, authority: authority.into(), target: target(path) };
        Some(Next::Here(there, !named))
    }

    /// A reference without a host, on our own path.
    fn resolve(&self, to: &str) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        if to.is_empty() || to.starts_with('#') {
            return self.target.clone();
        }
        if to.starts_with('?') {
            return format!("{path}{to}");
        }
        let (to, query) = to.split_at(to.find(['?', '#']).unwrap_or(to.len()));
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let whole = if to.starts_with('/') { to.to_owned() } else { format!("{directory}/{to}") };
        format!("{}{query}", without_dots(&whole))
    }
}

/// RFC 3986 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

fn host_and_port(authority: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = if port.is_empty() { default } else { port.parse().ok().filter(|port| *port != 0)? };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Path and query as a request line holds them: with a leading slash, without a fragment, other bytes escaped.
fn target(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut target = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        target.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                target += &format!("%{byte:02X}")
            }
            b'!'..=b'~' => target.push(byte.into()),
            _ => target += &format!("%{byte:02X}"),
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_what_a_request_line_can_hold() {
        for (path, want) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a?x=1&y=%20", "/a?x=1&y=%20"),
            ("/a b#c", "/a%20b"),
            ("/\r\nx: y", "/%0D%0Ax:%20y"),
            ("/ü{}", "/%C3%BC%7B%7D"),
            ("?x", "/?x"),
        ] {
            let location = Location::new(false, "10.0.0.1", 80, path);
            assert_eq!(location.target, want, "{path}");
            assert!(want.parse::<axum::http::Uri>().is_ok(), "{want}");
        }
        assert_eq!(Location::new(true, "fd00::1", 8443, "/x").url(), "https://[fd00::1]:8443/x");
    }

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        let at = Location::new(false, "10.0.0.1", 8080, "/a/b?c");
        for (to, url, unnamed) in [
            ("/x?y#z", "http://10.0.0.1:8080/x?y", true),
            ("x", "http://10.0.0.1:8080/a/x", true),
            ("../x/./y/..", "http://10.0.0.1:8080/x/", true),
            ("../../..", "http://10.0.0.1:8080/", true),
            ("?d", "http://10.0.0.1:8080/a/b?d", true),
            ("", "http://10.0.0.1:8080/a/b?c", true),
            ("//10.0.0.1/x", "http://10.0.0.1/x", true),
            ("https://10.0.0.1:8443", "https://10.0.0.1:8443/", false),
            ("HTTPS://u@10.0.0.1/x", "https://10.0.0.1/x", false),
        ] {
            let Some(Next::Here(next, relative)) = at.join(to) else { panic!("{to}") };
            assert_eq!((&*next.url(), relative), (url, unnamed), "{to}");
        }
        let Some(Next::Here(next, _)) = at.join("https://10.0.0.1/x") else { panic!() };
        assert_eq!(next.port, 443);
        for to in ["http://10.0.0.2/", "http://api.shop/", "//10.0.0.11:8080/", "ftp://10.0.0.1/"] {
            assert_eq!(at.join(to), Some(Next::Elsewhere), "{to}");
        }
        for to in ["http://", "http://10.0.0.1:0/", "http://10.0.0.1:x/", "http://[fd00::1/"] {
            assert_eq!(at.join(to), None, "{to}");
        }
        let six = Location::new(false, "fd00::1", 80, "/");
        assert!(matches!(six.join("http://[fd00::1]/x"), Some(Next::Here(..))));
    }
}
