//! `signet inject` on what people write. The golden file is the whole of what they get: look at it when it changes, then
//! write it anew with UPDATE_GOLDEN=1.

#![expect(clippy::unwrap_used, reason = "helpers of tests stop at the first surprise")]

use std::path::{Path, PathBuf};

use signet_injector::{Outcome, Settings, inject, manifests::convert, uninject};

fn settings() -> Settings {
    let mesh = signet_core::pod::Mesh {
        trust_domain: "cluster.local".into(),
        ca: "ca.signet-system.svc:15012".into(),
        controller: "controller.signet-system.svc:15010".into(),
        mesh_ranges: vec!["10.244.0.0/16".into(), "10.96.0.0/12".into()],
    };
    Settings { image: "registry.example.com/signet:0.1.0".into(), mesh }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn injected(text: &str) -> String {
    convert(text, |pod, _| inject(pod, None, &settings())).unwrap().text
}

#[test]
fn a_deployment_as_people_write_it_is_injected_as_the_golden_file_says() {
    let before = std::fs::read_to_string(file("shop.yaml")).unwrap();
    let after = injected(&before);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file("shop-injected.yaml"), &after).unwrap();
    }
    assert_eq!(after, std::fs::read_to_string(file("shop-injected.yaml")).unwrap());
    assert_eq!(injected(&after), after, "once more changes nothing");
}

/// The golden pod as an API server (1.37, `kubectl create --dry-run=server -o json`) gave it back: defaults everywhere, and its own
/// token in every container but ours.
#[test]
fn a_pod_that_the_api_server_has_defaulted_needs_no_patch_when_the_webhook_is_asked_again() {
    let pod = std::fs::read_to_string(file("defaulted-pod.json")).unwrap();
    let pod: serde_json::Value = serde_json::from_str(&pod).unwrap();
    assert_eq!(inject(&pod, None, &settings()), Outcome::Patch { ops: vec![], warnings: vec![] });
}

#[test]
fn uninject_is_the_way_back() {
    let before = std::fs::read_to_string(file("shop.yaml")).unwrap();
    let back = convert(&injected(&before), |pod, _| uninject(pod)).unwrap();
    // Comments inside of what was changed are gone, and quotes are the writer's own: compare what it means.
    let parsed = |text: &str| serde_saphyr::from_multiple::<serde_json::Value>(text).unwrap();
    assert_eq!(parsed(&back.text), parsed(&before));
}

#[test]
fn documents_without_pods_are_passed_on_byte_for_byte() {
    let text = "# a comment\n\n---\n%YAML 1.2\n---\nkind: ConfigMap   # odd   spacing\napiVersion: v1\ndata: {mode: 0644}\n...\n# end\n--- {a: b}\n---\n";
    assert_eq!(injected(text), text);
    assert_eq!(injected(""), "");
    let not_injected = "kind: Pod\napiVersion: v1\nspec:   {containers: [{name: a}]}\n";
    assert_eq!(convert(not_injected, |pod, _| uninject(pod)).unwrap().text, not_injected);
}

#[test]
fn numbers_and_words_keep_their_meaning() {
    let text = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n    args: [\"0644\", \"yes\", 'on', \"1e3\", \"null\", \"2024-01-01\", \"a: b\", \"1.0\"]\n  - name: b\n    args:\n    - |\n      two\n        lines\n    - >-\n      folded and rather long, so that it would be folded again by a writer that likes lines of eighty characters\n  volumes:\n  - name: v\n    secret: {secretName: s, defaultMode: 0644}\n";
    let out: serde_json::Value = serde_saphyr::from_str(&injected(text)).unwrap();
    let args = &out["spec"]["containers"][0]["args"];
    assert_eq!(*args, serde_json::json!(["0644", "yes", "on", "1e3", "null", "2024-01-01", "a: b", "1.0"]));
    assert_eq!(out["spec"]["containers"][1]["args"][0], "two\n  lines\n");
    assert_eq!(out["spec"]["volumes"][0]["secret"]["defaultMode"], 420, "octal, as kubectl reads it");
}

#[test]
fn every_kind_with_pods_in_it_is_injected_lists_too() {
    let template = "{metadata: {}, spec: {containers: [{name: a}]}}";
    let object = |api: &str, kind: &str, spec: &str| {
        format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: x, namespace: shop}}, spec: {spec}}}")
    };
    let with_template = format!("{{template: {template}}}");
    let objects = [
        object("v1", "Pod", "{containers: [{name: a}]}"),
        object("apps/v1", "Deployment", &with_template),
        object("apps/v1", "StatefulSet", &with_template),
        object("apps/v1", "DaemonSet", &with_template),
        object("apps/v1", "ReplicaSet", &with_template),
        object("batch/v1", "Job", &with_template),
        object("batch/v1", "CronJob", &format!("{{jobTemplate: {{spec: {with_template}}}}}")),
    ];
    for text in
        [objects.join("\n---\n"), format!("{{apiVersion: v1, kind: List, items: [{}]}}", objects.join(", "))]
    {
        let done = convert(&text, |pod, namespace| {
            assert_eq!(namespace, "shop");
            inject(pod, None, &settings())
        })
        .unwrap();
        assert_eq!(done.text.matches("name: signet-proxy").count(), objects.len());
        assert_eq!(done.notes[1].object, "Deployment shop/x");
    }
    let foreign = object("example.com/v1", "Deployment", &with_template);
    assert_eq!(injected(&foreign), foreign);
}

#[test]
fn a_stream_with_a_fault_gives_no_text_and_names_line_and_object() {
    let text = "kind: ConfigMap\n---\n# why\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: web}\nspec:\n  template:\n    metadata: {labels: {signet.dev/injet: enabled}}\n    spec: {containers: [{name: a}]}\n---\na: [\n";
    let faults = convert(text, |pod, _| inject(pod, None, &settings())).unwrap_err();
    assert_eq!((faults[0].line, &*faults[0].object), (4, "Deployment default/web"));
    assert!(faults[0].message.contains("did you mean signet.dev/inject?"), "{}", faults[0].message);
    assert!((12..=13).contains(&faults[1].line), "{}", faults[1].line);
    let double = "a: 1\na: 2\n";
    assert_eq!(
        convert(double, |_, _| Outcome::Skip(signet_injector::Skip::OptedOut)).unwrap_err()[0].line,
        2
    );
}
