use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::document::Document;

pub(crate) fn settings() -> Settings {
    let mesh = Mesh {
        trust_domain: "cluster.local".into(),
        ca: "ca.signet-system.svc:15012".into(),
        controller: "controller.signet-system.svc:15010".into(),
        mesh_ranges: vec!["10.244.0.0/16".into(), "fd00:10:244::/56".into()],
    };
    Settings { image: "registry.example.com/signet:0.1.0".into(), mesh }
}

fn applied(pod: &Value, outcome: Outcome) -> Value {
    let Outcome::Patch { ops, .. } = outcome else { panic!("{outcome:?}") };
    let mut document = Document::from(pod);
    ops.iter().for_each(|op| document.apply(op).expect("a patch fits its pod"));
    Value::from(&document)
}

fn after(pod: &Value) -> Value {
    applied(pod, inject(pod, None, &settings()))
}

fn refused(pod: &Value) -> Refusal {
    match inject(pod, None, &settings()) {
        Outcome::Refuse(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

/// A pod with one container `app`, to which `spec` is added.
fn pod(spec: Value) -> Value {
    let mut pod = json!({ "metadata": { "name": "web" }, "spec": { "containers": [{ "name": "app", "image": "app" }] } });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

fn annotated(annotations: Value) -> Value {
    let mut pod = pod(json!({}));
    pod["metadata"]["annotations"] = annotations;
    pod
}

#[test]
fn capture_and_proxy_come_first_and_say_everything_about_their_rights() {
    let pod = after(&pod(json!({
        "initContainers": [{ "name": "migrate" }],
        "securityContext": { "runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 2000 },
        "automountServiceAccountToken": false,
        "shareProcessNamespace": true,
    })));
    let names: Vec<&str> =
        pod["spec"]["initContainers"].as_array().unwrap().iter().filter_map(name).collect();
    assert_eq!(names, ["signet-capture", "signet-proxy", "migrate"]);
    let security = |n: usize| pod["spec"]["initContainers"][n]["securityContext"].clone();
    assert_eq!(
        security(0),
        json!({
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "privileged": false,
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    assert_eq!(
        security(1),
        json!({
            "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "privileged": false,
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "app");
}

#[test]
fn nothing_depends_on_the_version_but_the_image() {
    let text = after(&pod(json!({}))).to_string();
    assert_eq!(text.matches(signet_core::VERSION).count(), text.matches("signet:0.1.0").count(), "{text}");
}

#[test]
fn no_container_of_ours_leaves_room_for_a_token_of_the_api_server() {
    let pod = after(&pod(json!({})));
    for container in &pod["spec"]["initContainers"].as_array().unwrap()[..2] {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let shadow = |mount: &&Value| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount";
        assert_eq!(mounts.iter().find(shadow).unwrap()["name"], "signet-identity");
    }
}

#[test]
fn probes_and_hooks_are_asked_of_the_proxy_and_those_inside_the_container_stay() {
    let container = json!({
        "name": "app",
        "ports": [{ "name": "web", "containerPort": 8080 }],
        "livenessProbe": {
            "httpGet": { "path": "healthz?x=$(HOME)", "port": "web", "scheme": "HTTPS", "host": "app.local",
                "httpHeaders": [{ "name": "X-A", "value": "1" }] },
            "timeoutSeconds": 7, "periodSeconds": 3,
        },
        "readinessProbe": { "tcpSocket": { "port": 8080 } },
        "startupProbe": { "grpc": { "port": 9090, "service": "s" }, "failureThreshold": 30 },
        "lifecycle": { "preStop": { "httpGet": { "port": "8081" } }, "postStart": { "exec": { "command": ["x"] } } },
    });
    let sidecar =
        json!({ "name": "log", "restartPolicy": "Always", "startupProbe": { "tcpSocket": { "port": 1 } } });
    let other = json!({ "name": "other", "livenessProbe": { "exec": { "command": ["true"] } },
        "lifecycle": { "preStop": { "sleep": { "seconds": 5 } } } });
    let before = pod(
        json!({ "containers": [container, other], "initContainers": [sidecar], "terminationGracePeriodSeconds": 60 }),
    );
    let pod = after(&before);
    let app = &pod["spec"]["containers"][0];
    let ours = |path: &str| json!({ "path": path, "port": 15020, "scheme": "HTTP" });
    let liveness = json!({ "httpGet": ours("/probe/app/liveness"), "timeoutSeconds": 7, "periodSeconds": 3 });
    assert_eq!(app["livenessProbe"], liveness);
    assert_eq!(app["readinessProbe"], json!({ "httpGet": ours("/probe/app/readiness") }));
    assert_eq!(app["startupProbe"], json!({ "httpGet": ours("/probe/app/startup"), "failureThreshold": 30 }));
    assert_eq!(app["lifecycle"]["preStop"], json!({ "httpGet": ours("/probe/app/pre-stop") }));
    assert_eq!(app["lifecycle"]["postStart"], before["spec"]["containers"][0]["lifecycle"]["postStart"]);
    assert_eq!(pod["spec"]["containers"][1], before["spec"]["containers"][1]);
    assert_eq!(
        pod["spec"]["initContainers"][2]["startupProbe"],
        json!({ "httpGet": ours("/probe/log/startup") })
    );

    let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let probes =
        env.iter().find(|variable| variable["name"] == "SIGNET_PROBES").unwrap()["value"].as_str().unwrap();
    assert!(!probes.contains('$'), "the kubelet would expand it: {probes}");
    let probes: Value = serde_json::from_str(probes).unwrap();
    let http = json!({ "http": { "https": true, "port": 8080, "path": "/healthz?x=$(HOME)", "host": "app.local",
        "headers": [["X-A", "1"]] } });
    assert_eq!(
        probes,
        json!([
            { "container": "log", "kind": "startup", "ask": { "tcp": { "port": 1 } }, "timeoutSeconds": 1 },
            { "container": "app", "kind": "startup", "ask": { "grpc": { "port": 9090, "service": "s" } }, "timeoutSeconds": 1 },
            { "container": "app", "kind": "liveness", "ask": http, "timeoutSeconds": 7 },
            { "container": "app", "kind": "readiness", "ask": { "tcp": { "port": 8080 } }, "timeoutSeconds": 1 },
            { "container": "app", "kind": "preStop", "ask": { "http": { "https": false, "port": 8081, "path": "/" } }, "timeoutSeconds": 60 },
        ])
    );
}

#[test]
fn a_probe_of_a_port_that_is_not_there_stays_with_a_warning() {
    let before =
        pod(json!({ "containers": [{ "name": "app", "livenessProbe": { "httpGet": { "port": "web" } } }] }));
    let Outcome::Patch { warnings, .. } = inject(&before, None, &settings()) else { panic!() };
    assert_eq!(warnings, ["signet: container app has no port \"web\": its liveness probe stays as it is"]);
    assert_eq!(after(&before)["spec"]["containers"], before["spec"]["containers"]);
}

#[test]
fn the_class_of_the_pod_is_kept() {
    let with = |resources: &[Value]| {
        let containers: Vec<Value> = (0..resources.len())
            .map(|n| json!({ "name": format!("c{n}"), "resources": resources[n] }))
            .collect();
        let pod = after(&pod(json!({ "containers": containers })));
        let ours = &pod["spec"]["initContainers"];
        assert_eq!(ours[0].get("resources"), ours[1].get("resources"));
        ours[1].get("resources").cloned()
    };
    let full = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
    let spelled = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1000m", "memory": "1024Mi" } });
    let guaranteed = json!({ "cpu": "200m", "memory": "96Mi" });
    let requests = json!({ "cpu": "10m", "memory": "24Mi" });
    for (case, resources, want) in [
        ("BestEffort", vec![json!({}), Value::Null], None),
        ("zero is nothing", vec![json!({ "requests": { "cpu": "0" } })], None),
        (
            "Guaranteed",
            vec![full.clone(), spelled],
            Some(json!({ "requests": guaranteed, "limits": guaranteed })),
        ),
        ("one without", vec![full.clone(), json!({})], Some(json!({ "requests": requests }))),
        (
            "a quota on memory may be there",
            vec![json!({ "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "memory": "2Gi" } })],
            Some(json!({ "requests": requests, "limits": { "memory": "256Mi" } })),
        ),
    ] {
        assert_eq!(with(&resources), want, "{case}");
    }
    let pod_level = pod(
        json!({ "resources": { "limits": { "cpu": "2" } }, "containers": [{ "name": "a", "resources": full }] }),
    );
    assert_eq!(after(&pod_level)["spec"]["initContainers"][1].get("resources"), None);
}

#[test]
fn annotations_set_what_capture_leaves_alone_and_what_the_proxy_takes() {
    let mut before = annotated(json!({
        "signet.dev/exclude-inbound-ports": "9100, 22",
        "signet.dev/exclude-outbound-ports": "25",
        "signet.dev/exclude-outbound-subnets": "169.254.169.254,fd00:ec2::254/128",
        "signet.dev/upstreams": "9001=api.shop:80",
        "signet.dev/proxy-memory": "200Mi",
    }));
    before["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
    let pod = after(&before);
    let ours = &pod["spec"]["initContainers"];
    assert_eq!(
        ours[0]["args"],
        json!([
            "capture",
            "--exclude-inbound-ports",
            "22,9100",
            "--exclude-outbound-ports",
            "25",
            "--exclude-outbound-subnets",
            "169.254.169.254/32,fd00:ec2::254/128"
        ])
    );
    assert_eq!(ours[1]["resources"]["limits"], json!({ "cpu": "200m", "memory": "200Mi" }));
    let env = ours[1]["env"].as_array().unwrap();
    assert!(env.contains(&json!({ "name": "SIGNET_UPSTREAMS", "value": "9001=api.shop:80" })));
}

#[test]
fn each_reason_not_to_inject_has_its_word() {
    let labelled = |labels: Value| json!({ "metadata": { "labels": labels }, "spec": { "containers": [] } });
    for (pod, want) in [
        (labelled(json!({ "signet.dev/inject": "disabled" })), "pod_opted_out"),
        (pod(json!({ "hostNetwork": true })), "host_network"),
        (pod(json!({ "os": { "name": "windows" } })), "windows"),
        (annotated(json!({ "kubernetes.io/config.mirror": "x" })), "mirror_pod"),
        (pod(json!({ "initContainers": [{ "name": "istio-proxy" }] })), "other_mesh"),
        (pod(json!({ "containers": [{ "name": "linkerd-proxy" }] })), "other_mesh"),
    ] {
        let Outcome::Skip(skip) = inject(&pod, None, &settings()) else { panic!("{want}") };
        assert_eq!(skip.reason(), want);
    }
    for (pod, want) in [
        (
            pod(json!({ "containers": [{ "name": "a", "securityContext": { "runAsUser": 1337 } }] })),
            "proxy_uid",
        ),
        (pod(json!({ "securityContext": { "runAsUser": 1337 } })), "proxy_uid"),
        (
            pod(json!({ "initContainers": [{ "name": "a", "securityContext": { "runAsUser": 1337 } }] })),
            "proxy_uid",
        ),
        (pod(json!({ "initContainers": [{ "name": "signet-proxy" }] })), "name_taken"),
        (pod(json!({ "volumes": [{ "name": "signet-identity" }] })), "name_taken"),
        (annotated(json!({ "signet.dev/original-probes": "{}" })), "name_taken"),
        (annotated(json!({ "signet.dev/exclude-inbound-port": "80" })), "unknown_setting"),
        (labelled(json!({ "signet.dev/mtls": "strict" })), "unknown_setting"),
        (labelled(json!({ "signet.dev/inject": "true" })), "bad_setting"),
        (annotated(json!({ "signet.dev/exclude-inbound-ports": "http" })), "bad_setting"),
        (annotated(json!({ "signet.dev/permissive-ports": "http" })), "bad_setting"),
        (annotated(json!({ "signet.dev/proxy-cpu": "0" })), "bad_setting"),
        (annotated(json!({ "signet.dev/injected": "no JSON" })), "bad_setting"),
        (
            annotated(json!({ "signet.dev/injected": "{}", "signet.dev/original-probes": "no JSON" })),
            "bad_setting",
        ),
        (json!({ "spec": { "containers": "none" } }), "bad_pod"),
        (json!({}), "bad_pod"),
        (json!([1]), "bad_pod"),
    ] {
        assert_eq!(refused(&pod).reason(), want, "{pod}");
        assert!(!refused(&pod).words().is_empty());
    }
    let own_user = pod(json!({ "securityContext": { "runAsUser": 1337 },
        "containers": [{ "name": "a", "securityContext": { "runAsUser": 1000 } }] }));
    after(&own_user);
}

#[test]
fn a_namespace_that_forbids_net_admin_is_told_how_to_allow_it() {
    let namespace = |level: &str| NamespaceView {
        name: "shop".into(),
        labels: [(signet_core::pod::POD_SECURITY.into(), level.into())].into(),
    };
    for level in ["baseline", "restricted"] {
        let outcome = inject(&pod(json!({})), Some(&namespace(level)), &settings());
        let Outcome::Refuse(refusal) = outcome else { panic!("{level}") };
        assert_eq!(refusal.reason(), "pod_security");
        assert!(refusal.words().contains(
            "kubectl label --overwrite namespace shop pod-security.kubernetes.io/enforce=privileged"
        ));
    }
    let outcome = inject(&pod(json!({})), Some(&namespace("privileged")), &settings());
    assert!(matches!(outcome, Outcome::Patch { .. }));
}

#[test]
fn who_could_undo_the_capture_or_not_find_the_ca_is_warned() {
    let admin = json!({ "name": "vpn", "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } } });
    let before = pod(json!({ "containers": [admin], "dnsPolicy": "Default" }));
    let Outcome::Patch { warnings, .. } = inject(&before, None, &settings()) else { panic!() };
    assert!(warnings[0].contains("container vpn may undo the capture"), "{warnings:?}");
    assert!(warnings[1].contains("dnsPolicy"), "{warnings:?}");
    let privileged =
        pod(json!({ "containers": [{ "name": "a", "securityContext": { "privileged": true } }] }));
    let Outcome::Patch { warnings, .. } = inject(&privileged, None, &settings()) else { panic!() };
    assert_eq!(warnings.len(), 1);
}

#[test]
fn what_the_api_server_and_other_webhooks_add_to_an_injected_pod_stays() {
    let mut found = after(&annotated(json!({ "signet.dev/proxy-cpu": "0.5" })));
    found["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
    found = after(&found); // the class has changed: so have ours
    assert_eq!(found["spec"]["initContainers"][1]["resources"]["limits"]["cpu"], "0.5");
    let proxy = &mut found["spec"]["initContainers"][1];
    proxy["imagePullPolicy"] = "Always".into();
    proxy["resources"]["limits"]["cpu"] = "500m".into();
    proxy["resources"]["requests"]["cpu"] = "500m".into();
    proxy["env"].as_array_mut().unwrap().insert(0, json!({ "name": "THEIRS", "value": "1" }));
    proxy["readinessProbe"]["initialDelaySeconds"] = 0.into();
    found["spec"]["volumes"][0]["projected"]["defaultMode"] = 420.into();
    assert_eq!(inject(&found, None, &settings()), Outcome::Patch { ops: vec![], warnings: vec![] });

    found["spec"]["initContainers"][1]["securityContext"]["privileged"] = true.into();
    assert_eq!(after(&found)["spec"]["initContainers"][1]["securityContext"]["privileged"], false);
}

#[test]
fn what_came_in_between_is_treated_as_if_it_had_been_first() {
    let mut found = after(&pod(json!({})));
    let sidecar = json!({ "name": "late", "livenessProbe": { "tcpSocket": { "port": 80 } } });
    found["spec"]["containers"].as_array_mut().unwrap().push(sidecar.clone());
    found["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({ "name": "pushy" }));
    let again = after(&found);
    let mut first = pod(json!({ "initContainers": [{ "name": "pushy" }] }));
    first["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
    let mut want = after(&first);
    want["metadata"]["annotations"]["signet.dev/injected"] =
        again["metadata"]["annotations"]["signet.dev/injected"].clone();
    assert_eq!(again, want);
    let older = Settings { image: "registry.example.com/signet:0.0.9".into(), ..settings() };
    let old = applied(&pod(json!({})), inject(&pod(json!({})), None, &older));
    assert_eq!(after(&old), after(&pod(json!({}))), "an image of another version is replaced");
}

#[test]
fn uninject_leaves_what_is_not_injected_alone() {
    assert_eq!(uninject(&pod(json!({}))), Outcome::Skip(Skip::NotInjected));
}

fn any_probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        Just(json!("web")),
        (1..9000).prop_map(Value::from),
        Just(json!("8080")),
        Just(json!("gone"))
    ];
    let handler = prop_oneof![
        (port.clone(), "[a-z/?=$()]{0,8}")
            .prop_map(|(port, path)| json!({ "httpGet": { "port": port, "path": path } })),
        port.clone()
            .prop_map(|port| json!({ "httpGet": { "port": port, "scheme": "HTTPS", "unknownField": [1] } })),
        port.prop_map(|port| json!({ "tcpSocket": { "port": port, "host": "" } })),
        (1..9000).prop_map(|port| json!({ "grpc": { "port": port } })),
        Just(json!({ "exec": { "command": ["true"] } })),
    ];
    (handler, prop::option::of(1_i64..60)).prop_map(|(mut probe, timeout): (Value, Option<i64>)| {
        if let Some(timeout) = timeout {
            probe["timeoutSeconds"] = timeout.into();
        }
        probe
    })
}

fn any_container(name: &'static str) -> impl Strategy<Value = Value> {
    let hook = prop_oneof![
        Just(json!({ "httpGet": { "port": "web" } })),
        Just(json!({ "sleep": { "seconds": 3 } })),
    ];
    let part = prop_oneof![
        ("(liveness|readiness|startup)Probe", any_probe()),
        hook.prop_map(|hook| ("lifecycle".to_owned(), json!({ "preStop": hook, "postStart": hook }))),
        Just(("ports".to_owned(), json!([{ "name": "web", "containerPort": 8080 }]))),
        Just(("restartPolicy".to_owned(), json!("Always"))),
        Just(("resources".to_owned(), json!({ "limits": { "cpu": "1", "memory": "1Gi" } }))),
        Just(("resources".to_owned(), json!({ "requests": { "cpu": "1" } }))),
        Just(("somethingNew".to_owned(), json!({ "a": [null, 1.5] }))),
    ];
    prop::collection::vec(part, 0..6).prop_map(move |parts| {
        let mut container = json!({ "name": name });
        parts.into_iter().for_each(|(key, value)| container[key] = value);
        container
    })
}

/// Something absent, null, empty, or there.
fn any_list(full: Value) -> impl Strategy<Value = Option<Value>> {
    let empty = if full.is_array() { json!([]) } else { json!({}) };
    prop_oneof![Just(None), Just(Some(Value::Null)), Just(Some(empty)), Just(Some(full))]
}

fn any_pod() -> impl Strategy<Value = Value> {
    let containers = (any_container("app"), any_container("other")).prop_map(|(a, b)| json!([a, b]));
    let inits = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        Just(Some(json!([]))),
        any_container("init").prop_map(|init| Some(json!([init]))),
    ];
    let annotations = prop_oneof![
        any_list(json!({ "a": "b" })),
        Just(Some(
            json!({ "kubectl.kubernetes.io/default-container": "other", "signet.dev/exclude-inbound-ports": "1" })
        )),
    ];
    let metadata = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        annotations.prop_map(|annotations| {
            let mut metadata = json!({ "name": "web", "creationTimestamp": null });
            if let Some(annotations) = annotations {
                metadata["annotations"] = annotations;
            }
            Some(metadata)
        }),
    ];
    (containers, inits, any_list(json!([{ "name": "data", "emptyDir": {} }])), metadata).prop_map(
        |(containers, inits, volumes, metadata)| {
            let mut pod = json!({ "spec": { "containers": containers } });
            let mut set = |at: &str, key: &str, value: Option<Value>| {
                let at = pod.pointer_mut(at).and_then(Value::as_object_mut).unwrap();
                value.map(|value| at.insert(key.into(), value));
            };
            set("/spec", "initContainers", inits);
            set("/spec", "volumes", volumes);
            set("", "metadata", metadata);
            pod
        },
    )
}

proptest! {
    #[test]
    fn uninjecting_an_injected_pod_gives_it_back_to_the_byte(pod in any_pod()) {
        let injected = after(&pod);
        prop_assert_eq!(applied(&injected, uninject(&injected)).to_string(), pod.to_string());
    }
    #[test]
    fn injecting_an_injected_pod_changes_nothing(pod in any_pod()) {
        let again = inject(&after(&pod), None, &settings());
        prop_assert!(matches!(&again, Outcome::Patch { ops, .. } if ops.is_empty()), "{:?}", again);
    }
    #[test]
    fn any_json_is_judged_without_a_panic(pod in crate::patch::tests::any_json(), spec in crate::patch::tests::any_json()) {
        for pod in [pod.clone(), json!({ "spec": spec, "metadata": { "annotations": { "signet.dev/injected": "{}" } } }), json!({ "spec": { "containers": spec, "initContainers": pod } })] {
            let _ = (inject(&pod, None, &settings()), uninject(&pod));
        }
    }
}
