//! The long promises, run by `make soak`. Each leaves docs/soak/<line>.json.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::time::Duration;

use serde_json::json;
use signet_tests::{
    apps::{App, Does, pattern},
    client::dial,
    manifests::Pod,
    mesh::Mesh,
    record::Record,
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

const GIB: u64 = 1 << 30;
const PIECE: usize = 64 * 1024;
/// A hang, not a measure.
const PATIENCE: Duration = Duration::from_secs(600);

async fn pair(does: Does) -> (Mesh, App, Workload) {
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .strict("shop")
        .start()
        .await;
    let app = mesh.run("shop/api", 8080, does).await;
    let web = mesh.workload("shop/web");
    (mesh, app, web)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: make soak"]
async fn one_gib_each_way_arrives_whole() {
    let record = Record::begin("soak", "3.2b").unwrap();
    let (mesh, _app, web) = pair(Does::Source(GIB)).await;
    let begun = Instant::now();
    timeout(PATIENCE, download(&web)).await.unwrap();
    let down = begun.elapsed().as_secs_f64();
    mesh.finish().await;

    let (mesh, app, web) = pair(Does::Sink).await;
    let begun = Instant::now();
    timeout(PATIENCE, upload(&web)).await.unwrap();
    let up = begun.elapsed().as_secs_f64();
    assert_eq!(app.received(), GIB);
    mesh.finish().await;
    record.held(&json!({"downMiBPerSecond": 1024.0 / down, "upMiBPerSecond": 1024.0 / up})).unwrap();
}

async fn download(web: &Workload) {
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    let (mut at, mut buffer) = (0, vec![0; PIECE]);
    loop {
        let n = client.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        assert_eq!(buffer[..n], pattern(at, n)[..], "at {at}");
        at += n as u64;
    }
    assert_eq!(at, GIB);
}

async fn upload(web: &Workload) {
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    let mut at = 0;
    while at < GIB {
        let piece = pattern(at, PIECE);
        client.write_all(&piece).await.unwrap();
        at += PIECE as u64;
    }
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, GIB.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: make soak"]
async fn ten_thousand_short_connections_fail_none() {
    let record = Record::begin("soak", "3.2d").unwrap();
    let (mesh, app, web) = pair(Does::Echo).await;
    let begun = Instant::now();
    let workers = (0..8_u64).map(|worker| {
        let web = web.clone();
        async move {
            for n in 0..1250_u64 {
                let words = format!("{worker}/{n}");
                assert_eq!(web.send(9000, words.as_bytes()).await.unwrap(), words.as_bytes());
            }
        }
    });
    futures_util::future::join_all(workers).await;
    assert_eq!(app.connections(), 10_000);
    let took = begun.elapsed().as_secs_f64();
    mesh.finish().await;
    record.held(&json!({"connections": 10_000, "connectionsPerSecond": 10_000.0 / took})).unwrap();
}
