//! What a cluster of 1 000 Pods and 200 Services costs at 10 changes a second (design 12). Ignored, because it takes half a minute:
//! `cargo test --workspace --lib -- --ignored --nocapture measure`, with `--config profile.dev.package.signet-controller.opt-level=2`
//! for numbers that are near a release build's.

use std::{fs, time::Instant};

use serde_json::json;
use signet_api::{ADDRESS, xds::DeltaDiscoveryRequest};
use signet_core::{
    identity::{self, TrustDomain},
    telemetry,
    trust::Trust,
};
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};

use crate::{
    build::{Manifest, namespace, pod, service, slice},
    follow::{self, Builder, Followed},
    index::Index,
    resources::{Subscriber, Type},
    source::{Object, cluster::double::Double},
    subscriptions::Subscriptions,
    *,
};

/// As a Deployment's Pod comes from the API server, 10 kB with all that we do not read.
fn web(n: usize, generation: usize) -> Manifest {
    let env: Vec<_> = (0..60)
        .map(|n| json!({"name": format!("SOME_SETTING_{n}"), "value": "some value of an application that has many of them, and long"}))
        .collect();
    let app = json!({"name": "app", "image": "registry.example.com/shop/web:1.2.3", "env": env,
        "ports": [{"name": "http", "containerPort": 8080}], "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}});
    let proxy =
        json!({"name": "signet-proxy", "restartPolicy": "Always", "image": "signet:0.1.0", "env": env});
    let ready = if generation.is_multiple_of(2) { "True" } else { "False" };
    let pod = pod(&format!("web-{n}"))
        .at(&address(n))
        .with("/metadata/labels/app", format!("web-{}", n % SERVICES));
    pod.label("pod-template-hash", "5d8f9c7b6")
        .with("/spec/serviceAccountName", "web")
        .with("/spec/nodeName", format!("node-{}", n % 30))
        .with("/spec/containers", json!([app]))
        .with("/spec/initContainers", json!([proxy]))
        .with("/status/phase", "Running")
        .with(
            "/status/conditions",
            json!([{"type": "Ready", "status": ready}, {"type": "Initialized", "status": "True"}]),
        )
}

fn address(n: usize) -> String {
    format!("10.1.{}.{}", n / 250, n % 250 + 1)
}

/// Of Service `n`, with all its Pods, of which the first is ready in even generations.
fn endpoints(n: usize, generation: usize) -> Manifest {
    let endpoint = |pod: usize| {
        let ready = pod != n || generation.is_multiple_of(2);
        json!({"addresses": [address(pod)], "nodeName": format!("node-{}", pod % 30), "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": format!("web-{pod}"), "namespace": "shop", "uid": "x"}})
    };
    (n..PODS)
        .step_by(SERVICES)
        .fold(slice(&format!("web-{n}"), 8080), |slice, pod| slice.endpoint(endpoint(pod)))
}

fn cluster_ip(n: usize) -> String {
    format!("10.96.0.{}", n + 1)
}

/// kB that this process holds in memory.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute in an optimized build"]
async fn measure_a_thousand_pods_and_ten_changes_a_second() {
    let api = Double::default();
    api.set(namespace("shop"));
    (0..PODS).for_each(|n| api.set(web(n, 0)));
    for n in 0..SERVICES {
        api.set(
            service(&format!("web-{n}"))
                .cluster_ip(&cluster_ip(n))
                .with("/spec/ports", json!([{"name": "http", "port": 80}])),
        );
        api.set(endpoints(n, 0));
    }
    let (before, drain, mut registry) = (resident(), Drain::new(), telemetry::Metrics::new());
    let metrics = Arc::new(Metrics::new(&mut registry));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let builder = Builder {
        mesh: Mesh { membership: Membership::Injected, ..Mesh::new(domain.clone()) },
        trust: Trust::new(domain),
        reports: Arc::default(),
        metrics: Arc::clone(&metrics),
    };
    let started = Instant::now();
    let cluster = Cluster::watch(&api.client(), &metrics, &drain);
    let Followed { snapshots, .. } = follow::cluster(cluster, builder, &drain).await;
    println!("synced after {:?}, {} kB more", started.elapsed(), resident() - before);

    let index = Arc::clone(&snapshots.borrow().index);
    assert_eq!((index.pods.len(), index.services.len()), (PODS, SERVICES));
    drop(index);

    // Proxies with 20 Services each; what they get is told to us.
    let (told, mut heard) = mpsc::channel(100_000);
    for n in 0..PROXIES {
        let (mut snapshots, told) = (snapshots.clone(), told.clone());
        let id = identity::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let who = Subscriber { id, address: address(n).parse().unwrap() };
        drain.spawn(async move {
            let mut subscriptions = Subscriptions::default();
            let names = (0..20).map(|k| cluster_ip((n + k * 7) % SERVICES)).collect();
            let request = |names, nonce: String| DeltaDiscoveryRequest {
                type_url: ADDRESS.into(),
                resource_names_subscribe: names,
                response_nonce: nonce,
                ..Default::default()
            };
            subscriptions.request(request(names, String::new())).unwrap();
            loop {
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                subscriptions.touch();
                if let Some(response) = subscriptions.next(Type::Address, &snapshot, &who, |_, _| {}) {
                    let names: Vec<String> = response.resources.into_iter().map(|r| r.name).collect();
                    subscriptions.request(request(Vec::new(), response.nonce)).unwrap();
                    let _ = told.try_send((Instant::now(), names));
                }
                if snapshots.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    sleep(Duration::from_secs(2)).await;
    while heard.try_recv().is_ok() {}

    let mut took = Vec::new();
    let mut tick = interval(Duration::from_millis(100));
    for change in 0..CHANGES {
        tick.tick().await;
        let (n, generation) = (change % SERVICES, change / SERVICES + 1);
        let began = Instant::now();
        api.set(web(n, generation));
        api.set(endpoints(n, generation));
        let name = cluster_ip(n);
        // All the proxies that ask for it: 20 of 200 names each.
        let mut left = PROXIES * 20 / SERVICES;
        while left > 0 {
            let (at, names) = heard.recv().await.unwrap();
            if names.contains(&name) {
                left -= 1;
                took.push(at - began);
            }
        }
    }
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{} answers: p50 {:?}, p99 {:?}, last {:?}; {} indexes; {} kB more",
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        metrics.indexes.get(),
        resident() - before
    );
    let objects: Vec<_> = {
        let mut cluster = Cluster::watch(&api.client(), &metrics, &drain);
        cluster.changed().await;
        cluster.objects()
    };
    let mesh = Mesh { membership: Membership::Injected, ..crate::build::mesh() };
    let began = Instant::now();
    for _ in 0..20 {
        drop(Index::build(&mesh, &objects));
    }
    println!("one index: {:?}", began.elapsed() / 20);
    let before = resident();
    let copies: Vec<_> = (0..5)
        .map(|_| {
            let copy: Vec<_> = objects.iter().map(|object| Arc::new(Object::clone(object))).collect();
            (Index::build(&mesh, &copy), copy)
        })
        .collect();
    let held = (resident() - before) / copies.len();
    println!("objects and index: {held} kB");
    assert!(at(0.99) < Duration::from_millis(200), "{:?}", at(0.99));
    assert!(held < 20_000, "twice that (old index and new) and a page of a list stay far below 100 MB");
    drain.run(Duration::ZERO).await;
}

const PODS: usize = 1000;
const SERVICES: usize = 200;
/// A multiple of [`SERVICES`].
const PROXIES: usize = 200;
const CHANGES: usize = 100;
