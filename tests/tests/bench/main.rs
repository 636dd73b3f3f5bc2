//! The numbers that issues promise about the whole system, run by `make bench`. Each leaves docs/bench/<line>.json.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]
#![expect(
    clippy::large_futures,
    reason = "the bound is for connections of the product; a test waits with one future"
)]

mod controller;
mod edge;
mod edge_process;

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::{Value, json};
use signet_tests::{binaries::binary, record::Record, unprivileged::Unprivileged};

/// From the demo's start to the first answer over mutual TLS: keys, CA, controller, five processes and two leaves.
#[tokio::test]
#[ignore = "bench: make bench"]
async fn the_first_mtls_byte_of_the_demo_flows_within_two_seconds() {
    let record = Record::begin("bench", "3.6b").unwrap();
    let user = Unprivileged::new().unwrap();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let mut demo = user.signet("signet");
        demo.args(["demo", "--once", "-o", "json"]);
        let report: Value = serde_json::from_str(&user.output(demo).await.unwrap()).unwrap();
        times.push(report["firstByteMilliseconds"].as_u64().unwrap());
    }
    times.sort_unstable();
    assert!(times[RUNS - 1] <= PROMISED, "{times:?} ms");
    record.held(&json!({"promisedMilliseconds": PROMISED, "milliseconds": times})).unwrap();
}

/// The slowest of these counts.
const RUNS: usize = 7;
const PROMISED: u64 = 2_000;

/// From `signet-cluster up`, with everything built, to two Ready nodes and the first pod.
#[test]
#[ignore = "bench: make bench"]
fn with_a_warm_cache_the_test_cluster_is_ready_in_less_than_20_s() {
    let record = Record::begin("bench", "4.1b").unwrap();
    cluster(&["down"]);
    let (mut nodes, mut pods) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let steps = String::from_utf8(cluster(&["up"]).stderr).unwrap();
        cluster(&["down"]);
        nodes.push(seconds(&steps, "nodes Ready"));
        pods.push(seconds(&steps, "first pod (CoreDNS) Ready"));
    }
    assert!(pods.iter().all(|&pod| pod < START_PROMISED), "{pods:?} s");
    let numbers =
        json!({"promisedSeconds": START_PROMISED, "nodesReadySeconds": nodes, "firstPodReadySeconds": pods});
    record.held(&numbers).unwrap();
}

/// Bytes of a process, the binary's text included.
fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn cluster(arguments: &[&str]) -> Output {
    let output =
        Command::new(binary("signet-cluster")).args(["--name", "bench"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Of a line like "   8.1 s  nodes Ready".
fn seconds(steps: &str, step: &str) -> f64 {
    let line = steps.lines().find(|line| line.ends_with(step)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

const STARTS: usize = 5;
const START_PROMISED: f64 = 20.0;
