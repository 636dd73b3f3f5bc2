//! What one stream asked for, what it holds, and what it gets next. Pure: requests and snapshots in, responses out.
//!
//! Back-pressure: at most one response per type waits for its ACK. Meanwhile changes only mark the type as due, and the next
//! response is made from the newest snapshot, so a slow client costs its names and nothing else, and sees the latest state.

use std::{collections::BTreeMap, sync::Arc};

use signet_api::{
    MORE,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};

use crate::resources::{ALL, Denial, Encoded, Serves, Subscriber, Type};

/// The subscriptions of one stream.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    served: &'static [Type],
    types: BTreeMap<Type, Subscribed>,
    /// Names over all types.
    names: usize,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Subscribed {
    names: BTreeMap<Arc<str>, Held>,
    /// It asked for [`ALL`]: `names` are those that it was told of, and others that it asked for make no difference.
    all: bool,
    /// It asked for [`ALL`] and was not told all: it gets a response even where there is nothing more, or it would wait for ever.
    owed: bool,
    /// Something may have changed since the last look.
    due: bool,
    in_flight: Option<InFlight>,
    /// Nothing came of this type before: the request may name the versions that the client brings along.
    begun: bool,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    names: Vec<Arc<str>>,
}

/// What the client holds of a name, once it has taken everything in flight.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Held {
    Nothing,
    /// It knows that there is none.
    Absence,
    Version(Arc<str>),
}

/// How a request answered the response in flight.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// It did not: only subscriptions, or the nonce of an older response.
    None,
    Ack(Type),
    /// Rejected: the names that the response carried, and the client's words.
    Nack {
        kind: Type,
        names: Vec<Arc<str>>,
        why: String,
    },
}

/// A request that ends the stream.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Breach {
    #[error("type {0:?} is not served here")]
    UnknownType(String),
    #[error("a name of {0} bytes; at most {MAX_NAME_BYTES} are taken")]
    LongName(usize),
    #[error("more than {MAX_NAMES} names on one stream; unsubscribe what is not used")]
    TooManyNames,
}

impl Subscriptions {
    /// Of a stream that serves these types.
    pub(crate) fn new(served: &'static [Type]) -> Self {
        Self { served, types: BTreeMap::new(), names: 0, nonces: 0 }
    }

    /// Takes one request in.
    pub(crate) fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Answer, Breach> {
        let mut served = self.served.iter();
        let kind = served
            .find(|kind| kind.url() == request.type_url)
            .copied()
            .ok_or_else(|| Breach::UnknownType(request.type_url.chars().take(SHOWN).collect()))?;
        let all = request.resource_names_subscribe.iter().chain(request.initial_resource_versions.keys());
        if let Some(long) = all.map(String::len).find(|len| *len > MAX_NAME_BYTES) {
            return Err(Breach::LongName(long));
        }
        let subscribed = self.types.entry(kind).or_default();
        let resumed = if subscribed.begun { BTreeMap::new() } else { request.initial_resource_versions };
        subscribed.begun = true;
        if request.resource_names_subscribe.iter().any(|name| name == ALL) {
            self.names -= if subscribed.all { 0 } else { subscribed.names.len() };
            subscribed.all_of(&resumed);
        }
        if subscribed.all && request.resource_names_unsubscribe.iter().any(|name| name == ALL) {
            (subscribed.all, subscribed.names) = (false, BTreeMap::new());
        }
        // By "*" it has every name already.
        let (subscribe, unsubscribe) = match subscribed.all {
            true => (Vec::new(), Vec::new()),
            false => (request.resource_names_subscribe, request.resource_names_unsubscribe),
        };
        for name in unsubscribe {
            self.names -= usize::from(subscribed.names.remove(name.as_str()).is_some());
        }
        for name in subscribe {
            let held = Held::brought(resumed.get(&name)); // asked again: sent again
            self.names += usize::from(subscribed.names.insert(name.into(), held).is_none());
            subscribed.due = true;
            if self.names > MAX_NAMES {
                return Err(Breach::TooManyNames);
            }
        }
        let answered = subscribed.in_flight.take_if(|sent| sent.nonce == request.response_nonce);
        Ok(match (answered, request.error_detail) {
            (None, _) => Answer::None,
            (Some(_), None) => Answer::Ack(kind),
            (Some(sent), Some(error)) => {
                let why = error.message.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
                Answer::Nack { kind, names: sent.names, why }
            }
        })
    }

    /// The snapshot changed: every type is looked at again when its turn comes.
    pub(crate) fn touch(&mut self) {
        self.types.values_mut().for_each(|subscribed| subscribed.due = true);
    }

    /// Whether a response waits for its ACK.
    pub(crate) fn in_flight(&self) -> bool {
        self.types.values().any(|subscribed| subscribed.in_flight.is_some())
    }

    /// The names of `kind` that it asks for, and what it was sent of each.
    pub(crate) fn held(&self, kind: Type) -> impl Iterator<Item = (&Arc<str>, &Held)> {
        self.types.get(&kind).into_iter().flat_map(|subscribed| &subscribed.names)
    }

    pub(crate) fn names(&self) -> usize {
        self.names
    }

    /// The next response of `kind`, if one is due and none is in flight. Every name that is refused is told to `refused` with
    /// the rule that refused it, once until the answer changes; its subscriber sees it as removed, like one that is not there.
    pub(crate) fn next<S: Serves>(
        &mut self,
        kind: Type,
        snapshot: &S,
        who: &Subscriber,
        mut refused: impl FnMut(&str, &'static str),
    ) -> Option<DeltaDiscoveryResponse> {
        let subscribed = self.types.get_mut(&kind)?;
        if !subscribed.due || subscribed.in_flight.is_some() {
            return None;
        }
        let mut response = DeltaDiscoveryResponse { type_url: kind.url().to_owned(), ..Default::default() };
        let (mut names, mut bytes) = (Vec::new(), 0);
        subscribed.due = false;
        subscribed.look(kind, snapshot, who);
        for (name, held) in &mut subscribed.names {
            if bytes > MAX_RESPONSE_BYTES {
                subscribed.due = true; // the rest comes after the ACK
                response.system_version_info = MORE.into();
                break;
            }
            match snapshot.resource(who, kind, name) {
                Ok(Encoded { version, .. }) if *held == Held::Version(Arc::clone(&version)) => continue,
                Ok(Encoded { version, body }) => {
                    bytes += body.len() + name.len();
                    let resource = prost_types::Any { type_url: kind.url().to_owned(), value: body.to_vec() };
                    let (name, resource) = (name.to_string(), Some(resource));
                    response.resources.push(Resource { version: version.to_string(), resource, name });
                    *held = Held::Version(version);
                }
                Err(_) if *held == Held::Absence => continue,
                Err(denial) => {
                    if let Denial::Refused(word) = denial {
                        refused(name, word);
                    }
                    bytes += name.len();
                    *held = Held::Absence;
                    response.removed_resources.push(name.to_string());
                }
            }
            names.push(Arc::clone(name));
        }
        if subscribed.all {
            subscribed.names.retain(|_, held| *held != Held::Absence); // told, and not ours to remember
        }
        if names.is_empty() && !subscribed.owed {
            return None;
        }
        subscribed.owed = !response.system_version_info.is_empty();
        self.nonces += 1;
        response.nonce = self.nonces.to_string();
        subscribed.in_flight = Some(InFlight { nonce: response.nonce.clone(), names });
        Some(response)
    }
}

impl Subscribed {
    /// It holds the versions that it brought along; on a stream that goes on, asking again is asking for everything again.
    fn all_of(&mut self, resumed: &BTreeMap<String, String>) {
        let brought = resumed.iter().take(MAX_NAMES);
        self.names =
            brought.map(|(name, version)| (name.as_str().into(), Held::brought(Some(version)))).collect();
        (self.all, self.owed, self.due) = (true, true, true);
    }

    /// Takes in the names that [`ALL`] stands for now. Whoever may not have them is answered as for any other name.
    fn look<S: Serves>(&mut self, kind: Type, snapshot: &S, who: &Subscriber) {
        if !self.all {
            return;
        }
        match snapshot.names(who, kind) {
            Ok(names) => {
                for name in names {
                    self.names.entry(name).or_insert(Held::Nothing);
                }
            }
            Err(_) => (self.all, self.names) = (false, [(ALL.into(), Held::Nothing)].into()),
        }
    }
}

impl Held {
    /// What a client says that it holds.
    fn brought(version: Option<&String>) -> Self {
        match version {
            Some(version) if version.len() <= MAX_NAME_BYTES => Self::Version(version.as_str().into()),
            _ => Self::Nothing,
        }
    }
}

/// Names of one stream: a proxy subscribes to what it dials, and 10 000 destinations are a whole large cluster.
pub(crate) const MAX_NAMES: usize = 10_000;
/// A host has at most 253 bytes (RFC 1035), "<namespace>/<pod>" 63 + 1 + 253; a route of edge is the longest,
/// "ingress/<namespace>/<name>/*.<host>".
pub(crate) const MAX_NAME_BYTES: usize = 640;
/// A response is closed once it is longer: two of them stay below gRPC's default limit of 4 MiB.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// Characters of a client's words that we repeat.
const SHOWN: usize = 300;

#[cfg(test)]
#[path = "subscriptions/tests.rs"]
mod tests;
