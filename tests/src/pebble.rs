//! Pebble, Let's Encrypt's CA for tests, with its DNS server: built by `signet-cluster build` (tests/cluster/src/programs), run by a user
//! without rights on addresses of the test's own.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use rcgen::{CertificateParams, KeyPair};

use crate::{
    client,
    network::Network,
    unprivileged::{Server, Unprivileged},
};

/// A CA at `https://<address>:14000/dir`, which finds every host at `hosts`: HTTP-01 at port 5002, TLS-ALPN-01 at 5001.
pub struct Pebble {
    pub directory: String,
    /// Of its own server, PEM.
    pub roots: String,
    /// Where it looks for hosts.
    pub hosts: IpAddr,
    /// Its DNS server.
    pub resolver: SocketAddr,
    dns: SocketAddr,
    user: Unprivileged,
    _servers: [Server; 2],
}

impl Pebble {
    /// `nonces`: how many of a hundred good ones it refuses.
    pub async fn start(network: &Network, nonces: u8) -> io::Result<Self> {
        let user = Unprivileged::of_others()?;
        let (own, hosts) = (network.address(0, 20), network.address(0, 21));
        let at = |port| SocketAddr::new(own, port);
        let programs = ["pebble", "pebble-challtestsrv"].map(|name| copy(&user, name));
        let [pebble, challenges] = programs;
        let (pebble, challenges) = (pebble?, challenges?);

        let mut dns = user.command(challenges);
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", ""]);
        dns.args(["-defaultIPv4", &hosts.to_string(), "-dnsserver", &at(8053).to_string()]);
        dns.args(["-management", &at(8055).to_string()]);
        let dns = user.server("challtestsrv", dns, &[at(8055)]).await?;

        let key = KeyPair::generate().map_err(io::Error::other)?;
        let params = CertificateParams::new(vec![own.to_string()]).map_err(io::Error::other)?;
        let roots = params.self_signed(&key).map_err(io::Error::other)?.pem();
        let certificate = user.write("pebble.pem", &roots)?;
        let key = user.write("pebble.key", &key.serialize_pem())?;
        let config = serde_json::json!({ "pebble": {
            "listenAddress": at(14000).to_string(), "managementListenAddress": at(15000).to_string(),
            "certificate": certificate, "privateKey": key, "httpPort": 5002, "tlsPort": 5001,
            "keyAlgorithm": "ecdsa", "retryAfter": { "authz": 1, "order": 1 },
            // Of these it takes one by chance where an order names none.
            "profiles": {
                "default": { "description": "90 days", "validityPeriod": 90 * 86400 },
                "minute": { "description": "60 seconds", "validityPeriod": 60 },
            },
        }});
        let config = user.write("pebble.json", &config.to_string())?;
        let mut command = user.command("env");
        command.arg(format!("PEBBLE_WFE_NONCEREJECT={nonces}"));
        command.args(["PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_CHAIN_LENGTH=2"]);
        command.arg(pebble).arg("-config").arg(config).args(["-dnsserver", &at(8053).to_string(), "-strict"]);
        let pebble = user.server("pebble", command, &[at(14000), at(15000)]).await?;
        let directory = format!("https://{}/dir", at(14000));
        Ok(Self { directory, roots, hosts, resolver: at(8053), dns: at(8055), user, _servers: [dns, pebble] })
    }

    /// Every host is at `address` from now on.
    pub async fn hosts_are_at(&self, address: IpAddr) -> io::Result<()> {
        self.tell_dns("/set-default-ipv4", &serde_json::json!({ "ip": address.to_string() })).await
    }

    /// `name` TXT `value` from now on, beside others.
    pub async fn set_txt(&self, name: &str, value: &str) -> io::Result<()> {
        self.tell_dns("/set-txt", &serde_json::json!({ "host": format!("{name}."), "value": value })).await
    }

    pub async fn clear_txt(&self, name: &str) -> io::Result<()> {
        self.tell_dns("/clear-txt", &serde_json::json!({ "host": format!("{name}.") })).await
    }

    async fn tell_dns(&self, path: &str, body: &serde_json::Value) -> io::Result<()> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.dns,
            body.len()
        );
        let answer = client::exchange(self.dns.ip(), self.dns, request.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(answer.into_owned())) }
    }

    /// How often its log has `words`.
    pub fn count(&self, words: &str) -> usize {
        let log = fs::read_to_string(self.user.home.join("pebble.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(words)).count()
    }
}

/// Where the user may run it: the cache is closed to others.
fn copy(user: &Unprivileged, name: &str) -> io::Result<PathBuf> {
    let to = user.home.join(name);
    fs::copy(program(name)?, &to)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    Ok(to)
}

/// The newest that was built.
fn program(name: &str) -> io::Result<PathBuf> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let programs = PathBuf::from(home).join(".cache/signet/programs");
    let mut found: Vec<PathBuf> = fs::read_dir(&programs)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("pebble-"))
        .map(|entry| entry.path().join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
    found.pop().ok_or_else(|| io::Error::other(format!("{name} is not built: signet-cluster build")))
}
