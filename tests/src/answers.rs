//! HTTP/1.1 answers, read from raw bytes one by one, so that a test sees where each ends and what comes behind it.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::eventually::SOON;

/// Of one connection; what was read beyond an answer belongs to the next.
pub struct Answers<S> {
    pub stream: S,
    buffer: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// As it came.
    pub head: String,
    pub body: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Answers<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next one that is final, or 101. `to_head`: to a HEAD request, so that it has no body.
    pub async fn next(&mut self, to_head: bool) -> io::Result<Answer> {
        loop {
            let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n").await?).into_owned();
            let line = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 "));
            let status = line.and_then(|rest| rest.get(..3)?.parse().ok());
            let status: u16 = status.ok_or_else(|| io::Error::other(format!("no answer: {head:?}")))?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let field = |name: &str| {
                head.lines().find_map(|line| {
                    let (n, value) = line.split_once(':')?;
                    n.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            let bodyless = to_head || matches!(status, 101 | 204 | 304);
            let body = match (field("transfer-encoding"), field("content-length")) {
                _ if bodyless => Vec::new(),
                (Some(_), None) => self.chunks().await?,
                (None, Some(length)) => self.take(length.parse().map_err(io::Error::other)?).await?,
                other => return Err(io::Error::other(format!("framed as {other:?}: {head:?}"))),
            };
            return Ok(Answer { status, head, body });
        }
    }

    /// Waits for the end of the connection: everything that came before it. A reset is an end.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more().await {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(e),
                Err(_) => return Ok(std::mem::take(&mut self.buffer)),
            }
        }
    }

    pub async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Up to and with `end`.
    pub async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.more().await?;
        }
    }

    /// The next chunk of an answer whose head was read with [`Answers::until`]; empty: the last.
    pub async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.until(b"\r\n").await?;
        let size = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let chunk = self.take(size).await?;
        match self.take(2).await?.as_slice() {
            b"\r\n" => Ok(chunk),
            other => Err(io::Error::other(format!("{other:?} behind a chunk"))),
        }
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let chunk = self.chunk().await?;
            if chunk.is_empty() {
                return Ok(all);
            }
            all.extend(chunk);
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match timeout(SOON, self.stream.read(&mut piece)).await?? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(())
            }
        }
    }
}
