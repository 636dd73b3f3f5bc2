//! One request for each connection, within limits: strangers reach these ports. A client that comes often, the API server,
//! pays a handshake each time (a millisecond); in exchange nothing idles here, and leaving is closing the listener.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use signet_core::drain::Drain;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

/// Serves each connection of `listener` in a task of its own, until `drain` stops. `serve` gets [`MOST`] connections at a
/// time and [`PER_SOURCE`] of one source; those above are closed.
pub(crate) fn connections<W>(
    listener: TcpListener,
    drain: &Drain,
    serve: impl Fn(TcpStream, SocketAddr) -> W + Send + 'static,
) where
    W: Future<Output = ()> + Send + 'static,
{
    let work = drain.clone();
    let places = Places::default();
    drain.spawn(async move {
        loop {
            let (tcp, source) = tokio::select! {
                biased;
                () = work.stopping() => return,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, source)) => (tcp, SocketAddr::new(source.ip().to_canonical(), source.port())),
                    Err(error) => {
                        warn!(%error, "accept failed; trying again in {PAUSE:?}");
                        sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            let Some(place) = places.take(source.ip()) else {
                debug!(%source, "connection closed: too many are open");
                continue;
            };
            let served = serve(tcp, source);
            work.spawn(async move {
                let _place = place;
                if timeout(EXCHANGE, served).await.is_err() {
                    debug!(%source, "connection closed: not done in {EXCHANGE:?}");
                }
            });
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

/// How many connections each source has.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place; dropping it gives it back.
struct Place {
    places: Places,
    source: IpAddr,
}

impl Places {
    fn take(&self, source: IpAddr) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_source): (usize, _) = (open.values().sum(), open.get(&source).copied().unwrap_or(0));
        if all >= MOST || of_source >= PER_SOURCE {
            return None;
        }
        open.insert(source, of_source + 1);
        Some(Place { places: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.source)),
        }
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
/// Out of descriptors: long enough not to spin.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_the_places_of_others_and_gives_its_own_back() {
        let places = Places::default();
        let [a, b] = ["198.18.0.1", "2001:2::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut held: Vec<_> = (0..PER_SOURCE).map(|_| places.take(a).unwrap()).collect();
        assert!(places.take(a).is_none() && places.take(b).is_some());
        held.pop();
        assert!(places.take(a).is_some());
        held.clear();
        assert!(places.0.lock().unwrap().is_empty(), "who has none is forgotten");
    }
}
