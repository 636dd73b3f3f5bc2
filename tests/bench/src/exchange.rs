//! What passes between load generator and backend: a request of 128 bytes that looks like HTTP/1.1, and its answer.
//!
//! Both hold [`MARKER`], so that a packet capture shows whether they passed in plain text.

use std::{io, sync::LazyLock};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// In every request and every answer.
pub const MARKER: &str = "signet-bench-plaintext-marker";
/// A request's length, padded with a header.
pub const REQUEST: usize = 128;
/// Of an answer, below its head.
pub const BODY: usize = 1024;

/// What a client wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wants {
    /// 1 KiB, and the connection stays.
    KeepAlive,
    /// 1 KiB, and the server closes.
    Close,
    /// So many bytes and nothing else; the server closes.
    Down(u64),
    /// To send so many bytes after the request, then 1 KiB; the server closes.
    Up(u64),
}

impl Wants {
    /// The request.
    pub fn request(self) -> Vec<u8> {
        let line = match self {
            Self::KeepAlive => "GET /1k".to_owned(),
            Self::Close => "GET /close".to_owned(),
            Self::Down(bytes) => format!("GET /bytes/{bytes}"),
            Self::Up(bytes) => format!("PUT /bytes/{bytes}"),
        };
        let head = format!("{line} HTTP/1.1\r\nhost: bench\r\nx-marker: {MARKER}\r\nx-pad: ");
        let pad = "x".repeat(REQUEST - head.len() - 4);
        format!("{head}{pad}\r\n\r\n").into_bytes()
    }

    pub fn parse(request: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(request).ok()?.split(" HTTP/1.1\r\n").next()?;
        match line.split_once(" /")? {
            ("GET", "1k") => Some(Self::KeepAlive),
            ("GET", "close") => Some(Self::Close),
            ("GET", path) => path.strip_prefix("bytes/")?.parse().ok().map(Self::Down),
            ("PUT", path) => path.strip_prefix("bytes/")?.parse().ok().map(Self::Up),
            _ => None,
        }
    }
}

/// The answer of 1 KiB, head and body, the same each time.
pub static ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\nx-marker: {MARKER}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    answer
});

/// Sends `request` and reads the answer of 1 KiB into `buffer`. A short or another one is an error.
pub async fn exchange<S>(stream: &mut S, request: &[u8], buffer: &mut [u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    read_answer(stream, buffer).await
}

pub async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut [u8]) -> io::Result<()> {
    stream.read_exact(buffer).await?;
    if buffer == &**ANSWER { Ok(()) } else { Err(io::Error::other("another answer than the backend's")) }
}

/// For [`exchange`].
pub fn answer_buffer() -> Vec<u8> {
    vec![0; ANSWER.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_length_the_marker_and_its_meaning() {
        for wants in [Wants::KeepAlive, Wants::Close, Wants::Down(1 << 30), Wants::Up(u64::MAX)] {
            let request = wants.request();
            assert_eq!(request.len(), REQUEST, "{wants:?}");
            assert!(String::from_utf8_lossy(&request).contains(MARKER), "{wants:?}");
            assert_eq!(Wants::parse(&request), Some(wants));
        }
        assert_eq!(Wants::parse(b"POST /1k HTTP/1.1\r\n"), None);
    }
}
