//! A pod with a valid certificate of its own stands at the address of another. The proxies are the only thing in its way.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::Value;
use signet_cluster::{
    Namespace,
    images::{SIGNET_DEV, SIGNET_MUTANT},
    network::{PODS, SERVICES},
};

use crate::{
    installed::{Mesh, mesh},
    pods::{addresses, nginx, service, toolbox, url},
};

#[tokio::test]
async fn another_identity_at_a_pods_address_gets_no_byte_and_a_proxy_without_the_san_check_is_caught()
-> Result<()> {
    mesh(async |mesh| {
        mesh.label().await?;
        let shop = &mesh.namespace;
        let thief = nginx("thief", "thief", "node2").replace("spec:", "spec:\n  serviceAccountName: thief");
        shop.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: thief}}").await?;
        shop.apply(&(nginx("web", "web", "node2") + &thief + &service("web", ""))).await?;
        let (web, thief) = (shop.wait_ready("web").await?, shop.wait_ready("thief").await?);
        shop.wait_endpoints("web", 1).await?;

        // Injected by hand: the webhook knows one image only.
        let workshop = Namespace::create(&shop.cluster, "workshop").await?;
        mesh.kubectl(&["label", "namespace", &workshop.name, "signet.dev/trust=enabled"], "").await?;
        workshop.wait_for::<ConfigMap>("signet-trust", "to hold the trust bundle", |_| true).await?;
        for (client, image) in [("careful", SIGNET_DEV), ("gullible", SIGNET_MUTANT)] {
            workshop.apply(&injected(mesh, &toolbox(client, "node1"), image).await?).await?;
            workshop.wait_ready(client).await?;
        }

        let node = shop.cluster.node("node1")?;
        node.run(&["nft", &redirection(&addresses(&web)?, &addresses(&thief)?)?]).await?.ok()?;
        let ended = Box::pin(async {
            let heard = what_the_thief_hears_of(mesh, &workshop, "careful", &web).await?;
            ensure!(heard.is_empty(), "the thief heard {heard:?} of a proxy that checks who answers");
            shop.eventually("edges to tell why", async || told(mesh, &workshop).await).await?;
            let heard = what_the_thief_hears_of(mesh, &workshop, "gullible", &web).await?;
            ensure!(
                heard.len() == WAYS,
                "the thief heard only {heard:?} of the mutant: this test cannot fail"
            );
            Ok(())
        })
        .await;
        node.run(&["nft", "delete", "table", "inet", TABLE]).await?.ok()?;
        ended?;
        // It was the thief that was refused, not the client.
        let answer =
            workshop.exec("careful", "toolbox", &["curl", "-sS", "-m", "20", &by_name(shop)]).await?;
        ensure!(answer.stdout.starts_with("nginx on web for "), "{answer}");
        workshop.delete().await
    })
    .await
}

/// The hostile test: `client` asks for web by its name and by each of its addresses. The ways in which the thief got the request,
/// or the client its answer.
async fn what_the_thief_hears_of(
    mesh: &Mesh,
    workshop: &Namespace,
    client: &str,
    web: &Pod,
) -> Result<Vec<String>> {
    let shop = &mesh.namespace;
    let urls = std::iter::once(by_name(shop)).chain(addresses(web)?.into_iter().map(|ip| url(ip, 8080)));
    let mut heard = Vec::new();
    for (way, url) in urls.enumerate() {
        let word = format!("word-{way}-of-{client}");
        let answer = workshop.exec(client, "toolbox", &["curl", "-sS", "-m", "20", &(url + &word)]).await?;
        ensure!(!answer.stdout.contains("nginx on web"), "the redirection does not hold: {answer}");
        let logged = shop.logs("thief", "nginx").await?.contains(&word);
        if logged || answer.stdout.contains("nginx on thief") {
            heard.push(word);
        }
    }
    Ok(heard)
}

/// The client's proxy told that somebody else answered there.
async fn told(mesh: &Mesh, workshop: &Namespace) -> Result<()> {
    let edges = mesh.edges(&workshop.name).await?;
    let is_it = |edge: &&Value| {
        edge["client"]["pod"] == "careful"
            && edge["server"]["pod"] == "web"
            && edge["refused"] == true
            && edge["reason"] == "peer_identity"
    };
    ensure!(edges.iter().any(|edge| is_it(&edge)), "no refusal in {edges:#?}");
    // The thief's proxy tells of the handshakes, which were whole for it; no byte came after them.
    let carried = |edge: &&Value| {
        edge["client"]["pod"] == "careful"
            && [&edge["sent"], &edge["received"]].iter().any(|bytes| **bytes != 0)
    };
    ensure!(!edges.iter().any(|edge| carried(&edge)), "something was carried: {edges:#?}");
    Ok(())
}

async fn injected(mesh: &Mesh, pod: &str, image: &str) -> Result<String> {
    let ranges = PODS.iter().chain(&SERVICES).flat_map(|range| ["--mesh-range", *range]);
    let arguments: Vec<&str> = ["inject", "-f", "-", "--image", image].into_iter().chain(ranges).collect();
    let (status, manifests) = mesh.signet_said(&arguments, pod).await?;
    ensure!(status == 0, "signet inject ended with {status}");
    Ok(manifests)
}

/// As a router or a node could do it that others have taken: what goes to web's addresses arrives at the thief's.
fn redirection(web: &[IpAddr], thief: &[IpAddr]) -> Result<String> {
    let ([web4, web6], [thief4, thief6]) = (web, thief) else {
        anyhow::bail!("not one address of each family")
    };
    Ok(format!(
        "add table inet {TABLE}; \
         add chain inet {TABLE} before {{ type nat hook prerouting priority -110; }}; \
         add rule inet {TABLE} before ip daddr {web4} tcp dport 8080 dnat ip to {thief4}; \
         add rule inet {TABLE} before ip6 daddr {web6} tcp dport 8080 dnat ip6 to {thief6}"
    ))
}

fn by_name(shop: &Namespace) -> String {
    format!("http://web.{}.svc.cluster.local/", shop.name)
}

const TABLE: &str = "thief";
/// By name, and by an address of each family.
const WAYS: usize = 3;
