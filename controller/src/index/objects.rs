//! One Kubernetes object -> the few facts that we use of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::{
    api::{core::v1 as core_v1, discovery::v1 as discovery_v1},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use signet_api::v1::Protocol;
use signet_core::{
    annotations::{self, AppAddress},
    identity::{self, SpiffeId},
    pod::{FORBID_NET_ADMIN, INBOUND, INJECT, MTLS, PERMISSIVE_PORTS, POD_SECURITY, UPSTREAMS},
};

use super::{
    Membership, Mesh,
    injection::{Injection, NOT_INJECTED},
};
use crate::source::{self, ManifestError, Origin, policy};

/// The settings of a Namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    /// Labelled `signet.dev/inject: enabled`.
    pub inject: bool,
    pub strict: bool,
    pub permissive_ports: BTreeSet<u16>,
    /// `baseline` or `restricted`, where Pod Security enforces it: neither lets our capture step in.
    pub pod_security: Option<String>,
}

/// How connections to a Pod go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Transport {
    Mesh(SpiffeId),
    /// In plaintext, and this word says why.
    Plain(&'static str),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// Empty in manifests that say none.
    pub uid: String,
    pub service_account: String,
    /// Where it was scheduled.
    pub node: Option<String>,
    /// Of the status, first the primary one; empty until it has one.
    pub addresses: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    pub transport: Transport,
    pub injection: Injection,
    pub host_network: bool,
    /// Phase Succeeded or Failed: no endpoint any more, and its address is free.
    pub ended: bool,
    pub terminating: bool,
    /// The Ready condition; a manifest without one is ready.
    pub ready: bool,
    /// Unix nanoseconds; 0 when unknown.
    pub created: i128,
    /// Named TCP ports of its containers.
    pub named_ports: HashMap<String, u16>,
    /// Its own, without its Namespace's.
    pub permissive_ports: BTreeSet<u16>,
    pub upstreams: Vec<(u16, String)>,
    pub inbound: Vec<PodPort>,
    pub origin: Origin,
}

/// Directory mode: a port that the proxy serves, and where the app is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PodPort {
    pub port: u16,
    pub app: SocketAddr,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// Empty for headless Services and those without an address of ours.
    pub cluster_ips: Vec<IpAddr>,
    /// `None`: no selector, or one that selects nothing.
    pub selector: Option<BTreeMap<String, String>>,
    /// TCP only.
    pub ports: Vec<Port>,
    pub publish_not_ready: bool,
    pub client_ip_affinity: bool,
    /// internalTrafficPolicy Local: only endpoints on the caller's node.
    pub local: bool,
    /// ExternalName: a CNAME, which is DNS's business.
    pub external: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub port: u16,
    pub name: String,
    pub protocol: Protocol,
    /// As in the manifest; `None`: the same port.
    pub target: Option<IntOrString>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    pub namespace: String,
    pub name: String,
    pub service: String,
    /// (port name, port); `None`: the Service's own. TCP only.
    pub ports: Vec<(String, Option<u16>)>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    /// The Pod that it claims to be, in its own namespace. A hint: identities come from the Pod that holds the address.
    pub pod: Option<String>,
    pub node: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Namespace {
    pub(super) fn parse(
        object: &core_v1::Namespace,
        origin: &Origin,
        errors: &mut Vec<ManifestError>,
    ) -> (String, Self) {
        let meta = &object.metadata;
        let strict = match label(meta, MTLS) {
            None | Some("permissive") => false,
            Some("strict") => true,
            Some(other) => {
                let message =
                    format!("{other:?} is no mode; write permissive or strict (counts as strict until then)");
                errors.push(origin.error(&format!("metadata.labels[{MTLS}]"), message));
                true
            }
        };
        let inject = inject(meta, origin, errors) == Some(true);
        let permissive_ports = annotation(meta, PERMISSIVE_PORTS, origin, errors, annotations::ports);
        let enforced = label(meta, POD_SECURITY).filter(|level| FORBID_NET_ADMIN.contains(level));
        let pod_security = enforced.map(str::to_owned);
        (source::name(meta), Self { inject, strict, permissive_ports, pod_security })
    }
}

impl Pod {
    /// `None`, with an error, for one whose names make no SPIFFE ID: it is no endpoint, neither meshed nor plain.
    pub(super) fn parse(
        object: &core_v1::Pod,
        origin: &Origin,
        namespaces: &BTreeMap<String, Namespace>,
        mesh: &Mesh,
        errors: &mut Vec<ManifestError>,
    ) -> Option<Self> {
        let (meta, spec, status) = (&object.metadata, object.spec.as_ref(), object.status.as_ref());
        let (namespace, name) = (source::namespace(meta), source::name(meta));
        let account = spec.and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
        let service_account = account.unwrap_or_else(|| "default".into());
        let id = match identity::of(&mesh.trust_domain, &namespace, &service_account) {
            Ok(id) => id,
            Err(why) => {
                errors.push(origin.error("spec.serviceAccountName", why.to_string()));
                return None;
            }
        };
        let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
        let labelled = namespaces.get(&namespace).is_some_and(|namespace| namespace.inject);
        let own_label = inject(meta, origin, errors);
        let injection = Injection::of(meta, spec, own_label.unwrap_or(labelled));
        let transport = match (own_label, mesh.membership) {
            _ if host_network => Transport::Plain("host_network"),
            (_, Membership::Injected) if injection.proxy => Transport::Mesh(id),
            (Some(false), _) => Transport::Plain("pod_opted_out"),
            (None, _) if !labelled => Transport::Plain("namespace_not_labelled"),
            (Some(true) | None, Membership::Labelled) => Transport::Mesh(id),
            (Some(true) | None, Membership::Injected) => Transport::Plain(NOT_INJECTED),
        };
        let addresses = pod_addresses(status, origin, errors);
        let app = |app: AppAddress| match (app, addresses.first()) {
            (AppAddress::At(address), _) => Some(address),
            (AppAddress::OnPodAddress(port), address) => {
                address.map(|address| SocketAddr::new(*address, port))
            }
        };
        let inbound = annotation(meta, INBOUND, origin, errors, annotations::inbound).into_iter();
        let inbound = inbound.filter_map(|(port, at)| Some(PodPort { port, app: app(at)? })).collect();
        let phase = status.and_then(|status| status.phase.as_deref());
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let ready = conditions.filter(|c| c.type_ == "Ready").all(|condition| condition.status == "True");
        Some(Self {
            uid: meta.uid.clone().unwrap_or_default(),
            node: spec.and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty()),
            labels: meta.labels.clone().unwrap_or_default(),
            transport,
            injection,
            host_network,
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            terminating: meta.deletion_timestamp.is_some(),
            ready,
            created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_nanosecond()),
            named_ports: spec.map(named_ports).unwrap_or_default(),
            permissive_ports: annotation(meta, PERMISSIVE_PORTS, origin, errors, annotations::ports),
            upstreams: annotation(meta, UPSTREAMS, origin, errors, annotations::upstreams),
            inbound,
            origin: origin.clone(),
            namespace,
            name,
            service_account,
            addresses,
        })
    }

    /// The identity that its peers must see; `None`: not in the mesh.
    pub fn identity(&self) -> Option<&SpiffeId> {
        match &self.transport {
            Transport::Mesh(id) => Some(id),
            Transport::Plain(_) => None,
        }
    }
}

fn pod_addresses(
    status: Option<&core_v1::PodStatus>,
    origin: &Origin,
    errors: &mut Vec<ManifestError>,
) -> Vec<IpAddr> {
    let Some(status) = status else { return Vec::new() };
    let more = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses = Vec::new();
    for text in status.pod_ip.as_deref().into_iter().chain(more).filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(address) if !addresses.contains(&address.to_canonical()) => {
                addresses.push(address.to_canonical())
            }
            Ok(_) => {}
            Err(_) => errors.push(origin.error("status.podIP", format!("{text:?} is not an IP address"))),
        }
    }
    addresses
}

fn named_ports(spec: &core_v1::PodSpec) -> HashMap<String, u16> {
    // Native sidecars are init containers, and may own a port too.
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| Some((port.name.clone()?, number(port.container_port)?))).collect()
}

impl Service {
    pub(super) fn parse(object: &core_v1::Service, origin: &Origin, errors: &mut Vec<ManifestError>) -> Self {
        let (meta, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
        let ips = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        let mut cluster_ips = Vec::new();
        for text in ips.filter(|text| !text.is_empty() && *text != "None") {
            match text.parse::<IpAddr>() {
                Ok(address) if !cluster_ips.contains(&address.to_canonical()) => {
                    cluster_ips.push(address.to_canonical())
                }
                Ok(_) => {}
                Err(_) => {
                    errors.push(origin.error("spec.clusterIP", format!("{text:?} is not an IP address")))
                }
            }
        }
        let mut ports = Vec::new();
        for (n, port) in spec.ports.iter().flatten().enumerate() {
            let Some(number) = number(port.port) else {
                errors.push(
                    origin.error(&format!("spec.ports[{n}].port"), format!("{} is no port", port.port)),
                );
                continue;
            };
            if port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP") {
                let name = port.name.clone().unwrap_or_default();
                let protocol = protocol(port.app_protocol.as_deref(), &name);
                ports.push(Port { port: number, name, protocol, target: port.target_port.clone() });
            }
        }
        Self {
            namespace: source::namespace(meta),
            name: source::name(meta),
            cluster_ips,
            selector: spec.selector.filter(|selector| !selector.is_empty()),
            ports,
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            client_ip_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external: spec.type_.as_deref() == Some("ExternalName"),
        }
    }
}

impl Service {
    /// Whether its selector, if it has one, matches `pod`.
    pub(crate) fn selects(&self, pod: &Pod) -> bool {
        let holds = |(key, value)| pod.labels.get(key) == Some(value);
        pod.namespace == self.namespace
            && self.selector.as_ref().is_some_and(|selector| selector.iter().all(holds))
    }
}

/// `appProtocol` where it is set (KEP-1422: IANA names and kubernetes.io/*), else the port name's first word.
fn protocol(app_protocol: Option<&str>, port_name: &str) -> Protocol {
    let word = match app_protocol {
        Some(word) => word,
        None => port_name.split('-').next().unwrap_or_default(),
    };
    match word.to_ascii_lowercase().as_str() {
        "http" | "http1" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "postgres" | "postgresql" | "redis" | "smtp" => Protocol::Tcp,
        _ => Protocol::Unknown,
    }
}

impl Slice {
    /// `None` for one of no Service, or of host names.
    pub(super) fn parse(
        object: &discovery_v1::EndpointSlice,
        origin: &Origin,
        errors: &mut Vec<ManifestError>,
    ) -> Option<Self> {
        let service = label(&object.metadata, "kubernetes.io/service-name")?.to_owned();
        if object.address_type == "FQDN" {
            return None;
        }
        let mut endpoints = Vec::new();
        for (n, endpoint) in object.endpoints.iter().enumerate() {
            let field = format!("endpoints[{n}].addresses[0]");
            let text = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
            match text.parse::<IpAddr>() {
                Ok(address) => endpoints.push(SliceEndpoint::new(address.to_canonical(), endpoint)),
                Err(_) => errors.push(origin.error(&field, format!("{text:?} is not an IP address"))),
            }
        }
        let tcp = object.ports.iter().flatten();
        let tcp = tcp.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        let ports = tcp.filter_map(|port| match port.port {
            Some(n) => Some((port.name.clone().unwrap_or_default(), Some(number(n)?))),
            None => Some((port.name.clone().unwrap_or_default(), None)),
        });
        Some(Self {
            namespace: source::namespace(&object.metadata),
            name: source::name(&object.metadata),
            service,
            ports: ports.collect(),
            endpoints,
        })
    }
}

impl SliceEndpoint {
    /// Unset conditions as the API defines them: ready is true, serving is ready, terminating is false. Only the first address
    /// counts, as for kube-proxy.
    fn new(address: IpAddr, endpoint: &discovery_v1::Endpoint) -> Self {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        Self {
            address,
            pod: pod.and_then(|target| target.name.clone()),
            node: endpoint.node_name.clone(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        }
    }
}

/// A policy whose callers are no SPIFFE IDs is as unparsable as one that is no YAML.
pub(super) fn check_policy(
    policy: &policy::PolicyObject,
    origin: &Origin,
    mesh: &Mesh,
    errors: &mut Vec<ManifestError>,
) -> policy::PolicyObject {
    let mut policy = policy.clone();
    let Ok(rules) = &policy.rules else { return policy };
    for (n, rule) in rules.iter().enumerate() {
        for (m, caller) in rule.from.iter().enumerate() {
            if let Err(why) = caller.id(mesh) {
                let field = format!("spec.rules[{n}].from[{m}]");
                errors.push(origin.error(&field, why.to_string()));
                policy.rules = Err(format!("{field}: {why}"));
                return policy;
            }
        }
    }
    policy
}

impl policy::Caller {
    pub(crate) fn id(&self, mesh: &Mesh) -> Result<SpiffeId, identity::NotASpiffeId> {
        match self {
            Self::ServiceAccount { namespace, name } => identity::of(&mesh.trust_domain, namespace, name),
            Self::Spiffe(id) => identity::parse(id),
        }
    }
}

/// `signet.dev/inject`; a value that we do not know is an error and counts as not written.
fn inject(meta: &ObjectMeta, origin: &Origin, errors: &mut Vec<ManifestError>) -> Option<bool> {
    match label(meta, INJECT) {
        None => None,
        Some(value) => match annotations::inject(value) {
            Ok(inject) => Some(inject),
            Err(message) => {
                errors.push(origin.error(&format!("metadata.labels[{INJECT}]"), message));
                None
            }
        },
    }
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// A value that does not parse counts as empty: nothing is opened by it.
fn annotation<T: Default>(
    meta: &ObjectMeta,
    key: &str,
    origin: &Origin,
    errors: &mut Vec<ManifestError>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> T {
    let Some(value) = meta.annotations.as_ref().and_then(|all| all.get(key)) else { return T::default() };
    parse(value).unwrap_or_else(|why| {
        errors.push(origin.error(&format!("metadata.annotations[{key}]"), why));
        T::default()
    })
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}
