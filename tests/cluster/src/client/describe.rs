//! Objects as a person reads them, in the error of a failed test.

use k8s_openapi::api::core::v1::{ContainerState, Event, Node, Pod};
use kube::{Api, Client, Resource, ResourceExt as _, api::LogParams};
use serde::Serialize;

use super::Namespace;

/// YAML without what only the API server cares for.
pub(super) fn yaml<K: Resource + Serialize>(mut object: K) -> String {
    object.meta_mut().managed_fields = None;
    serde_saphyr::to_string(&object).unwrap_or_else(|error| error.to_string())
}

/// Pods, events and last logs of a namespace. What cannot be read is said in its place: this is the report of a failure.
pub(super) async fn namespace(namespace: &Namespace) -> String {
    let mut text = format!("==== {namespace}: pods\n");
    let pods = match namespace.api::<Pod>().list(&Default::default()).await {
        Ok(pods) => pods.items,
        Err(error) => return text + &format!("{error}\n"),
    };
    for pod in &pods {
        text += &pod_line(pod);
    }
    text += &events(&namespace.api()).await;
    let api = namespace.api::<Pod>();
    for pod in &pods {
        for container in containers(pod) {
            text += &format!("==== log of {} {container}\n", pod.name_any());
            text += &log(&api, &pod.name_any(), container).await;
        }
    }
    text + &cluster(&namespace.cluster.client).await
}

/// Nodes, and what happened in kube-system: whether it was the story's own fault.
async fn cluster(client: &Client) -> String {
    let mut text = "==== nodes\n".to_owned();
    match Api::<Node>::all(client.clone()).list(&Default::default()).await {
        Ok(nodes) => {
            for node in nodes {
                let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
                for condition in conditions.into_iter().flatten() {
                    let since = condition.last_transition_time.as_ref().map(|time| time.0.to_string());
                    let (kind, status) = (&condition.type_, &condition.status);
                    text += &format!(
                        "{}: {kind}={status} since {}\n",
                        node.name_any(),
                        since.unwrap_or_default()
                    );
                }
            }
        }
        Err(error) => text += &format!("{error}\n"),
    }
    text + "==== kube-system\n" + &events(&Api::namespaced(client.clone(), "kube-system")).await
}

async fn events(api: &Api<Event>) -> String {
    let mut text = "==== events\n".to_owned();
    match api.list(&Default::default()).await {
        Ok(mut events) => {
            events.items.sort_by_key(|event| event.metadata.creation_timestamp.clone());
            for event in events {
                let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
                let about = event.involved_object.name.unwrap_or_default();
                let last = event.last_timestamp.map(|time| time.0.to_string()).unwrap_or_default();
                text += &format!("{last} {about}: {reason}: {message}\n");
            }
        }
        Err(error) => text += &format!("{error}\n"),
    }
    text
}

fn containers(pod: &Pod) -> impl Iterator<Item = &str> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
        .map(|one| one.name.as_str())
}

async fn log(api: &Api<Pod>, pod: &str, container: &str) -> String {
    let last =
        LogParams { container: Some(container.into()), tail_lines: Some(LOG_LINES), ..LogParams::default() };
    match api.logs(pod, &last).await {
        Ok(log) => log + "\n",
        Err(error) => format!("{error}\n"),
    }
}

fn pod_line(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("no node");
    let Some(status) = &pod.status else { return format!("{} on {node}\n", pod.name_any()) };
    let mut line = format!("{} on {node}: {}", pod.name_any(), status.phase.as_deref().unwrap_or("no phase"));
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers {
        let state = container.state.as_ref().map_or_else(|| "no state".into(), state);
        let ready = if container.ready { "ready" } else { "not ready" };
        line += &format!("; {} {ready}, {state}, restarts {}", container.name, container.restart_count);
    }
    line + "\n"
}

fn state(state: &ContainerState) -> String {
    if let Some(waiting) = &state.waiting {
        let (reason, message) = (waiting.reason.as_deref(), waiting.message.as_deref());
        return format!("waiting ({} {})", reason.unwrap_or_default(), message.unwrap_or_default());
    }
    match &state.terminated {
        Some(ended) => {
            format!("ended with {} ({})", ended.exit_code, ended.reason.as_deref().unwrap_or_default())
        }
        None => "running".into(),
    }
}

/// Enough for a stack trace.
const LOG_LINES: i64 = 30;
