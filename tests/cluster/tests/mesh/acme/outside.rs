//! The world outside of the cluster, as far as certificates need it: Pebble as `https://ca.acme.test:14000/dir`, and Knot, which has the zone
//! acme.test and takes updates of TXT records. Both run on the fabric, where clients are; CoreDNS asks Knot.

use std::{fs, net::IpAddr, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use signet_cluster::{Cluster, network, programs::Programs};
use tokio::process::{Child, Command};

use crate::{edge::web::Web, installed::Mesh};

pub(crate) struct Outside {
    /// Settings and logs; removed with this.
    directory: PathBuf,
    /// How many of a hundred good nonces Pebble refuses.
    nonces: u8,
    /// Of its certificates, seconds.
    life: u32,
    running: Vec<Child>,
}

impl Outside {
    /// Makes what an installation has to know of it: the roots of the CA's own server.
    pub(crate) fn prepare(nonces: u8, life: u32) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("signet-outside-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("run"))?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![CA.to_owned()])?.self_signed(&key)?;
        fs::write(directory.join("ca.pem"), certificate.pem())?;
        fs::write(directory.join("ca.key"), key.serialize_pem())?;
        Ok(Self { directory, nonces, life, running: Vec::new() })
    }

    /// Which CA it is, as options of `signet install`. `port`: [`CA_PORT`], or that of somebody in between.
    pub(crate) fn ca(&self, port: u16) -> [String; 4] {
        let directory = format!("https://{CA}:{port}/dir");
        let roots = self.directory.join("ca.pem").display().to_string();
        ["--acme-directory".into(), directory, "--acme-roots".into(), roots]
    }

    /// Starts both. Every host of the zone is at `addresses`, but for sick.acme.test, where nobody listens.
    pub(crate) async fn start(&mut self, mesh: &Mesh, addresses: &[IpAddr]) -> Result<()> {
        let cluster = &mesh.namespace.cluster;
        self.write("zone", &zone(addresses))?;
        self.write("knot.conf", &self.knot())?;
        let knot = self.directory.join("knot.conf").display().to_string();
        self.run(cluster, "knot", &["knotd", "-c", &knot])?;
        let ask = ["dig", &format!("@{}", network::FABRIC_V4), "+short", "+time=1", "+tries=1", "A", CA];
        let answers = async || {
            let answer = cluster.outside(&ask).await?.ok()?;
            ensure!(answer == network::FABRIC_V4.to_string(), "Knot says {answer:?}");
            Ok(())
        };
        mesh.namespace.eventually("Knot to answer", answers).await?;

        self.write("pebble.json", &self.pebble()?)?;
        let pebble = Programs::open()?.path("pebble")?.display().to_string();
        let config = self.directory.join("pebble.json").display().to_string();
        let (nonces, dns) =
            (format!("PEBBLE_WFE_NONCEREJECT={}", self.nonces), format!("{}:53", network::FABRIC_V4));
        let environment =
            ["env", &nonces, "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_CHAIN_LENGTH=2"];
        let command = [pebble.as_str(), "-config", &config, "-dnsserver", &dns, "-strict"];
        self.run(cluster, "pebble", &[&environment[..], &command].concat())?;
        let root = async || root(cluster).await.map(drop);
        mesh.namespace.eventually("Pebble to answer", root).await
    }

    /// A client at that address who believes in what Pebble issues, and in nothing else.
    pub(super) async fn web(&self, mesh: &Mesh, address: IpAddr) -> Result<Web> {
        let cluster = &mesh.namespace.cluster;
        Web::at(cluster, address, &root(cluster).await?)
    }

    /// What the CA's own server is, PEM: its certificate, which is its own root, and its key.
    pub(super) fn server(&self) -> Result<(String, String)> {
        let read = |name| fs::read_to_string(self.directory.join(name));
        Ok((read("ca.pem")?, read("ca.key")?))
    }

    /// How often Pebble's log has `words`.
    pub(super) fn count(&self, words: &str) -> Result<usize> {
        let log = fs::read_to_string(self.directory.join("pebble.log"))?;
        Ok(log.lines().filter(|line| line.contains(words)).count())
    }

    /// How many orders it was asked for, and how many of them for their certificate.
    pub(super) fn orders(&self) -> Result<(usize, usize)> {
        Ok((self.count("Added order")?, self.count("is fully authorized. Processing finalization")?))
    }

    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join("pebble.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// On the fabric, until this is dropped. nsenter becomes the program, so that there is one process.
    fn run(&mut self, cluster: &Cluster, name: &str, command: &[&str]) -> Result<()> {
        let log = fs::File::create(self.directory.join(format!("{name}.log")))?;
        let network = format!("--net={}", cluster.state.fabric.display());
        let child = Command::new("nsenter")
            .arg(network)
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.running.push(child.with_context(|| format!("run {name} on the fabric"))?);
        Ok(())
    }

    fn knot(&self) -> String {
        let (home, at) = (self.directory.display(), network::FABRIC_V4);
        format!(
            "server:\n  rundir: {home}/run\n  listen: {at}@53\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
             database:\n  storage: {home}/run\n\
             log:\n  - target: stderr\n    any: info\n\
             key:\n  - id: acme\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
             acl:\n  - id: update\n    key: acme\n    action: update\n    update-type: [TXT]\n\
             zone:\n  - domain: {ZONE}\n    file: {home}/zone\n    acl: update\n"
        )
    }

    fn pebble(&self) -> Result<String> {
        let at = |port: u16| format!("{}:{port}", network::FABRIC_V4);
        let file = |name: &str| self.directory.join(name).display().to_string();
        let config = json!({ "pebble": {
            "listenAddress": at(CA_PORT), "managementListenAddress": at(15000),
            "certificate": file("ca.pem"), "privateKey": file("ca.key"), "httpPort": 80, "tlsPort": 443,
            "keyAlgorithm": "ecdsa", "retryAfter": { "authz": 1, "order": 1 },
            // One alone: of several it takes one by chance where an order names none.
            "profiles": { "story": { "description": "of the story", "validityPeriod": self.life } },
        }});
        Ok(serde_json::to_string_pretty(&config)?)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory); // what is left is a few files below the temporary directory
    }
}

/// The root of what it issues, which is made anew at each start.
async fn root(cluster: &Cluster) -> Result<CertificateDer<'static>> {
    let url = format!("https://{}:15000/roots/0", network::FABRIC_V4);
    let pem = cluster.outside(&["curl", "-sSk", "-m", "5", &url]).await?.ok()?;
    match CertificateDer::from_pem_slice(pem.as_bytes()) {
        Ok(root) => Ok(root),
        Err(error) => bail!("Pebble's root: {error} in {pem:?}"),
    }
}

/// A wildcard's records hold for no name that exists, even as part of another, as records of challenges make some exist.
fn zone(addresses: &[IpAddr]) -> String {
    let mut zone = format!(
        "$ORIGIN {ZONE}.\n$TTL 1\n@ SOA ns hostmaster 1 60 60 600 1\n@ NS ns\n@ CAA 0 issue \"pebble.letsencrypt.org\"\nns A {at}\nca A {at}\nsick A {}\n",
        network::node_v4(1),
        at = network::FABRIC_V4
    );
    for address in addresses {
        let kind = if address.is_ipv6() { "AAAA" } else { "A" };
        for host in HOSTS {
            zone += &format!("{host} {kind} {address}\n");
        }
    }
    zone
}

const HOSTS: [&str; 12] = [
    "*",
    "*.files",
    "*.own",
    "*.more",
    "*.then",
    "blog.then",
    "*.blog.then",
    "*.files.then",
    "*.now",
    "blog.now",
    "*.blog.now",
    "*.files.now",
];
/// Seconds: 90 days.
pub(crate) const LONG_LIFE: u32 = 90 * 86_400;
const ZONE: &str = network::ABROAD;
pub(super) const CA: &str = "ca.acme.test";
pub(crate) const CA_PORT: u16 = 14_000;
/// As in dns.yaml.
const SECRET: &str = "bWFrZSB5b3VyIG93biBrZXkgd2l0aCB0c2lnLWtleWdlbiE=";
/// Lines of Pebble's log, when a story fails.
const SHOWN: usize = 60;
