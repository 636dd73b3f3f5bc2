//! Signet as shipped: a real CA, a real edge that reads an Ingress and its Secret, and a gateway with its access log and metrics on.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    edge::{lab::Lab, offer::HOST, origin},
    net::{Net, address},
    pki::Files,
    process::Process,
    side::Side,
    signet::{CA_PORT, Ca, TRUST_DOMAIN, control, until_ready},
};

/// CA and edge; they live as long as the run.
pub struct ControlPlane {
    ca: Ca,
    _edge: Process,
}

/// One that serves.
pub struct Gateway {
    pub process: Process,
    /// From start to the first 200 of `/ready`.
    pub ready: Duration,
    /// Where clients dial.
    pub entry: SocketAddr,
}

impl ControlPlane {
    pub fn start(net: &Net, directory: &Path, signet: &Path, web: &Files) -> Result<Self> {
        let ca = Ca::start(net, directory.join("signet"), signet)?;
        let edge = ca.serve(net, signet, "edge", EDGE_PORT, &manifests(web)?)?;
        Ok(Self { ca, _edge: edge })
    }
}

/// Starts gateway number `number` of `program`, as its Deployment does but for the bootstrap file.
pub fn start(lab: &Lab, program: &Path, number: u8) -> Result<Gateway> {
    let ca = &lab.control()?.ca;
    let (name, at) = (format!("gateway-{number}"), addresses(number));
    let directory = ca.path(&name);
    fs::create_dir_all(&directory)?;
    let path = |file: &str| directory.join(file);
    let admin = SocketAddr::new(at, ADMIN_PORT);
    let bootstrap = json!({
        "trustDomain": TRUST_DOMAIN,
        "name": name,
        "ca": control(CA_PORT),
        "edge": control(EDGE_PORT),
        "tokenFile": path("token"),
        "trustBundleFile": ca.trust_bundle(),
        "bind": at,
        "source": at,
        "admin": admin,
    });
    fs::write(path("bootstrap.json"), bootstrap.to_string())?;
    fs::write(path("token"), ca.token("signet-gateway", "gateway")?)?;
    let mut command = lab.net.command(Side::Server, program);
    command.args(["--log-format", "json", "--bootstrap"]).arg(path("bootstrap.json"));
    let (process, ready) =
        until_ready(&lab.net, Side::Server, &name, &mut command, &path("gateway.log"), admin)?;
    Ok(Gateway { process, ready, entry: SocketAddr::new(at, HTTPS_PORT) })
}

/// One Ingress with a certificate of its user, to a Service whose pod is the origin and is not meshed.
fn manifests(web: &Files) -> Result<String> {
    let origin = origin::at();
    let meta = |name: &str| json!({"name": name, "namespace": "bench", "labels": {"app": "origin"}});
    let backend = json!({"service": {"name": "origin", "port": {"number": 80}}});
    let documents: [Value; 5] = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": meta("origin-0"),
            "spec": {"serviceAccountName": "origin", "containers": [{"name": "app", "image": "app"}]},
            "status": {
                "phase": "Running", "podIP": origin.ip(), "podIPs": [{"ip": origin.ip()}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta("origin"),
            "spec": {
                "clusterIP": "198.18.7.200", "selector": {"app": "origin"},
                "ports": [{"name": "http", "port": 80, "targetPort": origin.port()}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta("web"),
            "stringData": {
                "tls.crt": fs::read_to_string(&web.chain)?, "tls.key": fs::read_to_string(&web.key)?,
            },
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta("web"),
            "spec": {
                "ingressClassName": "signet",
                "tls": [{"hosts": [HOST], "secretName": "web"}],
                "rules": [{"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
            },
        }),
    ];
    Ok(documents.iter().map(|document| format!("---\n{document:#}\n")).collect()) // JSON is YAML
}

fn addresses(number: u8) -> IpAddr {
    address(24 + 2 * number)
}

const EDGE_PORT: u16 = 15014;
const ADMIN_PORT: u16 = 15021;
const HTTPS_PORT: u16 = 8443;
