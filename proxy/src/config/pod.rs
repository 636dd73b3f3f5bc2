//! The bootstrap of a proxy in an injected pod: its container's environment, as the injector and the kubelet write it. The
//! names are `signet_core::pod`'s.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use serde::de::DeserializeOwned;
use signet_core::{
    identity,
    pod::{
        Ask, MESH, Mesh, POD_IPS, POD_NAME, POD_NAMESPACE, POD_UPSTREAMS, PROBES, Probe, SERVICE_ACCOUNT,
        TOKEN_FILE, TRUST_BUNDLE_FILE,
    },
};
use signet_link::{Target, svid::Token};

use super::{
    Admin, Config, DESTINATION, PLACE, RANGES, Upstream, Workload, WrongField, indexed, is_label, parse,
    range, trust_domain,
};
use crate::{capture::OWN_PORTS, limits::Limits};

impl Config {
    /// A pod's token is kubelet's; on a machine without one it is the supervisor's.
    pub fn token(&self) -> Token {
        match self.admin {
            Admin::Pod => Token::Projected(self.token_file.clone()),
            Admin::At(_) => Token::Once(self.token_file.clone()),
        }
    }

    /// Understands the environment of an injected pod; `variable` answers `None` for one that is not set. The pod is captured,
    /// so no inbound is configured: the proxy serves what the kernel redirects to it.
    pub fn of_pod(variable: impl Fn(&str) -> Option<String>) -> Result<Self, BadEnvironment> {
        let optional = |name: &str| variable(name).filter(|text| !text.is_empty());
        let needed = |name: &'static str| optional(name).ok_or(BadEnvironment::Missing { name });
        let mesh: Mesh = json(MESH, &needed(MESH)?)?;
        let of_mesh = |field: &str| format!("{MESH}.{field}");
        let trust_domain = trust_domain(&of_mesh("trustDomain"), &mesh.trust_domain)?;
        let (namespace, pod, account) = (needed(POD_NAMESPACE)?, needed(POD_NAME)?, needed(SERVICE_ACCOUNT)?);
        let id = identity::of(&trust_domain, &namespace, &account).map_err(|_| {
            let field = format!("{POD_NAMESPACE}, {SERVICE_ACCOUNT}");
            WrongField::new(field, format!("{namespace}/{account}"), "the two names of a SPIFFE ID")
        })?;
        if pod.contains('/') {
            return Err(WrongField::new(POD_NAME, pod, "a Pod's name").into());
        }
        let (address, second) = addresses(&needed(POD_IPS)?)?;
        let upstreams =
            optional(POD_UPSTREAMS).map_or(Ok(Vec::new()), |text| upstreams(&text, &namespace))?;
        let probes = optional(PROBES).map_or(Ok(Vec::new()), |text| json(PROBES, &text))?;
        check(&probes)?;
        if mesh.mesh_ranges.is_empty() {
            return Err(WrongField::new(of_mesh("meshRanges"), "[]", RANGES).into());
        }
        let target = |field, text: &str, id| Ok(Target { address: parse(&of_mesh(field), text, PLACE)?, id });
        Ok(Self {
            ca: target("ca", &mesh.ca, identity::ca(&trust_domain)).map_err(BadEnvironment::Wrong)?,
            controller: target("controller", &mesh.controller, identity::controller(&trust_domain))
                .map_err(BadEnvironment::Wrong)?,
            token_file: TOKEN_FILE.into(),
            trust_bundle_file: TRUST_BUNDLE_FILE.into(),
            mesh_ranges: indexed(&of_mesh("meshRanges"), mesh.mesh_ranges, range)?,
            inbound: Vec::new(),
            upstreams,
            admin: Admin::Pod,
            probes,
            captured: true,
            limits: Limits::default(),
            workload: Workload {
                namespace: namespace.into(),
                pod: pod.into(),
                service_account: account.into(),
                address,
                second,
                id,
            },
            trust_domain,
        })
    }
}

/// "10.244.1.5" or "10.244.1.5,fd00:10:244::5", as the downward API writes `status.podIPs`.
fn addresses(text: &str) -> Result<(IpAddr, Option<IpAddr>), WrongField> {
    let expected = "a Pod's addresses, one or one of each family, like 10.244.1.5,fd00:10:244::5";
    let wrong = || WrongField::new(POD_IPS, text, expected);
    let all = text.split(',').map(|one| one.trim().parse::<IpAddr>());
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    let is_a_pods = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified() && ip.to_canonical() == *ip;
    match all[..] {
        [one] if is_a_pods(&one) => Ok((one, None)),
        [one, two] if one.is_ipv4() != two.is_ipv4() && all.iter().all(is_a_pods) => Ok((one, Some(two))),
        _ => Err(wrong()),
    }
}

/// "9001=api.shop:80, 9002=10.0.0.9:6379": the annotation as it was written. We listen on loopback: on the pod's address, what
/// a stranger sends to the port would leave with our identity.
fn upstreams(text: &str, namespace: &str) -> Result<Vec<Upstream>, WrongField> {
    let wrong = |entry: &str, expected| WrongField::new(POD_UPSTREAMS, entry, expected);
    let mut ports = HashSet::new();
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let upstream = |entry: &str| {
        let (port, to) = entry.split_once('=').ok_or_else(|| wrong(entry, UPSTREAM))?;
        let port = port.trim().parse().ok().filter(|port| *port != 0);
        let port: u16 = port.ok_or_else(|| wrong(entry, UPSTREAM))?;
        if OWN_PORTS.contains(&port) || !ports.insert(port) {
            return Err(wrong(entry, "on a free port: it is the proxy's own, or stands there twice"));
        }
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Upstream::new(listen, to.trim(), namespace).ok_or_else(|| wrong(to.trim(), DESTINATION))
    };
    entries.map(upstream).collect()
}

/// Whether each probe can be found by its path, and asks something.
fn check(probes: &[Probe]) -> Result<(), WrongField> {
    let mut paths = HashSet::new();
    for (n, probe) in probes.iter().enumerate() {
        let field = |name: &str| format!("{PROBES}[{n}].{name}");
        if !is_label(&probe.container) {
            return Err(WrongField::new(field("container"), &probe.container, "a container's name"));
        }
        if !paths.insert(probe.path()) {
            return Err(WrongField::new(field("kind"), probe.path(), "there for the first time"));
        }
        if probe.timeout_seconds == 0 {
            return Err(WrongField::new(field("timeoutSeconds"), 0, "a number of seconds, at least 1"));
        }
        let (Ask::Http(signet_core::pod::HttpAsk { port, .. })
        | Ask::Tcp { port, .. }
        | Ask::Grpc { port, .. }) = &probe.ask;
        if *port == 0 {
            return Err(WrongField::new(field("ask.port"), 0, "a port, 1 to 65535"));
        }
    }
    Ok(())
}

fn json<T: DeserializeOwned>(name: &'static str, text: &str) -> Result<T, BadEnvironment> {
    let mut json = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut json);
    let read = read.map_err(|e| (e.path().to_string(), e.into_inner()));
    let whole = read.and_then(|value| json.end().map(|()| value).map_err(|why| ("the end".into(), why)));
    whole.map_err(|(field, why)| BadEnvironment::Shape { name, field, why: Arc::new(why) })
}

/// The environment cannot be used; the injector of this version writes another one, so the pod has to be made anew.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BadEnvironment {
    #[error(
        "{name} is not set; --pod is for a container that the injector made (outside of a pod: --bootstrap)"
    )]
    Missing { name: &'static str },
    #[error("{name}: at {field}; delete the pod, so that it is injected anew")]
    Shape {
        name: &'static str,
        field: String,
        #[source]
        why: Arc<serde_json::Error>,
    },
    #[error("{0}; delete the pod, so that it is injected anew")]
    Wrong(#[from] WrongField),
}

const UPSTREAM: &str = "<port>=<target>, like 9001=api.shop:80";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use serde_json::json;
    use signet_core::pod::ProbeKind;

    fn whole() -> BTreeMap<&'static str, String> {
        let mesh = json!({
            "trustDomain": "cluster.local", "ca": "ca.signet-system.svc:15012",
            "controller": "controller.signet-system.svc:15010", "meshRanges": ["10.244.0.0/16", "fd00::/8"],
        });
        let probes = json!([
            {"container": "api", "kind": "readiness", "timeoutSeconds": 1, "ask": {"http":
                {"https": true, "port": 8443, "path": "/healthz?x=1", "headers": [["Authorization", "hunter2"]]}}},
            {"container": "api", "kind": "preStop", "timeoutSeconds": 30, "ask": {"tcp": {"port": 5432}}},
        ]);
        BTreeMap::from([
            (POD_NAME, "api-0".into()),
            (POD_NAMESPACE, "shop".into()),
            (SERVICE_ACCOUNT, "api".into()),
            (POD_IPS, "10.244.1.5,fd00:10:244::5".into()),
            (MESH, mesh.to_string()),
            (PROBES, probes.to_string()),
            (POD_UPSTREAMS, "9001=db.data:5432, 9002=cache:6379,".into()),
        ])
    }

    fn read(environment: &BTreeMap<&'static str, String>) -> Result<Config, BadEnvironment> {
        Config::of_pod(|name| environment.get(name).cloned())
    }

    #[test]
    fn the_environment_of_an_injected_pod_is_understood() {
        let config = read(&whole()).unwrap();
        assert_eq!(config.workload.id.to_string(), "spiffe://cluster.local/ns/shop/sa/api");
        assert_eq!(config.ca.address.to_string(), "ca.signet-system.svc:15012");
        assert_eq!(config.controller.id.to_string(), "spiffe://cluster.local/ns/signet-system/sa/controller");
        for own in ["10.244.1.5", "fd00:10:244::5"] {
            assert!(config.workload.has(own.parse().unwrap()), "{own}");
        }
        assert!(config.captured && config.source().is_none() && config.inbound.is_empty());
        let upstreams: Vec<String> =
            config.upstreams.iter().map(|u| format!("{} {} {}", u.listen, u.name, u.port)).collect();
        assert_eq!(upstreams, ["127.0.0.1:9001 db.data 5432", "127.0.0.1:9002 cache.shop 6379"]);
        assert_eq!(config.probes[1].kind, ProbeKind::PreStop);
        assert_eq!(config.probes[0].path(), "/probe/api/readiness");
        let shown = serde_json::to_string(&config).unwrap();
        assert!(shown.contains("/probe/api/pre-stop") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn probes_and_upstreams_may_be_absent_and_every_other_variable_is_missed_by_name() {
        for name in whole().into_keys() {
            for absent in [None, Some("")] {
                let mut environment = whole();
                match absent {
                    None => drop(environment.remove(name)),
                    Some(text) => drop(environment.insert(name, text.into())),
                }
                match read(&environment) {
                    Ok(config) if name == PROBES => assert!(config.probes.is_empty()),
                    Ok(config) => assert!(name == POD_UPSTREAMS && config.upstreams.is_empty(), "{name}"),
                    Err(error) => {
                        assert!(error.to_string().starts_with(&format!("{name} is not set")), "{error}")
                    }
                }
            }
        }
    }

    #[test]
    fn a_variable_that_means_nothing_stops_the_start_and_is_named() {
        let mesh = |field: &str, value: serde_json::Value| {
            let mut mesh: serde_json::Value = serde_json::from_str(&whole()[MESH]).unwrap();
            mesh[field] = value;
            mesh.to_string()
        };
        let probe = |field: &str, value: serde_json::Value| {
            let mut probes: serde_json::Value = serde_json::from_str(&whole()[PROBES]).unwrap();
            *probes[0].pointer_mut(field).unwrap() = value;
            probes.to_string()
        };
        for (name, text, said) in [
            (POD_NAME, "a/b".into(), "SIGNET_POD_NAME: \"a/b\" is not a Pod's name"),
            (POD_NAMESPACE, "a/b".into(), "SIGNET_POD_NAMESPACE, SIGNET_SERVICE_ACCOUNT: "),
            (POD_IPS, "10.244.1".into(), "SIGNET_POD_IPS: \"10.244.1\" is not a Pod's addresses"),
            (POD_IPS, "10.244.1.5,10.244.1.6".into(), "SIGNET_POD_IPS: "),
            (POD_IPS, "10.244.1.5,fd00::5,fd00::6".into(), "SIGNET_POD_IPS: "),
            (POD_IPS, "127.0.0.1".into(), "SIGNET_POD_IPS: "),
            (MESH, "{".into(), "SIGNET_MESH: at "),
            (MESH, mesh("trustDomain", json!("A")), "SIGNET_MESH.trustDomain: \"A\""),
            (MESH, mesh("ca", json!("ca")), "SIGNET_MESH.ca: \"ca\" is not <ip>:<port>"),
            (MESH, mesh("controller", json!(1)), "SIGNET_MESH: at controller"),
            (MESH, mesh("meshRanges", json!([])), "SIGNET_MESH.meshRanges: "),
            (MESH, mesh("meshRanges", json!(["10.0.0.0/33"])), "SIGNET_MESH.meshRanges[0]: "),
            (MESH, mesh("meshRange", json!([])), "SIGNET_MESH: at meshRange"),
            (PROBES, "[] []".into(), "SIGNET_PROBES: at the end"),
            (PROBES, probe("/container", json!("a/../b")), "SIGNET_PROBES[0].container: "),
            (PROBES, probe("/kind", json!("lively")), "SIGNET_PROBES: at [0].kind"),
            (PROBES, probe("/kind", json!("preStop")), "SIGNET_PROBES[1].kind: \"/probe/api/pre-stop\""),
            (PROBES, probe("/timeoutSeconds", json!(0)), "SIGNET_PROBES[0].timeoutSeconds: "),
            (PROBES, probe("/ask/http/port", json!(0)), "SIGNET_PROBES[0].ask.port: "),
            (PROBES, probe("/ask/http/port", json!(65536)), "SIGNET_PROBES: at [0].ask"),
            (POD_UPSTREAMS, "9001".into(), "SIGNET_UPSTREAMS: \"9001\" is not <port>=<target>"),
            (POD_UPSTREAMS, "0=a:80".into(), "SIGNET_UPSTREAMS: "),
            (POD_UPSTREAMS, "9001=api.shop".into(), "SIGNET_UPSTREAMS: \"api.shop\" is not <service>"),
            (POD_UPSTREAMS, "15020=a:80".into(), "SIGNET_UPSTREAMS: "),
            (POD_UPSTREAMS, "1=a:80,1=b:80".into(), "SIGNET_UPSTREAMS: \"1=b:80\""),
        ] {
            let mut environment = whole();
            environment.insert(name, text);
            let error = read(&environment).expect_err(said).to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
