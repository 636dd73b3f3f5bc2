//! HTTP/1 with a client: the guard, then hyper.

use std::{convert::Infallible, pin::pin, sync::Arc};

use hyper::{server::conn::http1, service::service_fn};
use signet_core::drain::Drain;
use tokio::time::sleep;

use super::Speak;
use crate::{
    arrival::Arrival,
    body::Body,
    engine::Engine,
    exchange::{self, Connection},
    forwarded::Words,
    guard::{Guard, Wire},
    stream::Paced,
};

pub(super) struct Http1;

impl Speak for Http1 {
    async fn speak(engine: &Arc<Engine>, stream: Paced, arrival: Arc<Arrival>, drain: &Drain) {
        let _open = engine.metrics.connection("HTTP/1");
        let (limits, wire) = (&engine.limits, Wire::new());
        let guard = Guard::new(stream, Arc::clone(&wire), Arc::clone(limits));
        let connection = Arc::new(Connection {
            engine: Arc::clone(engine),
            arrival,
            wire: Some(Arc::clone(&wire)),
            words: Words::default(),
        });
        let service = service_fn(|request| {
            let connection = Arc::clone(&connection);
            async move {
                if let Some(wire) = &connection.wire {
                    wire.begin();
                }
                Ok::<_, Infallible>(exchange::answer(&connection, request.map(Body::H1)).await)
            }
        });
        let mut builder = http1::Builder::new();
        // What the guard let pass is read by hyper, too.
        let head = limits.head.bytes.saturating_add(limits.head.line);
        builder.half_close(false).max_buf_size(limits.client.write_buffer.max(head).max(HYPERS_LEAST));
        if limits.head.fields != HYPERS_FIELDS {
            builder.max_headers(limits.head.fields); // hyper allocates for any other number
        }
        let mut serving = pin!(builder.serve_connection(guard, service).with_upgrades());
        tokio::select! {
            biased;
            () = drain.stopping() => {}
            _ = &mut serving => return, // how it ended, its requests have said
        }
        // A request may be on its way on an idle connection: it is answered, with "close".
        if !wire.is_busy() {
            tokio::select! {
                biased;
                () = wire.becomes_busy() => {}
                () = sleep(limits.client.drain_idle) => {}
                _ = &mut serving => return,
            }
        }
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    }
}

/// hyper's own limit of fields.
const HYPERS_FIELDS: usize = 100;
/// hyper panics below this.
const HYPERS_LEAST: usize = 8192;
