//! What we keep of an object of the API server: the fields that [`crate::index`] reads, and nothing else. A Pod of a usual
//! Deployment shrinks from 12 kB of JSON to 1 kB.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{
            Container, Namespace, Node, NodeStatus, Pod, PodSecurityContext, PodSpec, PodStatus,
            SecurityContext, Service, ServiceAccount, ServiceSpec, ServiceStatus,
        },
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass, IngressClassSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use signet_core::pod::{HOSTS, INJECT, MTLS, PERMISSIVE_PORTS, POD_SECURITY, UPSTREAMS};

use super::store::Seen;
use crate::source::{DEFAULT_CLASS, Kind, Object, Origin, is_ingress_setting};

pub(super) fn namespace(object: Namespace) -> Seen {
    seen(
        "Namespace",
        object.metadata,
        |key| [INJECT, MTLS, POD_SECURITY].contains(&key),
        |metadata| Kind::Namespace(Box::new(Namespace { metadata, ..Namespace::default() })),
    )
}

/// Only that it exists.
pub(super) fn service_account(object: ServiceAccount) -> Seen {
    seen(
        "ServiceAccount",
        object.metadata,
        |_| false,
        |metadata| Kind::ServiceAccount(Box::new(ServiceAccount { metadata, ..ServiceAccount::default() })),
    )
}

pub(super) fn service(object: Service) -> Seen {
    let balanced = object.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    let status = object
        .status
        .filter(|_| balanced)
        .map(|status| ServiceStatus { load_balancer: status.load_balancer, ..ServiceStatus::default() });
    let spec = object.spec.map(|spec| ServiceSpec {
        cluster_ip: spec.cluster_ip,
        cluster_ips: spec.cluster_ips,
        selector: spec.selector,
        ports: spec.ports,
        publish_not_ready_addresses: spec.publish_not_ready_addresses,
        session_affinity: spec.session_affinity,
        internal_traffic_policy: spec.internal_traffic_policy,
        type_: spec.type_,
        ..ServiceSpec::default()
    });
    seen(
        "Service",
        object.metadata,
        |_| false,
        |metadata| Kind::Service(Box::new(Service { metadata, spec, status })),
    )
}

pub(super) fn endpoint_slice(mut object: EndpointSlice) -> Seen {
    for endpoint in &mut object.endpoints {
        endpoint.addresses.truncate(1);
        (endpoint.deprecated_topology, endpoint.hints, endpoint.hostname, endpoint.zone) =
            (None, None, None, None);
        if let Some(target) = &mut endpoint.target_ref {
            (target.uid, target.namespace, target.resource_version) = (None, None, None);
            (target.api_version, target.field_path) = (None, None);
        }
    }
    let metadata = std::mem::take(&mut object.metadata);
    seen(
        "EndpointSlice",
        metadata,
        |key| key == "kubernetes.io/service-name",
        |metadata| {
            object.metadata = metadata;
            Kind::EndpointSlice(Box::new(object))
        },
    )
}

pub(super) fn pod(object: Pod) -> Seen {
    let spec = object.spec.map(|spec| PodSpec {
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        node_name: spec.node_name,
        security_context: spec.security_context.and_then(|context| {
            let run_as_user = Some(context.run_as_user?);
            Some(PodSecurityContext { run_as_user, ..PodSecurityContext::default() })
        }),
        init_containers: spec.init_containers.map(|all| all.into_iter().map(container).collect()),
        containers: spec.containers.into_iter().map(container).collect(),
        ..PodSpec::default()
    });
    let status = object.status.map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        conditions: status.conditions.map(|mut all| {
            all.retain(|condition| condition.type_ == "Ready");
            for ready in &mut all {
                (ready.message, ready.reason) = (None, None);
                (ready.last_probe_time, ready.last_transition_time) = (None, None);
            }
            all
        }),
        ..PodStatus::default()
    });
    seen("Pod", object.metadata, |_| true, |metadata| Kind::Pod(Box::new(Pod { metadata, spec, status })))
}

/// Whole but for what others wrote onto it.
pub(super) fn ingress(object: Ingress) -> Seen {
    let (spec, status) = (object.spec, object.status);
    seen(
        "Ingress",
        object.metadata,
        |_| false,
        |metadata| Kind::Ingress(Box::new(Ingress { metadata, spec, status })),
    )
}

pub(super) fn ingress_class(object: IngressClass) -> Seen {
    let spec = object
        .spec
        .map(|spec| IngressClassSpec { controller: spec.controller, ..IngressClassSpec::default() });
    seen(
        "IngressClass",
        object.metadata,
        |_| false,
        |metadata| Kind::IngressClass(Box::new(IngressClass { metadata, spec })),
    )
}

/// Its addresses: kubelets write the rest every few seconds.
pub(super) fn node(object: Node) -> Seen {
    let status =
        object.status.map(|status| NodeStatus { addresses: status.addresses, ..NodeStatus::default() });
    seen(
        "Node",
        object.metadata,
        |_| false,
        |metadata| Kind::Node(Box::new(Node { metadata, status, ..Node::default() })),
    )
}

fn container(container: Container) -> Container {
    Container {
        name: container.name,
        ports: container.ports,
        restart_policy: container.restart_policy,
        security_context: container.security_context.and_then(|context| {
            let run_as_user = Some(context.run_as_user?);
            Some(SecurityContext { run_as_user, ..SecurityContext::default() })
        }),
        ..Container::default()
    }
}

/// `labels` says which are kept.
fn seen(
    kind: &str,
    metadata: ObjectMeta,
    labels: impl Fn(&str) -> bool,
    make: impl FnOnce(ObjectMeta) -> Kind,
) -> Seen {
    let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
    let origin = match namespace.as_str() {
        "" => format!("{kind} {name}"),
        _ => format!("{kind} {namespace}/{name}"),
    };
    let (uid, version) = (metadata.uid.unwrap_or_default(), metadata.resource_version);
    let is_aged = matches!(kind, "Pod" | "Ingress");
    let kept = ObjectMeta {
        name: Some(name.clone()),
        namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
        uid: Some(uid.clone()).filter(|_| is_aged),
        creation_timestamp: metadata.creation_timestamp.filter(|_| is_aged),
        deletion_timestamp: metadata.deletion_timestamp.filter(|_| kind == "Pod"),
        owner_references: metadata.owner_references.filter(|_| kind == "Pod").map(|mut owners| {
            owners.retain(|owner| owner.controller == Some(true));
            owners
        }),
        labels: kept_of(metadata.labels, labels),
        annotations: kept_of(metadata.annotations, |key| match kind {
            "Ingress" => is_ingress_setting(key),
            "IngressClass" => key == DEFAULT_CLASS,
            _ => [PERMISSIVE_PORTS, UPSTREAMS, HOSTS].contains(&key),
        }),
        ..ObjectMeta::default()
    };
    let origin = Origin { file: origin.into(), ..Origin::default() };
    Seen {
        name: (namespace, name),
        uid,
        version: version.and_then(|version| version.parse().ok()),
        object: Arc::new(Object { origin, kind: make(kept) }),
    }
}

/// `None` when none is left, so that what nobody reads makes no difference.
fn kept_of(
    all: Option<BTreeMap<String, String>>,
    is_kept: impl Fn(&str) -> bool,
) -> Option<BTreeMap<String, String>> {
    let mut all = all?;
    all.retain(|key, _| is_kept(key));
    Some(all).filter(|all| !all.is_empty())
}
