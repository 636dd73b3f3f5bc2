//! The ports of the model: bound when it names them, closed when it does not. One that cannot be bound is tried again every
//! second, and keeps us unready.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_core::drain::Drain;
use signet_http::model::{Listener, Scheme};
use signet_link::listen::{accept, bind};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{
    Gateway,
    connection::{self, Port},
};

/// How each port stands, for readiness and pages. `None`: it is open.
#[derive(Default)]
pub struct Ports(Mutex<BTreeMap<u16, Option<String>>>);

impl Ports {
    /// What of `listeners` is not open, and why.
    pub fn closed(&self, listeners: &[Arc<Listener>]) -> Vec<String> {
        let ports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = |(port, _): (u16, Scheme)| match ports.get(&port) {
            Some(None) => None,
            Some(Some(why)) => Some(format!("port {port}: {why}")),
            None => Some(format!("port {port}: not bound yet")),
        };
        wanted(listeners).into_iter().filter_map(closed).collect()
    }

    fn set(&self, ports: BTreeMap<u16, Option<String>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ports;
    }
}

fn wanted(listeners: &[Arc<Listener>]) -> BTreeMap<u16, Scheme> {
    listeners.iter().map(|listener| (listener.port, listener.scheme)).collect() // one scheme each: `held`
}

/// Follows the model until `accepting` stops; connections are `data`'s, and outlive their listener.
pub fn run(gateway: &Arc<Gateway>, accepting: &Drain, data: &Drain) {
    let (gateway, work, data) = (Arc::clone(gateway), accepting.clone(), data.clone());
    let mut models = gateway.model.subscribe();
    accepting.keep(async move {
        // Dropped, it ends its accept loop.
        let mut open: BTreeMap<u16, (Scheme, watch::Sender<()>)> = BTreeMap::new();
        loop {
            let wanted = wanted(&models.borrow_and_update().model.snapshot.listeners);
            open.retain(|port, (scheme, _)| wanted.get(port) == Some(scheme));
            let mut ports: BTreeMap<u16, Option<String>> = open.keys().map(|port| (*port, None)).collect();
            for (number, scheme) in wanted {
                if open.contains_key(&number) {
                    continue;
                }
                let address = SocketAddr::new(gateway.config.bind, number);
                let fault = match bind(address).await {
                    Ok(listener) => {
                        info!(%address, scheme = scheme.word(), "listening");
                        let (stop, gone) = watch::channel(());
                        let port = Port { number, scheme };
                        work.keep(accepts(Arc::clone(&gateway), port, listener, gone, data.clone()));
                        open.insert(number, (scheme, stop));
                        None
                    }
                    Err(error) => {
                        warn!(%address, %error, "cannot listen; trying again; who has it: ss -ltnp");
                        Some(format!("cannot listen on {address}: {error}"))
                    }
                };
                ports.insert(number, fault);
            }
            let again = ports.values().any(Option::is_some).then(|| Instant::now() + AGAIN);
            gateway.ports.set(ports);
            tokio::select! {
                changed = models.changed() => if changed.is_err() { return },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
    });
}

async fn accepts(
    gateway: Arc<Gateway>,
    port: Port,
    listener: TcpListener,
    mut gone: watch::Receiver<()>,
    data: Drain,
) {
    loop {
        tokio::select! {
            biased;
            _ = gone.changed() => return info!(port = port.number, "no longer listening"),
            (tcp, source) = accept(&listener) => {
                data.spawn(connection::serve(Arc::clone(&gateway), port, tcp, source, data.clone()));
            }
        }
    }
}

/// Somebody else's port.
const AGAIN: Duration = Duration::from_secs(1);
