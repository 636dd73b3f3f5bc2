//! What this proxy was told before it could ask anyone: the bootstrap file, which only this reads, or the environment of an
//! injected pod ([`pod`]). The flags are [`crate::args`].
//!
//! [`Bootstrap`] is the file as written, [`Config`] what either means; a field that means nothing stops the process with its
//! name and what it should have been.

pub mod pod;

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};
use signet_core::{
    identity::{self, SpiffeId, TrustDomain},
    pod::Probe,
};
use signet_link::Target;

use crate::limits::Limits;

/// The bootstrap file. Every field is needed, unknown ones are refused: a misspelt setting must not become a default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bootstrap {
    /// "cluster.local"
    pub trust_domain: String,
    pub workload: BootstrapWorkload,
    pub ca: BootstrapTarget,
    /// Holds one one-time join token; refreshed by the supervisor.
    pub token_file: PathBuf,
    pub trust_bundle_file: PathBuf,
    pub controller: BootstrapTarget,
    /// The mesh's pod and Service ranges, at least one: inside them an unanswered address is refused, never plaintext.
    pub mesh_ranges: Vec<String>,
    pub inbound: Vec<BootstrapInbound>,
    pub upstreams: Vec<BootstrapUpstream>,
    /// "<ip>:<port>" of the admin pages.
    pub admin: String,
}

/// Who we are, as Kubernetes would say it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapWorkload {
    pub namespace: String,
    pub pod: String,
    pub service_account: String,
    /// The pod's IP address; our own connections are dialled from it.
    pub address: String,
}

/// A part of the control plane.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapTarget {
    /// "<ip>:<port>" or "<host>:<port>"
    pub address: String,
    /// The SPIFFE ID that it must prove, exactly.
    pub id: String,
}

/// One port of our app.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapInbound {
    /// The pod port, which policies name.
    pub port: u16,
    /// "<ip>:<port>" where we take connections for it.
    pub listen: String,
    /// "<ip>:<port>" where the app takes them.
    pub target: String,
}

/// One way out.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootstrapUpstream {
    /// "<ip>:<port>" that our app dials.
    pub listen: String,
    /// "<service>.<namespace>:<port>", "<ip>:<port>" or "[<ipv6>]:<port>".
    pub to: String,
}

/// A bootstrap whose every field means something.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(serialize_with = "display")]
    pub trust_domain: TrustDomain,
    pub workload: Workload,
    pub ca: Target,
    pub controller: Target,
    /// A path; what is in it is never shown.
    pub token_file: PathBuf,
    pub trust_bundle_file: PathBuf,
    pub mesh_ranges: Vec<IpNet>,
    pub inbound: Vec<Inbound>,
    pub upstreams: Vec<Upstream>,
    pub admin: Admin,
    /// What the kubelet may ask the app through us, shown without the headers, which may be secrets; only in a pod.
    #[serde(serialize_with = "paths")]
    pub probes: Vec<Probe>,
    /// Whether the connections of this network namespace are redirected to us; a flag, not a field of the file.
    pub captured: bool,
    #[serde(skip)]
    pub limits: Limits,
}

/// Where the pages are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Admin {
    /// All of them.
    At(SocketAddr),
    /// A few on every address of the pod, all of them on its loopback.
    Pod,
}

/// Our own workload.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub service_account: Arc<str>,
    pub address: IpAddr,
    /// Of the other family, where the pod has one.
    pub second: Option<IpAddr>,
    /// What the CA must certify.
    #[serde(serialize_with = "display")]
    pub id: SpiffeId,
}

impl Workload {
    /// "<namespace>/<pod>": the name of our settings on the discovery stream, and of our node.
    pub fn name(&self) -> Arc<str> {
        format!("{}/{}", self.namespace, self.pod).into()
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.address == address || self.second == Some(address)
    }
}

/// One port of our app.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    pub port: u16,
    pub listen: SocketAddr,
    pub target: SocketAddr,
}

/// One way out.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    pub listen: SocketAddr,
    /// What is subscribed to: "<service>.<namespace>" or an IP address in its usual spelling.
    pub name: Arc<str>,
    pub port: u16,
    /// As written.
    pub to: Arc<str>,
}

impl Config {
    /// Reads a bootstrap file.
    pub fn read(path: &Path) -> Result<Self, BadBootstrap> {
        let file = || path.display().to_string();
        let text = std::fs::read(path).map_err(|source| BadBootstrap::Unreadable { file: file(), source })?;
        let mut json = serde_json::Deserializer::from_slice(&text);
        let bootstrap: Bootstrap = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            BadBootstrap::Shape { file: file(), field: e.path().to_string(), why: e.into_inner() }
        })?;
        json.end().map_err(|why| BadBootstrap::Shape { file: file(), field: "the end".into(), why })?;
        Self::try_from(bootstrap).map_err(|wrong| BadBootstrap::Field { file: file(), wrong })
    }

    /// Where our connections to the control plane come from: a workload's own address among many of one machine; a pod has a
    /// network of its own, whose kernel knows better.
    pub fn source(&self) -> Option<IpAddr> {
        (!self.captured).then_some(self.workload.address)
    }

    /// Whether an address is the mesh's, so that only the controller's word lets it be dialled in plaintext.
    pub fn is_mesh(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.mesh_ranges.iter().any(|range| range.contains(&address))
    }
}

impl TryFrom<Bootstrap> for Config {
    type Error = WrongField;

    fn try_from(file: Bootstrap) -> Result<Self, WrongField> {
        let trust_domain = trust_domain("trustDomain", &file.trust_domain)?;
        let workload = workload(&trust_domain, file.workload)?;
        let inbound = indexed("inbound", file.inbound, inbound)?;
        let upstreams = indexed("upstreams", file.upstreams, |field, upstream| {
            let listen = socket(&format!("{field}.listen"), &upstream.listen)?;
            Upstream::new(listen, &upstream.to, &workload.namespace)
                .ok_or_else(|| WrongField::new(format!("{field}.to"), upstream.to, DESTINATION))
        })?;
        if file.mesh_ranges.is_empty() {
            return Err(WrongField::new("meshRanges", "[]", RANGES));
        }
        Ok(Self {
            ca: target("ca", &trust_domain, &file.ca)?,
            controller: target("controller", &trust_domain, &file.controller)?,
            token_file: file.token_file,
            trust_bundle_file: file.trust_bundle_file,
            mesh_ranges: indexed("meshRanges", file.mesh_ranges, range)?,
            admin: Admin::At(socket("admin", &file.admin)?),
            probes: Vec::new(),
            captured: false,
            limits: Limits::default(),
            trust_domain,
            workload,
            inbound,
            upstreams,
        })
    }
}

impl Upstream {
    /// Understands `to`; `None` when it is not a destination. A host is a Service: "api.shop", "api.shop.svc" and
    /// "api.shop.svc.cluster.local" are the same one, and "api" is the one of our own `namespace`, as in a pod's resolv.conf.
    pub fn new(listen: SocketAddr, to: &str, namespace: &str) -> Option<Self> {
        let (name, port) = match to.parse::<SocketAddr>() {
            Ok(address) => (address.ip().to_canonical().to_string(), address.port()),
            Err(_) => {
                let (host, port) = to.rsplit_once(':')?;
                (service_name(host, namespace)?, port.parse().ok()?)
            }
        };
        (port != 0).then(|| Self { listen, name: name.into(), port, to: to.into() })
    }
}

/// "<service>.<namespace>" of a Service's host name in any of its spellings.
fn service_name(host: &str, namespace: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let host = host.strip_suffix(CLUSTER_SUFFIX).unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    match host.split('.').collect::<Vec<_>>()[..] {
        [service] if is_label(service) => Some(format!("{service}.{namespace}")),
        [service, namespace] if is_label(service) && is_label(namespace) => Some(host.to_owned()),
        _ => None,
    }
}

/// A DNS label, as Kubernetes names Services, Namespaces and ServiceAccounts (RFC 1123).
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn trust_domain(field: &str, text: &str) -> Result<TrustDomain, WrongField> {
    TrustDomain::new(text)
        .ok()
        .filter(|domain| domain.to_string() == text)
        .ok_or_else(|| WrongField::new(field, text, "a trust domain like cluster.local, in lower case"))
}

fn workload(trust_domain: &TrustDomain, file: BootstrapWorkload) -> Result<Workload, WrongField> {
    let id = identity::of(trust_domain, &file.namespace, &file.service_account).map_err(|_| {
        let got = format!("{}/{}", file.namespace, file.service_account);
        WrongField::new("workload.namespace, .serviceAccount", got, "the two names of a SPIFFE ID")
    })?;
    if file.pod.is_empty() || file.pod.contains('/') {
        return Err(WrongField::new("workload.pod", file.pod, "a Pod's name"));
    }
    Ok(Workload {
        address: parse("workload.address", &file.address, "an IP address")?,
        second: None,
        namespace: file.namespace.into(),
        pod: file.pod.into(),
        service_account: file.service_account.into(),
        id,
    })
}

/// A part of the control plane is of our own trust domain: no other's certificate would be believed.
fn target(field: &str, trust_domain: &TrustDomain, file: &BootstrapTarget) -> Result<Target, WrongField> {
    let id = identity::parse(&file.id).ok().filter(|id| id.trust_domain() == trust_domain);
    let id = id.ok_or_else(|| {
        let expected = "a SPIFFE ID of our trust domain, spiffe://<trust domain>/ns/<namespace>/sa/<account>";
        WrongField::new(format!("{field}.id"), &file.id, expected)
    })?;
    Ok(Target { address: parse(&format!("{field}.address"), &file.address, PLACE)?, id })
}

fn inbound(field: &str, file: BootstrapInbound) -> Result<Inbound, WrongField> {
    let listen = socket(&format!("{field}.listen"), &file.listen)?;
    let target = socket(&format!("{field}.target"), &file.target)?;
    if file.port == 0 {
        return Err(WrongField::new(format!("{field}.port"), file.port, "a port, 1 to 65535"));
    }
    if target == listen {
        let expected = "the app's own address; this one is our listener, which would call itself";
        return Err(WrongField::new(format!("{field}.target"), target, expected));
    }
    Ok(Inbound { port: file.port, listen, target })
}

/// Applies `convert` to each element, naming it "<list>[<index>]".
fn indexed<A, B>(
    list: &str,
    elements: Vec<A>,
    convert: impl Fn(&str, A) -> Result<B, WrongField>,
) -> Result<Vec<B>, WrongField> {
    elements.into_iter().enumerate().map(|(n, element)| convert(&format!("{list}[{n}]"), element)).collect()
}

fn range(field: &str, text: String) -> Result<IpNet, WrongField> {
    parse(field, &text, "an address range like 10.244.0.0/16")
}

fn socket(field: &str, text: &str) -> Result<SocketAddr, WrongField> {
    let address: SocketAddr = parse(field, text, SOCKET)?;
    if address.port() == 0 { Err(WrongField::new(field, text, SOCKET)) } else { Ok(address) }
}

fn parse<T: FromStr>(field: &str, text: &str, expected: &'static str) -> Result<T, WrongField> {
    text.parse().map_err(|_| WrongField::new(field, text, expected))
}

/// Serializes what has one textual form.
fn display<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn paths<S: Serializer>(probes: &[Probe], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(probes.iter().map(Probe::path))
}

/// A field whose text means nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {got:?} is not {expected}")]
pub struct WrongField {
    pub field: String,
    got: String,
    expected: &'static str,
}

impl WrongField {
    fn new(field: impl Into<String>, got: impl Display, expected: &'static str) -> Self {
        Self { field: field.into(), got: got.to_string(), expected }
    }
}

/// The bootstrap file cannot be used; whoever wrote it (`signet local`, the injector) has to write it anew.
#[derive(Debug, thiserror::Error)]
pub enum BadBootstrap {
    #[error("bootstrap {file} cannot be read; --bootstrap names the file that the supervisor wrote")]
    Unreadable { file: String, source: std::io::Error },
    #[error("bootstrap {file}: at {field}")]
    Shape {
        file: String,
        field: String,
        #[source]
        why: serde_json::Error,
    },
    #[error("bootstrap {file}: {wrong}")]
    Field { file: String, wrong: WrongField },
}

const PLACE: &str = "<ip>:<port> or <host>:<port>, like ca.signet-system.svc:15012";
const RANGES: &str = "the mesh's address ranges, at least one";
const SOCKET: &str = "<ip>:<port> with a port of 1 to 65535";
const DESTINATION: &str = "<service>.<namespace>:<port>, <ip>:<port> or [<ipv6>]:<port>";
/// The DNS domain that clusters have unless told otherwise; it is not the trust domain.
const CLUSTER_SUFFIX: &str = ".cluster.local";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn whole() -> Value {
        json!({
            "trustDomain": "cluster.local",
            "workload": {"namespace": "shop", "pod": "api-0", "serviceAccount": "api", "address": "127.77.0.3"},
            "ca": {"address": "127.77.0.1:15012", "id": "spiffe://cluster.local/ns/signet-system/sa/ca"},
            "tokenFile": "/state/token", "trustBundleFile": "/state/bundle.pem",
            "controller": {"address": "127.77.0.1:15010", "id": "spiffe://cluster.local/ns/signet-system/sa/controller"},
            "meshRanges": ["127.77.0.0/16"],
            "inbound": [{"port": 8080, "listen": "127.77.0.3:8080", "target": "127.77.0.3:18080"}],
            "upstreams": [{"listen": "127.77.0.2:9001", "to": "api.shop:80"}],
            "admin": "127.77.0.3:15020"
        })
    }

    fn read(json: &Value) -> Result<Config, BadBootstrap> {
        let directory = std::env::temp_dir().join(format!("signet-bootstrap-{}", fastrand::u64(..)));
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join("bootstrap.json");
        std::fs::write(&file, json.to_string()).unwrap();
        let config = Config::read(&file);
        std::fs::remove_dir_all(&directory).unwrap();
        config
    }

    #[test]
    fn the_documented_bootstrap_is_understood() {
        let config = read(&whole()).unwrap();
        assert_eq!(config.workload.id.to_string(), "spiffe://cluster.local/ns/shop/sa/api");
        assert_eq!(&*config.workload.name(), "shop/api-0");
        assert_eq!((&*config.upstreams[0].name, config.upstreams[0].port), ("api.shop", 80));
        assert!(config.is_mesh("127.77.3.4".parse().unwrap()));
        assert!(
            config.is_mesh("::ffff:127.77.3.4".parse().unwrap()),
            "mapped addresses are the same addresses"
        );
        assert!(!config.is_mesh("127.78.0.1".parse().unwrap()));
    }

    #[test]
    fn a_wrong_field_stops_the_start_and_is_named() {
        for (pointer, value, said) in [
            ("/trustDomain", json!("Cluster.local"), "trustDomain: "),
            (
                "/workload/address",
                json!("127.77.0.300"),
                "workload.address: \"127.77.0.300\" is not an IP address",
            ),
            ("/workload/namespace", json!("a/b"), "workload.namespace"),
            ("/workload/pod", json!(""), "workload.pod"),
            ("/ca/address", json!("ca:0"), "ca.address: \"ca:0\" is not <ip>:<port>"),
            ("/ca/id", json!("spiffe://other.mesh/ns/signet-system/sa/ca"), "ca.id"),
            ("/controller/id", json!("spiffe://cluster.local/controller"), "controller.id"),
            ("/meshRanges", json!([]), "meshRanges: "),
            ("/meshRanges/0", json!("127.77.0.0/33"), "meshRanges[0]: "),
            ("/inbound/0/target", json!("127.77.0.3:8080"), "inbound[0].target: "),
            ("/inbound/0/port", json!(0), "inbound[0].port: "),
            ("/inbound/0/port", json!(65536), "at inbound[0].port"),
            ("/upstreams/0/to", json!("api.shop"), "upstreams[0].to: \"api.shop\" is not <service>"),
            ("/upstreams/0/listen", json!("127.77.0.2:0"), "upstreams[0].listen: "),
            ("/admin", json!(15020), "at admin"),
        ] {
            let mut json = whole();
            *json.pointer_mut(pointer).unwrap() = value;
            let error = read(&json).expect_err(pointer).to_string();
            assert!(error.contains(said) && error.contains("bootstrap.json"), "{pointer}: {error}");
        }
    }

    #[test]
    fn a_missing_or_unknown_field_is_refused() {
        let mut unknown = whole();
        unknown["workload"]["addres"] = json!("127.0.0.1");
        assert!(format!("{:#}", anyhow::Error::from(read(&unknown).unwrap_err())).contains("`addres`"));
        for field in whole().as_object().unwrap().keys() {
            let mut missing = whole();
            missing.as_object_mut().unwrap().remove(field);
            assert!(
                format!("{:#}", anyhow::Error::from(read(&missing).unwrap_err())).contains(field),
                "{field}"
            );
        }
    }

    #[test]
    fn a_service_has_one_name_however_it_is_written() {
        let listen = "127.0.0.1:1".parse().unwrap();
        for (to, want) in [
            ("api.shop:80", Some(("api.shop", 80))),
            ("API.shop.svc:80", Some(("api.shop", 80))),
            ("api.shop.svc.cluster.local.:80", Some(("api.shop", 80))),
            ("api:80", Some(("api.web", 80))),
            ("10.0.0.1:6379", Some(("10.0.0.1", 6379))),
            ("[fd00:0::1]:6379", Some(("fd00::1", 6379))),
            ("[::ffff:10.0.0.1]:6379", Some(("10.0.0.1", 6379))),
            ("fd00::1:6379", None),
            ("api.shop", None),
            ("api.shop:0", None),
            ("api.shop:65536", None),
            ("api..shop:80", None),
            (".svc:80", None),
            ("www.example.com:443", None),
            ("api_1.shop:80", None),
            ("", None),
        ] {
            let upstream = Upstream::new(listen, to, "web");
            assert_eq!(upstream.as_ref().map(|u| (&*u.name, u.port)), want, "{to}");
        }
    }
}
