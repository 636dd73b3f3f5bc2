//! What is excluded bypasses the proxy, and nothing beside it does.

use signet_tests::{
    apps::Does,
    captured::Captured,
    eventually::{SOON, eventually},
    manifests::Pod,
    netns::{pod_v4, pod_v6},
    tap::Tap,
};

use crate::{exchange, marker};

#[tokio::test]
async fn excluded_ports_and_subnets_bypass_the_proxies_and_the_port_beside_them_does_not() {
    // Numbers follow the order of the pods: `far` is the third.
    let far = format!("{}/32,{}/128", pod_v4(3), pod_v6(3));
    let mesh = Captured::builder()
        .pod(Pod::named("web"))
        .pod(Pod::named("api").accepting(7000).accepting(7001))
        .pod(Pod::named("far").accepting(7001))
        .capturing("shop/web", &["--exclude-outbound-ports", "7000", "--exclude-outbound-subnets", &far])
        .capturing("shop/api", &["--exclude-inbound-ports", "7000"])
        .start()
        .await;
    let _apps = [("shop/api", 7000), ("shop/api", 7001), ("shop/far", 7001)]
        .map(|(pod, port)| mesh.run(pod, port, Does::Echo));
    let web = &mesh.pod("shop/web").netns;
    for (pod, port, captured) in [
        ("shop/api", 7000, [false, false]),
        ("shop/api", 7001, [true, true]),
        ("shop/far", 7001, [false, true]),
    ] {
        for to in mesh.at_pod(pod, port) {
            let (network, secret) = (mesh.pod(pod), marker());
            let tap = Tap::start(&network.link, network.addresses[0]).await.unwrap();
            assert_eq!(exchange(web, to, secret.as_bytes()).await.unwrap(), secret.as_bytes(), "{to}");
            let plaintext = tap.stop().await.unwrap().says(secret.as_bytes());
            assert_eq!(plaintext, !captured[0], "{to}: plaintext on the link");
            for (name, captured) in ["shop/web", pod].into_iter().zip(captured) {
                let seen = async || {
                    let rows = mesh.workload(name).connections().await;
                    rows.iter().any(|row| row["destination"] == to.to_string())
                };
                if captured {
                    eventually(&format!("{name} to carry {to}"), SOON, async || seen().await.then_some(()))
                        .await;
                } else {
                    assert!(!seen().await, "{name} carried {to}");
                }
            }
        }
    }
    mesh.finish().await;
}
