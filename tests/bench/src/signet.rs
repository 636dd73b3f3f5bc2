//! Signet as shipped: a real CA and a real controller on the server's side, two proxies, strict mode and a policy that
//! names the caller; access log into a file, metrics on.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::{fs::DirBuilderExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    backend,
    lab::Lab,
    net::{Net, address},
    process::Process,
    side::{Both, Side},
};

/// A CA; it lives as long as the run.
pub struct Ca {
    directory: PathBuf,
    _process: Process,
}

/// CA and controller; they live as long as the run.
pub struct ControlPlane {
    ca: Ca,
    _controller: Process,
}

/// Two proxies that serve.
pub struct Pair {
    pub processes: Both<Process>,
    /// From start to the first 200 of `/ready`.
    pub ready: Both<Duration>,
    /// Where the client's app dials, one per destination port.
    pub entries: Vec<SocketAddr>,
    /// Where the server's proxy listens.
    pub inbound: SocketAddr,
}

impl Ca {
    /// Its state, and that of all that it serves, lies in `directory`.
    pub fn start(net: &Net, directory: PathBuf, signet: &Path) -> Result<Self> {
        for part in ["", "ca", "trust"] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join(part))?;
        }
        let path = |file: &str| directory.join(file);
        let mut command = net.command(Side::Server, signet);
        let listen = control(CA_PORT);
        command.args([
            "run",
            "ca",
            "--listen",
            &listen,
            "--trust-domain",
            TRUST_DOMAIN,
            "--leaf-life",
            "24h",
        ]);
        command.arg("--state").arg(path("ca")).arg("--trust-bundle").arg(path("trust/bundle.pem"));
        let mut process = Process::start("signet run ca", &mut command, &path("ca.log"))?;
        let socket = path("ca/admin.sock");
        process.wait_until(|| Ok(ask(&socket, "GET", "/v1/status", "").is_ok()))?;
        Ok(Self { directory, _process: process })
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    pub fn trust_bundle(&self) -> PathBuf {
        self.path("trust/bundle.pem")
    }

    /// A one-time join token for an account.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let body = json!({"identity": id(namespace, account), "lifeSeconds": TOKEN_SECONDS}).to_string();
        let answer: Value =
            serde_json::from_str(&ask(&self.path("ca/admin.sock"), "POST", "/v1/tokens", &body)?)?;
        Ok(answer["token"].as_str().context("the CA's answer holds no token")?.to_owned())
    }

    /// Starts `signet run <part>` over `manifests` on `port`, and returns when it answers.
    pub fn serve(&self, net: &Net, signet: &Path, part: &str, port: u16, manifests: &str) -> Result<Process> {
        let directory = self.path(part);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join("manifests"))?;
        fs::write(directory.join("manifests/bench.yaml"), manifests)?;
        fs::write(directory.join("token"), self.token("signet-system", part)?)?;
        let mut command = net.command(Side::Server, signet);
        command.args(["run", part, "--listen", &control(port), "--ca", &control(CA_PORT)]);
        command.args(["--trust-domain", TRUST_DOMAIN, "--mesh-range", MESH]);
        command.arg("--source-dir").arg(directory.join("manifests"));
        command.arg("--token-file").arg(directory.join("token"));
        command.arg("--trust-bundle").arg(self.trust_bundle());
        let socket = directory.join("admin.sock");
        command.arg("--admin-socket").arg(&socket);
        let name = format!("signet run {part}");
        let mut process = Process::start(&name, &mut command, &self.path(&format!("{part}.log")))?;
        process.wait_until(|| Ok(ask(&socket, "GET", "/v1/status", "").is_ok()))?;
        Ok(process)
    }
}

impl ControlPlane {
    pub fn start(net: &Net, directory: &Path, signet: &Path) -> Result<Self> {
        let ca = Ca::start(net, directory.join("signet"), signet)?;
        let controller = ca.serve(net, signet, "controller", CONTROLLER_PORT, &manifests())?;
        Ok(Self { ca, _controller: controller })
    }
}

/// Where a part of the control plane listens.
pub fn control(port: u16) -> String {
    SocketAddr::new(address(2), port).to_string()
}

impl Pair {
    /// Starts pair number `pair` of `proxy`; each carries to `ports` of the server's pod.
    pub fn start(lab: &Lab, proxy: &Path, pair: u8, ports: &[u16]) -> Result<Self> {
        let pods = pods(pair);
        let inbound = |port: &u16| {
            json!({
                "port": port, "listen": SocketAddr::new(pods.server, *port), "target": backend::behind_proxies(),
            })
        };
        let upstream = |port: &u16| {
            json!({
                "listen": SocketAddr::new(pods.client, *port), "to": SocketAddr::new(pods.server, *port),
            })
        };
        let inbound: Vec<Value> = ports.iter().map(inbound).collect();
        let upstreams: Vec<Value> = ports.iter().map(upstream).collect();
        // The server first, or the client would be ready before it has anyone to call.
        let (server, server_ready) = start(lab, proxy, Side::Server, pair, &json!(inbound), &json!([]))?;
        let (client, client_ready) = start(lab, proxy, Side::Client, pair, &json!([]), &json!(upstreams))?;
        Ok(Self {
            processes: Both { client, server },
            ready: Both { client: client_ready, server: server_ready },
            entries: ports.iter().map(|port| SocketAddr::new(pods.client, *port)).collect(),
            inbound: SocketAddr::new(pods.server, ports.first().copied().context("no port")?),
        })
    }
}

fn start(
    lab: &Lab,
    proxy: &Path,
    side: Side,
    pair: u8,
    inbound: &Value,
    upstreams: &Value,
) -> Result<(Process, Duration)> {
    let plane = lab.control()?;
    let account = side.word();
    let name = format!("{account}-{pair}");
    let directory = plane.ca.path(&name);
    fs::create_dir_all(&directory)?;
    let path = |file: &str| directory.join(file);
    let pod = *pods(pair).of(side);
    let admin = SocketAddr::new(pod, ADMIN_PORT);
    let bootstrap = json!({
        "trustDomain": TRUST_DOMAIN,
        "workload": {"namespace": NAMESPACE, "pod": name, "serviceAccount": account, "address": pod},
        "ca": {"address": control(CA_PORT), "id": id("signet-system", "ca")},
        "tokenFile": path("token"),
        "trustBundleFile": plane.ca.trust_bundle(),
        "controller": {"address": control(CONTROLLER_PORT), "id": id("signet-system", "controller")},
        "meshRanges": [MESH],
        "inbound": inbound,
        "upstreams": upstreams,
        "admin": admin,
    });
    fs::write(path("bootstrap.json"), bootstrap.to_string())?;
    fs::write(path("token"), plane.ca.token(NAMESPACE, account)?)?;
    let mut command = lab.net.command(side, proxy);
    command.arg("--bootstrap").arg(path("bootstrap.json"));
    until_ready(&lab.net, side, &name, &mut command, &path("proxy.log"), admin)
}

/// Starts `command` and returns when `/ready` of `admin` is 200, with the time that it took.
pub fn until_ready(
    net: &Net,
    side: Side,
    name: &str,
    command: &mut Command,
    log: &Path,
    admin: SocketAddr,
) -> Result<(Process, Duration)> {
    let begun = Instant::now();
    let mut process = Process::start(name, command, log)?;
    let ready = net.within(side, || -> Result<Duration> {
        loop {
            if is_ready(admin) {
                return Ok(begun.elapsed());
            }
            process.check()?;
            if begun.elapsed() > READY {
                bail!("{name} is not ready after {READY:?}; see {}", log.display());
            }
            sleep(LOOK);
        }
    })??;
    Ok((process, ready))
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let stream = TcpStream::connect(admin)?;
        let answer = http(stream, "GET", "/ready", "")?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The body of a 200.
fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Result<String> {
    let answer = http(UnixStream::connect(socket)?, method, path, body)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{method} {path}: {head}\n{body}");
    }
    Ok(body.to_owned())
}

fn http(
    mut stream: impl std::io::Read + std::io::Write,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<String> {
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The addresses of a pair's pods.
pub fn pods(pair: u8) -> Both<IpAddr> {
    Both { client: address(11 + 2 * pair), server: address(12 + 2 * pair) }
}

fn manifests() -> String {
    let mut documents = vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"signet.dev/inject": "enabled", "signet.dev/mtls": "strict"}},
        }),
        json!({
            "apiVersion": "signet.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "callers", "namespace": NAMESPACE},
            "spec": {
                "targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": "server"}}}],
                "action": "ALLOW",
                "rules": [{"from": [{"serviceAccount": {"namespace": NAMESPACE, "name": "client"}}]}],
            },
        }),
    ];
    for pair in 0..PAIRS {
        for side in Side::ALL {
            let (account, pod) = (side.word(), *pods(pair).of(side));
            documents.push(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": format!("{account}-{pair}"), "namespace": NAMESPACE, "labels": {"app": account},
                },
                "spec": {"serviceAccountName": account, "containers": [{"name": "app", "image": "app"}]},
                "status": {
                    "phase": "Running", "podIP": pod, "podIPs": [{"ip": pod}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }));
        }
    }
    documents.iter().map(|document| format!("---\n{document:#}\n")).collect() // JSON is YAML
}

fn id(namespace: &str, account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
}

/// Three builds, each with a pair for all workloads and one for first contacts.
pub const PAIRS: u8 = 6;
pub const TRUST_DOMAIN: &str = "cluster.local";
const NAMESPACE: &str = "bench";
const MESH: &str = "198.18.7.0/24";
pub const CA_PORT: u16 = 15012;
const CONTROLLER_PORT: u16 = 15010;
const ADMIN_PORT: u16 = 15020;
const TOKEN_SECONDS: u32 = 60;
const READY: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(2);
