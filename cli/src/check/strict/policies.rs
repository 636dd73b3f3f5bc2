//! What NetworkPolicies let through, as networking.k8s.io/v1 says it: a pod that no policy selects may do everything, one that some
//! select may do what one of them allows. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::{
    ResourceExt as _,
    core::{Selector, SelectorExt as _},
};

use super::container_ports;

/// A pod as a policy sees it.
#[derive(Clone, Copy)]
pub(super) struct Party<'a> {
    pub(super) pod: &'a Pod,
    /// Labels of its namespace.
    pub(super) namespace: &'a BTreeMap<String, String>,
}

/// Names of the policies that keep `client` from `port` (TCP) of `server`; empty: it may.
pub(super) fn egress(
    policies: &[NetworkPolicy],
    client: Party<'_>,
    server: Party<'_>,
    port: u16,
) -> Vec<String> {
    let rules = |policy: &NetworkPolicy| -> Option<Vec<Rule>> {
        let spec = policy.spec.as_ref()?;
        let named = spec.policy_types.as_ref().map(|types| types.iter().any(|one| one == "Egress"));
        let rules = spec
            .egress
            .iter()
            .flatten()
            .map(|rule| Rule { peers: rule.to.clone(), ports: rule.ports.clone() });
        named.unwrap_or(spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())).then(|| rules.collect())
    };
    hiding(policies, client.pod, rules, |rule| rule.allows(client.pod, server, server.pod, port))
}

/// Names of the policies that keep `port` (TCP) of `server` from `client`; empty: it may.
pub(super) fn ingress(
    policies: &[NetworkPolicy],
    client: Party<'_>,
    server: Party<'_>,
    port: u16,
) -> Vec<String> {
    let rules = |policy: &NetworkPolicy| -> Option<Vec<Rule>> {
        let spec = policy.spec.as_ref()?;
        let named = spec.policy_types.as_ref().map(|types| types.iter().any(|one| one == "Ingress"));
        let rules = spec
            .ingress
            .iter()
            .flatten()
            .map(|rule| Rule { peers: rule.from.clone(), ports: rule.ports.clone() });
        named.unwrap_or(true).then(|| rules.collect())
    };
    hiding(policies, server.pod, rules, |rule| rule.allows(server.pod, client, server.pod, port))
}

/// What a policy's ingress and egress rules have in common.
struct Rule {
    peers: Option<Vec<NetworkPolicyPeer>>,
    ports: Option<Vec<NetworkPolicyPort>>,
}

/// Policies that select `subject` and have rules of the direction, unless one of them allows it.
fn hiding(
    policies: &[NetworkPolicy],
    subject: &Pod,
    rules: impl Fn(&NetworkPolicy) -> Option<Vec<Rule>>,
    allows: impl Fn(&Rule) -> bool,
) -> Vec<String> {
    let selects = |policy: &&NetworkPolicy| {
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        policy.namespace() == subject.namespace()
            && selector.is_none_or(|selector| matches(selector, subject.labels()))
    };
    let mut hiding = Vec::new();
    for policy in policies.iter().filter(selects) {
        let Some(rules) = rules(policy) else { continue };
        if rules.iter().any(&allows) {
            return Vec::new();
        }
        hiding.push(policy.name_any());
    }
    hiding
}

impl Rule {
    /// `subject`: whom the policy selects; `peer`: the other; ports are `server`'s.
    fn allows(&self, subject: &Pod, peer: Party<'_>, server: &Pod, port: u16) -> bool {
        let peers = self.peers.as_deref().unwrap_or_default();
        let ports = self.ports.as_deref().unwrap_or_default();
        (peers.is_empty() || peers.iter().any(|one| is_peer(one, subject, peer)))
            && (ports.is_empty() || ports.iter().any(|one| is_port(one, server, port)))
    }
}

fn is_peer(rule: &NetworkPolicyPeer, subject: &Pod, peer: Party<'_>) -> bool {
    if let Some(block) = &rule.ip_block {
        let ips = peer.pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        return ips.filter_map(|ip| ip.ip.parse().ok()).any(|ip| holds(block, ip));
    }
    let namespace = match &rule.namespace_selector {
        Some(selector) => matches(selector, peer.namespace),
        None => peer.pod.namespace() == subject.namespace(),
    };
    namespace && rule.pod_selector.as_ref().is_none_or(|selector| matches(selector, peer.pod.labels()))
}

fn holds(block: &IPBlock, ip: IpAddr) -> bool {
    let within = |range: &str| range.parse::<IpNet>().is_ok_and(|range| range.contains(&ip));
    within(&block.cidr) && !block.except.iter().flatten().any(|except| within(except))
}

fn is_port(rule: &NetworkPolicyPort, server: &Pod, port: u16) -> bool {
    if rule.protocol.as_ref().is_some_and(|protocol| protocol != "TCP") {
        return false;
    }
    match (&rule.port, rule.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(from)), to) => (*from..=to.unwrap_or(*from)).contains(&i32::from(port)),
        (Some(IntOrString::String(name)), _) => container_ports(server)
            .any(|one| one.name.as_ref() == Some(name) && one.container_port == i32::from(port)),
    }
}

/// A selector that means nothing selects nothing; the API server takes none.
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, app: &str, ip: &str) -> Pod {
        let ports = json!([{ "name": "grpc", "containerPort": 15012 }]);
        serde_json::from_value(json!({
            "metadata": { "name": app, "namespace": namespace, "labels": { "app": app } },
            "spec": { "containers": [{ "name": "app", "ports": ports }] },
            "status": { "podIPs": [{ "ip": ip }] },
        }))
        .unwrap()
    }

    fn policy(namespace: &str, spec: Value) -> NetworkPolicy {
        let metadata = json!({ "name": "one", "namespace": namespace });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    #[test]
    fn egress_is_what_the_api_says() {
        let (client, server) = (pod("shop", "web", "10.1.0.1"), pod("signet-system", "ca", "10.2.0.1"));
        let labels = [("kubernetes.io/metadata.name".to_owned(), "signet-system".to_owned())].into();
        let none = BTreeMap::new();
        let (client, server) =
            (Party { pod: &client, namespace: &none }, Party { pod: &server, namespace: &labels });
        let ours = json!({ "matchLabels": { "kubernetes.io/metadata.name": "signet-system" } });
        for (why, spec, want) in [
            ("deny all", json!({ "podSelector": {}, "policyTypes": ["Egress"] }), false),
            ("ingress only", json!({ "podSelector": {}, "policyTypes": ["Ingress"] }), true),
            (
                "another pod",
                json!({ "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Egress"] }),
                true,
            ),
            ("no types, with egress", json!({ "egress": [{ "ports": [{ "port": 443 }] }] }), false),
            ("no types, without", json!({}), true),
            ("everything", json!({ "egress": [{}] }), true),
            ("own namespace", json!({ "egress": [{ "to": [{ "podSelector": {} }] }] }), false),
            ("our namespace", json!({ "egress": [{ "to": [{ "namespaceSelector": ours }] }] }), true),
            (
                "another pod of ours",
                json!({ "egress": [{ "to": [{ "namespaceSelector": ours, "podSelector": { "matchLabels": { "app": "x" } } }] }] }),
                false,
            ),
            (
                "not ours",
                json!({ "egress": [{ "to": [{ "namespaceSelector": { "matchExpressions": [
                { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["signet-system"] }] } }] }] }),
                false,
            ),
            ("its range", json!({ "egress": [{ "to": [{ "ipBlock": { "cidr": "10.2.0.0/16" } }] }] }), true),
            (
                "but not it",
                json!({ "egress": [{ "to": [{ "ipBlock": { "cidr": "10.2.0.0/16", "except": ["10.2.0.1/32"] } }] }] }),
                false,
            ),
            ("another port", json!({ "egress": [{ "ports": [{ "port": 443 }] }] }), false),
            (
                "the port",
                json!({ "egress": [{ "ports": [{ "port": 443 }, { "port": 15012, "protocol": "TCP" }] }] }),
                true,
            ),
            ("UDP", json!({ "egress": [{ "ports": [{ "port": 15012, "protocol": "UDP" }] }] }), false),
            (
                "a range of ports",
                json!({ "egress": [{ "ports": [{ "port": 15000, "endPort": 15100 }] }] }),
                true,
            ),
            ("its name", json!({ "egress": [{ "ports": [{ "port": "grpc" }] }] }), true),
            ("another name", json!({ "egress": [{ "ports": [{ "port": "http" }] }] }), false),
        ] {
            let hiding = egress(&[policy("shop", spec)], client, server, 15_012);
            assert_eq!(hiding.is_empty(), want, "{why}: {hiding:?}");
        }
    }

    #[test]
    fn ingress_is_the_servers_and_what_one_policy_allows_no_other_forbids() {
        let (client, server) = (pod("shop", "web", "10.1.0.1"), pod("signet-system", "ca", "10.2.0.1"));
        let labels = [("team".to_owned(), "shop".to_owned())].into();
        let none = BTreeMap::new();
        let (client, server) =
            (Party { pod: &client, namespace: &labels }, Party { pod: &server, namespace: &none });
        let deny = || policy("signet-system", json!({ "podSelector": {} }));
        let shop = json!({ "namespaceSelector": { "matchLabels": { "team": "shop" } } });
        let allow =
            policy("signet-system", json!({ "ingress": [{ "from": [shop], "ports": [{ "port": 15012 }] }] }));
        let of_another = policy("shop", json!({ "podSelector": {} }));
        assert_eq!(ingress(&[deny()], client, server, 15_012), ["one"]);
        assert_eq!(ingress(&[deny(), allow.clone()], client, server, 15_012), [""; 0]);
        assert_eq!(ingress(&[deny(), allow], client, server, 15_010), ["one", "one"]);
        assert_eq!(ingress(&[of_another], client, server, 15_012), [""; 0]);
    }
}
