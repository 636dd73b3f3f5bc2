//! One client connection, from its first byte to its last.

mod h1;
mod h2;

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use signet_core::drain::Drain;
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{
    arrival::Arrival,
    engine::Engine,
    stream::{Paced, Stream},
};

/// What was agreed on before the first request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// By ALPN `http/1.1`, or TLS without ALPN.
    Http1,
    /// By ALPN `h2`.
    Http2,
    /// Plaintext: HTTP/1, unless the client begins with HTTP/2's preface (prior knowledge, RFC 9113 3.3).
    Look,
}

/// Speaks one version of HTTP with a client until the connection ends. The engine knows no other way to a client.
trait Speak {
    async fn speak(engine: &Arc<Engine>, stream: Paced, arrival: Arc<Arrival>, drain: &Drain);
}

/// Serves a connection until it ends. When `drain` begins to stop, an HTTP/1 client is told with the answer that it has or gets,
/// an HTTP/2 client by GOAWAY, and what was begun is finished.
pub async fn serve<S: Stream>(
    engine: &Arc<Engine>,
    stream: S,
    arrival: Arrival,
    version: Version,
    drain: &Drain,
) {
    let mut stream: Box<dyn Stream> = Box::new(stream);
    let arrival = Arc::new(arrival);
    let (version, first) = match version {
        Version::Look => match look(&mut stream, engine.limits.client.idle).await {
            Ok(looked) => looked,
            Err(_) => return, // gone before it said anything
        },
        version => (version, Bytes::new()),
    };
    let stream = Paced::new(stream, first, engine.limits.client.write);
    match version {
        Version::Http2 => h2::Http2::speak(engine, stream, arrival, drain).await,
        Version::Http1 | Version::Look => h1::Http1::speak(engine, stream, arrival, drain).await,
    }
}

/// Reads until it is no longer in doubt whether these are HTTP/2's first bytes.
async fn look(stream: &mut Box<dyn Stream>, patience: Duration) -> io::Result<(Version, Bytes)> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    let looking = async {
        while PREFACE.starts_with(&first) && first.len() < PREFACE.len() {
            let mut more = [0; PREFACE.len()];
            let left = PREFACE.len() - first.len();
            match stream.read(&mut more[..left]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => first.extend_from_slice(&more[..n]),
            }
        }
        let version = if first == PREFACE { Version::Http2 } else { Version::Http1 };
        Ok((version, first.freeze()))
    };
    timeout(patience, looking).await?
}

/// RFC 9113 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
