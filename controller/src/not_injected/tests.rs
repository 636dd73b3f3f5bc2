use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use signet_core::telemetry;
use tokio::time::advance;

use super::*;
use crate::{
    build::{Manifest, mesh, namespace, objects, pod},
    index::{Membership, Mesh},
    source::cluster::double::Double,
};

fn index<const N: usize>(manifests: [Manifest; N]) -> Arc<Index> {
    Arc::new(Index::build(&Mesh { membership: Membership::Injected, ..mesh() }, &objects(manifests)))
}

/// Created now, of Deployment <name>.
fn new(name: &str) -> Manifest {
    let now = Timestamp::from_second(clock::unix_now()).unwrap();
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-5d8"), "uid": "x", "controller": true}]);
    let pod = pod(name).with("/metadata/uid", format!("uid-of-{name}"));
    pod.with("/metadata/creationTimestamp", now.to_string()).with("/metadata/ownerReferences", owner)
}

/// A controller that writes to `api`.
fn controller(api: &Double, index: Arc<Index>) -> (watch::Sender<Arc<Snapshot>>, Drain) {
    let (snapshots, seen) = watch::channel(Arc::new(Snapshot::new(index, None)));
    let drain = Drain::new();
    start(api.client(), seen, Arc::new(Metrics::new(&mut telemetry::Metrics::new())), &drain);
    (snapshots, drain)
}

/// (Pod, message) of each event, after `seconds`.
async fn written(api: &Double, seconds: u64) -> Vec<(String, String)> {
    sleep(Duration::from_secs(seconds)).await;
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let of = |event: &serde_json::Value| (text(&event["involvedObject"]["name"]), text(&event["message"]));
    api.posted().iter().map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn a_labelled_pod_without_proxy_gets_one_event_that_says_why_and_what_to_do() {
    let api = Double::default();
    let opted_out = new("out").label("signet.dev/inject", "disabled");
    let leaving = new("old").with("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z");
    let on_host = new("agent").with("/spec/hostNetwork", true);
    let _controller = controller(&api, index([namespace("shop"), new("web"), on_host, opted_out, leaving]));
    assert!(written(&api, 9).await.is_empty(), "it may be restarted this moment");
    let events = written(&api, 60).await;
    let names: Vec<&str> = events.iter().map(|(pod, _)| pod.as_str()).collect();
    assert_eq!(names, ["agent", "web"]);
    assert!(
        events[0].1.contains("its node's network") && events[0].1.contains("Next: drop hostNetwork"),
        "{events:?}"
    );
    assert!(events[1].1.ends_with("kubectl -n shop rollout restart deployment/web"), "{events:?}");
    let event = &api.posted()[1];
    assert_eq!((&event["reason"], &event["type"]), (&json!("NotInjected"), &json!("Warning")));
    assert_eq!(event["involvedObject"]["uid"], "uid-of-web");
}

#[tokio::test(start_paused = true)]
async fn two_replicas_and_one_that_starts_again_write_it_once() {
    let api = Double::default();
    let _first = controller(&api, index([namespace("shop"), new("web")]));
    let (_snapshots, second) = controller(&api, index([namespace("shop"), new("web")]));
    assert_eq!(written(&api, 60).await.len(), 1);
    second.run(Duration::ZERO).await;
    let _again = controller(&api, index([namespace("shop"), new("web")]));
    assert_eq!(written(&api, 60).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_starts_does_not_speak_of_pods_whose_event_may_be_forgotten_but_of_a_namespace_labelled_since()
 {
    let api = Double::default();
    let old = || new("web").with("/metadata/creationTimestamp", "2026-01-01T00:00:00Z");
    let (snapshots, _drain) = controller(&api, index([namespace("shop"), old()]));
    assert!(written(&api, 60).await.is_empty());
    let bare = namespace("jobs").label("signet.dev/inject", "disabled");
    let import = || old().in_namespace("jobs").with("/metadata/uid", "another");
    let (other, _drain) = controller(&api, index([bare, import()]));
    assert!(written(&api, 60).await.is_empty());
    other.send_replace(Arc::new(Snapshot::new(index([namespace("jobs"), import()]), None)));
    assert_eq!(written(&api, 60).await.len(), 1, "labelled before our eyes");
    drop(snapshots);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_of_a_thousand_pods_is_no_storm() {
    let api = Double::default();
    let all: Vec<Manifest> = (0..1000).map(|n| new(&format!("web-{n}"))).chain([namespace("shop")]).collect();
    let all: Vec<_> = all.iter().flat_map(Manifest::objects).collect();
    let mesh = Mesh { membership: Membership::Injected, ..mesh() };
    let _controller = controller(&api, Arc::new(Index::build(&mesh, &all)));
    let after_a_minute = written(&api, 60).await.len();
    assert!((200..=251).contains(&after_a_minute), "{after_a_minute}");
    assert_eq!(written(&api, 200).await.len(), 1000, "all of them, in the end");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_takes_no_events_is_asked_again_later() {
    let api = Double::default();
    api.refuse(&["events"], 503);
    let _controller = controller(&api, index([namespace("shop"), new("web")]));
    assert!(written(&api, 60).await.is_empty());
    api.refuse(&["events"], 0);
    advance(RETRY).await;
    assert_eq!(written(&api, 5).await.len(), 1);
}

/// A quota for events, or an admission policy.
#[tokio::test(start_paused = true)]
async fn a_namespace_that_takes_no_events_keeps_no_other_from_its_own() {
    let api = Double::default();
    api.forbid_events("shop", "events \"web\" is forbidden: exceeded quota: few, used: count/events=0");
    let other = || new("zoo").in_namespace("zoo");
    let _controller = controller(&api, index([namespace("shop"), namespace("zoo"), new("web"), other()]));
    let names: Vec<String> = written(&api, 60).await.into_iter().map(|(pod, _)| pod).collect();
    assert_eq!(names, ["zoo"]);
    // Without the right to write any, all of them wait for it.
    let api = Double::default();
    api.forbid_events(
        "zoo",
        "events is forbidden: User \"x\" cannot create resource \"events\" in API group \"\"",
    );
    let _controller = controller(&api, index([namespace("zoo"), other()]));
    assert!(written(&api, 60).await.is_empty());
    api.forbid_events("", "");
    assert_eq!(written(&api, 60).await.len(), 1);
}

#[test]
fn an_events_name_is_a_dns_name_of_at_most_253_bytes_whatever_the_pod_is_called() {
    let long = format!("{}.x", "a-".repeat(125));
    let index = index([namespace("shop"), new("web"), new(&long)]);
    for name in ["web", &long] {
        let pod = index.pod("shop", name).unwrap();
        let (event, other) = (
            events::name(&warning(pod, &Obstacle::NotAsked)),
            events::name(&warning(pod, &Obstacle::HostNetwork)),
        );
        assert!(event.len() <= 253 && event != other && !event.contains("-."), "{event}");
    }
}
