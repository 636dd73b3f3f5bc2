//! What every manifest of ours must be, whoever edits deploy/.

use std::collections::{BTreeMap, BTreeSet};

use signet_core::{
    identity::{EDGE_NAMESPACE, GATEWAY_NAMESPACE, SYSTEM_NAMESPACE},
    pod,
};

use super::*;
#[path = "rights.rs"]
mod rights;
use rights::RIGHTS;

fn settings() -> Settings {
    Settings {
        trust_domain: "prod.example.com".into(),
        image: "registry.test/signet:1".into(),
        leaf_life: "12h".into(),
        allow_short_leaves: false,
        mesh_ranges: vec!["10.244.0.0/16".into(), "fd00::/48".into()],
        ..Settings::default()
    }
}

fn all() -> Vec<Value> {
    render(&settings()).unwrap()
}

fn name(object: &Value) -> String {
    format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
}

fn hostport() -> Vec<Value> {
    render(&Settings { expose: Expose::Hostport, ..settings() }).unwrap()
}

fn deployments(objects: &[Value]) -> Vec<Value> {
    objects.iter().filter(|object| object["kind"] == "Deployment").cloned().collect()
}

/// Of our own namespace.
fn control_plane(objects: &[Value]) -> Vec<Value> {
    let mut deployments = deployments(objects);
    deployments.retain(|deployment| deployment["metadata"]["namespace"] == SYSTEM_NAMESPACE);
    deployments
}

#[test]
fn what_is_printed_is_what_was_meant_and_the_same_every_time() {
    let objects = all();
    let text = print(&objects).unwrap();
    assert_eq!(serde_saphyr::from_multiple::<Value>(&text).unwrap(), objects);
    assert_eq!(text, print(&all()).unwrap());
    assert!(!text.contains('$'), "a placeholder is left");
}

/// A YAML 1.1 parser (Go's, in kubectl and Helm) must read back what was meant, whatever the words look like.
#[test]
fn words_that_yaml_takes_for_something_else_stay_words() {
    for word in [
        "on",
        "1e3",
        "0x10",
        "null",
        "~",
        "2001:2::/48",
        "60:30",
        "- a",
        "a: b",
        "#x",
        "{{ .x }}",
        "'",
        "\"",
        "&a",
        "*a",
    ] {
        let settings = Settings { trust_domain: word.into(), ..settings() };
        let objects = render(&settings).unwrap();
        let back: Vec<Value> = serde_saphyr::from_multiple(&print(&objects).unwrap()).unwrap();
        assert_eq!(back, objects, "{word}");
    }
}

#[test]
fn settings_reach_every_place_that_they_are_meant_for() {
    let objects = all();
    let mut ranges = 0;
    for deployment in control_plane(&objects) {
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "registry.test/signet:1");
        let args: Vec<&str> =
            container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        assert!(args.windows(2).any(|two| two == ["--trust-domain", "prod.example.com"]), "{args:?}");
        ranges += args.windows(2).filter(|two| two[0] == "--mesh-range").count();
        assert_eq!(deployment["spec"]["replicas"], 2);
    }
    assert_eq!(ranges, 6, "two each for controller, injector and edge");
    let short = Settings { allow_short_leaves: true, leaf_life: "20s".into(), ..settings() };
    let text = print(&render(&short).unwrap()).unwrap();
    assert!(text.contains("- 20s\n") && text.contains("- --allow-short-leaves\n"));
}

#[test]
fn dev_is_one_replica_of_each_and_no_budget_and_nothing_else_differs() {
    let dev = render(&Settings { dev: true, ..settings() }).unwrap();
    assert!(!dev.iter().any(is_budget));
    let mut full: Vec<Value> = all().into_iter().filter(|object| !is_budget(object)).collect();
    for object in full.iter_mut().filter(|object| object["kind"] == "Deployment") {
        object["spec"]["replicas"] = json!(1);
    }
    assert_eq!(dev, full);
    assert_eq!(all().iter().filter(|object| is_budget(object)).count(), 5);
}

/// Applying again must overwrite neither the root nor what the CA writes.
#[test]
fn nothing_that_the_ca_makes_is_in_the_manifests() {
    for object in everything().unwrap() {
        assert!(
            !["Secret", "ConfigMap", "Lease"].contains(&object["kind"].as_str().unwrap()),
            "{}",
            name(&object)
        );
        assert!(!object.to_string().contains("caBundle"), "{}", name(&object));
    }
}

#[test]
fn every_object_is_labelled_as_ours_and_namespaced_ones_say_where() {
    let cluster_wide =
        ["Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration", "IngressClass"];
    let ours = [SYSTEM_NAMESPACE, EDGE_NAMESPACE, GATEWAY_NAMESPACE].map(Value::from);
    let mut names = BTreeSet::new();
    for object in everything().unwrap() {
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["app.kubernetes.io/part-of"], "signet", "{}", name(&object));
        let namespaced = !cluster_wide.contains(&object["kind"].as_str().unwrap());
        assert_eq!(ours.contains(&metadata["namespace"]), namespaced, "{}", name(&object));
        assert!(names.insert(name(&object)), "{} twice", name(&object));
    }
}

/// Pod Security Standards 1.37, "restricted"; the API server enforces it too, but only when a pod is made.
#[test]
fn every_pod_satisfies_pod_security_restricted_and_more() {
    for workload in everything().unwrap() {
        if !["Deployment", "DaemonSet"].contains(&workload["kind"].as_str().unwrap()) {
            continue;
        }
        let pod = &workload["spec"]["template"]["spec"];
        let of_pod = &pod["securityContext"];
        assert_eq!((&of_pod["runAsNonRoot"], &of_pod["runAsUser"]), (&json!(true), &json!(65532)));
        assert_eq!(of_pod["seccompProfile"], json!({ "type": "RuntimeDefault" }));
        if workload["metadata"]["namespace"] == SYSTEM_NAMESPACE {
            assert_eq!(pod["priorityClassName"], "system-cluster-critical");
        }
        for field in ["hostNetwork", "hostPID", "hostIPC", "tolerations"] {
            assert_eq!(pod[field], Value::Null, "{field}");
        }
        let containers = pod["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        let container = &containers[0];
        let wanted = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
        assert_eq!(container["securityContext"], wanted);
        assert!(container["resources"]["requests"]["memory"].is_string());
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/ready");
        for volume in pod["volumes"].as_array().unwrap() {
            assert!(volume["projected"].is_object() || volume["emptyDir"].is_object(), "{volume}");
        }
    }
}

/// The names that pods, webhook and code share (core/pod.rs, core/identity.rs).
#[test]
fn the_manifests_use_the_names_of_the_code() {
    let mut token_of = BTreeMap::new();
    for deployment in deployments(&all()) {
        let pod = &deployment["spec"]["template"]["spec"];
        let part = deployment["metadata"]["name"].as_str().unwrap().to_owned();
        assert_eq!(pod["serviceAccountName"], part.as_str());
        token_of.insert(part.clone(), pod["automountServiceAccountToken"] == true);
        let text = deployment.to_string();
        assert!(text.contains(&format!(r#""containerPort":{}"#, pod::PAGES_PORT)), "{part}");
        assert_eq!(text.contains(pod::TOKEN_AUDIENCE), part != "ca", "{part}");
        if part != "ca" {
            for shared in [pod::IDENTITY_VOLUME, pod::IDENTITY_DIR, pod::TRUST_CONFIG_MAP] {
                assert!(text.contains(shared), "{part}: {shared}");
            }
            for file in [pod::TOKEN_FILE, pod::TRUST_BUNDLE_FILE] {
                // A gateway needs no flag for them.
                assert_eq!(text.contains(file), part != "gateway", "{part}: {file}");
            }
        }
    }
    let want = [("ca", true), ("controller", true), ("edge", true), ("gateway", false), ("injector", false)];
    assert_eq!(token_of, want.map(|(part, token)| (part.to_owned(), token)).into());
    let webhook = all().pop().unwrap();
    assert!(webhook.to_string().contains(pod::INJECT));
    for entry in webhook["webhooks"].as_array().unwrap() {
        let excluded = &entry["namespaceSelector"]["matchExpressions"][1];
        assert_eq!(excluded["values"], json!(["kube-system", SYSTEM_NAMESPACE, GATEWAY_NAMESPACE]));
        assert_eq!((&entry["failurePolicy"], &entry["sideEffects"]), (&json!("Fail"), &json!("None")));
    }
}

/// docs/design.md, section 11.
#[test]
fn rights_are_exactly_those_of_the_design() {
    let mut rights = BTreeSet::new();
    for role in
        all().iter().filter(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap()))
    {
        for rule in role["rules"].as_array().unwrap() {
            let list = |field: &str| -> Vec<String> {
                let words = rule[field].as_array().into_iter().flatten();
                words.map(|word| word.as_str().unwrap().to_owned()).collect()
            };
            let names = list("resourceNames").join("|");
            for group in list("apiGroups") {
                let group = if group.is_empty() { group } else { format!(".{group}") };
                for resource in list("resources") {
                    let verbs = list("verbs").join(",");
                    rights.insert(format!("{} {resource}{group} {names} {verbs}", name(role)));
                }
            }
        }
    }
    let design = include_str!("../../../../docs/design.md");
    for (right, words) in RIGHTS {
        assert!(rights.remove(*right), "no role grants: {right}");
        assert!(design.contains(words), "design 11 does not say: {words}");
    }
    assert!(rights.is_empty(), "in no design: {rights:?}");
    assert!(
        !all()
            .iter()
            .any(|object| object["kind"] == "RoleBinding" && object["metadata"]["name"] == "injector")
    );
}

#[test]
fn a_mesh_alone_has_nothing_of_the_edge() {
    let alone = render(&Settings { expose: Expose::None, ..settings() }).unwrap();
    let text = print(&alone).unwrap();
    for word in ["name: edge", "name: gateway", "name: signet-gateway", "kind: IngressClass"] {
        assert!(!text.contains(&format!("{word}\n")), "{word}");
    }
    // Or claims of hosts would go with the edge.
    assert!(alone.iter().any(|object| name(object) == "Namespace/signet-edge"));
    assert!(all().len() > alone.len());
}

#[test]
fn behind_a_service_and_at_ports_of_the_node_the_same_gateway_runs() {
    let of = |objects: &[Value], kind: &str| {
        let found = objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["namespace"] == GATEWAY_NAMESPACE);
        found.unwrap_or_else(|| panic!("no {kind}")).clone()
    };
    let mut behind = of(&all(), "Deployment")["spec"]["template"].clone();
    behind["spec"].as_object_mut().unwrap().remove("topologySpreadConstraints");
    let mut on_node = of(&hostport(), "DaemonSet")["spec"]["template"].clone();
    let mut host_ports = Vec::new();
    for port in on_node["spec"]["containers"][0]["ports"].as_array_mut().unwrap() {
        host_ports.extend(port.as_object_mut().unwrap().remove("hostPort"));
    }
    assert_eq!((on_node, host_ports), (behind, vec![json!(80), json!(443)]));
    let of_namespace = |objects: &[Value]| {
        let namespace = objects.iter().find(|object| name(object) == "Namespace/signet-gateway").unwrap();
        namespace["metadata"]["labels"][pod::POD_SECURITY].clone()
    };
    assert_eq!((of_namespace(&all()), of_namespace(&hostport())), (json!("restricted"), json!("privileged")));
    assert!(!hostport().iter().any(|object| object["spec"]["type"] == "LoadBalancer"));
}

#[test]
fn a_gateway_is_told_what_it_understands_and_lives_as_long_as_it_drains() {
    let serving =
        pod::Serving { drain_seconds: 30, proxy_protocol: vec!["10.0.0.0/8".into()], ..Default::default() };
    let objects = render(&Settings { serving: serving.clone(), autoscaled: true, ..settings() }).unwrap();
    let gateway = deployments(&objects).into_iter().find(|one| one["metadata"]["name"] == "gateway").unwrap();
    assert_eq!(gateway["spec"].get("replicas"), None, "an autoscaler's number would be overwritten");
    let pod = &gateway["spec"]["template"]["spec"];
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let told = env.iter().find(|variable| variable["name"] == pod::GATEWAY).unwrap();
    let told: pod::Gateway = serde_json::from_str(told["value"].as_str().unwrap()).unwrap();
    assert_eq!((told.serving, &*told.trust_domain), (serving, "prod.example.com"));
    assert_eq!(pod["terminationGracePeriodSeconds"], 80);
}
