//! `signet check` on the live cluster: what is broken is found, under its ID, and only that.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::ConfigMap,
        rbac::v1::{ClusterRole, PolicyRule},
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use signet_cluster::disturb;

use crate::{
    installed::{Mesh, mesh},
    pods::toolbox,
};

/// What `signet check -o json` says.
struct Said {
    status: i32,
    findings: Vec<Value>,
    unchecked: Vec<Value>,
}

impl Said {
    /// There is a finding of this ID that speaks of `about`, and says why and what to do.
    fn has(&self, id: &str, about: &str) -> Result<()> {
        let found = self.findings.iter().find(|finding| {
            finding["id"] == id && finding["what"].as_str().is_some_and(|what| what.contains(about))
        });
        let finding = found.with_context(|| format!("no {id} about {about} in {:#?}", self.findings))?;
        for field in ["why", "next", "page"] {
            ensure!(finding[field].as_str().is_some_and(|words| !words.is_empty()), "{id} has no {field}");
        }
        let want = i32::from(self.findings.iter().any(|finding| finding["severity"] == "error"));
        ensure!(self.status == want, "exit status {} with {:#?}", self.status, self.findings);
        Ok(())
    }

    /// Nothing else is found, and everything was looked at.
    fn only(&self, id: &str, about: &str) -> Result<()> {
        let ids: BTreeSet<&str> = self.findings.iter().filter_map(|finding| finding["id"].as_str()).collect();
        ensure!(ids == [id].into(), "{:#?}", self.findings);
        ensure!(self.unchecked.is_empty(), "{:?}", self.unchecked);
        self.has(id, about)
    }

    fn nothing(&self) -> Result<()> {
        ensure!(self.findings.is_empty() && self.unchecked.is_empty(), "{:#?}", self.findings);
        ensure!(self.status == 0, "exit status {}", self.status);
        Ok(())
    }
}

async fn check(mesh: &Mesh, options: &[&str]) -> Result<Said> {
    let (status, said) = mesh.signet_said(&[&["check", "-o", "json"], options].concat(), "").await?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let list = |field: &str| report[field].as_array().cloned().context("a list");
    Ok(Said { status, findings: list("findings")?, unchecked: list("unchecked")? })
}

#[tokio::test]
async fn what_is_broken_in_a_live_mesh_is_found_under_its_id_alone_and_nothing_once_it_is_mended()
-> Result<()> {
    mesh(async |mesh| {
        let team = &mesh.namespace;
        let becomes = async |what: &str, id: &str, about: &str| {
            let found = async || check(mesh, &[]).await?.only(id, about);
            team.eventually(what, found).await
        };
        let fine = async || check(mesh, &[]).await?.nothing();

        team.apply(&toolbox("early", "node1")).await?;
        team.wait_ready("early").await?;
        mesh.label().await?;
        team.apply(&toolbox("late", "node2")).await?;
        team.wait_ready("late").await?;
        becomes("the pod from before the label to be found", "SG020", "early").await?;
        mesh.kubectl(&["-n", &team.name, "delete", "pod", "early", "--grace-period=0"], "").await?;
        team.eventually("nothing to be found", fine).await?;

        enforce(mesh, "restricted").await?;
        check(mesh, &[]).await?.only("SG003", &team.name)?;
        enforce(mesh, "privileged").await?;

        // A CA that may not put it right leaves the webhook as it finds it.
        may_patch(mesh, false).await?;
        ca_bundle(mesh, &json!(null)).await?;
        check(mesh, &[]).await?.only("SG011", "has no caBundle")?;
        let map = team.api::<ConfigMap>().get("kube-root-ca.crt").await?;
        let other = map.data.and_then(|mut data| data.remove("ca.crt")).context("the API server's root")?;
        ca_bundle(mesh, &json!(ByteString(other.into_bytes()))).await?;
        check(mesh, &[]).await?.only("SG012", "is not the CA's roots")?;
        may_patch(mesh, true).await?;
        team.eventually("the CA to put it right", fine).await?;

        scale_injector(mesh, 0).await?;
        becomes("the injector to be missed", "SG010", "no pod of the injector runs").await?;
        scale_injector(mesh, 1).await?;
        mesh.available().await?;
        team.eventually("everything to be fine again", fine).await?;

        // Ten years, the life of a root, and more.
        check(mesh, &["--expiry-within", "4000d"]).await?.only("SG031", "root ")
    })
    .await
}

#[tokio::test]
async fn before_an_installation_check_explains_a_restricted_namespace_an_old_node_and_a_missing_right()
-> Result<()> {
    disturb(async |team| {
        let mesh = Mesh::of(team);
        mesh.uninstall().await?;
        check(&mesh, &["--pre"]).await?.nothing()?;

        mesh.kubectl(&["label", "namespace", &team.name, "signet.dev/inject=enabled"], "").await?;
        enforce(&mesh, "restricted").await?;
        check(&mesh, &["--pre"]).await?.only("SG003", &team.name)?;
        enforce(&mesh, "baseline").await?;
        check(&mesh, &["--pre"]).await?.only("SG003", "enforces baseline")?;
        enforce(&mesh, "privileged").await?;
        check(&mesh, &["--pre"]).await?.nothing()?;

        let aged = Box::pin(with_an_old_node(&mesh)).await;
        let gone = mesh.kubectl(&["delete", "node", OLD_NODE, "--ignore-not-found"], "").await;
        aged.and(gone.map(drop))?;

        Box::pin(of_accounts(&mesh)).await
    })
    .await
}

/// A Node that says of itself that its kubelet is older than what we need.
async fn with_an_old_node(mesh: &Mesh) -> Result<()> {
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": OLD_NODE }, "spec": { "unschedulable": true } });
    mesh.kubectl(&["create", "-f", "-"], &node.to_string()).await?;
    let mut info = json!({ "kubeletVersion": "v1.30.4" });
    for field in [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ] {
        info[field] = json!("");
    }
    let status = json!({ "status": { "nodeInfo": info } }).to_string();
    mesh.kubectl(&["patch", "node", OLD_NODE, "--subresource=status", "--type=merge", "-p", &status], "")
        .await?;
    check(mesh, &["--pre"]).await?.only("SG001", "node old-node is v1.30.4")
}

/// Accounts that may look at everything, and install nothing, or all but one kind.
async fn of_accounts(mesh: &Mesh) -> Result<()> {
    let team = &mesh.namespace;
    let looks = r#"{apiGroups: [""], resources: [nodes, namespaces], verbs: [get, list]}"#;
    let all = r#"{apiGroups: ["", apps, policy, admissionregistration.k8s.io, authentication.k8s.io, coordination.k8s.io, discovery.k8s.io],
                  resources: ["*"], verbs: ["*"]}"#;
    for (account, rules, lacks) in [
        ("looker", looks.to_owned(), "create namespaces"),
        ("almost", all.to_owned(), "create clusterroles.rbac.authorization.k8s.io"),
    ] {
        let role = format!("{}-{account}", team.name);
        team.apply(&format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}}}}}
---
{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: {role}}}, rules: [{rules}]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {role}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}
subjects: [{{kind: ServiceAccount, name: {account}, namespace: {}}}]
",
            team.name
        ))
        .await?;
        let kubeconfig = kubeconfig(mesh, account).await?;
        let found = async || check(mesh, &["--pre", "--kubeconfig", &kubeconfig]).await?.only("SG002", lacks);
        let found = team.eventually(&format!("what {account} lacks to be found"), found).await;
        std::fs::remove_file(&kubeconfig)?;
        found?;
    }
    Ok(())
}

/// A file with which an account of the story's namespace is asked for; its token lives for ten minutes.
async fn kubeconfig(mesh: &Mesh, account: &str) -> Result<String> {
    let token =
        mesh.kubectl(&["-n", &mesh.namespace.name, "create", "token", account, "--duration=10m"], "").await?;
    let config =
        mesh.kubectl(&["config", "view", "--raw", "--flatten", "--minify", "-o", "json"], "").await?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let path = mesh.namespace.cluster.state.directory.join(format!("{}-{account}.json", mesh.namespace));
    std::fs::write(&path, config.to_string())?;
    Ok(path.display().to_string())
}

async fn enforce(mesh: &Mesh, level: &str) -> Result<()> {
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    mesh.kubectl(&["label", "--overwrite", "namespace", &mesh.namespace.name, &label], "").await?;
    Ok(())
}

async fn scale_injector(mesh: &Mesh, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    mesh.kubectl(&["-n", "signet-system", "scale", "deployment/injector", &replicas], "").await?;
    Ok(())
}

/// Whether the CA may change the webhook.
async fn may_patch(mesh: &Mesh, may: bool) -> Result<()> {
    let role = Api::<ClusterRole>::all(mesh.system.cluster.client.clone());
    let mut rules = role.get("signet-ca").await?.rules.context("it has rules")?;
    let is_webhook = |rule: &&mut PolicyRule| {
        rule.resources.iter().flatten().any(|resource| resource == "mutatingwebhookconfigurations")
    };
    let rule = rules.iter_mut().find(is_webhook).context("a rule for the webhook")?;
    rule.verbs = if may { vec!["get".into(), "patch".into()] } else { vec!["get".into()] };
    role.patch("signet-ca", &PatchParams::default(), &Patch::Merge(json!({ "rules": rules }))).await?;
    // The API server itself says when it has heard of it.
    let asked = ["auth", "can-i", "patch", "mutatingwebhookconfigurations/signet-injector", CA];
    let heard = async || {
        let answer = mesh.kubectl(&asked, "").await.unwrap_or_else(|_| "no".into());
        ensure!(answer.trim() == if may { "yes" } else { "no" }, "{answer}");
        Ok(())
    };
    mesh.system.eventually("the right to be there, or away", heard).await
}

/// Base64, or null: of every entry.
async fn ca_bundle(mesh: &Mesh, bundle: &Value) -> Result<()> {
    let api = Api::<MutatingWebhookConfiguration>::all(mesh.system.cluster.client.clone());
    let mut webhook = serde_json::to_value(api.get("signet-injector").await?)?;
    for entry in webhook["webhooks"].as_array_mut().context("entries")? {
        entry["clientConfig"]["caBundle"] = bundle.clone();
    }
    let patch = Patch::Merge(json!({ "webhooks": webhook["webhooks"] }));
    api.patch("signet-injector", &PatchParams::default(), &patch).await?;
    Ok(())
}

const OLD_NODE: &str = "old-node";
const CA: &str = "--as=system:serviceaccount:signet-system:ca";
