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
        let connecting =
            client::channel(&proxy.config.controller, Some(proxy.config.workload.address), config);
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
mod tests {
    use super::*;
    use prost::Message as _;
    use signet_core::identity::TrustDomain;

    struct Fixture {
        discovery: Arc<Discovery>,
        model: Arc<Model>,
        trust: Arc<Trust>,
        held: Held,
    }

    fn fixture() -> Fixture {
        Fixture {
            discovery: Discovery::new(&mut Metrics::new()),
            model: Model::new(["api.shop".into()]),
            trust: Trust::new(TrustDomain::new("cluster.local").unwrap()),
            held: Held { addresses: ["api.shop".into()].into(), ..Held::new("shop/web".into()) },
        }
    }

    impl Fixture {
        fn take(&mut self, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryRequest {
            let answer = DeltaDiscoveryResponse {
                resources,
                type_url: ADDRESS.into(),
                nonce: "7".into(),
                removed_resources: removed.iter().map(ToString::to_string).collect(),
                ..Default::default()
            };
            self.discovery.take(&self.model, &self.trust, &mut self.held, answer)
        }
    }

    fn resource(name: &str, version: &str, address: &v1::Address) -> Resource {
        let body = prost_types::Any { type_url: ADDRESS.into(), value: address.encode_to_vec() };
        Resource { name: name.into(), version: version.into(), resource: Some(body) }
    }

    fn service() -> v1::Address {
        let service = v1::Service { namespace: "shop".into(), name: "api".into(), ..Default::default() };
        v1::Address { target: Some(v1::address::Target::Service(service)) }
    }

    #[test]
    fn an_answer_is_acked_and_its_version_resumes_the_next_stream() {
        let mut fixture = fixture();
        let first = fixture.held.first_requests(&fixture.model, &fixture.trust);
        assert_eq!(first[2].resource_names_subscribe, ["api.shop"]);
        let ack = fixture.take(vec![resource("api.shop", "v1", &service())], &[]);
        assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("7", None));
        assert!(matches!(fixture.model.snapshot().address("api.shop"), Some(Some(Answer::Service(_)))));
        let again = fixture.held.first_requests(&fixture.model, &fixture.trust);
        assert_eq!(again[2].initial_resource_versions.get("api.shop").map(String::as_str), Some("v1"));
    }

    #[test]
    fn an_unusable_answer_is_nacked_and_what_was_held_stays() {
        let mut fixture = fixture();
        fixture.take(vec![resource("api.shop", "v1", &service())], &[]);
        let nack = fixture.take(vec![resource("api.shop", "v2", &v1::Address::default())], &[]);
        assert!(nack.error_detail.unwrap().message.contains("api.shop"));
        assert!(matches!(fixture.model.snapshot().address("api.shop"), Some(Some(Answer::Service(_)))));
        assert_eq!(fixture.held.versions[ADDRESS]["api.shop"], "v1");
        assert_eq!(fixture.discovery.status().nacks, 1);
    }

    #[test]
    fn removed_is_unknown_and_never_plain_and_comes_back_whole() {
        let mut fixture = fixture();
        fixture.take(vec![resource("api.shop", "v1", &service())], &[]);
        fixture.take(vec![], &["api.shop"]);
        assert_eq!(fixture.model.snapshot().address("api.shop"), Some(None));
        let again = fixture.held.first_requests(&fixture.model, &fixture.trust);
        assert!(
            again[2].initial_resource_versions.is_empty(),
            "an old version would hide the answer for ever"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_expired_or_arrives_without_a_subscription_is_never_an_answer() {
        let mut fixture = fixture();
        fixture.held.first_requests(&fixture.model, &fixture.trust);
        fixture.take(vec![resource("10.0.0.8", "v1", &service())], &["10.0.0.7"]);
        assert_eq!(fixture.model.snapshot().address("10.0.0.8"), None, "it would never be updated");
        assert_eq!(fixture.model.snapshot().address("10.0.0.7"), None);

        let _ = fixture.model.resolve_within("10.0.0.9", Duration::ZERO).await;
        fixture.held.follow(&fixture.model).unwrap();
        fixture.take(vec![resource("10.0.0.9", "v1", &service())], &[]);
        tokio::time::advance(Duration::from_secs(3600)).await; // the controller was away for an hour
        let again = fixture.held.first_requests(&fixture.model, &fixture.trust);
        assert_eq!(again[2].resource_names_subscribe, ["api.shop"]);
        assert_eq!(fixture.model.snapshot().address("10.0.0.9"), None);
    }

    #[test]
    fn a_proxy_that_dials_nothing_never_subscribes_to_everything() {
        let (model, trust) = (Model::new([]), fixture().trust);
        let first = Held::new("shop/web".into()).first_requests(&model, &trust);
        assert!(first.iter().all(|request| !request.resource_names_subscribe.is_empty()), "{first:?}");
    }

    #[test]
    fn a_good_resource_beside_a_broken_one_is_taken_and_the_nack_is_short() {
        let mut fixture = fixture();
        fixture.held.first_requests(&fixture.model, &fixture.trust);
        let names: Vec<String> = (0..1000).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
        fixture.held.addresses.extend(names.iter().map(|name| name.as_str().into()));
        let broken = names.iter().map(|name| resource(name, "v1", &v1::Address::default()));
        let all = broken.chain([resource("api.shop", "v1", &service())]).collect();
        let message = fixture.take(all, &[]).error_detail.unwrap().message;
        assert!(message.len() < 1024 && message.ends_with("and 992 more"), "{message}");
        assert!(matches!(fixture.model.snapshot().address("api.shop"), Some(Some(Answer::Service(_)))));
    }

    #[test]
    fn settings_that_the_controller_no_longer_knows_stay() {
        let mut fixture = fixture();
        let settings = v1::WorkloadSettings { mode: v1::Mode::Strict.into(), ..Default::default() };
        let body = prost_types::Any { type_url: WORKLOAD_SETTINGS.into(), value: settings.encode_to_vec() };
        let resource = Resource { name: "shop/web".into(), version: "v1".into(), resource: Some(body) };
        let answer = |resources, removed: &[&str]| DeltaDiscoveryResponse {
            resources,
            type_url: WORKLOAD_SETTINGS.into(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        for answer in [answer(vec![resource], &[]), answer(vec![], &["shop/web"])] {
            let ack = fixture.discovery.take(&fixture.model, &fixture.trust, &mut fixture.held, answer);
            assert_eq!(ack.error_detail, None);
            assert!(fixture.model.snapshot().settings.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_nobody_uses_are_unsubscribed_and_forgotten() {
        let mut fixture = fixture();
        fixture.held.first_requests(&fixture.model, &fixture.trust);
        let _ = fixture.model.resolve_within("10.0.0.9", Duration::ZERO).await;
        let request = fixture.held.follow(&fixture.model).unwrap();
        assert_eq!(request.resource_names_subscribe, ["10.0.0.9"]);
        fixture.take(vec![resource("10.0.0.9", "v1", &service())], &[]);
        tokio::time::advance(Duration::from_secs(3600)).await;
        let request = fixture.held.follow(&fixture.model).unwrap();
        assert_eq!(request.resource_names_unsubscribe, ["10.0.0.9"]);
        assert_eq!(fixture.model.snapshot().address("10.0.0.9"), None);
    }
}
