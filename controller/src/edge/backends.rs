//! What an Ingress's backend leads to: a Service's ready endpoints, each with how it is spoken to, or the answer in its place. Pure.
//!
//! Edge dials for strangers, and whoever may write an Ingress, a Service and an EndpointSlice could make it dial anything that it
//! reaches: a node's kubelet, a cloud's metadata, another namespace's pods. So an address counts only if a Pod of the Service's
//! own namespace holds it, or if it is outside of the cluster; ExternalName is refused whatever it names, because a name may
//! lead elsewhere when it is dialled than when it was looked at.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::StatusCode;
use signet_api::v1::{self, transport::Kind};
use signet_core::identity;
use signet_http::model::{
    Backend, BackendTls, Choice, Endpoint, Protocol, Respond, Security, Target, Verify,
};

use super::{
    annotations::AppProtocol,
    finding::{Finding, Word},
    objects::{BackendRef, PortRef},
};
use crate::{
    index::{Index, Port, Service},
    translate,
};

/// Where a rule's requests go, and what is shown of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) target: Target,
    /// The backend that `target` names.
    pub(crate) backend: Option<Arc<Backend>>,
    /// Every endpoint, those refused too, in order of address.
    pub(crate) ways: Vec<Way>,
    pub(crate) findings: Vec<Finding>,
}

/// One endpoint, as people are shown it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    /// "<namespace>/<name>"; empty: none has the address.
    pub(crate) pod: String,
    pub(crate) how: How,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum How {
    /// Mutual TLS with this identity.
    Mesh(String),
    /// The app's own TLS.
    Tls,
    /// And why, a word.
    Plain(String),
    /// Never dialled, and why.
    Refused(String),
}

/// Resolves the backends of one state, each once.
pub(crate) struct Backends<'a> {
    index: &'a Index,
    nodes: &'a BTreeMap<IpAddr, String>,
    known: BTreeMap<(String, BackendRef, Option<AppProtocol>), Resolved>,
}

impl<'a> Backends<'a> {
    pub(crate) fn new(index: &'a Index, nodes: &'a BTreeMap<IpAddr, String>) -> Self {
        Self { index, nodes, known: BTreeMap::new() }
    }

    /// `protocol`: what the Ingress says; else the Service's port does.
    pub(crate) fn resolve(
        &mut self,
        namespace: &str,
        reference: &BackendRef,
        protocol: Option<AppProtocol>,
    ) -> Resolved {
        let key = (namespace.to_owned(), reference.clone(), protocol);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let resolved = self.look(namespace, reference, protocol);
        self.known.insert(key, resolved.clone());
        resolved
    }

    /// Those that some rule names, each once, in order of name.
    pub(crate) fn into_all(self) -> Vec<Arc<Backend>> {
        let all = self.known.into_values().filter_map(|resolved| resolved.backend);
        let by_name: BTreeMap<Arc<str>, Arc<Backend>> =
            all.map(|backend| (Arc::clone(&backend.name), backend)).collect();
        by_name.into_values().collect()
    }

    fn look(&self, namespace: &str, reference: &BackendRef, protocol: Option<AppProtocol>) -> Resolved {
        let (name, port) = match reference {
            BackendRef::Service { name, port } => (name, port),
            BackendRef::Resource(what) => {
                let why =
                    format!("backend {what} is no Service; only Services are served, the rest answers 500");
                return Resolved::instead(StatusCode::INTERNAL_SERVER_ERROR, Word::BackendRefused, why);
            }
            // Said where the field was read.
            BackendRef::Nothing => return Resolved::respond(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let Some(service) = self.index.service(namespace, name) else {
            let why =
                format!("there is no Service {namespace}/{name}; its paths answer 503 until it is there");
            return Resolved::instead(StatusCode::SERVICE_UNAVAILABLE, Word::NoBackend, why);
        };
        if service.external {
            let why = format!(
                "Service {namespace}/{name} is of type ExternalName, which the gateway never dials: its name may lead to anything that \
                 the gateway reaches. Its paths answer 500; use a Service with an EndpointSlice of addresses outside of the cluster"
            );
            return Resolved::instead(StatusCode::INTERNAL_SERVER_ERROR, Word::BackendRefused, why);
        }
        let is_it = |of: &&Port| match port {
            PortRef::Number(number) => of.port == *number,
            PortRef::Name(name) => of.name == *name,
        };
        let Some(port) = service.ports.iter().find(is_it) else {
            let all: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
            let why = format!(
                "Service {namespace}/{name} has no TCP port {port} (it has {}); its paths answer 503",
                all.join(", ")
            );
            return Resolved::instead(StatusCode::SERVICE_UNAVAILABLE, Word::NoBackend, why);
        };
        self.backend(service, port, protocol.unwrap_or_else(|| spoken(port)))
    }

    fn backend(&self, service: &Service, port: &Port, protocol: AppProtocol) -> Resolved {
        let all = translate::everywhere(self.index, service);
        let mut ways = Vec::new();
        let mut endpoints = Vec::new();
        for endpoint in all.endpoints {
            let Some((workload, address)) = address(&endpoint, port.port) else { continue };
            let (how, security) = self.way(service, workload, address.ip(), protocol);
            endpoints.extend(security.map(|security| Endpoint { address, security }));
            let pod = match workload.name.is_empty() {
                true => String::new(),
                false => format!("{}/{}", workload.namespace, workload.name),
            };
            ways.push(Way { address, pod, how });
        }
        let name = format!("{}/{}:{}{}", service.namespace, service.name, port.port, protocol.suffix());
        let mut findings = Vec::new();
        let refused = ways.iter().filter_map(|way| match &way.how {
            How::Refused(why) => Some(format!("{}: {why}", way.address)),
            _ => None,
        });
        let refused: Vec<String> = refused.take(SHOWN).collect();
        let service_name = format!("{}/{}", service.namespace, service.name);
        if !refused.is_empty() {
            let why =
                format!("endpoints of Service {service_name} are never dialled: {}", refused.join("; "));
            findings.push(Finding::new(Word::BackendRefused, why));
        } else if endpoints.is_empty() {
            let why = format!(
                "Service {service_name} has no ready endpoint for port {}; its paths answer 503: see signet explain {service_name}",
                port.port
            );
            findings.push(Finding::new(Word::NoBackend, why));
        }
        let backend = Backend {
            name: name.into(),
            protocol: match protocol {
                AppProtocol::Http1 | AppProtocol::Https => Protocol::Http1,
                AppProtocol::Http2 | AppProtocol::Grpcs => Protocol::Http2,
            },
            choice: if service.client_ip_affinity { Choice::ClientIp } else { Choice::Quicker },
            endpoints,
        };
        Resolved {
            target: Target::Backend(Arc::clone(&backend.name)),
            backend: Some(Arc::new(backend)),
            ways,
            findings,
        }
    }

    /// How an endpoint is spoken to; no security: it is not.
    fn way(
        &self,
        service: &Service,
        workload: &v1::Workload,
        address: IpAddr,
        protocol: AppProtocol,
    ) -> (How, Option<Security>) {
        if let Some(why) = self.refusal(service, address) {
            return (How::Refused(why), None);
        }
        // The app ends this TLS itself; within the mesh's it would be asked for plaintext.
        if matches!(protocol, AppProtocol::Https | AppProtocol::Grpcs) {
            let tls = BackendTls { sni: None, verify: Verify::Nothing };
            return (How::Tls, Some(Security::Tls(Arc::new(tls))));
        }
        match workload.transport.as_ref().and_then(|transport| transport.kind.as_ref()) {
            Some(Kind::SpiffeId(id)) => match identity::parse(id) {
                Ok(parsed) => (How::Mesh(id.clone()), Some(Security::Mesh([parsed].into()))),
                Err(why) => (How::Refused(why.to_string()), None),
            },
            Some(Kind::PlainReason(why)) => (How::Plain(why.clone()), Some(Security::Plain)),
            None => (How::Refused("it is not known how it is reached".into()), None),
        }
    }

    /// Why an address is never dialled for this Service.
    fn refusal(&self, service: &Service, address: IpAddr) -> Option<String> {
        if let Some(pod) = self.index.pod_at(address) {
            if pod.namespace == service.namespace {
                return None;
            }
            // A node's address is that of every Pod on its network; the Service's own may be one of them.
            let own = |pod: &&Arc<crate::index::Pod>| {
                pod.namespace == service.namespace && pod.host_network && !pod.ended && service.selects(pod)
            };
            let mut all = self.index.pods.values().filter(own);
            if pod.host_network && all.any(|pod| pod.addresses.contains(&address)) {
                return None;
            }
            return Some(format!("it is of Pod {}/{}, another namespace's", pod.namespace, pod.name));
        }
        if let Some(node) = self.nodes.get(&address) {
            return Some(format!("it is an address of node {node}"));
        }
        if let Some(what) = special(address) {
            return Some(format!("it is {what}"));
        }
        if let Some(other) = self.index.service_at(address) {
            return Some(format!("it is the address of Service {}/{}", other.namespace, other.name));
        }
        if self.index.mesh.ranges.iter().any(|range| range.contains(&address)) {
            return Some("it is in the cluster's ranges and no Pod has it".into());
        }
        None
    }
}

impl Resolved {
    fn respond(status: StatusCode) -> Self {
        let target = Target::Respond(Respond::status(status));
        Self { target, backend: None, ways: Vec::new(), findings: Vec::new() }
    }

    fn instead(status: StatusCode, word: Word, why: String) -> Self {
        Self { findings: vec![Finding::new(word, why)], ..Self::respond(status) }
    }
}

fn address(endpoint: &v1::Endpoint, port: u16) -> Option<(&v1::Workload, SocketAddr)> {
    let workload = endpoint.workload.as_ref()?;
    let target = endpoint.target_ports.get(&u32::from(port))?;
    let address = workload.address.parse::<IpAddr>().ok()?;
    Some((workload, SocketAddr::new(address, u16::try_from(*target).ok()?)))
}

/// As docs/manifests.md has it for the mesh: `appProtocol`, else the first word of the port's name.
fn spoken(port: &Port) -> AppProtocol {
    match port.protocol {
        v1::Protocol::Http2 | v1::Protocol::Grpc => AppProtocol::Http2,
        v1::Protocol::Tls => AppProtocol::Https,
        v1::Protocol::Unknown | v1::Protocol::Tcp | v1::Protocol::Http1 => AppProtocol::Http1,
    }
}

/// Addresses that mean something else to each machine, or that only a cloud's machines should reach.
fn special(address: IpAddr) -> Option<&'static str> {
    let v4 = match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(v6) => embedded(v6),
    };
    if let Some(v4) = v4 {
        if v4.is_loopback() {
            return Some("a loopback address");
        }
        if v4.is_link_local() {
            return Some("a link-local address");
        }
        if v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast() || v4.octets()[0] == 0 {
            return Some("no address of a host");
        }
    }
    match address {
        IpAddr::V6(v6) if v6.is_loopback() => Some("a loopback address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() => Some("no address of a host"),
        IpAddr::V6(v6) if METADATA.contains(&v6) => Some("a cloud's metadata"),
        _ => None,
    }
}

/// The IPv4 address that a translator or a tunnel makes of it: mapped, compatible (RFC 4291 2.5.5), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let s = address.segments();
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        std::net::Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] if (high, low) != (0, 0) && (high, low) != (0, 1) => {
            Some(of(high, low))
        }
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// fd00:ec2::254 of AWS, fd20:ce::254 of Google.
const METADATA: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
/// Addresses that a finding names.
const SHOWN: usize = 5;

#[cfg(test)]
#[path = "backends/tests.rs"]
mod tests;
