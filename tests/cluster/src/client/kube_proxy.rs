//! Whether the kube-proxy of every node knows what the API server knows. It announces nothing: its rules are looked at.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use super::{Cluster, Node, wait};

/// Waits until every node forwards to `chains` endpoints of `service` ("namespace/name"): one chain for each endpoint,
/// port and address family, written in the same transaction as what leads to it.
pub(super) async fn wait_endpoints(cluster: &Cluster, service: &str, chains: usize) -> Result<()> {
    wait_rules(cluster, &format!("{chains} endpoints of {service}"), |rules| {
        endpoint_chains(rules, service) == chains
    })
    .await
}

/// Waits until every node knows this address of a LoadBalancer.
pub(super) async fn wait_address(cluster: &Cluster, address: IpAddr) -> Result<()> {
    let element = format!("{address} . ");
    wait_rules(cluster, &format!("the address {address}"), |rules| {
        // Not `goto reject-chain`, where Services without endpoints lead.
        rules.lines().any(|line| line.contains(&element) && line.contains(" : goto external-"))
    })
    .await
}

async fn wait_rules(cluster: &Cluster, what: &str, holds: impl Fn(&str) -> bool) -> Result<()> {
    for node in cluster.nodes() {
        let what = format!("{what} in the rules of {}'s kube-proxy", node.name());
        wait::eventually(&what, wait::DEADLINE, async || {
            let rules = rules(&node).await?;
            ensure!(holds(&rules), "not in its {} lines", rules.lines().count());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The IPv4 table, then the IPv6 table. A missing one is no rule yet: kube-proxy may have just begun.
async fn rules(node: &Node) -> Result<String> {
    let mut rules = String::new();
    for family in ["ip", "ip6"] {
        rules += &node.run(&["nft", "--stateless", "list", "table", family, "kube-proxy"]).await?.stdout;
    }
    Ok(rules)
}

/// `chain endpoint-<hash>-<namespace>/<service>/<protocol>/<port name>__<address>/<port> {`
fn endpoint_chains(rules: &str, service: &str) -> usize {
    let of_service = format!("-{service}/");
    let chains = rules.lines().filter_map(|line| line.trim_start().strip_prefix("chain endpoint-"));
    chains.filter(|chain| chain.contains(&of_service)).count()
}
