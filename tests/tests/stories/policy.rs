//! Mode and policy: live, for new connections and for those that carry bytes.

use signet_tests::{
    apps::Does,
    client,
    eventually::{SOON, eventually},
    manifests::{self, Pod},
    mesh::Mesh,
};

#[tokio::test]
async fn a_policy_change_cuts_the_live_connection_that_it_denies_and_no_other() {
    let mesh = Mesh::start([
        Pod::named("web").with_upstream(9000, "api.shop:8080"),
        Pod::named("cron").with_upstream(9000, "api.shop:8080"),
        Pod::named("api").accepting(8080),
    ])
    .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let (web, cron, api) = (mesh.workload("shop/web"), mesh.workload("shop/cron"), mesh.workload("shop/api"));
    let mut allowed = client::dial(web.address, web.port(9000)).await.unwrap();
    let mut denied = client::dial(cron.address, cron.port(9000)).await.unwrap();
    client::ping(&mut allowed, b"both").await.unwrap();
    client::ping(&mut denied, b"both").await.unwrap();
    mesh.write("policy.yaml", &[manifests::policy("shop/only-web", "api", &["shop/web"])]);
    eventually("the denied connection to be cut", SOON, async || client::ping(&mut denied, b"?").await.err())
        .await;
    client::ping(&mut allowed, b"still here").await.unwrap();
    assert!(cron.send(9000, b"again").await.is_err());
    assert_eq!(web.send(9000, b"again").await.unwrap(), b"again");
    api.tells("policy_denied").await;
    cron.tells("denied_by_peer").await;
    api.access_line(&["reason=policy_changed"]).await;
    mesh.finish().await;
}

#[tokio::test]
async fn strict_cuts_live_plaintext_and_leaves_mutual_tls_alone() {
    let mesh = Mesh::start([
        Pod::named("web").with_upstream(9000, "api.shop:8080"),
        Pod::named("api").accepting(8080),
    ])
    .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let (web, api, stranger) =
        (mesh.workload("shop/web"), mesh.workload("shop/api"), mesh.network.address(3, 1));
    let mut secured = client::dial(web.address, web.port(9000)).await.unwrap();
    let mut plain = client::dial(stranger, api.port(8080)).await.unwrap();
    client::ping(&mut secured, b"permissive").await.unwrap();
    client::ping(&mut plain, b"permissive").await.unwrap();
    mesh.write("shop.yaml", &[manifests::namespace("shop", "strict")]);
    eventually("the plaintext connection to be cut", SOON, async || {
        client::ping(&mut plain, b"?").await.err()
    })
    .await;
    client::ping(&mut secured, b"strict").await.unwrap();
    assert!(client::exchange(stranger, api.port(8080), b"hello").await.is_err());
    api.tells("plaintext_refused").await;
    mesh.write("shop.yaml", &[manifests::namespace("shop", "permissive")]);
    eventually("plaintext to be taken again", SOON, async || {
        client::exchange(stranger, api.port(8080), b"x").await.ok()
    })
    .await;
    client::ping(&mut secured, b"permissive again").await.unwrap();
    mesh.finish().await;
}

#[tokio::test]
async fn a_manifest_that_does_not_parse_is_named_with_file_line_and_field_and_the_rest_keeps_working() {
    let mesh = Mesh::start([
        Pod::named("web").with_upstream(9000, "api.shop:8080"),
        Pod::named("api").accepting(8080),
    ])
    .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    mesh.write_text("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  namespace: shop\nspec:\n  ports:\n  - port: eighty\n");
    let error = eventually("the error", SOON, async || {
        let status = mesh.controller("/v1/status").await.ok()?;
        status["manifests"]["errors"].as_array()?.first().cloned()
    })
    .await;
    assert!(error["file"].as_str().unwrap().ends_with("broken.yaml"), "{error}");
    assert_eq!(error["line"], 8, "{error}");
    assert!(error["field"].as_str().unwrap().contains("port"), "{error}");
    assert_eq!(web.send(9000, b"hello").await.unwrap(), b"hello");
    mesh.finish().await;
}
