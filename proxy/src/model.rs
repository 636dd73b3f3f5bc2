//! What the controller told us: where addresses lead, and our own settings. Snapshots, replaced whole; [`crate::discovery`]
//! is the one writer.
//!
//! Addresses are asked for by use: whoever dials one registers an interest, and discovery subscribes to it. Not known yet,
//! or the controller unreachable, is never plaintext: [`Model::resolve`] waits, then refuses.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use signet_api::v1::{self, address::Target, transport::Kind};
use signet_core::identity::{self, SpiffeId};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::settings::{Settings, port};

/// Where connections to one address or host go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    Service(Arc<Service>),
    Workload(Arc<Workload>),
    /// Outside the cluster: passes untouched.
    Outside,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Service ports.
    pub ports: Vec<u16>,
    pub endpoints: Vec<Endpoint>,
    pub client_ip_affinity: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    pub workload: Arc<Workload>,
    /// Service port -> pod port.
    pub target_ports: HashMap<u16, u16>,
}

/// A pod as a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    pub address: IpAddr,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub transport: Transport,
}

/// How a pod is reached; the controller's word, never a guess.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Mutual TLS, and the peer must prove this.
    Mesh(SpiffeId),
    /// Plaintext, and this word says why.
    Plain(Arc<str>),
}

/// One moment of what we know.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts changes; stands in log lines, so that a decision can be traced to what was known.
    pub generation: u64,
    /// `None`: not received yet; the inbound is closed.
    pub settings: Option<Arc<Settings>>,
    addresses: HashMap<Arc<str>, Option<Answer>>,
}

impl Snapshot {
    /// `None`: not answered. `Some(None)`: the controller knows no such address.
    pub fn address(&self, name: &str) -> Option<Option<&Answer>> {
        self.addresses.get(name).map(Option::as_ref)
    }

    /// Every answer held, for the admin page.
    pub fn addresses(&self) -> impl Iterator<Item = (&Arc<str>, Option<&Answer>)> {
        self.addresses.iter().map(|(name, answer)| (name, answer.as_ref()))
    }

    /// The pod at `address`, where we have been told of it under its own address or as a Service's endpoint.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let own = match self.addresses.get(address.to_string().as_str()) {
            Some(Some(Answer::Workload(workload))) => Some(workload),
            _ => None,
        };
        own.or_else(|| {
            let services = self.addresses.values().filter_map(|answer| match answer {
                Some(Answer::Service(service)) => Some(service),
                _ => None,
            });
            services
                .flat_map(|s| &s.endpoints)
                .map(|e| &e.workload)
                .find(|workload| workload.address == address)
        })
    }
}

/// The live model of one proxy.
pub struct Model {
    snapshot: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    interests: Mutex<Interests>,
    interest_changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Interests {
    names: HashMap<Arc<str>, Interest>,
}

struct Interest {
    /// Configured, not merely used: never forgotten.
    pinned: bool,
    used: Instant,
}

impl Model {
    /// Knows nothing yet. `pinned` names (configured upstreams) are subscribed to from the start and never forgotten.
    pub fn new(pinned: impl IntoIterator<Item = Arc<str>>) -> Arc<Self> {
        let used = Instant::now();
        let names = pinned.into_iter().map(|name| (name, Interest { pinned: true, used })).collect();
        Arc::new(Self {
            snapshot: ArcSwap::default(),
            changed: watch::Sender::new(0),
            interests: Mutex::new(Interests { names }),
            interest_changed: watch::Sender::new(0),
        })
    }

    /// One snapshot; no decision taken on it contradicts another.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Changes with every snapshot.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where `name` (an IP address or "<service>.<namespace>") leads, waiting at most [`ANSWER`] for the controller.
    pub async fn resolve(&self, name: &str) -> Result<Answer, Unanswered> {
        self.ask(name, ANSWER, false).await
    }

    /// Like [`Model::resolve`], for the inbound hint about a stranger's address: it waits less, and "no such address" is an
    /// answer at once, since nobody will be refused for it.
    pub async fn hint(&self, name: &str, patience: Duration) -> Result<Answer, Unanswered> {
        self.ask(name, patience, true).await
    }

    async fn ask(
        &self,
        name: &str,
        patience: Duration,
        unknown_is_known: bool,
    ) -> Result<Answer, Unanswered> {
        let deadline = Instant::now() + patience;
        let mut changed = self.watch();
        self.want(name);
        loop {
            let known = match self.snapshot().address(name) {
                Some(Some(answer)) => return Ok(answer.clone()),
                Some(None) if unknown_is_known => return Err(Unanswered::NoSuchAddress),
                Some(None) => Unanswered::NoSuchAddress,
                None => Unanswered::NoAnswer,
            };
            match timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(known),
            }
        }
    }

    /// The names to subscribe to now: pinned ones, and those used within [`FORGET`].
    pub fn interests(&self) -> Vec<Arc<str>> {
        let mut interests = self.interests.lock().unwrap_or_else(PoisonError::into_inner);
        interests.names.retain(|_, interest| interest.pinned || interest.used.elapsed() < FORGET);
        interests.names.keys().cloned().collect()
    }

    /// Changes when [`Model::interests`] has a new name.
    pub fn watch_interests(&self) -> watch::Receiver<u64> {
        self.interest_changed.subscribe()
    }

    /// Replaces the model by `change`, which sees a copy of the present one. Returns true when it differs.
    pub fn update(&self, change: impl FnOnce(&mut Draft)) -> bool {
        let mut draft = Draft { snapshot: (*self.snapshot()).clone(), changed: false };
        change(&mut draft);
        if draft.changed {
            draft.snapshot.generation += 1;
            let generation = draft.snapshot.generation;
            self.snapshot.store(Arc::new(draft.snapshot));
            self.changed.send_replace(generation);
        }
        draft.changed
    }

    fn want(&self, name: &str) {
        let mut interests = self.interests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(interest) = interests.names.get_mut(name) {
            interest.used = Instant::now();
            return;
        }
        if interests.names.len() >= MAX_INTERESTS {
            let unused = interests.names.iter().filter(|(_, i)| !i.pinned).min_by_key(|(_, i)| i.used);
            let Some(oldest) = unused.map(|(name, _)| Arc::clone(name)) else { return };
            interests.names.remove(&oldest);
        }
        interests.names.insert(name.into(), Interest { pinned: false, used: Instant::now() });
        drop(interests);
        self.interest_changed.send_modify(|n| *n += 1);
    }
}

/// A change in the making; see [`Model::update`].
pub struct Draft {
    snapshot: Snapshot,
    changed: bool,
}

impl Draft {
    /// The controller's answer; `None`: it knows no such address.
    pub fn set_address(&mut self, name: &str, answer: Option<Answer>) {
        if self.snapshot.addresses.get(name) != Some(&answer) {
            self.snapshot.addresses.insert(name.into(), answer);
            self.changed = true;
        }
    }

    /// We no longer subscribe to `name`.
    pub fn forget_address(&mut self, name: &str) {
        self.changed |= self.snapshot.addresses.remove(name).is_some();
    }

    pub fn set_settings(&mut self, settings: Settings) {
        if self.snapshot.settings.as_deref() != Some(&settings) {
            self.snapshot.settings = Some(Arc::new(settings));
            self.changed = true;
        }
    }
}

/// Why an address cannot be dialled. Never a reason for plaintext.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unanswered {
    /// The controller did not answer in time.
    NoAnswer,
    /// It knows no such address.
    NoSuchAddress,
}

impl TryFrom<v1::Address> for Answer {
    type Error = String;

    /// Errors name the field; the answer held before stays (NACK).
    fn try_from(message: v1::Address) -> Result<Self, String> {
        Ok(match message.target.ok_or("address without a target")? {
            Target::Outside(v1::Outside {}) => Self::Outside,
            Target::Workload(workload) => Self::Workload(Arc::new(workload.try_into()?)),
            Target::Service(service) => Self::Service(Arc::new(service.try_into()?)),
        })
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = String;
    fn try_from(message: v1::Service) -> Result<Self, String> {
        Ok(Self {
            namespace: message.namespace.into(),
            name: message.name.into(),
            ports: message.ports.iter().map(|p| port(p.port)).collect::<Result<_, _>>()?,
            endpoints: message.endpoints.into_iter().map(Endpoint::try_from).collect::<Result<_, _>>()?,
            client_ip_affinity: message.client_ip_affinity,
        })
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = String;
    fn try_from(message: v1::Endpoint) -> Result<Self, String> {
        let workload = message.workload.ok_or("endpoint without a workload")?;
        let ports = message.target_ports.into_iter().map(|(from, to)| Ok((port(from)?, port(to)?)));
        Ok(Self {
            workload: Arc::new(workload.try_into()?),
            target_ports: ports.collect::<Result<_, String>>()?,
        })
    }
}

impl TryFrom<v1::Workload> for Workload {
    type Error = String;
    fn try_from(message: v1::Workload) -> Result<Self, String> {
        let address =
            message.address.parse().map_err(|_| format!("{:?} is not an IP address", message.address))?;
        let transport = match message.transport.and_then(|t| t.kind).ok_or("workload without a transport")? {
            Kind::SpiffeId(id) => Transport::Mesh(identity::parse(&id).map_err(|e| e.to_string())?),
            Kind::PlainReason(reason) => Transport::Plain(reason.into()),
        };
        Ok(Self { address, namespace: message.namespace.into(), name: message.name.into(), transport })
    }
}

/// How long a dial to an unanswered address waits before it is refused: within 3 s as the app sees it (design 4), our own
/// work and a busy machine included.
pub const ANSWER: Duration = Duration::from_millis(2500);
/// An address that nobody dialled for so long is no longer subscribed to; a guess that covers a cron job's period.
const FORGET: Duration = Duration::from_secs(15 * 60);
/// Names subscribed to at once; the least recently used goes first. Strangers' addresses take part (inbound hints), so it
/// is a bound on memory too.
const MAX_INTERESTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_address_is_refused_after_its_time_and_not_before() {
        let model = Model::new([]);
        let asked = Instant::now();
        assert_eq!(model.resolve("10.0.0.1").await, Err(Unanswered::NoAnswer));
        assert_eq!(asked.elapsed(), ANSWER);
        assert_eq!(model.interests(), ["10.0.0.1".into()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_wakes_who_waits_for_it() {
        let model = Model::new([]);
        let waiting = Arc::clone(&model);
        let waiter = async move { waiting.resolve("10.0.0.1").await };
        let answer = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            model.update(|draft| draft.set_address("10.0.0.1", Some(Answer::Outside)));
        };
        let (got, ()) = tokio::join!(waiter, answer);
        assert_eq!(got, Ok(Answer::Outside));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_takes_no_such_address_for_an_answer_and_a_dial_waits_for_a_better_one() {
        let model = Model::new([]);
        model.update(|draft| draft.set_address("10.0.0.1", None));
        let asked = Instant::now();
        assert_eq!(model.hint("10.0.0.1", ANSWER).await, Err(Unanswered::NoSuchAddress));
        assert_eq!(asked.elapsed(), Duration::ZERO);
        assert_eq!(model.resolve("10.0.0.1").await, Err(Unanswered::NoSuchAddress));
        assert_eq!(asked.elapsed(), ANSWER);
    }

    #[tokio::test(start_paused = true)]
    async fn interests_are_bounded_and_pinned_ones_stay() {
        let model = Model::new(["api.shop".into()]);
        for n in 0..2 * MAX_INTERESTS {
            model.want(&format!("name-{n}"));
        }
        let names = model.interests();
        assert_eq!(names.len(), MAX_INTERESTS);
        assert!(names.contains(&"api.shop".into()));
        tokio::time::advance(FORGET).await;
        assert_eq!(model.interests(), ["api.shop".into()]);
    }

    #[test]
    fn an_address_without_a_transport_is_refused_not_plain() {
        let workload = v1::Workload { address: "10.0.0.1".into(), ..Default::default() };
        assert!(Answer::try_from(v1::Address { target: Some(Target::Workload(workload)) }).is_err());
        assert!(Answer::try_from(v1::Address::default()).is_err());
    }
}
