//! One request for each connection, within limits: strangers reach these ports. A client that comes often, the API server,
//! pays a handshake each time (a millisecond); in exchange nothing idles here, and leaving is closing the listener.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use signet_core::drain::Drain;
use signet_link::listen::{self, Places};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::debug;

/// Serves each connection of `listener` in a task of its own, until `drain` stops. `serve` gets [`MOST`] connections at a
/// time and [`PER_SOURCE`] of one source; those above are closed.
pub(crate) fn connections<W>(
    listener: TcpListener,
    drain: &Drain,
    serve: impl Fn(TcpStream, SocketAddr) -> W + Send + 'static,
) where
    W: Future<Output = ()> + Send + 'static,
{
    let places = Places::new(MOST, PER_SOURCE);
    listen::serve(listener, drain, move |tcp, source| {
        let served = Places::take(&places, source.ip()).map(|place| (place, serve(tcp, source)));
        async move {
            let Some((_place, served)) = served else {
                return debug!(%source, "connection closed: too many are open");
            };
            if timeout(EXCHANGE, served).await.is_err() {
                debug!(%source, "connection closed: not done in {EXCHANGE:?}");
            }
        }
    });
}

/// Reads one request, answers it, closes.
pub(crate) async fn once<W>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    source: SocketAddr,
    answer: impl Fn(Request<Incoming>) -> W,
) where
    W: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!(%source, %error, "connection failed");
    }
}

/// Connections of one listener; what one may hold is the webhook's business.
const MOST: usize = 256;
/// Connections of one source. An API server has as many as pods are created at one moment; three of them fit.
const PER_SOURCE: usize = 64;
/// Accept to answer, handshake included. The API server waits 5 s (timeoutSeconds of the webhook).
const EXCHANGE: Duration = Duration::from_secs(5);
/// A request's head; the API server's has 500 bytes.
const HEAD_BYTES: usize = 16 * 1024;
