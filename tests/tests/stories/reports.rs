//! What crosses between two proxies, and what the controller is told about it.

use signet_tests::{
    apps::Does,
    eventually::{SOON, eventually},
    gate::Gate,
    manifests::Pod,
    mesh::Mesh,
};

#[tokio::test]
async fn a_wiretapper_between_the_sidecars_sees_tls_and_never_the_apps_marker() {
    let mesh = Mesh::builder()
        .pod(
            Pod::named("web").with_upstream(9000, "api.shop:8080").with_upstream(9001, "billing.legacy:8080"),
        )
        .pod(Pod::named("api").accepting(8080))
        .pod(Pod::named("billing").in_namespace("legacy").outside_the_mesh().accepting(8080))
        .inbound_aside("shop/api", 9)
        .start()
        .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let (web, api, billing) =
        (mesh.workload("shop/web"), mesh.workload("shop/api"), mesh.workload("legacy/billing"));
    let marker = b"the app's marker 8d3f1c";
    let tap = Gate::start(api.port(8080), mesh.network.aside(9, 8080)).await.unwrap();
    assert_eq!(web.send(9000, marker).await.unwrap(), marker);
    assert!(tap.passed() > 2000, "only {} bytes came this way", tap.passed());
    assert!(!tap.saw(marker));
    let aside = mesh.network.aside(10, 8080);
    let _app = signet_tests::apps::App::start(aside, Does::Echo).await.unwrap();
    let tap = Gate::start(billing.port(8080), aside).await.unwrap();
    assert_eq!(web.send(9001, marker).await.unwrap(), marker);
    assert!(tap.saw(marker), "the tap on the plaintext edge does not see the marker: it sees nothing");
    mesh.finish().await;
}

#[tokio::test]
async fn an_edge_is_proven_by_both_ends_with_both_identities_and_its_bytes() {
    let mesh = Mesh::start([
        Pod::named("web").with_upstream(9000, "api.shop:8080"),
        Pod::named("api").accepting(8080),
    ])
    .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    for _ in 0..3 {
        mesh.workload("shop/web").send(9000, b"1234567890").await.unwrap();
    }
    let edge = eventually("the edge, proven by both ends", SOON, async || {
        let edges = mesh.edges().await;
        edges.into_iter().find(|edge| edge["proof"] == "both" && edge["total"] == 3 && edge["open"] == 0)
    })
    .await;
    assert_eq!(edge["client"]["id"], "spiffe://cluster.local/ns/shop/sa/web", "{edge}");
    assert_eq!(edge["server"]["id"], "spiffe://cluster.local/ns/shop/sa/api", "{edge}");
    assert_eq!((edge["sent"].as_u64(), edge["received"].as_u64()), (Some(30), Some(30)), "{edge}");
    mesh.finish().await;
}
