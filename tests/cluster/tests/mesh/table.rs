//! The rules in a pod that lead its traffic to the proxy: without them nothing is encrypted, and the pod says so.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;

use crate::{
    installed::mesh,
    pods::{nginx, service},
};

#[tokio::test]
async fn a_pod_whose_nftables_table_somebody_deletes_is_not_ready_within_15_s() -> Result<()> {
    mesh(async |mesh| {
        mesh.label().await?;
        let namespace = &mesh.namespace;
        namespace.apply(&(nginx("web", "web", "node2") + &service("web", ""))).await?;
        namespace.wait_ready("web").await?;
        namespace.wait_endpoints("web", 1).await?;
        let table = namespace.in_network("web", &["nft", "list", "table", "inet", "signet"]).await?.ok()?;
        ensure!(table.contains("15001") && table.contains("15006"), "{table}");
        namespace.in_network("web", &["nft", "delete", "table", "inet", "signet"]).await?.ok()?;
        let began = Instant::now();
        let is_unready = |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "False")
        };
        namespace.wait_for("web", "to be not Ready", is_unready).await?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(15), "it took {took:?}");
        namespace.wait_endpoints("web", 0).await // nobody is led to it
    })
    .await
}
