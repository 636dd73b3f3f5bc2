//! Snapshot and reports -> what the pages say of a Namespace, a Pod, a Service, and of what a Pod is told. Pure.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use signet_api::v1::{self, Protocol, address::Target, transport::Kind};

use crate::{
    answers::{
        EndpointAnswer, HostAnswer, NamespaceStatus, ObstacleAnswer, PodExplanation, PortAnswer,
        ServiceExplanation, WorkloadStatus,
    },
    edges::{Edge, End},
    index::{Index, Membership, NOT_INJECTED, Pod, Service},
    resources::{Serves as _, Snapshot, Subscriber, Type},
    subscriptions::Held,
    translate,
};

/// One line for each Namespace that is labelled or has Pods. `workloads` are those of the same index.
pub(crate) fn namespaces(index: &Index, workloads: &[WorkloadStatus]) -> Vec<NamespaceStatus> {
    let mut all: BTreeMap<&str, NamespaceStatus> = BTreeMap::new();
    for (name, namespace) in index.namespaces.iter().filter(|(_, namespace)| namespace.inject) {
        all.insert(name, NamespaceStatus { inject: namespace.inject, ..NamespaceStatus::default() });
    }
    for workload in workloads {
        let of = all.entry(&workload.namespace).or_default();
        of.pods += 1;
        of.meshed += usize::from(workload.meshed);
        of.not_injected += usize::from(workload.why.as_deref() == Some(NOT_INJECTED));
        let Some(proxy) = &workload.proxy else { continue };
        of.ready += usize::from(proxy.ready);
        *of.versions.entry(proxy.version.clone()).or_default() += 1;
        // RFC 3339 in UTC: the order of the text is that of time.
        let leaf = proxy.leaf_not_after.iter();
        of.first_leaf_not_after = leaf.chain(&of.first_leaf_not_after).min().cloned();
    }
    let finish = |(name, status): (&str, NamespaceStatus)| {
        let settings = index.namespaces.get(name).cloned().unwrap_or_default();
        NamespaceStatus {
            namespace: name.to_owned(),
            mode: mode(settings.strict).into(),
            permissive_ports: settings.permissive_ports,
            ..status
        }
    };
    all.into_iter().map(finish).collect()
}

/// As people write it.
pub(crate) fn mode(strict: bool) -> &'static str {
    if strict { "strict" } else { "permissive" }
}

/// `edges`: all of them; those that touch the Pod and are plaintext are kept.
pub(crate) fn pod(index: &Index, pod: &Pod, workload: WorkloadStatus, edges: Vec<Edge>) -> PodExplanation {
    let obstacle = index.obstacle(pod).map(|obstacle| ObstacleAnswer {
        word: obstacle.word().into(),
        why: obstacle.why(),
        next_step: obstacle.next_step(&pod.namespace, &pod.name, pod.injection.owner.as_ref()),
    });
    let of_namespace = index.namespaces.get(&pod.namespace).map(|namespace| &namespace.permissive_ports);
    let is_endpoint = |service: &&Arc<Service>| {
        service.namespace == pod.namespace
            && everywhere(index, service).iter().any(|endpoint| is(pod, endpoint))
    };
    let services = index.services.values().filter(is_endpoint);
    let is_it =
        |end: &End| end.pod.as_deref() == Some(&pod.name) && end.namespace.as_deref() == Some(&pod.namespace);
    PodExplanation {
        addresses: pod.addresses.clone(),
        node: pod.node.clone(),
        ended: pod.ended,
        terminating: pod.terminating,
        wanted: pod.injection.wanted,
        injected: match index.mesh.membership {
            Membership::Labelled => workload.meshed,
            Membership::Injected => pod.injection.proxy,
        },
        obstacle,
        permissive_ports: of_namespace.into_iter().flatten().chain(&pod.permissive_ports).copied().collect(),
        services: services.map(|service| format!("{}/{}", service.namespace, service.name)).collect(),
        policies: index
            .policies_of(pod)
            .map(|policy| format!("{}/{}", policy.namespace, policy.name))
            .collect(),
        plaintext: plaintext(edges, |edge| is_it(&edge.client) || is_it(&edge.server)),
        workload,
    }
}

/// `edges`: all of them; those to an endpoint that are plaintext are kept.
pub(crate) fn service(index: &Index, service: &Service, edges: Vec<Edge>) -> ServiceExplanation {
    let endpoints = everywhere(index, service);
    let selected = index.pods.values().filter(|pod| !pod.ended && service.selects(pod));
    let selected_only = selected.filter(|pod| !endpoints.iter().any(|endpoint| is(pod, endpoint)));
    let reached = |end: &End| {
        endpoints.iter().any(|endpoint| {
            end.address.as_deref() == Some(&endpoint.address)
                || (end.namespace.as_deref() == Some(&endpoint.namespace)
                    && end.pod.as_deref().is_some_and(|pod| !pod.is_empty() && pod == endpoint.pod))
        })
    };
    ServiceExplanation {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        cluster_ips: service.cluster_ips.clone(),
        ports: service
            .ports
            .iter()
            .map(|port| PortAnswer {
                port: port.port,
                name: port.name.clone(),
                protocol: protocol(port.protocol).into(),
            })
            .collect(),
        selector: service.selector.is_some(),
        local: service.local,
        external: service.external,
        selected_only: selected_only.map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect(),
        plaintext: plaintext(edges, |edge| reached(&edge.server)),
        endpoints,
    }
}

/// What `who` is told about `host`. `held`: what its stream was sent, if it asked.
pub(crate) fn host(snapshot: &Snapshot, who: &Subscriber, host: &str, held: Option<&Held>) -> HostAnswer {
    let encoded = snapshot.resource(who, Type::Address, host).ok();
    let node = snapshot.index.node_of(who.address);
    let answer = encoded.as_ref().and_then(|_| translate::address(&snapshot.index, host, node)?.target);
    let (word, service, endpoints) = match answer {
        None => ("absent", None, Vec::new()),
        Some(Target::Outside(_)) => ("outside", None, Vec::new()),
        Some(Target::Workload(workload)) => ("workload", None, vec![endpoint(workload, BTreeMap::new())]),
        Some(Target::Service(service)) => {
            let name = format!("{}/{}", service.namespace, service.name);
            ("service", Some(name), endpoints(service))
        }
    };
    let version = encoded.map(|encoded| encoded.version);
    let sent = held.map(|held| match (held, &version) {
        (Held::Nothing, _) => "nothing",
        (Held::Absence, None) => "this",
        (Held::Version(sent), Some(version)) if sent == version => "this",
        _ => "older",
    });
    HostAnswer {
        host: host.into(),
        answer: word.into(),
        service,
        endpoints,
        version: version.map(|version| version.to_string()),
        sent: sent.map(Into::into),
    }
}

/// The endpoints of a Service in every family and on every node.
fn everywhere(index: &Index, service: &Service) -> Vec<EndpointAnswer> {
    if service.external {
        return Vec::new();
    }
    endpoints(translate::everywhere(index, service))
}

fn endpoints(service: v1::Service) -> Vec<EndpointAnswer> {
    let of = |e: v1::Endpoint| {
        let number = |port: u32| u16::try_from(port).unwrap_or(0);
        let ports = e.target_ports.into_iter().map(|(from, to)| (number(from), number(to))).collect();
        Some(endpoint(e.workload?, ports))
    };
    service.endpoints.into_iter().filter_map(of).collect()
}

fn endpoint(workload: v1::Workload, ports: BTreeMap<u16, u16>) -> EndpointAnswer {
    let (identity, plain_reason) = match workload.transport.and_then(|transport| transport.kind) {
        Some(Kind::SpiffeId(id)) => (Some(id), None),
        Some(Kind::PlainReason(why)) => (None, Some(why)),
        None => (None, None),
    };
    EndpointAnswer {
        address: workload.address,
        namespace: workload.namespace,
        pod: workload.name,
        identity,
        plain_reason,
        ports,
    }
}

fn is(pod: &Pod, endpoint: &EndpointAnswer) -> bool {
    (endpoint.namespace.as_str(), endpoint.pod.as_str()) == (pod.namespace.as_str(), pod.name.as_str())
}

fn plaintext(edges: Vec<Edge>, touches: impl Fn(&Edge) -> bool) -> Vec<Edge> {
    edges.into_iter().filter(|edge| !edge.secured && !edge.refused && touches(edge)).collect()
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unknown => "unknown",
        Protocol::Tcp => "tcp",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tls => "tls",
    }
}

/// Whose eyes to see through: `pod`'s own, at the address that its stream comes from, else at its first.
pub(crate) fn subscribers(pod: &Pod) -> impl Iterator<Item = Subscriber> {
    let id = pod.identity().cloned();
    let at = |address: &IpAddr| Some(Subscriber { id: id.clone()?, address: *address });
    pod.addresses.iter().filter_map(at).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;
