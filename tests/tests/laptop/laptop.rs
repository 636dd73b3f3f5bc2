//! The laptop: its apps, `signet local`, and a browser.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use signet_tests::{
    client,
    eventually::{SOON, eventually},
    network::Network,
    programs,
    unprivileged::{Server, Unprivileged},
};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::timeout,
};

pub(crate) struct Laptop {
    pub(crate) network: Network,
    /// Ends before the apps.
    _mesh: Child,
    _apps: Vec<Server>,
    pub(crate) user: Unprivileged,
}

/// What a browser made of an address.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) dom: String,
    said: String,
}

impl Opened {
    /// The browser's own word for why there is no page.
    pub(crate) fn failed_by(&self, error: &str) -> bool {
        self.said.contains(&format!("Page load failed: net::{error}"))
    }
}

impl Laptop {
    /// Mesh and edge, ready; of the apps only the blog runs.
    pub(crate) async fn start(network: Network) -> Self {
        Self::start_with(network, false).await
    }

    /// All three run.
    pub(crate) async fn with_all_apps(network: Network) -> Self {
        Self::start_with(network, true).await
    }

    async fn start_with(network: Network, all: bool) -> Self {
        let user = Unprivileged::new().expect("a user");
        let mut apps = vec![blog(&user, &network).await];
        if all {
            apps.extend(apps_of_pypi(&user, &network).await);
        }
        for directory in ["manifests", "state"] {
            user.directory(directory).expect("a directory");
        }
        user.write("manifests/pods.yaml", &pods(&network)).expect("manifests");
        user.write("manifests/ingresses.yaml", &ingresses()).expect("manifests");
        let mut mesh = user.signet("signet");
        mesh.arg("local").arg(user.home.join("manifests")).arg("--state").arg(user.home.join("state"));
        mesh.args(["--control-address", &network.control().to_string()]);
        mesh.args(["--edge-address", &network.address(0, 2).to_string()]);
        let log = fs::File::create(user.home.join("local.log")).expect("a log");
        let mesh = mesh.stdout(Stdio::null()).stderr(log).spawn().expect("signet local");
        let laptop = Self { network, _mesh: mesh, _apps: apps, user };
        laptop.eventually_serves(true).await;
        laptop
    }

    /// Where the gateway serves.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.network.address(0, 2)
    }

    /// `signet trust`, as JSON.
    pub(crate) async fn trust(&self, args: &[&str]) -> Value {
        self.ask(&[&["trust"], args].concat()).await
    }

    /// A question whose answer is that all is fine.
    pub(crate) async fn ask(&self, args: &[&str]) -> Value {
        self.asked(args).await.expect("exit status 0")
    }

    /// The same; an error where something is to be fixed.
    pub(crate) async fn asked(&self, args: &[&str]) -> std::io::Result<Value> {
        let mut signet = self.user.signet("signet");
        signet.args(args).args(["-o", "json", "--state"]).arg(self.user.home.join("state"));
        let said = self.user.output(signet).await?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Opens a host of the laptop.
    pub(crate) async fn open(&self, url: &str) -> Opened {
        self.open_at(url, "*.localhost", self.gateway()).await
    }

    /// Opens `url`, with `hosts` at `address`: names are the only thing that the browser is told.
    pub(crate) async fn open_at(&self, url: &str, hosts: &str, address: IpAddr) -> Opened {
        let mut browser = self.browser(hosts, address);
        browser.args(["--dump-dom", url]);
        let output =
            timeout(SOON * 4, browser.output()).await.expect("Chromium ends").expect("Chromium runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Opened { dom: text(output.stdout), said: text(output.stderr) }
    }

    pub(crate) async fn takes_a_screenshot_where_it_is_wanted(&self, url: &str) {
        let Some(wanted) = std::env::var_os("SIGNET_SCREENSHOT") else { return };
        let file = self.user.home.join("screenshot.png");
        let mut browser = self.browser("*.localhost", self.gateway());
        browser.arg(format!("--screenshot={}", file.display())).args(["--window-size=1000,640", url]);
        let output =
            timeout(SOON * 4, browser.output()).await.expect("Chromium ends").expect("Chromium runs");
        assert!(output.status.success(), "{output:?}");
        fs::copy(file, wanted).expect("a screenshot");
    }

    /// Headless, with a new profile, whose cache knows no page. Without Chromium's sandbox, which needs more rights than this user has.
    fn browser(&self, hosts: &str, address: IpAddr) -> Command {
        let profile = self.user.home.join("profile");
        let _ = fs::remove_dir_all(&profile); // there is none before the first
        let mut browser = self.user.command("chromium");
        browser.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]);
        browser.arg(format!("--user-data-dir={}", profile.display()));
        browser.arg(format!("--host-resolver-rules=MAP {hosts} {address}"));
        // Scripts run for so long, counted without waits: what a person sees a moment after the page is there.
        browser.arg("--virtual-time-budget=30000");
        browser
    }

    pub(crate) async fn proves_that_the_gateway_reaches_each_app_by_mutual_tls(&self) {
        let gateway = "spiffe://cluster.local/ns/signet-gateway/sa/gateway";
        for pod in ["blog", "lab", "files"] {
            eventually(&format!("a secured edge to {pod}"), SOON, async || {
                let edges = self.ask(&["edges"]).await;
                let edges = edges["edges"].as_array()?.clone();
                let to = |edge: &&Value| edge["server"]["pod"] == pod && edge["client"]["id"] == gateway;
                let edge = edges.iter().find(to)?;
                assert_eq!(
                    (&edge["secured"], &edge["tls"]["version"]),
                    (&true.into(), &"TLSv1.3".into()),
                    "{edge}"
                );
                Some(())
            })
            .await;
        }
    }

    /// The manifest of Ingresses as the laptop starts with it.
    pub(crate) fn ingresses(&self) -> String {
        ingresses()
    }

    pub(crate) async fn writes_ingresses(&self, text: &str) {
        self.user.write("manifests/ingresses.yaml", text).expect("manifests");
    }

    /// Until the gateway is ready with every host, or is gone.
    pub(crate) async fn eventually_serves(&self, wanted: bool) {
        let pages = SocketAddr::new(self.network.control(), 15021);
        eventually(&format!("the gateway to serve: {wanted}"), SOON, async || {
            let ready = matches!(client::get(pages, "/ready").await, Ok((200, _)));
            (ready == wanted).then_some(())
        })
        .await;
        if !wanted {
            return;
        }
        for d in [11, 12, 13] {
            let proxy = SocketAddr::new(self.network.address(1, d), 15020);
            eventually("the proxies to be ready", SOON, async || {
                client::get(proxy, "/ready").await.ok().filter(|(status, _)| *status == 200)
            })
            .await;
        }
    }

    pub(crate) async fn takes_the_https_port(&self) -> TcpListener {
        TcpListener::bind((self.gateway(), 8443)).await.expect("it is free")
    }

    pub(crate) async fn eventually_logs(&self, words: &str) {
        let log = self.user.home.join("local.log");
        eventually(&format!("{words:?} on stderr"), SOON, async || {
            fs::read_to_string(&log).ok().filter(|log| log.contains(words))
        })
        .await;
    }
}

/// nginx with a page, where its pod's app listens.
async fn blog(user: &Unprivileged, network: &Network) -> Server {
    user.directory("www").expect("a directory");
    user.write("www/index.html", "<!doctype html><title>Blog</title><h1>A static blog</h1>").expect("a page");
    let at = SocketAddr::new(network.address(1, 11), 18080);
    programs::nginx(user, &[at]).await.expect("nginx")
}

/// JupyterLab, and WsgiDAV with a file: each where its pod's app listens.
async fn apps_of_pypi(user: &Unprivileged, network: &Network) -> [Server; 2] {
    let at = |d, port| SocketAddr::new(network.address(1, d), port);
    let bin = programs_of_pypi().await;
    let lab = at(12, 18888);
    let mut jupyter = ours(&bin.join("jupyter-lab"), &user.directory("lab").expect("a directory"));
    jupyter.args(["--allow-root", "--no-browser", "--ServerApp.allow_remote_access=True"]);
    jupyter.args([
        "--IdentityProvider.token=",
        "--ServerApp.port_retries=0",
        "--ServerApp.terminals_enabled=False",
    ]);
    jupyter.args([format!("--ServerApp.ip={}", lab.ip()), format!("--ServerApp.port={}", lab.port())]);
    let lab = user.slow_server("jupyter", jupyter, &[lab], START).await.expect("JupyterLab");
    let (files, home) = (at(13, 18081), user.directory("files").expect("a directory"));
    fs::write(home.join("holiday.txt"), "sun\n").expect("a file");
    let mut wsgidav = ours(&bin.join("wsgidav"), &home);
    wsgidav.args(["--server=cheroot", "--auth=anonymous", "--no-config", "--root", "."]);
    wsgidav.args([format!("--host={}", files.ip()), format!("--port={}", files.port())]);
    let files = user.slow_server("wsgidav", wsgidav, &[files], START).await.expect("WsgiDAV");
    [lab, files]
}

/// The programs lie below our own home, so we run them ourselves; a test that is killed takes them along.
fn ours(program: &PathBuf, home: &PathBuf) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command.current_dir(home).env("HOME", home).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Where JupyterLab and WsgiDAV are; installs them where nobody did.
async fn programs_of_pypi() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/local-apps.sh");
    let output = timeout(INSTALL, Command::new(script).output()).await.expect("it ends").expect("it runs");
    assert!(output.status.success(), "{}: {}", script, String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Three pods in a strict namespace, whose apps listen elsewhere on their addresses.
fn pods(network: &Network) -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: home\n  labels: {signet.dev/inject: enabled, signet.dev/mtls: strict}\n",
    );
    for (name, d, app) in [("blog", 11, 18080), ("lab", 12, 18888), ("files", 13, 18081)] {
        let ip = network.address(1, d);
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: home\n  labels: {{app: {name}}}\n  \
             annotations: {{signet.dev/inbound: \"8080={app}\"}}\nspec: {{serviceAccountName: {name}}}\nstatus: {{podIP: {ip}}}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: home}}\n\
             spec:\n  selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
        );
    }
    text
}

/// As for a cluster: the Secrets are those that somebody there would make.
fn ingresses() -> String {
    let of = |(name, host): (&str, &str)| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: home}}\nspec:\n  \
             ingressClassName: signet\n  tls: [{{hosts: [{host}], secretName: {name}-tls}}]\n  rules:\n  - host: {host}\n    http:\n      \
             paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}]\n"
        )
    };
    [("blog", "blog.localhost"), ("lab", "lab.example.com"), ("files", "files.localhost")].map(of).concat()
}

/// JupyterLab reads a thousand files before it listens.
const START: Duration = Duration::from_secs(120);
/// Of two apps and all that they need, from PyPI.
const INSTALL: Duration = Duration::from_secs(300);
