//! Certificates come and go under load, and nobody notices.

use std::time::Duration;

use signet_tests::{
    apps::{App, Does},
    client::{Load, LoadReport},
    eventually::{SOON, eventually},
    manifests::Pod,
    mesh::Mesh,
    workload::Workload,
};
use tokio::time::{Instant, sleep_until};

/// Requests per second, open loop.
const RATE: u32 = 200;
const LEAF_LIFE: &str = "20s";

async fn short_lived() -> (Mesh, App, Workload) {
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .strict("shop")
        .leaf_life(LEAF_LIFE)
        .log("info,access=warn")
        .start()
        .await;
    let app = mesh.run("shop/api", 8080, Does::Echo).await;
    let web = mesh.workload("shop/web");
    (mesh, app, web)
}

fn assert_none_failed(report: &LoadReport) {
    assert!(
        report.failed.is_empty(),
        "{} of {} failed: {:?}",
        report.failed.len(),
        report.sent,
        report.failed
    );
    assert_eq!(report.answered, report.sent);
    let due = report.took.as_secs_f64() * f64::from(RATE);
    assert!(report.sent as f64 >= due * 0.9, "only {} of {due} were sent: no open loop", report.sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_of_20_s_under_200_requests_a_second_for_two_minutes_fail_none() {
    let (mesh, _app, web) = short_lived().await;
    let load = Load::start(web.address, web.port(9000), RATE);
    let first = web.identity().await["serial"].clone();
    sleep_until(Instant::now() + Duration::from_secs(120)).await; // the promise is about two minutes
    assert_none_failed(&load.stop().await);
    assert_ne!(web.identity().await["serial"], first, "no leaf was renewed: the test proves nothing");
    assert!(web.metric("signet_svid_issued_total", &[]).await >= 6.0);
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_rotates_under_load_while_ca_and_controller_are_killed_in_each_of_its_four_states() {
    let (mesh, _app, web) = short_lived().await;
    let before = mesh.ca("/v1/status").await.unwrap();
    let load = Load::start(web.address, web.port(9000), RATE);
    mesh.ca_post("/v1/rotate").await.unwrap();
    for state in ["prepare", "converge", "activate", "retire"] {
        rotation_reaches(&mesh, state).await;
        mesh.local.kill_child("ca").await.unwrap();
        mesh.local.kill_child("controller").await.unwrap();
    }
    rotation_reaches(&mesh, "steady").await;
    let after = mesh.ca("/v1/status").await.unwrap();
    assert_eq!(after["roots"].as_array().unwrap().len(), 1, "{after}");
    assert_ne!(after["roots"][0]["id"], before["roots"][0]["id"], "the root is the old one");
    assert_none_failed(&load.stop().await);
    assert_eq!(web.send(9000, b"under the new root").await.unwrap(), b"under the new root");
    mesh.finish().await;
}

async fn rotation_reaches(mesh: &Mesh, state: &str) {
    let patience = Duration::from_secs(90); // two leaf lives, skew, and a slow machine
    eventually(&format!("rotation to reach {state}"), patience, async || {
        let status = mesh.ca("/v1/status").await.ok()?;
        (status["rotation"]["state"] == state).then_some(())
    })
    .await;
}

#[tokio::test]
async fn with_the_ca_down_past_expiry_the_mesh_is_closed_and_back_within_10_s_of_its_return() {
    let (mesh, app, web) = short_lived().await;
    let mut live = signet_tests::client::dial(web.address, web.port(9000)).await.unwrap();
    signet_tests::client::ping(&mut live, b"valid").await.unwrap();
    mesh.local.stop_child("ca").await.unwrap();
    let api = mesh.workload("shop/api");
    for workload in [&web, &api] {
        eventually(&format!("{}'s leaf to expire", workload.name), SOON * 3, async || {
            (workload.metric("signet_svid_expired", &[]).await == 1.0).then_some(())
        })
        .await;
        assert!(!workload.is_ready().await);
    }
    let served = app.connections();
    assert!(web.send(9000, b"secret").await.is_err());
    assert!(
        signet_tests::client::ping(&mut live, b"secret").await.is_err(),
        "a busy connection outlived our leaf"
    );
    assert_eq!(app.connections(), served);
    web.tells("no_certificate").await;
    mesh.local.start_child("ca").await.unwrap();
    let back = Instant::now();
    eventually("the mesh to be back", SOON, async || web.send(9000, b"hello").await.ok()).await;
    assert!(back.elapsed() < Duration::from_secs(10), "back after {:?}", back.elapsed());
    mesh.finish().await;
}

#[tokio::test]
async fn a_distrusted_root_cuts_what_rests_on_it_and_the_mesh_goes_on_under_a_new_one() {
    let (mesh, _app, web) = short_lived().await;
    let mut live = signet_tests::client::dial(web.address, web.port(9000)).await.unwrap();
    signet_tests::client::ping(&mut live, b"trusted").await.unwrap();
    let root = mesh.ca("/v1/status").await.unwrap()["roots"][0]["id"].as_str().unwrap().to_owned();
    mesh.ca_post_json("/v1/distrust", &serde_json::json!({"root": root})).await.unwrap();
    eventually("the live connection to be cut", SOON, async || {
        signet_tests::client::ping(&mut live, b"?").await.err()
    })
    .await;
    eventually("traffic under the new root", SOON, async || web.send(9000, b"hello").await.ok()).await;
    let status = mesh.ca("/v1/status").await.unwrap();
    assert_ne!(status["rotation"]["state"], "prepare", "{status}");
    mesh.finish().await;
}
