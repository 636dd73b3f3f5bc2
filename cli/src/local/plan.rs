//! What `signet local` runs, as a pure function: the workloads of a directory in, one sidecar each out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use serde::Serialize;
use signet_core::identity::{self, SpiffeId, TrustDomain};

use crate::state::StateDir;

/// A meshed pod, as far as this machine is concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    pub namespace: String,
    pub pod: String,
    pub account: String,
    pub address: IpAddr,
    /// Pod port -> where the app listens.
    pub inbound: Vec<(u16, SocketAddr)>,
    /// Where the app dials -> "host:port" or "address:port".
    pub upstreams: Vec<(SocketAddr, String)>,
}

impl Workload {
    /// "shop/api-0": how children, files and commands name it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }
}

/// What is the same for every workload.
#[derive(Clone, Debug)]
pub struct Settings {
    pub state: StateDir,
    pub trust_domain: TrustDomain,
    pub control: IpAddr,
    /// Addresses that are ours: an unanswered one inside is refused, never reached in plaintext.
    pub mesh_ranges: Vec<IpNet>,
    /// Workload -> where its inbound listens instead of on the pod's address, for a wiretap in front of it.
    pub inbound_at: BTreeMap<String, IpAddr>,
    /// Addresses that others of the mesh listen on, with who that is.
    pub taken: BTreeMap<SocketAddr, String>,
}

/// One proxy to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sidecar {
    pub workload: Workload,
    pub identity: SpiffeId,
    pub admin: SocketAddr,
    pub bootstrap: Bootstrap,
}

/// What runs, and what cannot, in words.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// By workload name.
    pub sidecars: BTreeMap<String, Sidecar>,
    pub problems: Vec<String>,
    /// There is an Ingress of ours: edge and a gateway run, too.
    pub ingresses: bool,
    /// The [`Settings::mesh_ranges`] that it was made with.
    pub mesh_ranges: Vec<IpNet>,
}

/// A workload that cannot run leaves a problem and no sidecar; the others run.
pub fn plan(workloads: &[Workload], settings: &Settings) -> Plan {
    let mut plan = Plan { mesh_ranges: settings.mesh_ranges.clone(), ..Plan::default() };
    let mut taken = settings.taken.clone();
    taken.extend(
        [CA_PORT, CONTROLLER_PORT]
            .map(|port| (SocketAddr::new(settings.control, port), "the control plane".to_owned())),
    );
    for workload in workloads {
        let name = workload.name();
        match sidecar(workload, settings, &taken) {
            Ok(sidecar) => {
                taken.extend(listeners(&sidecar).map(|address| (address, name.clone())));
                plan.sidecars.insert(name, sidecar);
            }
            Err(why) => plan.problems.push(format!("{name} has no proxy: {why}")),
        }
    }
    plan
}

fn sidecar(
    workload: &Workload,
    settings: &Settings,
    taken: &BTreeMap<SocketAddr, String>,
) -> Result<Sidecar, String> {
    let identity = identity::of(&settings.trust_domain, &workload.namespace, &workload.account)
        .map_err(|e| format!("its identity is no SPIFFE ID: {e}"))?;
    let directory = settings.state.workload(&workload.name());
    let path = |file: &str| directory.join(file).display().to_string();
    let listen_at = settings.inbound_at.get(&workload.name()).copied().unwrap_or(workload.address);
    let target =
        |port, id: SpiffeId| Target { address: SocketAddr::new(settings.control, port), id: id.to_string() };
    let admin = SocketAddr::new(workload.address, ADMIN_PORT);
    let bootstrap = Bootstrap {
        trust_domain: settings.trust_domain.to_string(),
        workload: BootstrapWorkload {
            namespace: workload.namespace.clone(),
            pod: workload.pod.clone(),
            service_account: workload.account.clone(),
            address: workload.address,
        },
        ca: target(CA_PORT, identity::ca(&settings.trust_domain)),
        token_file: path("token"),
        trust_bundle_file: settings.state.trust_bundle().display().to_string(),
        controller: target(CONTROLLER_PORT, identity::controller(&settings.trust_domain)),
        mesh_ranges: settings.mesh_ranges.clone(),
        inbound: workload
            .inbound
            .iter()
            .map(|&(port, target)| Inbound { port, listen: SocketAddr::new(listen_at, port), target })
            .collect(),
        upstreams: workload
            .upstreams
            .iter()
            .map(|(listen, to)| Upstream { listen: *listen, to: to.clone() })
            .collect(),
        admin,
    };
    let sidecar = Sidecar { workload: workload.clone(), identity, admin, bootstrap };
    let mut own = Vec::new();
    for address in listeners(&sidecar) {
        if let Some(holder) = taken.get(&address) {
            return Err(format!("{holder} already listens on {address}; give it another address or port"));
        }
        if own.contains(&address) {
            return Err(format!("it would listen on {address} twice; {ADMIN_PORT} is the proxy's own"));
        }
        own.push(address);
    }
    if let Some((_, app)) = workload.inbound.iter().find(|(_, app)| own.contains(app)) {
        return Err(format!(
            "its app and its proxy would both listen on {app}; let the app listen elsewhere"
        ));
    }
    Ok(sidecar)
}

/// Everything that the proxy binds.
fn listeners(sidecar: &Sidecar) -> impl Iterator<Item = SocketAddr> {
    let bootstrap = &sidecar.bootstrap;
    let inbound = bootstrap.inbound.iter().map(|inbound| inbound.listen);
    inbound.chain(bootstrap.upstreams.iter().map(|upstream| upstream.listen)).chain([sidecar.admin])
}

/// The mesh's ranges where the user names none: the /16 (IPv6: /64) around each address, and those of before. Wide, so that a
/// new pod beside the others changes no other pod's bootstrap; never fewer, because outside of them plaintext passes.
pub fn ranges_around(addresses: impl IntoIterator<Item = IpAddr>, before: &[IpNet]) -> Vec<IpNet> {
    let around = |address: IpAddr| IpNet::new(address, if address.is_ipv4() { 16 } else { 64 }).ok();
    let around = addresses.into_iter().filter_map(around).map(|range| range.trunc());
    let mut ranges: Vec<IpNet> = around.chain(before.iter().copied()).collect();
    ranges.sort();
    ranges.dedup();
    ranges
}

/// What changes from one plan to the next, by workload name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    pub start: Vec<String>,
    pub restart: Vec<String>,
    pub stop: Vec<String>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.start.is_empty() && self.restart.is_empty() && self.stop.is_empty()
    }
}

/// Stopped is who is gone from the directory; the source keeps what a file held before it broke.
pub fn changes(now: &Plan, next: &Plan) -> Changes {
    let mut changes = Changes::default();
    for (name, sidecar) in &next.sidecars {
        match now.sidecars.get(name) {
            None => changes.start.push(name.clone()),
            Some(running) if running.bootstrap != sidecar.bootstrap => changes.restart.push(name.clone()),
            Some(_) => {}
        }
    }
    changes.stop = now.sidecars.keys().filter(|name| !next.sidecars.contains_key(*name)).cloned().collect();
    changes
}

/// `bootstrap.json`, all that a proxy is told; signet-proxy refuses unknown fields.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    pub trust_domain: String,
    pub workload: BootstrapWorkload,
    pub ca: Target,
    pub token_file: String,
    pub trust_bundle_file: String,
    pub controller: Target,
    pub mesh_ranges: Vec<IpNet>,
    pub inbound: Vec<Inbound>,
    pub upstreams: Vec<Upstream>,
    pub admin: SocketAddr,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapWorkload {
    pub namespace: String,
    pub pod: String,
    pub service_account: String,
    pub address: IpAddr,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Target {
    pub address: SocketAddr,
    pub id: String,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Inbound {
    pub port: u16,
    pub listen: SocketAddr,
    pub target: SocketAddr,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Upstream {
    pub listen: SocketAddr,
    pub to: String,
}

/// The ports that other tools know from other meshes' control planes and sidecars.
pub(crate) const CA_PORT: u16 = 15012;
pub(crate) const CONTROLLER_PORT: u16 = 15010;
const ADMIN_PORT: u16 = 15020;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn settings() -> Settings {
        Settings {
            state: StateDir::at(Path::new("/s")).unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            control: "127.77.0.1".parse().unwrap(),
            mesh_ranges: vec!["127.77.0.0/16".parse().unwrap()],
            inbound_at: BTreeMap::new(),
            taken: [("127.77.0.3:8443".parse().unwrap(), "gateway".to_owned())].into(),
        }
    }

    fn workload(name: &str, address: &str) -> Workload {
        let (namespace, pod) = name.split_once('/').unwrap();
        let at = |port| SocketAddr::new(address.parse().unwrap(), port);
        Workload {
            namespace: namespace.into(),
            pod: pod.into(),
            account: "api".into(),
            address: address.parse().unwrap(),
            inbound: vec![(8080, at(18080))],
            upstreams: vec![(at(9001), "db.shop:80".into())],
        }
    }

    #[test]
    fn a_bootstrap_is_what_the_proxy_reads() {
        let plan = plan(&[workload("shop/api-0", "127.77.0.3")], &settings());
        assert_eq!(plan.problems, [""; 0]);
        assert_eq!(
            serde_json::to_value(&plan.sidecars["shop/api-0"].bootstrap).unwrap(),
            json!({
                "trustDomain": "cluster.local",
                "workload": {"namespace": "shop", "pod": "api-0", "serviceAccount": "api", "address": "127.77.0.3"},
                "ca": {"address": "127.77.0.1:15012", "id": "spiffe://cluster.local/ns/signet-system/sa/ca"},
                "tokenFile": "/s/workloads/shop.api-0/token",
                "trustBundleFile": "/s/trust/bundle.pem",
                "controller":
                    {"address": "127.77.0.1:15010", "id": "spiffe://cluster.local/ns/signet-system/sa/controller"},
                "meshRanges": ["127.77.0.0/16"],
                "inbound": [{"port": 8080, "listen": "127.77.0.3:8080", "target": "127.77.0.3:18080"}],
                "upstreams": [{"listen": "127.77.0.3:9001", "to": "db.shop:80"}],
                "admin": "127.77.0.3:15020"
            })
        );
    }

    #[test]
    fn a_wiretap_takes_the_pods_address_and_the_proxy_listens_behind_it() {
        let mut settings = settings();
        settings.inbound_at.insert("shop/api-0".into(), "127.77.1.3".parse().unwrap());
        let plan = plan(&[workload("shop/api-0", "127.77.0.3")], &settings);
        let bootstrap = &plan.sidecars["shop/api-0"].bootstrap;
        assert_eq!(bootstrap.inbound[0].listen, "127.77.1.3:8080".parse().unwrap());
        assert_eq!(bootstrap.workload.address, "127.77.0.3".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn what_cannot_run_is_named_and_the_rest_runs() {
        let good = workload("shop/api-0", "127.77.0.3");
        let with = |change: fn(&mut Workload)| {
            let mut workload = workload("shop/bad", "127.77.0.4");
            change(&mut workload);
            workload
        };
        for (case, bad, word) in [
            (
                "same address",
                with(|w| w.address = "127.77.0.3".parse().unwrap()),
                "shop/api-0 already listens",
            ),
            (
                "the control plane's port",
                with(|w| w.upstreams[0].0 = "127.77.0.1:15012".parse().unwrap()),
                "control",
            ),
            (
                "the gateway's port",
                with(|w| w.upstreams[0].0 = "127.77.0.3:8443".parse().unwrap()),
                "gateway already listens",
            ),
            ("a port twice", with(|w| w.inbound.push(w.inbound[0])), "twice"),
            ("the admin port", with(|w| w.upstreams[0].0.set_port(15020)), "twice"),
            ("app on the pod port", with(|w| w.inbound[0].1.set_port(8080)), "both listen"),
            ("no SPIFFE ID", with(|w| w.account = "a b".into()), "SPIFFE"),
        ] {
            let plan = plan(&[good.clone(), bad], &settings());
            assert!(plan.sidecars.contains_key("shop/api-0"), "{case}");
            assert_eq!(plan.sidecars.len(), 1, "{case}");
            assert!(plan.problems[0].contains(word), "{case}: {}", plan.problems[0]);
        }
    }

    #[test]
    fn only_what_changed_is_touched() {
        let all = |workloads: &[Workload]| plan(workloads, &settings());
        let (a, b) = (workload("shop/a", "127.77.0.3"), workload("shop/b", "127.77.0.4"));
        let mut moved = a.clone();
        moved.upstreams.clear();
        let (one, two) = (all(std::slice::from_ref(&a)), all(&[a, b]));
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (case, now, next, start, restart, stop) in [
            ("nothing new", one.clone(), one.clone(), &[][..], &[][..], &[][..]),
            ("added", one.clone(), two.clone(), &["shop/b"], &[], &[]),
            ("annotation changed", one.clone(), all(&[moved]), &[], &["shop/a"], &[]),
            ("removed", two, one, &[], &[], &["shop/b"]),
        ] {
            let want = Changes { start: names(start), restart: names(restart), stop: names(stop) };
            assert_eq!(changes(&now, &next), want, "{case}");
        }
    }

    #[test]
    fn ranges_lie_around_the_addresses_and_never_shrink() {
        let addresses = ["127.77.0.3", "127.77.9.4", "fd00::1"].map(|a| a.parse().unwrap());
        let ranges: Vec<String> = ranges_around(addresses, &["127.78.0.0/16".parse().unwrap()])
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ranges, ["127.77.0.0/16", "127.78.0.0/16", "fd00::/64"]);
    }
}
