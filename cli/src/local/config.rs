//! How a mesh on this machine is run: what the user chose, and the command line of each child that follows from it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use signet_core::identity::{self, TrustDomain};

use super::{
    child::Spec,
    edge::EdgeAt,
    plan::{CA_PORT, CONTROLLER_PORT, Plan, Settings, Sidecar},
    tokens::Bearer,
};
use crate::state::{Kind, StateDir};

/// Everything that [`super::Local::start`] needs. [`LocalConfig::new`] gives the defaults of `signet local`.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Manifests.
    pub directory: PathBuf,
    pub state: StateDir,
    /// Where CA (15012) and controller (15010) listen. An address of its own lets several meshes run side by side.
    pub control_address: IpAddr,
    pub trust_domain: TrustDomain,
    /// Empty: for the proxies, around the addresses in the directory; for the controller, none is outside.
    pub mesh_ranges: Vec<IpNet>,
    /// As the CA's `--leaf-life` takes it: "24h".
    pub leaf_life: String,
    /// Lets `leaf_life` be below an hour. For tests.
    pub allow_short_leaves: bool,
    /// SIGTERM to SIGKILL, for each child.
    pub drain: Duration,
    /// Log filter of the children.
    pub log: String,
    pub signet: PathBuf,
    pub proxy: PathBuf,
    pub gateway: PathBuf,
    /// Where public hosts are served, while the directory has Ingresses.
    pub edge_at: EdgeAt,
    /// Names that the edge CA is for, when it is made, beside those below .localhost and .test.
    pub edge_suffixes: Vec<String>,
    /// By child: "ca", "controller", "edge", "gateway", "namespace/pod".
    pub overrides: BTreeMap<String, ChildOverride>,
    /// By workload: where its inbound listens instead of on the pod's address, for a wiretap in front of it.
    pub inbound_at: BTreeMap<String, IpAddr>,
}

/// How one child differs.
#[derive(Clone, Debug, Default)]
pub struct ChildOverride {
    pub program: Option<PathBuf>,
    /// After our own.
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
}

impl LocalConfig {
    /// The defaults, with the binaries that lie beside the running one, or should.
    pub fn new(directory: &Path, state: StateDir) -> Result<Self> {
        let directory = std::path::absolute(directory)
            .with_context(|| format!("manifest directory {}", directory.display()))?;
        Ok(Self {
            directory,
            state,
            control_address: Ipv4Addr::LOCALHOST.into(),
            trust_domain: TrustDomain::new("cluster.local").context("the default trust domain")?,
            mesh_ranges: Vec::new(),
            leaf_life: "24h".into(),
            allow_short_leaves: false,
            drain: DRAIN,
            log: "info".into(),
            signet: beside_us("signet")?,
            proxy: beside_us("signet-proxy")?,
            gateway: beside_us("signet-gateway")?,
            edge_at: EdgeAt::default(),
            edge_suffixes: Vec::new(),
            overrides: BTreeMap::new(),
            inbound_at: BTreeMap::new(),
        })
    }

    /// Says now, and not as a crash of each child, which program or port is missing.
    pub(super) fn check(&self, plan: &Plan) -> Result<()> {
        let proxy = (!plan.sidecars.is_empty()).then_some(&self.proxy);
        let gateway = plan.ingresses.then_some(&self.gateway);
        match [Some(&self.signet), proxy, gateway].into_iter().flatten().find(|program| !program.is_file()) {
            Some(missing) => {
                bail!("{} is missing; install it there, or build it with `cargo build`", missing.display())
            }
            None if plan.ingresses => self.check_ports(),
            None => Ok(()),
        }
    }

    pub(super) fn settings(&self, mesh_ranges: Vec<IpNet>) -> Settings {
        Settings {
            state: self.state.clone(),
            trust_domain: self.trust_domain.clone(),
            control: self.control_address,
            mesh_ranges,
            inbound_at: self.inbound_at.clone(),
            taken: self.edge_listeners().map(|(address, who)| (address, who.to_owned())).into(),
        }
    }

    pub(super) fn ca(&self) -> Spec {
        let state = &self.state;
        let mut args = words(["run", "ca", "--state"]);
        args.push(state.ca().into());
        args.extend(words(["--trust-bundle"]));
        args.push(state.trust_bundle().into());
        args.extend(words(["--listen", &self.at(CA_PORT), "--trust-domain", self.trust_domain.as_str()]));
        args.extend(words(["--leaf-life", &self.leaf_life]));
        if self.allow_short_leaves {
            args.extend(words(["--allow-short-leaves"]));
        }
        self.spec("ca", Kind::Ca, &self.signet, args)
    }

    pub(super) fn controller(&self) -> Result<Spec> {
        let state = &self.state;
        let token = state.controller().join("token");
        let mut args = words(["run", "controller", "--source-dir"]);
        args.push(self.directory.clone().into());
        args.extend(words([
            "--listen",
            &self.at(CONTROLLER_PORT),
            "--ca",
            &self.at(CA_PORT),
            "--token-file",
        ]));
        args.push(token.clone().into());
        args.extend(words(["--trust-bundle"]));
        args.push(state.trust_bundle().into());
        args.extend(words(["--admin-socket"]));
        args.push(state.controller_socket().into());
        args.extend(words(["--trust-domain", self.trust_domain.as_str()]));
        for range in &self.mesh_ranges {
            args.extend(words(["--mesh-range", &range.to_string()]));
        }
        let mut spec = self.spec("controller", Kind::Controller, &self.signet, args);
        spec.bearer = Some(Bearer { identity: identity::controller(&self.trust_domain), file: token });
        Ok(spec)
    }

    pub(super) fn proxy(&self, sidecar: &Sidecar) -> Spec {
        let name = sidecar.workload.name();
        let directory = self.state.workload(&name);
        let mut args = words(["--bootstrap"]);
        args.push(directory.join("bootstrap.json").into());
        let mut spec = self.spec(&name, Kind::Proxy, &self.proxy, args);
        spec.admin = Some(sidecar.admin);
        spec.bearer = Some(Bearer { identity: sidecar.identity.clone(), file: directory.join("token") });
        spec
    }

    pub(super) fn spec(&self, name: &str, kind: Kind, program: &Path, mut args: Vec<OsString>) -> Spec {
        args.extend(words(["--log", &self.log, "--exit-with-parent"]));
        let other = self.overrides.get(name).cloned().unwrap_or_default();
        args.extend(other.args);
        Spec {
            name: name.into(),
            kind,
            program: other.program.unwrap_or_else(|| program.to_owned()),
            args,
            env: other.env,
            log: self.state.log(name),
            grace: self.drain,
            admin: None,
            bearer: None,
        }
    }

    pub(super) fn at(&self, port: u16) -> String {
        SocketAddr::new(self.control_address, port).to_string()
    }
}

pub(super) fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).into()
}

/// Beside the running executable; a test lies in `deps/`, and what it runs one directory up.
fn beside_us(name: &str) -> Result<PathBuf> {
    let us = std::env::current_exe().context("finding our own executable")?;
    let directory = us.parent().with_context(|| format!("{} lies in no directory", us.display()))?;
    let directory = directory.parent().filter(|_| directory.ends_with("deps")).unwrap_or(directory);
    Ok(directory.join(name))
}

/// Somebody waits at a keyboard: less than a cluster's 25 s.
const DRAIN: Duration = Duration::from_secs(5);
