//! A Service of type LoadBalancer, with the test as its cloud.

use anyhow::Result;
use signet_cluster::test;

use crate::pods::{nginx, service, toolbox, url};

#[tokio::test]
async fn a_load_balancer_serves_clients_outside_and_pods_on_both_nodes_in_both_families() -> Result<()> {
    test(async |namespace| {
        let clients = toolbox("client-node1", "node1") + &toolbox("client-node2", "node2");
        let service = service("web", "  type: LoadBalancer");
        namespace.apply(&(nginx("web", "web", "node2") + &clients + &service)).await?;
        namespace.wait_endpoints("web", 1).await?;
        // The traffic from outside comes in at the node without the pod.
        let addresses = namespace.assign_address("web", "node1").await?;
        assert_eq!(addresses.iter().filter(|address| address.is_ipv6()).count(), 1, "{addresses:?}");
        assert_eq!(addresses.len(), 2);
        for address in addresses {
            let url = url(address, 80);
            let argv = ["curl", "-sS", "-m", "10", &url];
            let answer = namespace.cluster.outside(&argv).await?.ok()?;
            assert!(answer.starts_with("nginx on web for "), "outside: {answer}");
            for client in ["client-node1", "client-node2"] {
                namespace.wait_ready(client).await?;
                let answer = namespace.exec(client, "toolbox", &argv).await?.ok()?;
                assert!(answer.starts_with("nginx on web for "), "{client}: {answer}");
            }
        }
        Ok(())
    })
    .await
}
