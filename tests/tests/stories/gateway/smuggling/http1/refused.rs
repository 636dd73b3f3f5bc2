//! What two servers could read in two ways, or one of them as two requests: published vectors (CL.TE, TE.CL, TE.TE, CL.0, 0.CL,
//! TERM.EXT, EXT.TERM, TERM.SPILL, SPILL.TERM, the HTTP Garden's catalogue) and the CVEs of security-perf.md A1.

use super::{
    Then::{Closed, Refused},
    Vector, refused,
};

/// With a body that may be chunked, and one that is.
macro_rules! te {
    ($field:literal) => {
        concat!(
            "POST ~a HTTP/1.1\r\nHost: {h}\r\n",
            $field,
            "\r\n\r\n0\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"
        )
    };
}
macro_rules! cl {
    ($field:literal) => {
        concat!(
            "POST ~a HTTP/1.1\r\nHost: {h}\r\n",
            $field,
            "\r\n\r\nabcdeGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"
        )
    };
}
macro_rules! chunked {
    ($($body:expr),*) => {
        concat!(
            "POST ~a HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n",
            $($body,)*
            "GET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"
        )
    };
}

const fn status(status: u16, name: &'static str, bytes: &'static str) -> Vector {
    Vector { name, bytes, passes: &[], then: Refused(status) }
}

pub(super) const VECTORS: &[Vector] = &[
    // both framings
    refused("CL.TE", te!("Content-Length: 6\r\nTransfer-Encoding: chunked")),
    refused("TE.CL", te!("Transfer-Encoding: chunked\r\nContent-Length: 6")),
    refused("CL.TE with CL 0", te!("Content-Length: 0\r\nTransfer-Encoding: chunked")),
    refused("CL.TE, length right", te!("Content-Length: 5\r\nTransfer-Encoding: chunked")),
    refused("TE.CL with a name of mixed case", te!("tRANSFER-eNCODING: chunked\r\ncONTENT-lENGTH: 6")),
    refused(
        "CL.TE, connection drops TE",
        te!("Connection: transfer-encoding\r\nContent-Length: 6\r\nTransfer-Encoding: chunked"),
    ),
    // Transfer-Encoding that some read and some do not
    refused("TE xchunked", te!("Transfer-Encoding: xchunked")),
    refused("TE xchunked beside CL", te!("Content-Length: 5\r\nTransfer-Encoding: xchunked")),
    refused("TE identity", te!("Transfer-Encoding: identity")),
    refused("TE identity beside CL", te!("Content-Length: 5\r\nTransfer-Encoding: identity")),
    refused("TE empty", te!("Transfer-Encoding:")),
    refused("TE of two", te!("Transfer-Encoding: gzip, chunked")),
    refused("TE chunked twice in one", te!("Transfer-Encoding: chunked, chunked")),
    refused("TE chunked not last", te!("Transfer-Encoding: chunked, identity")),
    refused("TE with an empty one", te!("Transfer-Encoding: , chunked")),
    refused("TE.TE", te!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
    refused("TE.TE cow", te!("Transfer-Encoding: chunked\r\nTransfer-encoding: cow")),
    refused("TE.TE identity first", te!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked")),
    refused("TE quoted", te!("Transfer-Encoding: \"chunked\"")),
    refused("TE with single quotes", te!("Transfer-Encoding: 'chunked'")),
    refused("TE with a parameter", te!("Transfer-Encoding: chunked;q=1")),
    refused("TE, space before colon", te!("Transfer-Encoding : chunked")),
    refused("TE, tab before colon", te!("Transfer-Encoding\t: chunked")),
    refused("TE, vertical tab before value", te!("Transfer-Encoding: \u{b}chunked")),
    refused("TE, form feed before value", te!("Transfer-Encoding: \u{c}chunked")),
    refused("TE, form feed behind value", te!("Transfer-Encoding: chunked\u{c}")),
    refused("TE, NEL before value", te!("Transfer-Encoding: \u{85}chunked")),
    refused("TE, NUL behind value", te!("Transfer-Encoding: chunked\0")),
    refused("TE, NUL in name", te!("Transfer-Encoding\0: chunked")),
    refused("TE, carriage return behind value", te!("Transfer-Encoding: chunked\r")),
    refused("TE folded", te!("Transfer-Encoding:\r\n chunked")),
    refused("TE folded by a tab", te!("Transfer-Encoding:\r\n\tchunked")),
    refused("TE folded by a line feed", te!("Transfer-Encoding:\n chunked")),
    refused("TE, colon on the next line", te!("Transfer-Encoding\r\n: chunked")),
    refused("TE, space before name", te!(" Transfer-Encoding: chunked")),
    refused("TE behind a line feed", te!("X: y\nTransfer-Encoding: chunked")),
    refused("TE behind a carriage return", te!("X: y\rTransfer-Encoding: chunked")),
    refused("TE behind CR LF CR", te!("X: y\r\n\rTransfer-Encoding: chunked")),
    refused("TE in a folded line", te!("X: y\r\n Transfer-Encoding: chunked")),
    refused("TE, long s", te!("Tran\u{17f}fer-Encoding: chunked")),
    refused("TE chunked, Kelvin sign", te!("Transfer-Encoding: chun\u{212a}ed")),
    refused(
        "HTTP/1.0 with TE",
        "POST ~a HTTP/1.0\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n",
    ),
    refused(
        "HTTP/1.0 with TE, kept",
        "POST ~a HTTP/1.0\r\nHost: {h}\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n",
    ),
    // Content-Length that is read as several numbers
    refused("CL twice, alike", cl!("Content-Length: 5\r\nContent-Length: 5")),
    refused("CL twice, not alike", cl!("Content-Length: 5\r\nContent-Length: 0")),
    refused("CL twice, the other first", cl!("Content-Length: 0\r\nContent-Length: 5")),
    refused("CL list, alike", cl!("Content-Length: 5, 5")),
    refused("CL list, not alike", cl!("Content-Length: 0, 5")),
    refused("CL list with nothing", cl!("Content-Length: 5,")),
    refused("CL with plus", cl!("Content-Length: +5")),
    refused("CL with minus", cl!("Content-Length: -5")),
    refused("CL minus zero", cl!("Content-Length: -0")),
    refused("CL hexadecimal", cl!("Content-Length: 0x5")),
    refused("CL octal as Python has it", cl!("Content-Length: 0o5")),
    refused("CL with underscore as Python has it", cl!("Content-Length: 0_5")),
    refused("CL with a fraction", cl!("Content-Length: 5.0")),
    refused("CL with an exponent", cl!("Content-Length: 5e0")),
    refused("CL in two words", cl!("Content-Length: 5 0")),
    refused("CL quoted", cl!("Content-Length: \"5\"")),
    refused("CL empty", cl!("Content-Length:")),
    refused("CL with a fullwidth digit", cl!("Content-Length: \u{ff15}")),
    refused("CL 2^64 + 5", cl!("Content-Length: 18446744073709551621")),
    refused("CL 2^63", cl!("Content-Length: 9223372036854775808")),
    refused("CL padded to 40 digits", cl!("Content-Length: 0000000000000000000000000000000000000005")),
    refused("CL, space before colon", cl!("Content-Length : 5")),
    refused("CL folded", cl!("Content-Length:\r\n 5")),
    refused("CL goes on in a folded line", cl!("Content-Length: 5\r\n 0")),
    refused("CL, vertical tab", cl!("Content-Length: \u{b}5")),
    refused("CL, form feed", cl!("Content-Length: 5\u{c}")),
    refused("CL, carriage return behind value", cl!("Content-Length: 5\r")),
    refused("CL, NUL", cl!("Content-Length: 5\0")),
    // lines
    refused("line feeds only", "GET ~a HTTP/1.1\nHost: {h}\n\n"),
    refused("one line feed", "GET ~a HTTP/1.1\r\nHost: {h}\n\r\n"),
    refused("line feed behind the request line", "GET ~a HTTP/1.1\nHost: {h}\r\n\r\n"),
    refused("carriage returns only", "GET ~a HTTP/1.1\rHost: {h}\r\r\n\r\n"),
    refused("two carriage returns", "GET ~a HTTP/1.1\r\r\nHost: {h}\r\n\r\n"),
    refused("two carriage returns at the end", get!("X: y\r\r\n\r\n")),
    refused("the head's end with three", get!("X: y\r\n\r\r\n\r\n")),
    refused("two empty lines first", concat!("\r\n\r\n", "GET ~a HTTP/1.1\r\nHost: {h}\r\n\r\n")),
    refused("a line feed first", "\nGET ~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a space first", " GET ~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a folded field", get!("X: y\r\n z\r\n\r\n")),
    refused("a folded Host", "GET ~a HTTP/1.1\r\nHost:\r\n {h}\r\n\r\n"),
    refused("a field without colon", get!("X y\r\n\r\n")),
    refused("a field without name", get!(": y\r\n\r\n")),
    refused("a space in a name", get!("X Y: z\r\n\r\n")),
    refused("a parenthesis in a name", get!("X(Y): z\r\n\r\n")),
    refused("a name that is not ASCII", get!("X\u{e9}: z\r\n\r\n")),
    refused("a NUL in a value", get!("X: a\0b\r\n\r\n")),
    refused("a carriage return in a value", get!("X: a\rb\r\n\r\n")),
    refused("a request behind a carriage return", get!("X: a\rGET ~evil HTTP/1.1\rHost: {h}\r\n\r\n")),
    refused("a DEL in a value", get!("X: a\u{7f}b\r\n\r\n")),
    refused("an ESC in a value", get!("X: \u{1b}[2J\r\n\r\n")),
    // request line
    refused("two spaces", "GET  ~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a tab", "GET\t~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a form feed", "GET ~a\u{c}HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a space behind the version", "GET ~a HTTP/1.1 \r\nHost: {h}\r\n\r\n"),
    refused("four words", "GET ~a ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a request in the target", "GET ~a HTTP/1.1 ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("HTTP/0.9", "GET ~a\r\n\r\n"),
    refused("HTTP/1.2", "GET ~a HTTP/1.2\r\nHost: {h}\r\n\r\n"),
    refused("HTTP/1.10", "GET ~a HTTP/1.10\r\nHost: {h}\r\n\r\n"),
    refused("HTTP/01.1", "GET ~a HTTP/01.1\r\nHost: {h}\r\n\r\n"),
    refused("HTTP/2.0", "GET ~a HTTP/2.0\r\nHost: {h}\r\n\r\n"),
    refused("http/1.1", "GET ~a http/1.1\r\nHost: {h}\r\n\r\n"),
    refused("ICY", "GET ~a ICY/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a method that is no word", "G@T ~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("no method", " ~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a NUL in the target", "GET ~a\0b HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a target that is not ASCII", "GET ~\u{e4} HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("a fragment", "GET ~a#b HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    refused("a TLS record", "\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0\r\n\r\n"),
    refused("a PROXY header", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET ~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    // whom and what it is for
    refused("no Host", "GET ~a HTTP/1.1\r\nX: y\r\n\r\n"),
    refused("no Host in HTTP/1.0", "GET ~a HTTP/1.0\r\n\r\n"),
    refused("Host twice, alike", get!("Host: {h}\r\n\r\n")),
    refused("Host twice, not alike", get!("hOST: evil.example.com\r\n\r\n")),
    refused("Host empty", "GET ~a HTTP/1.1\r\nHost:\r\n\r\n"),
    refused("Host with a user", "GET ~a HTTP/1.1\r\nHost: x@{h}\r\n\r\n"),
    refused("Host with a path", "GET ~a HTTP/1.1\r\nHost: {h}/x\r\n\r\n"),
    refused("Host of two", "GET ~a HTTP/1.1\r\nHost: {h}, evil.example.com\r\n\r\n"),
    refused("Host in two words", "GET ~a HTTP/1.1\r\nHost: {h} evil.example.com\r\n\r\n"),
    refused("Host with a port that is none", "GET ~a HTTP/1.1\r\nHost: {h}:x\r\n\r\n"),
    refused("Host with a port that is too large", "GET ~a HTTP/1.1\r\nHost: {h}:65536\r\n\r\n"),
    refused("Host with an empty port", "GET ~a HTTP/1.1\r\nHost: {h}:\r\n\r\n"),
    refused("Host, space before colon", "GET ~a HTTP/1.1\r\nHost : {h}\r\n\r\n"),
    refused("absolute form of another host", "GET http://evil.example.com~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("absolute form, Host of another", "GET http://{h}~a HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"),
    refused("absolute form without Host", "GET http://{h}~a HTTP/1.1\r\n\r\n"),
    refused("absolute form with a user", "GET http://x@{h}~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("absolute form with another port", "GET http://{h}:8443~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("absolute form of another scheme", "GET ftp://{h}~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("authority form", "GET {h}:443 HTTP/1.1\r\nHost: {h}:443\r\n\r\n"),
    refused("asterisk form", "OPTIONS * HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("..", "GET ~a/../b HTTP/1.1\r\nHost: {h}\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused(".. encoded", "GET ~a/%2e%2E/b HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused(".. with a parameter", "GET ~a/..;x/b HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("/ encoded", "GET ~a%2fb HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("\\", "GET ~a\\b HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("NUL encoded", "GET ~a%00 HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    refused("% and no digits", "GET ~a%zz HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    status(405, "CONNECT", "CONNECT {h}:443 HTTP/1.1\r\nHost: {h}:443\r\n\r\n"),
    status(
        405,
        "CONNECT with a request in the tunnel",
        "CONNECT {h}:443 HTTP/1.1\r\nHost: {h}:443\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n",
    ),
    status(
        405,
        "CONNECT with a body",
        "CONNECT {h}:443 HTTP/1.1\r\nHost: {h}:443\r\nContent-Length: 3\r\n\r\nabcGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n",
    ),
    status(405, "TRACE", "TRACE ~a HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    // chunks
    refused("size is no number", chunked!("x\r\nabc\r\n0\r\n\r\n")),
    refused("size is empty", chunked!("\r\nabc\r\n0\r\n\r\n")),
    refused("size with 0x", chunked!("0x3\r\nabc\r\n0\r\n\r\n")),
    refused("size with plus", chunked!("+3\r\nabc\r\n0\r\n\r\n")),
    refused("size with minus", chunked!("-3\r\nabc\r\n0\r\n\r\n")),
    refused("size with underscore as Python has it", chunked!("0_3\r\nabc\r\n0\r\n\r\n")),
    refused("space before size", chunked!(" 3\r\nabc\r\n0\r\n\r\n")),
    refused("space behind size", chunked!("3 \r\nabc\r\n0\r\n\r\n")),
    refused("tab behind size", chunked!("3\t\r\nabc\r\n0\r\n\r\n")),
    refused("size 2^64 + 3", chunked!("10000000000000003\r\nabc\r\n0\r\n\r\n")),
    refused("size 2^63", chunked!("8000000000000000\r\nabc\r\n0\r\n\r\n")),
    refused("size of forty digits", chunked!("0000000000000000000000000000000000000003\r\nabc\r\n0\r\n\r\n")),
    refused("size with a fullwidth digit", chunked!("\u{ff13}\r\nabc\r\n0\r\n\r\n")),
    refused("size too small", chunked!("2\r\nabc\r\n0\r\n\r\n")),
    refused("size too large", chunked!("5\r\nabc\r\n0\r\n\r\n")),
    refused("line feed behind size", chunked!("3\nabc\r\n0\r\n\r\n")),
    refused("carriage return behind size", chunked!("3\rabc\r\n0\r\n\r\n")),
    refused("line feed behind data", chunked!("3\r\nabc\n0\r\n\r\n")),
    refused("carriage return behind data", chunked!("3\r\nabc\r0\r\n\r\n")),
    refused("nothing behind data", chunked!("3\r\nabc0\r\n\r\n")),
    refused("two other bytes behind data", chunked!("3\r\nabcxx0\r\n\r\n")),
    refused("TERM.EXT", chunked!("3;\nxx\r\nabc\r\n0\r\n\r\n")),
    refused("EXT.TERM", chunked!("3;\rxx\r\nabc\r\n0\r\n\r\n")),
    refused("TERM.SPILL", chunked!("5\r\nabcde\n2\r\n\r\n0\r\n\r\n")),
    refused("SPILL.TERM", chunked!("5\r\nabcdeX\r\n0\r\n\r\n")),
    refused("extension with a line feed in quotes", chunked!("3;a=\"\n\"\r\nabc\r\n0\r\n\r\n")),
    refused("extension with CR LF in quotes", chunked!("3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n")),
    refused("extension with a NUL", chunked!("3;a\0\r\nabc\r\n0\r\n\r\n")),
    refused("extension without size", chunked!(";a\r\nabc\r\n0\r\n\r\n")),
    refused("last chunk with a line feed", chunked!("0\n\r\n")),
    refused("body ends with a line feed", chunked!("0\r\n\n")),
    refused("body without its last line", chunked!("0\r\n")),
    refused("last chunk of two zeroes and data", chunked!("00\r\nabc\r\n\r\n")),
    refused("trailer Content-Length", chunked!("0\r\nContent-Length: 99\r\n\r\n")),
    refused("trailer Transfer-Encoding", chunked!("0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    refused("trailer Host", chunked!("0\r\nHost: evil.example.com\r\n\r\n")),
    refused("trailer Connection", chunked!("0\r\nConnection: keep-alive\r\n\r\n")),
    refused("trailer Upgrade", chunked!("0\r\nUpgrade: h2c\r\n\r\n")),
    refused("trailer TE", chunked!("0\r\nTE: trailers\r\n\r\n")),
    refused("trailer without colon", chunked!("0\r\nX\r\n\r\n")),
    refused("trailer, space before colon", chunked!("0\r\nX : y\r\n\r\n")),
    refused("trailer folded", chunked!("0\r\nX: y\r\n z\r\n\r\n")),
    refused("trailer with a line feed", chunked!("0\r\nX: y\n\r\n")),
    refused("trailer with a NUL", chunked!("0\r\nX: a\0b\r\n\r\n")),
    refused("trailer with a carriage return", chunked!("0\r\nX: y\r\r\n\r\n")),
    refused("trailers, more than fields", chunked!("0\r\n", ten!(ten!("X:\r\n")), "X:\r\n\r\n")),
    // expectations: 0.CL, CL.0
    status(417, "Expect of something else", post!("Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc")),
    status(417, "Expect of two", post!("Expect: 100-continue, 200-ok\r\nContent-Length: 3\r\n\r\nabc")),
    status(
        417,
        "Expect with a word before",
        post!("Expect: y 100-continue\r\nContent-Length: 45\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"),
    ),
    status(
        417,
        "Expect twice, not alike",
        post!("Expect: 100-continue\r\nExpect: x\r\nContent-Length: 3\r\n\r\nabc"),
    ),
    refused("Expect folded", post!("Expect:\r\n 100-continue\r\nContent-Length: 3\r\n\r\nabc")),
    // a good request, and behind it one that is none
    after("0.CL", post!("Content-Length: 0\r\n\r\nabc\r\n\r\n"), &[("POST", "a", "")]),
    after("no length", post!("\r\nabc\r\n\r\n"), &[("POST", "a", "")]),
    after("longer than its length", post!("Content-Length: 1\r\n\r\nabc\r\n\r\n"), &[("POST", "a", "a")]),
    after(
        "a body of a GET without length",
        get!("\r\nabc\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"),
        &[("GET", "a", "")],
    ),
    after("bytes behind the last chunk", chunked!("3\r\nabc\r\n0\r\n\r\nx\r\n\r\n"), &[("POST", "a", "abc")]),
    after(
        "two Hosts in the second",
        get!("\r\nGET ~b HTTP/1.1\r\nHost: {h}\r\nHost: {h}\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"),
        &[("GET", "a", "")],
    ),
    after(
        "CL.TE in the second",
        get!(
            "\r\nPOST ~b HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"
        ),
        &[("GET", "a", "")],
    ),
    after(
        "malformed behind an Upgrade that is not taken",
        get!("Connection: upgrade\r\nUpgrade: websocket\r\n\r\nGET ~evil\r\n\r\n"),
        &[("GET", "a", "")],
    ),
    after(
        "HTTP/2's preface behind h2c",
        get!(
            "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        ),
        &[("GET", "a", "")],
    ),
    Vector {
        name: "a second request where the first closes",
        bytes: get!("Connection: close\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n"),
        passes: &[("GET", "a", "")],
        then: Closed,
    },
    Vector {
        name: "a second request behind HTTP/1.0",
        bytes: "GET ~a HTTP/1.0\r\nHost: {h}\r\n\r\nGET ~evil HTTP/1.1\r\nHost: {h}\r\n\r\n",
        passes: &[("GET", "a", "")],
        then: Closed,
    },
];

const fn after(
    name: &'static str,
    bytes: &'static str,
    passes: &'static [(&'static str, &'static str, &'static str)],
) -> Vector {
    Vector { name, bytes, passes, then: Refused(400) }
}
