//! A laptop: `signet local` with the Ingresses of three real apps, its edge CA in a browser's own store, and Debian's Chromium, which is told
//! nothing about certificates. Everything runs without rights, in a home of its own, but the two apps from PyPI, whose programs lie
//! in ours (scripts/local-apps.sh).
#![expect(
    clippy::large_futures,
    reason = "the bound is for connections of the product; a test waits with one future"
)]

mod laptop;
mod thief;

use signet_tests::{
    eventually::{SOON, eventually},
    network::Network,
};

use crate::laptop::Laptop;

/// What each app's own page shows, once it runs in the browser.
const APPS: [(&str, &str); 3] = [
    ("https://blog.localhost:8443/", "A static blog"),
    ("https://lab.example.com.localhost:8443/lab", "jp-LabShell"),
    ("https://files.localhost:8443/", "holiday.txt"),
];

#[tokio::test]
async fn chromium_opens_the_three_apps_after_trust_install_and_refuses_them_without_and_after_uninstall() {
    let laptop = Laptop::with_all_apps(Network::claim()).await;
    let refused = async |when: &str| {
        for (url, page) in APPS {
            let opened = laptop.open(url).await;
            assert!(opened.failed_by("ERR_CERT_AUTHORITY_INVALID"), "{when}, {url}: {opened:?}");
            assert!(!opened.dom.contains(page), "{when}, {url}");
        }
    };
    refused("before").await;
    let shown = laptop.trust(&["install", "--store", "nss", "--yes"]).await;
    assert_eq!(shown["stores"][0]["state"], "here", "{shown}");
    for (url, page) in APPS {
        let opened = laptop.open(url).await;
        assert!(opened.dom.contains(page), "{url}: {opened:?}");
    }
    let redirected = laptop.open("http://blog.localhost:8080/").await;
    assert!(redirected.dom.contains("A static blog"), "the redirect names the port: {redirected:?}");
    laptop.takes_a_screenshot_where_it_is_wanted(APPS[1].0).await;
    laptop.proves_that_the_gateway_reaches_each_app_by_mutual_tls().await;
    let shown = laptop.trust(&["uninstall", "--store", "nss", "--yes"]).await;
    assert_eq!(shown["stores"][0]["state"], "absent", "{shown}");
    refused("after").await;
}

/// The root lies in people's browsers, and its key on their disks.
#[tokio::test]
async fn a_leaf_for_example_com_forged_with_the_edge_cas_key_is_refused_by_chromium_and_openssl() {
    let laptop = Laptop::start(Network::claim()).await;
    laptop.trust(&["install", "--store", "nss", "--yes"]).await;
    for (host, believed) in [("thief.test", true), ("example.com", false), ("www.example.com", false)] {
        let (place, _serving) = thief::serve(&laptop, host).await;
        let opened = laptop.open_at(&format!("https://{host}:{}/", place.port()), host, place.ip()).await;
        assert_eq!(opened.dom.contains(thief::PAGE), believed, "Chromium, {host}: {opened:?}");
        assert_eq!(opened.failed_by("ERR_CERT"), !believed, "Chromium, {host}: {opened:?}");
        let (verified, said) = thief::openssl(&laptop, host, place).await;
        assert_eq!(verified, believed, "OpenSSL, {host}: {said}");
        assert_eq!(said.contains("permitted subtree violation"), !believed, "OpenSSL, {host}: {said}");
    }
}

#[tokio::test]
async fn hosts_explain_and_status_answer_for_it_and_nothing_is_wrong() {
    let laptop = Laptop::start(Network::claim()).await;
    let hosts = laptop.ask(&["hosts"]).await;
    let lab =
        hosts["hosts"].as_array().unwrap().iter().find(|host| host["host"] == "lab.example.com").unwrap();
    assert_eq!((&lab["alias"], &lab["plaintext"]), (&"lab.example.com.localhost".into(), &"redirect".into()));
    assert_eq!(
        (&lab["certificate"]["served"], &lab["certificate"]["issuer"]),
        (&true.into(), &"edge CA".into())
    );
    assert_eq!(lab["rules"][0]["endpoints"][0]["transport"], "mesh");
    let explained = laptop.ask(&["explain", "-n", "home", "ingress/lab"]).await;
    assert_eq!(explained["ingress"]["findings"], serde_json::json!([]));
    // Each proxy has told the controller that it is ready.
    let status = eventually("status to be fine", SOON, async || laptop.asked(&["status"]).await.ok()).await;
    assert_eq!((&status["edge"]["hosts"], &status["problems"]), (&3.into(), &serde_json::json!([])));
}

/// Somebody edits the manifests while it runs: the edge goes with the last Ingress, and comes with the first.
#[tokio::test]
async fn the_gateway_runs_while_there_is_an_ingress_and_a_port_that_somebody_has_is_said_and_tried_again() {
    let laptop = Laptop::start(Network::claim()).await;
    laptop.writes_ingresses("").await;
    laptop.eventually_serves(false).await;
    let taken = laptop.takes_the_https_port().await;
    laptop.writes_ingresses(&laptop.ingresses()).await;
    laptop.eventually_logs("the gateway cannot have").await;
    drop(taken);
    laptop.eventually_serves(true).await;
}
