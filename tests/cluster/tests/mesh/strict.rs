//! Strict: who is outside of the mesh is refused, the kubelet's probes are not, and switching costs no client in the mesh a request.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::Value;
use signet_cluster::{Namespace, fixtures::load, is_ready};

use crate::{
    installed::{Mesh, mesh},
    pods::{addresses, toolbox, url},
};

#[tokio::test]
async fn strict_refuses_strangers_keeps_probes_green_and_switching_fails_no_request_of_the_mesh() -> Result<()>
{
    mesh(async |mesh| {
        mesh.label().await?;
        let shop = &mesh.namespace;
        set_mode(mesh, "strict").await?;
        shop.apply(&(WEB.to_owned() + &toolbox("client", "node1"))).await?;
        let (web, office) = Box::pin(settle(mesh)).await?;
        let ways = ways(mesh, &web)?;
        for way in &ways {
            // Ready was what the kubelet heard under strict, by HTTP, TCP and gRPC; and who is in the mesh is served.
            let answer = asked(shop, "client", way).await?;
            ensure!(answer.starts_with("nginx on web for "), "{way}: {answer}");
            refused(&office, way).await?;
        }
        shop.eventually("edges to tell the stranger's refusal", async || told(mesh, &office).await).await?;

        let before = lives(shop).await?;
        shop.apply(LOAD).await?;
        shop.wait_for::<Pod>("load", "to run", |pod| phase(pod) == "Running").await?;
        let mut switches = 0;
        while phase(&shop.api().get("load").await?) == "Running" {
            for (mode, served) in [("permissive", true), ("strict", false)] {
                set_mode(mesh, mode).await?;
                let what = format!("{mode} to hold");
                shop.eventually(&what, async || ensure_served(&office, &ways[0], served).await).await?;
            }
            switches += 1;
        }
        ensure!(switches >= SWITCHES, "there and back only {switches} times while the load ran");
        shop.wait_for::<Pod>("load", "to end", |pod| phase(pod) == "Succeeded").await?;
        let outcome = load::outcome(&shop.logs("load", "load").await?)?;
        ensure!(outcome.bad.is_empty() && outcome.good == outcome.sent, "{outcome:?}");
        ensure!(outcome.sent > 1000, "that was no load: {outcome:?}");
        ensure!(is_ready(&shop.api().get("web").await?), "a probe failed meanwhile");
        let after = lives(shop).await?;
        ensure!(before == after, "something was started again:\n{before:#?}\n{after:#?}");
        office.delete().await
    })
    .await
}

/// Waits for [`WEB`] and the client, and for a stranger in a namespace without a label.
pub(crate) async fn settle(mesh: &Mesh) -> Result<(Pod, Namespace)> {
    let shop = &mesh.namespace;
    let web = shop.wait_ready("web").await?;
    shop.wait_ready("client").await?;
    shop.wait_endpoints("web", 1).await?;
    let office = Namespace::create(&shop.cluster, "office").await?;
    office.apply(&toolbox("stranger", "node1")).await?;
    office.wait_ready("stranger").await?;
    Ok((web, office))
}

/// By name and by address, of each family.
fn ways(mesh: &Mesh, web: &Pod) -> Result<Vec<String>> {
    let by_name = format!("http://web.{}.svc.cluster.local/", mesh.namespace.name);
    let by_address = addresses(web)?.into_iter().map(|ip: IpAddr| url(ip, 8080));
    Ok(std::iter::once(by_name).chain(by_address).collect())
}

pub(crate) async fn set_mode(mesh: &Mesh, mode: &str) -> Result<()> {
    let label = format!("signet.dev/mtls={mode}");
    mesh.kubectl(&["label", "--overwrite", "namespace", &mesh.namespace.name, &label], "").await.map(drop)
}

/// What it was told; again until DNS knows the name.
async fn asked(namespace: &Namespace, pod: &str, url: &str) -> Result<String> {
    let ask = async || namespace.exec(pod, "toolbox", &curl(url)).await?.ok();
    namespace.eventually(&format!("an answer from {url}"), ask).await
}

/// The stranger is connected, and cut off without a byte of the app.
pub(crate) async fn refused(office: &Namespace, url: &str) -> Result<()> {
    let output = office.exec("stranger", "toolbox", &curl(url)).await?;
    ensure!(CUT_OFF.contains(&output.status) && output.stdout.is_empty(), "not refused: {output}");
    Ok(())
}

pub(crate) async fn ensure_served(office: &Namespace, url: &str, served: bool) -> Result<()> {
    if !served {
        return refused(office, url).await;
    }
    office.exec("stranger", "toolbox", &curl(url)).await?.ok().map(drop)
}

/// Both HTTP versions: a gRPC server answers, too, that it knows no such method.
fn curl(url: &str) -> [&str; 6] {
    let version = if url.ends_with(":9000/") { "--http2-prior-knowledge" } else { "--http1.1" };
    ["curl", "-sS", "-m", "10", version, url]
}

async fn told(mesh: &Mesh, office: &Namespace) -> Result<()> {
    let name = &mesh.namespace.name;
    let edges = mesh.edges(name).await?;
    let is_it = |edge: &&Value| {
        edge["client"]["namespace"] == office.name.as_str()
            && edge["client"]["pod"] == "stranger"
            && edge["server"]["pod"] == "web"
            && edge["server"]["port"] == 8080
            && edge["refused"] == true
            && edge["reason"] == "plaintext_refused"
    };
    ensure!(edges.iter().any(|edge| is_it(&edge)), "no refusal in {edges:#?}");
    let served = |edge: &&Value| edge["secured"] != true && edge["refused"] != true;
    ensure!(!edges.iter().any(|edge| served(&edge)), "plaintext was served: {edges:#?}");
    Ok(())
}

/// Of each pod but the load: name, UID, and the restarts of each of its containers.
async fn lives(namespace: &Namespace) -> Result<Vec<String>> {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await?;
    let life = |pod: Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let containers =
            [status.init_container_statuses, status.container_statuses].into_iter().flatten().flatten();
        let restarts = containers.map(|of| format!("{} {}", of.name, of.restart_count));
        format!("{} {:?} {:?}", pod.name_any(), pod.uid(), restarts.collect::<Vec<_>>())
    };
    Ok(pods.into_iter().filter(|pod| pod.name_any() != "load").map(life).collect())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Probed by HTTP, TCP and gRPC; two failures in a row would restart a container.
pub(crate) const WEB: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: nginx
    image: signet.test/nginx:1
    imagePullPolicy: IfNotPresent
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {httpGet: {path: /, port: web}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1, timeoutSeconds: 5}
    livenessProbe: {tcpSocket: {port: web}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 2}
  - name: grpc
    image: signet.test/cluster:dev
    imagePullPolicy: Always
    args: [fixture, grpc-serve, --listen, '[::]:9000']
    readinessProbe: {grpc: {port: 9000, service: echo}, periodSeconds: 1, timeoutSeconds: 5}
    livenessProbe: {grpc: {port: 9000, service: echo}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 2, initialDelaySeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: web}, {name: grpc, port: 9000, appProtocol: grpc}]
";

/// Long enough for [`SWITCHES`] on a busy machine.
const LOAD: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: load}
spec:
  nodeName: node1
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: load
    image: signet.test/cluster:dev
    imagePullPolicy: Always
    args: [fixture, load, --to, 'web:80', --rate, '100', --seconds, '45', --expect, 'nginx on web for ']
";

const SWITCHES: usize = 3;
/// curl's exit status: HTTP/2 cut off, an empty reply, a connection reset while it sent or received.
const CUT_OFF: [i32; 4] = [16, 52, 55, 56];
