//! Index -> what data planes are told. Pure: one index, one answer, on every replica and after every restart. An answer that
//! is absent (`None`) means "no such address (yet)", never "plaintext is fine".

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use signet_api::v1::{self, address::Target, transport::Kind};

use crate::index::{Index, Pod, Port, Service, SliceEndpoint, Transport};

/// Where connections to `name` go: an IP address (a Pod's or a ClusterIP), or a host as [`service_name`] reads it. `node` is
/// the caller's, and asked for only where [`depends_on_node`].
pub(crate) fn address(index: &Index, name: &str, node: Option<&str>) -> Option<v1::Address> {
    let target = match (service_of(index, name), name.parse::<IpAddr>()) {
        (Some(service), address) => {
            // A dual-stack Service asked for by name is reached by the family of its first address; a headless one by any.
            let family =
                address.ok().or(service.cluster_ips.first().copied()).map(|ip| ip.to_canonical().is_ipv4());
            Target::Service(self::service(index, service, family, node))
        }
        (None, Ok(address)) => at_address(index, address.to_canonical())?,
        (None, Err(_)) => return None,
    };
    Some(v1::Address { target: Some(target) })
}

/// The Service that `name` leads to, if it leads to one.
fn service_of<'a>(index: &'a Index, name: &str) -> Option<&'a Arc<Service>> {
    match name.parse::<IpAddr>() {
        Ok(address) => index.service_at(address.to_canonical()),
        Err(_) => {
            let (namespace, service) = service_name(index, name)?;
            index.service(&namespace, &service).filter(|service| !service.external)
        }
    }
}

/// Whether callers on different nodes get different answers for `name`.
pub(crate) fn depends_on_node(index: &Index, name: &str) -> bool {
    service_of(index, name).is_some_and(|service| service.local)
}

fn at_address(index: &Index, address: IpAddr) -> Option<Target> {
    if let Some(pod) = index.pod_at(address) {
        return Some(Target::Workload(workload(pod, address)));
    }
    let ranges = &index.mesh.ranges;
    let outside = !ranges.is_empty() && !ranges.iter().any(|range| range.contains(&address));
    outside.then_some(Target::Outside(v1::Outside {}))
}

/// (namespace, Service) of "api.shop", "api.shop.svc" or "api.shop.svc.cluster.local", in any case, with or without a final
/// dot.
pub(crate) fn service_name(index: &Index, host: &str) -> Option<(String, String)> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let domain = format!(".svc.{}", index.mesh.cluster_domain);
    let short = host.strip_suffix(&domain).or_else(|| host.strip_suffix(".svc")).unwrap_or(&host);
    let (service, namespace) = short.split_once('.')?;
    let is_label = |label: &str| !label.is_empty() && !label.contains('.');
    (is_label(service) && is_label(namespace)).then(|| (namespace.to_owned(), service.to_owned()))
}

/// `service` with its endpoints in both families and on every node: nobody's answer, but what there is.
pub(crate) fn everywhere(index: &Index, service: &Service) -> v1::Service {
    let service = Service { local: false, ..service.clone() };
    self::service(index, &service, None, None)
}

fn service(index: &Index, service: &Service, ipv4: Option<bool>, node: Option<&str>) -> v1::Service {
    let ports = service.ports.iter().map(|port| v1::ServicePort {
        port: port.port.into(),
        name: port.name.clone(),
        protocol: port.protocol.into(),
    });
    v1::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        ports: ports.collect(),
        endpoints: endpoints(index, service, ipv4, node),
        client_ip_affinity: service.client_ip_affinity,
    }
}

/// An endpoint before its conditions were looked at.
struct Candidate {
    workload: v1::Workload,
    target_ports: BTreeMap<u32, u32>,
    node: Option<String>,
    ready: bool,
    /// Terminating, and still serving.
    leaving: bool,
}

/// The endpoints that new connections may use, as kube-proxy chooses them: the ready ones; when there is none, those that are
/// terminating and still serve (KEP-1669). With internalTrafficPolicy Local only those on the caller's node, even if there is
/// none (KEP-2086). In order of address, so that equal contents have equal bytes.
fn endpoints(index: &Index, service: &Service, ipv4: Option<bool>, node: Option<&str>) -> Vec<v1::Endpoint> {
    let key = (service.namespace.clone(), service.name.clone());
    let candidates = match index.slices.get(&key) {
        Some(slices) => {
            let pairs =
                slices.iter().flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)));
            let of_slices = pairs.filter_map(|(slice, endpoint)| {
                Some(Candidate {
                    workload: slice_workload(index, &slice.namespace, endpoint)?,
                    target_ports: slice_ports(service, &slice.ports),
                    node: index
                        .node_of(endpoint.address)
                        .map(str::to_owned)
                        .or_else(|| endpoint.node.clone()),
                    ready: endpoint.ready || service.publish_not_ready,
                    leaving: endpoint.serving && endpoint.terminating,
                })
            });
            of_slices.collect()
        }
        None => selected(index, service),
    };
    let family =
        |text: &str| text.parse::<IpAddr>().is_ok_and(|a| ipv4.is_none_or(|ipv4| a.is_ipv4() == ipv4));
    let usable = |c: &Candidate| {
        (!service.local || (node.is_some() && c.node.as_deref() == node))
            && family(&c.workload.address)
            && (service.ports.is_empty() || !c.target_ports.is_empty())
    };
    let candidates: Vec<Candidate> = candidates.into_iter().filter(usable).collect();
    let any_ready = candidates.iter().any(|candidate| candidate.ready);
    let chosen = candidates.into_iter().filter(|c| if any_ready { c.ready } else { c.leaving });
    // One address may stand in two slices, each with a part of the ports.
    let mut merged: BTreeMap<String, v1::Endpoint> = BTreeMap::new();
    for Candidate { workload, target_ports, .. } in chosen {
        let endpoint = merged.entry(workload.address.clone()).or_default();
        endpoint.workload = Some(workload);
        endpoint.target_ports.extend(target_ports);
    }
    // A dual-stack pod behind a headless Service is one endpoint, by its first address.
    let mut seen = HashSet::new();
    let mut new = |workload: &v1::Workload| {
        workload.name.is_empty() || seen.insert((workload.namespace.clone(), workload.name.clone()))
    };
    merged.into_values().filter(|endpoint| endpoint.workload.as_ref().is_some_and(&mut new)).collect()
}

/// Who is at a slice's address: the Pod that holds it now, whatever the slice says. A slice may also list an address of its
/// own, with no Pod: plain. One that names a Pod which we do not know (gone, ended, not seen yet) is no endpoint: the address
/// was or will be a mesh address, and must not be reached in plaintext meanwhile.
fn slice_workload(index: &Index, namespace: &str, endpoint: &SliceEndpoint) -> Option<v1::Workload> {
    if let Some(pod) = index.pod_at(endpoint.address) {
        return Some(workload(pod, endpoint.address));
    }
    let was_a_pod = index.pods.values().any(|pod| pod.ended && pod.addresses.contains(&endpoint.address));
    if endpoint.pod.is_some() || was_a_pod {
        return None;
    }
    Some(v1::Workload {
        address: endpoint.address.to_string(),
        namespace: namespace.to_owned(),
        name: String::new(),
        transport: Some(v1::Transport { kind: Some(Kind::PlainReason("no_pod".into())) }),
    })
}

fn slice_ports(service: &Service, ports: &[(String, Option<u16>)]) -> BTreeMap<u32, u32> {
    let target = |port: &Port| {
        let (_, target) = ports.iter().find(|(name, _)| *name == port.name)?;
        Some((port.port.into(), target.unwrap_or(port.port).into()))
    };
    service.ports.iter().filter_map(target).collect()
}

/// A Service with a selector and no slice: what the EndpointSlice controller would write.
fn selected(index: &Index, service: &Service) -> Vec<Candidate> {
    let in_namespace = (service.namespace.clone(), String::new())..;
    let pods = index.pods.range(in_namespace).map(|(_, pod)| pod);
    let pods = pods.take_while(|pod| pod.namespace == service.namespace);
    let matching = pods.filter(|pod| !pod.ended && service.selects(pod));
    let candidates = matching.flat_map(|pod| {
        // An address that passed to a younger Pod is no longer this one's; a node's is shared by all on its network.
        let held = |address: &&IpAddr| {
            index
                .pod_at(**address)
                .is_some_and(|at| Arc::ptr_eq(at, pod) || (at.host_network && pod.host_network))
        };
        pod.addresses.iter().filter(held).map(|address| Candidate {
            workload: workload(pod, *address),
            target_ports: pod_ports(service, pod),
            node: pod.node.clone(),
            ready: service.publish_not_ready || (pod.ready && !pod.terminating),
            leaving: pod.ready && pod.terminating,
        })
    });
    candidates.collect()
}

/// A named target port is looked up in each Pod; one without it does not serve that port.
fn pod_ports(service: &Service, pod: &Pod) -> BTreeMap<u32, u32> {
    let target = |port: &Port| {
        let target = match &port.target {
            None | Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok()?,
            Some(IntOrString::String(name)) => *pod.named_ports.get(name)?,
        };
        Some((port.port.into(), target.into()))
    };
    service.ports.iter().filter_map(target).collect()
}

fn workload(pod: &Pod, address: IpAddr) -> v1::Workload {
    let kind = match &pod.transport {
        Transport::Mesh(id) => Kind::SpiffeId(id.to_string()),
        Transport::Plain(reason) => Kind::PlainReason((*reason).to_owned()),
    };
    v1::Workload {
        address: address.to_string(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        transport: Some(v1::Transport { kind: Some(kind) }),
    }
}

/// Mode and policies of "<namespace>/<pod>"; `None` for one that is not in the mesh.
///
/// One policy that does not parse closes the pods that it selects, whatever others beside it allow: it is then the only kind
/// that is sent.
pub(crate) fn settings(index: &Index, name: &str) -> Option<v1::WorkloadSettings> {
    let (namespace, pod) = name.split_once('/')?;
    let pod = index.pod(namespace, pod).filter(|pod| pod.identity().is_some())?;
    let namespace = index.namespaces.get(namespace).cloned().unwrap_or_default();
    let mode = if namespace.strict { v1::Mode::Strict } else { v1::Mode::Permissive };
    let mut policies: Vec<v1::Policy> =
        index.policies_of(pod).map(|policy| self::policy(index, policy)).collect();
    if policies.iter().any(|policy| !policy.error.is_empty()) {
        policies.retain(|policy| !policy.error.is_empty());
    }
    Some(v1::WorkloadSettings {
        mode: mode.into(),
        permissive_ports: namespace
            .permissive_ports
            .union(&pod.permissive_ports)
            .map(|port| (*port).into())
            .collect(),
        policies,
    })
}

fn policy(index: &Index, policy: &crate::source::policy::PolicyObject) -> v1::Policy {
    let rule = |rule: &crate::source::policy::Rule| {
        let ids: Result<Vec<String>, String> = rule
            .from
            .iter()
            .map(|c| c.id(&index.mesh).map(|id| id.to_string()).map_err(|e| e.to_string()))
            .collect();
        Ok(v1::Rule { spiffe_ids: ids?, ports: rule.ports.iter().map(|port| (*port).into()).collect() })
    };
    let rules = policy.rules.as_ref().map_err(String::clone);
    let rules = rules.and_then(|rules| rules.iter().map(rule).collect::<Result<Vec<_>, String>>());
    let (rules, error) = match rules {
        Ok(rules) => (rules, String::new()),
        Err(why) => (Vec::new(), why),
    };
    v1::Policy { name: format!("{}/{}", policy.namespace, policy.name), audit: policy.audit, rules, error }
}

#[cfg(test)]
#[path = "translate/tests.rs"]
mod tests;
