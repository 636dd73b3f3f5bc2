//! The well-formed twins: whoever refuses these has proven nothing with the others.

use super::{Vector, served};

macro_rules! chunked {
    ($($body:expr),*) => {
        concat!("POST ~a HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n", $($body),*)
    };
}

/// GET and POST of the vector's path, without a body and with.
const GET: &[(&str, &str, &str)] = &[("GET", "a", "")];
const POST: &[(&str, &str, &str)] = &[("POST", "a", "")];
const ABC: &[(&str, &str, &str)] = &[("POST", "a", "abc")];

pub(super) const VECTORS: &[Vector] = &[
    served("plain", get!("\r\n"), GET),
    served("one empty line first", "\r\nGET ~a HTTP/1.1\r\nHost: {h}\r\n\r\n", GET),
    served("no space behind colons", "GET ~a HTTP/1.1\r\nHost:{h}\r\nX:y\r\n\r\n", GET),
    served("tabs and spaces around values", "GET ~a HTTP/1.1\r\nHost: \t{h}\t \r\nX:\t\t\r\n\r\n", GET),
    served("Latin-1 in a value", get!("X: \u{e9}\r\n\r\n"), GET),
    served("every token character in a name", get!("x!#$%&'*+-.^`|09: y\r\n\r\n"), GET),
    served(
        "pipelined",
        get!(
            "\r\nGET ~b HTTP/1.1\r\nHost: {h}\r\n\r\nPOST ~c HTTP/1.1\r\nHost: {h}\r\nContent-Length: 3\r\n\r\nabc"
        ),
        &[("GET", "a", ""), ("GET", "b", ""), ("POST", "c", "abc")],
    ),
    served(
        "HEAD",
        "HEAD ~a HTTP/1.1\r\nHost: {h}\r\n\r\nGET ~b HTTP/1.1\r\nHost: {h}\r\n\r\n",
        &[("HEAD", "a", ""), ("GET", "b", "")],
    ),
    served("HTTP/1.0, kept", "GET ~a HTTP/1.0\r\nHost: {h}\r\nConnection: keep-alive\r\n\r\n", GET),
    served(
        "HTTP/1.0 with a length, kept",
        "POST ~a HTTP/1.0\r\nHost: {h}\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
        ABC,
    ),
    // lengths
    served("CL", post!("Content-Length: 3\r\n\r\nabc"), ABC),
    served("CL 0", post!("Content-Length: 0\r\n\r\n"), POST),
    served("CL padded", post!("Content-Length: 003\r\n\r\nabc"), ABC),
    served("CL with tabs", post!("Content-Length:\t3\t\r\n\r\nabc"), ABC),
    served(
        "a request as body, CL.0",
        post!("Content-Length: 27\r\n\r\nGET /evil HTTP/1.1\r\nX: y\r\n\r"),
        &[("POST", "a", "GET /evil HTTP/1.1\r\nX: y\r\n\r")],
    ),
    served("a GET with a body", get!("Content-Length: 3\r\n\r\nabc"), &[("GET", "a", "abc")]),
    served(
        "a GET with a request as body",
        get!("Content-Length: 27\r\n\r\nGET /evil HTTP/1.1\r\nX: y\r\n\r"),
        &[("GET", "a", "GET /evil HTTP/1.1\r\nX: y\r\n\r")],
    ),
    served(
        "a DELETE with a chunked body",
        "DELETE ~a HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        &[("DELETE", "a", "abc")],
    ),
    served(
        "line ends and NULs in a body",
        post!("Content-Length: 5\r\n\r\n\n\r\n\r\n"),
        &[("POST", "a", "\n\r\n\r\n")],
    ),
    served(
        "Content_Length is another field",
        post!("Content_Length: 99\r\nContent-Length: 3\r\n\r\nabc"),
        ABC,
    ),
    served(
        "Connection names the length",
        post!("Connection: content-length, x\r\nX: y\r\nContent-Length: 3\r\n\r\nabc"),
        ABC,
    ),
    served("Connection names the Host", get!("Connection: host\r\n\r\n"), GET),
    // chunks
    served("chunked", chunked!("3\r\nabc\r\n0\r\n\r\n"), ABC),
    served("chunked, an empty body", chunked!("0\r\n\r\n"), POST),
    served("CHUNKED", post!("Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), ABC),
    served("chunked with tabs", post!("transfer-encoding:\tchunked\t\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), ABC),
    served(
        "Transfer_Encoding is another field",
        post!("Transfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc"),
        ABC,
    ),
    served(
        "Connection names the encoding",
        post!("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ABC,
    ),
    served("several chunks", chunked!("1\r\na\r\n01\r\nb\r\n001\r\nc\r\n000\r\n\r\n"), ABC),
    served(
        "hexadecimal in both cases",
        chunked!("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        &[("POST", "a", "01234567890123456789")],
    ),
    served("extensions", chunked!("3;a;b=c;d=\"e f\"\r\nabc\r\n0;g\r\n\r\n"), ABC),
    served("trailers", chunked!("3\r\nabc\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n"), ABC),
    served(
        "trailers of ours",
        chunked!("3\r\nabc\r\n0\r\nX-Request-Id: evil\r\nX-Forwarded-For: evil\r\n\r\n"),
        ABC,
    ),
    served("chunks as body", post!("Content-Length: 5\r\n\r\n0\r\n\r\n"), &[("POST", "a", "0\r\n\r\n")]),
    served(
        "a request in a chunk",
        chunked!("1b\r\nGET /evil HTTP/1.1\r\nX: y\r\n\r\r\n0\r\n\r\n"),
        &[("POST", "a", "GET /evil HTTP/1.1\r\nX: y\r\n\r")],
    ),
    served("trailers, as many as fields", chunked!("3\r\nabc\r\n0\r\n", ten!(ten!("X:\r\n")), "\r\n"), ABC),
    served(
        "a request behind the chunks",
        chunked!("3\r\nabc\r\n0\r\n\r\nGET ~b HTTP/1.1\r\nHost: {h}\r\n\r\n"),
        &[("POST", "a", "abc"), ("GET", "b", "")],
    ),
    // whom and what it is for
    served("Host in capitals", "GET ~a HTTP/1.1\r\nHOST: {h}\r\n\r\n", GET),
    served("Host with a port", "GET ~a HTTP/1.1\r\nHost: {h}:443\r\n\r\n", GET),
    served("Host with a dot", "GET ~a HTTP/1.1\r\nHost: {h}.\r\n\r\n", GET),
    served("absolute form", "GET http://{h}~a HTTP/1.1\r\nHost: {h}\r\n\r\n", GET),
    served("absolute form of https", "GET HTTPS://{h}~a HTTP/1.1\r\nHost: {h}\r\n\r\n", GET),
    served(
        "a query",
        "GET ~a?b=/../c&d=%0d%0aX:y HTTP/1.1\r\nHost: {h}\r\n\r\n",
        &[("GET", "a?b=/../c&d=%0d%0aX:y", "")],
    ),
    served("an empty query", "GET ~a? HTTP/1.1\r\nHost: {h}\r\n\r\n", &[("GET", "a?", "")]),
    served(
        "line ends, encoded",
        "GET ~a%0d%0aX:%20y HTTP/1.1\r\nHost: {h}\r\n\r\n",
        &[("GET", "a%0d%0aX:%20y", "")],
    ),
    served("several slashes", "GET ~a//b HTTP/1.1\r\nHost: {h}\r\n\r\n", &[("GET", "a//b", "")]),
    // what is the hop's, or ours
    served(
        "fields of a hop",
        get!(
            "Connection: keep-alive, x\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nX: y\r\nTE: trailers\r\n\r\n"
        ),
        GET,
    ),
    served(
        "an id of its own",
        get!("X-Request-Id: evil\r\nX_Request_Id: evil\r\nConnection: x-request-id\r\n\r\n"),
        GET,
    ),
    served("Expect", post!("Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"), ABC),
    served(
        "Expect in capitals",
        post!("EXPECT: 100-CONTINUE\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ABC,
    ),
    served("Expect without a body", get!("Expect: 100-continue\r\n\r\n"), GET),
    served(
        "Expect in HTTP/1.0",
        "POST ~a HTTP/1.0\r\nHost: {h}\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        ABC,
    ),
    // other protocols, which these origins do not take
    served(
        "Upgrade, and a second request",
        get!("Connection: upgrade\r\nUpgrade: websocket\r\n\r\nGET ~b HTTP/1.1\r\nHost: {h}\r\n\r\n"),
        &[("GET", "a", ""), ("GET", "b", "")],
    ),
    served(
        "Upgrade with a body, and a second request",
        post!(
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabcGET ~b HTTP/1.1\r\nHost: {h}\r\n\r\n"
        ),
        &[("POST", "a", "abc"), ("GET", "b", "")],
    ),
    served(
        "Upgrade with chunks, and a second request",
        post!(
            "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET ~b HTTP/1.1\r\nHost: {h}\r\n\r\n"
        ),
        &[("POST", "a", "abc"), ("GET", "b", "")],
    ),
    served("Upgrade of two protocols", get!("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"), GET),
    served("Upgrade without Connection", get!("Upgrade: websocket\r\n\r\n"), GET),
    served(
        "Upgrade in HTTP/1.0",
        "GET ~a HTTP/1.0\r\nHost: {h}\r\nConnection: upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n",
        GET,
    ),
    served(
        "h2c, and a second request",
        get!(
            "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\nGET ~b HTTP/1.1\r\nHost: {h}\r\n\r\n"
        ),
        &[("GET", "a", ""), ("GET", "b", "")],
    ),
];
