//! `signet check --strict-ready NS`: what would break, or stay open, once a namespace takes no plaintext. `facts` asks, `policies`
//! judges NetworkPolicies; the rest is here and pure.

mod facts;
mod policies;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, Node, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt as _;
use signet_core::{
    annotations,
    identity::SYSTEM_NAMESPACE,
    pod::{CA_PORT, CONTROLLER_PORT, EXCLUDE_INBOUND_PORTS, INJECT, PERMISSIVE_PORTS},
};

pub(super) use self::facts::Facts;
use self::policies::Party;
use crate::{
    check::{Finding, known::Id, some},
    cluster::Part,
    edges, human,
    identity::has_proxy,
    shapes::{Edge, End},
};

/// In the order of their numbers.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = callers(facts);
    findings.extend(on_the_host_network(facts));
    findings.extend(without_proxy(facts));
    findings.extend(api_server_calls(facts));
    findings.extend(hidden_control_plane(facts));
    findings.extend(not_tcp(facts));
    findings.extend(excluded_ports(facts));
    findings
}

impl Facts {
    fn name(&self) -> String {
        self.namespace.name_any()
    }

    /// Pods of the namespace that are not on their way out.
    fn own_pods(&self) -> impl Iterator<Item = &Pod> {
        let of = self.name();
        self.pods.iter().filter(move |pod| {
            pod.namespace().as_deref() == Some(&*of) && pod.metadata.deletion_timestamp.is_none()
        })
    }

    fn pod(&self, end: &End) -> Option<&Pod> {
        let (namespace, name) = (end.namespace.as_ref()?, end.pod.as_ref()?);
        self.pods.iter().find(|pod| pod.namespace().as_ref() == Some(namespace) && pod.name_any() == *name)
    }

    /// Whether plaintext to this port stays allowed: by the namespace's annotation, or by the pod's.
    fn permits(&self, pod: Option<&Pod>, port: u16) -> bool {
        let of =
            |annotations: &BTreeMap<String, String>| ports(annotations, PERMISSIVE_PORTS).contains(&port);
        of(self.namespace.annotations()) || pod.is_some_and(|pod| of(pod.annotations()))
    }

    /// The command that lets them in, with what is let in already.
    fn permit(&self, more: &BTreeSet<u16>) -> String {
        let mut all = ports(self.namespace.annotations(), PERMISSIVE_PORTS);
        all.extend(more);
        let all = all.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        format!("kubectl annotate --overwrite namespace {} {PERMISSIVE_PORTS}={all}", self.name())
    }

    /// The node that an address is of: its own, or one of its pod range that no pod has (a bridge's).
    fn node_of(&self, address: IpAddr) -> Option<&Node> {
        let is_pods = self.pods.iter().any(|pod| {
            !is_on_host(pod)
                && pod
                    .status
                    .iter()
                    .flat_map(|status| status.pod_ips.iter().flatten())
                    .any(|ip| ip.ip.parse::<IpAddr>() == Ok(address))
        });
        self.nodes.iter().find(|node| {
            let own = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            let ranges = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
            own.map(|one| one.address.parse::<IpAddr>()).any(|own| own == Ok(address))
                || (!is_pods
                    && ranges
                        .filter_map(|range| range.parse::<ipnet::IpNet>().ok())
                        .any(|range| range.contains(&address)))
        })
    }
}

/// Somebody who was seen to call in plaintext.
#[derive(Default)]
struct Caller {
    servers: BTreeSet<String>,
    /// Words of docs/reasons/.
    reasons: BTreeSet<String>,
    namespace: Option<String>,
}

/// Who was seen to call in plaintext, each with whom and where, apart from the ports that stay open: SG040, SG041.
fn callers(facts: &Facts) -> Vec<Finding> {
    let name = facts.name();
    // By whether it is on a node's network, its name, and the port.
    let mut callers = BTreeMap::<(bool, String, u16), Caller>::new();
    for edge in facts.edges.iter().filter(|edge| is_plaintext_to(edge, &name)) {
        let Some(port) = edge.server.port else { continue };
        if facts.permits(facts.pod(&edge.server), port) {
            continue;
        }
        // A pod is named by itself, whether its proxy or only the controller knew it.
        let address = edge.client.address.as_ref().filter(|_| edge.client.pod.is_none());
        let address = address.and_then(|address| address.parse().ok());
        let node = address.and_then(|address| facts.node_of(address));
        let reason = edge.reason.clone().unwrap_or_default();
        let by_node =
            node.is_some() || reason == "host_network" || facts.pod(&edge.client).is_some_and(is_on_host);
        let who = match node {
            Some(node) => format!("node {} ({})", node.name_any(), edges::name(&edge.client)),
            None => edges::name(&edge.client),
        };
        let caller = callers.entry((by_node, who, port)).or_default();
        caller.servers.insert(edges::name(&edge.server));
        caller.reasons.insert(reason);
        caller.namespace.clone_from(&edge.client.namespace);
    }
    let finding = |((by_node, who, port), caller): ((bool, String, u16), Caller)| {
        let servers: Vec<String> = caller.servers.into_iter().collect();
        let reasons = caller.reasons.into_iter().collect::<Vec<_>>().join(", ");
        let what = format!("{who} calls {} at port {port} in plaintext ({reasons})", some(&servers));
        let (id, first) = match by_node {
            true => (Id::NodeCaller, "Run it without hostNetwork, in the mesh".to_owned()),
            false => (Id::PlaintextCaller, join_the_mesh(&reasons, &who, caller.namespace.as_deref())),
        };
        Finding::new(
            id,
            what,
            format!("{first}; or let the port take plaintext: {}", facts.permit(&[port].into())),
        )
    };
    callers.into_iter().map(finding).collect()
}

/// Told by the server, so a proxy took it. What is refused today was plaintext, too: the namespace, or it, is strict already.
fn is_plaintext_to(edge: &Edge, namespace: &str) -> bool {
    let refused = edge.refused && edge.reason.as_deref() != Some("plaintext_refused");
    edge.server.namespace.as_deref() == Some(namespace) && !edge.secured && !refused && edge.proof != "client"
}

/// What the caller's owner does, by the word of docs/reasons/.
fn join_the_mesh(reason: &str, who: &str, namespace: Option<&str>) -> String {
    let of = namespace.unwrap_or("NS");
    match reason {
        "namespace_not_labelled" => {
            format!("kubectl label namespace {of} {INJECT}=enabled, and restart it there")
        }
        "pod_opted_out" => format!("Take the label {INJECT}=disabled from {who}, and restart it"),
        "client_bypassed_proxy" => {
            format!("Take the exclusion (signet.dev/exclude-outbound-...) from {who}, and restart it")
        }
        _ if namespace.is_none() => {
            format!("Find out who has the address {who}: a program on a node, or beyond the cluster")
        }
        _ => format!("signet explain {who} says why it is not in the mesh"),
    }
}

fn on_the_host_network(facts: &Facts) -> Option<Finding> {
    let pods: Vec<String> =
        facts.own_pods().filter(|pod| is_on_host(pod)).map(|pod| pod.name_any()).collect();
    let what = || {
        let pods_of = human::count(pods.len() as u64, "pod");
        format!("{pods_of} of namespace {} on the host's network: {}", facts.name(), some(&pods))
    };
    let next =
        "Run them without hostNetwork; where they call strict pods, those need signet.dev/permissive-ports";
    (!pods.is_empty()).then(|| Finding::new(Id::OnHostNetwork, what(), next.into()))
}

fn without_proxy(facts: &Facts) -> Option<Finding> {
    let bare = facts.own_pods().filter(|pod| !is_on_host(pod) && !has_proxy(pod));
    let pods: Vec<String> = bare.map(|pod| pod.name_any()).collect();
    let first = pods.first()?;
    let name = facts.name();
    let what = format!(
        "{} of namespace {name} without a proxy: {}",
        human::count(pods.len() as u64, "pod"),
        some(&pods)
    );
    let labelled = facts.namespace.labels().get(INJECT).is_some_and(|value| value == "enabled");
    let restart = format!("kubectl -n {name} rollout restart deployment,statefulset,daemonset");
    let next = match labelled {
        true => format!("{restart}; if it stays so: signet explain {name}/{first}"),
        false => format!("kubectl label namespace {name} {INJECT}=enabled, then {restart}"),
    };
    Some(Finding::new(Id::OutsideStrict, what, next))
}

/// The API server is no client of the mesh, so its TLS is a stranger's: SG044.
fn api_server_calls(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for call in &facts.calls {
        let Some(service) = facts.services.iter().find(|service| service.name_any() == call.service) else {
            continue; // it reaches nobody today
        };
        let port = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
            .find(|port| port.port == call.port);
        let Some(port) = port else { continue };
        let behind = |pod: &&Pod| selects(service, pod) && has_proxy(pod);
        let closed = facts.own_pods().filter(behind).filter_map(|pod| {
            let port = target(port, pod)?;
            (!facts.permits(Some(pod), port)).then_some(port)
        });
        let closed: BTreeSet<u16> = closed.collect();
        if closed.is_empty() {
            continue;
        }
        let list = closed.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let what = format!(
            "the API server calls Service {}/{} at port {} (pod port {list}) for the {}",
            facts.name(),
            call.service,
            call.port,
            call.who
        );
        findings.push(Finding::new(Id::ApiServerCall, what, facts.permit(&closed)));
    }
    findings
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

/// The pod's port behind a Service's; `None`: a name that none of its containers has.
fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            container_ports(pod).find(|one| one.name.as_ref() == Some(name))?.container_port
        }
    };
    u16::try_from(number).ok()
}

/// NetworkPolicies between the namespace's proxies and CA or controller: SG045.
fn hidden_control_plane(facts: &Facts) -> Vec<Finding> {
    let labels_of = |name: &str| {
        let namespace = facts.namespaces.iter().find(|namespace| namespace.name_any() == name);
        namespace.map(|namespace| namespace.labels().clone()).unwrap_or_default()
    };
    let (own, ours) = (labels_of(&facts.name()), labels_of(SYSTEM_NAMESPACE));
    let mut findings = Vec::new();
    for (part, port) in [(Part::Ca, CA_PORT), (Part::Controller, CONTROLLER_PORT)] {
        let is_part = |pod: &&Pod| {
            pod.namespace().as_deref() == Some(SYSTEM_NAMESPACE)
                && pod.labels().get("app.kubernetes.io/name").is_some_and(|name| *name == part.to_string())
        };
        let servers: Vec<Party<'_>> =
            facts.pods.iter().filter(is_part).map(|pod| Party { pod, namespace: &ours }).collect();
        let mut hidden = BTreeMap::<String, Vec<String>>::new();
        for pod in facts.own_pods().filter(|pod| has_proxy(pod)) {
            let client = Party { pod, namespace: &own };
            let between = servers.iter().map(|server| {
                let out = policies::egress(&facts.policies, client, *server, port);
                let into = policies::ingress(&facts.policies, client, *server, port);
                let named = out.iter().map(|name| format!("{}/{name}", facts.name()));
                named.chain(into.iter().map(|name| format!("{SYSTEM_NAMESPACE}/{name}"))).collect::<Vec<_>>()
            });
            let between: Vec<Vec<String>> = between.collect();
            if let Some(names) = between.first().filter(|_| between.iter().all(|names| !names.is_empty())) {
                hidden.entry(names.join(", ")).or_default().push(pod.name_any());
            }
        }
        findings.extend(hidden.into_iter().map(|(names, pods)| {
            let what = format!(
                "NetworkPolicy {names} keeps {} of namespace {} from the {part}: {}",
                human::count(pods.len() as u64, "pod"),
                facts.name(),
                some(&pods)
            );
            let next = format!(
                "Allow TCP {port} between namespace {} and namespace {SYSTEM_NAMESPACE} there",
                facts.name()
            );
            Finding::new(Id::HiddenControlPlane, what, next)
        }));
    }
    findings
}

fn not_tcp(facts: &Facts) -> Vec<Finding> {
    let ports = facts.services.iter().flat_map(|service| {
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        ports.filter_map(|port| {
            let protocol = port.protocol.as_deref().filter(|protocol| *protocol != "TCP")?;
            Some(format!("{} {}/{protocol}", service.name_any(), port.port))
        })
    });
    let ports: Vec<String> = ports.collect();
    let what =
        format!("Services of namespace {} with ports that are not TCP: {}", facts.name(), some(&ports));
    let next = "Encrypt it in the application (DTLS, QUIC), or keep others away with a NetworkPolicy".into();
    if ports.is_empty() { Vec::new() } else { vec![Finding::new(Id::NotTcp, what, next)] }
}

fn excluded_ports(facts: &Facts) -> Option<Finding> {
    let excluded = facts.own_pods().filter(|pod| has_proxy(pod)).filter_map(|pod| {
        let ports = ports(pod.annotations(), EXCLUDE_INBOUND_PORTS);
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        (!ports.is_empty()).then(|| format!("{} ({ports})", pod.name_any()))
    });
    let pods: Vec<String> = excluded.collect();
    let what =
        || format!("inbound ports of namespace {} that pass its proxies: {}", facts.name(), some(&pods));
    let next = format!(
        "Name them in {PERMISSIVE_PORTS} instead of {EXCLUDE_INBOUND_PORTS}, and restart the pods: then they are seen in signet edges"
    );
    (!pods.is_empty()).then(|| Finding::new(Id::ExcludedPorts, what(), next))
}

fn is_on_host(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// None where the annotation means nothing: so do the proxies take it.
fn ports(annotations: &BTreeMap<String, String>, key: &str) -> BTreeSet<u16> {
    annotations.get(key).and_then(|value| annotations::ports(value).ok()).unwrap_or_default()
}

/// Native sidecars are init containers and may own a port, too.
fn container_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.flat_map(|container: &Container| container.ports.iter().flatten())
}

#[cfg(test)]
pub(super) mod tests;
