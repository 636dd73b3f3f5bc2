//! What we add to a pod: two containers at the front of initContainers, one volume. Nothing in them depends on our version
//! but the image, so an upgrade of the injector changes no pod.

use std::{collections::BTreeSet, fmt::Display};

use serde_json::{Map, Value, json};
use signet_core::pod::{
    CAPTURE_CONTAINER, IDENTITY_DIR, IDENTITY_VOLUME, MESH, PAGES_PORT, POD_IPS, POD_NAME, POD_NAMESPACE,
    POD_UPSTREAMS, PROBES, PROXY_CONTAINER, PROXY_UID, Probe, SERVICE_ACCOUNT, TOKEN_AUDIENCE,
    TRUST_BUNDLE_KEY, TRUST_CONFIG_MAP,
};

use crate::{Settings, judge::Wishes, quantity::Quantity};

/// Redirects the pod's connections, and ends.
pub(crate) fn capture(settings: &Settings, wishes: &Wishes, resources: Option<&Value>) -> Value {
    let mut args = vec!["capture".to_owned()];
    let lists = [
        ("--exclude-inbound-ports", list(&wishes.inbound_ports)),
        ("--exclude-outbound-ports", list(&wishes.outbound_ports)),
        ("--exclude-outbound-subnets", list(&wishes.outbound_subnets)),
    ];
    for (flag, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        args.extend([flag.to_owned(), list]);
    }
    container(
        CAPTURE_CONTAINER,
        settings,
        args,
        resources,
        &mut json!({
            "securityContext": security(0, &["NET_ADMIN"]),
            "volumeMounts": [no_api_token()],
        }),
    )
}

/// Carries them, for as long as the pod lives.
pub(crate) fn proxy(
    settings: &Settings,
    wishes: &Wishes,
    probes: &[Probe],
    resources: Option<&Value>,
) -> Value {
    let field =
        |name, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut env = vec![
        field(POD_NAME, "metadata.name"),
        field(POD_NAMESPACE, "metadata.namespace"),
        field(SERVICE_ACCOUNT, "spec.serviceAccountName"),
        field(POD_IPS, "status.podIPs"),
        json!({ "name": MESH, "value": literal(&settings.mesh) }),
    ];
    if !probes.is_empty() {
        env.push(json!({ "name": PROBES, "value": literal(&probes) }));
    }
    if let Some(upstreams) = &wishes.upstreams {
        env.push(json!({ "name": POD_UPSTREAMS, "value": upstreams })); // parsed: it holds no $
    }
    let ready = |more: Value| {
        let get = json!({ "path": "/ready", "port": PAGES_PORT, "scheme": "HTTP" });
        let mut probe = json!({ "httpGet": get, "timeoutSeconds": READY_TIMEOUT, "successThreshold": 1 });
        merge(&mut probe, more);
        probe
    };
    let args = vec!["--pod".to_owned(), "--captured".to_owned()];
    container(
        PROXY_CONTAINER,
        settings,
        args,
        resources,
        &mut json!({
            "restartPolicy": "Always",
            "env": env,
            "startupProbe": ready(json!({ "periodSeconds": 1, "failureThreshold": STARTUP_TRIES })),
            "readinessProbe": ready(json!({ "periodSeconds": READY_PERIOD, "failureThreshold": 1 })),
            "securityContext": security(PROXY_UID, &[]),
            "volumeMounts": [
                { "name": IDENTITY_VOLUME, "mountPath": IDENTITY_DIR, "readOnly": true },
                no_api_token(),
            ],
        }),
    )
}

/// A token that only the CA takes, and the roots.
pub(crate) fn volume() -> Value {
    let token = json!({ "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFE, "path": "token" });
    let items = json!([{ "key": TRUST_BUNDLE_KEY, "path": TRUST_BUNDLE_KEY }]);
    json!({
        "name": IDENTITY_VOLUME,
        "projected": { "sources": [
            { "serviceAccountToken": token },
            { "configMap": { "name": TRUST_CONFIG_MAP, "items": items } },
        ] },
    })
}

fn container(
    name: &str,
    settings: &Settings,
    args: Vec<String>,
    resources: Option<&Value>,
    own: &mut Value,
) -> Value {
    let mut container = json!({
        "name": name,
        "image": settings.image,
        "command": ["/signet-proxy"],
        "args": args,
        // The last words of a capture step that fails then stand in `kubectl describe pod`.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    merge(&mut container, own.take());
    if let Some(resources) = resources {
        container["resources"] = resources.clone();
    }
    container
}

/// Everything is said, so that nothing comes from the pod's securityContext.
fn security(user: i64, add: &[&str]) -> Value {
    let mut capabilities = json!({ "drop": ["ALL"] });
    if !add.is_empty() {
        capabilities["add"] = json!(add);
    }
    json!({
        "runAsUser": user,
        "runAsGroup": user,
        "runAsNonRoot": user != 0,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": capabilities,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// The API server mounts a token for itself into every container that has nothing at this path, ours included. We have
/// no use for one, so something else stands there.
fn no_api_token() -> Value {
    json!({ "name": IDENTITY_VOLUME, "mountPath": API_TOKEN_DIR, "readOnly": true })
}

fn list<T: Display>(list: &BTreeSet<T>) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// JSON as the value of a variable: the kubelet would expand `$(NAME)` in it, and JSON can spell `$` otherwise.
fn literal<T: serde::Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("strings and numbers are JSON");
    json.replace('$', "\\u0024") // outside of a string JSON has none
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// Whether `found` is `wanted` with things added by others since: the API server's defaults, another webhook's variables.
/// Then it stays as it is, or we and they would undo each other's work for ever.
pub(crate) fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            let found = found.get(key);
            match key.as_str() {
                "requests" | "limits" => found.is_some_and(|found| same_amounts(found, wanted)),
                _ => found.is_some_and(|found| covers(found, wanted)),
            }
        }),
        (Value::Array(found), Value::Array(wanted)) if wanted.iter().all(Value::is_object) => {
            wanted.iter().all(|wanted| found.iter().any(|found| covers(found, wanted)))
        }
        (found, wanted) => found == wanted,
    }
}

/// Equal as quantities, and none beside them: a limit more would change the pod's class.
fn same_amounts(found: &Value, wanted: &Value) -> bool {
    let amounts = |list: &Value| -> Option<Map<String, Value>> { list.as_object().cloned() };
    let (Some(found), Some(wanted)) = (amounts(found), amounts(wanted)) else { return false };
    let quantity = |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    found.len() == wanted.len()
        && wanted.iter().all(|(key, wanted)| {
            found.get(key).is_some_and(|found| {
                found == wanted || quantity(found).is_some_and(|q| Some(q) == quantity(wanted))
            })
        })
}

/// Where every client library looks for the API server's token.
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds, renewed by the kubelet at four fifths.
const TOKEN_LIFE: i64 = 3600;
/// Seconds, so a day: without a certificate the proxy waits, and to start it again would only make it wait longer.
const STARTUP_TRIES: i64 = 86_400;
/// Seconds. With the canary's own 10 s, a pod whose rules vanish is out of its Services within 15 s (docs/capture.md).
const READY_PERIOD: i64 = 2;
/// Seconds. It answers from memory; on a starved node that may still take a while, and one failure is enough.
const READY_TIMEOUT: i64 = 3;
