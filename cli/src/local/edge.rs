//! The edge of a mesh on this machine: `signet run edge` and one gateway, while the directory has an Ingress of ours. Hosts are served
//! on loopback with certificates of the edge CA, and those of other domains below `.localhost`, too.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use signet_core::{
    identity,
    pod::{ADMIN_PORT, EDGE_PORT, GatewayBootstrap, Serving},
};

use super::{
    Local, LocalConfig, Shared,
    child::{Child, Order, Spec},
    config::words,
    plan::CA_PORT,
    tokens::Bearer,
    write,
};
use crate::{
    ask::Place,
    shapes::{HostAnswer, HostList},
    state::Kind,
};

/// Where clients reach it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EdgeAt {
    pub address: IpAddr,
    pub http: u16,
    pub https: u16,
}

impl Default for EdgeAt {
    /// Where every browser looks for `*.localhost`, and ports that need no rights.
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), http: 8080, https: 8443 }
    }
}

impl LocalConfig {
    fn edge(&self) -> Spec {
        let (state, at) = (&self.state, self.edge_at);
        let token = state.edge().join("token");
        let mut args = words(["run", "edge", "--source-dir"]);
        args.push(self.directory.clone().into());
        args.extend(words(["--listen", &self.at(EDGE_PORT), "--ca", &self.at(CA_PORT), "--token-file"]));
        args.push(token.clone().into());
        args.extend(words(["--trust-bundle"]));
        args.push(state.trust_bundle().into());
        args.extend(words(["--admin-socket"]));
        args.push(state.edge_socket().into());
        args.extend(words(["--trust-domain", self.trust_domain.as_str()]));
        for (flag, port) in [
            ("--http-port", at.http),
            ("--public-http-port", at.http),
            ("--https-port", at.https),
            ("--public-https-port", at.https),
        ] {
            args.extend(words([flag, &port.to_string()]));
        }
        args.extend(words(["--edge-issuer", "local", "--alias-suffix", "localhost", "--edge-ca-dir"]));
        args.push(state.edge_ca().into());
        for suffix in &self.edge_suffixes {
            args.extend(words(["--edge-suffix", suffix]));
        }
        for range in &self.mesh_ranges {
            args.extend(words(["--mesh-range", &range.to_string()]));
        }
        let mut spec = self.spec(EDGE, Kind::Edge, &self.signet, args);
        spec.bearer = Some(Bearer { identity: identity::edge(&self.trust_domain), file: token });
        spec
    }

    fn gateway(&self) -> Spec {
        let directory = self.state.gateway();
        let mut args = words(["--bootstrap"]);
        args.push(directory.join("bootstrap.json").into());
        let mut spec = self.spec(GATEWAY, Kind::Gateway, &self.gateway, args);
        spec.admin = Some(self.gateway_pages());
        spec.bearer =
            Some(Bearer { identity: identity::gateway(&self.trust_domain), file: directory.join("token") });
        spec
    }

    /// `bootstrap.json`, all that the gateway is told.
    fn gateway_bootstrap(&self) -> GatewayBootstrap {
        GatewayBootstrap {
            trust_domain: self.trust_domain.to_string(),
            name: GATEWAY.into(),
            ca: self.at(CA_PORT),
            edge: self.at(EDGE_PORT),
            token_file: self.state.gateway().join("token"),
            trust_bundle_file: self.state.trust_bundle(),
            bind: self.edge_at.address.to_string(),
            source: self.control_address.to_string(),
            admin: self.gateway_pages().to_string(),
            serving: Serving { drain_seconds: 0, finish_seconds: FINISH, ..Serving::default() },
        }
    }

    /// What edge and gateway listen on, with who it is.
    pub(super) fn edge_listeners(&self) -> [(SocketAddr, &'static str); 4] {
        let at = self.edge_at;
        [
            (SocketAddr::new(self.control_address, EDGE_PORT), EDGE),
            (self.gateway_pages(), GATEWAY),
            (SocketAddr::new(at.address, at.http), GATEWAY),
            (SocketAddr::new(at.address, at.https), GATEWAY),
        ]
    }

    fn gateway_pages(&self) -> SocketAddr {
        SocketAddr::new(self.control_address, ADMIN_PORT)
    }

    /// Whether the gateway will get its ports; said now, where somebody reads it, and not in its log.
    pub(super) fn check_ports(&self) -> Result<()> {
        let EdgeAt { address, http, https } = self.edge_at;
        if http == https {
            bail!("--http-port and --https-port are both {http}; name two ports");
        }
        for (flag, port) in [("--http-port", http), ("--https-port", https)] {
            let place = SocketAddr::new(address, port);
            if let Err(why) = TcpListener::bind(place) {
                bail!("{}", no_port(place, flag, &why));
            }
        }
        Ok(())
    }
}

fn no_port(place: SocketAddr, flag: &str, why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::AddrInUse => format!(
            "the gateway cannot have {place}: somebody listens there (ss -ltnp 'sport = :{}' says who); end that, or choose another port with {flag}",
            place.port()
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "the gateway may not have {place}: ports below 1024 need rights; choose another with {flag}"
            )
        }
        _ => {
            format!("the gateway cannot have {place}: {why}; --edge-address and {flag} say where it listens")
        }
    }
}

impl Shared {
    /// Starts edge and gateway, or ends them, as the directory says. Errors: why they do not run.
    pub(super) async fn follow_ingresses(&self, wanted: bool) -> Result<()> {
        match (wanted, self.has_edge()) {
            (true, false) => self.launch_edge(),
            (false, true) => {
                self.take_down(GATEWAY).await;
                self.take_down(EDGE).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn has_edge(&self) -> bool {
        self.children().contains_key(GATEWAY)
    }

    fn launch_edge(&self) -> Result<()> {
        let config = &self.config;
        if !config.gateway.is_file() {
            bail!(
                "{} is missing; install it there, or build it with `cargo build`",
                config.gateway.display()
            );
        }
        config.check_ports()?;
        let bootstrap =
            serde_json::to_vec_pretty(&config.gateway_bootstrap()).context("the gateway's bootstrap")?;
        write(&config.state.gateway().join("bootstrap.json"), &bootstrap)?;
        for spec in [config.edge(), config.gateway()] {
            let tokens = Some(self.tokens.clone());
            self.adopt(Child::supervise(spec, tokens, self.changed.clone(), &self.nursery));
        }
        Ok(())
    }
}

impl Local {
    /// The hosts that are served, as edge says; none where there is no edge.
    pub(super) async fn hosts(&self) -> Vec<HostAnswer> {
        if !self.shared.has_edge() {
            return Vec::new();
        }
        let edge = Place::Socket(self.state_dir().edge_socket());
        edge.get::<HostList>("/v1/hosts").await.map(|list| list.hosts).unwrap_or_default() // `signet hosts` says why
    }
}

/// Ends clients' work while those who do it still run.
pub(super) async fn stop_gateway(children: &mut std::collections::BTreeMap<String, Child>) {
    if let Some(gateway) = children.remove(GATEWAY) {
        gateway.order(Order::Stop).await;
    }
}

/// Where a person opens each host, and what it leads to.
pub(super) fn urls(hosts: &[HostAnswer], at: EdgeAt) -> Vec<String> {
    let line = |host: &HostAnswer| {
        let mut backends: Vec<&str> = host.rules.iter().filter_map(|rule| rule.backend.as_deref()).collect();
        backends.dedup();
        let missing = host.certificate.as_ref().filter(|certificate| !certificate.served);
        let missing = missing.map(|_| ", and has no certificate: signet hosts says why").unwrap_or_default();
        format!("{:<46} leads to {}{missing}", url(host, at), backends.join(", "))
    };
    hosts.iter().filter(|host| !host.ingresses.is_empty()).map(line).collect()
}

/// Where a person opens a host, by a name that resolves to this machine. ANY stands for any label.
pub(crate) fn url(host: &HostAnswer, at: EdgeAt) -> String {
    let name = host.alias.as_ref().unwrap_or(&host.host).replace('*', "ANY");
    let name = if name == "ANY" { "localhost" } else { &name };
    match &host.certificate {
        Some(_) => format!("https://{name}:{}", at.https),
        None => format!("http://{name}:{}", at.http),
    }
}

/// How the two are called, beside workloads' "namespace/pod".
pub(super) const EDGE: &str = "edge";
const GATEWAY: &str = "gateway";
/// Seconds for what was begun; no balancer has to hear that it ends, and SIGKILL comes after 5.
const FINISH: u64 = 3;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::state::StateDir;

    fn config() -> LocalConfig {
        let mut config = LocalConfig::new(Path::new("/m"), StateDir::at(Path::new("/s")).unwrap()).unwrap();
        config.control_address = "127.80.0.1".parse().unwrap();
        config
    }

    #[test]
    fn the_gateway_is_told_what_it_reads() {
        let mut told = serde_json::to_value(config().gateway_bootstrap()).unwrap();
        let serving = told.as_object_mut().unwrap().remove("serving").unwrap();
        assert_eq!((&serving["drainSeconds"], &serving["finishSeconds"]), (&json!(0), &json!(3)));
        assert_eq!(
            told,
            json!({
                "trustDomain": "cluster.local", "name": "gateway", "ca": "127.80.0.1:15012", "edge": "127.80.0.1:15014",
                "tokenFile": "/s/gateway/token", "trustBundleFile": "/s/trust/bundle.pem", "bind": "127.0.0.1",
                "source": "127.80.0.1", "admin": "127.80.0.1:15021"
            })
        );
    }

    #[test]
    fn a_port_that_somebody_has_is_named_with_how_to_choose_another() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = config();
        config.edge_at.https = taken.local_addr().unwrap().port();
        config.edge_at.http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let why = config.check_ports().unwrap_err().to_string();
        assert!(
            why.contains(&taken.local_addr().unwrap().to_string()) && why.contains("--https-port"),
            "{why}"
        );
        drop(taken);
        config.check_ports().unwrap();
        config.edge_at.http = config.edge_at.https;
        assert!(config.check_ports().unwrap_err().to_string().contains("name two ports"));
    }

    #[test]
    fn a_host_is_shown_where_it_opens_on_this_machine() {
        let host = |host: &str, alias: Option<&str>, certificate: serde_json::Value| -> HostAnswer {
            serde_json::from_value(json!({"host": host, "alias": alias, "owner": "shop", "by": "age", "why": "", "ingresses": ["shop/web"],
                "plaintext": "redirect", "certificate": certificate, "refused": [], "rules": [
                {"ingress": "shop/web", "kind": "prefix", "path": "/", "backend": "shop/web:80", "answers": null, "endpoints": []}]}))
            .unwrap()
        };
        let certificate = |served: bool| json!({"served": served, "secret": null, "names": [], "issuer": null, "notAfter": null, "leftSeconds": null, "why": null});
        for (host, begins, ends) in [
            (host("a.localhost", None, certificate(true)), "https://a.localhost:8443 ", "shop/web:80"),
            (
                host("a.com", Some("a.com.localhost"), certificate(true)),
                "https://a.com.localhost:8443 ",
                "shop/web:80",
            ),
            (host("*.a.test", None, certificate(false)), "https://ANY.a.test:8443 ", "signet hosts says why"),
            (host("*", None, json!(null)), "http://localhost:8080 ", "shop/web:80"),
        ] {
            let text = urls(&[host], EdgeAt::default()).concat();
            assert!(text.starts_with(begins) && text.ends_with(ends), "{text}");
        }
    }
}
