//! Probes and hooks that the kubelet would send to the app: under strict the app's ports are closed to it, so it asks the
//! proxy, at a fixed path for each, and the proxy asks the app.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Map, Value, json};
use signet_core::pod::{Ask, HttpAsk, PAGES_PORT, Probe, ProbeKind};

use crate::{judge::View, ours, verdict::Refusal};

/// The originals, `{"<container>": {"livenessProbe": {..}, "preStop": {..}}}`: annotation [`signet_core::pod::ORIGINAL_PROBES`].
pub(crate) type Originals = BTreeMap<String, BTreeMap<String, Value>>;

/// What was rewritten.
#[derive(Debug, Default)]
pub(crate) struct Rewritten {
    pub probes: Vec<Probe>,
    pub originals: Originals,
    pub warnings: Vec<String>,
}

/// Rewrites the probes and hooks of `pod`, whose typed twin is `view`. What runs in the container (exec, sleep) stays. A
/// rewritten one that stands in `found`, the pod as it came, with the API server's defaults in it, is as good as a new one.
pub(crate) fn rewrite(pod: &mut Value, view: &View, found: &Value) -> Rewritten {
    let mut done = Rewritten::default();
    let grace = view.spec.termination_grace_period_seconds.unwrap_or(GRACE);
    let restartable = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let lists = [
        ("initContainers", view.spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", view.spec.containers.as_slice()),
    ];
    for (list, containers) in lists {
        for (n, container) in containers.iter().enumerate() {
            if list == "initContainers" && !restartable(container) {
                continue; // it has neither
            }
            let raw = pod.pointer_mut(&format!("/spec/{list}/{n}")).and_then(Value::as_object_mut);
            let Some(raw) = raw else { continue };
            for kind in KINDS {
                let before = standing(found, list, &container.name, kind);
                one(raw, container, kind, grace, before, &mut done);
            }
        }
    }
    done
}

fn one(
    raw: &mut Map<String, Value>,
    container: &Container,
    kind: ProbeKind,
    grace: i64,
    before: Option<&Value>,
    done: &mut Rewritten,
) {
    let (ask, timeout) = match asked(container, kind, grace) {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(port) => {
            let (name, kind) = (&container.name, kind.word());
            let warning =
                format!("signet: container {name} has no port {port:?}: its {kind} probe stays as it is");
            return done.warnings.push(warning);
        }
    };
    let probe = Probe {
        container: container.name.clone(),
        kind,
        ask,
        timeout_seconds: u32::try_from(timeout).unwrap_or(1),
    };
    let Some(at) = place(raw, kind) else { return };
    let mut rewritten = Value::Object(Map::from_iter(
        at.as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| !HANDLERS.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone())),
    ));
    rewritten["httpGet"] = json!({ "path": probe.path(), "port": PAGES_PORT, "scheme": "HTTP" });
    if let Some(before) = before.filter(|before| ours::covers(before, &rewritten)) {
        rewritten = before.clone();
    }
    let original = std::mem::replace(at, rewritten);
    done.originals.entry(container.name.clone()).or_default().insert(field(kind).to_owned(), original);
    done.probes.push(probe);
}

/// Puts the originals back, where the rewritten ones still stand.
pub(crate) fn restore(pod: &mut Value, originals: &str) -> Result<(), Refusal> {
    let originals: Originals = serde_json::from_str(originals).map_err(|error| Refusal::BadSetting {
        why: format!("annotation {}: {error}; it is ours, do not edit it", signet_core::pod::ORIGINAL_PROBES),
    })?;
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else {
                continue;
            };
            for kind in KINDS {
                let original = originals.get(&name).and_then(|fields| fields.get(field(kind)));
                let (Some(original), Some(at)) = (original, place(container, kind)) else { continue };
                if is_ours(at, &name, kind) {
                    *at = original.clone();
                }
            }
        }
    }
    Ok(())
}

fn is_ours(probe: &Value, container: &str, kind: ProbeKind) -> bool {
    let get = |field: &str| probe.pointer(&format!("/httpGet/{field}"));
    let path = format!("/probe/{container}/{}", kind.word());
    get("path").and_then(Value::as_str) == Some(&*path)
        && get("port").and_then(Value::as_u64) == Some(PAGES_PORT.into())
}

/// What to ask and how long the app may take, seconds. None: there is none of this kind, or it is not asked over the network.
/// Errors: a port that the container does not have, as the kubelet would say at each try.
fn asked(container: &Container, kind: ProbeKind, grace: i64) -> Result<Option<(Ask, i64)>, String> {
    let lifecycle = container.lifecycle.as_ref();
    let hook = |hook: Option<&k8s_openapi::api::core::v1::LifecycleHandler>, timeout| {
        let Some(get) = hook.and_then(|hook| hook.http_get.as_ref()) else { return Ok(None) };
        Ok(Some((http(container, get)?, timeout)))
    };
    let probe = match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::PostStart => return hook(lifecycle.and_then(|l| l.post_start.as_ref()), POST_START),
        ProbeKind::PreStop => return hook(lifecycle.and_then(|l| l.pre_stop.as_ref()), grace.max(1)),
    };
    let Some(probe) = probe else { return Ok(None) };
    let ask = if let Some(get) = &probe.http_get {
        http(container, get)?
    } else if let Some(tcp) = &probe.tcp_socket {
        Ask::Tcp { port: port(container, &tcp.port)?, host: host(&tcp.host) }
    } else if let Some(grpc) = &probe.grpc {
        let port = port(container, &IntOrString::Int(grpc.port))?;
        Ask::Grpc { port, service: grpc.service.clone().unwrap_or_default() }
    } else {
        return Ok(None);
    };
    Ok(Some((ask, probe.timeout_seconds.unwrap_or(1).max(1).into())))
}

fn http(container: &Container, get: &HTTPGetAction) -> Result<Ask, String> {
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" }; // as the kubelet's URL has it
    Ok(Ask::Http(HttpAsk {
        https: get.scheme.as_deref() == Some("HTTPS"),
        port: port(container, &get.port)?,
        path: format!("{slash}{path}"),
        host: host(&get.host),
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    }))
}

fn host(host: &Option<String>) -> Option<String> {
    host.clone().filter(|host| !host.is_empty())
}

/// As the kubelet does: a name among the container's own ports, else a number.
fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map_or_else(|| name.parse().ok(), |port| u16::try_from(port.container_port).ok())
        }
    };
    let shown = || match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.chars().take(63).collect(),
    };
    number.filter(|number| *number != 0).ok_or_else(shown)
}

/// The same probe or hook of another copy of the pod.
fn standing<'a>(pod: &'a Value, list: &str, container: &str, kind: ProbeKind) -> Option<&'a Value> {
    let containers = pod.get("spec")?.get(list)?.as_array()?;
    let container =
        containers.iter().find(|item| item.get("name").and_then(Value::as_str) == Some(container))?;
    match kind {
        ProbeKind::PostStart | ProbeKind::PreStop => container.get("lifecycle")?.get(field(kind)),
        _ => container.get(field(kind)),
    }
}

/// Where a probe or hook stands in its container.
fn place(container: &mut Map<String, Value>, kind: ProbeKind) -> Option<&mut Value> {
    match kind {
        ProbeKind::PostStart | ProbeKind::PreStop => {
            container.get_mut("lifecycle")?.as_object_mut()?.get_mut(field(kind))
        }
        _ => container.get_mut(field(kind)),
    }
}

fn field(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "startupProbe",
        ProbeKind::Liveness => "livenessProbe",
        ProbeKind::Readiness => "readinessProbe",
        ProbeKind::PostStart => "postStart",
        ProbeKind::PreStop => "preStop",
    }
}

const KINDS: [ProbeKind; 5] =
    [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness, ProbeKind::PostStart, ProbeKind::PreStop];
/// The ways to ask over the network, of which a probe has one.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
/// Kubernetes' default terminationGracePeriodSeconds, within which a preStop hook must end.
const GRACE: i64 = 30;
/// Seconds. The kubelet waits for a postStart hook without end; a container that is not up after an hour will not be.
const POST_START: i64 = 3600;
