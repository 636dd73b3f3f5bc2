//! Where Kubernetes objects come from: a [`cluster`]'s API server, or a [`directory`] of manifests. Both yield the same
//! [`Object`]s, so that nothing after this module knows the difference.

pub(crate) mod cluster;
pub mod directory;
pub mod parse;
pub mod policy;
pub mod tls_secret;

use std::{fmt, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use policy::PolicyObject;
use tls_secret::TlsSecret;

/// One object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub origin: Origin,
    pub kind: Kind,
}

/// What we read. Everything else that a directory holds is [`Kind::Other`].
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Namespace(Box<Namespace>),
    ServiceAccount(Box<ServiceAccount>),
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Pod(Box<Pod>),
    Policy(Box<PolicyObject>),
    Ingress(Box<Ingress>),
    IngressClass(Box<IngressClass>),
    Node(Box<Node>),
    /// Of a directory, and only where it is asked for them; in a cluster they are asked for by name (`edge::secrets`).
    Secret(Box<TlsSecret>),
    /// Not ours: Deployments, ConfigMaps, ... Counted, not used.
    Other {
        api_version: String,
        kind: String,
        name: String,
    },
}

/// Where an object was written down.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Origin {
    /// Relative to the source's directory; of a cluster's objects, "Pod shop/web-0".
    pub file: Arc<str>,
    /// Of the document's first line, from 1; 0 in a cluster.
    pub line: u64,
    /// Lines that mention one of our labels or annotations, for errors about their values.
    pub settings: Arc<[(String, u64)]>,
}

impl Origin {
    /// An error about the value of one of our labels or annotations; `field` names it in full.
    pub fn error(&self, field: &str, message: impl Into<String>) -> ManifestError {
        let line = self
            .settings
            .iter()
            .find(|(key, _)| field.contains(key.as_str()))
            .map_or(self.line, |(_, line)| *line);
        ManifestError { file: self.file.to_string(), line, field: field.to_owned(), message: message.into() }
    }
}

/// What makes an object unique: (kind, namespace, name); the namespace is empty for cluster-scoped kinds.
pub type Key = (&'static str, String, String);

impl Object {
    /// `None` for kinds that are not ours.
    pub fn key(&self) -> Option<Key> {
        let (kind, meta) = match &self.kind {
            Kind::Namespace(o) => return Some(("Namespace", String::new(), name(&o.metadata))),
            Kind::ServiceAccount(o) => ("ServiceAccount", &o.metadata),
            Kind::Service(o) => ("Service", &o.metadata),
            Kind::EndpointSlice(o) => ("EndpointSlice", &o.metadata),
            Kind::Pod(o) => ("Pod", &o.metadata),
            Kind::Policy(o) => return Some(("AuthorizationPolicy", o.namespace.clone(), o.name.clone())),
            Kind::Ingress(o) => ("Ingress", &o.metadata),
            Kind::IngressClass(o) => return Some(("IngressClass", String::new(), name(&o.metadata))),
            Kind::Node(o) => return Some(("Node", String::new(), name(&o.metadata))),
            Kind::Secret(o) => return Some(("Secret", o.namespace.clone(), o.name.clone())),
            Kind::Other { .. } => return None,
        };
        Some((kind, namespace(meta), name(meta)))
    }
}

impl Kind {
    /// What the mesh is made of; the rest is edge's, or nobody's.
    pub(crate) fn is_of_the_mesh(&self) -> bool {
        match self {
            Self::Namespace(_)
            | Self::ServiceAccount(_)
            | Self::Service(_)
            | Self::EndpointSlice(_)
            | Self::Pod(_)
            | Self::Policy(_) => true,
            Self::Ingress(_)
            | Self::IngressClass(_)
            | Self::Node(_)
            | Self::Secret(_)
            | Self::Other { .. } => false,
        }
    }
}

/// Annotations of an Ingress that mean something to a controller like ours: to us, or to the one that it was written for.
pub(crate) fn is_ingress_setting(key: &str) -> bool {
    INGRESS_SETTINGS.iter().any(|prefix| key.starts_with(prefix))
}

/// As kubectl does: no namespace means "default".
pub(crate) fn namespace(meta: &ObjectMeta) -> String {
    meta.namespace.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into())
}

pub(crate) fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

/// Something in a manifest that we cannot use: where, and what to correct. Shown by `signet status`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
pub struct ManifestError {
    pub file: String,
    /// From 1; 0: the file as a whole.
    pub line: u64,
    /// "spec.ports[0].port"; empty: the document as a whole.
    pub field: String,
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Of an IngressClass.
pub(crate) const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// Prefixes.
const INGRESS_SETTINGS: [&str; 6] = [
    "kubernetes.io/ingress.class",
    "kubernetes.io/tls-acme",
    "nginx.ingress.kubernetes.io/",
    "cert-manager.io/",
    "certmanager.k8s.io/",
    "signet.dev/",
];

#[cfg(test)]
mod tests;
