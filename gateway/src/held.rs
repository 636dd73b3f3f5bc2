//! What edge told us, resource by resource, and the model made of it. Pure.
//!
//! A resource that cannot be used leaves the one before it as it was, and is named in the NACK. A route with a rule that cannot be
//! understood is used, its rule answering 500, and is named there, too.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use prost::Message;
use signet_api::{
    EDGE_BACKEND, EDGE_CERTIFICATE, EDGE_CHALLENGE, EDGE_HTTPS_HOST, EDGE_LISTENER, EDGE_ROUTE, EDGE_TYPES,
    MORE,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use signet_http::{
    contract::{self, challenge::Challenge},
    model::{Action, Backend, Http01, HttpsHost, Listener, Route, Snapshot, Target},
};
use signet_link::discovery::Versions;
use zeroize::Zeroizing;

use crate::{certificates::Certified, challenges::Proof};

/// Everything that edge told us and did not take back.
#[derive(Default)]
pub struct Held {
    versions: Versions,
    /// Types that were answered in full at least once.
    answered: HashSet<&'static str>,
    listeners: BTreeMap<String, Arc<Listener>>,
    routes: BTreeMap<String, Arc<Route>>,
    backends: BTreeMap<String, Arc<Backend>>,
    https_hosts: BTreeMap<String, HttpsHost>,
    certificates: BTreeMap<String, Arc<Certified>>,
    /// By the name of the resource; each is in one of the two.
    tokens: BTreeMap<String, Arc<Http01>>,
    proofs: BTreeMap<String, Arc<Proof>>,
    /// (type, name) -> why it is not served as edge wants it.
    faults: BTreeMap<(&'static str, String), String>,
    /// Ports that are ours.
    reserved: &'static [u16],
}

/// What is served, or will be.
#[derive(Debug, Default)]
pub struct Model {
    pub snapshot: Arc<Snapshot>,
    pub certificates: Vec<Arc<Certified>>,
    pub proofs: Vec<Arc<Proof>>,
    /// In words, for pages.
    pub faults: Vec<String>,
}

impl Held {
    pub fn new(reserved: &'static [u16]) -> Self {
        Self { reserved, ..Self::default() }
    }

    /// Everything of every type, but for what we hold in its present version.
    pub fn first(&self, node: &str) -> Vec<DeltaDiscoveryRequest> {
        EDGE_TYPES.iter().map(|kind| self.versions.subscribe(node, kind, vec!["*".into()])).collect()
    }

    /// Applies a response, whole. Returns what of it is not served as edge wants it.
    pub fn take(&mut self, answer: DeltaDiscoveryResponse) -> Vec<String> {
        let Some(kind) = EDGE_TYPES.into_iter().find(|kind| *kind == answer.type_url) else {
            return vec![format!("type {:?} was not asked for", answer.type_url)];
        };
        let mut faults = Vec::new();
        for resource in answer.resources {
            let (name, version) = (resource.name.clone(), resource.version.clone());
            let used = match kind {
                EDGE_LISTENER => self.listener(resource).map(|()| Vec::new()),
                EDGE_ROUTE => self.route(resource),
                EDGE_BACKEND => self.backend(resource).map(|()| Vec::new()),
                EDGE_HTTPS_HOST => self.https_host(resource).map(|()| Vec::new()),
                EDGE_CHALLENGE => self.challenge(resource).map(|()| Vec::new()),
                _ => self.certificate(resource).map(|()| Vec::new()),
            };
            // A rejected one keeps its old version: the next stream is sent the new one again.
            if used.is_ok() {
                self.versions.note(kind, name.clone(), version);
            }
            let wrong = used.unwrap_or_else(|why| vec![why]);
            match wrong.is_empty() {
                true => drop(self.faults.remove(&(kind, name))),
                false => drop(self.faults.insert((kind, name), wrong.join("; "))),
            }
            faults.extend(wrong);
        }
        for name in answer.removed_resources {
            self.versions.forget(kind, &name);
            self.faults.remove(&(kind, name.clone()));
            match kind {
                EDGE_LISTENER => drop(self.listeners.remove(&name)),
                EDGE_ROUTE => drop(self.routes.remove(&name)),
                EDGE_BACKEND => drop(self.backends.remove(&name)),
                EDGE_HTTPS_HOST => drop(self.https_hosts.remove(&name)),
                EDGE_CHALLENGE => {
                    self.tokens.remove(&name);
                    self.proofs.remove(&name);
                }
                _ => drop(self.certificates.remove(&name)),
            }
        }
        if answer.system_version_info != MORE {
            self.answered.insert(kind);
        }
        faults
    }

    /// Whether there is a whole model: each type was answered, and every backend that a route names is here.
    pub fn is_whole(&self) -> bool {
        self.is_answered() && self.missing().is_empty()
    }

    /// Whether edge has said of each type what there is.
    pub fn is_answered(&self) -> bool {
        self.answered.len() == EDGE_TYPES.len()
    }

    /// Backends that routes name and that are not here.
    pub fn missing(&self) -> BTreeSet<&str> {
        let rules = self.routes.values().flat_map(|route| &route.rules);
        let named = rules.flat_map(|rule| match &rule.action {
            Action::Forward(forward) => &forward.backends[..],
            Action::Redirect(_) | Action::Respond(_) => &[],
        });
        named
            .filter_map(|weighted| match &weighted.target {
                Target::Backend(name) => Some(&**name),
                Target::Respond(_) => None,
            })
            .filter(|name| !self.backends.contains_key(*name))
            .collect()
    }

    pub fn model(&self) -> Model {
        let (listeners, mut faults) = self.listeners();
        faults.extend(self.faults.values().cloned());
        let snapshot = Snapshot {
            listeners,
            routes: self.routes.values().cloned().collect(),
            backends: self.backends.values().cloned().collect(),
            https_hosts: self.https_hosts.values().cloned().collect(),
            challenges: self.tokens.values().cloned().collect(),
        };
        Model {
            snapshot: Arc::new(snapshot),
            certificates: self.certificates.values().cloned().collect(),
            proofs: self.proofs.values().cloned().collect(),
            faults,
        }
    }

    /// Those that can be served beside each other: a port has one scheme, that of its first listener by name.
    fn listeners(&self) -> (Vec<Arc<Listener>>, Vec<String>) {
        let mut schemes = BTreeMap::new();
        let (mut served, mut faults) = (Vec::new(), Vec::new());
        for listener in self.listeners.values() {
            let first = *schemes.entry(listener.port).or_insert(listener.scheme);
            match first == listener.scheme {
                true => served.push(Arc::clone(listener)),
                false => faults.push(format!(
                    "listener {:?}: port {} is {} already",
                    listener.name,
                    listener.port,
                    first.word()
                )),
            }
        }
        (served, faults)
    }

    fn listener(&mut self, resource: Resource) -> Result<(), String> {
        let (name, message) = decoded(resource, EDGE_LISTENER)?;
        let listener = contract::listener::decode(message).map_err(|fault| fault.to_string())?;
        named(&name, &listener.name)?;
        if self.reserved.contains(&listener.port) {
            return Err(format!("listener {name:?}: port {} is the gateway's own", listener.port));
        }
        self.listeners.insert(name, Arc::new(listener));
        Ok(())
    }

    fn route(&mut self, resource: Resource) -> Result<Vec<String>, String> {
        let (name, message) = decoded(resource, EDGE_ROUTE)?;
        let (route, faults) = contract::route::decode(message).map_err(|fault| fault.to_string())?;
        named(&name, &route.name)?;
        self.routes.insert(name, Arc::new(route));
        Ok(faults.iter().map(|fault| format!("{fault}: answers 500")).collect())
    }

    fn backend(&mut self, resource: Resource) -> Result<(), String> {
        let (name, message) = decoded(resource, EDGE_BACKEND)?;
        let backend = contract::backend::decode(message).map_err(|fault| fault.to_string())?;
        named(&name, &backend.name)?;
        self.backends.insert(name, Arc::new(backend));
        Ok(())
    }

    fn https_host(&mut self, resource: Resource) -> Result<(), String> {
        let (name, message) = decoded(resource, EDGE_HTTPS_HOST)?;
        let host = contract::https_host::decode(message).map_err(|fault| fault.to_string())?;
        named(&name, &contract::https_host::name(&host.host))?;
        self.https_hosts.insert(name, host);
        Ok(())
    }

    fn certificate(&mut self, resource: Resource) -> Result<(), String> {
        let (name, message) = decoded(resource, EDGE_CERTIFICATE)?;
        let certificate = contract::certificate::decode(message).map_err(|fault| fault.to_string())?;
        named(&name, &certificate.name)?;
        let certified = Certified::new(certificate).map_err(|why| format!("certificate {name:?}: {why}"))?;
        self.certificates.insert(name, Arc::new(certified));
        Ok(())
    }

    fn challenge(&mut self, resource: Resource) -> Result<(), String> {
        let (name, message) = decoded(resource, EDGE_CHALLENGE)?;
        let challenge = contract::challenge::decode(message).map_err(|fault| fault.to_string())?;
        named(&name, &challenge.name())?;
        match challenge {
            Challenge::Http01(challenge) => drop(self.tokens.insert(name, Arc::new(challenge))),
            Challenge::TlsAlpn01(challenge) => {
                let proof = Proof::new(challenge).map_err(|why| format!("challenge {name:?}: {why}"))?;
                self.proofs.insert(name, Arc::new(proof));
            }
        }
        Ok(())
    }
}

/// Name and message; its bytes are wiped, as they may hold a key.
fn decoded<M: Message + Default>(resource: Resource, kind: &str) -> Result<(String, M), String> {
    let name = resource.name;
    let any = resource.resource.ok_or_else(|| format!("{name:?}: a resource without a body"))?;
    let bytes = Zeroizing::new(any.value);
    if any.type_url != kind {
        return Err(format!("{name:?}: is a {:?}", any.type_url));
    }
    M::decode(bytes.as_slice()).map(|message| (name.clone(), message)).map_err(|e| format!("{name:?}: {e}"))
}

/// By the resource's name it is removed, by its own it is found: they are the same.
fn named(resource: &str, own: &str) -> Result<(), String> {
    (resource == own).then_some(()).ok_or_else(|| format!("{resource:?}: names itself {own:?}"))
}

#[cfg(test)]
mod tests;
