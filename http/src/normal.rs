//! The normal form of a path: what rules are compared with. The origin gets the path as the client wrote it, which means the
//! same to it (RFC 3986 6.2.2.2); what could mean something else to it is refused.

use std::borrow::Cow;

use crate::limits::EncodedSlash;

/// Percent-encoded letters, digits, `-`, `.`, `_` and `~` are decoded, hex digits are upper case, and several slashes are one.
///
/// Errors, each a reason for 400: no `/` at the start (so `*`, too), a byte outside of visible ASCII, `\` or NUL in any
/// spelling, `%` without two hex digits, `%2F` unless it may pass, and a `.` or `..` element in any spelling, with or without
/// `;parameters` and whether or not `%2F` is a separator.
pub fn normal(path: &str, slash: EncodedSlash) -> Result<Cow<'_, str>, &'static str> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err("the path does not begin with /");
    }
    let (mut plain, mut start) = (true, 1); // the path is its own normal form; where the element begins
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'/' if at == start => plain = false,
            b'/' if is_dots(&bytes[start..at]) => return Err(DOTS),
            b'/' => {}
            b'%' => plain = false,
            b'\\' => return Err("the path has a backslash"),
            b'?' | b'#' => return Err("the path has a character that must be percent-encoded"),
            byte if byte.is_ascii_graphic() => {}
            _ => return Err("the path has a character that must be percent-encoded"),
        }
        if *byte == b'/' {
            start = at + 1;
        }
    }
    if is_dots(&bytes[start..]) {
        return Err(DOTS);
    }
    if plain { Ok(Cow::Borrowed(path)) } else { decoded(bytes, slash).map(Cow::Owned) }
}

fn decoded(path: &[u8], slash: EncodedSlash) -> Result<String, &'static str> {
    let mut normal = String::with_capacity(path.len());
    let (mut start, mut rest) = (1, path); // where the element begins in `normal`, %2F being a separator for this purpose
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let byte = match rest {
                    [high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
                    _ => None,
                };
                let byte = byte.ok_or("the path has a % without two hex digits")?;
                rest = &rest[2..];
                match byte {
                    0 => return Err("the path has an encoded NUL"),
                    b'\\' => return Err("the path has an encoded backslash"),
                    b'/' if slash == EncodedSlash::Refuse => return Err("the path has an encoded slash"),
                    b'-' | b'.' | b'_' | b'~' => normal.push(char::from(byte)),
                    byte if byte.is_ascii_alphanumeric() => normal.push(char::from(byte)),
                    byte => {
                        if byte == b'/' && is_dots(&normal.as_bytes()[start..]) {
                            return Err(DOTS);
                        }
                        normal.extend(['%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                        if byte == b'/' {
                            start = normal.len();
                        }
                    }
                }
            }
            b'/' => {
                if normal.len() >= start && is_dots(&normal.as_bytes()[start..]) {
                    return Err(DOTS);
                }
                if !normal.ends_with('/') {
                    normal.push('/');
                }
                start = normal.len();
            }
            byte => normal.push(char::from(*byte)),
        }
    }
    if is_dots(&normal.as_bytes()[start..]) { Err(DOTS) } else { Ok(normal) }
}

/// `.` and `..`, with `;parameters` too, which some origins cut off before they look.
fn is_dots(element: &[u8]) -> bool {
    matches!(element.split(|byte| *byte == b';').next(), Some(b"." | b".."))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const DOTS: &str = "the path has a . or .. element";
const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_spelling_for_each_path() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("//", "/"),
            ("//a///b/", "/a/b/"),
            ("/%61%2D%2d%5f%7E", "/a--_~"),
            ("/%c3%a4", "/%C3%A4"),
            ("/a%3fb", "/a%3Fb"),
            ("/...", "/..."),
            ("/.well-known", "/.well-known"),
            ("/a;b=..", "/a;b=.."),
        ] {
            assert_eq!(normal(path, EncodedSlash::Refuse).unwrap(), expected, "{path}");
        }
        assert_eq!(normal("/a%2fb%2Fc", EncodedSlash::Pass).unwrap(), "/a%2Fb%2Fc");
    }

    #[test]
    fn what_an_origin_may_read_otherwise_is_refused() {
        for path in [
            "",
            "*",
            "a",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e",
            "/a/%2E%2e/b",
            "/a/.%2e",
            "/..;/a",
            "/a/..;x=1",
            "/%2e%2e;/a",
            "/\\..",
            "/a\\b",
            "/%5c",
            "/%5C..",
            "/%00",
            "/a%00.png",
            "/%",
            "/%2",
            "/%zz",
            "/%2z",
            "/%+1",
            "/ä",
            "/a b",
            "/\t",
            "/a%2fb",
        ] {
            assert!(normal(path, EncodedSlash::Refuse).is_err(), "{path:?}");
        }
        for path in ["/a%2f..", "/..%2fa", "/a%2f..%2fb", "/a%2f%2e%2e/b", "/%2e%2e%2f", "/a/..;%2f"] {
            assert!(normal(path, EncodedSlash::Pass).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own_and_has_no_dots(path in "/[a./%25EeFf0;~]{0,24}") {
            if let Ok(once) = normal(&path, EncodedSlash::Pass) {
                prop_assert_eq!(normal(&once, EncodedSlash::Pass).unwrap(), once.clone());
                prop_assert!(!once.contains("//"));
                prop_assert!(once.split('/').all(|e| e != "." && e != ".."));
            }
        }
    }
}
