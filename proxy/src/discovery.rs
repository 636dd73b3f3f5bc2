//! The stream from the controller: what we subscribe to, what it answers, and how both survive its absence.
//!
//! One delta xDS stream carries three types: our own settings, the trust bundle, and the addresses that are used. Content
//! hashes resume it after a break, so an unchanged mesh costs a reconnect and nothing more. Everything known goes on meanwhile.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use signet_api::{
    ADDRESS, TRUST_BUNDLE, WORKLOAD_SETTINGS, v1,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use signet_core::{bundle::TrustBundle, drain::Drain, trust::Trust};
pub use signet_link::discovery::Discovery;
use signet_link::discovery::{Holder, Server, Versions};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::warn;

use crate::{
    Proxy,
    model::{Answer, Model},
    settings::Settings,
};

/// Connects to the controller, for ever, until `drain` stops.
pub fn run(discovery: &Arc<Discovery>, proxy: Arc<Proxy>, drain: &Drain) {
    let server = Server {
        word: "controller",
        target: proxy.config.controller.clone(),
        source: proxy.config.source(),
        svid: proxy.svid.clone(),
        trust: Arc::clone(&proxy.trust),
        max_message: MAX_MESSAGE,
    };
    let holder = Feed {
        held: Held::new(proxy.config.workload.name().to_string()),
        interests: proxy.model.watch_interests(),
        forget: None,
        proxy,
    };
    discovery.run(server, holder, drain);
}

/// The stream's other end in this process: the model, and what is held of it.
struct Feed {
    proxy: Arc<Proxy>,
    held: Held,
    interests: watch::Receiver<u64>,
    /// Made when it is first waited for: it belongs to the runtime.
    forget: Option<Interval>,
}

impl Holder for Feed {
    fn first(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.held.first_requests(&self.proxy.model, &self.proxy.trust)
    }

    fn take(&mut self, discovery: &Discovery, answer: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        take(discovery, &self.proxy.model, &self.proxy.trust, &mut self.held, answer)
    }

    async fn next(&mut self) -> Option<DeltaDiscoveryRequest> {
        let forget = self.forget.get_or_insert_with(|| {
            let mut forget = interval(FORGET_CHECK);
            forget.set_missed_tick_behavior(MissedTickBehavior::Delay); // hours without a controller are one look
            forget
        });
        tokio::select! {
            changed = self.interests.changed() => if changed.is_err() {
                std::future::pending::<()>().await; // the model is gone, and so is the process
            },
            _ = forget.tick() => {}
        }
        self.held.follow(&self.proxy.model)
    }
}

/// Applies one answer to the model, whole, and says ACK or NACK.
fn take(
    discovery: &Discovery,
    model: &Model,
    trust: &Trust,
    held: &mut Held,
    answer: DeltaDiscoveryResponse,
) -> DeltaDiscoveryRequest {
    let mut faults = Vec::new();
    let type_url = answer.type_url;
    model.update(|draft| {
        for resource in answer.resources {
            if type_url == ADDRESS && !held.addresses.contains(resource.name.as_str()) {
                continue; // unsubscribed meanwhile: kept, it would grow stale and be used as an answer later
            }
            let (name, version) = (resource.name.clone(), resource.version.clone());
            let applied = match type_url.as_str() {
                ADDRESS => decode::<v1::Address>(resource, ADDRESS)
                    .and_then(Answer::try_from)
                    .map(|answer| draft.set_address(&name, Some(answer))),
                WORKLOAD_SETTINGS => decode::<v1::WorkloadSettings>(resource, WORKLOAD_SETTINGS)
                    .and_then(Settings::try_from)
                    .map(|settings| draft.set_settings(settings)),
                TRUST_BUNDLE => {
                    decode::<v1::TrustBundle>(resource, TRUST_BUNDLE).and_then(bundle).map(|bundle| {
                        trust.offer(bundle);
                    })
                }
                other => Err(format!("type {other:?} was not asked for")),
            };
            match applied {
                Ok(()) => held.versions.note(&type_url, name, version),
                Err(why) => faults.push(format!("{name}: {why}")),
            }
        }
        for name in answer.removed_resources {
            held.versions.forget(&type_url, &name);
            match type_url.as_str() {
                ADDRESS if held.addresses.contains(name.as_str()) => draft.set_address(&name, None),
                ADDRESS => {}
                _ => warn!(type_url, name, "the controller knows it no more; what we hold stays"),
            }
        }
    });
    discovery.reply(type_url, answer.nonce, &faults)
}

/// What we subscribe to and hold, by type.
struct Held {
    versions: Versions,
    addresses: BTreeSet<Arc<str>>,
    node: String,
}

impl Held {
    fn new(node: String) -> Self {
        Self { versions: Versions::default(), addresses: BTreeSet::new(), node }
    }

    fn first_requests(&mut self, model: &Model, trust: &Trust) -> Vec<DeltaDiscoveryRequest> {
        let _ = self.follow(model); // forgets what nobody used while there was no stream
        let mut requests = vec![
            self.subscribe(WORKLOAD_SETTINGS, vec![self.node.clone()]),
            self.subscribe(TRUST_BUNDLE, vec![trust.domain().to_string()]),
        ];
        // A first request without names would subscribe to all there are (delta xDS, wildcard).
        if !self.addresses.is_empty() {
            let addresses = self.addresses.iter().map(ToString::to_string).collect();
            requests.push(self.subscribe(ADDRESS, addresses));
        }
        requests
    }

    fn subscribe(&self, type_url: &str, names: Vec<String>) -> DeltaDiscoveryRequest {
        self.versions.subscribe(&self.node, type_url, names)
    }

    /// The difference to what the model wants now, if any. A name that nobody uses any more is forgotten.
    fn follow(&mut self, model: &Model) -> Option<DeltaDiscoveryRequest> {
        let wanted: BTreeSet<Arc<str>> = model.interests().into_iter().collect();
        let subscribe: Vec<String> = wanted.difference(&self.addresses).map(ToString::to_string).collect();
        let unsubscribe: Vec<String> = self.addresses.difference(&wanted).map(ToString::to_string).collect();
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        model.update(|draft| unsubscribe.iter().for_each(|name| draft.forget_address(name)));
        unsubscribe.iter().for_each(|name| self.versions.forget(ADDRESS, name));
        self.addresses = wanted;
        Some(DeltaDiscoveryRequest {
            type_url: ADDRESS.into(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Default::default()
        })
    }
}

fn decode<M: prost::Message + Default>(resource: Resource, type_url: &str) -> Result<M, String> {
    let any = resource.resource.ok_or("a resource without a body")?;
    if any.type_url != type_url {
        return Err(format!("is a {:?}", any.type_url));
    }
    M::decode(any.value.as_slice()).map_err(|e| e.to_string())
}

fn bundle(message: v1::TrustBundle) -> Result<TrustBundle, String> {
    let roots = message.roots.into_iter().map(Into::into).collect();
    TrustBundle::new(message.sequence, roots, message.distrusted.into_iter().map(Into::into).collect())
}

const MAX_MESSAGE: usize = 4 << 20;
const FORGET_CHECK: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
