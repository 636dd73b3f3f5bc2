//! Objects -> the few facts of Ingresses, IngressClasses, Namespaces, Nodes and our gateway's Service that edge needs beside the
//! shared [`Index`](crate::index::Index). Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{core::v1 as core_v1, networking::v1 as networking_v1};
use signet_core::{identity::GATEWAY_NAMESPACE, pod::HOSTS};
use signet_http::model::HostPattern;

use super::{
    annotations::{self, Settings},
    class::{self, Classes},
    finding::{Finding, Word},
    issuer::EdgeIssuer,
};
use crate::source::{self, Kind, ManifestError, Object, Origin, tls_secret::TlsSecret};

/// (namespace, name).
pub(crate) type Name = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// Those of our class.
    pub(crate) ingresses: BTreeMap<Name, Ingress>,
    pub(crate) pins: Vec<Pin>,
    /// Every address of every node, with its name.
    pub(crate) nodes: BTreeMap<IpAddr, String>,
    /// What to publish for a node, first its external addresses.
    pub(crate) node_addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Where the gateway's Service is reached, as its status says.
    pub(crate) gateway: Vec<Address>,
    /// Of a directory.
    pub(crate) secrets: BTreeMap<Name, TlsSecret>,
    pub(crate) errors: Vec<ManifestError>,
}

/// A host that an administrator gave to a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pin {
    pub(crate) namespace: String,
    pub(crate) pattern: HostPattern,
}

/// Of an Ingress's status.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Address {
    Ip(IpAddr),
    Hostname(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ingress {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty in manifests.
    pub(crate) uid: String,
    /// Unix seconds; 0: unknown.
    pub(crate) created: i64,
    pub(crate) rules: Vec<HostRule>,
    pub(crate) default_backend: Option<BackendRef>,
    pub(crate) tls: Vec<Tls>,
    pub(crate) settings: Settings,
    /// What its status says now.
    pub(crate) published: Vec<Address>,
    /// Of its fields; those of its annotations are in `settings`.
    pub(crate) findings: Vec<Finding>,
}

/// One entry of `spec.rules`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostRule {
    pub(crate) host: HostPattern,
    /// Empty: all of it is the default backend's.
    pub(crate) paths: Vec<PathRule>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PathRule {
    pub(crate) kind: PathKind,
    pub(crate) path: String,
    pub(crate) backend: BackendRef,
    /// "spec.rules[0].http.paths[1]"
    pub(crate) field: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PathKind {
    Exact,
    Prefix,
    ImplementationSpecific,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum BackendRef {
    Service {
        name: String,
        port: PortRef,
    },
    /// "StorageBucket icons": of another controller.
    Resource(String),
    /// Neither; the API server takes no such thing.
    Nothing,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum PortRef {
    Number(u16),
    Name(String),
}

/// One entry of `spec.tls`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tls {
    /// Empty: every host of the rules.
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) secret: Option<String>,
}

impl Objects {
    pub(crate) fn build(objects: &[Arc<Object>]) -> Self {
        let mut built = Self::default();
        let mut classes = Classes::default();
        for object in objects {
            if let Kind::IngressClass(class) = &object.kind {
                classes.add(class);
            }
        }
        for object in objects {
            built.take(object, &classes);
        }
        // In whatever order the objects came.
        built.pins.sort_by_key(|pin| (pin.namespace.clone(), pin.pattern.to_string()));
        built.gateway.sort();
        built.errors.sort();
        built
    }

    fn take(&mut self, object: &Object, classes: &Classes) {
        match &object.kind {
            Kind::Ingress(ingress) if is_ours(ingress, classes) => {
                let ingress = Ingress::parse(ingress, &object.origin, &mut self.errors);
                self.ingresses.insert(ingress.key(), ingress);
            }
            Kind::Namespace(namespace) => self.pins(namespace, &object.origin),
            Kind::Node(node) => self.node(node),
            Kind::Service(service) => self.gateway(service),
            Kind::Secret(secret) => {
                let key = (secret.namespace.clone(), secret.name.clone());
                self.secrets.insert(key, TlsSecret::clone(secret));
            }
            _ => {}
        }
    }

    fn pins(&mut self, object: &core_v1::Namespace, origin: &Origin) {
        let Some(value) = object.metadata.annotations.as_ref().and_then(|all| all.get(HOSTS)) else { return };
        for text in value.split([',', ' ', '\n']).filter(|text| !text.is_empty()) {
            match HostPattern::gateway(Some(text)) {
                Ok(pattern) => self.pins.push(Pin { namespace: source::name(&object.metadata), pattern }),
                Err(why) => {
                    self.errors.push(origin.error(&format!("metadata.annotations[{HOSTS}]"), why.to_string()))
                }
            }
        }
    }

    fn node(&mut self, object: &core_v1::Node) {
        let name = source::name(&object.metadata);
        let all = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let mut ranked = Vec::new();
        for address in all {
            let Ok(ip) = address.address.parse::<IpAddr>() else { continue }; // a host name
            let ip = ip.to_canonical();
            self.nodes.insert(ip, name.clone());
            ranked.push((address.type_ != "ExternalIP", ip));
        }
        // Clients outside reach the external ones, if there are any.
        let is_external = ranked.iter().any(|(inner, _)| !inner);
        let kept: BTreeSet<IpAddr> =
            ranked.into_iter().filter(|(inner, _)| !(is_external && *inner)).map(|(_, ip)| ip).collect();
        self.node_addresses.insert(name, kept.into_iter().collect());
    }

    fn gateway(&mut self, object: &core_v1::Service) {
        let meta = &object.metadata;
        if (source::namespace(meta).as_str(), source::name(meta).as_str()) != (GATEWAY_NAMESPACE, GATEWAY) {
            return;
        }
        let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let all = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        self.gateway = all.filter_map(|at| Address::of(at.ip.as_deref(), at.hostname.as_deref())).collect();
    }
}

/// Class and annotation, as they stand in the object.
fn is_ours(ingress: &networking_v1::Ingress, classes: &Classes) -> bool {
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotation = ingress.metadata.annotations.as_ref().and_then(|all| all.get(class::ANNOTATION));
    classes.is_ours(named, annotation.map(String::as_str))
}

impl Ingress {
    fn parse(object: &networking_v1::Ingress, origin: &Origin, errors: &mut Vec<ManifestError>) -> Self {
        let (meta, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
        let mut fields = Fields { origin, errors, findings: Vec::new() };
        let rules = spec.rules.iter().flatten().enumerate().filter_map(|(n, rule)| fields.rule(n, rule));
        let mut rules: Vec<HostRule> = rules.collect();
        let tls = spec.tls.iter().flatten().enumerate().map(|(n, tls)| fields.tls(n, tls));
        let mut tls: Vec<Tls> = tls.collect();
        let default_backend = spec.default_backend.as_ref();
        let mut default_backend =
            default_backend.map(|backend| fields.backend("spec.defaultBackend", backend));
        let mut settings = meta.annotations.as_ref().map(annotations::settings).unwrap_or_default();
        if rules.len().max(tls.iter().map(|tls| tls.hosts.len()).sum()) > MAX_HOSTS {
            // Not some of them: a rule whose host lost its place in tls would be served in plaintext.
            settings.refused = Some(format!(
                "it has more than {MAX_HOSTS} rules, or hosts in spec.tls; spread them over several Ingresses. Nothing of it is served"
            ));
            (rules, tls, default_backend) = (Vec::new(), Vec::new(), None);
        }
        let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let published = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        let mut published: Vec<Address> =
            published.filter_map(|at| Address::of(at.ip.as_deref(), at.hostname.as_deref())).collect();
        published.sort();
        Self {
            namespace: source::namespace(meta),
            name: source::name(meta),
            uid: meta.uid.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            settings,
            rules,
            default_backend,
            tls,
            published,
            findings: fields.findings,
        }
    }

    pub(crate) fn key(&self) -> Name {
        (self.namespace.clone(), self.name.clone())
    }

    /// Which of two is older: the first created, else the first by name. The law of hosts and of certificates.
    pub(crate) fn age(&self) -> (i64, &str, &str) {
        (self.created, &self.namespace, &self.name)
    }

    /// Hosts that it wants requests or a certificate for: of its rules, of its tls sections, and every host for a default backend
    /// without rules.
    pub(crate) fn hosts(&self) -> Vec<HostPattern> {
        let fallback = self.rules.is_empty() && self.default_backend.is_some();
        let rules = self.rules.iter().map(|rule| &rule.host);
        let all = rules.chain(self.tls.iter().flat_map(|tls| &tls.hosts));
        each_once(all.chain(fallback.then_some(&HostPattern::Any)))
    }

    /// Hosts that are to have HTTPS: of its tls sections, or all of its rules' where a section or an annotation names none. Every
    /// host at once cannot have a certificate.
    pub(crate) fn https_hosts(&self) -> Vec<HostPattern> {
        each_once(self.asking_for_https())
    }

    /// Whether a host is one of [`Ingress::https_hosts`].
    pub(crate) fn wants_https(&self, host: &HostPattern) -> bool {
        self.asking_for_https().any(|asking| asking == host)
    }

    fn asking_for_https(&self) -> impl Iterator<Item = &HostPattern> {
        let of_rules = self.rules.iter().map(|rule| &rule.host);
        let named = self.tls.iter().flat_map(|tls| &tls.hosts);
        let all_rules = self.settings.certificate.is_some()
            || self.settings.issuer == Some(EdgeIssuer::Local)
            || self.tls.iter().any(|tls| tls.hosts.is_empty());
        named.chain(of_rules.filter(move |_| all_rules)).filter(|host| **host != HostPattern::Any)
    }
}

/// In the order of their first.
fn each_once<'a>(hosts: impl Iterator<Item = &'a HostPattern>) -> Vec<HostPattern> {
    let mut seen = HashSet::new();
    hosts.filter(|host| seen.insert(*host)).cloned().collect()
}

/// The fields of one Ingress. What the API server would not have taken is an error of the manifest, too.
struct Fields<'a> {
    origin: &'a Origin,
    errors: &'a mut Vec<ManifestError>,
    findings: Vec<Finding>,
}

impl Fields<'_> {
    fn bad(&mut self, field: &str, why: &str) {
        self.errors.push(self.origin.error(field, why));
        self.findings.push(Finding::new(Word::BadValue, format!("{field}: {why}")));
    }

    fn host(&mut self, field: &str, host: Option<&str>) -> Option<HostPattern> {
        HostPattern::ingress(host).map_err(|why| self.bad(field, &why.to_string())).ok()
    }

    /// `None`: of a host that is none, which is not every host.
    fn rule(&mut self, n: usize, rule: &networking_v1::IngressRule) -> Option<HostRule> {
        let host = self.host(&format!("spec.rules[{n}].host"), rule.host.as_deref())?;
        let paths = rule.http.iter().flat_map(|http| &http.paths).enumerate();
        let paths = paths.filter_map(|(m, path)| {
            let field = format!("spec.rules[{n}].http.paths[{m}]");
            let kind = match path.path_type.as_str() {
                "Exact" => PathKind::Exact,
                "Prefix" => PathKind::Prefix,
                "ImplementationSpecific" => PathKind::ImplementationSpecific,
                _ => {
                    self.bad(
                        &format!("{field}.pathType"),
                        "is missing or unknown; write Exact, Prefix or ImplementationSpecific",
                    );
                    return None;
                }
            };
            let backend = self.backend(&format!("{field}.backend"), &path.backend);
            let path = path.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into());
            Some(PathRule { kind, path, backend, field })
        });
        Some(HostRule { paths: paths.collect(), host })
    }

    fn tls(&mut self, n: usize, tls: &networking_v1::IngressTLS) -> Tls {
        let hosts = tls.hosts.iter().flatten().enumerate();
        let hosts = hosts
            .filter_map(|(m, host)| self.host(&format!("spec.tls[{n}].hosts[{m}]"), Some(host)))
            .filter(|host| *host != HostPattern::Any);
        Tls { hosts: hosts.collect(), secret: tls.secret_name.clone().filter(|name| !name.is_empty()) }
    }

    fn backend(&mut self, field: &str, backend: &networking_v1::IngressBackend) -> BackendRef {
        if let Some(resource) = &backend.resource {
            return BackendRef::Resource(format!("{} {}", resource.kind, resource.name));
        }
        let Some(service) = &backend.service else {
            self.bad(field, "names neither a service nor a resource");
            return BackendRef::Nothing;
        };
        let port = service.port.clone().unwrap_or_default();
        let number = port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
        let port = match (number, port.name.filter(|name| !name.is_empty())) {
            (Some(number), _) => PortRef::Number(number),
            (None, Some(name)) => PortRef::Name(name),
            (None, None) => {
                self.bad(&format!("{field}.service.port"), "has neither a name nor a number from 1 to 65535");
                return BackendRef::Nothing;
            }
        };
        BackendRef::Service { name: service.name.clone(), port }
    }
}

impl Address {
    fn of(ip: Option<&str>, hostname: Option<&str>) -> Option<Self> {
        match (ip.and_then(|ip| ip.parse::<IpAddr>().ok()), hostname) {
            (Some(ip), _) => Some(Self::Ip(ip)),
            (None, Some(name)) if !name.is_empty() => Some(Self::Hostname(name.to_owned())),
            _ => None,
        }
    }
}

impl std::fmt::Display for PortRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Of one Ingress: what one tenant writes must not keep all others waiting.
const MAX_HOSTS: usize = 1000;
/// The name of the gateway's Service and of its pods' label `app.kubernetes.io/name`, in [`GATEWAY_NAMESPACE`].
pub(crate) const GATEWAY: &str = "gateway";
