//! What this gateway was told before it could ask anyone: the bootstrap file in directory mode, or the environment of its pod.
//!
//! [`GatewayBootstrap`] is the file as written, [`Config`] what either means; a field that means nothing stops the process with its
//! name and what it should have been.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Serialize, Serializer, de::DeserializeOwned};
use signet_core::{
    identity::{self, GATEWAY_NAMESPACE, SpiffeId, TrustDomain},
    pod::{
        GATEWAY, Gateway, GatewayBootstrap, POD_NAME, Serving, TOKEN_FILE, TRUST_BUNDLE_FILE, WrongServing,
    },
};
use signet_link::{Target, place::Place, svid::Token};

use crate::limits::Limits;

/// A bootstrap whose every field means something.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(serialize_with = "display")]
    pub trust_domain: TrustDomain,
    /// Our node on the stream, and who we are in the logs of those that we dial: "<namespace>/<pod>".
    pub name: Arc<str>,
    #[serde(serialize_with = "display")]
    pub id: SpiffeId,
    pub ca: Target,
    pub edge: Target,
    #[serde(skip)]
    pub token: Token,
    pub trust_bundle_file: PathBuf,
    pub bind: IpAddr,
    /// The kernel knows better where it is `None`.
    pub source: Option<IpAddr>,
    pub admin: Admin,
    /// Load balancers, whose connections must begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    pub workers: usize,
    #[serde(skip)]
    pub limits: Limits,
    /// Of requests.
    #[serde(skip)]
    pub http: signet_http::limits::Limits,
    /// All of what was told and what was not, as it holds: for people.
    pub serving: Serving,
}

/// Where the pages are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Admin {
    /// All of them.
    At(SocketAddr),
    /// Readiness and metrics on every address of the pod, all of them on its loopback.
    Pod,
}

impl Config {
    /// Reads a bootstrap file.
    pub fn read(path: &Path) -> Result<Self, BadConfig> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| BadConfig::Unreadable { file: origin.clone(), source })?;
        let file: GatewayBootstrap = json(&origin, &text)?;
        let token = Token::Once(file.token_file.clone());
        let of_file = |wrong| BadConfig::Field { origin: origin.clone(), wrong };
        Self::of_bootstrap(file, token).map_err(of_file)
    }

    fn of_bootstrap(file: GatewayBootstrap, token: Token) -> Result<Self, WrongField> {
        let whole = Self::new(
            Gateway { trust_domain: file.trust_domain, ca: file.ca, edge: file.edge, serving: file.serving },
            &file.name,
            token,
            file.trust_bundle_file,
        )?;
        Ok(Self {
            bind: parse("bind", &file.bind, "an IP address, like 127.0.0.1")?,
            source: Some(parse("source", &file.source, "an IP address, like 127.0.0.1")?),
            admin: Admin::At(parse("admin", &file.admin, "<ip>:<port>, like 127.0.0.1:15021")?),
            ..whole
        })
    }

    /// Understands the environment of our pod; `variable` answers `None` for one that is not set.
    pub fn of_pod(variable: impl Fn(&str) -> Option<String>) -> Result<Self, BadConfig> {
        let needed = |name: &'static str| {
            variable(name).filter(|text| !text.is_empty()).ok_or(BadConfig::Missing { name })
        };
        let told: Gateway = json(GATEWAY, &needed(GATEWAY)?)?;
        let name = format!("{GATEWAY_NAMESPACE}/{}", needed(POD_NAME)?); // as sidecars say who they are
        Self::new(told, &name, Token::Projected(TOKEN_FILE.into()), TRUST_BUNDLE_FILE.into())
            .map_err(|wrong| BadConfig::Field { origin: GATEWAY.into(), wrong })
    }

    fn new(told: Gateway, name: &str, token: Token, trust_bundle_file: PathBuf) -> Result<Self, WrongField> {
        let trust_domain = TrustDomain::new(&told.trust_domain)
            .ok()
            .filter(|domain| domain.to_string() == told.trust_domain)
            .ok_or_else(|| {
                WrongField::new("trustDomain", &told.trust_domain, "a trust domain like cluster.local")
            })?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(WrongField::new("name", name, "a name of at most 253 bytes"));
        }
        let target = |field: &str, address: &str, id| {
            let address: Place = parse(field, address, "<ip>:<port> or <host>:<port>")?;
            Ok::<_, WrongField>(Target { address, id })
        };
        told.serving.check()?;
        let http = signet_http::limits::Limits::of(&told.serving.http, told.serving.trusted_hops);
        Ok(Self {
            name: name.into(),
            id: identity::gateway(&trust_domain),
            ca: target("ca", &told.ca, identity::ca(&trust_domain))?,
            edge: target("edge", &told.edge, identity::edge(&trust_domain))?,
            token,
            trust_bundle_file,
            bind: Ipv6Addr::UNSPECIFIED.into(),
            source: None,
            admin: Admin::Pod,
            proxy_protocol: told.serving.load_balancers()?,
            workers: told.serving.workers,
            limits: limits(&told.serving),
            serving: Serving { http: http.settings(), ..told.serving },
            http,
            trust_domain,
        })
    }

    /// Whether connections from there must begin with a PROXY header.
    pub fn is_load_balancer(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.proxy_protocol.iter().any(|range| range.contains(&source))
    }
}

fn limits(serving: &Serving) -> Limits {
    Limits {
        connections: serving.connections,
        connections_per_client: serving.connections_per_client,
        handshakes: serving.handshakes,
        handshakes_per_client: serving.handshakes_per_client,
        handshake: Duration::from_secs(serving.handshake_seconds),
        drain: Duration::from_secs(serving.drain_seconds),
        finish: Duration::from_secs(serving.finish_seconds),
    }
}

fn json<T: DeserializeOwned>(origin: &str, text: &str) -> Result<T, BadConfig> {
    let shape = |field: String, why| BadConfig::Shape { origin: origin.into(), field, why };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| shape(error.path().to_string(), error.into_inner()))?;
    json.end().map_err(|why| shape("the end".into(), why))?;
    Ok(read)
}

fn parse<T: std::str::FromStr>(field: &str, text: &str, expected: &'static str) -> Result<T, WrongField> {
    text.parse().map_err(|_| WrongField::new(field, text, expected))
}

fn display<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The gateway cannot start with what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    #[error("{name} is not set; --pod is for the gateway's own Deployment (outside of a pod: --bootstrap)")]
    Missing { name: &'static str },
    #[error("bootstrap {file} cannot be read")]
    Unreadable { file: String, source: std::io::Error },
    #[error("{origin}: at {field}")]
    Shape {
        origin: String,
        field: String,
        #[source]
        why: serde_json::Error,
    },
    #[error("{origin}: {wrong}")]
    Field { origin: String, wrong: WrongField },
}

/// A field that means nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WrongField {
    #[error("{field}: {got:?} is not {expected}")]
    Own { field: String, got: String, expected: &'static str },
    #[error("serving.{0}")]
    Serving(#[from] WrongServing),
}

impl WrongField {
    fn new(field: impl Into<String>, got: impl Display, expected: &'static str) -> Self {
        Self::Own { field: field.into(), got: got.to_string().chars().take(SHOWN).collect(), expected }
    }
}

/// Bytes, Kubernetes' longest name.
const MAX_NAME: usize = 253;
const SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told() -> Value {
        json!({
            "trustDomain": "cluster.local", "ca": "ca.signet-system.svc:15012", "edge": "edge.signet-system.svc:15014",
            "serving": {"proxyProtocol": ["10.1.2.3/8", "fd00::/8"], "drainSeconds": 3, "handshakeSeconds": 5, "workers": 2},
        })
    }

    fn of_pod(told: &Value) -> Result<Config, BadConfig> {
        Config::of_pod(|name| match name {
            GATEWAY => Some(told.to_string()),
            POD_NAME => Some("gateway-0".into()),
            _ => None,
        })
    }

    #[test]
    fn the_environment_of_the_pod_is_understood_and_what_is_absent_has_its_default() {
        let config = of_pod(&told()).unwrap();
        assert_eq!(config.id.to_string(), "spiffe://cluster.local/ns/signet-gateway/sa/gateway");
        assert_eq!(config.edge.id.to_string(), "spiffe://cluster.local/ns/signet-system/sa/edge");
        assert_eq!(&*config.name, "signet-gateway/gateway-0");
        assert_eq!(config.edge.address.to_string(), "edge.signet-system.svc:15014");
        assert_eq!(
            (config.limits.drain, config.limits.finish),
            (Duration::from_secs(3), Duration::from_secs(40))
        );
        assert_eq!((config.bind, config.workers), (Ipv6Addr::UNSPECIFIED.into(), 2));
        for (source, is) in
            [("10.9.9.9", true), ("::ffff:10.0.0.1", true), ("fd00::1", true), ("11.0.0.1", false)]
        {
            assert_eq!(config.is_load_balancer(source.parse().unwrap()), is, "{source}");
        }
    }

    #[test]
    fn a_field_that_means_nothing_stops_the_start_and_is_named() {
        for (pointer, value, said) in [
            ("/trustDomain", json!("Cluster.local"), "trustDomain: "),
            ("/edge", json!("edge:0"), "edge: \"edge:0\" is not <ip>:<port>"),
            ("/serving/proxyProtocol/1", json!("10.0.0.0/33"), "serving.proxyProtocol[1]: "),
            ("/serving/workers", json!(0), "serving.workers: "),
            ("/serving/drainSeconds", json!(100_000), "serving.drainSeconds: "),
            ("/serving/handshakeSeconds", json!(0), "serving.handshakeSeconds: "),
            ("/serving/drainSeconds", json!("3"), "at serving.drainSeconds"),
            ("/serving/http", json!({"client": {"headSeconds": 0}}), "serving.http.client.headSeconds: "),
            ("/serving/http", json!({"head": {"bytes": "64k"}}), "at serving.http.head.bytes"),
            ("/serving/http", json!({"haed": {}}), "at serving.http"),
        ] {
            let mut told = told();
            told["serving"]["http"] = json!({});
            *told.pointer_mut(pointer).unwrap() = value;
            let error = of_pod(&told).expect_err(pointer).to_string();
            assert!(error.contains(said) && error.contains(GATEWAY), "{pointer}: {error}");
        }
        let mut unknown = told();
        unknown["serving"]["drainSecond"] = json!(1);
        assert!(of_pod(&unknown).is_err());
        assert!(Config::of_pod(|_| None).unwrap_err().to_string().starts_with(GATEWAY));
    }

    #[test]
    fn a_limit_of_requests_that_is_told_holds_and_all_that_hold_are_shown() {
        let mut told = told();
        told["serving"]["trustedHops"] = json!(1);
        told["serving"]["http"] = json!({"upstream": {"idleSeconds": 300}, "head": {"underscores": "pass"}});
        let config = of_pod(&told).unwrap();
        assert_eq!((config.http.upstream.idle, config.http.trust.hops), (Duration::from_secs(300), 1));
        let shown = serde_json::to_value(&config).unwrap();
        assert_eq!(shown["serving"]["http"]["upstream"]["idleSeconds"], 300);
        assert_eq!(shown["serving"]["http"]["head"]["underscores"], "pass");
        assert_eq!(shown["serving"]["http"]["client"]["headSeconds"], 10, "by default");
    }

    #[test]
    fn a_bootstrap_file_says_where_to_listen() {
        let file = json!({
            "trustDomain": "cluster.local", "name": "gateway", "ca": "127.0.0.1:1", "edge": "127.0.0.1:2",
            "tokenFile": "/t", "trustBundleFile": "/b", "bind": "127.7.7.7", "source": "127.7.7.8",
            "admin": "127.7.7.7:15021",
        });
        let bootstrap = serde_json::from_value(file).unwrap();
        let config = Config::of_bootstrap(bootstrap, Token::Once("/t".into())).unwrap();
        assert_eq!(config.admin, Admin::At("127.7.7.7:15021".parse().unwrap()));
        assert_eq!((config.bind, config.source), ([127, 7, 7, 7].into(), Some([127, 7, 7, 8].into())));
    }
}
