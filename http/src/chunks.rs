//! The framing of a chunked request body, followed byte by byte, so that the connection knows where the next request begins
//! and no odd spelling of a chunk reaches anyone. Fuzzed (tests/fuzz, request_head).

use crate::head;

/// Where in a chunked body we are.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    at: At,
    /// Bytes of the size line, or of all trailer lines.
    line: usize,
    size: u64,
    digits: usize,
    /// The trailer line that is being read, and how many there were.
    trailer: Vec<u8>,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum At {
    #[default]
    Size,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    Trailer,
    Done,
}

impl Chunks {
    /// Follows the framing through `bytes` up to the body's end, and says how many bytes are of it.
    ///
    /// Stricter than RFC 9112 7.1: every line ends in CR LF, an extension is visible ASCII, spaces are only within one, and size
    /// lines and trailers have limits.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match (self.at, byte) {
                (At::Done, _) => return Ok(at),
                (At::Data, _) => {
                    let skip = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - at);
                    self.size -= skip as u64;
                    at += skip;
                    if self.size == 0 {
                        self.at = At::DataReturn;
                    }
                    continue;
                }
                (At::Size, byte) if byte.is_ascii_hexdigit() => {
                    let digit = char::from(*byte).to_digit(16).unwrap_or_default();
                    self.digits += 1;
                    if self.digits > MAX_SIZE_DIGITS {
                        return Err("a chunk's size has too many digits");
                    }
                    self.size = self.size << 4 | u64::from(digit);
                }
                (At::Size, b';') if self.digits > 0 => self.at = At::Extension,
                (At::Size | At::Extension, b'\r') if self.digits > 0 => self.at = At::SizeFeed,
                (At::Extension, b' ' | b'\t') => {}
                (At::Extension, byte) if byte.is_ascii_graphic() => {}
                (At::SizeFeed, b'\n') => {
                    self.at = if self.size == 0 { At::Trailer } else { At::Data };
                    (self.line, self.digits) = (0, 0);
                    at += 1;
                    continue;
                }
                (At::DataReturn, b'\r') => self.at = At::DataFeed,
                (At::DataFeed, b'\n') => {
                    (self.at, self.line) = (At::Size, 0);
                    at += 1;
                    continue;
                }
                (At::Trailer, b'\n') => self.end_trailer()?,
                (At::Trailer, byte) => self.trailer.push(*byte),
                (At::Size | At::Extension | At::SizeFeed, _) => {
                    return Err("a chunk's size line is malformed");
                }
                (At::DataReturn | At::DataFeed, _) => return Err("a chunk is longer than its size"),
            }
            self.line += 1;
            if self.line > MAX_LINE {
                return Err("a chunk's extension or the trailers are too long");
            }
            at += 1;
        }
        Ok(at)
    }

    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    fn end_trailer(&mut self) -> Result<(), &'static str> {
        let line = std::mem::take(&mut self.trailer);
        let line = line.strip_suffix(b"\r").ok_or("a trailer ends without a carriage return")?;
        if line.is_empty() {
            self.at = At::Done;
            return Ok(());
        }
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err("there are too many trailers");
        }
        let (name, _) = head::field(line).map_err(|_| "a trailer is malformed")?;
        let forbidden =
            ["content-length", "transfer-encoding", "host", "connection", "trailer", "te", "upgrade"];
        match forbidden.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes())) {
            true => Err("a trailer would change the framing"),
            false => Ok(()),
        }
    }
}

/// 2^60 bytes.
const MAX_SIZE_DIGITS: usize = 15;
/// Bytes: of a size line with its extension, which nobody uses; of all trailers.
const MAX_LINE: usize = 4096;
/// As many as hyper takes: what it refuses by itself would be the client's going away.
const MAX_TRAILERS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &[u8], piece: usize) -> Result<Option<usize>, &'static str> {
        let (mut chunks, mut eaten) = (Chunks::default(), 0);
        for bytes in body.chunks(piece) {
            let n = chunks.follow(bytes)?;
            eaten += n;
            if n < bytes.len() {
                break;
            }
        }
        Ok(chunks.is_done().then_some(eaten))
    }

    #[test]
    fn a_body_ends_where_it_ends_however_it_is_cut() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "00A;x=\"y z\"\r\n0123456789\r\n0;q\r\nX-Sum: 1\r\nY: \r\n\r\n",
            "1\r\n\n\r\n0\r\n\r\n",
        ] {
            for piece in 1..=body.len() + 4 {
                let next = format!("{body}GET ");
                assert_eq!(whole(next.as_bytes(), piece), Ok(Some(body.len())), "{body:?} by {piece}");
            }
        }
        assert_eq!(whole(b"3\r\nab", 9), Ok(None));
    }

    #[test]
    fn odd_spellings_are_refused() {
        for body in [
            "\r\n",
            "\n",
            "x\r\n",
            "0x1\r\na\r\n",
            "+1\r\na\r\n",
            "-1\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "1\na\r\n",
            "1\r\r\n",
            "1;\nx\r\n",
            "1;a\0\r\n",
            ";x\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\rx",
            "0\r\n\n",
            "0\r\nX\r\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX: y\r\r\n\r\n",
            "0\r\nX: \x0c\r\n\r\n",
            "0\r\nContent-Length: 4\r\n\r\n",
            "0\r\nTransfer-Encoding: x\r\n\r\n",
            "fffffffffffffffff\r\n",
            "0000000000000001\r\n",
        ] {
            assert!(whole(body.as_bytes(), 1).is_err(), "{body:?}");
            assert!(whole(body.as_bytes(), 99).is_err(), "{body:?}");
        }
        assert!(whole(format!("1;{}\r\n", "x".repeat(MAX_LINE)).as_bytes(), 64).is_err());
        assert!(whole(format!("0\r\nX: {}\r\n", "x".repeat(MAX_LINE)).as_bytes(), 64).is_err());
        let trailers = |n| whole(format!("0\r\n{}\r\n", "X:\r\n".repeat(n)).as_bytes(), 64);
        assert!(trailers(MAX_TRAILERS).is_ok() && trailers(MAX_TRAILERS + 1).is_err());
    }
}
