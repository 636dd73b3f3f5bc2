//! A service of two replicas and a client that asks it 200 times a second whatever becomes of the earlier requests, both in the
//! mesh: what has to go on while something else is stopped, restarted or replaced.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
use nix::sys::signal::Signal;
use signet_cluster::{
    Namespace,
    fixtures::load::{self, Outcome},
};

use crate::installed::Mesh;

/// As a team states it that wants no request lost: two replicas, a readiness probe, and a pause before SIGTERM, in which those
/// who still call it hear that it goes.
const APP: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      topologySpreadConstraints:
      - {topologyKey: kubernetes.io/hostname, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: nginx
        image: signet.test/nginx:1
        imagePullPolicy: IfNotPresent
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 5}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: web}]
";

const LOAD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: load}
spec:
  nodeName: node1
  restartPolicy: Never
  serviceAccountName: reader
  containers:
  - name: load
    image: signet.test/cluster:dev
    imagePullPolicy: Always
    args: [fixture, load, --to, "web:80", --rate, "200", --seconds, "3600", --expect, "nginx on web-"]
"#;

/// Puts the service into the mesh.
pub(crate) async fn serve(mesh: &Mesh) -> Result<()> {
    mesh.label().await?;
    let namespace = mesh.namespace.within(STARTS);
    namespace.apply(APP).await?;
    namespace.wait_deployment_available("web").await?;
    namespace.wait_endpoints("web", 2).await
}

/// Runs `story` while the client asks; an error unless every request had its whole answer. Returns what became of them.
pub(crate) async fn under_load(mesh: &Mesh, story: impl AsyncFnOnce() -> Result<()>) -> Result<Outcome> {
    let namespace = mesh.namespace.within(STARTS);
    namespace.apply(LOAD).await?;
    namespace.wait_ready("load").await?;
    namespace
        .eventually("the client's first answer", async || {
            ensure!(load::has_begun(&namespace.logs("load", "load").await?), "none yet");
            Ok(())
        })
        .await?;
    let begun = Instant::now();
    let ended = Box::pin(story()).await;
    let lasted = begun.elapsed();
    let outcome = end(&namespace).await;
    eprintln!("under load for {lasted:.0?}: {outcome:?}");
    ended?;
    let outcome = outcome?;
    if !outcome.bad.is_empty() {
        bail!("requests failed: {outcome:?}; the client's proxy says {}", refused(&namespace).await);
    }
    let least = lasted.as_secs() * RATE * 95 / 100;
    ensure!(outcome.sent >= least, "only {} requests in {lasted:?}: not an open loop", outcome.sent);
    Ok(outcome)
}

/// Why the client's proxy let connections go, by its access log: each reason, how often, and one line.
async fn refused(namespace: &Namespace) -> String {
    let log = match namespace.logs("load", "signet-proxy").await {
        Ok(log) => log,
        Err(error) => return format!("nothing: {error:#}"),
    };
    let mut reasons: BTreeMap<&str, (u32, &str)> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(" access: ")) {
        let reason = line.rsplit_once(" reason=").map_or("?", |(_, reason)| reason);
        reasons.entry(reason).or_insert((0, line)).0 += 1;
    }
    reasons.remove("ok");
    format!("{reasons:?}")
}

async fn end(namespace: &Namespace) -> Result<Outcome> {
    namespace.signal("load", "load", Signal::SIGTERM).await?;
    let ended = |pod: &Pod| {
        let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let state = containers.and_then(|all| all.first()?.state.as_ref());
        state.is_some_and(|state| state.terminated.is_some())
    };
    namespace.wait_for::<Pod>("load", "to end", ended).await?;
    load::outcome(&namespace.logs("load", "load").await?)
}

/// Whoever the client spoke with has proven to be the service's account and nobody else, and the pods that serve now say so too.
pub(crate) async fn only_the_service_was_reached(mesh: &Mesh) -> Result<()> {
    mesh.namespace.eventually("edges to prove who was asked", async || proven(mesh).await).await
}

async fn proven(mesh: &Mesh) -> Result<()> {
    let name = &mesh.namespace.name;
    let edges = mesh.edges(name).await?;
    let of_the_client = edges.iter().filter(|edge| edge["client"]["pod"] == "load");
    let id = |account: &str| format!("spiffe://{}/ns/{name}/sa/{account}", mesh.trust_domain);
    let mut proven = Vec::new();
    for edge in of_the_client {
        ensure!(edge["client"]["id"] == id("reader").as_str(), "not the client: {edge:#}");
        if edge["refused"] == true {
            continue; // tried again elsewhere, or the request would have failed
        }
        ensure!(edge["secured"] == true, "in plaintext: {edge:#}");
        ensure!(edge["server"]["id"] == id("web").as_str(), "somebody else: {edge:#}");
        if edge["proof"] == "both" {
            proven.extend(edge["server"]["pod"].as_str());
        }
    }
    let pods = mesh.namespace.api::<Pod>().list(&ListParams::default().labels("app=web")).await?;
    for pod in pods.iter().map(kube::ResourceExt::name_any) {
        ensure!(proven.contains(&pod.as_str()), "nothing proves that {pod} was asked: {edges:#?}");
    }
    Ok(())
}

/// Each pod by its UID, with how often its containers were started again.
pub(crate) async fn restarts(namespace: &Namespace) -> Result<BTreeMap<String, i32>> {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await?.into_iter();
    let count = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let containers = status.container_statuses.into_iter().chain(status.init_container_statuses);
        containers.flatten().map(|container| container.restart_count).sum()
    };
    Ok(pods
        .map(|pod| (format!("{} {}", pod.name_any(), pod.uid().unwrap_or_default()), count(&pod)))
        .collect())
}

/// A Deployment of one pod that a mesh has to let in: Ready needs capture, certificate and settings.
pub(crate) fn late(name: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: nginx
        image: signet.test/nginx:1
        imagePullPolicy: IfNotPresent
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"
    )
}

/// What `load` is told.
const RATE: u64 = 200;
/// Images are pulled.
pub(crate) const STARTS: Duration = Duration::from_secs(180);
