//! The stream from the controller: what we subscribe to, what it answers, and how both survive its absence.
//!
//! One delta xDS stream carries three types: our own settings, the trust bundle, and the addresses that are used. Content
//! hashes resume it after a break, so an unchanged mesh costs a reconnect and nothing more. Everything known goes on meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use signet_api::{
    ADDRESS, TRUST_BUNDLE, WORKLOAD_SETTINGS, v1,
    xds::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status as Detail,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use signet_core::{bundle::TrustBundle, drain::Drain, telemetry::Metrics, trust::Trust};
use signet_link::client;
use tokio::{
    sync::{mpsc, watch},
    time::{interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::{
    Proxy,
    model::{Answer, Model},
    settings::Settings,
};

/// How discovery stands, for the admin page.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub connected: bool,
    pub last_error: Option<String>,
    /// Answers that we could not use.
    pub nacks: u64,
}

/// The stream's metrics and status.
pub struct Discovery {
    status: watch::Sender<Status>,
    channel: watch::Sender<Option<Channel>>,
    connected: Gauge,
    nacks: Counter,
}

impl Discovery {
    pub fn new(metrics: &mut Metrics) -> Arc<Self> {
        Arc::new(Self {
            status: watch::Sender::default(),
            channel: watch::Sender::new(None),
            connected: metrics.add(
                "discovery_connected",
                "1: the controller's stream is up",
                Gauge::default(),
            ),
            nacks: metrics.add(
                "discovery_nacks",
                "Answers of the controller that could not be used",
                Counter::default(),
            ),
        })
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The connection that discovery has, for reports.
    pub fn channel(&self) -> watch::Receiver<Option<Channel>> {
        self.channel.subscribe()
    }

    /// Connects, for ever, until `drain` stops.
    pub fn run(self: &Arc<Self>, proxy: Arc<Proxy>, drain: &Drain) {
        let (discovery, stop) = (Arc::clone(self), drain.clone());
        drain.spawn(async move {
            let mut held = Held::new(proxy.config.workload.name().to_string());
            let mut failures = 0;
            loop {
                let attempt = discovery.one_stream(&proxy, &mut held, &mut failures);
                let why = tokio::select! {
                    biased;
                    () = stop.stopping() => return,
                    why = Box::pin(attempt) => why,
                };
                discovery.lost(&why);
                failures = (failures + 1).min(16);
                let pause = (FIRST_PAUSE * 2_u32.pow(failures)).min(LONGEST_PAUSE);
                sleep(pause.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
            }
        });
    }

    fn lost(&self, why: &str) {
        self.channel.send_replace(None);
        self.connected.set(0);
        let was = self.status.borrow().connected;
        self.status.send_modify(|status| {
            status.connected = false;
            status.last_error = Some(why.to_owned());
        });
        if was {
            warn!(error = why, "controller lost; what is known goes on");
        }
    }

    fn up(&self, channel: Channel) {
        self.connected.set(1);
        self.channel.send_replace(Some(channel));
        self.status.send_modify(|status| status.connected = true);
        info!("controller connected");
    }

    /// One stream from its connect to its end, and why it ended.
    async fn one_stream(&self, proxy: &Arc<Proxy>, held: &mut Held, failures: &mut u32) -> String {
        proxy.svid.ready().await;
        let svid = proxy.svid.clone();
        let config = move || svid.current().map(|generation| Arc::clone(&generation.grpc.client));
        let connecting = client::channel(&proxy.config.controller, proxy.config.source(), config);
        let distrusted = distrusted(&proxy.trust);
        let mut trust = proxy.trust.watch();
        let channel = match connecting.await {
            Ok(channel) => channel,
            Err(error) => return error.to_string(),
        };
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        for request in held.first_requests(&proxy.model, &proxy.trust) {
            if let Err(why) = send(&requests, request).await {
                return why;
            }
        }
        let mut ads =
            AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let opening = ads.delta_aggregated_resources(ReceiverStream::new(outgoing));
        let mut answers = match timeout(OPENING, opening).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return status.to_string(),
            Err(_) => return format!("no answer in {OPENING:?}"),
        };
        self.up(channel);
        let mut interests = proxy.model.watch_interests();
        let mut forget = interval(FORGET_CHECK);
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        *failures = 0;
                        let reply = self.take(&proxy.model, &proxy.trust, held, answer);
                        if let Err(why) = send(&requests, reply).await { return why }
                    }
                    Ok(None) => return "the controller ended the stream".into(),
                    Err(status) => return status.to_string(),
                },
                _ = trust.changed() => if self::distrusted(&proxy.trust) != distrusted {
                    return "a root was distrusted; the controller has to prove itself anew".into();
                },
                changed = interests.changed() => {
                    if changed.is_err() { return "the model is gone".into() }
                    if let Some(request) = held.follow(&proxy.model)
                        && let Err(why) = send(&requests, request).await { return why }
                }
                _ = forget.tick() => {
                    if let Some(request) = held.follow(&proxy.model)
                        && let Err(why) = send(&requests, request).await { return why }
                }
            }
        }
    }

    /// Applies one answer to the model, whole, and says ACK or NACK.
    fn take(
        &self,
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
                    Ok(()) => held.note(&type_url, name, version),
                    Err(why) => faults.push(format!("{name}: {why}")),
                }
            }
            for name in answer.removed_resources {
                held.drop_version(&type_url, &name);
                match type_url.as_str() {
                    ADDRESS if held.addresses.contains(name.as_str()) => draft.set_address(&name, None),
                    ADDRESS => {}
                    _ => warn!(type_url, name, "the controller knows it no more; what we hold stays"),
                }
            }
        });
        let mut reply =
            DeltaDiscoveryRequest { type_url, response_nonce: answer.nonce, ..Default::default() };
        if !faults.is_empty() {
            let message = shown_faults(&faults);
            warn!(error = message, "an answer of the controller is unusable; what we held before stays");
            self.nacks.inc();
            self.status.send_modify(|status| status.nacks += 1);
            reply.error_detail = Some(Detail { code: INVALID_ARGUMENT, message });
        }
        reply
    }
}

/// What we subscribe to and hold, by type.
struct Held {
    /// Type URL -> name -> version.
    versions: HashMap<String, HashMap<String, String>>,
    addresses: BTreeSet<Arc<str>>,
    node: String,
}

impl Held {
    fn new(node: String) -> Self {
        Self { versions: HashMap::new(), addresses: BTreeSet::new(), node }
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
        DeltaDiscoveryRequest {
            node: Some(Node { id: self.node.clone() }),
            type_url: type_url.into(),
            resource_names_subscribe: names,
            initial_resource_versions: self
                .versions
                .get(type_url)
                .cloned()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            ..Default::default()
        }
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
        unsubscribe.iter().for_each(|name| self.drop_version(ADDRESS, name));
        self.addresses = wanted;
        Some(DeltaDiscoveryRequest {
            type_url: ADDRESS.into(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Default::default()
        })
    }

    fn note(&mut self, type_url: &str, name: String, version: String) {
        self.versions.entry(type_url.into()).or_default().insert(name, version);
    }

    fn drop_version(&mut self, type_url: &str, name: &str) {
        if let Some(versions) = self.versions.get_mut(type_url) {
            versions.remove(name);
        }
    }
}

/// Waits for room; a controller that does not read for [`SEND`] is one that hangs.
async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), String> {
    match timeout(SEND, requests.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the stream closed".into()),
        Err(_) => Err(format!("the controller read nothing for {SEND:?}")),
    }
}

fn distrusted(trust: &Trust) -> Vec<Arc<str>> {
    trust.bundle().map(|bundle| bundle.distrusted.clone()).unwrap_or_default()
}

/// The first few, so that one broken release of the controller cannot fill a disk with log lines.
fn shown_faults(faults: &[String]) -> String {
    let shown = faults.iter().take(SHOWN_FAULTS).map(String::as_str).collect::<Vec<_>>().join("; ");
    match faults.len().saturating_sub(SHOWN_FAULTS) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
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

/// google.rpc.Code.
const INVALID_ARGUMENT: i32 = 3;
const MAX_MESSAGE: usize = 4 << 20;
/// Requests that wait for the stream: three first ones, then one at a time.
const REQUESTS: usize = 16;
const OPENING: Duration = Duration::from_secs(5);
/// Both sides could wait for each other to read, as HTTP/2's windows end at 64 KiB; this ends it.
const SEND: Duration = Duration::from_secs(10);
const SHOWN_FAULTS: usize = 8;
const FORGET_CHECK: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
