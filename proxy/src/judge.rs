//! Looks again at live connections when something changed that they rest on: policy and mode, who is behind an address,
//! a distrusted root, our own expiry. Idle ones wait for their next OPEN; here is only what carries bytes.

use std::{net::SocketAddr, sync::Arc};

use signet_core::drain::Drain;
use tracing::info;

use signet_wire::{client::Distrust, pool::Direction, refusal::Refusal};

use crate::{
    Proxy,
    connections::{Facts, Live},
    model::{Snapshot, Transport},
    settings::{Judgement, Settings},
};

/// Judges every live connection again whenever the model, the trust or our own leaf changes.
pub fn run(proxy: Arc<Proxy>, drain: &Drain) {
    let mut model = proxy.model.watch();
    let mut trust = proxy.trust.watch();
    let mut svid = proxy.svid.watch();
    let stop = drain.clone();
    drain.spawn(async move {
        let mut had_leaf = false;
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                changed = model.changed() => if changed.is_err() { return },
                changed = trust.changed() => if changed.is_ok() { judge_chains(&proxy) },
                changed = svid.changed() => {
                    if changed.is_err() { return }
                    let has_leaf = svid.borrow_and_update().is_some();
                    if had_leaf && !has_leaf { cut_all_secured(&proxy) }
                    had_leaf = has_leaf;
                }
            }
            let snapshot = proxy.model.snapshot();
            for live in proxy.connections.live() {
                judge(&snapshot, &live);
            }
        }
    });
}

/// One more look at a connection on `snapshot`; also right after it was opened, because the world may have changed between
/// its decision and its row.
pub fn judge(snapshot: &Snapshot, live: &Live) {
    let facts = live.facts();
    if !live.is_carried() || facts.model_generation == snapshot.generation {
        return;
    }
    let verdict = match facts.direction {
        Direction::Inbound => inbound(snapshot.settings.as_deref(), &facts),
        Direction::Outbound => outbound(snapshot, &facts),
    };
    if let Err(why) = verdict {
        info!(connection = live.id, reason = why.reason(), "cutting a live connection: {why}");
        live.cut(why);
    }
}

fn inbound(settings: Option<&Settings>, facts: &Facts) -> Result<(), Refusal> {
    let Some(settings) = settings else { return Ok(()) }; // settings are never taken back
    let secured = facts.verified.is_some();
    let denied = matches!(settings.judge(facts.peer_id(), facts.port), Judgement::Denied(_));
    if denied || (!secured && !settings.takes_plaintext(facts.port)) {
        return Err(Refusal::PolicyChanged { caller: caller(facts), port: facts.port });
    }
    Ok(())
}

fn outbound(snapshot: &Snapshot, facts: &Facts) -> Result<(), Refusal> {
    let (Some(peer), Some(id)) = (facts.peer_address, facts.peer_id()) else { return Ok(()) };
    match snapshot.workload_at(peer.ip()).map(|workload| &workload.transport) {
        Some(Transport::Mesh(now)) if now == id => Ok(()),
        None => Ok(()), // gone from the answers: a terminating pod may finish what it does
        Some(_) => Err(Refusal::EndpointChanged { peer }),
    }
}

/// A changed trust bundle: only an explicit distrust cuts what is busy; a retired root's leaves have expired by themselves.
fn judge_chains(proxy: &Proxy) {
    let algorithms = proxy.provider.signature_verification_algorithms;
    let Some(distrust) = Distrust::of(&proxy.trust, algorithms) else { return };
    for live in proxy.connections.live() {
        let facts = live.facts();
        let Some(peer) = &facts.verified else { continue };
        if distrust.reaches(peer) {
            live.cut(Refusal::RootDistrusted { peer: address(&facts) });
        }
    }
}

fn cut_all_secured(proxy: &Proxy) {
    for live in proxy.connections.live() {
        if live.facts().verified.is_some() {
            live.cut(Refusal::CertificateExpired);
        }
    }
}

fn address(facts: &Facts) -> SocketAddr {
    facts.peer_address.unwrap_or(facts.source)
}

/// The caller as messages name it: who it proved to be, else where it came from.
pub fn caller(facts: &Facts) -> String {
    facts.peer_id().map_or_else(|| facts.source.ip().to_string(), ToString::to_string)
}
