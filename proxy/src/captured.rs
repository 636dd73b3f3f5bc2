//! What a redirected connection is for, by its original destination; nothing else about it is believed.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use signet_wire::{pool::Direction, refusal::Refusal};

use crate::{
    Proxy,
    capture::{
        OUTBOUND_PROBES,
        orig_dst::{NotRedirected, orig_dst},
        self_test::Process,
    },
    config::{Config, Inbound, Upstream},
    model::Workload,
};

/// An inbound connection's port, and where our app takes it: on the pod's address, never loopback. Refused or not, the log
/// and the table name a destination.
pub(crate) fn inbound(down: &TcpStream) -> (Arc<Inbound>, Result<(), Refusal>) {
    let (to, redirected) = destination(down, Direction::Inbound);
    (Arc::new(Inbound { port: to.port(), listen: to, target: to }), redirected)
}

/// The pod's port as callers know it. Of a configured inbound `listen` may be elsewhere, with a wiretap in front of it; of a
/// captured one it is what the caller dialled, on whichever address of the pod.
pub(crate) fn shown(config: &Config, inbound: &Inbound) -> SocketAddr {
    let configured = config.inbound.iter().any(|one| one == inbound);
    if configured { SocketAddr::new(config.workload.address, inbound.port) } else { inbound.listen }
}

/// An outbound connection's way, by the address that our app dialled.
pub(crate) fn outbound(app: &TcpStream) -> (Arc<Upstream>, Result<(), Refusal>) {
    let (to, redirected) = destination(app, Direction::Outbound);
    let (name, port) = (to.ip().to_string().into(), to.port());
    (Arc::new(Upstream { listen: to, name, port, to: to.to_string().into() }), redirected)
}

fn destination(tcp: &TcpStream, direction: Direction) -> (SocketAddr, Result<(), Refusal>) {
    match orig_dst(tcp, direction) {
        Ok(to) => (to, Ok(())),
        Err(NotRedirected { to }) => (to, Err(Refusal::NotRedirected { to })),
    }
}

/// The capture step dials an address that nobody has, to see an app's connection land here: it is told who we are.
pub(crate) fn asks_who_we_are(proxy: &Proxy, upstream: &Upstream) -> Option<Process> {
    let canary = proxy.canary.as_ref()?;
    OUTBOUND_PROBES.contains(&upstream.listen).then(|| canary.process())
}

/// Whether an endpoint is our own pod, under whichever of its addresses: the app calls itself, and its own proxy never wraps
/// that. Without capture the app does not listen on the pod's ports; its proxy does.
pub(crate) fn is_own_pod(config: &Config, endpoint: &Workload) -> bool {
    let own = &config.workload;
    config.captured
        && (own.has(endpoint.address) || (endpoint.namespace == own.namespace && endpoint.name == own.pod))
}
