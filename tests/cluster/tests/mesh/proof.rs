//! The main promise: label a namespace, and what its pods say to each other is on no wire in plain sight; `signet edges` proves it.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    installed::{Mesh, mesh},
    pods::{addresses, nginx, service, toolbox, url},
};

#[tokio::test]
async fn pods_of_a_labelled_namespace_speak_mutual_tls_and_nothing_that_they_say_is_on_the_wire() -> Result<()>
{
    mesh(async |mesh| {
        let namespace = &mesh.namespace;
        mesh.label().await?;
        namespace
            .apply(&(nginx("web", "web", "node2") + &toolbox("client", "node1") + &service("web", "")))
            .await?;
        for pod in ["web", "client"] {
            namespace.wait_ready(pod).await?;
        }
        namespace.wait_endpoints("web", 1).await?;
        let captures = [namespace.capture("client").await?, namespace.capture("web").await?];
        let word = ["curl", "-sS", "-m", "20", "-H", "X-Word: sesame-in-the-clear"];
        let by_name = ["-4", "-6"].map(|family| vec![family.to_owned(), "http://web/".to_owned()]);
        let by_address =
            addresses(&namespace.wait_ready("web").await?)?.into_iter().map(|ip| vec![url(ip, 8080)]);
        for way in by_name.into_iter().chain(by_address) {
            let argv: Vec<&str> = word.into_iter().chain(way.iter().map(String::as_str)).collect();
            let answer = namespace.exec("client", "toolbox", &argv).await?.ok()?;
            ensure!(answer.starts_with("nginx on web for "), "{way:?}: {answer}");
        }
        for capture in captures {
            let packets = capture.stop().await?;
            for word in ["sesame-in-the-clear", "nginx on web for "] {
                ensure!(!packets.contains(word.as_bytes()), "{word:?} is in plain sight");
            }
            // The wiretap was at the right wire: TLS passed there (a handshake record, RFC 8446 5.1).
            let hellos =
                packets.streams().into_values().filter(|stream| stream.starts_with(&[22, 3])).count();
            ensure!(hellos >= 2, "only {hellos} streams begin with a TLS handshake");
        }
        namespace.eventually("edges to prove it", async || proven(mesh).await).await
    })
    .await
}

/// An edge from client to web, secured, told by both ends, with both identities.
async fn proven(mesh: &Mesh) -> Result<()> {
    let name = &mesh.namespace.name;
    let edges = mesh.edges(name).await?;
    let id = format!("spiffe://cluster.local/ns/{name}/sa/default");
    let is_it = |edge: &&Value| {
        edge["client"]["pod"] == "client"
            && edge["server"]["pod"] == "web"
            && edge["secured"] == true
            && edge["proof"] == "both"
            && [&edge["client"]["id"], &edge["server"]["id"]].iter().all(|end| **end == id.as_str())
    };
    ensure!(edges.iter().any(|edge| is_it(&edge)), "no proven edge in {edges:#?}");
    let plaintext = mesh.signet(&["edges", name, "--plaintext"]).await?;
    ensure!(plaintext.starts_with("No plaintext"), "{plaintext}");
    Ok(())
}
