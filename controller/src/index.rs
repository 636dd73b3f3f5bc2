//! Objects -> what questions are asked of: each object parsed once, its errors kept beside it, everything found by the key
//! that [`crate::translate`] looks for. Pure: the same objects make the same index, in whatever order they come.

mod injection;
mod objects;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use signet_core::identity::TrustDomain;

pub use injection::{Injection, NOT_INJECTED, Obstacle, Owner};
pub use objects::{Namespace, Pod, PodPort, Port, Service, Slice, SliceEndpoint, Transport};

use crate::source::{Kind, ManifestError, Object, policy::PolicyObject};

/// What the objects themselves do not say.
#[derive(Clone, Debug)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
    /// "cluster.local": what may follow "<service>.<namespace>.svc.".
    pub cluster_domain: String,
    /// The cluster's pod and Service ranges. An address in none of them is outside; without ranges no address is.
    pub ranges: Vec<IpNet>,
    pub membership: Membership,
}

/// What makes a Pod one of the mesh.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Membership {
    /// Its labels: whoever runs the directory runs a proxy for each.
    #[default]
    Labelled,
    /// That it holds our proxy: a label alone encrypts nothing (it may be younger than the Pod, the webhook may not have been
    /// asked), and callers would wait for a proxy that is not there.
    Injected,
}

impl Mesh {
    /// No ranges, and `cluster.local`; Pods are in it by label.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            cluster_domain: "cluster.local".into(),
            ranges: Vec::new(),
            membership: Membership::default(),
        }
    }
}

/// A snapshot of everything that the controller knows.
#[derive(Debug)]
pub struct Index {
    pub mesh: Mesh,
    pub namespaces: BTreeMap<String, Namespace>,
    /// By namespace and name; those that have ended (Succeeded, Failed) included.
    pub pods: BTreeMap<(String, String), Arc<Pod>>,
    pub services: BTreeMap<(String, String), Arc<Service>>,
    /// By namespace and Service name.
    pub slices: BTreeMap<(String, String), Vec<Slice>>,
    /// By namespace, in order of name.
    pub policies: BTreeMap<String, Vec<Arc<PolicyObject>>>,
    /// Values that do not parse, in objects that otherwise do.
    pub errors: Vec<ManifestError>,
    /// Objects of our kinds.
    pub objects: usize,
    pods_by_address: HashMap<IpAddr, Arc<Pod>>,
    services_by_address: HashMap<IpAddr, Arc<Service>>,
    /// What became of objects in which there was no error.
    parsed: HashMap<Itself, Arc<Pod>>,
}

/// An object as itself: another one of the same content is another one.
#[derive(Debug)]
struct Itself(Arc<Object>);

impl PartialEq for Itself {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Itself {}

impl Hash for Itself {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Index {
    /// Of objects that are unique by their key, in any order.
    pub fn build(mesh: &Mesh, objects: &[Arc<Object>]) -> Self {
        Self::empty(mesh.clone()).build_next(objects)
    }

    /// The same of other objects. Pods that are the very same ones are shared with this index: of ten thousand, a change touches
    /// few, and two or three indexes live at a time.
    pub fn build_next(&self, objects: &[Arc<Object>]) -> Self {
        let mut index = Self::empty(self.mesh.clone());
        let mut sorted: Vec<&Arc<Object>> = objects.iter().collect();
        sorted.sort_by(|a, b| a.origin.cmp(&b.origin));
        for object in &sorted {
            if let Kind::Namespace(namespace) = &object.kind {
                let (name, namespace) = Namespace::parse(namespace, &object.origin, &mut index.errors);
                index.namespaces.insert(name, namespace);
            }
        }
        for object in &sorted {
            index.objects += usize::from(object.kind.is_of_the_mesh());
            index.take(object, self);
        }
        index.find_by_address();
        for policies in index.policies.values_mut() {
            policies.sort_by(|a, b| a.name.cmp(&b.name));
        }
        for slices in index.slices.values_mut() {
            slices.sort_by(|a, b| a.name.cmp(&b.name));
        }
        index
    }

    fn empty(mesh: Mesh) -> Self {
        Self {
            mesh,
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            policies: BTreeMap::new(),
            errors: Vec::new(),
            objects: 0,
            pods_by_address: HashMap::new(),
            services_by_address: HashMap::new(),
            parsed: HashMap::new(),
        }
    }

    fn take(&mut self, object: &Arc<Object>, before: &Self) {
        let (origin, errors) = (&object.origin, &mut self.errors);
        match &object.kind {
            Kind::Namespace(_) | Kind::ServiceAccount(_) => {}
            Kind::Ingress(_)
            | Kind::IngressClass(_)
            | Kind::Node(_)
            | Kind::Secret(_)
            | Kind::Other { .. } => {}
            Kind::Pod(pod) => {
                let itself = Itself(Arc::clone(object));
                let is_as_before = |pod: &&Arc<Pod>| {
                    self.namespaces.get(&pod.namespace) == before.namespaces.get(&pod.namespace)
                };
                let known = before.parsed.get(&itself).filter(is_as_before).map(Arc::clone);
                let faults = errors.len();
                let parse = || Pod::parse(pod, origin, &self.namespaces, &self.mesh, errors).map(Arc::new);
                if let Some(pod) = known.or_else(parse) {
                    if errors.len() == faults {
                        self.parsed.insert(itself, Arc::clone(&pod));
                    }
                    self.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
                }
            }
            Kind::Service(service) => {
                let service = Service::parse(service, origin, errors);
                self.services.insert((service.namespace.clone(), service.name.clone()), Arc::new(service));
            }
            Kind::EndpointSlice(slice) => {
                if let Some(slice) = Slice::parse(slice, origin, errors) {
                    self.slices
                        .entry((slice.namespace.clone(), slice.service.clone()))
                        .or_default()
                        .push(slice);
                }
            }
            Kind::Policy(policy) => {
                let policy = Arc::new(objects::check_policy(policy, origin, &self.mesh, errors));
                self.policies.entry(policy.namespace.clone()).or_default().push(policy);
            }
        }
    }

    /// Who holds an address. Two Pods may claim one for a while, when an IP is reused: the one on the host's network, whose
    /// addresses are never the mesh's; else the one that is not terminating; else the newest; else the first by name.
    fn find_by_address(&mut self) {
        let rank = |pod: &Pod| (pod.host_network, !pod.terminating, pod.created);
        for pod in self.pods.values().filter(|pod| !pod.ended) {
            for address in &pod.addresses {
                let held = self.pods_by_address.get(address);
                if held.is_none_or(|held| rank(pod) > rank(held)) {
                    self.pods_by_address.insert(*address, Arc::clone(pod));
                }
            }
        }
        for service in self.services.values() {
            for address in &service.cluster_ips {
                self.services_by_address.entry(*address).or_insert_with(|| Arc::clone(service));
            }
        }
    }

    /// The Pod that holds `address` now.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.pods_by_address.get(&address)
    }

    /// The Service whose ClusterIP is `address`.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.services_by_address.get(&address)
    }

    /// The node of the Pod that holds `address`.
    pub fn node_of(&self, address: IpAddr) -> Option<&str> {
        self.pod_at(address)?.node.as_deref()
    }

    /// Why `pod` has no proxy although its labels want one; `None` for one that has, or that nobody wants in the mesh.
    /// Of Pods that are in it by label there is none.
    pub fn obstacle(&self, pod: &Pod) -> Option<Obstacle> {
        if self.mesh.membership == Membership::Labelled {
            return None;
        }
        let level =
            self.namespaces.get(&pod.namespace).and_then(|namespace| namespace.pod_security.as_deref());
        pod.injection.obstacle(pod.host_network, level)
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The policies that select `pod`.
    pub fn policies_of(&self, pod: &Pod) -> impl Iterator<Item = &Arc<PolicyObject>> {
        self.policies.get(&pod.namespace).into_iter().flatten().filter(|policy| policy.selects(&pod.labels))
    }
}

#[cfg(test)]
mod tests;
