//! What `signet local` needs of a directory: which proxies to run, and how each is set up.

use std::{net::SocketAddr, path::Path, sync::Arc};

use ipnet::IpNet;

use crate::{
    edge,
    index::{Index, Mesh},
    source::{ManifestError, Object, directory::Directory},
};

/// A Pod that gets a proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalWorkload {
    pub namespace: String,
    pub pod: String,
    pub service_account: String,
    pub address: std::net::IpAddr,
    pub inbound: Vec<Inbound>,
    pub upstreams: Vec<Upstream>,
}

/// The proxy accepts at `listen`, the pod's address and port, and dials the app at `target`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inbound {
    pub port: u16,
    pub listen: SocketAddr,
    pub target: SocketAddr,
}

/// The app dials `listen`, on the pod's address, to reach `to` ("api.shop:80", "127.77.0.9:6379").
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    pub listen: SocketAddr,
    pub to: String,
}

/// Reads a directory once. The errors are all of them: of manifests and of the values in them.
pub fn load(directory: &Path, mesh: &Mesh) -> (Index, Vec<ManifestError>) {
    let mut source = Directory::new(directory);
    source.poll();
    let contents = source.contents();
    let index = Index::build(mesh, &contents.objects);
    let mut errors = contents.errors;
    errors.extend(index.errors.iter().cloned());
    errors.sort();
    (index, errors)
}

/// The Pods that get a proxy, in order of namespace and name: meshed, not ended, with an address that is theirs.
pub fn workloads(index: &Index) -> Vec<LocalWorkload> {
    let meshed = index.pods.values().filter(|pod| pod.identity().is_some() && !pod.ended);
    let workload = |pod: &Arc<crate::index::Pod>| {
        let address = *pod.addresses.first()?;
        index.pod_at(address).filter(|at| Arc::ptr_eq(at, pod))?;
        let inbound = pod.inbound.iter();
        let upstreams = pod.upstreams.iter();
        Some(LocalWorkload {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            service_account: pod.service_account.clone(),
            address,
            inbound: inbound
                .map(|p| Inbound { port: p.port, listen: SocketAddr::new(address, p.port), target: p.app })
                .collect(),
            upstreams: upstreams
                .map(|(port, to)| Upstream { listen: SocketAddr::new(address, *port), to: to.clone() })
                .collect(),
        })
    };
    meshed.filter_map(workload).collect()
}

/// Whether there is an Ingress of our class: then somebody wants an edge.
pub fn has_ingresses(objects: &[Arc<Object>]) -> bool {
    edge::has_ingresses(objects)
}

/// Ranges that hold every address of the directory, for the bootstrap of its proxies: each Pod's and ClusterIP's own, as
/// networks of one address.
pub fn addresses(index: &Index) -> Vec<IpNet> {
    let pods = index.pods.values().flat_map(|pod| &pod.addresses);
    let services = index.services.values().flat_map(|service| &service.cluster_ips);
    let mut ranges: Vec<IpNet> = pods.chain(services).map(|address| IpNet::from(*address)).collect();
    ranges.sort();
    ranges.dedup();
    ranges
}
