//! Rules that disappear under a running proxy.

use std::time::Duration;

use signet_tests::{
    apps::Does,
    captured::Captured,
    client,
    eventually::{SOON, eventually, throughout},
    manifests::Pod,
};

use crate::exchange;

#[tokio::test]
async fn without_its_table_a_pod_is_unready_within_15_s_and_says_what_to_do_and_capturing_again_heals_it() {
    let mesh =
        Captured::builder().pod(Pod::named("web")).pod(Pod::named("api").accepting(8080)).start().await;
    let _app = mesh.run("shop/api", 8080, Does::Echo);
    let (web, netns) = (mesh.workload("shop/web"), &mesh.pod("shop/web").netns);
    let to = mesh.at_pod("shop/api", 8080)[0];
    assert_eq!(web.metric("signet_capture_ok", &[]).await, 1.0);
    throughout("the pod is ready", Duration::from_secs(6), async || web.is_ready().await).await;

    netns.output(None, &["nft", "delete", "table", "inet", "signet"]).await.unwrap();
    let why = eventually("the pod to be unready", Duration::from_secs(15), async || {
        let (status, body) = client::get(web.port(15020), "/ready").await.ok()?;
        (status == 503).then_some(body)
    })
    .await;
    assert!(why.contains("run signet-proxy capture again"), "{why}");
    assert_eq!(web.metric("signet_capture_ok", &[]).await, 0.0);
    assert!(mesh.workload("shop/api").is_ready().await, "only this pod");

    mesh.capture_again("shop/web").await.unwrap();
    eventually("the pod to be ready again", SOON, async || web.is_ready().await.then_some(())).await;
    assert_eq!(web.metric("signet_capture_ok", &[]).await, 1.0);
    assert_eq!(exchange(netns, to, b"captured again").await.unwrap(), b"captured again");
    let line = web.access_line(&["direction=outbound", &to.to_string()]).await;
    assert!(line.contains("/ns/shop/sa/api"), "{line}");
    mesh.finish().await;
}
