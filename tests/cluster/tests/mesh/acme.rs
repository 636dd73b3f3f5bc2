//! Certificates from a CA outside of the cluster, as users ask for them: Pebble and a DNS server that takes updates, both on the fabric, and
//! clients who believe in nothing but what Pebble issues.

mod between;
mod failing;
mod hostile;
mod hour;
mod killed;
mod moved;
pub(crate) mod outside;
mod scope;
mod seed;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::Value;
use signet_cluster::{Namespace, is_ready};

use self::outside::{LONG_LIFE, Outside};
use crate::{
    edge::web::Web,
    installed::{Mesh, mesh_with},
    pods::{nginx, service},
};

/// What a story wants otherwise.
struct Setting {
    /// How many of a hundred good nonces Pebble refuses.
    nonces: u8,
    /// Of its certificates, seconds.
    life: u32,
    gateways: usize,
    /// Where the CA is asked.
    port: u16,
    /// Of `signet install`.
    options: &'static [&'static str],
}

impl Default for Setting {
    /// As `signet install` makes it: two of each.
    fn default() -> Self {
        Self { nonces: 50, life: LONG_LIFE, gateways: 2, port: outside::CA_PORT, options: &[] }
    }
}

/// Installs Signet with Pebble as its CA, starts the world outside, puts an app into the story's namespace, and runs `story`.
async fn certified(
    setting: Setting,
    story: impl AsyncFnOnce(&Mesh, &Outside, &[IpAddr]) -> Result<()>,
) -> Result<()> {
    let mut outside = Outside::prepare(setting.nonces, setting.life)?;
    let ca = outside.ca(setting.port);
    let email = ["--acme-email", "team@acme.test"];
    let options = ca.iter().map(String::as_str).chain(email).chain(setting.options.iter().copied());
    let options: Vec<&str> = options.collect();
    mesh_with(&options, async |mesh| {
        let addresses = reached(mesh, setting.gateways).await?;
        outside.start(mesh, &addresses).await?;
        mesh.label().await?;
        app(&mesh.namespace).await?;
        let ended = Box::pin(story(mesh, &outside, &addresses)).await;
        if ended.is_err() {
            eprintln!("--- Pebble\n{}", outside.last_words());
            for page in [&["cert", "list"][..], &["hosts"]] {
                let said =
                    mesh.signet_said(page, "").await.map_or_else(|e| format!("{e:#}"), |(_, said)| said);
                eprintln!("--- signet {}\n{said}", page.join(" "));
            }
        }
        ended
    })
    .await
}

/// Plays the cloud: the addresses of the gateways' Service lead to the node with most of them, so that one that ends there leaves another.
async fn reached(mesh: &Mesh, count: usize) -> Result<Vec<IpAddr>> {
    mesh.system.within(STARTS).wait_deployment_available("edge").await?;
    let replicas = format!("--replicas={count}");
    mesh.kubectl(&["-n", &mesh.gateways.name, "scale", "deployment/gateway", &replicas], "").await?;
    mesh.gateways.within(STARTS).wait_deployment_available("gateway").await?;
    let mut nodes = BTreeMap::<String, usize>::new();
    for gateway in gateways(mesh).await? {
        *nodes.entry(gateway.spec.and_then(|spec| spec.node_name).context("on a node")?).or_default() += 1;
    }
    let (node, _) = nodes.into_iter().max_by_key(|(_, count)| *count).context("a node with gateways")?;
    mesh.gateways.assign_address("gateway", &node).await
}

/// Those that are Ready.
async fn gateways(mesh: &Mesh) -> Result<Vec<Pod>> {
    let labelled = ListParams::default().labels("app.kubernetes.io/name=gateway");
    let pods = mesh.gateways.api::<Pod>().list(&labelled).await?;
    Ok(pods.items.into_iter().filter(is_ready).collect())
}

/// Answers "nginx on app for ..." behind Service app.
async fn app(namespace: &Namespace) -> Result<()> {
    namespace.apply(&(nginx("app", "app", "node1") + &service("app", ""))).await?;
    namespace.within(STARTS).wait_endpoints("app", 1).await
}

/// The credentials for the zone, for these namespaces, as an operator writes them.
async fn zone(mesh: &Mesh, namespaces: &[&str]) -> Result<()> {
    let secret = DNS.replace("NAMESPACES", &namespaces.join(", "));
    mesh.kubectl(&["apply", "-f", "-"], &secret).await.map(drop)
}

/// Waits until HTTPS to `host` is answered by the app, with a certificate that the client believes.
async fn opens(namespace: &Namespace, web: &Web, host: &str) -> Result<()> {
    let url = format!("https://{host}/");
    let what = format!("{url} to open");
    namespace.within(ORDERED).eventually(&what, async || answered(web, &url).await).await
}

/// The certificate that a new connection is shown, DER.
async fn leaf(web: &Web, host: &str) -> Result<Vec<u8>> {
    let tls = web.handshake(host, &[]).await?;
    let chain = tls.get_ref().1.peer_certificates().context("a chain")?;
    Ok(chain.first().context("a leaf")?.to_vec())
}

async fn answered(web: &Web, url: &str) -> Result<()> {
    let answer = web.get(url).await?;
    ensure!(answer.status == 200 && answer.body.starts_with("nginx on app for "), "{url}: {answer:?}");
    Ok(())
}

/// What `signet cert list` says.
async fn list(mesh: &Mesh) -> Result<(i32, Vec<Value>)> {
    let (status, said) = mesh.signet_said(&["cert", "list", "-o", "json"], "").await?;
    let mut said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    Ok((status, serde_json::from_value(said["certificates"].take())?))
}

/// The one of exactly this name.
fn of<'a>(certificates: &'a [Value], host: &str) -> Result<&'a Value> {
    let names =
        |one: &&Value| one["names"].as_array().is_some_and(|names| names.iter().any(|name| name == host));
    certificates.iter().find(names).with_context(|| format!("no certificate of {host} in {certificates:#?}"))
}

/// What `signet cert why` says, with its exit status.
async fn why(mesh: &Mesh, host: &str) -> Result<(i32, String)> {
    mesh.signet_said(&["cert", "why", host], "").await
}

/// A host that leads to the app; `annotations` ask for its certificate, YAML.
fn ingress(name: &str, host: &str, annotations: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {name}
  annotations: {{{annotations}}}
spec:
  ingressClassName: signet
  tls: [{{hosts: [\"{host}\"], secretName: {name}-tls}}]
  rules:
  - host: \"{host}\"
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: app, port: {{number: 80}}}}}}}}]}}
"
    )
}

const DNS: &str = include_str!("acme/dns.yaml");
/// The annotation that asks for a certificate.
const ASKS: &str = "kubernetes.io/tls-acme: \"true\"";
/// Images are pulled.
const STARTS: Duration = Duration::from_secs(180);
/// An order takes seconds. One that failed because a gateway was away is followed by another after a minute, give or take a tenth.
const ORDERED: Duration = Duration::from_secs(300);
