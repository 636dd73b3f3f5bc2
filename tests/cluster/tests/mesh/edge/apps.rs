//! A static blog, a dashboard and a file cloud behind one address, by ordinary Ingress objects: HTTPS to the world, mutual TLS of the
//! mesh to each pod.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request,
    body::{Bytes, Frame},
    header::CONTENT_LENGTH,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use signet_cluster::{Capture, Namespace, Packets};
use tokio::time::timeout;

use super::{
    certificates::Authority,
    notebook::execute,
    published,
    web::{LONG, Web},
};
use crate::installed::{Mesh, mesh_with};

const TEAM: &str = include_str!("apps.yaml");

#[tokio::test]
async fn a_blog_a_dashboard_and_a_file_cloud_are_served_over_https_behind_one_address_each_by_mutual_tls_to_its_pod()
-> Result<()> {
    mesh_with(&["--dev"], async |mesh| {
        let authority = Authority::create()?;
        mesh.edge_available().await?;
        Box::pin(deploy(mesh, &authority)).await?;
        let webs = webs(mesh, &authority).await?;
        let web = webs.first().context("an address")?;
        let captures = Box::pin(captures(&mesh.namespace)).await?;
        for web in &webs {
            Box::pin(are_served(mesh, web)).await.with_context(|| format!("served at {}", web.address))?;
        }
        Box::pin(notebook(mesh, web)).await.context("a notebook")?;
        Box::pin(only_tls_is_on_the_wire(mesh, captures)).await?;
        let hops = || async { hops_are_proven(mesh).await };
        mesh.namespace.eventually("edges to prove every hop to a pod", hops).await?;
        Box::pin(a_large_file(mesh, web)).await.context("a file of 1 GiB")
    })
    .await
}

async fn deploy(mesh: &Mesh, authority: &Authority) -> Result<()> {
    mesh.label().await?;
    mesh.allow(&mesh.namespace).await?;
    let team = &mesh.namespace;
    for (name, host) in [("blog", "blog"), ("plain", "plain"), ("lab", "lab"), ("files", "*.files")] {
        team.apply(&authority.secret(&format!("{name}-tls"), &[host_of(team, host)])?).await?;
    }
    team.apply(&TEAM.replace("NS", &team.name)).await?;
    for app in APPS.iter().chain(&["plain"]) {
        team.within(STARTS).wait_deployment_available(app).await?;
        team.wait_endpoints(app, 1).await?;
    }
    Ok(())
}

/// A client at the one address of each family that all Ingresses have, which asks when every host has its certificate.
async fn webs(mesh: &Mesh, authority: &Authority) -> Result<Vec<Web>> {
    let team = &mesh.namespace;
    let mut all = BTreeSet::new();
    for ingress in ["blog", "plain", "lab", "files"] {
        all.insert(published(team, ingress).await?);
    }
    ensure!(all.len() == 1, "not the same addresses: {all:?}");
    let mut webs = Vec::new();
    for at in all.into_iter().flatten() {
        let web = Web::at(&team.cluster, at, &authority.root)?;
        for host in ["blog", "plain", "lab", "alice.files"] {
            let shake = async || web.handshake(&host_of(team, host), &[]).await.map(drop);
            team.eventually("a certificate for every host", shake).await?;
        }
        webs.push(web);
    }
    Ok(webs)
}

/// What a browser would do first: the page over both versions of HTTP, and by its plain name.
async fn are_served(mesh: &Mesh, web: &Web) -> Result<()> {
    for (host, path, words) in [
        ("blog", "/index.html?MARKER-blog-ask", "MARKER-blog-page"),
        ("plain", "/index.html?MARKER-plain-ask", "MARKER-blog-page"),
        ("lab", "/lab?token=token-of-the-story&x=MARKER-lab-ask", "JupyterLab"),
        ("alice.files", "/?MARKER-files-ask", "WsgiDAV"),
        ("bob.files", "/?MARKER-files-ask", "WsgiDAV"),
    ] {
        let host = host_of(&mesh.namespace, host);
        let url = format!("https://{host}{path}");
        for answer in [web.get(&url).await?, web.get_h2(&url).await?] {
            ensure!(answer.status == 200 && answer.body.contains(words), "{url}: {answer:?}");
        }
        let plain = web.get(&format!("http://{host}{path}")).await?;
        let location = plain.headers.get("location").and_then(|url| url.to_str().ok());
        ensure!(plain.status == 308 && location == Some(&url), "http://{host}{path}: {plain:?}");
    }
    // The wildcard takes one label, and its certificate is for that, too.
    for host in ["files", "x.alice.files"] {
        let host = host_of(&mesh.namespace, host);
        ensure!(web.handshake(&host, &[]).await.is_err(), "{host} has a certificate");
        let plain = web.get(&format!("http://{host}/")).await?;
        ensure!(plain.status == 404, "http://{host}/: {plain:?}");
    }
    let url = format!("https://{}/note.txt", host_of(&mesh.namespace, "alice.files"));
    let put = Request::put(&url).body("MARKER-files-note".to_owned())?;
    let answer = web.send(put).await?.whole().await?;
    ensure!(matches!(answer.status, 201 | 204), "PUT {url}: {answer:?}");
    let answer = web.get(&url).await?;
    ensure!(answer.status == 200 && answer.body == "MARKER-files-note", "GET {url}: {answer:?}");
    Ok(())
}

async fn notebook(mesh: &Mesh, web: &Web) -> Result<()> {
    let host = host_of(&mesh.namespace, "lab");
    for (code, want) in [("1+1", "2"), ("'MARKER-lab'.lower()", "'marker-lab'")] {
        let shown = execute(web, &host, "token-of-the-story", code).await?;
        ensure!(shown == want, "{code} is {shown}");
    }
    Ok(())
}

/// At the interface of every app's pod.
async fn captures(team: &Namespace) -> Result<Vec<(&'static str, Pod, Capture)>> {
    let mut captures = Vec::new();
    for app in APPS.into_iter().chain(["plain"]) {
        let pods = team.wait_ready_pods(&format!("app={app}"), 1).await?;
        let pod = pods.into_iter().next().context("one")?;
        let capture = team.capture(&pod.name_any()).await?;
        captures.push((app, pod, capture));
    }
    Ok(captures)
}

/// No word of an app is in plain sight, and everything that came from a gateway is TLS; but for the pod without a proxy, whose wire
/// says all.
async fn only_tls_is_on_the_wire(mesh: &Mesh, captures: Vec<(&str, Pod, Capture)>) -> Result<()> {
    let gateways = Namespace::of_others(&mesh.namespace.cluster, GATEWAYS);
    let gateways = gateways.api::<Pod>().list(&ListParams::default()).await?;
    let gateways: Vec<IpAddr> = gateways.iter().filter_map(ip).collect();
    ensure!(!gateways.is_empty(), "no gateway has an address");
    for (app, pod, capture) in captures {
        let packets = capture.stop().await?;
        let own = ip(&pod).context("its address")?;
        let from_gateways: Vec<Vec<u8>> = packets
            .streams()
            .into_iter()
            .filter(|((from, to), said)| gateways.contains(&from.ip()) && to.ip() == own && !said.is_empty())
            .map(|(_, said)| said)
            .collect();
        ensure!(!from_gateways.is_empty(), "no gateway spoke to {app}: is this the right wire?");
        let tls = from_gateways.iter().filter(|said| said.starts_with(&HANDSHAKE)).count();
        if app == "plain" {
            ensure!(holds(&packets, "MARKER-plain-ask") && holds(&packets, "MARKER-blog-page"));
            ensure!(tls == 0, "{tls} connections of TLS to a pod without a proxy");
            continue;
        }
        ensure!(tls == from_gateways.len(), "{tls} of {} connections to {app} are TLS", from_gateways.len());
        for word in WORDS {
            ensure!(!holds(&packets, word), "{word} is in plain sight at {app}");
        }
    }
    Ok(())
}

/// What both sides know: the pods' proxies, who called them, and edge, where it leads each host.
async fn hops_are_proven(mesh: &Mesh) -> Result<()> {
    let name = &mesh.namespace.name;
    let gateway = format!("spiffe://{}/ns/{GATEWAYS}/sa/gateway", mesh.trust_domain);
    let own = format!("spiffe://{}/ns/{name}/sa/default", mesh.trust_domain);
    let edges = mesh.edges(name).await?;
    for app in APPS {
        let of = |edge: &&Value| {
            edge["server"]["pod"].as_str().is_some_and(|pod| pod.starts_with(&format!("{app}-")))
        };
        let proven = |edge: &Value| {
            edge["secured"] == true
                && edge["client"]["id"] == gateway.as_str()
                && edge["server"]["id"] == own.as_str()
                && matches!(edge["proof"].as_str(), Some("server" | "both"))
        };
        let to_it: Vec<&Value> = edges.iter().filter(of).collect();
        ensure!(
            to_it.iter().any(|edge| proven(edge)),
            "no proven edge from the gateway to {app}: {to_it:#?}"
        );
    }
    let hosts: Value = serde_json::from_str(&mesh.signet(&["hosts", name, "-o", "json"]).await?)?;
    for (host, transport) in [("blog", "mesh"), ("lab", "mesh"), ("*.files", "mesh"), ("plain", "plain")] {
        let host = host_of(&mesh.namespace, host);
        let found = hosts["hosts"].as_array().into_iter().flatten().find(|one| one["host"] == host.as_str());
        let found = found.with_context(|| format!("signet hosts does not know {host}: {hosts:#}"))?;
        let ways: Vec<&Value> = found["rules"][0]["endpoints"].as_array().into_iter().flatten().collect();
        let is_it =
            ways.len() == 1 && ways[0]["transport"] == transport && found["certificate"]["served"] == true;
        ensure!(is_it, "{found:#}");
    }
    Ok(())
}

/// Up and down, without ever being whole in memory, there or here.
async fn a_large_file(mesh: &Mesh, web: &Web) -> Result<()> {
    let url = format!("https://{}/large", host_of(&mesh.namespace, "alice.files"));
    let (pieces, up) = noise();
    let begun = tokio::time::Instant::now();
    let put = Request::put(&url).header(CONTENT_LENGTH, PIECES * PIECE).body(StreamBody::new(pieces))?;
    let answer = web.send(put).await?.whole().await?;
    ensure!(answer.status == 201, "PUT {url}: {answer:?}");
    let up = up.lock().unwrap_or_else(PoisonError::into_inner).clone().finalize();
    let sent = begun.elapsed();

    let get = Request::get(&url).body(String::new())?;
    let exchange = web.send(get).await?;
    let mut body = exchange.response.into_body();
    let (mut down, mut length) = (Sha256::new(), 0);
    let read = async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                down.update(&data);
                length += data.len();
            }
        }
        anyhow::Ok(())
    };
    timeout(LONG, read).await.context("it does not end")??;
    ensure!(length == PIECES * PIECE && down.finalize() == up, "{length} bytes came back, or others");
    eprintln!("1 GiB went up in {sent:.1?} and came down in {:.1?}", begun.elapsed() - sent);
    Ok(())
}

/// 1 GiB that nothing can squeeze, made as it is asked for, and the hash of what was.
fn noise() -> (impl stream::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>>, Arc<Mutex<Sha256>>)
{
    let hash = Arc::new(Mutex::new(Sha256::new()));
    let (mut random, sums) = (fastrand::Rng::new(), Arc::clone(&hash));
    let pieces = (0..PIECES).map(move |_| {
        let mut piece = vec![0; PIECE];
        random.fill(&mut piece);
        sums.lock().unwrap_or_else(PoisonError::into_inner).update(&piece);
        Ok(Frame::data(piece.into()))
    });
    (stream::iter(pieces), hash)
}

fn host_of(team: &Namespace, app: &str) -> String {
    format!("{app}.{}.test", team.name)
}

fn ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

fn holds(packets: &Packets, words: &str) -> bool {
    packets.contains(words.as_bytes())
}

/// With a proxy.
const APPS: [&str; 3] = ["blog", "lab", "files"];
/// Of what is asked and answered.
const WORDS: [&str; 8] = [
    "MARKER-blog-page",
    "MARKER-blog-ask",
    "MARKER-lab-ask",
    "MARKER-lab",
    "token-of-the-story",
    "MARKER-files-ask",
    "MARKER-files-note",
    "execute_result",
];
const GATEWAYS: &str = "signet-gateway";
/// How a TLS handshake record begins (RFC 9846 5.1).
const HANDSHAKE: [u8; 2] = [22, 3];
const PIECE: usize = 64 << 10;
const PIECES: usize = (1 << 30) / PIECE;
/// Two images of 30 and 150 MB are pulled.
const STARTS: Duration = Duration::from_secs(180);
