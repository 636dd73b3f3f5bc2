//! What our accounts may do on the live cluster is what docs/design.md section 11 says, and each verb of it is needed.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Pod, Secret},
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use signet_cluster::{Namespace, disturb};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::{
    installed::{Mesh, mesh_with, settings},
    pods::toolbox,
    rights_of_design::RIGHTS,
};

/// What may be done: "<resource>.<group> <resourceNames> <verbs>", the verbs sorted.
type Rights = BTreeSet<String>;

#[tokio::test]
async fn each_of_our_accounts_may_do_what_the_design_says_and_an_injected_pods_may_do_nothing() -> Result<()>
{
    mesh_with(&["--dev"], async |mesh| {
        mesh.label().await?;
        let app = mesh.namespace.name.as_str();
        // A ClusterRoleBinding shows in every namespace; `default` has none of our Roles.
        for namespace in ["signet-system", "signet-edge", "signet-gateway", app, "default"] {
            let everybodys = may(mesh, "signet-system:nobody", namespace).await?;
            for (home, account) in ACCOUNTS {
                let has = may(mesh, &format!("{home}:{account}"), namespace).await?;
                let more: Rights = has.difference(&everybodys).cloned().collect();
                let want = wanted(account, namespace);
                ensure!(more == want, "{account} in {namespace} may {more:#?}\nand should {want:#?}");
            }
            let has = may(mesh, &format!("{app}:default"), namespace).await?;
            let everybodys = may(mesh, &format!("{app}:nobody"), namespace).await?;
            ensure!(has == everybodys, "pods of the mesh may {has:#?} in {namespace}");
        }
        Ok(())
    })
    .await
}

/// Of RIGHTS, those of one account in one namespace.
fn wanted(account: &str, namespace: &str) -> Rights {
    let here = |role: &str| {
        role == format!("ClusterRole/signet-{account}")
            || role == format!("Role/{account}") && namespace == "signet-system"
            || role == format!("Role/{account}-store") && namespace == "signet-edge"
    };
    let rules = RIGHTS.iter().filter_map(|(right, _)| right.split_once(' '));
    rules.filter(|(role, _)| here(role)).map(|(_, rule)| as_kubectl_writes(rule)).collect()
}

/// "ingresses/status.networking.k8s.io" is "ingresses.networking.k8s.io/status" there.
fn as_kubectl_writes(rule: &str) -> String {
    let (resource, rest) = rule.split_once(' ').unwrap_or((rule, ""));
    let resource = match resource.split_once('/').map(|(of, sub)| (of, sub.split_once('.'))) {
        Some((of, Some((sub, group)))) => format!("{of}.{group}/{sub}"),
        _ => resource.to_owned(),
    };
    format!("{resource} {rest}")
}

/// What kubectl lists for an account, "<namespace>:<name>". It need not exist: then it has what every account has.
async fn may(mesh: &Mesh, account: &str, namespace: &str) -> Result<Rights> {
    let who = format!("--as=system:serviceaccount:{account}");
    let list = ["auth", "can-i", "--list", "--no-headers", &who, "-n", namespace];
    let list = mesh.kubectl(&list, "").await?;
    let rights = list.lines().map(|line| {
        let columns: Vec<&str> = line.split('[').map(|column| column.trim().trim_end_matches(']')).collect();
        let [resource, urls, names, verbs] = columns[..] else { anyhow::bail!("not four columns: {line}") };
        let mut verbs: Vec<&str> = verbs.split(' ').collect();
        verbs.sort_unstable();
        Ok(format!("{resource}{urls} {} {}", names.replace(' ', "|"), verbs.join(",")))
    });
    let rights = rights.collect::<Result<Rights>>()?;
    ensure!(!rights.is_empty(), "kubectl lists nothing for {account}");
    Ok(rights)
}

/// The accounts begin without any right, and get one verb after the other, in the order in which their parts come to need them.
/// Before each, the part has said that it lacks this one, and nothing of what it is for has happened; after it, that happens.
#[tokio::test]
async fn each_verb_is_missed_by_name_while_it_is_away_and_does_its_work_once_it_is_there() -> Result<()> {
    disturb(async |namespace| {
        let mesh = Mesh::of(namespace);
        mesh.uninstall().await?;
        let told = Box::pin(verb_by_verb(&mesh)).await;
        if told.is_err() {
            for part in ["ca", "controller"] {
                eprintln!("--- {part}\n{}", log(&mesh, part).await);
            }
        }
        let gone = mesh.uninstall().await;
        told.and(gone)
    })
    .await
}

async fn verb_by_verb(mesh: &Mesh) -> Result<()> {
    let (system, team) = (&mesh.system, &mesh.namespace);
    // A bundle that is not the CA's, to be put right; and a pod that came before the label.
    team.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: signet-trust}, data: {bundle.pem: wrong}}",
    )
    .await?;
    team.apply(&toolbox("early", "node1")).await?;
    mesh.kubectl(&["label", "namespace", &team.name, "signet.dev/inject=enabled"], "").await?;
    let mut rights = Rows { mesh, given: BTreeSet::new() };
    install_without_rights(mesh).await?;

    // The CA begins: it looks at what is published, then for its state, then for what a user may bring.
    let ca = async |verb: &str| lacks(&log(mesh, "ca").await, verb);
    let own = "get secrets signet-ca";
    rights.give("ClusterRole/signet-ca", "get configmaps", async || ca(own).await).await?;
    let brought = "get secrets signet-ca-intermediate";
    rights.give("Role/ca", own, async || ca(brought).await).await?;
    rights.give("Role/ca", brought, async || ca("create secrets").await).await?;
    rights.give("Role/ca", "create secrets", async || there::<Secret>(system, "signet-ca").await).await?;
    // Another CA, over the state that is there, writes its intermediate to it.
    system.wait_deployment_available("ca").await?;
    mesh.kubectl(&["-n", "signet-system", "delete", "pod", "-l", "app.kubernetes.io/name=ca"], "").await?;
    let begins = async || {
        ensure!(log(mesh, "ca").await.contains("the CA issues certificates"), "it has not begun");
        Ok(())
    };
    rights.give("Role/ca", "update secrets", begins).await?;
    // Its place among the replicas.
    rights.give("Role/ca", "get leases", async || ca("create leases").await).await?;
    rights.give("Role/ca", "create leases", async || there::<Lease>(system, "signet-ca").await).await?;
    rights.give("Role/ca", "update leases", async || lease_is_renewed(system).await).await?;
    // What it publishes: in the webhook, and in each namespace.
    let webhook = "mutatingwebhookconfigurations";
    let (get, patch) = (format!("get {webhook}"), format!("patch {webhook}"));
    rights.give("ClusterRole/signet-ca", "list namespaces", async || ca(&get).await).await?;
    rights.give("ClusterRole/signet-ca", &get, async || ca(&patch).await).await?;
    rights.give("ClusterRole/signet-ca", &patch, async || has_ca_bundle(mesh).await).await?;
    let published = async || there::<ConfigMap>(system, "signet-trust").await;
    rights.give("ClusterRole/signet-ca", "create configmaps", published).await?;
    // It looks again at a namespace that did not let it write after a minute.
    let long = Duration::from_secs(90);
    rights
        .give_within(long, "ClusterRole/signet-ca", "update configmaps", async || has_bundle(team).await)
        .await?;
    // Whom it believes: the controller comes with its token.
    mesh.kubectl(&["-n", "signet-system", "scale", "deployment/controller", "--replicas=1"], "").await?;
    rights.give("ClusterRole/signet-ca", "create tokenreviews", async || ca("get pods").await).await?;
    let issued = async || {
        let log = log(mesh, "ca").await;
        let issued =
            log.lines().any(|line| line.contains("decision:issued") && line.contains("sa/controller"));
        ensure!(issued, "the controller has no certificate");
        Ok(())
    };
    rights.give("ClusterRole/signet-ca", "get pods", issued).await?;

    // The controller: it serves nobody before it has listed all, and says of what it hears nothing.
    let of_controller = "ClusterRole/signet-controller";
    for kind in KINDS {
        let listed = async || {
            let ready = page(mesh, 15020, "/ready").await?;
            ensure!(!ready.contains(&format!("{kind} not listed yet")), "{ready}");
            Ok(())
        };
        rights.give(of_controller, &format!("list {kind}"), listed).await?;
    }
    system.wait_deployment_available("controller").await?;
    for kind in KINDS {
        let heard = async || {
            let status = page(mesh, 15021, "/v1/status").await?;
            ensure!(lacks(&status, &format!("watch {kind}")).is_err(), "{status}");
            Ok(())
        };
        rights.give(of_controller, &format!("watch {kind}"), heard).await?;
    }
    rights.give(of_controller, "create events", async || has_event(team).await).await?;

    // Edge has a story of its own.
    let people_or_edge =
        |right: &str| ["-viewer", "-ask", "-edge", "/edge"].iter().any(|who| right.contains(who));
    let design = RIGHTS.iter().filter(|(right, _)| !people_or_edge(right));
    let design: BTreeSet<String> = design.flat_map(|(right, _)| each_verb(right)).collect();
    ensure!(rights.given == design, "given {:#?}\nof {design:#?}", rights.given);
    Ok(())
}

/// The rights that were given so far, as [`each_verb`] writes them.
struct Rows<'a> {
    mesh: &'a Mesh,
    given: BTreeSet<String>,
}

impl Rows<'_> {
    /// Waits until the part has said that it lacks "<verb> <resource>[ <name>]", gives it, and waits until it `works`, which it must not before.
    async fn give(&mut self, role: &str, right: &str, works: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        self.give_within(Duration::from_secs(60), role, right, works).await
    }

    async fn give_within(
        &mut self,
        patience: Duration,
        role: &str,
        right: &str,
        mut works: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let began = Instant::now();
        let mesh = self.mesh;
        let part = if role.ends_with("controller") { "controller" } else { "ca" };
        let said = async || lacks(&said(mesh, part).await, right);
        mesh.system.eventually(&format!("the {part} to say that it lacks {right}"), said).await?;
        ensure!(works().await.is_err(), "it works without {right}");
        let rule = RIGHTS.iter().flat_map(|(rule, _)| each_verb(rule)).find(|rule| {
            let (verb, resource, name) = parts(right);
            let words: Vec<&str> = rule.split(' ').collect();
            let is_named = name.is_none_or(|name| words[2] == name);
            words[0] == role && words[1].split('.').next() == Some(resource) && is_named && words[3] == verb
        });
        let rule = rule.with_context(|| format!("no {right} for {role} in the design"))?;
        self.given.insert(rule);
        allow(mesh, role, &self.given).await?;
        mesh.system.within(patience).eventually(&format!("{right} to have its effect"), works).await?;
        eprintln!("{role} {right}: {:?}", began.elapsed());
        Ok(())
    }
}

/// "Role/ca secrets signet-ca get,update" is one with get and one with update.
fn each_verb(right: &str) -> Vec<String> {
    let (rule, verbs) = right.rsplit_once(' ').unwrap_or((right, ""));
    verbs.split(',').map(|verb| format!("{rule} {verb}")).collect()
}

/// What `signet install` prints, with Roles that allow nothing, and nobody yet who asks the CA for anything.
async fn install_without_rights(mesh: &Mesh) -> Result<()> {
    let printed = mesh.signet(&[&["install", "--dev", "--expose", "none"], &settings()[..]].concat()).await?;
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(&printed)?;
    for object in &mut objects {
        match object["kind"].as_str() {
            Some("Role" | "ClusterRole") => object["rules"] = json!([]),
            Some("Deployment") if object["metadata"]["name"] != "ca" => object["spec"]["replicas"] = json!(0),
            _ => {}
        }
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    mesh.kubectl(&["apply", "--server-side", "-f", "-"], &list.to_string()).await?;
    Ok(())
}

/// Lets a role ("ClusterRole/signet-ca") allow what of `given` is its, and nothing else.
async fn allow(mesh: &Mesh, role: &str, given: &BTreeSet<String>) -> Result<()> {
    let mut rules = Vec::new();
    for right in given {
        let words: Vec<&str> = right.split(' ').collect();
        let [of, resource, names, verb] = words[..] else { anyhow::bail!("not a right: {right}") };
        if of != role {
            continue;
        }
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
        if !names.is_empty() {
            rule["resourceNames"] = json!([names]);
        }
        rules.push(rule);
    }
    let patch = json!({ "rules": rules }).to_string();
    mesh.kubectl(&["-n", "signet-system", "patch", role, "--type=merge", "-p", &patch], "").await?;
    Ok(())
}

/// An error unless the API server's words for "you may not" are there ("get secrets": `cannot get resource "secrets"`).
fn lacks(words: &str, right: &str) -> Result<()> {
    let (verb, resource, name) = parts(right);
    let cannot = format!("cannot {verb} resource {resource} ");
    let said = words.lines().any(|line| {
        line.contains(&cannot)
            && name.is_none_or(|name| line.contains(&format!("{resource} {name} is forbidden")))
    });
    ensure!(said, "not said: {right}");
    Ok(())
}

/// Of "<verb> <resource>[ <name>]".
fn parts(right: &str) -> (&str, &str, Option<&str>) {
    let mut words = right.split(' ');
    (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next())
}

/// Everything that a part says of itself.
async fn said(mesh: &Mesh, part: &str) -> String {
    let mut words = log(mesh, part).await;
    if part == "controller" {
        for (port, path) in [(15020, "/ready"), (15021, "/v1/status")] {
            words += &page(mesh, port, path).await.unwrap_or_default();
        }
    }
    words
}

/// Without the quotes, that logs and JSON escape each in their way. Empty, while there is none.
async fn log(mesh: &Mesh, part: &str) -> String {
    let deployment = format!("deployment/{part}");
    let log = mesh.kubectl(&["-n", "signet-system", "logs", &deployment], "").await.unwrap_or_default();
    log.replace(['"', '\\'], "")
}

/// A page of the controller, without quotes.
async fn page(mesh: &Mesh, port: u16, path: &str) -> Result<String> {
    let labels = ListParams::default().labels("app.kubernetes.io/name=controller");
    let pods = mesh.system.api::<Pod>().list(&labels).await?;
    let pod = pods.items.first().and_then(|pod| pod.metadata.name.clone()).context("no controller")?;
    let mut stream = mesh.system.port_forward(&pod, port).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).replace(['"', '\\'], "");
    ensure!(answer.starts_with("HTTP/1.1 "), "no answer from {pod}:{port}");
    Ok(answer)
}

async fn there<K>(namespace: &Namespace, name: &str) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    namespace.api::<K>().get(name).await?;
    Ok(())
}

async fn lease_is_renewed(system: &Namespace) -> Result<()> {
    let spec = system.api::<Lease>().get("signet-ca").await?.spec.context("it has a spec")?;
    ensure!(spec.renew_time != spec.acquire_time, "it was taken and never renewed");
    Ok(())
}

async fn has_bundle(namespace: &Namespace) -> Result<()> {
    let map = namespace.api::<ConfigMap>().get("signet-trust").await?;
    let bundle = map.data.and_then(|mut data| data.remove("bundle.pem")).unwrap_or_default();
    ensure!(bundle.contains("BEGIN CERTIFICATE"), "{bundle}");
    Ok(())
}

async fn has_ca_bundle(mesh: &Mesh) -> Result<()> {
    let api = Api::<MutatingWebhookConfiguration>::all(mesh.system.cluster.client.clone());
    let webhook = api.get("signet-injector").await?;
    let mut entries = webhook.webhooks.iter().flatten();
    ensure!(entries.all(|entry| entry.client_config.ca_bundle.is_some()), "an entry has no caBundle");
    Ok(())
}

async fn has_event(team: &Namespace) -> Result<()> {
    let events = team.api::<Event>().list(&ListParams::default()).await?;
    let told = events.items.iter().any(|event| event.reason.as_deref() == Some("NotInjected"));
    ensure!(told, "no Event NotInjected");
    Ok(())
}

const ACCOUNTS: [(&str, &str); 5] = [
    ("signet-system", "ca"),
    ("signet-system", "controller"),
    ("signet-system", "injector"),
    ("signet-system", "edge"),
    ("signet-gateway", "gateway"),
];

/// What the controller follows.
const KINDS: [&str; 5] = ["namespaces", "serviceaccounts", "services", "endpointslices", "pods"];
