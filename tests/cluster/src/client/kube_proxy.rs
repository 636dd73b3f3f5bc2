//! Whether the kube-proxy of every node knows what the API server knows. It announces nothing: its rules are looked at.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use super::{Cluster, Node, wait};

/// Waits until every node forwards to `count` endpoints for each of `ways` of `service` ("namespace/name"), which are its
/// ports in each of its families.
pub(super) async fn wait_endpoints(
    cluster: &Cluster,
    service: &str,
    ways: usize,
    count: usize,
) -> Result<()> {
    let want = if count == 0 { vec![] } else { vec![count; ways] };
    wait_rules(cluster, &format!("{count} endpoints of {service}"), |rules| endpoints(rules, service) == want)
        .await
}

/// Waits until every node does something about this address of a LoadBalancer. Where that leads is up to the endpoints.
pub(super) async fn wait_address(cluster: &Cluster, address: IpAddr) -> Result<()> {
    let element = format!("{address} . ");
    wait_rules(cluster, &format!("the address {address}"), |rules| rules.contains(&element)).await
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

/// The IPv4 table, then the IPv6 table.
async fn rules(node: &Node) -> Result<String> {
    let mut rules = String::new();
    for family in ["ip", "ip6"] {
        rules += &node.run(&["nft", "--stateless", "list", "table", family, "kube-proxy"]).await?.ok()?;
        rules.push('\n');
    }
    Ok(rules)
}

/// How many endpoints there are in each `chain service-<hash>-<namespace>/<service>/<protocol>/<port name>`: the address of
/// one, or a lot drawn among several. Without endpoints there is no chain.
fn endpoints(rules: &str, service: &str) -> Vec<usize> {
    let (of_service, mut counts, mut inside) = (format!("-{service}/"), Vec::new(), false);
    for line in rules.lines().map(str::trim) {
        if let Some(chain) = line.strip_prefix("chain ") {
            inside = chain.starts_with("service-") && chain.contains(&of_service);
        } else if !inside {
        } else if let Some((_, lot)) = line.split_once("numgen random mod ") {
            counts.extend(lot.split(' ').next().and_then(|count| count.parse::<usize>().ok()));
        } else if line.contains(" dnat to ") {
            counts.push(1);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_counted_for_each_way_into_the_service_and_no_other() {
        let rules = "
	map service-ips {
		elements = { 198.19.5.1 . tcp . 80 : goto service-AAAAAAAA-ns/web/tcp/ }
	}
	chain service-AAAAAAAA-ns/web/tcp/ {
		meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 198.18.0.2 . 8080, 1 : 198.18.2.2 . 8080 }
	}
	chain service-BBBBBBBB-ns/web/tcp/admin {
		meta l4proto tcp dnat to 198.18.0.2:8081
	}
	chain service-CCCCCCCC-ns/web-2/tcp/ {
		meta l4proto tcp dnat to 198.18.0.3:8080
	}
	chain external-AAAAAAAA-ns/web/tcp/ {
		jump mark-for-masquerade
		goto service-AAAAAAAA-ns/web/tcp/
	}";
        assert_eq!(endpoints(rules, "ns/web"), [2, 1]);
        assert_eq!(endpoints(rules, "ns/web-2"), [1]);
        assert_eq!(endpoints(rules, "ns/we"), [0; 0]);
    }
}
