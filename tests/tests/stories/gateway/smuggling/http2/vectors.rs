//! The frames' fields.

use super::{Field, Piece, Piece::*, Vector};

/// A head of these fields behind the four that every request has.
macro_rules! head {
    ($method:literal, $path:literal $(, $name:literal: $value:literal)*) => {
        &[
            (b":method", $method), (b":scheme", b"https"), (b":authority", b"{h}"), (b":path", $path)
            $(, ($name, $value))*
        ]
    };
}
/// The same of a GET of the vector's path.
macro_rules! get {
    ($($name:literal: $value:literal),*) => { head!(b"GET", b"~a" $(, $name: $value)*) };
}
macro_rules! post {
    ($($name:literal: $value:literal),*) => { head!(b"POST", b"~a" $(, $name: $value)*) };
}

const fn head(name: &'static str, fields: &'static [Field]) -> Vector {
    Vector { name, fields, body: &[], served: false }
}

const fn body(name: &'static str, fields: &'static [Field], body: &'static [Piece]) -> Vector {
    Vector { name, fields, body, served: false }
}

const fn served(name: &'static str, fields: &'static [Field], body: &'static [Piece]) -> Vector {
    Vector { name, fields, body, served: true }
}

pub(super) const REFUSED: &[Vector] = &[
    // line ends in values and names: request splitting (nginx CVE-2026-42926)
    head("CR LF in a value", get!(b"x": b"y\r\nx-evil: 1")),
    head("a request in a value", get!(b"x": b"y\r\n\r\nGET /evil HTTP/1.1\r\nHost: {h}\r\n\r\n")),
    head("CR LF Transfer-Encoding in a value", get!(b"x": b"y\r\nTransfer-Encoding: chunked")),
    head("LF in a value", get!(b"x": b"y\nz")),
    head("CR in a value", get!(b"x": b"y\rz")),
    head("NUL in a value", get!(b"x": b"y\0z")),
    head("CR LF in a name", get!(b"x: y\r\nevil": b"1")),
    head("a request in a name", get!(b"x: y\r\n\r\nGET /evil HTTP/1.1\r\nx": b"1")),
    head("LF in a name", get!(b"x\ny": b"1")),
    head("NUL in a name", get!(b"x\0": b"1")),
    head("a colon in a name", get!(b"x:y": b"1")),
    head("a space in a name", get!(b"x y": b"1")),
    head("a space behind a name", get!(b"transfer-encoding ": b"chunked")),
    head("a capital in a name", get!(b"X-Upper": b"1")),
    head("a capital in Transfer-Encoding", get!(b"Transfer-Encoding": b"chunked")),
    head("a name that is not ASCII", get!(b"x\xe9": b"1")),
    head("an empty name", get!(b"": b"1")),
    head("CR LF in a cookie", get!(b"cookie": b"a=b\r\nx-evil: 1")),
    // a hop's fields
    head("Connection", get!(b"connection": b"close")),
    head("Connection that names Host", get!(b"connection": b"host")),
    head("Keep-Alive", get!(b"keep-alive": b"timeout=5")),
    head("Proxy-Connection", get!(b"proxy-connection": b"keep-alive")),
    head("Upgrade", get!(b"upgrade": b"websocket")),
    head("Transfer-Encoding", get!(b"transfer-encoding": b"chunked")),
    head("TE of anything but trailers", get!(b"te": b"gzip")),
    body(
        "H2.TE",
        post!(b"transfer-encoding": b"chunked"),
        &[Data("0\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n")],
    ),
    // H2.CL
    body("length smaller than the body", post!(b"content-length": b"1"), &[Data("abc")]),
    body(
        "length 0, a request as body",
        post!(b"content-length": b"0"),
        &[Data("GET /evil HTTP/1.1\r\nHost: x\r\n\r\n")],
    ),
    body("length larger than the body", post!(b"content-length": b"9"), &[Data("abc")]),
    head("length without a body", post!(b"content-length": b"3")),
    body("length twice, alike", post!(b"content-length": b"3", b"content-length": b"3"), &[Data("abc")]),
    body("length twice, not alike", post!(b"content-length": b"3", b"content-length": b"0"), &[Data("abc")]),
    body("length with plus", post!(b"content-length": b"+3"), &[Data("abc")]),
    body("length list", post!(b"content-length": b"3, 3"), &[Data("abc")]),
    body("length empty", post!(b"content-length": b""), &[Data("abc")]),
    body("length with a space", post!(b"content-length": b"3 0"), &[Data("abc")]),
    body("length 2^64 + 3", post!(b"content-length": b"18446744073709551619"), &[Data("abc")]),
    // pseudo-fields
    head("a space in the path", head!(b"GET", b"~a HTTP/1.1")),
    head("a request in the path", head!(b"GET", b"~a HTTP/1.1\r\nHost: x\r\n\r\nGET /evil")),
    head("CR LF in the path", head!(b"GET", b"~a\r\nx: y")),
    head("a tab in the path", head!(b"GET", b"~a\tb")),
    head("NUL in the path", head!(b"GET", b"~a\0b")),
    head("a path that is not ASCII", head!(b"GET", b"/\xe4")),
    head("an empty path", head!(b"GET", b"")),
    head("a path without a slash", head!(b"GET", b"a")),
    head("a URL as path", head!(b"GET", b"http://evil.example.com~a")),
    head("an asterisk as path", head!(b"GET", b"*")),
    head("an asterisk for OPTIONS", head!(b"OPTIONS", b"*")),
    head(".. in the path", head!(b"GET", b"~a/../b")),
    head("/ encoded in the path", head!(b"GET", b"~a%2fb")),
    head("a method that is a request line", head!(b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\nGET", b"~a")),
    head("a space in the method", head!(b"GET ~evil", b"~a")),
    head("an empty method", head!(b"", b"~a")),
    head("TRACE", head!(b"TRACE", b"~a")),
    head("CONNECT", &[(b":method", b"CONNECT"), (b":authority", b"{h}:443")]),
    head("CONNECT with a path", head!(b"CONNECT", b"~a")),
    head("extended CONNECT", head!(b"CONNECT", b"~a", b":protocol": b"websocket")),
    head("no method", &[(b":scheme", b"https"), (b":authority", b"{h}"), (b":path", b"~a")]),
    head("no path", &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"{h}")]),
    head("no scheme", &[(b":method", b"GET"), (b":authority", b"{h}"), (b":path", b"~a")]),
    head("no authority and no Host", &[(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"~a")]),
    head("method twice", get!(b":method": b"POST")),
    head("path twice", get!(b":path": b"~evil")),
    head("authority twice", get!(b":authority": b"evil.example.com")),
    head("scheme twice", get!(b":scheme": b"http")),
    head("an unknown pseudo-field", get!(b":evil": b"1")),
    head("a status in a request", get!(b":status": b"200")),
    head(
        "a pseudo-field behind a field",
        &[
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"{h}"),
            (b"x", b"y"),
            (b":path", b"~a"),
        ],
    ),
    head(
        "a scheme that is a URL",
        &[
            (b":method", b"GET"),
            (b":scheme", b"https://evil.example.com/?"),
            (b":authority", b"{h}"),
            (b":path", b"~a"),
        ],
    ),
    head(
        "CR LF in the authority",
        &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"{h}\r\nx: y"), (b":path", b"~a")],
    ),
    head(
        "a path in the authority",
        &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"{h}/evil"), (b":path", b"~a")],
    ),
    head(
        "a user in the authority",
        &[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x@{h}"), (b":path", b"~a")],
    ),
    head(
        "two authorities in one",
        &[
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"{h},evil.example.com"),
            (b":path", b"~a"),
        ],
    ),
    head("Host of another", get!(b"host": b"evil.example.com")),
    head("Host twice", get!(b"host": b"{h}", b"host": b"{h}")),
    head("Expect of something else", get!(b"expect": b"200-ok")),
    // trailers
    body("trailers with a capital", post!(), &[Data("abc"), Trailers(&[(b"X-Upper", b"1")])]),
    body(
        "trailers with CR LF",
        post!(),
        &[Data("abc"), Trailers(&[(b"x", b"y\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n")])],
    ),
    body(
        "trailers with Transfer-Encoding",
        post!(),
        &[Data("abc"), Trailers(&[(b"transfer-encoding", b"chunked")])],
    ),
    body("trailers that are not the end", post!(), &[Data("abc"), Trailers(&[(b"x", b"y")]), Data("d")]),
];

pub(super) const SERVED: &[Vector] = &[
    served("plain", get!(b"x": b"y"), &[]),
    served("a space within a value", get!(b"x": b"y: z, GET /evil HTTP/1.1"), &[]),
    served("Latin-1 in a value", get!(b"x": b"\xe9"), &[]),
    served("TE: trailers", get!(b"te": b"trailers"), &[]),
    served("the same Host", get!(b"host": b"{h}"), &[]),
    served(
        "Host alone",
        &[(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"~a"), (b"host", b"{h}")],
        &[],
    ),
    served("cookies in crumbs", get!(b"cookie": b"a=b", b"cookie": b"c=d", b"cookie": b"e=f"), &[]),
    served("a body", post!(), &[Data("abc")]),
    served("a body in pieces", post!(b"content-length": b"6"), &[Data("abc"), Data(""), Data("def")]),
    served("no body and its length", post!(b"content-length": b"0"), &[]),
    served("a request as body", post!(), &[Data("GET /evil HTTP/1.1\r\nHost: x\r\n\r\n")]),
    served("chunks as body", post!(), &[Data("0\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n")]),
    served("a GET with a body", get!(b"content-length": b"3"), &[Data("abc")]),
    served("trailers", post!(b"te": b"trailers"), &[Data("abc"), Trailers(&[(b"x-sum", b"1")])]),
    served(
        "trailers of ours",
        post!(),
        &[
            Data("abc"),
            Trailers(&[
                (b"x-request-id", b"evil"),
                (b"host", b"evil.example.com"),
                (b"content-length", b"9"),
            ]),
        ],
    ),
    served("an id of its own", get!(b"x-request-id": b"evil", b"x_request_id": b"evil"), &[]),
    served("Expect", post!(b"expect": b"100-continue", b"content-length": b"3"), &[Data("abc")]),
    // RFC 9113 8.1 would have these refused; the `h2` crate drops such fields, and nothing of them goes on.
    served("trailers with a pseudo-field", post!(), &[Data("abc"), Trailers(&[(b":path", b"~evil")])]),
    served(
        "a second head",
        post!(),
        &[Trailers(&[
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"{h}"),
            (b":path", b"~evil"),
        ])],
    ),
];
