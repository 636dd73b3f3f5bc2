//! Pods, Services and names find each other, on one node and across nodes, in both families.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use signet_cluster::{Namespace, test};

use crate::pods::{addresses, nginx, service, toolbox, url};

const NODES: [&str; 2] = ["node1", "node2"];

async fn curl(namespace: &Namespace, client: &str, url: &str) -> Result<String> {
    namespace.exec(client, "toolbox", &["curl", "-sS", "-m", "10", url]).await?.ok()
}

/// nginx says whom it saw: the pod's own address, so nobody translated it on the way.
#[tokio::test]
async fn a_pod_reaches_a_pod_on_its_node_and_on_the_other_as_itself() -> Result<()> {
    test(async |namespace| {
        let clients = NODES.map(|node| toolbox(&format!("client-{node}"), node)).concat();
        namespace.apply(&(nginx("web", "web", "node1") + &clients)).await?;
        let servers = addresses(&namespace.wait_ready("web").await?)?;
        for node in NODES {
            let client = format!("client-{node}");
            let own = addresses(&namespace.wait_ready(&client).await?)?;
            for (server, own) in servers.iter().zip(own) {
                let answer = curl(namespace, &client, &url(*server, 8080)).await?;
                assert_eq!(answer, format!("nginx on web for {own}"), "{client} to {server}");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_cluster_ip_leads_to_every_pod_behind_it_and_to_no_other_from_both_nodes_in_both_families()
-> Result<()> {
    test(async |namespace| {
        let pods = NODES.map(|node| {
            nginx(&format!("web-{node}"), "web", node) + &toolbox(&format!("client-{node}"), node)
        });
        namespace.apply(&(pods.concat() + &service("web", ""))).await?;
        let cluster_ips = cluster_ips(namespace, "web").await?;
        assert_eq!(cluster_ips.len(), 2);
        for node in NODES {
            namespace.wait_ready(&format!("client-{node}")).await?;
        }
        for pods in [&["web-node1", "web-node2"][..], &["web-node2"]] {
            namespace.wait_endpoints("web", pods.len()).await?;
            for (node, address) in
                NODES.into_iter().flat_map(|node| cluster_ips.iter().map(move |ip| (node, ip)))
            {
                // kube-proxy draws lots: that one of two pods gets all of 40 happens once in 2^39.
                let many = format!("for i in $(seq 40); do curl -sS -m 10 {}; done", url(*address, 80));
                let argv = ["sh", "-c", &many];
                let answers = namespace.exec(&format!("client-{node}"), "toolbox", &argv).await?.ok()?;
                let asked: BTreeSet<_> = answers.lines().filter_map(|line| line.split(' ').nth(2)).collect();
                assert_eq!(asked, pods.iter().copied().collect(), "{node} to {address}: {answers}");
            }
            if pods.len() == 2 {
                namespace.delete_objects(&nginx("web-node1", "web", "node1")).await?;
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_headless_service_is_the_addresses_of_its_pods_in_both_families() -> Result<()> {
    test(async |namespace| {
        let pods = NODES.map(|node| nginx(&format!("web-{node}"), "web", node)).concat();
        let headless = service("web", "  clusterIP: None");
        namespace.apply(&(pods + &toolbox("client", "node1") + &headless)).await?;
        namespace.wait_endpoints("web", 2).await?;
        namespace.wait_ready("client").await?;
        let mut want = BTreeSet::new();
        for pod in namespace.wait_ready_pods("app=web", 2).await? {
            want.extend(addresses(&pod)?);
        }
        let name = format!("web.{namespace}.svc.cluster.local");
        namespace
            .eventually("DNS to know every pod of the headless Service", async || {
                let known = lookup(namespace, &name).await?;
                ensure!(known == want, "it knows {known:?}, not {want:?}");
                Ok(())
            })
            .await?;
        for family in ["-4", "-6"] {
            let argv = ["curl", "-sS", "-m", "10", family, "http://web:8080/"];
            let answer = namespace.exec("client", "toolbox", &argv).await?.ok()?;
            assert!(answer.starts_with("nginx on web-node"), "{answer}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn dns_knows_a_service_by_its_short_and_by_its_full_name_from_both_nodes() -> Result<()> {
    test(async |namespace| {
        let clients = NODES.map(|node| toolbox(&format!("client-{node}"), node)).concat();
        namespace.apply(&(nginx("web", "web", "node1") + &clients + &service("web", ""))).await?;
        namespace.wait_endpoints("web", 1).await?;
        let want: BTreeSet<_> = cluster_ips(namespace, "web").await?.into_iter().collect();
        for node in NODES {
            let client = format!("client-{node}");
            namespace.wait_ready(&client).await?;
            for name in
                ["web".into(), format!("web.{namespace}"), format!("web.{namespace}.svc.cluster.local")]
            {
                let url = format!("http://{name}/");
                let what = format!("{client} to reach {url}");
                let answer =
                    namespace.eventually(&what, async || curl(namespace, &client, &url).await).await?;
                assert!(answer.starts_with("nginx on web for "), "{answer}");
            }
        }
        namespace.apply(&toolbox("client", "node2")).await?;
        namespace.wait_ready("client").await?;
        let known = lookup(namespace, &format!("web.{namespace}.svc.cluster.local")).await?;
        assert_eq!(known, want);
        Ok(())
    })
    .await
}

/// TEST-NET-1 and the documentation prefix (RFC 5737, RFC 3849), which somebody could route; here nobody does.
#[tokio::test]
async fn nothing_in_the_cluster_or_around_it_reaches_beyond() -> Result<()> {
    test(async |namespace| {
        namespace.apply(&NODES.map(|node| toolbox(&format!("client-{node}"), node)).concat()).await?;
        for url in ["http://192.0.2.1/", "http://[2001:db8::1]/"] {
            let argv = ["curl", "-sS", "-m", "30", url];
            let mut outputs = vec![namespace.cluster.outside(&argv).await?];
            for node in namespace.cluster.nodes() {
                outputs.push(node.run(&argv).await?);
                let client = format!("client-{}", node.name());
                namespace.wait_ready(&client).await?;
                outputs.push(namespace.exec(&client, "toolbox", &argv).await?);
            }
            for output in outputs {
                assert_eq!(output.status, 7, "refused by a router, not unanswered (curl(1)): {output}");
            }
        }
        Ok(())
    })
    .await
}

/// The addresses of both families that DNS gives the pod `client` for a full name.
async fn lookup(namespace: &Namespace, name: &str) -> Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for kind in ["-type=a", "-type=aaaa"] {
        let answer = namespace.exec("client", "toolbox", &["nslookup", kind, name]).await?.ok()?;
        let (_server, answer) = answer.split_once("\n\n").context("nslookup names its server first")?;
        let lines = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
        for address in lines {
            addresses.insert(address.trim().parse().with_context(|| format!("an address in {answer}"))?);
        }
    }
    Ok(addresses)
}

async fn cluster_ips(namespace: &Namespace, service: &str) -> Result<Vec<IpAddr>> {
    let spec = namespace.api::<Service>().get(service).await?.spec.unwrap_or_default();
    Ok(spec.cluster_ips.unwrap_or_default().iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?)
}
