//! The mesh's ranges, as far as a cluster tells them: its Services' from ServiceCIDRs, its pods' from Nodes. Kubernetes has no object
//! for the range that nodes get theirs from, so each node's is widened: the next node's is in it as well.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    networking::v1::ServiceCIDR,
};
use kube::{Api, api::ListParams};

use crate::cluster::Cluster;

/// Sorted, none inside another. An error says why the cluster does not tell them.
pub(crate) async fn of_cluster(cluster: &Cluster) -> Result<Vec<IpNet>> {
    let all = ListParams::default();
    let services = Api::<ServiceCIDR>::all(cluster.client.clone());
    let nodes = Api::<Node>::all(cluster.client.clone());
    let pods = Api::<Pod>::all(cluster.client.clone());
    let some = ListParams::default().limit(POD_SAMPLE);
    let services =
        services.list(&all).await.map_err(|e| cluster.explain("asking for the ServiceCIDRs", e))?;
    let nodes = nodes.list(&all).await.map_err(|e| cluster.explain("asking for the nodes", e))?;
    let pods = pods.list(&some).await.map_err(|e| cluster.explain("asking for pods", e))?;
    let services =
        services.items.iter().flat_map(|cidr| cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()));
    let nodes: Vec<String> = nodes.items.iter().flat_map(pod_cidrs).collect();
    let pods: Vec<IpAddr> = pods.items.iter().flat_map(own_addresses).collect();
    of(services.cloned(), nodes, &pods)
}

/// Pure. `pods` are addresses that pods have now: they must be inside, or the nodes' ranges are not what pods get theirs from.
fn of(
    services: impl IntoIterator<Item = String>,
    nodes: impl IntoIterator<Item = String>,
    pods: &[IpAddr],
) -> Result<Vec<IpNet>> {
    let parse = |text: String| text.parse::<IpNet>().with_context(|| format!("{text:?} is no range"));
    let mut ranges: Vec<IpNet> = services.into_iter().map(parse).collect::<Result<_>>()?;
    if ranges.is_empty() {
        bail!("the cluster has no ServiceCIDR");
    }
    let nodes: Vec<IpNet> = nodes.into_iter().map(parse).collect::<Result<_>>()?;
    if nodes.is_empty() {
        bail!("no node has a pod range (spec.podCIDRs): the network plugin hands out addresses of its own");
    }
    ranges.extend(nodes.into_iter().map(widened));
    if let Some(outside) = pods.iter().find(|pod| !ranges.iter().any(|range| range.contains(*pod))) {
        bail!(
            "a pod has the address {outside}, which is in no node's pod range: the network plugin hands out addresses of its own"
        );
    }
    let mut ranges = IpNet::aggregate(&ranges);
    ranges.sort();
    Ok(ranges)
}

fn widened(node: IpNet) -> IpNet {
    match node {
        IpNet::V4(net) if net.prefix_len() > V4_PREFIX => {
            Ipv4Net::new(net.addr(), V4_PREFIX).map_or(node, |net| IpNet::V4(net.trunc()))
        }
        IpNet::V6(net) if net.prefix_len() > V6_PREFIX => {
            Ipv6Net::new(net.addr(), V6_PREFIX).map_or(node, |net| IpNet::V6(net.trunc()))
        }
        _ => node.trunc(),
    }
}

fn pod_cidrs(node: &Node) -> Vec<String> {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default()
}

/// Of a pod that is not on its node's network.
pub(crate) fn own_addresses(pod: &Pod) -> Vec<IpAddr> {
    let host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let ips = pod.status.iter().filter(|_| !host).flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// kubeadm's, k3s' and most guides' pod range is a /16 with a /24 for each node; `signet local` does the same.
const V4_PREFIX: u8 = 16;
/// A /64 for each node; what sites number their networks with (RFC 6177) is a /48.
const V6_PREFIX: u8 = 48;
/// Enough to meet one of every network plugin's ways to hand out addresses.
const POD_SAMPLE: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(services: &[&str], nodes: &[&str], pods: &[&str]) -> Result<Vec<String>, String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let pods: Vec<IpAddr> = pods.iter().map(|pod| pod.parse().unwrap()).collect();
        let ranges = of(owned(services), owned(nodes), &pods).map_err(|e| e.to_string())?;
        Ok(ranges.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_next_nodes_pods_are_inside_as_well() {
        let found = found(
            &["10.96.0.0/12", "fd00:10:96::/112"],
            &["10.244.0.0/24", "10.244.1.0/24", "fd00:10:244::/64"],
            &["10.244.1.7", "fd00:10:244::7"],
        );
        let want = ["10.96.0.0/12", "10.244.0.0/16", "fd00:10:96::/112", "fd00:10:244::/48"];
        assert_eq!(found.unwrap(), want);
    }

    #[test]
    fn a_cluster_that_does_not_tell_is_an_error_and_never_a_guess() {
        for (services, nodes, pods, words) in [
            (&[][..], &["10.244.0.0/24"][..], &[][..], "no ServiceCIDR"),
            (&["10.96.0.0/12"], &[], &[], "spec.podCIDRs"),
            (&["10.96.0.0/12"], &["10.244.0.0/24"], &["172.31.4.5"], "172.31.4.5"),
            (&["10.96.0.0/12"], &["x"], &[], "no range"),
        ] {
            let error = found(services, nodes, pods).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn ranges_larger_than_that_stay_and_ranges_inside_others_go() {
        assert_eq!(found(&["10.0.0.0/8"], &["10.8.0.0/14"], &[]).unwrap(), ["10.0.0.0/8"]);
        assert_eq!(
            found(&["10.96.0.0/16"], &["172.16.0.0/12"], &[]).unwrap(),
            ["10.96.0.0/16", "172.16.0.0/12"]
        );
    }
}
