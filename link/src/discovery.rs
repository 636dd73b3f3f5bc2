//! The client's end of a delta xDS stream, the same in every data plane: it connects, again and again, asks for what its
//! [`Holder`] wants, and answers each response with ACK or NACK. Content hashes resume it after a break, so an unchanged world
//! costs a reconnect and nothing more. Everything known goes on meanwhile.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use signet_api::xds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status as Detail,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use signet_core::{drain::Drain, telemetry::Metrics, trust::Trust};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::{Target, client, svid::Svid};

/// How discovery stands, for the admin page.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub connected: bool,
    pub last_error: Option<String>,
    /// Answers that we could not use.
    pub nacks: u64,
}

/// What a data plane does with a stream: it holds what came, and wants more or less of it.
pub trait Holder: Send + 'static {
    /// The first request of each type on a new stream, with the versions that are held.
    fn first(&mut self) -> Vec<DeltaDiscoveryRequest>;

    /// Applies a response, whole; the answer to it is [`Discovery::reply`]'s.
    fn take(&mut self, discovery: &Discovery, answer: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest;

    /// Waits for something more to ask. Called only while there is a stream; dropped at any time and called again.
    fn next(&mut self) -> impl Future<Output = Option<DeltaDiscoveryRequest>> + Send;
}

/// Whom to ask, and as who.
#[derive(Clone)]
pub struct Server {
    /// "controller": for logs.
    pub word: &'static str,
    pub target: Target,
    /// The local address to dial from.
    pub source: Option<IpAddr>,
    pub svid: Svid,
    pub trust: Arc<Trust>,
    /// Largest message in bytes.
    pub max_message: usize,
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
            connected: metrics.add("discovery_connected", "1: the discovery stream is up", Gauge::default()),
            nacks: metrics.add(
                "discovery_nacks",
                "Answers on the discovery stream that could not be used",
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
    pub fn run<H: Holder>(self: &Arc<Self>, server: Server, mut holder: H, drain: &Drain) {
        let (discovery, stop) = (Arc::clone(self), drain.clone());
        drain.spawn(async move {
            let mut failures = 0;
            loop {
                let attempt = discovery.one_stream(&server, &mut holder, &mut failures);
                let why = tokio::select! {
                    biased;
                    () = stop.stopping() => return,
                    why = Box::pin(attempt) => why,
                };
                discovery.lost(server.word, &why);
                failures = (failures + 1).min(16);
                let pause = (FIRST_PAUSE * 2_u32.pow(failures)).min(LONGEST_PAUSE);
                sleep(pause.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
            }
        });
    }

    fn lost(&self, server: &str, why: &str) {
        self.channel.send_replace(None);
        self.connected.set(0);
        let was = self.status.borrow().connected;
        self.status.send_modify(|status| {
            status.connected = false;
            status.last_error = Some(why.to_owned());
        });
        if was {
            warn!(error = why, "{server} lost; what is known goes on");
        }
    }

    fn up(&self, server: &str, channel: Channel) {
        self.connected.set(1);
        self.channel.send_replace(Some(channel));
        self.status.send_modify(|status| status.connected = true);
        info!("{server} connected");
    }

    /// One stream from its connect to its end, and why it ended.
    async fn one_stream<H: Holder>(&self, server: &Server, holder: &mut H, failures: &mut u32) -> String {
        server.svid.ready().await;
        let svid = server.svid.clone();
        let config = move || svid.current().map(|generation| Arc::clone(&generation.grpc.client));
        let connecting = client::channel(&server.target, server.source, config);
        let distrusted = distrusted(&server.trust);
        let mut trust = server.trust.watch();
        let channel = match connecting.await {
            Ok(channel) => channel,
            Err(error) => return error.to_string(),
        };
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        for request in holder.first() {
            if let Err(why) = send(&requests, request).await {
                return why;
            }
        }
        let mut ads = AggregatedDiscoveryServiceClient::new(channel.clone())
            .max_decoding_message_size(server.max_message);
        let opening = ads.delta_aggregated_resources(ReceiverStream::new(outgoing));
        let mut answers = match timeout(OPENING, opening).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return status.to_string(),
            Err(_) => return format!("no answer in {OPENING:?}"),
        };
        self.up(server.word, channel);
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        *failures = 0;
                        let reply = holder.take(self, answer);
                        if let Err(why) = send(&requests, reply).await { return why }
                    }
                    Ok(None) => return format!("{} ended the stream", server.word),
                    Err(status) => return status.to_string(),
                },
                _ = trust.changed() => if self::distrusted(&server.trust) != distrusted {
                    return format!("a root was distrusted; {} has to prove itself anew", server.word);
                },
                request = holder.next() => if let Some(request) = request
                    && let Err(why) = send(&requests, request).await { return why },
            }
        }
    }

    /// ACK, or NACK with `faults`, which are logged and counted.
    pub fn reply(&self, type_url: String, nonce: String, faults: &[String]) -> DeltaDiscoveryRequest {
        let mut reply = DeltaDiscoveryRequest { type_url, response_nonce: nonce, ..Default::default() };
        if !faults.is_empty() {
            let message = shown_faults(faults);
            warn!(
                error = message,
                "an answer on the discovery stream is unusable; what we held before stays"
            );
            self.nacks.inc();
            self.status.send_modify(|status| status.nacks += 1);
            reply.error_detail = Some(Detail { code: INVALID_ARGUMENT, message });
        }
        reply
    }
}

/// The versions that are held: type URL -> name -> version.
#[derive(Debug, Default)]
pub struct Versions(HashMap<String, HashMap<String, String>>);

impl Versions {
    pub fn note(&mut self, type_url: &str, name: String, version: String) {
        self.0.entry(type_url.into()).or_default().insert(name, version);
    }

    pub fn forget(&mut self, type_url: &str, name: &str) {
        if let Some(versions) = self.0.get_mut(type_url) {
            versions.remove(name);
        }
    }

    pub fn get(&self, type_url: &str, name: &str) -> Option<&str> {
        self.0.get(type_url)?.get(name).map(String::as_str)
    }

    /// The first request of a type on a stream.
    pub fn subscribe(&self, node: &str, type_url: &str, names: Vec<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(Node { id: node.into() }),
            type_url: type_url.into(),
            resource_names_subscribe: names,
            initial_resource_versions: self
                .0
                .get(type_url)
                .cloned()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            ..Default::default()
        }
    }
}

/// Waits for room; a server that does not read for [`SEND`] is one that hangs.
async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), String> {
    match timeout(SEND, requests.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the stream closed".into()),
        Err(_) => Err(format!("the other side read nothing for {SEND:?}")),
    }
}

fn distrusted(trust: &Trust) -> Vec<Arc<str>> {
    trust.bundle().map(|bundle| bundle.distrusted.clone()).unwrap_or_default()
}

/// The first few, so that one broken release of a server cannot fill a disk with log lines.
fn shown_faults(faults: &[String]) -> String {
    let shown = faults.iter().take(SHOWN_FAULTS).map(String::as_str).collect::<Vec<_>>().join("; ");
    match faults.len().saturating_sub(SHOWN_FAULTS) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// google.rpc.Code.
const INVALID_ARGUMENT: i32 = 3;
/// Requests that wait for the stream: the first ones, then one at a time.
const REQUESTS: usize = 16;
const OPENING: Duration = Duration::from_secs(5);
/// Both sides could wait for each other to read, as HTTP/2's windows end at 64 KiB; this ends it.
const SEND: Duration = Duration::from_secs(10);
const SHOWN_FAULTS: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
