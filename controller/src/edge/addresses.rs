//! Where our hosts are reached from outside: what stands in the status of Ingresses, and DNS should point to. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use signet_core::identity::GATEWAY_NAMESPACE;

use super::objects::{Address, GATEWAY, Objects};
use crate::index::{Index, Pod};

/// How the gateway is reached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Expose {
    /// By its Service of type LoadBalancer
    #[default]
    Loadbalancer,
    /// By ports of the nodes that it runs on
    Hostport,
}

/// What to publish now; empty: nothing is known yet, and nothing is written.
pub(crate) fn addresses(index: &Index, objects: &Objects, expose: Expose, fixed: &[Address]) -> Vec<Address> {
    if !fixed.is_empty() {
        return fixed.to_vec();
    }
    match expose {
        Expose::Loadbalancer => objects.gateway.clone(),
        Expose::Hostport => {
            let nodes: BTreeSet<&str> =
                index.pods.values().filter(|pod| serves(pod)).filter_map(|pod| pod.node.as_deref()).collect();
            let all = nodes.into_iter().filter_map(|node| objects.node_addresses.get(node)).flatten();
            let all: BTreeSet<Address> = all.map(|ip| Address::Ip(*ip)).collect();
            all.into_iter().collect()
        }
    }
}

/// Gateways that requests may be sent to: the pod, and where it listens.
pub(crate) fn gateways(index: &Index) -> Vec<(String, IpAddr)> {
    let pods = index.pods.values().filter(|pod| serves(pod));
    pods.filter_map(|pod| Some((pod.name.clone(), *pod.addresses.first()?))).collect()
}

/// A gateway that requests may be sent to.
fn serves(pod: &Pod) -> bool {
    pod.namespace == GATEWAY_NAMESPACE
        && pod.labels.get("app.kubernetes.io/name").is_some_and(|name| name == GATEWAY)
        && pod.ready
        && !pod.ended
        && !pod.terminating
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::{index_of, manifest, objects, pod};

    #[test]
    fn what_is_published_is_what_clients_outside_reach() {
        let service = manifest("v1", "Service", "gateway")
            .in_namespace(GATEWAY_NAMESPACE)
            .with("/spec/type", "LoadBalancer")
            .with("/status/loadBalancer/ingress", json!([{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]));
        let gateway = |name: &str, node: &str, ready: &str| {
            pod(name)
                .in_namespace(GATEWAY_NAMESPACE)
                .label("app.kubernetes.io/name", "gateway")
                .with("/spec/nodeName", node)
                .with("/status/conditions", json!([{"type": "Ready", "status": ready}]))
        };
        let node = |name: &str, addresses: serde_json::Value| {
            manifest("v1", "Node", name).with("/status/addresses", addresses)
        };
        let all = objects([
            service,
            gateway("a", "inside", "True"),
            gateway("b", "both", "True"),
            gateway("c", "unready", "False"),
            node(
                "inside",
                json!([{"type": "InternalIP", "address": "10.9.0.1"}, {"type": "Hostname", "address": "inside"}]),
            ),
            node(
                "both",
                json!([{"type": "InternalIP", "address": "10.9.0.2"}, {"type": "ExternalIP", "address": "203.0.113.9"}]),
            ),
            node("unready", json!([{"type": "InternalIP", "address": "10.9.0.3"}])),
        ]);
        let (index, objects) = (index_of(&all), Objects::build(&all));
        let published = |expose, fixed: &[Address]| -> Vec<String> {
            addresses(&index, &objects, expose, fixed).iter().map(ToString::to_string).collect()
        };
        assert_eq!(published(Expose::Loadbalancer, &[]), ["203.0.113.7", "lb.example"]);
        assert_eq!(published(Expose::Hostport, &[]), ["10.9.0.1", "203.0.113.9"]);
        let fixed = [Address::Hostname("edge.example".into())];
        assert_eq!(published(Expose::Hostport, &fixed), ["edge.example"]);
    }
}
