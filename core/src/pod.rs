//! What stands in an injected pod: written by the injector, read by the proxy, known to the CLI. One place for every name that
//! two of them share, because they are never of the same version for long: names are only added.
//!
//! The proxy's container gets who it is from the downward API ([`POD_NAME`] and its kin), where the mesh is from [`MESH`], and
//! what the kubelet may ask the app from [`PROBES`]. Its token and the trust bundle are projected into [`IDENTITY_DIR`].

use std::{fmt, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::http_settings::HttpSettings;

/// Container names, in the order in which they stand at the front of `spec.initContainers`.
pub const CAPTURE_CONTAINER: &str = "signet-capture";
pub const PROXY_CONTAINER: &str = "signet-proxy";
/// The projected volume at [`IDENTITY_DIR`].
pub const IDENTITY_VOLUME: &str = "signet-identity";
/// Holds `token` (a service account token for [`TOKEN_AUDIENCE`]) and `bundle.pem` (from ConfigMap [`TRUST_CONFIG_MAP`]).
pub const IDENTITY_DIR: &str = "/var/run/secrets/signet";
pub const TOKEN_FILE: &str = "/var/run/secrets/signet/token";
pub const TRUST_BUNDLE_FILE: &str = "/var/run/secrets/signet/bundle.pem";
/// The only audience whose tokens the CA takes.
pub const TOKEN_AUDIENCE: &str = "signet-ca";
/// In every labelled namespace, written by the CA; its one key is [`TRUST_BUNDLE_KEY`].
pub const TRUST_CONFIG_MAP: &str = "signet-trust";
pub const TRUST_BUNDLE_KEY: &str = "bundle.pem";

/// The proxy's user, which capture lets pass.
pub const PROXY_UID: i64 = 1337;
/// On the pod's network: readiness, metrics and the rewritten probes.
pub const PAGES_PORT: u16 = 15020;
/// On the pod's loopback, for port-forward: everything that the proxy (or a part of the control plane) shows.
pub const ADMIN_PORT: u16 = 15021;
/// Ports of the control plane's Services and pods.
pub const CA_PORT: u16 = 15012;
pub const CONTROLLER_PORT: u16 = 15010;
pub const EDGE_PORT: u16 = 15014;
/// Of the injector's pods; its Service has 443, which is where the API server asks.
pub const INJECTOR_PORT: u16 = 8443;
/// The one name that the injector's serving certificate has, and the key under which it asks the CA for it (a field of the
/// request's metadata).
pub const INJECTOR_NAME: &str = "injector.signet-system.svc";
pub const SERVING: &str = "serving";

/// Environment of the proxy's container, from the downward API (`status.podIPs` for the last).
pub const POD_NAME: &str = "SIGNET_POD_NAME";
pub const POD_NAMESPACE: &str = "SIGNET_POD_NAMESPACE";
pub const SERVICE_ACCOUNT: &str = "SIGNET_SERVICE_ACCOUNT";
pub const POD_IPS: &str = "SIGNET_POD_IPS";
/// JSON of a [`Mesh`].
pub const MESH: &str = "SIGNET_MESH";
/// JSON of a list of [`Probe`]s; absent when there is none.
pub const PROBES: &str = "SIGNET_PROBES";
/// JSON of a [`Gateway`], in the gateway's container; beside it [`POD_NAME`] alone.
pub const GATEWAY: &str = "SIGNET_GATEWAY";
/// The pod's [`UPSTREAMS`] annotation as it is; absent when there is none. The app dials 127.0.0.1 at the left ports.
pub const POD_UPSTREAMS: &str = "SIGNET_UPSTREAMS";

/// The label by which Pod Security admission knows what a namespace enforces.
pub const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Its levels that forbid NET_ADMIN, and with it our capture step.
pub const FORBID_NET_ADMIN: [&str; 2] = ["baseline", "restricted"];
/// Containers by which Istio, Linkerd, Kuma, Consul and Open Service Mesh are known.
pub const OTHER_MESHES: [&str; 11] = [
    "istio-proxy",
    "istio-init",
    "istio-validation",
    "linkerd-proxy",
    "linkerd-init",
    "linkerd-network-validator",
    "kuma-sidecar",
    "kuma-init",
    "consul-dataplane",
    "consul-connect-inject-init",
    "osm-init",
];

/// Labels and annotations that users write; docs/manifests.md describes them.
pub const INJECT: &str = "signet.dev/inject";
/// "enabled" on a namespace: it gets [`TRUST_CONFIG_MAP`] although only single pods of it are injected.
pub const TRUST: &str = "signet.dev/trust";
pub const MTLS: &str = "signet.dev/mtls";
pub const PERMISSIVE_PORTS: &str = "signet.dev/permissive-ports";
pub const UPSTREAMS: &str = "signet.dev/upstreams";
pub const INBOUND: &str = "signet.dev/inbound";
/// "app.example.com, *.team.example": hosts that belong to a namespace, whoever asks for them.
pub const HOSTS: &str = "signet.dev/hosts";
/// "local" or "none": whether the edge CA certifies the hosts of an Ingress that have no certificate of their own.
pub const EDGE_ISSUER: &str = "signet.dev/edge-issuer";
/// "http-01", "tls-alpn-01" or "dns-01": how an ACME authority is shown that an Ingress's hosts are ours.
pub const ACME_CHALLENGE: &str = "signet.dev/acme-challenge";
/// "9100, 9200": ports of the pod that capture leaves alone.
pub const EXCLUDE_INBOUND_PORTS: &str = "signet.dev/exclude-inbound-ports";
/// "5432": destination ports that capture leaves alone.
pub const EXCLUDE_OUTBOUND_PORTS: &str = "signet.dev/exclude-outbound-ports";
/// "10.9.0.0/16": destinations that capture leaves alone.
pub const EXCLUDE_OUTBOUND_SUBNETS: &str = "signet.dev/exclude-outbound-subnets";
/// "250m", "96Mi": what the proxy requests, and its limit where the pod's class needs one.
pub const PROXY_CPU: &str = "signet.dev/proxy-cpu";
pub const PROXY_MEMORY: &str = "signet.dev/proxy-memory";
/// Written by the injector, and the mark of an injected pod: JSON of what was not there before, so that `signet uninject`
/// leaves no empty list behind.
pub const INJECTED: &str = "signet.dev/injected";
/// Written by the injector: JSON of the probes as they were, by container; `signet uninject` puts them back.
pub const ORIGINAL_PROBES: &str = "signet.dev/original-probes";

/// Where the mesh is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mesh {
    /// "cluster.local"
    pub trust_domain: String,
    /// "<host>:<port>", like "ca.signet-system.svc:15012".
    pub ca: String,
    pub controller: String,
    /// The cluster's pod and Service ranges, at least one: inside them an unanswered address is refused, never plaintext.
    pub mesh_ranges: Vec<String>,
}

/// Where the mesh is for a gateway, and how it serves. What is absent has its default.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// "cluster.local"
    pub trust_domain: String,
    /// "<host>:<port>", like "ca.signet-system.svc:15012".
    pub ca: String,
    pub edge: String,
    #[serde(default)]
    pub serving: Serving,
}

/// The same for a gateway outside of a cluster, a file that its supervisor writes. Every field but `serving` is needed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayBootstrap {
    /// "cluster.local"
    pub trust_domain: String,
    /// Its name towards edge.
    pub name: String,
    /// "<ip>:<port>" or "<host>:<port>"
    pub ca: String,
    pub edge: String,
    /// Holds one one-time join token; refreshed by the supervisor.
    pub token_file: PathBuf,
    pub trust_bundle_file: PathBuf,
    /// The address on which every listener listens; the ports come from edge.
    pub bind: String,
    /// The local address that it dials from.
    pub source: String,
    /// "<ip>:<port>" of the admin pages.
    pub admin: String,
    #[serde(default)]
    pub serving: Serving,
}

/// How a gateway serves.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Serving {
    /// "10.0.0.0/8": load balancers, whose connections must begin with a PROXY header.
    pub proxy_protocol: Vec<String>,
    /// Proxies in front of us that append to X-Forwarded-For; 0: nobody's is believed.
    pub trusted_hops: usize,
    /// After SIGTERM: how long we go on accepting, while load balancers take us out.
    pub drain_seconds: u64,
    /// Then: how long what is open may take to end.
    pub finish_seconds: u64,
    /// Threads that serve.
    pub workers: usize,
    /// Connections in all, and of one client address (an IPv6 /64 is one).
    pub connections: usize,
    pub connections_per_client: usize,
    /// Handshakes that have not ended, likewise.
    pub handshakes: usize,
    pub handshakes_per_client: usize,
    pub handshake_seconds: u64,
    /// How requests are treated, where it is not as by default.
    #[serde(skip_serializing_if = "HttpSettings::is_default")]
    pub http: HttpSettings,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            proxy_protocol: Vec::new(),
            trusted_hops: 0,
            drain_seconds: 10,
            finish_seconds: 40,
            workers: 1,
            connections: 10_000,
            connections_per_client: 256,
            handshakes: 1024,
            handshakes_per_client: 64,
            handshake_seconds: 10,
            http: HttpSettings::default(),
        }
    }
}

impl Serving {
    /// An error: the first field that means nothing, by its name in JSON.
    pub fn check(&self) -> Result<(), WrongServing> {
        let wrong =
            |field: &str, got: &dyn fmt::Display, expected| Err(WrongServing::new(field, got, expected));
        self.load_balancers()?;
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            return wrong("workers", &self.workers, "a number of threads, 1 to 64");
        }
        for (field, count) in [
            ("connections", self.connections),
            ("connectionsPerClient", self.connections_per_client),
            ("handshakes", self.handshakes),
            ("handshakesPerClient", self.handshakes_per_client),
        ] {
            if count == 0 {
                return wrong(field, &count, "at least 1");
            }
        }
        if !(1..=A_DAY).contains(&self.handshake_seconds) {
            return wrong("handshakeSeconds", &self.handshake_seconds, "a number of seconds, 1 to a day");
        }
        for (field, seconds) in [("drainSeconds", self.drain_seconds), ("finishSeconds", self.finish_seconds)]
        {
            if seconds > A_DAY {
                return wrong(field, &seconds, "a number of seconds, at most a day");
            }
        }
        self.http.check()
    }

    /// `proxy_protocol`, understood.
    pub fn load_balancers(&self) -> Result<Vec<IpNet>, WrongServing> {
        let range = |(index, range): (usize, &String)| {
            let wrong = |_| {
                let field = format!("proxyProtocol[{index}]");
                WrongServing::new(&field, range, "a range of addresses, like 10.0.0.0/8")
            };
            Ok(range.parse::<IpNet>().map_err(wrong)?.trunc())
        };
        self.proxy_protocol.iter().enumerate().map(range).collect()
    }
}

/// A setting that means nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{field}: {got:?} is not {expected}")]
pub struct WrongServing {
    field: String,
    got: String,
    expected: String,
}

impl WrongServing {
    pub(crate) fn new(field: &str, got: &dyn fmt::Display, expected: impl Into<String>) -> Self {
        let got = got.to_string().chars().take(SHOWN).collect();
        Self { field: field.into(), got, expected: expected.into() }
    }
}

/// One probe or hook of a container that the kubelet asks the proxy for, at [`Probe::path`] on [`PAGES_PORT`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub container: String,
    pub kind: ProbeKind,
    pub ask: Ask,
    /// How long the app may take, seconds; Kubernetes' default is 1.
    pub timeout_seconds: u32,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
    PostStart,
    PreStop,
}

/// What to ask the app, on the pod's own address unless it says another host. Ports are numbers: the injector looks names up.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Ask {
    Http(HttpAsk),
    Tcp {
        port: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// grpc.health.v1.
    Grpc {
        port: u16,
        #[serde(default)]
        service: String,
    },
}

/// Kubernetes' HTTPGetAction.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpAsk {
    /// TLS without verification, as the kubelet does it.
    pub https: bool,
    pub port: u16,
    /// With its query.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// In order; a name may stand there twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// Without the headers' values: a probe may carry a password.
impl fmt::Debug for HttpAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { https, port, path, host, headers } = self;
        let headers: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("HttpAsk")
            .field("https", https)
            .field("port", port)
            .field("path", path)
            .field("host", host)
            .field("headers", &headers)
            .finish()
    }
}

impl Probe {
    /// "/probe/<container>/<kind>": fixed, and made of characters that need no escaping.
    pub fn path(&self) -> String {
        format!("/probe/{}/{}", self.container, self.kind.word())
    }
}

impl ProbeKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::PostStart => "post-start",
            Self::PreStop => "pre-stop",
        }
    }
}

/// More than a node has cores is a mistake.
const MAX_WORKERS: usize = 64;
/// Seconds.
const A_DAY: u64 = 24 * 3600;
/// Characters of a wrong value.
const SHOWN: usize = 256;
