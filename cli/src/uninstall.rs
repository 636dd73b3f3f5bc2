//! `signet uninstall`: everything that an installation made, its manifests' objects and what the CA wrote since, for kubectl delete.

use std::iter;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use signet_core::{
    identity::{EDGE_NAMESPACE, SYSTEM_NAMESPACE},
    pod::{INJECT, TRUST_CONFIG_MAP},
};

use crate::{
    Exit,
    cluster::{Cluster, Which},
    identity::has_proxy,
    install::manifests,
    output::{self, Format, Output},
};

/// Print everything that Signet made in a cluster, for kubectl delete
///
/// Its manifests' objects, the trust bundles in namespaces, the Lease, and the Secret with the root: whatever of them is there, in
/// the order in which to delete it. Refuses while pods with a proxy live, because their proxies would lose CA and controller:
/// remove the label signet.dev/inject from their namespaces and restart them first.
///
/// Changes nothing itself.
///
/// Examples:
///   signet uninstall | kubectl delete -f -
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 printed, 1 refused (pods with a proxy live), 2 could not ask"
)]
pub(crate) struct Args {
    /// Even while pods with a proxy live: their connections fail once their certificates end
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: Which,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let cluster = args.cluster.connect().await?;
    let injected = injected(&cluster).await?;
    if !injected.is_empty() && !args.force {
        output::note(&refusal(&injected, &cluster));
        return Ok(Exit::Fix);
    }
    let mut there = Vec::new();
    for object in in_order_of_deletion(all_of_it(&cluster).await?) {
        if exists(&cluster, &object).await? {
            there.push(object);
        }
    }
    if there.is_empty() {
        output::note(&format!("Nothing of Signet is in {}.", cluster.name));
        return Ok(Exit::Fine);
    }
    Output::to_stdout(Format::Table).print(&manifests::print(&there)?)?;
    for words in what_goes(&there) {
        output::note(words);
    }
    for namespace in labelled(&cluster).await? {
        output::note(&format!("Its label stays: kubectl label namespace {namespace} {INJECT}-"));
    }
    Ok(Exit::Fine)
}

/// What cannot be made again as it was.
fn what_goes(there: &[Value]) -> impl Iterator<Item = &'static str> {
    let is_edges =
        |object: &Value| object["kind"] == "Namespace" && object["metadata"]["name"] == EDGE_NAMESPACE;
    let edges = there.iter().any(is_edges).then_some(EDGES_GO);
    iter::once(ROOT_GOES).chain(edges)
}

/// "namespace/pod" of every pod with a proxy that has not ended and is not on its way out: that one goes on with what it knows.
async fn injected(cluster: &Cluster) -> Result<Vec<String>> {
    let running = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = Api::<Pod>::all(cluster.client.clone()).list(&running).await;
    let pods = pods.map_err(|e| cluster.explain("asking for pods", e))?;
    let pods = pods.items.iter().filter(|pod| stays(pod));
    Ok(pods.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect())
}

fn stays(pod: &Pod) -> bool {
    has_proxy(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn refusal(injected: &[String], cluster: &Cluster) -> String {
    let shown = injected.iter().take(SHOWN).map(|pod| format!("  {pod}\n")).collect::<String>();
    let more = injected.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("  and {more} more\n") } else { String::new() };
    format!(
        "Pods in {} have a proxy, which needs CA and controller:\n{shown}{more}Remove the label {INJECT} from their namespaces and \
         restart them, or say --force.",
        cluster.name
    )
}

/// Kind, namespace and name of everything that may be there.
async fn all_of_it(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut objects: Vec<Value> = manifests::everything()?.iter().map(reference).collect();
    for (api_version, kind, namespace, name) in MADE {
        let metadata = json!({ "namespace": namespace, "name": name });
        objects.push(json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }));
    }
    let named = ListParams::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
    let bundles = Api::<ConfigMap>::all(cluster.client.clone()).list(&named).await;
    for bundle in bundles.map_err(|e| cluster.explain("asking for ConfigMaps", e))? {
        let metadata = json!({ "namespace": bundle.namespace(), "name": TRUST_CONFIG_MAP });
        objects.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata }));
    }
    Ok(objects)
}

fn reference(object: &Value) -> Value {
    let mut metadata = json!({ "name": object["metadata"]["name"] });
    if let Some(namespace) = object["metadata"]["namespace"].as_str() {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata })
}

/// The webhook first, so that pods start again; then the CA's rights, so that it does not write again what is deleted; what holds
/// everything last.
fn in_order_of_deletion(mut objects: Vec<Value>) -> Vec<Value> {
    objects.sort_by_key(|object| {
        let kind = object["kind"].as_str().unwrap_or_default();
        ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len() - 2)
    });
    objects
}

async fn exists(cluster: &Cluster, object: &Value) -> Result<bool> {
    let types =
        serde_json::from_value::<kube::core::TypeMeta>(object.clone()).context("an object of ours")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    };
    let what = format!("asking for {} {name}", types.kind);
    let found = api.get_metadata_opt(name).await.map_err(|e| cluster.explain(&what, e))?;
    Ok(found.is_some())
}

async fn labelled(cluster: &Cluster) -> Result<Vec<String>> {
    let labelled = ListParams::default().labels(INJECT);
    let namespaces = Api::<Namespace>::all(cluster.client.clone()).list_metadata(&labelled).await;
    let namespaces = namespaces.map_err(|e| cluster.explain("asking for namespaces", e))?;
    let stay = namespaces.items.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    Ok(stay.map(|namespace| namespace.name_any()).collect())
}

/// What our parts make beside the trust bundles.
const MADE: [(&str, &str, &str, &str); 5] = [
    ("coordination.k8s.io/v1", "Lease", SYSTEM_NAMESPACE, "signet-ca"),
    ("v1", "Secret", SYSTEM_NAMESPACE, "signet-ca"),
    ("coordination.k8s.io/v1", "Lease", SYSTEM_NAMESPACE, "signet-edge"),
    ("v1", "ConfigMap", EDGE_NAMESPACE, "signet-claims"),
    ("v1", "Secret", EDGE_NAMESPACE, "signet-edge-ca"),
];

const ROOT_GOES: &str =
    "With Secret signet-ca the root goes; a later installation has another, and restarted pods take it.";
/// Beside what edge made there lie DNS credentials, which people wrote, with a label of their own.
const EDGES_GO: &str = "With namespace signet-edge ACME accounts, certificates and DNS credentials go. To keep them, before anything is \
                        deleted: kubectl -n signet-edge get secret -l signet.dev/acme -o yaml > edge-secrets.yaml (it holds keys), and \
                        the credentials with -l signet.dev/dns-provider.";

/// Of pods that are in the way.
const SHOWN: usize = 20;

const ORDER: [&str; 17] = [
    "MutatingWebhookConfiguration",
    "ClusterRoleBinding",
    "RoleBinding",
    "Deployment",
    "DaemonSet",
    "PodDisruptionBudget",
    "Service",
    "ClusterRole",
    "Role",
    "ServiceAccount",
    "ResourceQuota",
    "IngressClass",
    "Lease",
    "ConfigMap",
    "Secret",
    "", // whatever deploy/ gets one day
    "Namespace",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhook_goes_first_then_rights_and_the_namespace_last_and_nothing_is_of_an_unknown_kind() {
        let objects = manifests::everything().unwrap();
        let kinds: Vec<String> = in_order_of_deletion(objects.iter().map(reference).collect())
            .iter()
            .map(|object| object["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(kinds.first().unwrap(), "MutatingWebhookConfiguration");
        assert_eq!(kinds.last().unwrap(), "Namespace");
        let at = |kind: &str| kinds.iter().position(|one| one == kind).unwrap();
        assert!(at("ClusterRoleBinding") < at("Deployment"));
        assert!(kinds.iter().all(|kind| ORDER.contains(&kind.as_str())), "{kinds:?}");
    }

    #[test]
    fn what_goes_for_good_is_said_and_how_to_keep_what_the_namespace_of_edge_holds() {
        let there: Vec<Value> = manifests::everything().unwrap().iter().map(reference).collect();
        assert_eq!(what_goes(&there).collect::<Vec<_>>(), [ROOT_GOES, EDGES_GO]);
        assert!(EDGES_GO.starts_with(&format!("With namespace {EDGE_NAMESPACE} ACME")), "{EDGES_GO}");
        let alone = json!({ "kind": "Namespace", "metadata": { "name": SYSTEM_NAMESPACE } });
        assert_eq!(what_goes(&[alone]).collect::<Vec<_>>(), [ROOT_GOES]);
    }

    #[test]
    fn a_pod_that_a_restart_has_replaced_is_not_waited_for() {
        let pod = |deleted: Value, container: &str| -> Pod {
            let metadata = json!({ "name": "web-0", "deletionTimestamp": deleted });
            let spec = json!({ "containers": [], "initContainers": [{ "name": container }] });
            serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
        };
        assert!(stays(&pod(Value::Null, "signet-proxy")));
        assert!(!stays(&pod("2026-11-24T00:00:00Z".into(), "signet-proxy")));
        assert!(!stays(&pod(Value::Null, "migrate")));
    }

    #[test]
    fn a_reference_names_an_object_and_holds_nothing_else_of_it() {
        let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "a", "namespace": "b", "labels": {} }, "data": {} });
        let want =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "a", "namespace": "b" } });
        assert_eq!(reference(&object), want);
    }
}
