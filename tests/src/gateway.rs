//! A gateway as a process, with the CA and edge that the test plays, and clients from outside.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rcgen::SanType;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::PrivateKeyDer;
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
    _ca: FakeCa,
    child: Child,
    home: PathBuf,
}

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
        let home = std::env::temp_dir().join(format!(
            "signet-gateway-{}-{}",
            std::process::id(),
            network.range().replace('/', "-")
        ));
        let bootstrap = write_home(&home, &network, &authority, &serving).expect("a directory");
        let log = fs::File::create(home.join("log")).expect("a log");
        let child = Command::new(binary("signet-gateway"))
            .arg("--bootstrap")
            .arg(bootstrap)
            .args(["--log", "info,signet_gateway=debug,signet_http=debug"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("signet-gateway starts");
        let this = Self { network, edge, authority, web, _ca: ca, child, home };
        this.becomes_ready().await;
        this
    }

    pub async fn becomes_ready(&self) {
        eventually("the gateway to be ready", SOON, async || {
            matches!(client::get(self.at(15021), "/ready").await, Ok((200, _))).then_some(())
        })
        .await;
    }

    /// A port of the gateway.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(gateway(&self.network), port)
    }

    pub async fn page(&self, path: &str) -> String {
        client::get(self.at(15021), path).await.expect("a page").1
    }

    pub async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).expect("JSON")
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
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    pub fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
            .expect("it is ours");
    }

    /// Waits for its end. True: exit status 0.
    pub async fn ends(&mut self) -> bool {
        let ended = tokio::time::timeout(SOON, self.child.wait()).await;
        ended.expect("it ends").expect("it is ours").success()
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
        let tcp = client::dial(from, self.at(8443)).await?;
        let name = ServerName::try_from(sni.to_owned()).map_err(io::Error::other)?;
        tokio::time::timeout(SOON, TlsConnector::from(Arc::clone(config)).connect(name, tcp))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// One HTTP/1.1 request on a new connection: status and everything that came.
    pub async fn get(&self, config: &Arc<ClientConfig>, sni: &str, host: &str, path: &str) -> (u16, String) {
        let mut tls = self.dial(config, sni).await.expect("a handshake");
        request(&mut tls, host, path).await.expect("an answer")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            eprintln!("the gateway said: {}", log.get(from..).unwrap_or(&log));
        } else {
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}

fn gateway(network: &Network) -> IpAddr {
    network.address(1, 1)
}

fn write_home(
    home: &PathBuf,
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
        "name": "gateway-0",
        "ca": SocketAddr::new(network.control(), 15012),
        "edge": SocketAddr::new(network.control(), 15014),
        "tokenFile": home.join("token"),
        "trustBundleFile": home.join("bundle.pem"),
        "bind": gateway(network),
        "source": gateway(network),
        "admin": SocketAddr::new(gateway(network), 15021),
        "serving": serving,
    });
    let file = home.join("bootstrap.json");
    fs::write(&file, bootstrap.to_string())?;
    Ok(file)
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
