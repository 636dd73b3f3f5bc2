//! A gateway as a process, with the CA and edge that the test plays, and clients from outside.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::SanType;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::PrivateKeyDer;
use serde::Deserialize;
use serde_json::{Value, json};
use signet_core::{
    identity::{self, TrustDomain},
    tls,
};
use signet_http::{
    contract::certificate::{Certificate, PrivateKey},
    model::{
        Action, Backend, Choice, Endpoint, Forward, HostPattern, Listener, Protocol, Route, Rule, Scheme,
        Security, Target, Weighted,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    binaries::binary,
    client,
    eventually::{SOON, eventually},
    fake_ca::FakeCa,
    fake_edge::{FakeEdge, World},
    network::Network,
    pki::{Authority, bare_leaf_params, key},
};

/// Of one test; its processes end with it.
pub struct Edge {
    pub network: Network,
    pub edge: FakeEdge,
    /// The mesh's.
    pub authority: Arc<Authority>,
    /// Of certificates for hosts, as clients of the web know it.
    pub web: Authority,
    pub gateway: Gateway,
    _ca: FakeCa,
    serving: Value,
}

/// One process.
pub struct Gateway {
    /// From its exec to the first 200 of `/ready`.
    pub ready: Duration,
    address: IpAddr,
    child: Child,
    home: PathBuf,
}

/// What a story may have to explain.
const TALKATIVE: &str = "info,signet_gateway=debug,signet_http=debug";
/// Listener names, as for all Ingresses.
pub const HTTP: &str = "ingress/http";
pub const HTTPS: &str = "ingress/https";

impl Edge {
    /// Starts all of it and waits until the gateway is ready. `world` adds to the two listeners.
    pub async fn start(world: impl FnOnce(&mut World, &Authority, &Network)) -> Self {
        Self::start_with(json!({}), world).await
    }

    /// `serving`: as in the bootstrap.
    pub async fn start_with(serving: Value, world: impl FnOnce(&mut World, &Authority, &Network)) -> Self {
        Self::launch(serving, TALKATIVE, world).await
    }

    /// With no more in its log than its Deployment's has.
    pub async fn start_as_shipped(world: impl FnOnce(&mut World, &Authority, &Network)) -> Self {
        Self::launch(json!({}), "info", world).await
    }

    async fn launch(serving: Value, log: &str, world: impl FnOnce(&mut World, &Authority, &Network)) -> Self {
        let (network, web, authority) = (Network::claim(), Authority::new(), Arc::new(Authority::new()));
        let mut said = World::default();
        for (name, port, public_port, scheme) in
            [(HTTP, 8080, 80, Scheme::Http), (HTTPS, 8443, 443, Scheme::Https)]
        {
            let (name, hosts) = (name.into(), HostPattern::Any);
            said.listener(&Listener { name, port, public_port, scheme, hosts });
        }
        world(&mut said, &web, &network);
        let control = network.control();
        let ca = FakeCa::start(SocketAddr::new(control, 15012), Arc::clone(&authority)).await.expect("a CA");
        let edge = FakeEdge::start(SocketAddr::new(control, 15014), &authority, said).await.expect("an edge");
        let gateway = Gateway::start(1, &network, &authority, &serving, log).await;
        Self { network, edge, authority, web, gateway, _ca: ca, serving }
    }

    /// One more gateway beside the first, told the same; `number` is not 1.
    pub async fn another(&self, number: u8) -> Gateway {
        Gateway::start(number, &self.network, &self.authority, &self.serving, TALKATIVE).await
    }

    /// A port of the gateway.
    pub fn at(&self, port: u16) -> SocketAddr {
        self.gateway.at(port)
    }

    pub async fn page(&self, path: &str) -> String {
        self.gateway.page(path).await
    }

    pub async fn json(&self, path: &str) -> Value {
        self.gateway.json(path).await
    }

    /// The generation that is served after `change`.
    pub async fn changes(&self, change: impl FnOnce(&mut World)) {
        let before = self.json("/v1/hosts").await["generation"].as_u64();
        self.edge.change(change);
        eventually("the change to be served", SOON, async || {
            (self.json("/v1/hosts").await["generation"].as_u64() > before).then_some(())
        })
        .await;
    }

    pub fn log(&self) -> String {
        self.gateway.log()
    }

    pub fn terminate(&self) {
        self.gateway.terminate();
    }

    /// Waits for its end. True: exit status 0.
    pub async fn ends(&mut self) -> bool {
        self.gateway.ends().await
    }

    /// A client's TLS, which believes in the web's CA; ALPN as given. Sessions are kept in the config.
    pub fn tls(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.web.root().clone()).expect("a root");
        let provider = Arc::new(tls::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    pub async fn dial(&self, config: &Arc<ClientConfig>, sni: &str) -> io::Result<TlsStream<TcpStream>> {
        self.dial_from(self.network.address(9, 9), config, sni).await
    }

    pub async fn dial_from(
        &self,
        from: IpAddr,
        config: &Arc<ClientConfig>,
        sni: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        shake(from, self.at(8443), config, sni).await
    }

    /// One HTTP/1.1 request on a new connection: status and everything that came.
    pub async fn get(&self, config: &Arc<ClientConfig>, sni: &str, host: &str, path: &str) -> (u16, String) {
        let mut tls = self.dial(config, sni).await.expect("a handshake");
        request(&mut tls, host, path).await.expect("an answer")
    }
}

impl Gateway {
    /// Waits until it is ready. `log`: "info" is what ships.
    pub async fn start(
        number: u8,
        network: &Network,
        authority: &Authority,
        serving: &Value,
        log: &str,
    ) -> Self {
        let address = network.address(1, number);
        let name = format!("signet-gateway-{}-{address}", std::process::id());
        let home = std::env::temp_dir().join(name);
        let bootstrap = write_home(&home, address, network, authority, serving).expect("a directory");
        let file = fs::File::create(home.join("log")).expect("a log");
        let begun = Instant::now();
        let child = Command::new(binary("signet-gateway"))
            .arg("--bootstrap")
            .arg(bootstrap)
            .args(["--log", log, "--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("signet-gateway starts");
        let mut this = Self { ready: Duration::ZERO, address, child, home };
        eventually("the gateway to be ready", SOON, async || this.is_ready().await.then_some(())).await;
        this.ready = begun.elapsed();
        this
    }

    /// What a load balancer asks.
    pub async fn is_ready(&self) -> bool {
        matches!(client::get(self.at(15021), "/ready").await, Ok((200, _)))
    }

    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    pub async fn page(&self, path: &str) -> String {
        client::get(self.at(15021), path).await.expect("a page").1
    }

    pub async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).expect("JSON")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// What it wrote into its access log.
    pub fn accesses(&self) -> Vec<Access> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(r#""target":"access""#));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    pub fn terminate(&self) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), nix::sys::signal::Signal::SIGTERM)
            .expect("it is ours");
    }

    pub fn pid(&self) -> i32 {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs")
    }

    /// Waits for its end. True: exit status 0.
    pub async fn ends(&mut self) -> bool {
        let ended = tokio::time::timeout(SOON, self.child.wait()).await;
        ended.expect("it ends").expect("it is ours").success()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            eprintln!("the gateway at {} said: {}", self.address, log.get(from..).unwrap_or(&log));
        } else {
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}

/// A line of the access log.
#[derive(Clone, Debug, Deserialize)]
pub struct Access {
    pub version: String,
    #[serde(default)]
    pub method: String,
    #[serde(default)]
    pub path: String,
    /// Where it was sent to, if it was.
    pub endpoint: Option<String>,
    pub tries: u32,
    pub status: u16,
    /// Bytes of the request's body.
    pub received: u64,
    #[serde(default)]
    pub request_id: String,
    pub reason: String,
}

fn write_home(
    home: &PathBuf,
    address: IpAddr,
    network: &Network,
    authority: &Authority,
    serving: &Value,
) -> io::Result<PathBuf> {
    fs::create_dir_all(home)?;
    let domain = TrustDomain::new("cluster.local").map_err(io::Error::other)?;
    fs::write(home.join("token"), identity::gateway(&domain).to_string())?; // the fake CA's tokens are names
    fs::write(home.join("bundle.pem"), authority.bundle(1).to_pem())?;
    let bootstrap = json!({
        "trustDomain": "cluster.local",
        "name": format!("gateway-{address}"),
        "ca": SocketAddr::new(network.control(), 15012),
        "edge": SocketAddr::new(network.control(), 15014),
        "tokenFile": home.join("token"),
        "trustBundleFile": home.join("bundle.pem"),
        "bind": address,
        "source": address,
        "admin": SocketAddr::new(address, 15021),
        "serving": serving,
    });
    let file = home.join("bootstrap.json");
    fs::write(&file, bootstrap.to_string())?;
    Ok(file)
}

/// A connection from `from` to `to` with its handshake done.
pub async fn shake(
    from: IpAddr,
    to: SocketAddr,
    config: &Arc<ClientConfig>,
    sni: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = client::dial(from, to).await?;
    let name = ServerName::try_from(sni.to_owned()).map_err(io::Error::other)?;
    tokio::time::timeout(SOON, TlsConnector::from(Arc::clone(config)).connect(name, tcp))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Writes a request and reads its response, whose length is given.
pub async fn request(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    host: &str,
    path: &str,
) -> io::Result<(u16, String)> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    response(stream).await
}

/// Status, and head and body as they came.
pub async fn response(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<(u16, String)> {
    let (mut bytes, mut more) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse::<usize>().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                return Ok((status.unwrap_or(0), text));
            }
        }
        match tokio::time::timeout(SOON, stream.read(&mut more)).await?? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&more[..n]),
        }
    }
}

/// A certificate of the web for `hosts`, presented for them on the HTTPS listener.
pub fn certificate(web: &Authority, name: &str, hosts: &[&str]) -> Certificate {
    let (mut params, key) = (bare_leaf_params(Duration::from_secs(3600)), key());
    let san = |host: &&str| SanType::DnsName((*host).try_into().expect("a DNS name"));
    params.subject_alt_names = hosts.iter().map(san).collect();
    let presented = web.present(&params, &key);
    let PrivateKeyDer::Pkcs8(pkcs8) = &presented.key else { panic!("rcgen writes PKCS#8") };
    Certificate {
        name: name.into(),
        listeners: vec![HTTPS.into()],
        names: hosts.iter().map(|host| HostPattern::ingress(Some(host)).expect("a host")).collect(),
        chain: presented.chain,
        key: PrivateKey::new(pkcs8.secret_pkcs8_der().to_vec()),
        default: false,
    }
}

/// All paths of `host`, on both listeners, to `backend`.
pub fn route(host: &str, backend: &str) -> Route {
    let weighted = Weighted {
        target: Target::Backend(backend.into()),
        weight: 1,
        request_headers: Default::default(),
        response_headers: Default::default(),
    };
    Route {
        name: format!("ingress/shop/{host}").into(),
        created: 0,
        parents: vec![HTTP.into(), HTTPS.into()],
        hosts: vec![HostPattern::ingress(Some(host)).expect("a host")],
        rules: vec![Rule::new(Action::Forward(Forward { backends: vec![weighted], ..Forward::default() }))],
    }
}

pub fn backend(name: &str, address: SocketAddr, security: Security) -> Backend {
    Backend {
        name: name.into(),
        protocol: Protocol::Http1,
        choice: Choice::Quicker,
        endpoints: vec![Endpoint { address, security }],
    }
}
